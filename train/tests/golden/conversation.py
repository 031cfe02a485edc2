#!/usr/bin/env python3
"""Goldens of token ids and loss masks for src/data/conversation/tests.rs, by the rules of LLaVA's training scripts.

Run with sentencepiece 0.2, protobuf:  python conversation.py LLAMA_TOKENIZER_MODEL
Writes  conversation.jsonl   vocabulary ("llama": the real one; "tiny": runtime/tests/golden/tiny.tsv), template, whether the
        picture stands behind the question, <im_start> and <im_end>, the row, its ids (-200 for the picture) and labels (-100 where nothing is learned)

The whole conversation is made as one text and tokenised as one (chunks around <image> apart, one BOS). Masks are made twice where the vocabulary
is LLaMA's: by differences of token counts as the scripts have it, and by the places of characters; both must agree.
"""
import json, os, re, sys
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = os.path.join(HERE, "../../../runtime/tests/golden/tiny.tsv")
IMG, IGN = -200, -100
HUMAN = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the human's questions."
USER = HUMAN.replace("human", "user")
LLAMA_2 = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language."


def tiny():
    m = pb.ModelProto()
    for line in open(TINY, encoding="utf-8").read().split("\n")[:-1]:
        score, kind, piece = line.split("\t")
        m.pieces.add(piece=json.loads(piece), score=float(score), type=int(kind))
    m.trainer_spec.model_type = pb.TrainerSpec.BPE
    m.trainer_spec.byte_fallback = True
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = True
    m.normalizer_spec.remove_extra_whitespaces = False
    return spm.SentencePieceProcessor(model_proto=m.SerializeToString())


class Slow:
    """The slow tokenizer in its legacy form: added tokens are cut out first, each stretch between them is a fresh text."""
    def __init__(self, p, added): self.p, self.added = p, {"<s>": 1, "</s>": 2, **added}

    def spans(self, text, at=0):
        """(id, first character) of each token of a text without BOS."""
        cut = "(" + "|".join(map(re.escape, self.added)) + ")"
        for part in re.split(cut, text):
            if part in self.added:
                yield self.added[part], at
            elif part:
                utf8 = part.encode()
                for piece in self.p.encode(part, return_type="proto").pieces:
                    # Places come in bytes; a fresh text's own leading space belongs to its first character.
                    yield piece.id, at + len(utf8[:piece.begin].decode(errors="ignore"))
            at += len(part)

    def __call__(self, text): return [1] + [i for i, _ in self.spans(text)]

    def with_images(self, text):
        """tokenizer_image_token, with the character at which each token begins (BOS: -1)."""
        out, at = [(1, -1)], 0
        for n, chunk in enumerate(text.split("<image>")):
            if n:
                out.append((IMG, at - len("<image>")))
            out += self.spans(chunk, at)
            at += len(chunk) + len("<image>")
        return out

    def count(self, text): return len(self.with_images(text))


def place_image(value, after):
    """preprocess_multimodal: the mark goes to the front; `after`: the order that only the first release's data had."""
    if "<image>" not in value:
        return value
    words = value.replace("<image>", "").strip()
    return (words + "\n<image>" if after else "<image>\n" + words).strip()


def by_places(spans, learned):
    return [i if i != IMG and any(a <= at < b for a, b in learned) else IGN for i, at in spans]


class Text:
    """A text with the ranges of it that are learned."""
    def __init__(self): self.text, self.learned = "", []
    def add(self, text, learn=False):
        if learn:
            self.learned.append((len(self.text), len(self.text) + len(text)))
        self.text += text


def plain(row, tok):
    t = Text()
    t.add("<image>")
    t.add(row[1] + "\n", True)
    spans = tok.with_images(t.text)
    ids = [i for i, _ in spans]
    by_count = [IGN] * tok.count("<image>") + ids[tok.count("<image>"):]
    return spans, by_count, t.learned


def v1(row, tok):
    t = Text()
    t.add(USER + " ")
    for q, a in zip(row[::2], row[1::2]):
        t.add(f"USER: {q} ASSISTANT:")
        t.add(f" {a}</s>", True)
    spans = tok.with_images(t.text)
    ids = [i for i, _ in spans]
    labels, cur = list(ids), 1
    labels[0] = IGN
    for r in t.text.split("</s>"):
        if r == "":
            break
        prefix, answer = r.split(" ASSISTANT: ")
        labels[cur:cur + tok.count(prefix + " ASSISTANT: ") - 2] = [IGN] * (tok.count(prefix + " ASSISTANT: ") - 2)
        cur += tok.count(r)
    assert cur == len(ids), (cur, len(ids))
    return spans, labels, t.learned


def llama_2(row, tok):
    t = Text()
    for n, (q, a) in enumerate(zip(row[::2], row[1::2])):
        system = f"<<SYS>>\n{LLAMA_2}\n<</SYS>>\n\n"
        t.add(f"[INST] {system}{q} [/INST]" if n == 0 else f"<s>[INST] {q} [/INST]")
        t.add(f" {a} </s>", True)
    spans = tok.with_images(t.text)
    ids = [i for i, _ in spans]
    labels, cur = list(ids), 1
    labels[0] = IGN
    for r in t.text.split("</s>"):
        if r == "":
            break
        prefix, answer = r.split("[/INST] ")
        n = tok.count(prefix + "[/INST] ") - 2
        labels[cur:cur + n] = [IGN] * n
        cur += tok.count(r)
    assert cur == len(ids), (cur, len(ids))
    return spans, labels, t.learned


def v0(row, tok):
    t = Text()
    t.add(HUMAN + "\n\n")
    parts = []
    for n, value in enumerate(row):
        start = len(t.text)
        if n % 2 == 0:
            t.add("###", True)
            t.add(f" Human: {value}\n")
        else:
            t.add(f"### Assistant: {value}\n", True)
        parts.append(t.text[start:])
    t.add("### ", True)
    spans = tok.with_images(t.text)
    ids = [i for i, _ in spans]
    labels, cur = list(ids), tok.count(HUMAN + "\n\n")
    labels[:cur] = [IGN] * cur
    for n, part in enumerate(parts):
        size = tok.count(part)
        if n % 2 == 0:
            labels[cur + 2:cur + size] = [IGN] * (size - 2)
        cur += size
    return spans, labels, t.learned


ROWS = [
    ["<image>\nWhat is this?", "A cat."],
    ["What is the cat on?\n<image>", "The cat sat on the mat.", "And the hat?", "It is\n1. a hat\n2. a mat", " spaced  out \n", "No"],
    ["Hello there.", "Hi! What can I do?", "Count to 3, caf\u00e9 \U0001F999", "1 2 3"],
    ["<image>", "t"],
    ["  <image>  that  ", " Both  sides have space. "],
]
FORMS = {"plain": plain, "v1": v1, "llava_llama_2": llama_2, "v0": v0}


def main():
    vocabularies = {"llama": spm.SentencePieceProcessor(model_file=sys.argv[1]), "tiny": tiny()}
    with open(os.path.join(HERE, "conversation.jsonl"), "w", encoding="utf-8") as f:
        for name, p in vocabularies.items():
            for template, form in FORMS.items():
                for row in ROWS:
                    for after in (False, True):
                        for around in (False, True):
                            has = "<image>" in row[0]
                            if template == "plain" and (len(row) != 2 or around or after) or not has and (after or around):
                                continue
                            if template != "plain" and row[0] == "<image>":
                                continue  # the scripts strip its newline in training and keep it at inference; ours keep it in both
                            n = p.get_piece_size()
                            tok = Slow(p, {"<im_start>": n, "<im_end>": n + 1} if around else {})
                            placed = [place_image(v, after) if i == 0 else v for i, v in enumerate(row)]
                            if around:
                                placed[0] = placed[0].replace("<image>", "<im_start><image><im_end>")
                            spans, by_count, learned = form(placed, tok)
                            labels = by_places(spans, learned)
                            if name == "llama":
                                assert labels == by_count, (template, row, labels, by_count)
                            print(json.dumps(dict(vocabulary=name, template=template, after=after, im_start_end=around, row=row,
                                                  ids=[i for i, _ in spans], labels=labels)), file=f)


if __name__ == "__main__":
    main()
