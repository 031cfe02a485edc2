"""How far rounding alone may carry each output: the source of the tolerances in the Rust tests.

Two correct float32 programs differ only in the order of their sums and in the last bits of their functions. So every step
is run again with a random error of the size that float32 permits it, and the largest change at the outputs, over several
draws, is recorded. The size of one step (u = 2^-24, the unit roundoff):
  - a sum of k products w_i x_i: u sqrt(k) |w x| (2-norm over i), the random-walk bound of Higham and Mary (2019);
  - a norm of k numbers: relative u (4 + sqrt(k)); activations, sine and cosine: relative 4 u;
  - attention's output: u (8 + sqrt(d) + sqrt(n)) times the rms of its row (scores over d, sums over n keys);
  - a residual sum: relative 2 u.
Where weights are F16 or BF16 the runtime may multiply whole numbers of 16 bits (kernels/src/cpu/x86/int16.rs), with a unit d for
256 columns of a row of weights or of activations: the larger of the 2-norm / 46300 and the largest magnitude / 32700. Each number
is then off by d / 2 at most: a product's sum by half of the 2-norm of (d_w |x|, d_x |w|), again as a random walk.
"""
import torch

U = 2.0**-24
DRAWS = 16


def uniform(x, generator):
    return torch.rand(x.shape, generator=generator) * 2 - 1


def units(x):
    """The unit of each row's spans of 256 columns, at every column."""
    spans = []
    for span in x.split(256, dim=-1):
        norm, largest = span.norm(dim=-1, keepdim=True), span.abs().amax(-1, keepdim=True)
        spans.append(torch.maximum(norm / 46300, largest / 32700).expand_as(span))
    return torch.cat(spans, -1)


def hooks(model, generator, words):
    def relative(factor):
        def hook(_, __, y):
            if isinstance(y, tuple):
                return tuple(t * (1 + U * factor * uniform(t, generator)) if torch.is_tensor(t) else t for t in y)
            return y * (1 + U * factor * uniform(y, generator))
        return hook

    def product(m, inputs, y):
        x = inputs[0]
        if isinstance(m, torch.nn.Conv2d):
            size = torch.nn.functional.conv2d(x**2, m.weight**2, stride=m.stride)
            k = m.weight[0].numel()
        else:
            size, k = (x**2) @ (m.weight**2).T, m.in_features
        y = y + U * k**0.5 * size.sqrt() * uniform(y, generator)
        if words:
            w = m.weight.flatten(1)
            if isinstance(m, torch.nn.Conv2d):
                x = torch.nn.functional.unfold(x, m.kernel_size, stride=m.stride).transpose(1, 2)
            off = ((units(x)**2) @ (w**2).T + (x**2) @ (units(w)**2).T).sqrt() / 2
            off = off.transpose(1, 2).reshape(y.shape) if isinstance(m, torch.nn.Conv2d) else off
            y = y + off * uniform(y, generator)
        return y

    def attention(head):
        def pre(_, inputs):
            x = inputs[0]
            rms = (x**2).mean(-1, keepdim=True).sqrt()
            return (x + U * (8 + head**0.5 + x.shape[1]**0.5) * rms * uniform(x, generator),)
        return pre

    handles = []
    for part in (model.vision, model.projector, model.text):
        for name, m in part.named_modules():
            kind = type(m).__name__
            if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)):
                handles.append(m.register_forward_hook(product))
                if name.endswith(("out_proj", "o_proj")):
                    config = part.config
                    handles.append(m.register_forward_pre_hook(attention(config.hidden_size // config.num_attention_heads)))
            elif kind.endswith("Norm"):
                handles.append(m.register_forward_hook(relative(4 + m.weight.shape[0]**0.5)))
            elif "GELU" in kind or "SiLU" in kind or "RotaryEmbedding" in kind:
                handles.append(m.register_forward_hook(relative(4)))
            elif kind.endswith(("DecoderLayer", "EncoderLayer")):
                handles.append(m.register_forward_hook(relative(2)))
    return handles


def deviations(model, out, ids, words=False):
    """Largest change of any element of features, projected rows (from exact features) and logits over `DRAWS` draws; with products on
    whole numbers of 16 bits where `words`."""
    generator = torch.Generator().manual_seed(5)
    handles = hooks(model, generator, words)
    worst = dict(features=0.0, projected=0.0, logits=0.0)
    for _ in range(DRAWS):
        features = model.features(out["pixels"][None])
        projected = model.projector(features)
        logits = model.text(inputs_embeds=model.embed(ids, projected)).logits[0]
        for name, value in dict(features=features, projected=projected, logits=logits).items():
            worst[name] = max(worst[name], (value - out[name]).abs().max().item())
    for h in handles:
        h.remove()
    assert all(v > 0 for v in worst.values())
    return worst
