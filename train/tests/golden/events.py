"""Writes events.bin: two events as TensorBoard's own classes write them. Needs tensorboard (2.21 made the file)."""
import struct
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

def record(event):
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))

value = summary_pb2.Summary.Value
summary = summary_pb2.Summary(value=[value(tag="train/loss", simple_value=1.25), value(tag="train/lr", simple_value=2e-5)])
events = [
    event_pb2.Event(wall_time=1700000000.5, file_version="brain.Event:2"),
    event_pb2.Event(wall_time=1700000001.25, step=300, summary=summary),
]
Path(__file__).with_suffix(".bin").write_bytes(b"".join(record(e) for e in events))
