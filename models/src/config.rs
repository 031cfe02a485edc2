//! What a model looks like: its widths, counts and choices, read from a GGUF file's keys and checked.
//!
//! A config is small and plain, so that plans and messages can be made before a byte of weights is touched. What it
//! says of a tensor's shape is checked when that tensor is loaded. Files of 2023 lack keys that today's have; what
//! absence means stands at each field.

mod clip;
mod llama;
mod projector;

pub use clip::{CLIP_MEAN, CLIP_STD, ClipConfig};
pub use llama::LlamaConfig;
pub use projector::ProjectorConfig;

use crate::{Error, Result, gguf::File, names::keys};

/// The vision half of a LLaVA: tower and projector.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// The tower that turns pixels into features.
    pub clip: ClipConfig,
    /// What turns features into rows as wide as the text's embeddings.
    pub projector: ProjectorConfig,
}

impl VisionConfig {
    /// Reads the config of a mmproj file, or of a file that holds text and vision.
    ///
    /// # Errors
    /// The file has no vision tower, one that Pumice does not run, or keys that contradict each other.
    pub fn read(file: &File) -> Result<Self> {
        if !has_vision(file)? {
            return Err(Error::unsupported(
                file.path(),
                "holds no vision tower (no key clip.has_vision_encoder); give the mmproj file that belongs to the model",
            ));
        }
        let clip = ClipConfig::read(file)?;
        let projector = ProjectorConfig::read(file, clip.hidden)?;
        Ok(Self { clip, projector })
    }

    /// Rows that a picture becomes, class row included where it is kept.
    pub fn image_tokens(&self) -> usize {
        self.clip.feature_rows()
    }

    /// Checks that the rows this makes are as wide as the text model's, which a projector of another model's are not.
    ///
    /// # Errors
    /// They are not; the message names both files and both widths.
    pub fn check_fits(&self, vision: &File, text: &File, llama: &LlamaConfig) -> Result<()> {
        let width = self.projector.width_out();
        if width == llama.hidden {
            return Ok(());
        }
        Err(Error::unsupported(
            vision.path(),
            format!(
                "its projector makes rows of {width}, but the text model {} takes rows of {}; \
                 take the mmproj file that was made with this text model",
                text.path().display(),
                llama.hidden
            ),
        ))
    }
}

/// Whether the file holds a vision tower.
///
/// # Errors
/// The key is there but no bool.
pub fn has_vision(file: &File) -> Result<bool> {
    Ok(file.bool(keys::HAS_VISION)?.unwrap_or(false))
}

/// A count that must not be zero.
fn positive(file: &File, key: &str) -> Result<usize> {
    match file.need_usize(key)? {
        0 => Err(Error::key(file.path(), key, "is 0; the file was made wrongly, get or make another")),
        n => Ok(n),
    }
}

/// An epsilon: finite and above zero.
fn epsilon(file: &File, key: &str) -> Result<f32> {
    let eps = file.need_f32(key)?;
    if eps.is_finite() && eps > 0.0 {
        return Ok(eps);
    }
    Err(Error::key(file.path(), key, format!("is {eps}, must be above 0; the file was made wrongly")))
}

/// The widest head that attention takes (`pumice_kernels::cpu`); LLaMA's and CLIP's have 128 and 64 elements.
const MAX_HEAD_DIM: usize = 256;

/// `head_dim`, which must not be too wide.
fn bounded_head(file: &File, key: &str, head_dim: usize) -> Result<usize> {
    if head_dim <= MAX_HEAD_DIM {
        return Ok(head_dim);
    }
    let what = format!(
        "makes heads of {head_dim} elements; Pumice runs models with heads of at most {MAX_HEAD_DIM}"
    );
    Err(Error::key(file.path(), key, what))
}

/// `width / heads`, which must be whole.
fn head_width(file: &File, width_key: &str, width: usize, heads_key: &str, heads: usize) -> Result<usize> {
    if width.is_multiple_of(heads) {
        return bounded_head(file, heads_key, width / heads);
    }
    Err(Error::key(
        file.path(),
        heads_key,
        format!("{heads} heads do not divide {width_key} {width}; the file was made wrongly"),
    ))
}
