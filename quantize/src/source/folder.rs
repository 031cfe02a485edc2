//! Opens checkpoints: folders of Hugging Face and of LLaVA's authors, adapters and projectors on a base model.
//!
//! The tensors of all folders that take part are laid over each other by GGUF name, a LoRA update is hung on its base,
//! and then [`Builder`] takes what the configuration asks for out of the heap.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use pumice_models::{
    checkpoint::{Folder, Kind},
    gguf::Value,
};

use super::{
    Source, SourceOptions,
    builder::Builder,
    config::{Json, JsonFile, Llava, Text},
    file_name,
    keys::{Key, Rope, map},
    lora::{self, Adapter, Role},
    metadata,
    tensor::SourceTensor,
    tower,
};
use crate::{Error, Result, vocab::Vocab};

/// Tensors of one or more folders by GGUF name.
#[derive(Default)]
pub(super) struct Tensors {
    pub map: BTreeMap<String, SourceTensor>,
    pub ropes: HashMap<String, Rope>,
    /// All files that were opened.
    pub paths: Vec<PathBuf>,
}

impl Tensors {
    /// Takes the tensors of `folder`; those of earlier folders are replaced.
    pub fn take(&mut self, folder: &Folder, map: fn(&str) -> Key) -> Result<()> {
        for tensor in folder.tensors() {
            let Role::Whole(key) = lora::role(&tensor.name) else { continue };
            match map(&key) {
                Key::Ignored => {}
                Key::To { name, rope } => {
                    self.ropes.insert(name.clone(), rope);
                    self.map.insert(name.clone(), SourceTensor::from_checkpoint(name, tensor.clone()));
                }
                Key::Tiles => {
                    let problem =
                        "is LLaVA 1.6 or later, which cuts pictures into tiles; Pumice reads LLaVA 1 and 1.5"
                            .into();
                    return Err(Error::NotASource { path: folder.path().into(), problem });
                }
                Key::Unknown => {
                    return Err(Error::UnknownTensor {
                        path: folder.path().into(),
                        tensor: tensor.name.clone(),
                    });
                }
            }
        }
        self.paths.extend(folder.files().iter().cloned());
        Ok(())
    }
}

/// The folders that make up a model.
struct Parts {
    /// What the path names.
    given: Folder,
    /// The text model, where `given` is not one.
    base: Option<Folder>,
    projector: Option<Folder>,
}

impl Parts {
    fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        let given = Folder::open(path)?;
        let whole = |folder: &Folder| {
            let blocks = |t: &str| t.contains("layers.0.self_attn.q_proj.weight") && !t.contains("vision");
            matches!(folder.kind(), Kind::Model | Kind::File)
                && folder.tensors().iter().any(|t| blocks(&t.name))
        };
        let base = match (&options.base, whole(&given)) {
            (_, true) => None,
            (Some(base), false) => Some(Folder::open(base)?).filter(&whole).map_or_else(
                || {
                    let problem = "holds no LLaMA weights, so it cannot be the base; give the whole text model's folder".into();
                    Err(Error::NotASource { path: base.clone(), problem })
                },
                |base| Ok(Some(base)),
            )?,
            (None, false) if given.kind() == Kind::Adapter => {
                let adapter = Adapter::read(folder_of(&given))?;
                let problem = format!("holds a LoRA adapter for {}; give that model's folder with --base FOLDER", adapter.base);
                return Err(Error::NotASource { path: path.into(), problem });
            }
            (None, false) => {
                let problem = "holds no LLaMA weights; if it is a projector, give the text model's folder with --base FOLDER".into();
                return Err(Error::NotASource { path: path.into(), problem });
            }
        };
        let projector = options.projector.as_deref().map(Folder::open).transpose()?;
        Ok(Self { given, base, projector })
    }

    /// Lays the parts' tensors over each other.
    fn tensors(&self) -> Result<Tensors> {
        let mut tensors = Tensors::default();
        for folder in [self.base.as_ref(), Some(&self.given), self.projector.as_ref()].into_iter().flatten() {
            tensors.take(folder, map)?;
        }
        Ok(tensors)
    }

    /// What lies in the folders and is not read, a sentence each.
    fn unread(&self) -> Vec<String> {
        let all = [self.base.as_ref(), Some(&self.given), self.projector.as_ref()];
        let files = all.into_iter().flatten().flat_map(Folder::passed_over);
        files
            .map(|f| format!("{} is not read: the folder holds other weights beside it", f.display()))
            .collect()
    }

    /// The folders where configurations and tokenizers are looked for, the nearest first.
    fn folders(&self) -> Vec<&Path> {
        let all = [self.projector.as_ref(), Some(&self.given), self.base.as_ref()];
        all.into_iter().flatten().map(folder_of).collect()
    }
}

/// The folder of a checkpoint, also where a single file was named.
fn folder_of(folder: &Folder) -> &Path {
    match folder.path() {
        path if path.is_dir() => path,
        file => match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        },
    }
}

/// Opens the checkpoint at `path`.
pub(super) fn open(path: &Path, options: &SourceOptions) -> Result<Source> {
    let parts = Parts::open(path, options)?;
    let mut tensors = parts.tensors()?;
    let mut notes = parts.unread();
    let configs: Vec<JsonFile> = parts
        .folders()
        .into_iter()
        .filter_map(|f| JsonFile::open(f, "config.json").transpose())
        .collect::<Result<_>>()?;
    let text_folder = folder_of(parts.base.as_ref().unwrap_or(&parts.given));
    let Some(text_file) = configs.iter().find(|c| c.path.parent() == Some(text_folder)) else {
        let problem =
            "holds no config.json, which says the model's sizes; download it into this folder".into();
        return Err(Error::NotASource { path: text_folder.into(), problem });
    };
    let text = read_text(text_file)?;
    let has_projector = tensors.map.keys().any(|name| name.starts_with("mm."));
    let (llava, file) = find_llava(&configs, has_projector)?.unzip();
    let file = file.unwrap_or(text_file);
    if options.base.is_some() && parts.base.is_none() {
        notes.push("the path holds a whole text model; --base is not used".into());
    }
    let vision = match &llava {
        Some(llava) => {
            let folder = file.path.parent().unwrap_or(Path::new("."));
            let given = options.vision_tower.as_deref();
            Some(tower::read(folder, file.top(), llava, given, &mut tensors, &mut notes)?)
        }
        None => None,
    };
    if parts.given.kind() == Kind::Adapter {
        let adapter = Adapter::read(folder_of(&parts.given))?;
        adapter.add(&parts.given, &mut tensors.map)?;
    }
    let mut builder = Builder { path: path.into(), tensors, notes, out: Vec::new() };
    let mut vocab = read_vocab(&parts, options)?;
    vocab.add_roles_of(text_file.top().get("text_config").unwrap_or(&text_file.value));
    vocab.add_roles_of(&text_file.value);
    let (vocab, facts) = builder.text(&text, vocab, llava.as_ref(), options)?;
    let mut keys = metadata::text_keys(&text, vocab.pieces.len());
    keys.extend(vocab.keys());
    if let (Some(template), None) = (&vocab.chat_template, &llava) {
        keys.push(("tokenizer.chat_template".into(), Value::String(template.clone())));
    }
    let folder_name = file_name(folder_of(&parts.given));
    let vision_keys = match (&llava, &vision) {
        (Some(llava), Some(vision)) => {
            let names = format!("{folder_name} {}", llava.name.as_deref().unwrap_or_default());
            builder.vision(file.top(), llava, vision, text.hidden, &names)?
        }
        _ => Vec::new(),
    };
    Ok(Source {
        name: folder_name,
        paths: builder.tensors.paths,
        notes: builder.notes,
        text: keys,
        vision: vision_keys,
        tensors: builder.out,
        facts,
    })
}

/// The text model's configuration: nested in Hugging Face's port, at the top elsewhere.
fn read_text(file: &JsonFile) -> Result<Text> {
    let top = file.top();
    match top.get("text_config") {
        Some(value) => {
            // Not the `tie_word_embeddings` at the top: older versions wrote true there and meant nothing by it.
            Text::read(Json { path: &file.path, at: "text_config.", value })
        }
        None => Text::read(top),
    }
}

/// The first configuration that is a LLaVA's; the first release's, where a projector was trained on a bare base model
/// and says nothing of itself.
fn find_llava(configs: &[JsonFile], has_projector: bool) -> Result<Option<(Llava, &JsonFile)>> {
    for file in configs {
        if let Some(llava) = Llava::read(file.top())? {
            return Ok(Some((llava, file)));
        }
    }
    Ok(configs.first().filter(|_| has_projector).map(|file| (Llava::unsaid(), file)))
}

/// The vocabulary: from `--tokenizer`, else from the first folder that has one.
fn read_vocab(parts: &Parts, options: &SourceOptions) -> Result<Vocab> {
    if let Some(path) = &options.tokenizer {
        return Vocab::open(if path.is_dir() { path } else { path.parent().unwrap_or(path) });
    }
    let has = |folder: &&Path| ["tokenizer.model", "tokenizer.json"].iter().any(|n| folder.join(n).is_file());
    let folders = parts.folders();
    Vocab::open(folders.iter().copied().find(has).unwrap_or(folders[0]))
}
