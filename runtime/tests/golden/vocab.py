#!/usr/bin/env python3
"""Goldens of SentencePiece for src/vocab/tests.rs.

Run with sentencepiece 0.2, tokenizers 0.23, protobuf:  python vocab.py LLAMA_TOKENIZER_MODEL
Writes  spm-random.txt   2000 random texts of the real LLaMA vocabulary: a seed-generated text (same generator in Rust) and
                         an FNV-1a hash of its ids; 20 of them with the ids
        tiny.tsv         a small vocabulary of our own (score, kind, piece as a JSON string)
        tiny.txt         texts and their ids with it
        bpe.tsv          a small byte-level BPE vocabulary of our own, with texts and ids under three rules for words
"""
import io, json, os, sys
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

HERE = os.path.dirname(os.path.abspath(__file__))
MASK = (1 << 64) - 1


class Rng:
    """splitmix64, as in the tests."""
    def __init__(self, seed): self.s = seed
    def next(self):
        self.s = (self.s + 0x9E3779B97F4A7C15) & MASK
        z = self.s
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)
    def below(self, n): return self.next() % n


RANGES = [(0x20, 0x7E), (0x61, 0x7A), (0x20, 0x21), (0x0, 0x1F), (0xA0, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF),
          (0x2000, 0x206F), (0x2580, 0x2583), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE010),
          (0xFE00, 0xFFFD), (0x1F300, 0x1FAFF), (0x10000, 0x10FFF), (0x10FFF0, 0x10FFFF)]
WORDS = [" the", "ing", "USER:", " ASSISTANT:", "\n", "  ", "\t", "image", "<s>", "</s>", "<0x0A>", "###", "1234567",
         " what", "You", "\u2581", "tion", "don't", "\r\n", "e\u0301", "\U0001F999"]


def text(seed):
    r = Rng(seed)
    out = ""
    for _ in range(r.below(40)):
        if r.below(3) == 0:
            out += WORDS[r.below(len(WORDS))]
            continue
        lo, hi = RANGES[r.below(len(RANGES))]
        for _ in range(1 + r.below(5)):
            out += chr(lo + r.below(hi - lo + 1))
    return out


def fnv(ids):
    h = 0xCBF29CE484222325
    for b in b"".join(i.to_bytes(4, "little") for i in ids):
        h = ((h ^ b) * 0x100000001B3) & MASK
    return f"{h:016x}"


def random_texts(model):
    p = spm.SentencePieceProcessor(model_file=model)
    with open(os.path.join(HERE, "spm-random.txt"), "w") as f:
        for seed in range(2000):
            ids = p.encode(text(seed))
            print(fnv(ids), *(ids if seed < 20 else []), file=f)


TEXTS = ["", " ", "  ", "a", " a", "the cat sat on the mat", "The cat's hat.\nA dog", "\u2581the", "</s>", "<s>the", "caf\u00e9", "\U0001F999",
         "a\0b", "tttthhhee", "aaaaaaaaaa", "A chat USER: what ASSISTANT: cat</s>", "the\tcat", "\n\n\n", "ththththat"]


def tiny():
    corpus = ("the cat sat on the mat. that hat is the cat's hat. a dog and a cat chat. what is this? this is that.\n"
              "A chat between a curious user and an artificial intelligence assistant. USER: what is this ASSISTANT: a cat\n") * 20
    # Trained with the settings of LLaMA's vocabulary, on a corpus of our own.
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.split("\n")), model_writer=out, model_type="bpe", vocab_size=400, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        allow_whitespace_only_pieces=True, hard_vocab_limit=False, user_defined_symbols=["<mark>"], minloglevel=2)
    m = pb.ModelProto.FromString(out.getvalue())
    for piece in m.pieces:  # an unused piece in the middle of merges
        if piece.piece in ("\u2581th", "at"):
            piece.type = 5
    p = spm.SentencePieceProcessor(model_proto=m.SerializeToString())
    with open(os.path.join(HERE, "tiny.tsv"), "w") as f:
        for piece in m.pieces:
            print(repr(piece.score), piece.type, json.dumps(piece.piece), sep="\t", file=f)
    with open(os.path.join(HERE, "tiny.txt"), "w") as f:
        for t in TEXTS:
            print(json.dumps(t), *p.encode(t), sep="\t", file=f)


def bpe():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    rules = {"gpt-2": [gpt2], "llama-bpe": [llama3], "smollm": [r"\p{N}", gpt2]}
    corpus = ["the cat sat on the mat. That's what THEY'LL say in 2024, 12345 times!\n\n  indented   text ", "caf\u00e9 \U0001F999 12 123 1234"] * 30
    def words(name):
        steps = [pre_tokenizers.Split(Regex(r), "isolated") for r in rules[name]]
        return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = words("llama-bpe")
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made = json.loads(t.to_str())["model"]
    vocab, merges = made["vocab"], [" ".join(m) for m in made["merges"]]
    vocab["1234\u0120the"] = len(vocab)  # never reached by merges
    vocab["zq"] = len(vocab)             # a whole word that merges do not reach: taken by llama-bpe only
    tokens = [k for k, _ in sorted(vocab.items(), key=lambda kv: kv[1])]
    texts = TEXTS + ["12345 times", "That's THEY'LL", "  indented   text  ", "zq", " zq", "zqzq", "caf\u00e9 \U0001F999", "a\r\n\r\n b"]
    cases = {}
    for name in rules:
        b = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in merges], ignore_merges=name == "llama-bpe"))
        b.pre_tokenizer = words(name)
        cases[name] = [b.encode(x, add_special_tokens=False).ids for x in texts]
    with open(os.path.join(HERE, "bpe.tsv"), "w") as f:
        for x in tokens: print("token", json.dumps(x), sep="\t", file=f)
        for x in merges: print("merge", json.dumps(x), sep="\t", file=f)
        for name, lists in cases.items():
            for x, ids in zip(texts, lists): print(name, json.dumps(x), *ids, sep="\t", file=f)


if __name__ == "__main__":
    random_texts(sys.argv[1])
    tiny()
    bpe()
