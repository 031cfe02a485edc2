"""Makes `sample.gguf` and the split `split-0000?-of-00002.gguf` with gguf-py: `python make_gguf.py` (gguf, numpy)."""

import pathlib

import gguf
import numpy as np

here = pathlib.Path(__file__).parent

w = gguf.GGUFWriter(here / "sample.gguf", "llama")
w.add_uint8("x.u8", 200)
w.add_int8("x.i8", -100)
w.add_uint16("x.u16", 60000)
w.add_int16("x.i16", -30000)
w.add_uint32("x.u32", 4000000000)
w.add_int32("x.i32", -2000000000)
w.add_float32("x.f32", 1.5)
w.add_bool("x.bool", True)
w.add_string("x.str", "Grüße, 世界")
w.add_uint64("x.u64", 2**63)
w.add_int64("x.i64", -(2**62))
w.add_float64("x.f64", 0.1)
w.add_array("x.strings", ["<unk>", "<s>", "▁a"])
w.add_array("x.floats", [0.5, -2.0])
w.add_array("x.ints", [1, -2, 3])
w.add_array("x.bools", [True, False])
w.add_array("x.nested", [[1, 2], [3]])
w.add_tensor("plain.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
w.add_tensor("half.weight", np.arange(4, dtype=np.float16))
q8 = gguf.quantize(np.arange(64, dtype=np.float32).reshape(2, 32), gguf.GGMLQuantizationType.Q8_0)
w.add_tensor("q.weight", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
w.add_tensor("fp4.weight", np.zeros((1, 17), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.MXFP4)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

w = gguf.GGUFWriter(here / "split.gguf", "llama", split_max_tensors=2)
w.add_uint32("llama.block_count", 1)
for i in range(3):
    w.add_tensor(f"t{i}", np.full((4,), i, dtype=np.float32))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
