//! What training frameworks leave behind: Hugging Face folders of safetensors or PyTorch files, adapters, projectors.
//!
//! [`Folder::open`] takes a folder or a single file and lists every tensor with its bytes still in the memory map; the
//! meaning of the names is the caller's business. A checkpoint comes from strangers: headers are checked before they are
//! believed, and the pickle inside PyTorch files is read by a machine that cannot run code ([`pickle`]).

pub mod pickle;
mod safetensors;
mod tensor;
mod torch;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use pumice_kernels::Bytes;
use serde_json::Value;

pub use tensor::{Element, Tensor};

use crate::{Error, Result, map::map};

/// Longest JSON file read, in bytes; a large tokenizer.json has some 20 MB.
const MAX_JSON: usize = 128 << 20;

/// What a folder's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole model: `model*.safetensors` or `pytorch_model*.bin`.
    Model,
    /// A LoRA adapter (`adapter_model.*`), with `non_lora_trainables.bin` where there is one.
    Adapter,
    /// A projector alone: `mm_projector.bin`.
    Projector,
    /// One file that was named itself.
    File,
}

/// A checkpoint: a folder or a single file, open.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    kind: Kind,
    files: Vec<PathBuf>,
    passed_over: Vec<PathBuf>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

/// One way to hold a set of weights: names of an index file and of single files, each tried in order.
struct Layout {
    kind: Kind,
    index: &'static str,
    single: &'static str,
}

/// The ways to hold the main weights, best first.
const LAYOUTS: [Layout; 5] = [
    Layout { kind: Kind::Model, index: "model.safetensors.index.json", single: "model.safetensors" },
    Layout { kind: Kind::Model, index: "pytorch_model.bin.index.json", single: "pytorch_model.bin" },
    Layout { kind: Kind::Adapter, index: "", single: "adapter_model.safetensors" },
    Layout { kind: Kind::Adapter, index: "", single: "adapter_model.bin" },
    Layout { kind: Kind::Projector, index: "", single: "mm_projector.bin" },
];
/// What LoRA runs save beside the adapter: the projector, trained in full.
const BESIDE_ADAPTER: &str = "non_lora_trainables.bin";

impl Folder {
    /// Opens the checkpoint at `path`: a folder, or one `.safetensors`, `.bin`, `.pt` or `.pth` file.
    ///
    /// In a folder the whole model is preferred to an adapter, an adapter to a projector, safetensors to PyTorch files;
    /// the others are left closed and listed by [`Folder::passed_over`].
    ///
    /// # Errors
    /// There are no weights, a shard that the index names is missing, or a file is damaged or asks to run code.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::missing(
                path,
                "does not exist; give a checkpoint's folder or a file of weights",
            ));
        }
        if !path.is_dir() {
            let mut folder = Self::new(path, Kind::File);
            folder.add(path, &HashMap::new())?;
            return folder.not_empty();
        }
        let found = |l: &&Layout| [l.index, l.single].iter().any(|n| !n.is_empty() && path.join(n).exists());
        let Some(layout) = LAYOUTS.iter().find(found) else {
            let names: Vec<&str> = LAYOUTS.iter().map(|l| l.single).collect();
            return Err(Error::missing(
                path,
                format!("no weights here; looked for {} and sharded forms", names.join(", ")),
            ));
        };
        let mut folder = Self::new(path, layout.kind);
        if !layout.index.is_empty() && path.join(layout.index).exists() {
            folder.add_shards(layout.index)?;
        } else {
            folder.add(&path.join(layout.single), &HashMap::new())?;
        }
        if layout.kind == Kind::Adapter && path.join(BESIDE_ADAPTER).exists() {
            folder.add(&path.join(BESIDE_ADAPTER), &HashMap::new())?;
        }
        let others = LAYOUTS.iter().map(|l| l.single).chain([BESIDE_ADAPTER]).map(|n| path.join(n));
        folder.passed_over = others.filter(|p| p.exists() && !folder.files.contains(p)).collect();
        folder.not_empty()
    }

    /// Itself, if it has tensors.
    fn not_empty(self) -> Result<Self> {
        if self.tensors.is_empty() {
            let what = "holds no tensors by name; if they stand deeper (a training state), save only the \
                model's state_dict";
            return Err(Error::missing(&self.path, what));
        }
        Ok(self)
    }

    fn new(path: &Path, kind: Kind) -> Self {
        let (path, files, passed_over) = (path.into(), Vec::new(), Vec::new());
        Self { path, kind, files, passed_over, tensors: Vec::new(), index: HashMap::new() }
    }

    /// Opens all shards that the index file `name` lists.
    fn add_shards(&mut self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let bad = |what: &str| Error::key(&path, "weight_map", format!("{what}; fetch the file again"));
        let index = self.json(name)?.unwrap_or_default();
        let map =
            index.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("is no table of shards"))?;
        let mut homes = HashMap::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().ok_or_else(|| bad("is no table of shards"))?;
            // A plain name: an index must not lead out of its folder.
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(bad(&format!("names the shard {shard:?}, which is no plain file name")));
            }
            homes.insert(tensor.as_str(), shard);
        }
        for shard in homes.values().copied().collect::<BTreeSet<_>>() {
            let file = self.path.join(shard);
            if !file.exists() {
                return Err(Error::missing(
                    &self.path,
                    format!(
                        "{shard} is missing, one of the shards that {name} lists; fetch it into this folder"
                    ),
                ));
            }
            self.add(&file, &homes)?;
        }
        match homes.keys().filter(|t| !self.index.contains_key(**t)).min() {
            None => Ok(()),
            Some(t) => Err(Error::tensor(
                &self.path.join(homes[t]),
                t,
                format!("missing though {name} promises it; fetch the shard again"),
            )),
        }
    }

    /// Takes in the tensors of one file, but for those whose home is another.
    fn add(&mut self, file: &Path, homes: &HashMap<&str, &str>) -> Result<()> {
        for t in read(file, map(file)?)? {
            if homes.get(t.name.as_str()).is_some_and(|home| file.file_name() != Some(home.as_ref())) {
                continue;
            }
            if let Some(&first) = self.index.get(&t.name) {
                let first = self.tensors[first].file.display();
                return Err(Error::tensor(
                    file,
                    &t.name,
                    format!("stands in {first} too; remove the file that does not belong"),
                ));
            }
            self.index.insert(t.name.clone(), self.tensors.len());
            self.tensors.push(t);
        }
        self.files.push(file.into());
        Ok(())
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the weights are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The files of weights that were opened.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Files of weights that lie in the folder too and were not opened.
    pub fn passed_over(&self) -> &[PathBuf] {
        &self.passed_over
    }

    /// All tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn need_tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name).ok_or_else(|| {
            Error::tensor(
                &self.path,
                name,
                "missing; the checkpoint is of another kind of model or incomplete",
            )
        })
    }

    /// The path of the file `name` (a tokenizer, a config) in the folder, or beside the single file, if it is there.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        let folder = if self.kind == Kind::File { self.path.parent()? } else { &self.path };
        Some(folder.join(name)).filter(|p| p.is_file())
    }

    /// The JSON file `name`; `None` where there is none.
    ///
    /// # Errors
    /// The file is unreadable or no JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        self.file(name).map(|path| json(&path)).transpose()
    }

    /// `config.json`.
    ///
    /// # Errors
    /// The file is missing, unreadable or no JSON.
    pub fn config(&self) -> Result<Value> {
        self.json("config.json")?.ok_or_else(|| {
            Error::missing(
                &self.path,
                "no config.json; fetch it into the folder, sizes and image settings stand in it",
            )
        })
    }
}

/// The JSON file at `path`.
///
/// # Errors
/// The file is missing, unreadable or no JSON.
pub fn json(path: &Path) -> Result<Value> {
    let data = map(path)?;
    if data.len() > MAX_JSON {
        return Err(Error::unsupported(
            path,
            format!("has {} bytes, too many for a JSON file of a checkpoint", data.len()),
        ));
    }
    serde_json::from_slice(&data)
        .map_err(|e| Error::unsupported(path, format!("is not valid JSON ({e}); fetch or mend the file")))
}

/// The tensors of one file of weights with contents `data`; `path` stands in messages and in each [`Tensor::file`].
/// The kind is told by the first bytes, not by the name.
///
/// # Errors
/// The file is of another kind, damaged, or asks to run code.
pub fn read(path: &Path, data: Bytes) -> Result<Vec<Tensor>> {
    if torch::is_zip(&data) {
        return torch::tensors(path, &data);
    }
    if let Some(refusal) = torch::legacy(path, &data) {
        return Err(refusal);
    }
    let refuse = |what: &str| Err(Error::unsupported(path, what));
    match &data[..] {
        [] => refuse("is empty; fetch it again"),
        d if d.starts_with(b"GGUF") => {
            refuse("is a GGUF file where a checkpoint of PyTorch or safetensors is needed")
        }
        d if d.starts_with(b"version https://git-lfs") => {
            refuse("is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`")
        }
        // A safetensors header is a JSON object.
        d if d.get(8) == Some(&b'{') => safetensors::tensors(path, &data),
        _ => refuse(
            "is neither safetensors nor a PyTorch zip, or its beginning is damaged; fetch it again, or \
                save it again with a current PyTorch",
        ),
    }
}
