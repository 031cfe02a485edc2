"""Reads a file that Pumice wrote with gguf-py, and compares: run by hand after a change of the writer.

    PUMICE_GGUF_OUT=/tmp/ours.gguf cargo test -p pumice-models --test gguf -- --ignored a_file_for_gguf_py
    python check_with_gguf_py.py /tmp/ours.gguf
"""

import sys

import gguf
import numpy as np

r = gguf.GGUFReader(sys.argv[1])
got = {k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.")}
want = {
    "general.architecture": "llama",
    "a.u8": 250,
    "a.i8": -3,
    "a.u16": 60000,
    "a.i16": -300,
    "a.u32": 4000000000,
    "a.i32": -5,
    "a.f32": float(np.float32(1e-5)),
    "a.bool": True,
    "a.u64": 2**64 - 1,
    "a.i64": -(2**63),
    "a.f64": 0.1,
    "a.words": ["<s>", "▁the"],
    "a.scores": [0.5, -1000.0],
    "a.types": [1, -6],
    "a.flags": [True, False],
    "a.empty": [],
}
assert list(got) == list(want), (list(got), list(want))
for key, value in want.items():
    assert got[key] == value, (key, got[key], value)
tensors = {t.name: t for t in r.tensors}
assert list(tensors) == ["x.weight", "y.weight", "z.bias"]
x, y, z = tensors.values()
assert list(x.shape) == [4, 3] and x.tensor_type.name == "F32" and bytes(x.data.tobytes()) == bytes(range(48))
assert list(y.shape) == [32, 2] and y.tensor_type.name == "Q8_0" and bytes(y.data.tobytes()) == bytes([7] * 34 + [8] * 34)
assert list(z.shape) == [5] and z.tensor_type.name == "F16" and bytes(z.data.tobytes()) == bytes([9] * 10)
assert all(t.data_offset % 32 == 0 for t in r.tensors)
print("gguf-py reads the same keys, shapes, types and bytes")
