//! Checkpoints: a model from Hugging Face's folders, mapped rather than read, and back into them.
//!
//! Read are llava-hf's layout, the authors' (tower inside or apart), and a LLaMA's or Vicuna's folder with a CLIP's and a projector beside it,
//! which is how a training run begins. Every tensor must have the shape that follows from the configurations; a message names both.

mod config;
mod names;
mod save;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use pumice_models::{
    Error as Bad,
    checkpoint::{self, Folder},
};
use tch::{Device, Kind};

pub(crate) use save::{Place, authors_config, copy_tokenizer, sync, tensors_of, write_json};
pub use save::{
    Saved, save_authors, save_clip, save_llama, save_llava_hf, save_projector, write_tensors, write_torch,
};

use self::names::Name;
use super::{
    ClipConfig, Llava, LlavaConfig, Projector, VisionConfig, clip,
    llama::{embed_slots, head_slots, layer_slots},
};
use crate::{Result, map, unit::Unit};

/// What to know about a checkpoint beyond its path.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// The tower's folder, where the checkpoint does not hold it. Beside a LLaVA's own tower it replaces it.
    pub vision_tower: Option<PathBuf>,
    /// A projector's file or folder; it replaces the checkpoint's.
    pub projector: Option<PathBuf>,
    /// The kind of a fresh projector, where there is a tower and no projector; `None`: a missing projector is an error.
    pub fresh: Option<Projector>,
    /// Whether pictures are padded to a square; `None`: as the checkpoint says.
    pub pad: Option<bool>,
}

/// A checkpoint's tensors by the names that units know.
type Tensors = HashMap<String, checkpoint::Tensor>;

/// Opens the model at `path`. Its units are frozen and lie on the CPU, over the mapped files, each tensor in the kind that it has there.
///
/// # Errors
/// Something is missing, damaged, of another architecture, or does not fit together; the message says what and what to do.
pub fn load(path: &Path, options: &Load) -> Result<Llava> {
    let folder = Folder::open(path)?;
    let value = folder.config()?;
    if value["model_type"].as_str().is_some_and(|kind| kind.starts_with("clip")) {
        let what = "this is a CLIP: --model wants the text model (or a LLaVA), --vision-tower the CLIP";
        return Err(Bad::key(&path.join("config.json"), "model_type", what).into());
    }
    let mut tensors = Tensors::new();
    take(&folder, names::of, &mut tensors)?;
    let bundled = tensors.keys().any(|name| name.starts_with("vision_model."));
    let (mut config, tower) = config::read(path, &value, options, bundled)?;
    if let Some(tower) = tower.filter(|_| options.vision_tower.is_some() || !bundled) {
        tensors.retain(|name, _| !name.starts_with("vision_model."));
        take(&Folder::open(&tower)?, names::of_clip, &mut tensors)?;
    }
    if let Some(projector) = &options.projector {
        tensors.retain(|name, _| !name.starts_with("model.mm_projector."));
        let projector = Folder::open(projector)?;
        take(
            &projector,
            |key| if key.contains("projector") { names::of(key) } else { Name::Ignored },
            &mut tensors,
        )?;
    }
    // A table may have more rows than the config says, and a file without lm_head is tied, whatever the config says.
    if let Some(table) = tensors.get("model.embed_tokens.weight") {
        config.text.vocab = table.rows() as i64;
    }
    config.text.tied |= !tensors.contains_key("lm_head.weight");
    build(path, config, tensors, options)
}

/// Opens a tower's folder: its config and its unit, whole.
///
/// # Errors
/// As [`load`].
pub fn load_clip(path: &Path) -> Result<(ClipConfig, Unit)> {
    let folder = Folder::open(path)?;
    let cfg = config::clip(path, None)?;
    let mut tensors = Tensors::new();
    take(&folder, names::of_clip, &mut tensors)?;
    let slots = clip::slots(&cfg, cfg.layers, tensors.contains_key("vision_model.post_layernorm.weight"));
    let unit = Taker { path, tensors }.unit("clip", slots, "the tower's config.json")?;
    Ok((cfg, unit))
}

/// Adds the tensors of `folder`, named by `name`.
fn take(folder: &Folder, name: fn(&str) -> Name, tensors: &mut Tensors) -> Result<()> {
    for tensor in folder.tensors() {
        match name(&tensor.name) {
            Name::Of(name) => drop(tensors.insert(name, tensor.clone())),
            Name::Ignored => {}
            Name::Unknown => {
                let what = "is no part of LLaMA, CLIP or a LLaVA 1 or 1.5 projector; the checkpoint is of another architecture";
                return Err(Bad::tensor(&tensor.file, &tensor.name, what).into());
            }
        }
    }
    Ok(())
}

/// Makes units of the tensors that the config asks for.
fn build(path: &Path, mut config: LlavaConfig, tensors: Tensors, options: &Load) -> Result<Llava> {
    let whole = tensors.contains_key("vision_model.post_layernorm.weight");
    let fresh = !tensors.keys().any(|name| name.starts_with("model.mm_projector."));
    if let Some(vision) = &mut config.vision {
        vision.projector = projector_kind(path, vision, &tensors, options, fresh)?;
        if fresh && vision.projector == Projector::Identity && vision.clip.hidden != config.text.hidden {
            let (c, d) = (vision.clip.hidden, config.text.hidden);
            let what = format!(
                "is identity, but the tower is {c} wide and the text model {d}; take linear or mlp2x_gelu"
            );
            return Err(Bad::key(path, "mm_projector_type", what).into());
        }
    }
    let mut taker = Taker { path, tensors };
    let (mut tower, mut projector) =
        (Unit::frozen("clip", Vec::new()), Unit::frozen("projector", Vec::new()));
    let text = &config.text;
    if let Some(vision) = &config.vision {
        // The blocks past the feature's may be missing: some checkpoints leave out what LLaVA never runs.
        let all = taker.blocks().max(vision.blocks().unwrap_or(0)).min(vision.clip.layers);
        tower = taker.unit("clip", clip::slots(&vision.clip, all, whole), "the tower's config.json")?;
        projector = if fresh {
            vision.projector.init(vision.clip.hidden, text.hidden, Kind::Float, Device::Cpu)
        } else {
            taker.projector(vision, text.hidden)?
        };
    }
    let why = "config.json";
    let layer = |n: i64| taker.unit(&format!("layers.{n}"), layer_slots(text, n), why);
    let layers = (0..text.layers).map(layer).collect::<Result<_>>()?;
    let embed = taker.unit("embed", embed_slots(text), why)?;
    let head = taker.unit("head", head_slots(text), why)?;
    if let Some(left) = taker.tensors.keys().find(|name| name.starts_with("model.layers.")) {
        let what = format!(
            "is {}, but the checkpoint holds {left} too; the file belongs to another model",
            text.layers
        );
        return Err(Bad::key(&path.join(why), "num_hidden_layers", what).into());
    }
    Ok(Llava { clip: tower, projector, embed, layers, head, config })
}

/// The projector's kind: as its tensors tell, or as asked where there are none.
fn projector_kind(
    path: &Path,
    vision: &VisionConfig,
    tensors: &Tensors,
    options: &Load,
    fresh: bool,
) -> Result<Projector> {
    if fresh {
        let missing =
            "missing; give a projector's file, or say which kind to begin with (linear, mlp2x_gelu)";
        let said = options.fresh.or((vision.projector == Projector::Identity).then_some(Projector::Identity));
        return said.ok_or_else(|| Bad::tensor(path, "model.mm_projector", missing).into());
    }
    let has = |name: &str| tensors.contains_key(&format!("model.mm_projector.{name}"));
    let layers = (0..).take_while(|i| has(&format!("{}.weight", 2 * i))).count() as i64;
    Ok(if has("weight") { Projector::Linear } else { Projector::Mlp(layers) })
}

/// Takes the tensors that a configuration asks for out of the heap.
struct Taker<'a> {
    /// The checkpoint, for messages.
    path: &'a Path,
    tensors: Tensors,
}

impl Taker<'_> {
    /// Blocks of the tower that are there.
    fn blocks(&self) -> i64 {
        let name = |n| format!("vision_model.encoder.layers.{n}.mlp.fc2.weight");
        (0..).take_while(|n| self.tensors.contains_key(&name(*n))).count() as i64
    }

    /// A frozen unit of tensors that must have these names and shapes; `why` says where the shapes come from.
    fn unit(&mut self, unit: &str, slots: Vec<(String, Vec<i64>)>, why: &str) -> Result<Unit> {
        let mut tensors = Vec::with_capacity(slots.len());
        for (name, shape) in slots {
            let Some(found) = self.tensors.remove(&name) else {
                let what = "missing; the checkpoint is incomplete or its config.json is another model's";
                return Err(Bad::tensor(self.path, &name, what).into());
            };
            if found.shape.iter().map(|&n| n as i64).ne(shape.iter().copied()) {
                let what = format!(
                    "has shape {:?}, but {why} asks for {shape:?}; the two belong to different models",
                    found.shape
                );
                return Err(Bad::tensor(&found.file, &found.name, what).into());
            }
            tensors.push((name, map::tensor(&found)?));
        }
        Ok(Unit::frozen(unit, tensors))
    }

    /// The projector between the tower and a text model of width `d`.
    fn projector(&mut self, vision: &VisionConfig, d: i64) -> Result<Unit> {
        let c = vision.clip.hidden;
        let layers = vision.projector.layers(c, d);
        let slots = layers.into_iter().flat_map(|(name, [m, k])| {
            [(format!("{name}.weight"), vec![m, k]), (format!("{name}.bias"), vec![m])]
        });
        let why = format!("a tower of width {c} with a text model of width {d}");
        self.unit("projector", slots.collect(), &why)
    }
}
