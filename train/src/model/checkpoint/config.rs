//! Finds the configurations of a checkpoint: its own, its tower's, its image processor's.

use std::path::{Path, PathBuf};

use pumice_models::checkpoint;
use serde_json::Value;

use super::Load;
use crate::{
    Result,
    model::{ClipConfig, LlavaConfig, Projector, VisionConfig, config::is_llava},
};

/// The config of the checkpoint in folder `path` whose `config.json` is `value`, and the folder of its tower where there is one apart.
/// `bundled`: the checkpoint holds a tower.
pub(super) fn read(
    path: &Path,
    value: &Value,
    options: &Load,
    bundled: bool,
) -> Result<(LlavaConfig, Option<PathBuf>)> {
    let file = path.join("config.json");
    let tower = tower_folder(path, value, options);
    if !is_llava(value) {
        let mut config = LlavaConfig::text_only(&file, value)?;
        if let Some(tower) = &options.vision_tower {
            let projector = options.fresh.unwrap_or(Projector::Mlp(2));
            let mut vision = VisionConfig::new(clip(tower, None)?, projector, options.pad.unwrap_or(true));
            vision.tower = tower.display().to_string();
            config.vision = Some(vision);
        }
        return Ok((config, tower));
    }
    let own = value.get("vision_config").filter(|v| v.is_object());
    let own_processor = processor(path)?;
    // A tower's own folder is asked where the checkpoint does not describe what it holds.
    let apart = tower.as_deref().filter(|_| options.vision_tower.is_some() || !bundled || own.is_none());
    let mut config = match (apart, own) {
        (Some(folder), _) => {
            let tower_file = folder.join("config.json");
            let tower_value = checkpoint::json(&tower_file)?;
            let processor = processor(folder)?.or(own_processor);
            LlavaConfig::from_json(&file, value, Some((&tower_file, &tower_value)), processor.as_ref())?
        }
        (None, Some(vision)) => {
            LlavaConfig::from_json(&file, value, Some((&file, vision)), own_processor.as_ref())?
        }
        (None, None) => LlavaConfig::from_json(&file, value, None, own_processor.as_ref())?,
    };
    if let (Some(vision), Some(pad)) = (&mut config.vision, options.pad) {
        vision.pad = pad;
    }
    Ok((config, tower))
}

/// The config of the tower in `folder`; `processor` stands in where the folder has no image processor.
pub(super) fn clip(folder: &Path, or: Option<&Value>) -> Result<ClipConfig> {
    let file = folder.join("config.json");
    let own = processor(folder)?;
    Ok(ClipConfig::from_json(&file, &checkpoint::json(&file)?, own.as_ref().or(or))?)
}

/// The image processor's settings in `folder`, if there are any.
fn processor(folder: &Path) -> Result<Option<Value>> {
    let files = ["preprocessor_config.json", "processor_config.json"].map(|name| folder.join(name));
    Ok(files.iter().find(|f| f.is_file()).map(|f| checkpoint::json(f)).transpose()?)
}

/// The tower's folder: as given, else where `mm_vision_tower` leads: a path, or its last part inside or beside the checkpoint.
fn tower_folder(path: &Path, value: &Value, options: &Load) -> Option<PathBuf> {
    if options.vision_tower.is_some() {
        return options.vision_tower.clone();
    }
    let tower = Path::new(value["mm_vision_tower"].as_str()?);
    let (last, absolute) = (tower.file_name()?, path.canonicalize().ok()?);
    let places =
        [Some(absolute.join(tower)), Some(absolute.join(last)), absolute.parent().map(|p| p.join(last))];
    places.into_iter().flatten().find(|p| p.join("config.json").is_file())
}
