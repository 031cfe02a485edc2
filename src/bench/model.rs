//! Which model is measured: a file, a pair, random weights of a shape, or the demo; and what its rows say of it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::bail;
use pumice_models::{
    config::{LlamaConfig, VisionConfig, has_vision},
    gguf::{File, TensorInfo},
    names::keys,
};
use pumice_quantize::FileType;
use tempfile::TempDir;

use super::{Args, record::Record, synthetic};
use crate::{chat, terminal};

/// The files of a model, and what they hold.
pub struct Model {
    /// The text model, perhaps with all the rest.
    pub text: PathBuf,
    /// The vision half, where it is a file of its own.
    pub mmproj: Option<PathBuf>,
    /// Positions that it was trained for.
    pub trained: usize,
    /// Rows that a picture becomes; `None` where the model does not see.
    pub image_tokens: Option<usize>,
    /// The fields of a row that speak of the model; all others are empty.
    pub row: Record,
    /// Where random weights lie until the program ends.
    _folder: Option<TempDir>,
}

impl Model {
    /// The model that `args` name; random weights are made first.
    pub fn find(args: &Args, stopped: &Arc<AtomicBool>) -> anyhow::Result<Self> {
        if let Some(shape) = &args.synthetic {
            let made = synthetic::make(shape, args.write.as_deref(), stopped)?;
            return Self::open(made.text, made.mmproj, made.folder);
        }
        match &args.model {
            Some(path) if path.join("config.json").is_file() => bail!(
                "{0}: is a checkpoint's folder; make a GGUF file of it: pumice quantize {0} Q4_K_M",
                path.display()
            ),
            Some(path) => Self::open(path.clone(), args.mmproj.clone(), None),
            None => {
                let demo = chat::Demo::find()?;
                terminal::note(&format!("demo model: {}; -m FILE measures another", demo.model.display()));
                Self::open(demo.model, None, None)
            }
        }
    }

    fn open(text: PathBuf, mmproj: Option<PathBuf>, folder: Option<TempDir>) -> anyhow::Result<Self> {
        let file = File::open(&text)?;
        let half = mmproj.as_deref().map(File::open).transpose()?;
        let eyes = match &half {
            Some(half) => Some(half),
            None => has_vision(&file)?.then_some(&file),
        };
        let image_tokens = eyes.map(|eyes| Ok(VisionConfig::read(eyes)?.image_tokens())).transpose();
        let image_tokens = image_tokens.map_err(|error: pumice_models::Error| error)?;
        let config = LlamaConfig::read(&file)?;
        let (trained, row) = (config.context, Record { n_layers: config.blocks, ..row(&file, eyes) });
        Ok(Self { text, mmproj, trained, image_tokens, row, _folder: folder })
    }

    /// All its files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.text), self.mmproj.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }
}

/// What `general.name` begins with in files of random weights (`pumice_quantize::synthetic`).
const RANDOM: &str = "synthetic ";

/// Whether a tensor is the tower's or the projector's.
fn is_vision(tensor: &TensorInfo) -> bool {
    tensor.name.starts_with("v.") || tensor.name.starts_with("mm.")
}

/// What rows say of the model in `text`, with the vision half in `eyes`.
fn row(text: &File, eyes: Option<&File>) -> Record {
    let words = text.tensors().iter().filter(|t| !is_vision(t));
    let (size, params) = words.fold((0, 0), |(size, n), t| (size + t.bytes as u64, n + t.elements() as u64));
    let pictures = eyes.iter().flat_map(|file| file.tensors()).filter(|t| is_vision(t));
    let kind = if eyes.is_some() { "llava" } else { "llama" };
    // Its speed may be compared with a real model's, but a reader must see which is which.
    let name = text.str(keys::NAME).ok().flatten().unwrap_or_default();
    let random = if name.starts_with(RANDOM) { " random" } else { "" };
    Record {
        model_filename: text.path().display().to_string(),
        model_type: format!("{kind} {} {}{random}", round(params), file_type(text)),
        model_size: size,
        model_n_params: params,
        mmproj_size: pictures.map(|t| t.bytes as u64).sum(),
        ..Record::default()
    }
}

/// A count of parameters as names of models have it: `7B`, `6M`.
fn round(params: u64) -> String {
    match params {
        0..1_000_000 => format!("{:.1}M", params as f64 / 1e6),
        1_000_000..1_000_000_000 => format!("{:.0}M", params as f64 / 1e6),
        _ => format!("{:.0}B", params as f64 / 1e9),
    }
}

/// The mix that the file says it is; where it does not, the type that most of its bytes have.
fn file_type(file: &File) -> String {
    let number = file.usize(keys::FILE_TYPE).ok().flatten();
    let said = FileType::ALL.into_iter().find(|t| number == Some(*t as usize));
    if let Some(said) = said {
        return said.to_string();
    }
    let bytes_of = |name: &str| -> usize {
        file.tensors().iter().filter(|t| t.type_name() == name).map(|t| t.bytes).sum()
    };
    let most = file.tensors().iter().map(TensorInfo::type_name).max_by_key(|name| bytes_of(name));
    most.map_or_else(String::new, |name| name.split(' ').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_as_names_have_them() {
        let names = [600_000, 6_400_000, 6_738_415_616, 13_015_864_320].map(round);
        assert_eq!(names, ["0.6M", "6M", "7B", "13B"]);
    }
}
