//! The vision half of LLaVA: a picture's pixels in, rows for the text model out.

use pumice_kernels::Backend;

use crate::{Result, clip::Clip, config::VisionConfig, gguf::File, projector::Projector};

/// Tower and projector on a backend.
#[derive(Debug)]
pub struct Vision {
    config: VisionConfig,
    clip: Clip,
    projector: Projector,
}

impl Vision {
    /// Takes tower and projector of `file` (a mmproj, or a file that holds text and vision) to `b`. Whether they fit the
    /// text model, [`VisionConfig::check_fits`] says.
    ///
    /// # Errors
    /// The file has no vision tower or one that Pumice does not run, a tensor is missing or misshapen, or memory is short.
    pub fn load(file: &File, b: &mut dyn Backend) -> Result<Self> {
        let config = VisionConfig::read(file)?;
        let clip = Clip::load(file, b)?;
        let projector = Projector::load(file, &config.projector, config.clip.feature_rows(), b)?;
        Ok(Self { config, clip, projector })
    }

    /// What they look like.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// The rows that stand for a picture in the text model's input, [image tokens, hidden of the text]. `pixels` is
    /// [3, size, size], normalised, channel by channel.
    ///
    /// # Errors
    /// The device was lost or ran out of memory.
    ///
    /// # Panics
    /// Where `pixels` has another length.
    pub fn encode(&self, b: &mut dyn Backend, pixels: &[f32]) -> Result<Vec<f32>> {
        let features = self.clip.encode(b, pixels);
        let rows = self.projector.project(b, features);
        let mut out = vec![0.0; rows.rows * rows.cols];
        b.read(&mut out, rows)?;
        Ok(out)
    }
}
