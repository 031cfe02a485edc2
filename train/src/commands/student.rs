//! The model of a run: opened by the recipe, its units made to learn or frozen, and written at the end.

use std::path::{Path, PathBuf};

use pumice_train::{
    Error, Result,
    engine::memory::or_full,
    model::{
        Llava, Lora, LoraConfig, Projector,
        checkpoint::{self, Load, Saved},
        lora::Base,
    },
    recipe::{self, Recipe, Stage},
    unit::Unit,
};
use tch::Kind;

use super::run::{Here, kind};

/// The model to begin with, with the recipe's choices in place of the checkpoint's.
///
/// # Errors
/// As [`checkpoint::load`].
pub fn open(recipe: &Recipe, path: &Path) -> Result<Llava> {
    let load = Load {
        vision_tower: recipe.vision_tower.clone(),
        projector: recipe.projector.clone(),
        fresh: Some(fresh(recipe.projector_type)),
        pad: Some(recipe.image_aspect_ratio == recipe::AspectRatio::Pad),
    };
    let mut model = checkpoint::load(path, &load)?;
    if let Some(vision) = &mut model.config.vision {
        vision.select_layer = recipe.select_layer;
        vision.keep_class = recipe.select_feature == recipe::SelectFeature::ClsPatch;
        vision.template = Some(recipe.template.format().into());
    }
    Ok(model)
}

/// Refuses a projector that is there already and of another type than `projector_type`, which a new one would get.
///
/// # Errors
/// It is.
pub fn is_as_asked(recipe: &Recipe, model: &Llava) -> Result<()> {
    let wanted = fresh(recipe.projector_type);
    let Some(found) = model.config.vision.as_ref().map(|vision| vision.projector).filter(|p| *p != wanted)
    else {
        return Ok(());
    };
    let from = recipe.projector.as_ref().or(recipe.model.as_ref()).map(|path| path.display().to_string());
    Err(Error::Config(format!(
        "--projector-type {wanted} is asked for, but the projector in {} is {found}; leave out --projector-type, or the projector",
        from.unwrap_or_default()
    )))
}

/// The projector that begins anew.
fn fresh(kind: recipe::ProjectorType) -> Projector {
    match kind {
        recipe::ProjectorType::Linear => Projector::Linear,
        recipe::ProjectorType::Mlp2xGelu => Projector::Mlp(2),
    }
}

/// `model` on its device, with the units of the recipe's stage trainable.
///
/// # Errors
/// The device has no room for them.
pub fn of_stage(recipe: &Recipe, model: Llava, here: &Here) -> Result<Llava> {
    or_full(Error::ModelMemory, || Ok(placed(recipe, model, here)))
}

fn placed(recipe: &Recipe, mut model: Llava, here: &Here) -> Llava {
    let kind = kind(recipe);
    for unit in model.units_mut() {
        let taken = std::mem::replace(unit, Unit::frozen("", Vec::new()));
        let learns = match taken.name.as_str() {
            "clip" => false,
            "projector" => true,
            _ => recipe.stage != Stage::Align,
        };
        // A new projector's small numbers would lose bits in bf16 before the first step; the checkpoint's own have none to lose.
        let own = if taken.name == "projector" { Kind::Float } else { kind };
        *unit = if learns {
            taken.trainable(own, here.device, here.place.size as i64)
        } else {
            taken.to(kind, here.device)
        };
    }
    model
}

/// `model` on its device with adapters, which learn beside the projector; with 4 bits its base as QLoRA holds it, scales in 8 bits.
///
/// # Errors
/// As [`Lora::new`], or the device has no room.
pub fn adapted(settings: &recipe::Lora, recipe: &Recipe, model: Llava, here: &Here) -> Result<Lora> {
    let config = LoraConfig {
        rank: settings.r as i64,
        alpha: settings.alpha,
        dropout: settings.dropout,
        targets: settings.targets.clone(),
        base: if settings.bits == 4 { Base::Nf4 { double: true } } else { Base::Plain },
    };
    or_full(Error::ModelMemory, || {
        Lora::new(model, config, (kind(recipe), here.device), here.place.size as i64)
    })
}

/// Stage 1 gives a projector; the others a whole LLaVA, in llava-hf's layout where that has the projector and the marks around pictures (it knows
/// none), else in the authors'.
///
/// # Errors
/// Files cannot be written.
pub fn save(recipe: &Recipe, model: &Llava, base: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    if recipe.stage == Stage::Align {
        let path = out.join("mm_projector.safetensors");
        checkpoint::save_projector(model, &path, kind(recipe))?;
        return Ok(vec![path]);
    }
    let path = out.join("llava");
    let vision = model.vision()?;
    match vision.projector.layers(1, 1).len() {
        2 if !vision.im_start_end => checkpoint::save_llava_hf(model, &path, &saved(recipe, base))?,
        _ => checkpoint::save_authors(model, &path, &saved(recipe, base))?,
    }
    Ok(vec![path])
}

fn saved(recipe: &Recipe, base: &Path) -> Saved {
    Saved { kind: kind(recipe), tokenizer: Some(base.into()), tower: true }
}

/// The adapters in PEFT's layout, and the LLaVA that they are merged into: with 4 bits the base as it is on the disk.
///
/// # Errors
/// Files cannot be written, or the base cannot be read again.
pub fn save_adapted(recipe: &Recipe, lora: Lora, base: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let adapter = out.join("adapter");
    lora.save(&adapter, &base.display().to_string(), &saved(recipe, base))?;
    let merged = match lora.config.base {
        Base::Plain => lora.merge(),
        Base::Nf4 { .. } => lora.merge_into(open(recipe, base)?.layers),
    };
    let mut written = vec![adapter];
    written.extend(save(recipe, &merged, base, out)?);
    Ok(written)
}
