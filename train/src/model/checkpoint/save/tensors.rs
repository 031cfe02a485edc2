//! Tensors to safetensors files, one at a time, in the kind that is asked for.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use safetensors::{Dtype, tensor::View};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::files::{Place, sync, write_json};
use crate::{Error, Result};

/// Most bytes of a shard.
const SHARD: usize = 5_000_000_000;

/// The name of `kind` in configs.
pub(super) fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// A tensor on its way to a file.
struct Outgoing {
    tensor: Tensor,
    shape: Vec<usize>,
    kind: Kind,
}

impl Outgoing {
    fn new(tensor: Tensor, kind: Kind) -> Self {
        let shape = tensor.size().into_iter().map(|n| n as usize).collect();
        Self { tensor, shape, kind }
    }
}

impl View for &Outgoing {
    fn dtype(&self) -> Dtype {
        match self.kind {
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        let tensor = self.tensor.detach().to_device(Device::Cpu).to_kind(self.kind).contiguous();
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.kind.elt_size_in_bytes()
    }
}

/// Only three kinds go to files.
fn check(kind: Kind) -> Result<()> {
    match kind {
        Kind::Float | Kind::BFloat16 | Kind::Half => Ok(()),
        other => Err(Error::Config(format!("weights are saved in f32, bf16 or f16, not in {other:?}"))),
    }
}

/// Writes one file, and waits until the disk has it.
fn write(path: &Path, list: &[(String, Outgoing)]) -> Result<()> {
    let format = HashMap::from([(String::from("format"), String::from("pt"))]);
    let views = list.iter().map(|(name, view)| (name, view));
    safetensors::serialize_to_file(views, Some(format), path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.into(), source },
        other => Error::Config(format!("{}: {other}", path.display())),
    })?;
    sync(path)
}

/// Writes named tensors into the one safetensors file `path`, in `kind`, under a temporary name that becomes its own when it is whole.
///
/// # Errors
/// The file cannot be written, or the kind is none of f32, bf16, f16.
pub fn write_tensors(path: &Path, list: Vec<(String, Tensor)>, kind: Kind) -> Result<()> {
    check(kind)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let temporary =
        tempfile::Builder::new().prefix(".saving-").tempdir_in(parent).map_err(Error::io(parent))?;
    let list: Vec<_> = list.into_iter().map(|(name, t)| (name, Outgoing::new(t, kind))).collect();
    let whole = temporary.path().join("weights");
    write(&whole, &list)?;
    fs::rename(&whole, path).map_err(Error::io(path))?;
    sync(parent)
}

/// Writes `model.safetensors`, or shards and their index where it would be longer than a shard.
pub(super) fn write_sharded(place: &Place, list: Vec<(String, Tensor)>, kind: Kind) -> Result<()> {
    write_shards(place, list, kind, SHARD)
}

fn write_shards(place: &Place, list: Vec<(String, Tensor)>, kind: Kind, most: usize) -> Result<()> {
    check(kind)?;
    let mut shards: Vec<Vec<(String, Outgoing)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (name, tensor) in list {
        let view = Outgoing::new(tensor, kind);
        let bytes = (&view).data_len();
        if filled > 0 && filled + bytes > most {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push((name, view));
        }
    }
    if let [one] = shards.as_slice() {
        return write(&place.path("model.safetensors"), one);
    }
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write(&place.path(&file), shard)?;
        map.extend(shard.iter().map(|(name, _)| (name, file.clone())));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_json(&place.path("model.safetensors.index.json"), &index)
}

#[cfg(test)]
mod tests {
    use pumice_models::checkpoint::Folder;

    use super::*;

    #[test]
    fn shards_hold_what_one_file_holds() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("model");
        let place = Place::new(&folder).expect("a place");
        let tensor = |n: i64| Tensor::arange(n, (Kind::Float, Device::Cpu));
        let list = (1..=5).map(|n| (format!("t{n}"), tensor(10 * n))).collect();
        // 40, 80, 120, 160 and 200 bytes of f32 in shards of at most 250.
        write_shards(&place, list, Kind::Float, 250).expect("files");
        assert!(!folder.exists(), "nothing stands there before it is whole");
        place.finish().expect("a rename");
        let read = Folder::open(&folder).expect("shards with an index");
        assert_eq!((read.files().len(), read.tensors().len()), (3, 5));
        let t4 = read.need_tensor("t4").expect("a tensor");
        let mut values = vec![0.0; 40];
        t4.to_f32(0, &mut values).expect("floats");
        assert_eq!(values, (0..40).map(|v| v as f32).collect::<Vec<_>>());
        let left = fs::read_dir(dir.path()).expect("a folder").count();
        assert_eq!(left, 1, "no temporary folder is left");
    }
}
