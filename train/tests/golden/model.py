"""What PyTorch says of loss and gradients (run: python model.py PATH_TO_REPOSITORY/tests/golden; writes model.safetensors beside itself).

Three models in float32 on the CPU: `gqa` and `mlp336`, the golden checkpoints, as transformers' LLaVA with one picture in a padded
batch of two; and `tied`, a LLaMA with tied embeddings from a fixed formula, on ids from a formula. Labels count from a given position on.
Recorded: the loss, and gradients of a few parameters (the whole of small ones, the first 2 rows of others).
Also `tower`: CLIP's pooled and patch outputs with exact GELU, from the gqa tower. Versions: torch 2.11, transformers 5.23.
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = sys.argv[1]
IMG = -200
out = {}


def record(prefix, parameters, wanted):
    for name, label in wanted.items():
        g = parameters[name].grad
        out[f"{prefix}.{label}"] = (g if g.dim() == 1 else g[:2]).clone().contiguous()


for name in ["gqa", "mlp336"]:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(f"{GOLDEN}/{name}/hf", dtype=torch.float32, attn_implementation="eager").eval()
    golden = json.load(open(f"{GOLDEN}/{name}.json"))
    pixels = load_file(f"{GOLDEN}/{name}.safetensors")["pixels"]
    image = model.config.image_token_index if hasattr(model.config, "image_token_index") else model.config.image_token_id
    prompt, answer = golden["ids"], golden["greedy"][:12]
    first = [i for id in prompt for i in ([image] * golden["image_tokens"] if id == IMG else [id])]
    second = [1] + golden["greedy"][:40]
    rows = [(first + answer, len(first)), (second, 5)]
    t = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (t - len(ids)) for ids, _ in rows])
    labels = torch.tensor([[-100] * start + ids[start:] + [-100] * (t - len(ids)) for ids, start in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (t - len(ids)) for ids, _ in rows])
    loss = model(input_ids=ids, pixel_values=pixels[None], attention_mask=mask, labels=labels).loss
    loss.backward()
    out[f"{name}.loss"] = loss.detach().reshape(1)
    parameters = {k.removeprefix("model."): v for k, v in model.named_parameters()}
    record(name, parameters, {
        "multi_modal_projector.linear_1.bias": "model.mm_projector.0.bias",
        "multi_modal_projector.linear_2.weight": "model.mm_projector.2.weight",
        "language_model.layers.0.self_attn.q_proj.weight": "model.layers.0.self_attn.q_proj.weight",
        "language_model.layers.1.self_attn.k_proj.weight": "model.layers.1.self_attn.k_proj.weight",
        "language_model.layers.2.mlp.down_proj.weight": "model.layers.2.mlp.down_proj.weight",
        "language_model.layers.2.input_layernorm.weight": "model.layers.2.input_layernorm.weight",
        "language_model.norm.weight": "model.norm.weight",
        "lm_head.weight": "lm_head.weight",
    })
    grad = parameters["language_model.embed_tokens.weight"].grad
    out[f"{name}.model.embed_tokens.weight"] = grad[:2].clone()

# As formula(shape, seed) in tests/model.rs: integers below 2^24, so exact in f32 and f64.
def formula(shape, seed):
    n = 1
    for s in shape:
        n *= s
    i = torch.arange(n, dtype=torch.int64)
    return (((i * 7919 + seed * 104729) % 1009).double() / 1009 - 0.5).float().reshape(shape)


text = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                   max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation="eager",
                   rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0, "original_max_position_embeddings": 16})
model = LlamaForCausalLM(text).eval()
for seed, (name, p) in enumerate(sorted(model.named_parameters())):
    p.data = formula(p.shape, seed) + (1.0 if p.dim() == 1 else 0.0)
ids = (torch.arange(2 * 20) * 37 % 96).reshape(2, 20)
loss = model(input_ids=ids, labels=ids).loss
loss.backward()
out["tied.loss"] = loss.detach().reshape(1)
record("tied", dict(model.named_parameters()), {n: n for n, _ in model.named_parameters() if "embed" in n or "layers.0.self_attn.k" in n or n == "model.norm.weight"})

clip = CLIPVisionModel(CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                                        patch_size=14, hidden_act="gelu", attn_implementation="eager")).eval()
state = {("" if k.startswith("vision_model.") else "vision_model.") + k: v for k, v in clip.named_parameters()}
for seed, (name, p) in enumerate(sorted(state.items())):
    p.data = formula(p.shape, seed) * 0.5 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
result = clip(formula((2, 3, 28, 28), 99))
out["tower.pooled"] = result.pooler_output.detach()
out["tower.patches"] = result.last_hidden_state[:, 1:].detach().contiguous()
save_file(out, f"{HERE}/model.safetensors")
print({k: tuple(v.shape) for k, v in out.items()}, out["tied.loss"], out["gqa.loss"])
