//! A PyTorch file: a stored zip of one pickle, `archive/data.pkl`, that describes a dictionary of tensors, and one file of bytes per tensor.
//!
//! LLaVA's own loader reads `non_lora_trainables.bin` with `torch.load`, so a file of that name has to be one. The pickle is written by the
//! opcodes of protocol 2 (Python's `pickletools`), as `torch.save` does: a tensor is `torch._utils._rebuild_tensor_v2` called with a
//! persistent id that names its storage, offset, shape, strides, `False` and an empty `OrderedDict`.

use std::io::{self, Seek, Write};

use tch::{Device, Kind, Tensor};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Writes named tensors in `kind` (f32, bf16 or f16) to `out`.
pub fn write_torch(out: impl Write + Seek, list: &[(String, Tensor)], kind: Kind) -> io::Result<()> {
    let mut zip = ZipWriter::new(out);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    let mut file = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).map_err(io::Error::other)?;
        zip.write_all(bytes)
    };
    file("archive/data.pkl".into(), &pickle(list, kind))?;
    file("archive/byteorder".into(), b"little")?;
    for (i, (_, tensor)) in list.iter().enumerate() {
        let tensor = tensor.detach().to_device(Device::Cpu).to_kind(kind).contiguous();
        let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        file(format!("archive/data/{i}"), &bytes)?;
    }
    file("archive/version".into(), b"3\n")?;
    zip.finish().map_err(io::Error::other)?.flush()
}

/// A number: BININT.
fn int(out: &mut Vec<u8>, n: i64) {
    // A count above 2³¹ takes LONG1 of 8 bytes.
    match i32::try_from(n) {
        Ok(n) => {
            out.push(b'J');
            out.extend(n.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend(n.to_le_bytes());
        }
    }
}

/// A text: BINUNICODE.
fn text(out: &mut Vec<u8>, s: &str) {
    out.push(b'X');
    out.extend((s.len() as u32).to_le_bytes());
    out.extend(s.as_bytes());
}

/// A tuple of numbers: MARK, numbers, TUPLE.
fn tuple(out: &mut Vec<u8>, numbers: &[i64]) {
    out.push(b'(');
    numbers.iter().for_each(|n| int(out, *n));
    out.push(b't');
}

/// The dictionary.
fn pickle(list: &[(String, Tensor)], kind: Kind) -> Vec<u8> {
    let storage = match kind {
        Kind::Half => "HalfStorage",
        Kind::BFloat16 => "BFloat16Storage",
        _ => "FloatStorage",
    };
    // PROTO 2, EMPTY_DICT, MARK
    let mut out = vec![0x80, 2, b'}', b'('];
    for (i, (name, tensor)) in list.iter().enumerate() {
        let shape = tensor.size();
        text(&mut out, name);
        // GLOBAL, then the call's arguments after a MARK
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        // the persistent id ("storage", class, key, place, elements): MARK … TUPLE, BINPERSID
        out.push(b'(');
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut out, &i.to_string());
        text(&mut out, "cpu");
        int(&mut out, tensor.numel() as i64);
        out.extend(b"tQ");
        int(&mut out, 0);
        tuple(&mut out, &shape);
        let strides: Vec<i64> = (1..=shape.len()).map(|d| shape[d..].iter().product()).collect();
        tuple(&mut out, &strides);
        // NEWFALSE, OrderedDict(): GLOBAL, EMPTY_TUPLE, REDUCE; then TUPLE and REDUCE of the call
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    // SETITEMS, STOP
    out.extend(b"u.");
    out
}
