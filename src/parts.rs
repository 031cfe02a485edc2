//! The folders that make a checkpoint whole, as `quantize` and `verify` both take them.

use std::path::PathBuf;

use clap::Args;
use pumice_quantize::SourceOptions;

/// What lies beside a checkpoint.
#[derive(Args, Clone)]
pub struct Parts {
    /// The folder of the CLIP model, where the checkpoint does not hold its own.
    #[arg(long, value_name = "FOLDER")]
    vision_tower: Option<PathBuf>,
    /// A trained projector (`mm_projector.bin`), to go with a base language model.
    #[arg(long, value_name = "FILE")]
    mm_projector: Option<PathBuf>,
    /// The base model of a LoRA folder, or of a projector.
    #[arg(long, value_name = "FOLDER")]
    base: Option<PathBuf>,
    /// A folder with the tokenizer, where the checkpoint has none.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// The conversation template, where the checkpoint's name tells the wrong one.
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// How pictures become square: pad (LLaVA-1.5) or square (crop; v0, v1), where the checkpoint says it wrongly.
    #[arg(long, value_name = "HOW")]
    image_aspect_ratio: Option<String>,
}

impl Parts {
    /// As the quantizer takes them.
    pub fn options(&self) -> SourceOptions {
        SourceOptions {
            vision_tower: self.vision_tower.clone(),
            base: self.base.clone(),
            projector: self.mm_projector.clone(),
            tokenizer: self.tokenizer.clone(),
            template: self.template.clone(),
            image_aspect_ratio: self.image_aspect_ratio.clone(),
            ..SourceOptions::default()
        }
    }
}
