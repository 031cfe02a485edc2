//! LLaVA whole: tower, projector and text model as units, and the splice that puts a picture's rows into the text.
//!
//! The forward pass here is the plain one, by autograd over everything. A training step calls the same pieces one by one.

use tch::{Device, Kind, Tensor};

use super::{
    clip,
    config::{LlavaConfig, VisionConfig},
    llama::{self, Rope, Targets},
};
use crate::{Error, Result, data::Batch, unit::Unit};

/// Rows of logits that stand at once: `[1024, 32000]` in f32 are 131 MB, enough to keep any device busy.
pub const CHUNK: i64 = 1024;

/// A LLaVA, or without vision a text model alone (then `clip` and `projector` are empty units).
#[derive(Debug)]
pub struct Llava {
    /// Sizes and choices.
    pub config: LlavaConfig,
    /// The tower, whole.
    pub clip: Unit,
    /// The projector.
    pub projector: Unit,
    /// The table of token embeddings.
    pub embed: Unit,
    /// The layers, `layers.0` first.
    pub layers: Vec<Unit>,
    /// Last norm and, untied, the matrix that makes logits.
    pub head: Unit,
}

impl Llava {
    /// A model of `config` with fresh parameters, drawn by torch's generator (`tch::manual_seed`).
    pub fn init(config: LlavaConfig, kind: Kind, device: Device) -> Self {
        let text = &config.text;
        let none = |name: &str| Unit::frozen(name, Vec::new());
        let (clip, projector) = match &config.vision {
            None => (none("clip"), none("projector")),
            Some(v) => (
                clip::init(&v.clip, kind, device),
                v.projector.init(v.clip.hidden, text.hidden, kind, device),
            ),
        };
        let layer = |n| llama::init(&format!("layers.{n}"), llama::layer_slots(text, n), kind, device);
        Self {
            clip,
            projector,
            embed: llama::init("embed", llama::embed_slots(text), kind, device),
            layers: (0..text.layers).map(layer).collect(),
            head: llama::init("head", llama::head_slots(text), kind, device),
            config,
        }
    }

    /// All units, the tower first, in the order in which a forward pass meets them.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        let (first, last) = ([&self.clip, &self.projector, &self.embed], [&self.head]);
        first.into_iter().chain(&self.layers).chain(last)
    }

    /// The same, to be changed.
    pub fn units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        let first = [&mut self.clip, &mut self.projector, &mut self.embed];
        first.into_iter().chain(&mut self.layers).chain([&mut self.head])
    }

    /// Vision's config.
    ///
    /// # Errors
    /// The model is a text model alone.
    pub fn vision(&self) -> Result<&VisionConfig> {
        let none = "the model has no vision tower: give --vision-tower, or a LLaVA as the model";
        self.config.vision.as_ref().ok_or_else(|| Error::Config(none.into()))
    }

    /// The table `[vocab, d]` where the head is tied to it.
    pub fn tied(&self) -> Option<&Tensor> {
        self.config.text.tied.then(|| self.embed.get("embed_tokens.weight"))
    }

    /// Features `[n, p, c]` of the batch's pictures, without grad, in the tower's kind; `None` where it has none.
    ///
    /// # Errors
    /// The model has no tower, one for pictures of another size, or one that does not reach the feature layer.
    pub fn features(&self, batch: &Batch) -> Result<Option<Tensor>> {
        if batch.places.is_empty() {
            return Ok(None);
        }
        let vision = self.vision()?;
        if batch.size as i64 != vision.clip.image {
            return Err(Error::Config(format!(
                "pictures are of {} pixels, the tower takes {}; prepare them for this tower",
                batch.size, vision.clip.image
            )));
        }
        let s = batch.size as i64;
        let weight = self.clip.get("patch_embedding.weight");
        let images = Tensor::from_slice(&batch.images).view([batch.places.len() as i64, 3, s, s]);
        let images = images.to_device(weight.device()).to_kind(weight.kind());
        let blocks = self.blocks(vision)?;
        Ok(Some(tch::no_grad(|| {
            clip::features(&self.clip, &vision.clip, &images, blocks, vision.keep_class)
        })))
    }

    /// Blocks of the tower that run before the feature is taken; all of them must be there.
    fn blocks(&self, vision: &VisionConfig) -> Result<i64> {
        let held = |n: &i64| self.clip.find(&format!("encoder.layers.{}.mlp.fc2.weight", n - 1)).is_some();
        vision.blocks().filter(|n| *n == 0 || held(n)).ok_or_else(|| {
            let (layer, n) = (vision.select_layer, vision.clip.layers);
            Error::Config(format!(
                "the feature layer {layer} is not among the blocks that are there of the tower's {n}; LLaVA's is -2"
            ))
        })
    }

    /// Features `[n, p, c]` to rows `[n, p, d]` of the text model.
    ///
    /// # Errors
    /// The model has no projector.
    pub fn project(&self, features: &Tensor) -> Result<Tensor> {
        Ok(self.vision()?.projector.forward(&self.projector, features))
    }

    /// The first layer's input `[b, t, d]` for a batch: embedded ids, the pictures' rows in their slots.
    ///
    /// # Errors
    /// As [`Llava::features`], or a picture does not fit in its sample.
    pub fn embedded(&self, batch: &Batch) -> Result<Tensor> {
        let table = self.embed.get("embed_tokens.weight");
        let mut x = llama::embed(&self.embed, &ids(batch, table.device()));
        if let Some(features) = self.features(batch)? {
            let rows = self.project(&features.to_kind(x.kind()))?;
            x = splice(&x, &rows, &batch.places)?;
        }
        Ok(x)
    }

    /// The last layer's output `[b, t, d]` for a batch.
    fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let x = self.embedded(batch)?;
        let text = &self.config.text;
        let rope = Rope::new(text, batch.t as i64, x.kind(), x.device());
        Ok(self.layers.iter().fold(x, |x, unit| llama::layer(unit, text, &rope, &x)))
    }

    /// Logits `[b, t, vocab]` of all positions, in the model's kind.
    ///
    /// # Errors
    /// As [`Llava::features`].
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let x = self.hidden(batch)?;
        Ok(llama::logits(&self.head, self.tied(), &self.config.text, &x))
    }

    /// The mean loss over the labelled positions (scalar, f32), differentiable by every leaf.
    ///
    /// # Errors
    /// As [`Llava::features`], or nothing is labelled.
    pub fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let x = self.hidden(batch)?;
        let targets = Targets::new(batch, x.device())?;
        Ok(llama::head_loss(&self.head, self.tied(), &self.config.text, &x, &targets, CHUNK))
    }
}

/// The batch's ids `[b, t]`.
pub fn ids(batch: &Batch, device: Device) -> Tensor {
    Tensor::from_slice(&batch.ids).view([batch.b as i64, batch.t as i64]).to_device(device)
}

/// `x [b, t, d]` with each picture's rows `[n, p, d]` written at its place (sample, first slot).
///
/// # Errors
/// A picture's rows would leave its sample: the data were made for another number of rows per picture.
pub fn splice(x: &Tensor, rows: &Tensor, places: &[(usize, usize)]) -> Result<Tensor> {
    let (size, count) = (x.size(), rows.size());
    let (t, d, p) = (size[1], size[2], count[1]);
    let mut slots = Vec::with_capacity(places.len() * p as usize);
    for &(row, first) in places {
        if first as i64 + p > t || row as i64 >= size[0] {
            return Err(Error::Data(format!(
                "a picture's {p} rows at slot {first} of sample {row} do not fit into [{}, {t}]; count {p} slots per picture",
                size[0]
            )));
        }
        slots.extend((0..p).map(|i| row as i64 * t + first as i64 + i));
    }
    let slots = Tensor::from_slice(&slots).to_device(x.device());
    Ok(x.reshape([-1, d]).index_copy(0, &slots, &rows.reshape([-1, d])).view_as(x))
}
