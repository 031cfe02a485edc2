"""Makes world_vocabulary.json: what python's sentencepiece says of a tokenizer.model of ours.

    PUMICE_WRITE_MODEL=/tmp/m cargo test -p pumice-train --lib write_the_small_model -- --ignored
    python world_vocabulary.py /tmp/m > world_vocabulary.json        (sentencepiece 0.2.x)
"""
import json
import sys

import sentencepiece

raw = open(sys.argv[1], "rb").read()
model = sentencepiece.SentencePieceProcessor(model_proto=raw)
assert (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id()) == (0, 1, 2, -1)
texts = [
    "The fox is at the top-left.",
    "the foxes are at the top-right, too",
    "Where is it?\nIs the cake to the left?",
    " two  spaces and   three ",
    "\n",
    "",
    "zebra Bär 🦊 12%",
    "foxfoxes",
    "USER: the fox ASSISTANT:",
    "a</s>b<s>",
]
cases = [{"text": t, "ids": model.encode(t)} for t in texts]
json.dump({"cases": cases, "model": list(raw)}, sys.stdout, ensure_ascii=False)
