//! The settings as flags: each field of a recipe once more, all of them optional, under headings.

use std::path::PathBuf;

use clap::Args;
use pumice_train::{
    Error, Result,
    recipe::{
        AspectRatio, DeviceChoice, ImagePosition, Kind, ProjectorType, Schedule, SelectFeature, Template,
    },
};
use serde::Serialize;
use toml::Table;

/// Flags that set a recipe's fields of the same names.
#[derive(Args, Serialize)]
pub struct Flags {
    /// Folder of the language model (LLaMA, Vicuna), or of a LLaVA checkpoint.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    /// Folder of the CLIP checkpoint; left out, the one in --model.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    vision_tower: Option<PathBuf>,
    /// Projector of stage 1 to start from: mm_projector.safetensors, mm_projector.bin, or a folder.
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    projector: Option<PathBuf>,
    /// Shape of a new projector.
    #[arg(long, value_name = "TYPE", help_heading = "Model")]
    projector_type: Option<ProjectorType>,
    /// Hidden state of CLIP that is the feature; -2 is the output of the last block but one.
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Model")]
    select_layer: Option<i64>,
    /// Its patches, or class row and patches.
    #[arg(long, value_name = "ROWS", help_heading = "Model")]
    select_feature: Option<SelectFeature>,

    /// LLaVA JSON (an array of rows, or JSONL).
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Folder that the rows' pictures are named from.
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    image_folder: Option<PathBuf>,
    /// Conversation format.
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    template: Option<Template>,
    /// Pictures that are not square: cut out the middle, or pad.
    #[arg(long, value_name = "HOW", help_heading = "Data")]
    image_aspect_ratio: Option<AspectRatio>,
    /// Picture before or after the first question by lot (first paper), or always before it.
    #[arg(long, value_name = "WHERE", help_heading = "Data")]
    image_position: Option<ImagePosition>,
    /// Positions of the longest sample, image slots counted; longer ones are cut.
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_length: Option<u64>,
    /// Batches of samples of like length, with and without picture apart.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    group_by_modality_length: Option<bool>,
    /// Threads that read pictures.
    #[arg(long, value_name = "N", help_heading = "Data")]
    workers: Option<u64>,

    /// Times through the data.
    #[arg(long, value_name = "N", help_heading = "Learning")]
    epochs: Option<u64>,
    /// Steps, in place of --epochs.
    #[arg(long, value_name = "N", help_heading = "Learning")]
    steps: Option<u64>,
    /// Samples of a step, over all ranks.
    #[arg(long, value_name = "N", help_heading = "Learning")]
    batch: Option<u64>,
    /// Samples that a rank computes at once; accumulation follows from it.
    #[arg(long, value_name = "N", help_heading = "Learning")]
    device_batch: Option<u64>,
    /// Highest learning rate.
    #[arg(long, value_name = "X", help_heading = "Learning")]
    lr: Option<f64>,
    /// The projector's, where it differs.
    #[arg(long, value_name = "X", help_heading = "Learning")]
    projector_lr: Option<f64>,
    /// Share of the steps over which the rate rises from 0.
    #[arg(long, value_name = "X", help_heading = "Learning")]
    warmup_ratio: Option<f64>,
    /// The rate after the warm-up.
    #[arg(long, value_name = "SHAPE", help_heading = "Learning")]
    schedule: Option<Schedule>,
    /// Weight decay of matrices.
    #[arg(long, value_name = "X", help_heading = "Learning")]
    weight_decay: Option<f64>,
    /// AdamW's decay of its two moments.
    #[arg(long, num_args = 2, value_names = ["B1", "B2"], help_heading = "Learning")]
    betas: Option<Vec<f64>>,
    /// AdamW's epsilon.
    #[arg(long, value_name = "X", help_heading = "Learning")]
    eps: Option<f64>,
    /// Largest norm of the gradient; 0 clips nothing.
    #[arg(long, value_name = "X", help_heading = "Learning")]
    clip: Option<f64>,
    /// Seed of order, new weights and dropout.
    #[arg(long, value_name = "N", help_heading = "Learning")]
    seed: Option<u64>,

    /// Learn adapters of low rank in place of the whole language model (LoRA), with the published values; the flags below change them.
    #[arg(long, help_heading = "Adapters")]
    #[serde(skip)]
    lora: bool,
    /// Rank.
    #[arg(long, value_name = "N", help_heading = "Adapters")]
    #[serde(skip)]
    lora_r: Option<u64>,
    /// Scale times rank.
    #[arg(long, value_name = "X", help_heading = "Adapters")]
    #[serde(skip)]
    lora_alpha: Option<f64>,
    /// Share of an adapter's inputs that are dropped.
    #[arg(long, value_name = "X", help_heading = "Adapters")]
    #[serde(skip)]
    lora_dropout: Option<f64>,
    /// Adapted matrices: q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Adapters")]
    #[serde(skip)]
    lora_targets: Option<Vec<String>>,
    /// Bits of the frozen base: 16, or 4 (QLoRA).
    #[arg(long, value_name = "N", help_heading = "Adapters")]
    #[serde(skip)]
    lora_bits: Option<u64>,

    /// Where it computes: CUDA where there is one, else MPS, else the CPU, unless told.
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    device: Option<DeviceChoice>,
    /// Numbers it computes in.
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    kind: Option<Kind>,
    /// Keep each layer's input only, and compute the layer again in the backward pass.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Machine")]
    checkpointing: Option<bool>,
    /// What is sharded over the ranks: 2 optimizer state and gradients, 3 weights too (0 runs as 2: the same numbers in less memory).
    #[arg(long, value_name = "N", help_heading = "Machine")]
    zero: Option<u64>,

    /// Folder for checkpoints and logs; a run that was stopped goes on from the last checkpoint there.
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Steps between checkpoints; 0: at the end only.
    #[arg(long, value_name = "N", help_heading = "Output")]
    save_every: Option<u64>,
    /// Checkpoints kept.
    #[arg(long, value_name = "N", help_heading = "Output")]
    keep: Option<u64>,
}

impl Flags {
    /// The flags that were given, as the topmost layer of settings.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn table(&self) -> Result<Table> {
        let mut table = Table::try_from(self).map_err(|e| Error::Config(format!("flags: {e}")))?;
        let mut lora = Table::new();
        let mut put = |key: &str, value: Option<toml::Value>| {
            if let Some(value) = value {
                lora.insert(key.into(), value);
            }
        };
        put("r", self.lora_r.map(|n| (n as i64).into()));
        put("alpha", self.lora_alpha.map(Into::into));
        put("dropout", self.lora_dropout.map(Into::into));
        put("targets", self.lora_targets.clone().map(Into::into));
        put("bits", self.lora_bits.map(|n| (n as i64).into()));
        if self.lora || !lora.is_empty() {
            table.insert("lora".into(), lora.into());
        }
        Ok(table)
    }
}
