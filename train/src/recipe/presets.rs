//! The published recipes: first release (`v0`) and LLaVA-1.5 (`v1.5`), 7B and 13B, each for its two stages and ScienceQA.
//!
//! Sources: (P1) arXiv 2304.08485; (P2) arXiv 2310.03744; (S) the authors' scripts (`pretrain.sh`, `finetune.sh`, `finetune_lora.sh`,
//! `finetune_sqa.sh`, `zero2.json`, `zero3.json`); (H) the first release's README; (D) defaults of transformers' Trainer, which the scripts leave
//! as they are. What no source tells (checkpoint intervals) is ours and marked so.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    AspectRatio, DeviceChoice, ImagePosition, Kind, Lora, ProjectorType, Recipe, Schedule, SelectFeature,
    Template,
};
use crate::model::lora;

/// The matrices of a LLaMA layer, which the authors' LoRA adapts: every linear layer but `lm_head` (S).
pub const LINEAR: &[&str] = &lora::TARGETS;

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Stage 1: the projector, on captions.
    Align,
    /// Stage 2: projector and language model, on instructions.
    Tune,
    /// Projector and language model, on ScienceQA.
    Sqa,
}

/// A published recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// First release, Vicuna-7B v0.
    #[value(name = "v0-7b")]
    V0_7b,
    /// First release, Vicuna-13B v0.
    #[value(name = "v0-13b")]
    V0_13b,
    /// LLaVA-1.5, Vicuna-7B v1.5.
    #[value(name = "v1.5-7b")]
    V15_7b,
    /// LLaVA-1.5, Vicuna-13B v1.5.
    #[value(name = "v1.5-13b")]
    V15_13b,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::V0_7b, Self::V0_13b, Self::V15_7b, Self::V15_13b];

    /// As written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::V0_7b => "v0-7b",
            Self::V0_13b => "v0-13b",
            Self::V15_7b => "v1.5-7b",
            Self::V15_13b => "v1.5-13b",
        }
    }

    /// Whether it is of the first release.
    pub fn is_v0(self) -> bool {
        matches!(self, Self::V0_7b | Self::V0_13b)
    }

    /// Whether the language model has 13 billion parameters.
    pub fn is_13b(self) -> bool {
        matches!(self, Self::V0_13b | Self::V15_13b)
    }

    /// The settings of `stage`. 7B and 13B have the same in both papers.
    pub fn recipe(self, stage: Stage) -> Recipe {
        let mut recipe = common(stage);
        if self.is_v0() {
            v0(&mut recipe)
        } else {
            v15(&mut recipe)
        }
        recipe
    }

    /// The settings of `stage` with the authors' LoRA.
    ///
    /// v1.5 [S finetune_lora.sh]: r 128, alpha 256, rate 2e-4, the projector's 2e-5. Before it: the code's defaults r 64, alpha 16 with the
    /// rate of full tuning. Dropout 0.05 in both.
    pub fn lora_recipe(self, stage: Stage) -> Recipe {
        let mut recipe = self.recipe(stage);
        let (r, alpha) = if self.is_v0() { (64, 16.0) } else { (128, 256.0) };
        let targets = LINEAR.iter().map(|name| (*name).to_owned()).collect();
        recipe.lora = Some(Lora { r, alpha, dropout: 0.05, targets, bits: 16 });
        if !self.is_v0() && stage != Stage::Align {
            recipe.lr = 2e-4;
            recipe.projector_lr = Some(2e-5);
        }
        recipe
    }
}

/// What every published run shares [P1 4, P2 appendix, S].
fn common(stage: Stage) -> Recipe {
    Recipe {
        stage,
        model: None,
        vision_tower: None,
        projector: None,
        data: None,
        image_folder: None,
        out: None,
        template: Template::V1,
        image_aspect_ratio: AspectRatio::Square,
        image_position: ImagePosition::Front,
        projector_type: ProjectorType::Linear,
        // The output of the last block but one, without the class row [P1 4.1 "before the last Transformer layer", S].
        select_layer: -2,
        select_feature: SelectFeature::Patch,
        epochs: 1,
        steps: None,
        batch: 128,
        device_batch: 16,
        lr: 2e-5,
        projector_lr: None,
        warmup_ratio: 0.03,
        schedule: Schedule::Cosine,
        weight_decay: 0.0,
        betas: [0.9, 0.999],
        eps: 1e-8,
        clip: 1.0,
        max_length: 2048,
        kind: Kind::Bf16,
        checkpointing: true,
        zero: 2,
        group_by_modality_length: false,
        lora: None,
        // Ours: the scripts save only near the end of a run, and a kill costs hours.
        save_every: 500,
        keep: 2,
        // (D)
        seed: 42,
        // [S --dataloader_num_workers 4]
        workers: 4,
        device: DeviceChoice::Auto,
    }
}

/// First release [P1, H]: 224 px, linear projector, `###` conversations, question and picture in random order, FSDP in stage 2.
fn v0(recipe: &mut Recipe) {
    recipe.template = Template::V0;
    recipe.image_position = ImagePosition::Random;
    // Neither run uses DeepSpeed, so the Trainer clips at its default (D).
    recipe.clip = 1.0;
    match recipe.stage {
        // CC-595K, 128 = 8 x 16, one epoch, 2e-3; no sharding: only the projector has optimizer state.
        Stage::Align => {
            recipe.lr = 2e-3;
            recipe.zero = 0;
        }
        // Instruct-158K, 32 = 8 x 4, three epochs, 2e-5; FSDP full_shard.
        Stage::Tune => {
            recipe.epochs = 3;
            recipe.batch = 32;
            recipe.device_batch = 4;
            recipe.zero = 3;
        }
        // ScienceQA QCM-LEPA, 12 epochs, batch 32, FSDP.
        Stage::Sqa => {
            recipe.epochs = 12;
            recipe.batch = 32;
            recipe.device_batch = 4;
            recipe.zero = 3;
        }
    }
}

/// LLaVA-1.5 [P2, S]: 336 px, two-layer projector, `USER: ASSISTANT:` conversations, DeepSpeed.
fn v15(recipe: &mut Recipe) {
    recipe.projector_type = ProjectorType::Mlp2xGelu;
    // zero2.json and zero3.json have no gradient_clipping, so DeepSpeed does not clip, whatever the Trainer's default is (S).
    recipe.clip = 0.0;
    match recipe.stage {
        // LCS-558K, 256 = 8 x 32, 1e-3, ZeRO-2; pretrain.sh passes no image_aspect_ratio, so pictures are cropped.
        Stage::Align => {
            recipe.template = Template::Plain;
            recipe.batch = 256;
            recipe.device_batch = 32;
            recipe.lr = 1e-3;
        }
        // mix-665K, 128 = 8 x 16, 2e-5, ZeRO-3, padded, grouped.
        Stage::Tune => {
            recipe.image_aspect_ratio = AspectRatio::Pad;
            recipe.zero = 3;
            recipe.group_by_modality_length = true;
        }
        // finetune_sqa.sh (for v1.3): QCM-LEA, 12 epochs, 128 = 8 x 16, 2e-5, ZeRO-2. None is published for v1.5; pictures are padded as in its tuning.
        Stage::Sqa => {
            recipe.image_aspect_ratio = AspectRatio::Pad;
            recipe.epochs = 12;
        }
    }
}
