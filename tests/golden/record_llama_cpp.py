"""Records what llama.cpp makes of our text GGUFs, in llama_cpp.json.

    pumice quantize tests/golden/gqa/hf FOLDER_WITH_THE_GGUFS/gqa-F16.gguf F16 --split   (one for every entry of CASES)
    LLAMA_CPP_LIB_PATH=... python record_llama_cpp.py FOLDER_WITH_THE_GGUFS

With the ctypes bindings of llama-cpp-python (0.3.36, which carries llama.cpp 0c1e570). Greedy ids after a prompt of random
ids, on one thread, with an f32 cache, because the point is the file and the arithmetic. Both programs round the activations
that meet 8-bit weights to 8 bits, which on these weights moves a logit by 0.05 (rms) there as here; llama.cpp rounds those
that meet f16 weights to f16, we do not (0.002). So prompts are drawn until the two best logits stay well apart all along.
"""
import ctypes
import json
import os
import sys

import gguf
import llama_cpp as lib
import numpy as np

# Prompts, greedy tokens after each, and the least distance of the two best logits on the way: several times the rounding
# above. At 8 bits no long path has that, so there are several short ones.
TYPES = {"F16": (1, 64, 0.05), "Q8_0": (6, 12, 0.3)}
CASES = [f"{name}-{t}" for name in ("gqa", "mlp336") for t in TYPES]
VOCAB, PROMPT = 416, 8


def fingerprint(path):
    """FNV-1a (64 bits) over name and bytes of every tensor: the recorded run is about exactly these weights."""
    h = 0xCBF29CE484222325
    for t in gguf.GGUFReader(path).tensors:
        for byte in t.name.encode() + t.data.tobytes():
            h = (h ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return f"{h:016x}"


def context(model):
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 256, 256, 1, 1
    params.type_k = params.type_v = 0  # GGML_TYPE_F32
    return lib.llama_init_from_model(model, params)


def greedy(context, prompt, new, min_gap):
    """`new` ids and the least gap, or fewer where a gap was too small."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    ids, least, step = [], float("inf"), prompt
    while len(ids) < new:
        tokens = (lib.llama_token * len(step))(*step)
        assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(step))) == 0
        pointer = lib.llama_get_logits_ith(context, -1)
        logits = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (VOCAB,))
        second, best = np.argpartition(logits, VOCAB - 2)[-2:]
        least = min(least, float(logits[best] - logits[second]))
        if least < min_gap:
            break
        ids.append(int(best))
        step = [ids[-1]]
    return ids, least


def main(folder):
    lib.llama_backend_init()
    out = {}
    for case in CASES:
        path = f"{folder}/{case}.gguf"
        params = lib.llama_model_default_params()
        params.use_mmap = True
        model = lib.llama_model_load_from_file(path.encode(), params)
        assert model, path
        assert lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)) == VOCAB
        count, new, min_gap = TYPES[case.split("-")[1]]
        run, runs, seed = context(model), [], 0
        while len(runs) < count:
            prompt = [1] + np.random.default_rng(seed).integers(3, VOCAB, PROMPT - 1).tolist()
            ids, gap = greedy(run, prompt, new, min_gap)
            if len(ids) == new and len(set(ids)) > new // 2:
                runs.append(dict(prompt=prompt, greedy=ids, min_gap=gap))
            seed += 1
        out[case] = dict(tensors=fingerprint(path), runs=runs)
        print(case, "prompts tried", seed)
        lib.llama_free(run)
        lib.llama_model_free(model)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama_cpp.json"), "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
