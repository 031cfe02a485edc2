"""Golden bytes of the quantization formats, and llama.cpp's error figures. Tests never run this; they read what it wrote.

    python quant.py bytes                      writes quant_input.bin, quant_bytes.bin, dequant_*.bin     (needs gguf, numpy >= 2)
    python quant.py rmse --ggml libggml-base.so  writes rmse_llama.tsv: llama.cpp's errors, and its speed on this machine
    python quant.py table --ours ours.tsv      writes rmse.md from rmse_llama.tsv and from what the ignored test
                                               `quant_rmse::table` printed

The data of `rmse` are made again by tests/quant_rmse.rs with the same integer generator and the same order of correctly
rounded operations; a checksum in the .tsv tells that both made the same.
"""

import argparse
import ctypes
import pathlib
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
BLOCKS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
SEARCHED = ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
COLS = 256


def byte_input():
    """Rows of 256: every kind of block that has its own path through a quantizer."""
    rng = np.random.default_rng(20240501)
    normal = rng.standard_normal(COLS)
    heavy = rng.standard_t(3, COLS)
    zero = np.zeros(COLS)
    constant = np.repeat([1.0, -1.0, 0.1, -3.7, 1e-3, 123.25, -0.5, 2.0], 32)
    # Codes that fall on .5 exactly: multiples of half a step, the extreme a multiple of the number of steps.
    ties = np.concatenate([np.arange(-16, 16) * 0.5 * s for s in (1, -1, 2, 0.25, 1, 3, -0.125, 8)])
    ties[::32] = np.array([-8, 8, -16, 16, -15, 15.5, 127, -127.0])
    mirrored = np.tile([1.0, -1.0], COLS // 2) * np.repeat(rng.standard_normal(COLS // 2), 2)
    half_denormal = rng.standard_normal(COLS) * 1e-6
    denormal = rng.standard_normal(COLS) * 1e-38
    denormal[::32] = 1e-36 * np.array([1, -1, 1, -1, 1, -1, 1, -1])
    large = rng.standard_normal(COLS) * 1e4
    larger = rng.standard_normal(COLS) * 1e6  # scales beyond a half: infinity
    # One sign per block: which zero numpy's minimum returns is not defined.
    signed_zero = np.repeat([-0.0, 0.0, -0.0, -0.0, 0.0, 0.0, -0.0, 0.0], 32)
    outlier = rng.standard_normal(COLS) * 0.02
    outlier[::32] *= 50
    rows = [normal, heavy, zero, constant, ties, mirrored, half_denormal, denormal, large, larger, signed_zero, outlier]
    return np.stack(rows).astype(np.float32)


def make_bytes():
    import gguf
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.constants import GGMLQuantizationType as Q

    assert int(np.__version__.split(".")[0]) >= 2
    x = byte_input()
    x.tofile(HERE / "quant_input.bin")
    with np.errstate(all="ignore"), open(HERE / "quant_bytes.bin", "wb") as f:
        for name in LEGACY + ["F16", "BF16"]:
            f.write(gguf.quants.quantize(x, Q[name]).tobytes())
    rng = np.random.default_rng(20240502)
    with open(HERE / "dequant_bytes.bin", "wb") as fb, open(HERE / "dequant_floats.bin", "wb") as ff:
        for name in BLOCKS + ["F16", "BF16"]:
            length, size = GGML_QUANT_SIZES[Q[name]]
            n = 1024 // length
            raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
            # Halves must be finite: NaN has many bit patterns. Both signs, and denormals, stay.
            halves = {"Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}.get(name, [0])
            for h in halves:
                bits = raw[:, h : h + 2].copy().view(np.uint16)
                bits = np.where((bits & 0x7C00) == 0x7C00, bits ^ 0x4000, bits).astype(np.uint16)
                raw[:, h : h + 2] = bits.view(np.uint8)
            if name == "BF16":
                raw[:, 1] &= 0xBF
            fb.write(raw.tobytes())
            ff.write(gguf.quants.dequantize(raw, Q[name]).astype(np.float32).tobytes())


# The data of the error figures ----------------------------------------------------------------------------------------

MASK = (1 << 64) - 1


class Random:
    """splitmix64 and what the cases need of it, in f64 with operations that IEEE 754 rounds correctly."""

    def __init__(self, seed):
        self.state = seed

    def uint(self, n):
        """n numbers of 64 bits."""
        steps = np.arange(1, n + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            z = np.uint64(self.state) + steps * np.uint64(0x9E3779B97F4A7C15)
            self.state = (self.state + n * 0x9E3779B97F4A7C15) & MASK
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))

    def normal(self, n):
        """About normal: the sum of 12 uniforms of 16 bits, from 3 words."""
        z = self.uint(3 * n).reshape(n, 3)
        total = np.zeros(n, dtype=np.int64)
        for k in range(4):
            total += ((z >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.int64).sum(axis=1)
        return (total - 6 * 65535).astype(np.float64) / 65536.0

    def uniform(self, n):
        return (self.uint(n) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


ROWS, WIDTH = 32, 1024


def cases():
    """(name, [ROWS, WIDTH] f32, importance or None)."""
    n = ROWS * WIDTH
    out = []
    out.append(("normal", Random(1).normal(n) * 0.02, None))
    r = Random(2)
    z, a, b, c = r.normal(n), r.normal(n), r.normal(n), r.normal(n)
    out.append(("student-t3", z / np.sqrt((a * a + b * b + c * c) / 3.0 + 1e-9) * 0.02, None))
    out.append(("constant", np.repeat(Random(3).normal(ROWS), WIDTH), None))
    r = Random(4)
    gain = 1.0 + 15.0 * (r.uniform(WIDTH) < 0.01)
    row = 0.01 + 0.03 * r.uniform(ROWS)
    x = r.normal(n).reshape(ROWS, WIDTH) * row[:, None] * gain[None, :]
    out.append(("outlier channels", x, None))
    r = Random(5)
    out.append(("shifted", r.normal(n) * 0.02 + 0.015, None))
    r = Random(6)
    x = r.normal(n) * 0.02
    imp = 0.01 + np.square(r.normal(WIDTH))
    imp = imp * (1.0 + 99.0 * (r.uniform(WIDTH) < 0.02))
    out.append(("normal, importance", x, imp))
    r = Random(7)
    gain = 1.0 + 15.0 * (r.uniform(WIDTH) < 0.01)
    x = r.normal(n).reshape(ROWS, WIDTH) * gain[None, :] * 0.02
    imp = 0.01 + np.square(r.normal(WIDTH))
    out.append(("outliers, importance", x, imp))
    out.append(("tiny", Random(8).normal(n) * 1e-4, None))
    return [
        (name, np.ascontiguousarray(x.reshape(ROWS, WIDTH).astype(np.float32)), None if w is None else w.astype(np.float32))
        for name, x, w in out
    ]


def errors(x, y, importance):
    """Plain rmse, rmse weighted by x² (the emphasis of llama.cpp's search without an importance), by the importance."""
    e = np.square(x.astype(np.float64) - y.astype(np.float64))
    sq = np.square(x.astype(np.float64))
    imp = np.ones(WIDTH) if importance is None else importance.astype(np.float64)
    rmse = np.sqrt(e.mean())
    by_square = np.sqrt((e * sq).sum() / max(sq.sum(), 1e-300))
    by_importance = np.sqrt((e * imp[None, :]).sum() / (imp.sum() * ROWS))
    return rmse, by_square, by_importance


def make_rmse(path):
    import gguf
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.constants import GGMLQuantizationType as Q

    lib = ctypes.CDLL(path)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip

    def run(name, x, importance):
        length, size = GGML_QUANT_SIZES[Q[name]]
        out = np.zeros((x.shape[0], x.shape[1] // length * size), dtype=np.uint8)
        lib.ggml_quantize_init(int(Q[name]))
        imp = None if importance is None else importance.ctypes.data
        start = time.thread_time()
        lib.ggml_quantize_chunk(int(Q[name]), x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], imp)
        return out, time.thread_time() - start

    with open(HERE / "rmse_llama.tsv", "w") as f:
        f.write("# llama.cpp's errors; made by quant.py. The checksum is the sum of the data's bits as u32.\n")
        f.write("# case\tformat\trmse\trmse weighted by x^2\trmse weighted by importance\tchecksum\n")
        for case, x, importance in cases():
            checksum = int(x.view(np.uint32).astype(np.uint64).sum())
            for name in BLOCKS:
                out, _ = run(name, x, importance)
                e = errors(x, gguf.quants.dequantize(out, Q[name]), importance)
                f.write(f"{case}\t{name}\t" + "\t".join(f"{v:.9e}" for v in e) + f"\t{checksum}\n")
        x = np.tile(cases()[0][1], (64, 1))
        for name in BLOCKS:
            seconds = min(run(name, x, None)[1] for _ in range(3))
            f.write(f"# speed\t{name}\t{x.size / seconds / 1e6:.1f} M weights/s\n")


def make_table(ours_path):
    def read(path):
        rows, speeds = {}, {}
        for line in open(path):
            p = line.rstrip("\n").split("\t")
            if p[0] == "# speed":
                speeds[p[1]] = float(p[2].split()[0])
            elif not line.startswith("#") and len(p) >= 5:
                rows[p[0], p[1]] = [float(v) for v in p[2:5]]
        return rows, speeds

    llama, llama_speed = read(HERE / "rmse_llama.tsv")
    ours, our_speed = read(ours_path)
    with open(HERE / "rmse.md", "w") as f:
        f.write("# Quantization error and speed beside llama.cpp's\n\n")
        f.write(
            "Root of the mean squared error of 32 × 1024 weights; made by `quant.py table`. Below 1 ours is the closer. The\n"
            "objective of our search is the first column (with an importance, the last); llama.cpp, without an importance,\n"
            "weighs errors by something like x², so the middle column favours it. Q4_0 to Q8_0 without an importance are the\n"
            "same bytes.\n\n"
            "| data | format | llama.cpp | ours | ours / llama.cpp | the same, weighted by x² | the same, by importance |\n"
            "|---|---|---|---|---|---|---|\n"
        )
        for (case, name), o in ours.items():
            t = llama[case, name]
            ratio = [a / b if b > 0 else 1.0 for a, b in zip(o, t)]
            imp = f"{ratio[2]:.4f}" if "importance" in case else "–"
            f.write(f"| {case} | {name} | {t[0]:.4e} | {o[0]:.4e} | {ratio[0]:.4f} | {ratio[1]:.4f} | {imp} |\n")
        f.write("\n## Speed, one thread, million weights a second\n\nNormal data; time that the thread computed, on the same machine (Xeon with AVX-512), one after the other.\n\n")
        f.write("| format | llama.cpp | ours | ours / llama.cpp |\n|---|---|---|---|\n")
        for name, s in our_speed.items():
            f.write(f"| {name} | {llama_speed[name]:.1f} | {s:.1f} | {s / llama_speed[name]:.2f} |\n")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["bytes", "rmse", "table"])
    p.add_argument("--ggml", help="path of libggml-base.so")
    p.add_argument("--ours", help="what the ignored test printed")
    args = p.parse_args()
    if args.what == "bytes":
        make_bytes()
    elif args.what == "rmse":
        make_rmse(args.ggml)
    else:
        make_table(args.ours)
