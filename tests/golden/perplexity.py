"""Perplexity and KL divergence of two golden checkpoints by PyTorch (run: python perplexity.py, after make.py).

A text in windows and two conversations, one about a picture, through `transformers`' own LLaVA in float32; statistics by numpy
in float64. The rules are spelled out here once more, not shared with the program: windows as llama.cpp's perplexity tool
cuts them (no stride), conversations as LLaVA's training masks them. Writes perplexity.txt, perplexity_rows.json, perplexity.json.
"""
import json
import os

import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

import words
from make import HERE, USER, VOCAB, dump

ROWS = [
    dict(id="picture", image="photo-97x131.png", conversations=[
        {"from": "human", "value": "<image>\nWhat is in the picture?"}, {"from": "gpt", "value": "A red circle is left of a blue square."},
        {"from": "human", "value": "Where is the boat?"}, {"from": "gpt", "value": "There is no boat."}]),
    dict(id=7, conversations=[{"from": "human", "value": "Where does the road go?"}, {"from": "gpt", "value": "Down to the harbour."}]),
]


def load(name):
    folder = f"{HERE}/{name}/hf"
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def ln_p(model, **inputs):
    """[n, VOCAB]: the rows that llava-hf adds are no words."""
    return model(**inputs).logits[0, :, :VOCAB].double().log_softmax(-1).numpy()


def windows(sp, text, ctx):
    ids = [1] + sp.encode(text.removesuffix("\n"))
    for start in range(0, len(ids) - ctx + 1, ctx):
        yield [1] + ids[start + 1:start + ctx]


def text_positions(models, sp, text, ctx):
    """For each model the rows that score, and the scored ids."""
    rows, targets = [[] for _ in models], []
    for window in windows(sp, text, ctx):
        for out, model in zip(rows, models):
            out.append(ln_p(model, input_ids=torch.tensor([window]))[ctx // 2:ctx - 1])
        targets += window[ctx // 2 + 1:]
    return [np.concatenate(r) for r in rows], np.array(targets)


def conversation_ids(sp, row, image_tokens):
    """Ids, the picture as its tokens, and whether each is learned: answers with their </s>, by Vicuna v1's template."""
    turns = [t["value"] for t in row["conversations"]]
    ids, learned, text = [1], [False], f"{USER} "
    for question, answer in zip(turns[::2], turns[1::2]):
        text += f"USER: {question} ASSISTANT:"
        before, *after = text.split("<image>")
        for part in after:
            new = sp.encode(before) + [VOCAB] * image_tokens
            ids, learned, before = ids + new, learned + [False] * len(new), part
        asked, both = sp.encode(before), sp.encode(f"{before} {answer}")
        assert both[:len(asked)] == asked
        ids, learned = ids + both + [2], learned + [False] * len(asked) + [True] * (len(both) - len(asked) + 1)
        text = ""
    return ids, learned


def conversation_positions(model, sp, pixels, image_tokens):
    rows, targets = [], []
    for row in ROWS:
        ids, learned = conversation_ids(sp, row, image_tokens)
        picture = dict(pixel_values=pixels) if "image" in row else {}
        found = ln_p(model, input_ids=torch.tensor([ids]), **picture)
        at = [i for i, yes in enumerate(learned) if yes]
        rows.append(found[[i - 1 for i in at]])
        targets += [ids[i] for i in at]
    return np.concatenate(rows), np.array(targets)


def mean(x):
    return dict(value=x.mean(), uncertainty=x.std(ddof=1) / len(x) ** 0.5)


def own(q, targets):
    nll = -q[np.arange(len(targets)), targets]
    return nll, dict(positions=len(targets), nll=mean(nll), perplexity=dict(value=np.exp(nll.mean())))


def compared(q, p, targets):
    """q the model, p the reference."""
    nll, out = own(q, targets)
    nll_p, _ = own(p, targets)
    kl = (np.exp(p) * (p - q)).sum(-1)
    delta = np.exp(-nll) - np.exp(-nll_p)
    percentiles = dict(zip(["min", "p01", "p05", "median", "p95", "p99", "p999", "max"], [0, 1, 5, 50, 95, 99, 99.9, 100]))
    spread = lambda x: {k: np.percentile(x, v) for k, v in percentiles.items()}
    same = (q.argmax(-1) == p.argmax(-1)).astype(float)
    return dict(out, reference_perplexity=dict(value=np.exp(nll_p.mean())), ln_perplexity_ratio=mean(nll - nll_p),
                correlation=np.corrcoef(nll, nll_p)[0, 1], kl=mean(kl), kl_spread=spread(kl), same_top=mean(same),
                delta_p=mean(delta), delta_p_rms=dict(value=(delta**2).mean() ** 0.5), delta_p_spread=spread(delta))


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{HERE}/tokenizer.model")
    lines = words.TEXT.splitlines(keepends=True)
    text = "".join(lines + lines[::-1])
    with open(f"{HERE}/perplexity.txt", "w") as f:
        f.write(text)
    dump(f"{HERE}/perplexity_rows.json", ROWS)
    gqa, mlp = load("gqa"), load("mlp336")
    out = {}
    for ctx in (64, 75):
        (q, p), targets = text_positions([gqa, mlp], sp, text, ctx)
        out[f"gqa_against_mlp336_{ctx}"] = compared(q, p, targets)
    pixels = load_file(f"{HERE}/gqa.safetensors")["pixels"][None]
    image_tokens = json.load(open(f"{HERE}/gqa.json"))["image_tokens"]
    out["gqa_conversations"] = own(*conversation_positions(gqa, sp, pixels, image_tokens))[1]
    dump(f"{HERE}/perplexity.json", out)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
