//! From an RGB picture to CLIP's input, as `CLIPImageProcessor` computes it.
//!
//! LLaVA-1.5 (`pad`) sets the picture on a square of the mean colour first, so that nothing is lost; LLaVA v0 and v1
//! (`square`) resize the short side and cut off the ends of the long one. Using the other one at inference is among the
//! commonest mistakes, so the model's file says which, and the projector decides where the file is silent.

use super::{Axis, Picture, resample};
use crate::{Error, Result};
use pumice_models::{
    config::{CLIP_MEAN, CLIP_STD, ClipConfig},
    gguf,
    names::keys,
};

/// How a picture that is not square becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// Set on a square canvas of the mean colour before the resize: LLaVA-1.5.
    Pad,
    /// Short side resized, centre cut out: LLaVA v0 and v1.
    Square,
}

/// CLIP's preprocessing of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Side of the square that CLIP takes, in pixels.
    pub size: usize,
    /// Mean per channel of pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel of pixels in 0..1.
    pub std: [f32; 3],
    /// What happens to pictures that are not square.
    pub aspect: Aspect,
}

impl Preprocess {
    /// OpenAI's CLIP at `size` pixels a side.
    pub fn clip(size: usize, aspect: Aspect) -> Self {
        Self { size, mean: CLIP_MEAN, std: CLIP_STD, aspect }
    }

    /// Reads a model's preprocessing from the file that holds its vision tower.
    ///
    /// Without `pumice.image_aspect_ratio` the projector decides: a single linear layer means LLaVA v0 or v1 (square);
    /// anything else is LLaVA-1.5 (pad), which is what the pairs made for llama.cpp hold.
    ///
    /// # Errors
    /// As [`ClipConfig::read`], or the file asks for another way to make pictures square.
    pub fn from_gguf(file: &gguf::File) -> Result<Self> {
        let clip = ClipConfig::read(file)?;
        let aspect = match file.str(keys::IMAGE_ASPECT_RATIO)? {
            Some("pad") => Aspect::Pad,
            Some("square") => Aspect::Square,
            Some(other) => {
                let what = format!("is {other:?}; Pumice prepares pictures as \"pad\" or \"square\"");
                return Err(Error::Key {
                    path: file.path().into(),
                    key: keys::IMAGE_ASPECT_RATIO.into(),
                    what,
                });
            }
            None if is_linear(file)? => Aspect::Square,
            None => Aspect::Pad,
        };
        Ok(Self { size: clip.image_size, mean: clip.mean, std: clip.std, aspect })
    }

    /// The picture as CLIP takes it, `[3, size, size]`: cut or padded to a square, resized, normalised.
    pub fn apply(&self, picture: &Picture) -> Vec<f32> {
        let bytes = self.square(picture);
        let plane = self.size * self.size;
        let mut out = Vec::with_capacity(plane * 3);
        for c in 0..3 {
            // Rescaled in f64 and rounded to f32 before the rest in f32: the order of NumPy's types in transformers.
            let table: [f32; 256] =
                std::array::from_fn(|v| ((v as f64 * (1.0 / 255.0)) as f32 - self.mean[c]) / self.std[c]);
            out.extend(bytes.iter().skip(c).step_by(3).map(|&v| table[usize::from(v)]));
        }
        out
    }

    /// The resized square before normalisation, `[size, size, 3]`.
    pub fn square(&self, picture: &Picture) -> Vec<u8> {
        let (w, h) = (picture.width, picture.height);
        let (x, y) = match self.aspect {
            Aspect::Pad => (self.padded(w, w.max(h)), self.padded(h, w.max(h))),
            Aspect::Square => (self.cropped(w, w.min(h)), self.cropped(h, w.min(h))),
        };
        resample(&picture.rgb, &x, &y, self.background())
    }

    /// Canvas colour: the mean in bytes, truncated as LLaVA's `int(x * 255)` does: (122, 116, 104) for CLIP.
    fn background(&self) -> [u8; 3] {
        self.mean.map(|m| (f64::from(m) * 255.0) as u8)
    }

    /// `len` pixels centred on a canvas of `side`, all of it resized.
    fn padded(&self, len: usize, side: usize) -> Axis {
        let before = (side - len) / 2;
        Axis { canvas: side, picture: before..before + len, out: self.size, keep: 0..self.size }
    }

    /// `len` pixels resized in the proportion that brings `short` to `size`, the middle `size` of them kept.
    fn cropped(&self, len: usize, short: usize) -> Axis {
        // int(size * long / short): one division in f64 in Python, exact in integers.
        let out = self.size * len / short;
        let before = (out - self.size) / 2;
        Axis { canvas: len, picture: 0..len, out, keep: before..before + self.size }
    }
}

/// Whether the projector is a single matrix: named so, or stored so.
fn is_linear(file: &gguf::File) -> Result<bool> {
    Ok(match file.str(keys::PROJECTOR_TYPE)? {
        Some(name) => name == "linear",
        None => file.tensor(pumice_models::names::MM_LINEAR).is_some(),
    })
}
