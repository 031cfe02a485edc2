"""Makes loss_curve.json: 50 steps of a tiny LLaVA by transformers and torch, in float32 on the CPU (run: python loss_curve.py).

Weights, ids and pixels are drawn by a hash of name and place, which tests/engine/small.rs repeats, so no checkpoint is committed.
Two runs: "tune" (projector and language model learn, the projector at its own rate, decay on all but norms and biases) and
"align" (the projector alone). Two micro-batches a step, clipping at 1, cosine with warm-up; one micro-batch in eight has no picture.
Versions used: torch 2.11, transformers 5.23.
"""
import json
import os

import numpy as np
import torch
from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                          get_cosine_schedule_with_warmup)

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, ACCUMULATE, BATCHES, ROWS, VOCAB, IMAGE, SIDE, PATCHES = 50, 2, 8, 3, 97, 96, 28, 4


def mix(x):
    """MurmurHash3's 32-bit finalizer over an array of integers."""
    x = np.asarray(x, dtype=np.uint64) & 0xFFFFFFFF
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x85EBCA6B) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(13)
    x = x * np.uint64(0xC2B2AE35) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> np.uint64(16))


def draw(name, n):
    """n 32-bit numbers for a name: mix(i + 1 + 2654435761·FNV-1a(name))."""
    h = 0x811C9DC5
    for c in name.encode():
        h = (h ^ c) * 0x01000193 & 0xFFFFFFFF
    return mix((np.arange(1, n + 1, dtype=np.uint64) + np.uint64(h * 2654435761 & 0xFFFFFFFF)))


def even(name, n):
    """n float32 evenly over [-1, 1)."""
    return (draw(name, n).astype(np.float64) / 2147483648.0 - 1.0).astype(np.float32)


def authors_name(name):
    """The authors' name of a parameter of transformers' LLaVA."""
    name = name.replace("model.language_model.", "model.").replace("model.multi_modal_projector.linear_1", "model.mm_projector.0")
    name = name.replace("model.multi_modal_projector.linear_2", "model.mm_projector.2")
    return name.replace("model.vision_tower.vision_model.", "vision_model.").replace("model.vision_tower.", "vision_model.")


def model():
    text = LlamaConfig(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=64, tie_word_embeddings=False)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
                              patch_size=14)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, vision_feature_layer=-2,
                         vision_feature_select_strategy="default", projector_hidden_act="gelu", tie_word_embeddings=False)
    config._attn_implementation = "eager"
    it = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, p in it.named_parameters():
            name = authors_name(name)
            values = even(name, p.numel())
            # Norms near 1; matrices with deviation about 1/sqrt(k), so that the text depends on the picture.
            scale = np.float32(0.1) if p.dim() == 1 else np.float32((3.0 / (p.numel() / p.shape[0])) ** 0.5)
            offset = np.float32(1.0) if p.dim() == 1 and "norm" in name and name.endswith("weight") else np.float32(0.0)
            p.copy_(torch.from_numpy(values * scale + offset).view_as(p))
    return it


def batch(k):
    """Micro-batch k: right-padded ids, labels from the question on, pictures at the 2nd to 5th position."""
    t, rows, pictures = 0, [], []
    for r in range(ROWS):
        a = [int(v) for v in draw(f"row {k} {r}", 3)]
        n, seen, first = 12 + a[0] % 12, k % BATCHES != 3 and a[1] % 4 != 0, 1 + a[2] % 4
        ids = [2 + int(v) % 90 for v in draw(f"ids {k} {r}", n)]
        labels = [-100] * 8 + ids[8:]
        if seen:
            ids[first:first] = [IMAGE] * PATCHES
            labels[first:first] = [-100] * PATCHES
            pictures.append(even(f"picture {k} {r}", 3 * SIDE * SIDE).reshape(3, SIDE, SIDE))
        rows.append((ids, labels))
        t = max(t, len(ids))
    pad = lambda row, v: row + [v] * (t - len(row))
    mask = [pad([1] * len(i), 0) for i, _ in rows]
    ids, labels = [pad(i, 0) for i, _ in rows], [pad(l, -100) for _, l in rows]
    out = dict(input_ids=torch.tensor(ids), labels=torch.tensor(labels), attention_mask=torch.tensor(mask))
    if pictures:
        out["pixel_values"] = torch.from_numpy(np.stack(pictures))
    return out


def run(stage):
    it = model()
    groups = {}
    for name, p in it.named_parameters():
        name = authors_name(name)
        p.requires_grad = "mm_projector" in name or (stage == "tune" and not name.startswith("vision_model"))
        if p.requires_grad:
            lr = 1e-3 if "projector" in name and stage == "tune" else 2e-3
            decay = 0.0 if name.endswith("bias") or "norm" in name else 0.05
            groups.setdefault((lr, decay), []).append(p)
    optimizer = torch.optim.AdamW([dict(params=p, lr=lr, weight_decay=d) for (lr, d), p in groups.items()])
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, STEPS)  # ceil(0.03 · 50)
    out = dict(loss=[], norm=[], rate=[])
    for step in range(STEPS):
        loss = 0.0
        for micro in range(ACCUMULATE):
            part = it(**batch((step * ACCUMULATE + micro) % BATCHES)).loss / ACCUMULATE
            part.backward() if part.requires_grad else None
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_([p for g in groups.values() for p in g], 1.0)
        out["loss"].append(loss), out["norm"].append(float(norm))
        # The rate of a group whose peak is 1e-3 or 2e-3, per unit of peak.
        out["rate"].append(schedule.get_last_lr()[0] / optimizer.param_groups[0]["initial_lr"])
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    return out


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with open(os.path.join(HERE, "loss_curve.json"), "w") as f:
        json.dump({stage: run(stage) for stage in ("tune", "align")}, f, indent=0)
        f.write("\n")
