//! LoRA adapters: pairs of small matrices that are added to a base model's.
//!
//! PEFT saves `….q_proj.lora_A.weight` and `….q_proj.lora_B.weight` beside `adapter_config.json`; tensors that were
//! trained whole stand beside them under their own names and replace the base's.

use std::{collections::BTreeMap, path::Path};

use pumice_models::checkpoint::{Folder, Tensor};

use super::{
    config::JsonFile,
    keys::{Key, map},
    tensor::{Delta, SourceTensor},
};
use crate::{Error, Result};

/// What an adapter's tensor is.
pub(super) enum Role {
    /// A of the module's weight.
    A(String),
    /// B of it.
    B(String),
    /// A tensor of its own, under this name.
    Whole(String),
}

/// The role of the tensor `key`. `.default` is the adapter's name in files that keep it.
pub(super) fn role(key: &str) -> Role {
    for (marker, is_a) in [(".lora_A.", true), (".lora_B.", false)] {
        if let Some((module, _)) = key.split_once(marker) {
            let weight = format!("{module}.weight");
            return if is_a { Role::A(weight) } else { Role::B(weight) };
        }
    }
    Role::Whole(key.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", "."))
}

/// The adapter's settings.
pub(super) struct Adapter {
    /// alpha/r or alpha/√r of the settings' r.
    scale: f32,
    /// The base model's name.
    pub base: String,
}

impl Adapter {
    /// Reads `adapter_config.json` in `folder`.
    ///
    /// # Errors
    /// It is missing, or the adapter is of a kind that cannot be merged by adding B·A.
    pub fn read(folder: &Path) -> Result<Self> {
        let Some(file) = JsonFile::open(folder, "adapter_config.json")? else {
            let problem = "holds a LoRA adapter without adapter_config.json; download it again".into();
            return Err(Error::NotASource { path: folder.into(), problem });
        };
        let json = file.top();
        for key in ["use_dora", "fan_in_fan_out"] {
            if json.flag(key, false)? {
                return Err(
                    json.error(key, "adapters of this kind are not supported; merge it with PEFT first")
                );
            }
        }
        for key in ["rank_pattern", "alpha_pattern"] {
            if json.get(key).is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty())) {
                return Err(
                    json.error(key, "ranks by module are not supported; merge the adapter with PEFT first")
                );
            }
        }
        let (rank, alpha) = (json.count("r", 8)? as f64, json.number("lora_alpha", 8.0)?);
        let divisor = if json.flag("use_rslora", false)? { rank.sqrt() } else { rank };
        Ok(Self {
            scale: (alpha / divisor) as f32,
            base: json.text("base_model_name_or_path")?.unwrap_or("its base model").into(),
        })
    }

    /// Adds the updates in `folder` to `tensors`, which hold the base model's under GGUF names.
    ///
    /// # Errors
    /// Half of a pair is missing, or an update fits no tensor.
    pub fn add(&self, folder: &Folder, tensors: &mut BTreeMap<String, SourceTensor>) -> Result<()> {
        let mut pairs: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
        for tensor in folder.tensors() {
            match role(&tensor.name) {
                Role::A(weight) => pairs.entry(weight).or_default().0 = Some(tensor.clone()),
                Role::B(weight) => pairs.entry(weight).or_default().1 = Some(tensor.clone()),
                Role::Whole(_) => {}
            }
        }
        for (weight, pair) in pairs {
            let (Some(a), Some(b)) = pair else {
                return Err(Error::MissingTensor {
                    path: folder.path().into(),
                    tensor: format!("{weight}: half of its LoRA pair"),
                });
            };
            let Key::To { name, .. } = map(&weight) else {
                return Err(Error::UnknownTensor { path: folder.path().into(), tensor: a.name });
            };
            let Some(base) = tensors.get_mut(&name) else {
                return Err(Error::MissingTensor { path: folder.path().into(), tensor: name });
            };
            let rank = a.rows();
            for (tensor, expected) in [(&a, [rank, base.cols()]), (&b, [base.rows(), rank])] {
                if tensor.shape != expected {
                    return Err(Error::Shape {
                        path: folder.path().into(),
                        tensor: tensor.name.clone(),
                        got: tensor.shape.clone(),
                        expected: expected.into(),
                        why: format!("the base model's {name} with rank {rank}"),
                    });
                }
            }
            base.delta = Some(Delta { a, b, scale: self.scale });
        }
        Ok(())
    }
}
