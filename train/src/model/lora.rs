//! LoRA (Hu et al., 2021) and QLoRA: small trainable matrices beside the frozen ones of the text model.
//!
//! y = W·x + (α/r)·B·A·dropout(x), A `[r, in]` kaiming-uniform (a = √5), B `[out, r]` zero at first, so a run begins at the base model. For
//! QLoRA W is held as [`Nf4`] and dequantized where a layer runs, forward and again in backward, so one layer's matrices stand at a time.
//! The projector is trained in full beside the adapters; table, head, norms and tower are frozen.

mod save;
mod stack;

use tch::{Device, Kind, Tensor};

use super::{
    Llava,
    llama::{self, Rope, Weights},
    nf4::Nf4,
};
use crate::{Error, Result, data::Batch, unit::Unit};

/// The linear maps of a layer that can have adapters.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// How the frozen matrices are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// In the kind of computing.
    Plain,
    /// In 4 bits, their scales in 8 where `double`.
    Nf4 {
        /// Quantizes the scales too.
        double: bool,
    },
}

/// Settings.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// r, the adapters' inner width.
    pub rank: i64,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Probability that an input of A is dropped in training.
    pub dropout: f64,
    /// Which maps have adapters: some of [`TARGETS`].
    pub targets: Vec<String>,
    /// How the frozen matrices are held.
    pub base: Base,
}

impl Default for LoraConfig {
    /// LLaVA 1.5's: r 128, α 256, dropout 0.05, all maps.
    fn default() -> Self {
        let targets = TARGETS.map(String::from).to_vec();
        Self { rank: 128, alpha: 256.0, dropout: 0.05, targets, base: Base::Plain }
    }
}

impl LoraConfig {
    /// α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// # Errors
    /// A value makes no sense; the message says which and what would.
    pub fn check(&self) -> Result<()> {
        let error = |what: String| Err(Error::Config(what));
        if self.rank < 1 || !(self.alpha.is_finite() && self.alpha > 0.0) {
            return error(format!("LoRA's rank {} and alpha {} must be above 0", self.rank, self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return error(format!("LoRA's dropout {} must be from 0 to below 1", self.dropout));
        }
        match self.targets.iter().find(|t| !TARGETS.contains(&t.as_str())) {
            Some(unknown) => {
                error(format!("LoRA knows no target {unknown:?}; known are {}", TARGETS.join(", ")))
            }
            None if self.targets.is_empty() => {
                error(String::from("LoRA without targets learns nothing; name some"))
            }
            None => Ok(()),
        }
    }

    /// Whether the map `name` (`self_attn.q_proj`) has an adapter.
    fn targets(&self, name: &str) -> bool {
        self.targets.iter().any(|t| name.rsplit_once('.').is_some_and(|(_, last)| last == t))
    }
}

/// A LLaVA with adapters.
#[derive(Debug)]
pub struct Lora {
    /// The base. Its layers' matrices are empty where they are [`Lora::packed`]; the norms stay.
    pub base: Llava,
    /// Settings.
    pub config: LoraConfig,
    /// Per layer `adapters.N`, with slots named as `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub adapters: Vec<Unit>,
    /// Per layer the matrices in 4 bits by their maps' names; empty with [`Base::Plain`].
    pub packed: Vec<Vec<(String, Nf4)>>,
}

/// One layer with its adapters, as [`llama::layer`] computes with it.
struct Layer<'a> {
    unit: &'a Unit,
    packed: &'a [(String, Nf4)],
    adapters: &'a Unit,
    config: &'a LoraConfig,
    train: bool,
}

impl Weights for Layer<'_> {
    fn norm(&self, name: &str) -> Tensor {
        self.unit.norm(name)
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        let y = match self.packed.iter().find(|(packed, _)| packed == name) {
            Some((_, packed)) => x.linear(&packed.dequantize(x.kind()), None::<&Tensor>),
            None => self.unit.linear(name, x),
        };
        let half = |which: &str| self.adapters.find(&format!("{name}.lora_{which}.weight"));
        let (Some(a), Some(b)) = (half("A"), half("B")) else { return y };
        let dropped = if self.train && self.config.dropout > 0.0 {
            x.dropout(self.config.dropout, true)
        } else {
            x.shallow_clone()
        };
        y + dropped.linear(a, None::<&Tensor>).linear(b, None::<&Tensor>) * self.config.scale()
    }
}

impl Lora {
    /// Adapters on `base`, whose frozen units go to `kind` and `device`. Adapters and projector are made trainable, divisible by `ranks`, in f32:
    /// an engine computes with them in its own kind, which must be `kind`, and keeps f32 masters. Draws by torch's generator (`tch::manual_seed`).
    ///
    /// # Errors
    /// The settings make no sense, or a matrix has no whole blocks for 4 bits.
    pub fn new(base: Llava, config: LoraConfig, (kind, device): (Kind, Device), ranks: i64) -> Result<Self> {
        config.check()?;
        let mut lora = Self { adapters: Vec::new(), packed: Vec::new(), base, config };
        for n in 0..lora.base.layers.len() {
            let unit = lora.adapter(n);
            lora.adapters.push(unit.trainable(Kind::Float, device, ranks));
            let empty = Unit::frozen("", Vec::new());
            let layer = std::mem::replace(&mut lora.base.layers[n], empty);
            let (layer, packed) = lora.pack(layer, kind, device)?;
            lora.base.layers[n] = layer;
            lora.packed.push(packed);
        }
        let taken = |unit: &mut Unit| std::mem::replace(unit, Unit::frozen("", Vec::new()));
        for unit in [&mut lora.base.clip, &mut lora.base.embed, &mut lora.base.head] {
            *unit = taken(unit).to(kind, device);
        }
        let projector = taken(&mut lora.base.projector);
        lora.base.projector = match projector.slots.is_empty() {
            true => projector,
            false => projector.trainable(Kind::Float, device, ranks),
        };
        Ok(lora)
    }

    /// Fresh adapters of layer `n`, in f32 on the CPU.
    fn adapter(&self, n: usize) -> Unit {
        let rank = self.config.rank;
        let mut tensors = Vec::new();
        for (name, [m, k]) in llama::linears(&self.base.config.text) {
            if !self.config.targets(name) {
                continue;
            }
            // kaiming-uniform with a = √5 over k inputs: U(±√(6 / ((1 + 5)·k))).
            let bound = 1.0 / (k as f64).sqrt();
            let a = Tensor::empty([rank, k], (Kind::Float, Device::Cpu)).uniform_(-bound, bound);
            let b = Tensor::zeros([m, rank], (Kind::Float, Device::Cpu));
            for (half, tensor) in [("A", a), ("B", b)] {
                tensors.push((format!("model.layers.{n}.{name}.lora_{half}.weight"), tensor));
            }
        }
        Unit::frozen(&format!("adapters.{n}"), tensors)
    }

    /// A layer's frozen unit, and with 4 bits its matrices apart.
    fn pack(&self, layer: Unit, kind: Kind, device: Device) -> Result<(Unit, Vec<(String, Nf4)>)> {
        let Base::Nf4 { double } = self.config.base else { return Ok((layer.to(kind, device), Vec::new())) };
        let mut packed = Vec::new();
        for (name, _) in llama::linears(&self.base.config.text) {
            let matrix = layer.get(&format!("{name}.weight"));
            let matrix = Nf4::new(matrix, double, device).ok_or_else(|| {
                let shape = matrix.size();
                Error::Config(format!(
                    "{}.{name}: {shape:?} does not divide into blocks of 64 for 4 bits; train it with plain LoRA",
                    layer.name
                ))
            })?;
            packed.push((name.to_owned(), matrix));
        }
        let pairs =
            layer.slots.into_iter().zip(layer.leaves).filter(|(slot, _)| slot.name.ends_with("norm.weight"));
        let norms = Unit::frozen(&layer.name, pairs.map(|(slot, leaf)| (slot.name, leaf)).collect());
        Ok((norms.to(kind, device), packed))
    }

    /// Layer `n` over `x [b, t, d]`; inputs of adapters are dropped where `train`.
    pub fn layer(&self, n: usize, rope: &Rope, x: &Tensor, train: bool) -> Tensor {
        let (unit, packed) = (&self.base.layers[n], self.packed[n].as_slice());
        let layer = Layer { unit, packed, adapters: &self.adapters[n], config: &self.config, train };
        llama::layer(&layer, &self.base.config.text, rope, x)
    }

    /// Logits `[b, t, vocab]`, nothing dropped.
    ///
    /// # Errors
    /// As [`Llava::features`].
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let text = &self.base.config.text;
        let x = self.base.embedded(batch)?;
        let rope = Rope::new(text, batch.t as i64, x.kind(), x.device());
        let x = (0..self.adapters.len()).fold(x, |x, n| self.layer(n, &rope, &x, false));
        Ok(llama::logits(&self.base.head, self.base.tied(), text, &x))
    }

    /// α/r · B·A, `[out, in]` f32, for the map `name` of layer `n`; `None` where it has no adapter.
    fn update(&self, n: usize, name: &str) -> Option<Tensor> {
        let half = |which: &str| self.adapters[n].find(&format!("{name}.lora_{which}.weight"));
        let (a, b) = (half("A")?, half("B")?);
        Some(b.to_kind(Kind::Float).matmul(&a.to_kind(Kind::Float)) * self.config.scale())
    }

    /// [`merge`](Self::merge) into the matrices of `layers`, the base's as they were before 4 bits: what 4 bits lost does not come back into the result.
    pub fn merge_into(mut self, layers: Vec<Unit>) -> Llava {
        for (held, layer) in self.base.layers.iter_mut().zip(layers) {
            let kind = held.norm("input_layernorm").kind();
            let device = layer.norm("input_layernorm").device();
            *held = layer.to(kind, device);
        }
        self.packed.iter_mut().for_each(Vec::clear);
        self.merge()
    }

    /// The adapters added to the base: W + α/r·B·A, summed in f32, in the kind of computing. What was in 4 bits is first dequantized.
    pub fn merge(mut self) -> Llava {
        let _guard = tch::no_grad_guard();
        for n in 0..self.adapters.len() {
            let kind = self.base.layers[n].norm("input_layernorm").kind();
            let mut tensors = Vec::new();
            for (slot, shape) in llama::layer_slots(&self.base.config.text, n as i64) {
                let name =
                    slot.strip_prefix(&format!("model.layers.{n}.")).and_then(|s| s.strip_suffix(".weight"));
                let name = name.unwrap_or(&slot);
                let packed = self.packed[n].iter().find(|(packed, _)| packed == name);
                let mut w = match packed {
                    Some((_, packed)) => packed.dequantize(Kind::Float),
                    None => self.base.layers[n].get(&format!("{name}.weight")).shallow_clone(),
                };
                if let Some(update) = self.update(n, name) {
                    w = w.to_kind(Kind::Float) + update.to_device(w.device());
                }
                tensors.push((slot, w.to_kind(kind).view(shape.as_slice())));
            }
            self.base.layers[n] = Unit::frozen(&format!("layers.{n}"), tensors);
        }
        self.base
    }
}
