//! Opens checkpoints: folders of Hugging Face and of LLaVA's authors, adapters and projectors on a base model.
//!
//! The tensors of all folders that take part are laid over each other by GGUF name, a LoRA update is hung on its base,
//! and then every tensor that the configuration asks for is taken out of the heap and its shape checked.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use pumice_models::{
    checkpoint::{Folder, Kind},
    gguf::Value,
    names,
};

use super::{
    Source, SourceOptions,
    config::{Json, JsonFile, Llava, Text, Vision},
    file_name,
    keys::{Key, Rope, map},
    lora::{self, Adapter, Role},
    metadata,
    tensor::{Data, Order, SourceTensor},
    tower,
};
use crate::{
    Error, ModelFacts, Result,
    vocab::{TokenType, Vocab},
};

/// Tensors of one or more folders by GGUF name.
#[derive(Default)]
pub(super) struct Tensors {
    pub map: BTreeMap<String, SourceTensor>,
    ropes: HashMap<String, Rope>,
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
    let mut notes = Vec::new();
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
    let llava = find_llava(&configs)?;
    let name = llava.as_ref().and_then(|(l, _)| l.name.clone()).unwrap_or_default();
    let folder_name = file_name(folder_of(&parts.given));
    let has_projector = tensors.map.keys().any(|name| name.starts_with("mm."));
    let (llava, file) = match llava {
        Some((llava, file)) => (Some(llava), file),
        // A projector that was trained on a bare base model, without any configuration of its own.
        None if has_projector => (Some(Llava::unsaid()), text_file),
        None => (None, text_file),
    };
    if let Some(llava) = &llava
        && options.base.is_some()
        && parts.base.is_none()
        && !llava.ported
    {
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
    let vocab = read_vocab(&parts, options)?;
    let (vocab, facts) = builder.text(&text, vocab, llava.as_ref(), options)?;
    let mut keys = metadata::text_keys(&text, vocab.pieces.len());
    keys.extend(vocab.keys());
    if let (Some(template), None) = (&vocab.chat_template, &llava) {
        keys.push(("tokenizer.chat_template".into(), Value::String(template.clone())));
    }
    let vision_keys = match (&llava, &vision) {
        (Some(llava), Some(vision)) => {
            builder.vision(file.top(), llava, vision, text.hidden, &format!("{folder_name} {name}"))?
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
            let mut text = Text::read(Json { path: &file.path, at: "text_config.", value })?;
            text.tied |= top.flag("tie_word_embeddings", false)?;
            Ok(text)
        }
        None => Text::read(top),
    }
}

/// The first configuration that is a LLaVA's.
fn find_llava(configs: &[JsonFile]) -> Result<Option<(Llava, &JsonFile)>> {
    for file in configs {
        if let Some(llava) = Llava::read(file.top())? {
            return Ok(Some((llava, file)));
        }
    }
    Ok(None)
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

/// Takes the tensors that a configuration asks for, in llama.cpp's order.
struct Builder {
    path: PathBuf,
    tensors: Tensors,
    notes: Vec<String>,
    out: Vec<SourceTensor>,
}

impl Builder {
    /// Takes tensor `name`, which must have `shape` (rows first).
    fn take(&mut self, name: &str, shape: &[usize], why: &str) -> Result<&mut SourceTensor> {
        let Some(tensor) = self.tensors.map.remove(name) else {
            return Err(Error::MissingTensor { path: self.path.clone(), tensor: name.into() });
        };
        if tensor.shape() != shape {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: name.into(),
                got: tensor.shape(),
                expected: shape.into(),
                why: why.into(),
            });
        }
        self.out.push(tensor);
        Ok(self.out.last_mut().expect("just pushed"))
    }

    /// The text model's tensors; the vocabulary is cut or filled to the rows that are kept.
    fn text(
        &mut self,
        text: &Text,
        mut vocab: Vocab,
        llava: Option<&Llava>,
        options: &SourceOptions,
    ) -> Result<(Vocab, ModelFacts)> {
        let why = "config.json";
        let Some(rows) = self.tensors.map.get(names::TOKEN_EMBD).map(SourceTensor::rows) else {
            return Err(Error::MissingTensor { path: self.path.clone(), tensor: names::TOKEN_EMBD.into() });
        };
        let kept = self.rows_to_keep(&vocab, rows, llava, options)?;
        vocab.resize(kept);
        self.take(names::TOKEN_EMBD, &[rows, text.hidden], why)?.dims[1] = kept;
        let (q, kv) = (text.heads * text.head_dim, text.kv_heads * text.head_dim);
        for block in 0..text.blocks {
            for part in names::BLK_PARTS {
                let shape: &[usize] = match part {
                    names::ATTN_NORM | names::FFN_NORM => &[text.hidden],
                    names::ATTN_Q => &[q, text.hidden],
                    names::ATTN_K | names::ATTN_V => &[kv, text.hidden],
                    names::ATTN_OUTPUT => &[text.hidden, q],
                    names::FFN_DOWN => &[text.hidden, text.ff],
                    _ => &[text.ff, text.hidden],
                };
                self.take_rotated(&names::blk(block, part), shape, text.head_dim)?;
                let bias = names::blk_bias(block, part);
                if self.tensors.map.contains_key(&bias) {
                    self.take_rotated(&bias, &shape[..1], text.head_dim)?;
                }
            }
        }
        self.take(names::OUTPUT_NORM, &[text.hidden], why)?;
        let tied = text.tied || !self.tensors.map.contains_key(names::OUTPUT);
        if tied {
            self.tensors.map.remove(names::OUTPUT);
        } else {
            self.take(names::OUTPUT, &[rows, text.hidden], "token_embd.weight")?.dims[1] = kept;
        }
        if let Some(factors) = text.rope_factors() {
            self.out.push(SourceTensor::from_values(names::ROPE_FREQS, factors));
        }
        if let Some(left) = self.tensors.map.keys().find(|name| name.starts_with("blk.")) {
            let problem = format!(
                "is {}, but the checkpoint holds a {left} too; the file belongs to another model",
                text.blocks
            );
            return Err(Error::Config {
                path: self.path.join("config.json"),
                key: "num_hidden_layers".into(),
                problem,
            });
        }
        let facts = ModelFacts { blocks: text.blocks, heads: text.heads, kv_heads: text.kv_heads, tied };
        Ok((vocab, facts))
    }

    /// Takes a tensor whose rows may have to be reordered for adjacent-pair rotation.
    fn take_rotated(&mut self, name: &str, shape: &[usize], head: usize) -> Result<()> {
        let rotates = self.tensors.ropes.get(name).is_some_and(|r| *r != Rope::None);
        let tensor = self.take(name, shape, "config.json")?;
        if !rotates {
            return Ok(());
        }
        tensor.order = Order::Interleaved { head };
        if tensor.dims.len() == 1 {
            // A bias is one row here, whose elements are reordered; it is small enough to be done at once.
            let column = SourceTensor { dims: vec![1, shape[0]], ..tensor.clone() };
            let mut values = vec![0.0; shape[0]];
            column.reader()?.read(0, &mut values)?;
            tensor.data = Data::Values(values);
            tensor.order = Order::Same;
        }
        Ok(())
    }

    /// How many of the `rows` of the embeddings are worth keeping. LLaVA's extra rows stand for `<image>`, which never
    /// reaches the embeddings, for padding, or make the number round; a sampler that met them would pick nonsense.
    fn rows_to_keep(
        &mut self,
        vocab: &Vocab,
        rows: usize,
        llava: Option<&Llava>,
        options: &SourceOptions,
    ) -> Result<usize> {
        if rows < vocab.base {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: names::TOKEN_EMBD.into(),
                got: vec![rows],
                expected: vec![vocab.base],
                why: format!("the tokenizer {}", vocab.path.display()),
            });
        }
        let Some(llava) = llava.filter(|_| !options.keep_original_vocab_rows) else { return Ok(rows) };
        let marks = ["<im_start>", "<im_end>", "<im_patch>"];
        let useless = |text: &str| match text {
            "<image>" | "<pad>" | "[PAD]" => true,
            mark if marks.contains(&mark) => !llava.im_start_end,
            _ => false,
        };
        let wanted = vocab.pieces.iter().take(rows).enumerate().skip(vocab.base);
        let last =
            wanted.filter(|(_, p)| p.kind != TokenType::Unused && !useless(&p.text)).map(|(id, _)| id).last();
        let kept = last.map_or(vocab.base, |id| id + 1);
        if kept < rows {
            self.notes.push(format!(
                "{} rows of the vocabulary that only pad or stand for <image> are dropped",
                rows - kept
            ));
        }
        Ok(kept)
    }

    /// The vision tower's and the projector's tensors, and the metadata.
    fn vision(
        &mut self,
        config: Json<'_>,
        llava: &Llava,
        vision: &Vision,
        hidden: usize,
        name: &str,
    ) -> Result<metadata::Keys> {
        let run = llava.blocks_to_run(config, vision.blocks)?;
        let (why, width) = ("the vision tower's config.json", vision.width);
        self.take(names::V_CLASS_EMBD, &[width], why)?;
        self.take(names::V_PATCH_EMBD, &[width, 3, vision.patch, vision.patch], why)?;
        self.take(names::V_POSITION_EMBD, &[1 + vision.patches(), width], why)?;
        self.take(names::V_PRE_LN, &[width], why)?;
        self.take(names::V_PRE_LN_BIAS, &[width], why)?;
        for block in 0..run {
            for part in names::V_BLK_PARTS {
                let shape: &[usize] = match part {
                    names::LN1 | names::LN2 => &[width],
                    names::FFN_UP => &[vision.ff, width],
                    names::FFN_DOWN => &[width, vision.ff],
                    _ => &[width, width],
                };
                self.take(&names::v_blk(block, part), shape, why)?;
                self.take(&names::v_blk_bias(block, part), &shape[..1], why)?;
            }
        }
        let projector = self.projector(config, llava, width, hidden)?;
        Ok(metadata::vision_keys(vision, run, llava, &projector, name))
    }

    /// The projector's tensors; its kind follows from them and must agree with what the configuration says.
    fn projector(&mut self, config: Json<'_>, llava: &Llava, width: usize, hidden: usize) -> Result<String> {
        let layers = (0..).take_while(|i| self.tensors.map.contains_key(&names::mm(2 * i))).count();
        let kind = match layers {
            0 => "identity".to_owned(),
            1 => "linear".to_owned(),
            n => format!("mlp{n}x_gelu"),
        };
        let said = llava.projector.as_deref().or((layers == 0).then_some("linear")).unwrap_or(&kind);
        if said != kind {
            if layers == 0 {
                return Err(Error::MissingTensor { path: self.path.clone(), tensor: names::mm(0) });
            }
            return Err(config
                .error("mm_projector_type", format!("is {said}, but the checkpoint's projector is {kind}")));
        }
        if layers == 0 && width != hidden {
            let problem =
                format!("identity, but the vision tower is {width} wide and the text model {hidden}");
            return Err(config.error("mm_projector_type", problem));
        }
        let mut columns = width;
        for layer in 0..layers {
            let why = if layer == 0 {
                "the vision tower's width and the text model's"
            } else {
                "the text model's width"
            };
            self.take(&names::mm(2 * layer), &[hidden, columns], why)?;
            self.take(&names::mm_bias(2 * layer), &[hidden], why)?;
            columns = hidden;
        }
        Ok(kind)
    }
}
