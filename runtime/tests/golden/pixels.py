#!/usr/bin/env python3
"""Golden values of Pillow and of transformers' CLIPImageProcessor for src/pixels/tests.rs.

Run with Pillow 10.2 (any up to 12: Pillow 13 resizes columns first where height - out_height > 2 * (width - out_width),
which LLaVA never saw), transformers 5.23 and numpy:  python pixels.py [folder of photographs]
Writes resize.txt (a hash per case), clip.txt (sampled values per case) and files/ (small encoded pictures and the RGB
that `Image.open(f).convert("RGB")` gives for each).
"""
import io, os, sys
import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))


def synthetic(w, h, kind):
    """Three deterministic pictures: 0 noise, 1 hard edges (overshoot on both sides), 2 smooth ramps."""
    x = np.arange(w, dtype=np.uint64)[None, :, None]
    y = np.arange(h, dtype=np.uint64)[:, None, None]
    c = np.arange(3, dtype=np.uint64)[None, None, :]
    if kind == 0:
        v = (x * 7919 + y * 104729 + c * 1299709 + 12345) & 0xFFFFFFFF
        for _ in range(2):
            v = ((v ^ (v >> np.uint64(15))) * 0x2C1B3C6D) & 0xFFFFFFFF
        v = v >> np.uint64(24)
    elif kind == 1:
        v = ((x // (3 + c)) + (y // (5 + c))) % 2 * 255
    else:
        v = (x * (3 + c) + y * (7 - c)) // 4 % 256
    return np.broadcast_to(v, (h, w, 3)).astype(np.uint8)


def fnv(data):
    """FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


SIZES = [
    (1, 1, 7, 5), (1, 1, 1, 1), (2, 3, 5, 4), (3, 2, 1, 1), (7, 5, 14, 14), (5, 7, 5, 7), (9, 9, 9, 4), (9, 9, 4, 9),
    (17, 31, 336, 8), (31, 17, 3, 224), (64, 64, 14, 14), (63, 65, 28, 28), (100, 1, 336, 3), (1, 100, 3, 100),
    (101, 99, 56, 55), (123, 457, 33, 122), (200, 150, 336, 336), (224, 224, 336, 336), (300, 200, 224, 224),
    (335, 337, 336, 336), (336, 336, 224, 224), (337, 335, 336, 336), (451, 300, 336, 336), (480, 270, 97, 53),
    (500, 3, 11, 9), (512, 512, 336, 336), (600, 400, 336, 224), (640, 427, 336, 336), (641, 479, 337, 13),
    (799, 601, 2, 3), (1000, 999, 64, 65), (2000, 17, 37, 40),
]


def resize():
    with open(os.path.join(HERE, "resize.txt"), "w") as f:
        print("# kind width height out_width out_height fnv1a64-of-rgb", file=f)
        for i, (w, h, ow, oh) in enumerate(SIZES):
            for kind in sorted({0, 1 + i % 2}):
                out = Image.fromarray(synthetic(w, h, kind)).resize((ow, oh), Image.BICUBIC)
                print(kind, w, h, ow, oh, fnv(out.tobytes()), file=f)


def expand2square(im, color):
    """LLaVA's llava/mm_utils.py, in its own words: the long side square, the picture in the middle."""
    w, h = im.size
    n = max(w, h)
    canvas = Image.new("RGB", (n, n), color)
    canvas.paste(im, ((n - w) // 2, (n - h) // 2))
    return canvas


def clip(photographs):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    names = sorted(os.listdir(photographs)) if photographs else []
    photos = [(n, Image.open(os.path.join(photographs, n)).convert("RGB")) for n in names if n.endswith(".png")]
    made = [(f"{k}:{w}x{h}", Image.fromarray(synthetic(w, h, k))) for k, w, h in
            [(0, 451, 300), (1, 300, 451), (2, 336, 336), (0, 337, 336), (0, 336, 339), (2, 1000, 35), (1, 13, 7), (0, 1, 90), (0, 5, 5), (0, 100, 800)]]
    with open(os.path.join(HERE, "clip.txt"), "w") as f:
        print("# picture aspect size fnv1a64-of-f32-bytes then 12 values at i * (3*size*size - 1) // 11", file=f)
        for name, im in made + photos:
            for size in (224, 336, 14):
                p = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
                for aspect in ("pad", "square"):
                    color = tuple(int(x * 255) for x in p.image_mean)
                    padded = expand2square(im, color) if aspect == "pad" else im
                    v = np.asarray(p(padded, return_tensors="np")["pixel_values"][0], dtype=np.float32)
                    assert v.shape == (3, size, size)
                    flat = v.reshape(-1)
                    at = [i * (flat.size - 1) // 11 for i in range(12)]
                    print(name, aspect, size, fnv(flat.tobytes()), *(repr(float(flat[i])) for i in at), file=f)


def files():
    """Small encoded pictures of every layout. `.rgb` beside each: width, height as u16 LE, then the pixels."""
    folder = os.path.join(HERE, "files")
    os.makedirs(folder, exist_ok=True)
    w, h = 13, 9
    smooth = Image.fromarray(synthetic(w, h, 2))
    noise = Image.fromarray(synthetic(w, h, 0))
    alpha = Image.fromarray(synthetic(w, h, 0)[:, :, 0])
    rgba = smooth.copy(); rgba.putalpha(alpha)
    cases = {
        "rgb.png": (smooth, {}), "rgba.png": (rgba, {}), "grey.png": (smooth.convert("L"), {}),
        "bilevel.png": (smooth.convert("1"), {}), "palette.png": (smooth.quantize(7), {}),
        "palette-clear.png": (smooth.quantize(7), {"transparency": 2}),
        "greyalpha.png": (Image.merge("LA", (smooth.convert("L"), alpha)), {}),
        "rgb.bmp": (noise, {}), "rgb-clear.png": (smooth, {"transparency": (0, 0, 0)}),
        "lossless.webp": (noise, {"lossless": True}), "lossless-alpha.webp": (rgba, {"lossless": True, "exact": True}),
        "lossy.webp": (smooth, {"quality": 95}), "plain.gif": (smooth.quantize(16), {}),
        "clear.gif": (smooth.quantize(7), {"transparency": 2}),
        "baseline.jpg": (smooth, {"quality": 95, "subsampling": 0}), "420.jpg": (smooth, {"quality": 95, "subsampling": 2}),
        "progressive.jpg": (smooth, {"quality": 95, "subsampling": 0, "progressive": True}),
        "grey.jpg": (smooth.convert("L"), {"quality": 95}),
    }
    frames = [smooth.quantize(16), noise.quantize(16)]
    b = io.BytesIO()
    frames[0].save(b, "GIF", save_all=True, append_images=frames[1:])
    blobs = {"two-frames.gif": b.getvalue()}
    for name, (im, options) in cases.items():
        b = io.BytesIO()
        im.save(b, {"jpg": "JPEG"}.get(name.split(".")[1], name.split(".")[1].upper()), **options)
        blobs[name] = b.getvalue()
    # CMYK and YCCK as Photoshop writes them: inverted, with an Adobe marker (Pillow writes CMYK that way).
    b = io.BytesIO(); smooth.convert("CMYK").save(b, "JPEG", quality=95); blobs["cmyk.jpg"] = b.getvalue()
    ycc = np.asarray(smooth.convert("YCbCr"))
    k = np.full((h, w, 1), 230, np.uint8)
    b = io.BytesIO()
    # Pillow stores CMYK inverted; invert beforehand so that the file holds these very samples, then flag transform 2.
    Image.fromarray(255 - np.concatenate([ycc, k], 2), "CMYK").save(b, "JPEG", quality=95)
    data = bytearray(b.getvalue()); i = data.index(b"Adobe"); data[i + 11] = 2; blobs["ycck.jpg"] = bytes(data)
    # 16 bits: Pillow cannot write RGB, so the chunks are put together here.
    import struct, zlib
    def png16(samples, colour):
        raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        chunk = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
        head = struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    wide = synthetic(w, h, 2).astype(np.uint16) * 256 + synthetic(w, h, 0)
    blobs["rgb16.png"] = png16(wide, 2)
    blobs["grey16.png"] = png16(wide[:, :, 0], 0)
    for o in range(1, 9):
        exif = Image.Exif(); exif[0x0112] = o
        b = io.BytesIO(); smooth.save(b, "PNG", exif=exif); blobs[f"turned{o}.png"] = b.getvalue()
    b = io.BytesIO(); exif = Image.Exif(); exif[0x0112] = 6
    smooth.save(b, "JPEG", quality=95, subsampling=0, exif=exif); blobs["turned6.jpg"] = b.getvalue()
    from PIL import ImageOps
    for name, blob in sorted(blobs.items()):
        open(os.path.join(folder, name), "wb").write(blob)
        im = Image.open(io.BytesIO(blob))
        im = ImageOps.exif_transpose(im).convert("RGB")
        if name == "grey16.png":  # our departure: the high byte, not cut off at 255
            im = Image.fromarray(np.repeat((wide[:, :, :1] >> 8).astype(np.uint8), 3, 2))
        open(os.path.join(folder, name + ".rgb"), "wb").write(struct.pack("<HH", *im.size) + im.tobytes())


if __name__ == "__main__":
    resize()
    files()
    clip(sys.argv[1] if len(sys.argv) > 1 else None)
