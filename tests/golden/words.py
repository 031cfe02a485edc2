"""The tiny tokenizer: a real SentencePiece BPE model with byte fallback, trained on the text below.

Settings are LLaMA's (dummy prefix, digits apart, no normalisation), the vocabulary is small so that goldens are small.
"""
import io

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

TEXT = """A chat between a curious human and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the human's questions.
A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the user's questions.
USER: What is in the picture? ASSISTANT: A red circle is left of a blue square.
###Human: What colour is the shape?###Assistant: The shape is green, with some noise on it.
Describe the image in one sentence. How many people are in the photo? Is there a cat?
The stone floats on the sea because it is full of air. Pumice is light rock made from lava.
Two boats, 3 birds and 14 windows; 2026 was a warm year, they said (or not).
Where does the road go? It goes over the hill, past the mill, and down to the harbour.
"Please read the sign," she asked. "It says: no parking at any time!"
On the table stand a cup of coffee, a bowl with apples and a small vase of flowers.
"""


def train(path, size):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, vocab_size=size, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        num_threads=1, minloglevel=2)
    with open(path, "wb") as f:
        f.write(model.getvalue())


def fast(path, added):
    """The same vocabulary as a `tokenizers` file: merges in the order of the scores."""
    proto = pb.ModelProto()
    with open(path, "rb") as f:
        proto.ParseFromString(f.read())
    pieces = [p.piece for p in proto.pieces]
    rank = {p: i for i, p in enumerate(pieces)}
    merges = [(rank[p], rank[p[:i]], p[:i], p[i:]) for p in pieces[259:] for i in range(1, len(p))
              if p[:i] in rank and p[i:] in rank]
    tokenizer = Tokenizer(models.BPE(rank, [(a, b) for _, _, a, b in sorted(merges)], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ["<unk>", "<s>", "</s>"] + added])
    return tokenizer
