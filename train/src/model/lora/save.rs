//! Saves adapters in PEFT's layout, with what else was trained beside them as the authors of LLaVA do.
//!
//! `adapter_config.json` and `adapter_model.safetensors` are PEFT's; `non_lora_trainables.bin`, a PyTorch file, holds the projector;
//! `config.json` says which tower and projector belong to it. `pumice quantize` takes such a folder with `--base`.

use std::path::Path;

use serde_json::{Value, json};

use super::Lora;
use crate::{
    Error, Result,
    model::checkpoint::{
        Place, Saved, authors_config, copy_tokenizer, tensors_of, write_json, write_tensors, write_torch,
    },
};

/// What PEFT and LLaVA's training put before the names.
const PREFIX: &str = "base_model.model.";

impl Lora {
    /// Saves the adapters to `folder`; `base` names the base model for those who load them.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn save(&self, folder: &Path, base: &str, saved: &Saved) -> Result<()> {
        let place = Place::new(folder)?;
        write_json(&place.path("adapter_config.json"), &self.peft(base))?;
        let prefixed = |units| {
            let mut list = tensors_of(units);
            list.iter_mut().for_each(|(name, _)| name.insert_str(0, PREFIX));
            list
        };
        let adapters = prefixed(self.adapters.iter().collect());
        write_tensors(&place.path("adapter_model.safetensors"), adapters, saved.kind)?;
        let config = authors_config(&self.base.config, saved.kind);
        write_json(&place.path("config.json"), &config)?;
        copy_tokenizer(saved.tokenizer.as_deref(), &place, &[])?;
        if !self.base.projector.slots.is_empty() {
            let file = place.path("non_lora_trainables.bin");
            let file_of = std::fs::File::create(&file).map_err(Error::io(&file))?;
            write_torch(file_of, &prefixed(vec![&self.base.projector]), saved.kind)
                .map_err(Error::io(file))?;
        }
        place.finish()
    }

    /// `adapter_config.json`.
    fn peft(&self, base: &str) -> Value {
        let c = &self.config;
        json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": c.rank,
            "lora_alpha": c.alpha, "lora_dropout": c.dropout, "target_modules": c.targets, "bias": "none",
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "modules_to_save": null,
            "use_rslora": false, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
        })
    }
}
