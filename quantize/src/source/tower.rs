//! Finds the vision tower of a LLaVA and its configuration.
//!
//! Hugging Face's port and re-saved checkpoints hold the tower; the authors' own do not, and name it in `mm_vision_tower`.
//! Then its folder has to be given, or to lie where the name says: as a path, or under its last part beside the checkpoint.

use std::path::{Path, PathBuf};

use pumice_models::{checkpoint::Folder, names};

use super::{
    config::{Defaults, Json, JsonFile, Llava, Vision},
    folder::Tensors,
    keys::map_clip,
};
use crate::{Error, Result};

/// Reads the tower's configuration, and its tensors into `tensors` where they are not there yet. `checkpoint` is the
/// folder whose `config` says `llava`; `given` is the folder of `--vision-tower`.
///
/// # Errors
/// There is no tower, or it is not a CLIP.
pub(super) fn read(
    checkpoint: &Path,
    config: Json<'_>,
    llava: &Llava,
    given: Option<&Path>,
    tensors: &mut Tensors,
    notes: &mut Vec<String>,
) -> Result<Vision> {
    let bundled = tensors.map.contains_key(names::V_PATCH_EMBD);
    let own_processor = match JsonFile::open(checkpoint, "preprocessor_config.json")? {
        None => JsonFile::open(checkpoint, "processor_config.json")?,
        found => found,
    };
    // The authors' layout has a `vision_config` where `pumice-train` wrote it with the tower inside.
    match config.get("vision_config") {
        Some(value) if bundled && (llava.ported || given.is_none()) => {
            let json = Json { path: config.path, at: "vision_config.", value };
            return Vision::read(json, Defaults::Clip, own_processor.as_ref());
        }
        None if bundled && llava.ported => {
            return Vision::read(config, Defaults::Llava, own_processor.as_ref());
        }
        _ => {}
    }
    let folder = match given.map(Path::to_path_buf).or_else(|| beside(checkpoint, llava)) {
        Some(folder) => folder,
        None if bundled => return from_tensors(checkpoint, tensors, own_processor.as_ref(), notes),
        None => {
            let tower = llava.tower.clone().unwrap_or_else(|| "a CLIP".into());
            return Err(Error::NoVisionTower { path: checkpoint.into(), tower });
        }
    };
    let vision = config_of(&folder)?;
    if !bundled {
        if given.is_none() {
            notes.push(format!("the vision tower is read from {}", folder.display()));
        }
        let opened = Folder::open(&folder)?;
        tensors.take(&opened, map_clip)?;
        tensors.paths.extend(opened.files().iter().cloned());
    }
    Ok(vision)
}

/// Where `mm_vision_tower` leads: a path, or a folder of its last part's name inside or beside the checkpoint.
fn beside(checkpoint: &Path, llava: &Llava) -> Option<PathBuf> {
    let tower = llava.tower.as_deref()?;
    let last = Path::new(tower).file_name()?;
    let candidates =
        [Some(PathBuf::from(tower)), Some(checkpoint.join(last)), checkpoint.parent().map(|p| p.join(last))];
    candidates.into_iter().flatten().find(|p| p.is_absolute() && p.join("config.json").is_file()).or_else(
        || {
            let absolute = checkpoint.canonicalize().ok()?;
            [Some(absolute.join(last)), absolute.parent().map(|p| p.join(last))]
                .into_iter()
                .flatten()
                .find(|p| p.join("config.json").is_file())
        },
    )
}

/// The configuration in a tower's folder: a whole CLIP's, or of its vision half alone.
fn config_of(folder: &Path) -> Result<Vision> {
    let Some(file) = JsonFile::open(folder, "config.json")? else {
        let problem = "holds no config.json, so it is no vision tower's folder; give the folder of the CLIP that the checkpoint names".into();
        return Err(Error::NotASource { path: folder.into(), problem });
    };
    let processor = JsonFile::open(folder, "preprocessor_config.json")?;
    match file.top().get("vision_config") {
        Some(value) => {
            let json = Json { path: &file.path, at: "vision_config.", value };
            Vision::read(json, Defaults::Clip, processor.as_ref())
        }
        None => Vision::read(file.top(), Defaults::Clip, processor.as_ref()),
    }
}

/// A bundled tower without any configuration: all that CLIP's sizes leave open follows from the shapes.
fn from_tensors(
    checkpoint: &Path,
    tensors: &Tensors,
    processor: Option<&JsonFile>,
    notes: &mut Vec<String>,
) -> Result<Vision> {
    let shape = |name: &str| tensors.map.get(name).map(|t| t.shape()).unwrap_or_default();
    let first = |name: &str| shape(name).first().copied().unwrap_or(0);
    let blocks = (0..).take_while(|b| tensors.map.contains_key(&names::v_blk(*b, names::FFN_UP))).count();
    let (patch, positions) = (shape(names::V_PATCH_EMBD), first(names::V_POSITION_EMBD));
    let vision =
        Vision::from_shapes(&patch, positions, first(&names::v_blk(0, names::FFN_UP)), blocks, processor)?;
    let vision = vision.ok_or_else(|| Error::NotASource {
        path: checkpoint.into(),
        problem: format!(
            "the vision tower inside (patches {patch:?}, {positions} positions) is no CLIP of 64-wide heads; \
             give the folder with its config.json by --vision-tower"
        ),
    })?;
    notes.push(format!(
        "the bundled vision tower has no configuration: taken for a CLIP of {} heads, as CLIP's are 64 wide; --vision-tower FOLDER says otherwise",
        vision.heads
    ));
    Ok(vision)
}
