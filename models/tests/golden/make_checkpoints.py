"""Makes the tiny checkpoints beside this script: `python make_checkpoints.py` (torch 2.x, safetensors, numpy).

Each holds what real ones do that is easy to get wrong: several element types, shared storages, offsets, strides,
parameters, OrderedDict with `_metadata`, an index of shards, and one pickle that would run a command.
"""

import collections
import json
import os
import pathlib
import zipfile

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent / "checkpoint"


def folder(name):
    path = here / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def ramp(*shape, dtype=torch.float32):
    n = 1
    for d in shape:
        n *= d
    return (torch.arange(n, dtype=torch.float32) / 8 - 1).to(dtype).reshape(shape)


config = {"model_type": "llava", "hidden_size": 4, "mm_projector_type": "mlp2x_gelu"}

# A folder of two safetensors shards.
sharded = folder("safetensors")
save_file({"a.weight": ramp(2, 3), "b.weight": ramp(4, dtype=torch.float16)}, sharded / "model-00001-of-00002.safetensors")
save_file({"c.weight": ramp(3, 2, dtype=torch.bfloat16), "ids": torch.arange(5)}, sharded / "model-00002-of-00002.safetensors")
index = {
    "metadata": {"total_size": 84},
    "weight_map": {
        "a.weight": "model-00001-of-00002.safetensors",
        "b.weight": "model-00001-of-00002.safetensors",
        "c.weight": "model-00002-of-00002.safetensors",
        "ids": "model-00002-of-00002.safetensors",
    },
}
(sharded / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
(sharded / "config.json").write_text(json.dumps(config, indent=1) + "\n")

# A folder of one PyTorch file per shard: types, views, parameters.
torch_folder = folder("torch")
base = ramp(4, 6)
first = collections.OrderedDict(
    whole=base,
    rows=base[1:3],  # same storage, offset 6
    transposed=base.t(),  # same storage, strides (1, 6)
    columns=base[:, 2:4],  # gaps
    half=ramp(2, 2, dtype=torch.float16),
    position_ids=torch.arange(3).expand((1, -1)),
)
first._metadata = collections.OrderedDict({"": {"version": 1}})
second = {
    "parameter": torch.nn.Parameter(ramp(3)),
    "brain": ramp(2, 2, dtype=torch.bfloat16),
    "double": ramp(2, dtype=torch.float64),
    "int32": torch.tensor([-1, 2], dtype=torch.int32),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "yes": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "not a tensor": 7,
}
torch.save(first, torch_folder / "pytorch_model-00001-of-00002.bin")
torch.save(second, torch_folder / "pytorch_model-00002-of-00002.bin", pickle_protocol=4)
names = {name: "pytorch_model-00001-of-00002.bin" for name in first}
names |= {name: "pytorch_model-00002-of-00002.bin" for name in second if name != "not a tensor"}
index = {"metadata": {}, "weight_map": names}
(torch_folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")

# A LoRA run as LLaVA saves it, and a projector alone.
lora = folder("lora")
save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ramp(2, 4)}, lora / "adapter_model.safetensors")
projector = {"base_model.model.model.mm_projector.0.weight": ramp(4, 2, dtype=torch.float16)}
torch.save(projector, lora / "non_lora_trainables.bin")
(lora / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}) + "\n")
torch.save({"model.mm_projector.0.weight": ramp(4, 2)}, folder("projector") / "mm_projector.bin")

# Files to refuse.
bad = folder("refused")
torch.save({"w": ramp(3)}, bad / "legacy.bin", _use_new_zipfile_serialization=False)


class Evil:
    def __reduce__(self):
        return (os.system, ("echo this must not run",))


torch.save({"step": 3, "model": {"w": ramp(3)}}, bad / "nested.bin")
torch.save({"w": ramp(3), "x": Evil()}, bad / "evil.bin")
with zipfile.ZipFile(here / "projector" / "mm_projector.bin") as plain:
    with zipfile.ZipFile(bad / "deflated.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
