//! Every setting of a training run, and where it came from: a preset, a TOML file or a flag.
//!
//! A setting has one name everywhere: the field here, the key in the TOML file, and, with dashes, the flag.
//! Layers are laid over each other as tables (preset, then file, then flags), so that each value keeps the name of the layer that
//! set it and a misspelt key is caught before anything is loaded.

pub mod estimate;
mod layers;
pub mod presets;

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use layers::{Layered, Source};
pub use presets::{Preset, Stage};

use crate::{Error, Result};

/// How a conversation becomes text, and which of its tokens are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Template {
    /// Picture and caption alone (stage 1 since v1).
    #[serde(rename = "plain")]
    Plain,
    /// `### Human: … ### Assistant: …` (first release).
    #[serde(rename = "v0")]
    V0,
    /// `USER: … ASSISTANT: …</s>` (Vicuna v1.1 and later).
    #[serde(rename = "v1")]
    V1,
    /// `[INST] … [/INST]`.
    #[serde(rename = "llama_2")]
    #[value(name = "llama_2")]
    Llama2,
}

impl Template {
    /// The runtime's name of it.
    pub fn format(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::V0 => "v0_lines",
            Self::V1 => "v1",
            Self::Llama2 => "llava_llama_2",
        }
    }
}

/// What happens to the sides of a picture that is not square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AspectRatio {
    /// The middle is cut out.
    Square,
    /// Bars in the mean colour make it square.
    Pad,
}

/// Where the picture stands in the first question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImagePosition {
    /// Before or after the question, by lot (the first paper's rule).
    Random,
    /// Always before it (the authors' code since v1).
    Front,
}

/// The layers between vision tower and language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum ProjectorType {
    /// One linear layer.
    #[serde(rename = "linear")]
    Linear,
    /// Linear, GELU, linear.
    #[serde(rename = "mlp2x_gelu")]
    #[value(name = "mlp2x_gelu")]
    Mlp2xGelu,
}

/// Which rows of the vision tower's layer are pictures to the language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum SelectFeature {
    /// The patches.
    #[serde(rename = "patch")]
    Patch,
    /// The class row and the patches.
    #[serde(rename = "cls_patch")]
    #[value(name = "cls_patch")]
    ClsPatch,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// The same to the end.
    Constant,
}

/// Numbers that weights and activations are computed in; master weights and moments are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// 16 bits, 8 of them exponent.
    Bf16,
    /// 32 bits.
    F32,
}

impl Kind {
    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Where it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// CUDA where there is one, else MPS, else the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU: the LOCAL_RANK-th.
    Cuda,
    /// A Mac's GPU.
    Mps,
}

/// Adapters of low rank beside frozen matrices (Hu et al., 2021): `W + alpha/r · B·A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank.
    pub r: u64,
    /// Scale times rank.
    pub alpha: f64,
    /// Share of the adapter's inputs that are dropped.
    pub dropout: f64,
    /// Last parts of the names of adapted matrices: `q_proj` …
    pub targets: Vec<String>,
    /// Bits of the frozen base: 16, or 4 (QLoRA).
    pub bits: u64,
}

/// Largest count of a setting: products of two such numbers do not overflow.
const MOST: u64 = 1 << 30;
/// Most threads that read pictures: more than any machine has use for, and fewer than any system refuses.
const WORKERS: u64 = 1024;
/// Largest rank of adapters: wider than any matrix that they stand beside.
const RANK: u64 = 1 << 16;

/// Every setting of a run of `align`, `tune` or `sqa`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is learned.
    pub stage: Stage,
    /// Folder of the language model, or of a LLaVA checkpoint.
    pub model: Option<PathBuf>,
    /// Folder of the CLIP checkpoint; `None`: it stands in `model`.
    pub vision_tower: Option<PathBuf>,
    /// Projector of stage 1 to start from (`mm_projector.safetensors`, `mm_projector.bin` or a folder); `None`: new, or the one in `model`.
    pub projector: Option<PathBuf>,
    /// LLaVA JSON.
    pub data: Option<PathBuf>,
    /// Folder that the rows' pictures are named from.
    pub image_folder: Option<PathBuf>,
    /// Folder for checkpoints and logs.
    pub out: Option<PathBuf>,
    /// Conversation format.
    pub template: Template,
    /// Pictures that are not square.
    pub image_aspect_ratio: AspectRatio,
    /// Picture before or after the question.
    pub image_position: ImagePosition,
    /// Shape of a new projector.
    pub projector_type: ProjectorType,
    /// Entry of CLIP's hidden states: -2 is the output of the last block but one.
    pub select_layer: i64,
    /// Rows of that entry.
    pub select_feature: SelectFeature,
    /// Times through the data.
    pub epochs: u64,
    /// Steps, in place of `epochs`.
    pub steps: Option<u64>,
    /// Samples of a step, over all ranks.
    pub batch: u64,
    /// Samples that a rank computes at once.
    pub device_batch: u64,
    /// Highest learning rate.
    pub lr: f64,
    /// The projector's, where it differs.
    pub projector_lr: Option<f64>,
    /// Share of the steps over which the rate rises from 0.
    pub warmup_ratio: f64,
    /// The rate after that.
    pub schedule: Schedule,
    /// Decoupled weight decay of matrices; norms and biases have none.
    pub weight_decay: f64,
    /// AdamW's decay of both moments.
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    pub eps: f64,
    /// Largest norm of the gradient; 0: not clipped.
    pub clip: f64,
    /// Positions of the longest sample, image slots counted.
    pub max_length: u64,
    /// Numbers it computes in.
    pub kind: Kind,
    /// Keep each layer's input only and compute the layer again in the backward pass.
    pub checkpointing: bool,
    /// What is sharded over the ranks: 2 optimizer state, gradients and master weights, 3 weights too. 0, as some published runs
    /// have it, runs as 2, which changes no number and needs less memory.
    pub zero: u64,
    /// Batches of like length, with and without picture apart.
    pub group_by_modality_length: bool,
    /// Adapters, in place of learning the language model whole.
    pub lora: Option<Lora>,
    /// Steps between checkpoints; 0: at the end only.
    pub save_every: u64,
    /// Checkpoints kept.
    pub keep: u64,
    /// Seed of order, new weights and dropout.
    pub seed: u64,
    /// Threads that read pictures.
    pub workers: u64,
    /// Where it computes.
    pub device: DeviceChoice,
}

impl Recipe {
    /// Micro-batches of a step on each of `ranks` ranks: `batch / (device_batch · ranks)`.
    ///
    /// # Errors
    /// That is no whole number; the message names the nearest that are.
    pub fn accumulation(&self, ranks: u64) -> Result<u64> {
        let at_once = self.device_batch.saturating_mul(ranks);
        if at_once == 0 || self.batch == 0 || !self.batch.is_multiple_of(at_once) {
            let below = self.batch / at_once.max(1) * at_once;
            return Err(Error::Config(format!(
                "batch {} cannot be shared out: {ranks} ranks take {} samples each at once, {at_once} together; \
                 take batch {} or {}, or another device_batch",
                self.batch,
                self.device_batch,
                if below == 0 { at_once } else { below },
                below.saturating_add(at_once)
            )));
        }
        Ok(self.batch / at_once)
    }

    /// Steps of the run over `rows` samples; the last batch of an epoch is filled up from its beginning.
    pub fn total_steps(&self, rows: u64) -> u64 {
        self.steps.unwrap_or_else(|| self.epochs * self.steps_per_epoch(rows))
    }

    /// `ceil(rows / batch)`.
    pub fn steps_per_epoch(&self, rows: u64) -> u64 {
        rows.div_ceil(self.batch.max(1))
    }

    /// Steps of the warm-up, `ceil(warmup_ratio · steps)`, as transformers has it.
    pub fn warmup_steps(&self, steps: u64) -> u64 {
        (self.warmup_ratio * steps as f64).ceil() as u64
    }

    /// Refuses values that no run can have.
    ///
    /// # Errors
    /// [`Error::Config`] with the setting, its value and what it may be.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, value: &dyn std::fmt::Display, may_be: &str| {
            Err(Error::Config(format!("{name} = {value}: must be {may_be}")))
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        for (name, value, most) in [
            ("batch", self.batch, MOST),
            ("device_batch", self.device_batch, MOST),
            ("max_length", self.max_length, MOST),
            ("epochs", self.epochs, MOST),
            ("keep", self.keep, MOST),
            ("workers", self.workers, WORKERS),
            ("steps", self.steps.unwrap_or(1), MOST),
        ] {
            if !(1..=most).contains(&value) {
                return wrong(name, &value, &format!("from 1 to {most}"));
            }
        }
        if !matches!(self.zero, 0 | 2 | 3) {
            return wrong("zero", &self.zero, "0, 2 or 3");
        }
        for (name, value) in
            [("lr", self.lr), ("projector_lr", self.projector_lr.unwrap_or(self.lr)), ("eps", self.eps)]
        {
            if !positive(value) {
                return wrong(name, &value, "more than 0");
            }
        }
        if !(0.0..=1.0).contains(&self.warmup_ratio) {
            return wrong("warmup_ratio", &self.warmup_ratio, "a share from 0 to 1");
        }
        if let Some(beta) = self.betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
            return wrong("betas", beta, "from 0 to less than 1 each");
        }
        for (name, value) in [("weight_decay", self.weight_decay), ("clip", self.clip)] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(name, &value, "0 or more");
            }
        }
        self.lora.as_ref().map_or(Ok(()), |lora| lora.check(self.stage))
    }
}

impl Lora {
    fn check(&self, stage: Stage) -> Result<()> {
        let problem = if stage == Stage::Align {
            "lora: align learns the projector alone, there is nothing to adapt; leave [lora] out".into()
        } else if !(1..=RANK).contains(&self.r) {
            format!("lora.r = {}: must be from 1 to {RANK}", self.r)
        } else if !(self.alpha.is_finite() && self.alpha > 0.0) {
            format!("lora.alpha = {}: must be more than 0", self.alpha)
        } else if !(0.0..1.0).contains(&self.dropout) {
            format!("lora.dropout = {}: must be from 0 to less than 1", self.dropout)
        } else if !matches!(self.bits, 4 | 16) {
            format!("lora.bits = {}: must be 16 or 4", self.bits)
        } else if let Some(name) = self.targets.iter().find(|t| !presets::LINEAR.contains(&t.as_str())) {
            format!(
                "lora.targets: {name} is no matrix of a LLaMA layer; they are {}",
                presets::LINEAR.join(", ")
            )
        } else if self.targets.is_empty() {
            format!("lora.targets is empty; it may hold {}", presets::LINEAR.join(", "))
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }
}

#[cfg(test)]
mod tests;
