"""Makes recipes.tsv: which type llama.cpp's own llama-quantize gives every tensor, for every file type that we write.

Run: python recipes.py PATH/TO/llama-quantize > recipes.tsv   (needs gguf and numpy)

Columns: model, file type, part, types (one per block, run-length: "Q4_K*3 Q6_K*5").
"""
import subprocess, sys, tempfile, pathlib
import numpy as np
import gguf

TYPES = "F16 BF16 Q8_0 Q6_K Q5_1 Q5_K_M Q5_K_S Q5_0 Q4_1 Q4_K_M Q4_K_S Q4_0 IQ4_NL IQ4_XS".split()
# name: blocks, hidden, ff, heads, kv heads, tied
MODELS = {
    "plain": (32, 256, 512, 4, 4, False),
    "shared-tied": (20, 256, 512, 4, 1, True),
    "ragged": (8, 96, 160, 2, 2, False),
    "odd": (3, 40, 72, 1, 1, False),
}

def write(path, blocks, hidden, ff, heads, kv, tied):
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_block_count(blocks); w.add_context_length(64); w.add_embedding_length(hidden)
    w.add_feed_forward_length(ff); w.add_head_count(heads); w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5); w.add_rope_dimension_count(hidden // heads); w.add_file_type(0)
    w.add_vocab_size(32)
    w.add_tokenizer_model("llama"); w.add_token_list(["<unk>", "<s>", "</s>"] + [f"t{i}" for i in range(29)])
    w.add_token_scores([0.0] * 32); w.add_token_types([2, 3, 3] + [1] * 29)
    rng = np.random.default_rng(0)
    t = lambda name, *shape: w.add_tensor(name, rng.standard_normal(shape, dtype=np.float32))
    t("token_embd.weight", 32, hidden)
    for i in range(blocks):
        p = f"blk.{i}."
        kvw = hidden // heads * kv
        t(p + "attn_norm.weight", hidden); t(p + "attn_q.weight", hidden, hidden)
        t(p + "attn_k.weight", kvw, hidden); t(p + "attn_v.weight", kvw, hidden)
        t(p + "attn_output.weight", hidden, hidden); t(p + "ffn_norm.weight", hidden)
        t(p + "ffn_gate.weight", ff, hidden); t(p + "ffn_up.weight", ff, hidden); t(p + "ffn_down.weight", hidden, ff)
    t("output_norm.weight", hidden)
    if not tied:
        t("output.weight", 32, hidden)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

def runs(types):
    out = []
    for t in types:
        if out and out[-1][0] == t:
            out[-1][1] += 1
        else:
            out.append([t, 1])
    return " ".join(f"{t}*{n}" for t, n in out)

for model, shape in MODELS.items():
    with tempfile.TemporaryDirectory() as d:
        src, dst = pathlib.Path(d, "a.gguf"), pathlib.Path(d, "b.gguf")
        write(src, *shape)
        for ft in TYPES:
            subprocess.run([sys.argv[1], str(src), str(dst), ft], check=True, capture_output=True)
            got = {t.name: t.tensor_type.name for t in gguf.GGUFReader(str(dst)).tensors}
            for name in ("token_embd.weight", "output.weight", "output_norm.weight"):
                if name in got:
                    print(model, ft, name, got[name] + "*1", sep="\t")
            for part in sorted({n.split(".", 2)[2] for n in got if n.startswith("blk.")}):
                print(model, ft, part, runs([got[f"blk.{i}.{part}"] for i in range(shape[0])]), sep="\t")
