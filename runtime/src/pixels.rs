//! Pictures: from a file's bytes to the numbers that CLIP takes.
//!
//! LLaVA was trained on what Pillow makes of a file, so Pillow is the oracle: the same RGB bytes, the same antialiased
//! bicubic resize (to the byte), then `CLIPImageProcessor`'s crop and normalisation. Two departures, both for the sake of
//! people's own photographs: a picture is turned upright as its EXIF orientation says (LLaVA ignores it and sees phone
//! pictures lying on their side), and 16-bit grey is scaled to 8 bits (Pillow cuts it off at 255 and sees white).

mod decode;
mod preprocess;
mod resample;

pub use preprocess::{Aspect, Preprocess};
pub use resample::{Axis, resample};

use crate::{Error, Result};
use std::{io::Read, path::Path};

/// A decoded picture: 8-bit RGB, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// `[height, width, 3]`, row-major.
    rgb: Vec<u8>,
}

impl Picture {
    /// The most pixels that are decoded: Pillow's own bound (twice its `MAX_IMAGE_PIXELS`), above which LLaVA's loader
    /// refuses a file as a decompression bomb. In RGB that is 537 MB.
    pub const MAX_PIXELS: u64 = 178_956_970;

    /// Reads and decodes a JPEG, PNG, WebP, BMP or GIF (first frame) file; the format is told by the content.
    ///
    /// # Errors
    /// The file cannot be read, is none of these formats, is larger than [`Picture::MAX_PIXELS`], or is broken.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let read = |source| Error::ReadPicture { path: path.into(), source };
        let mut file = std::fs::File::open(path).map_err(read)?;
        let mut bytes = Vec::new();
        // The first bytes are judged alone, so that a model given for a picture by mistake is not read whole.
        file.by_ref().take(decode::HEAD).read_to_end(&mut bytes).map_err(read)?;
        if !decode::is_known(&bytes) {
            return Err(Error::UnknownPicture { name });
        }
        file.take(decode::MAX_BYTES).read_to_end(&mut bytes).map_err(read)?;
        Self::decode(&name, &bytes)
    }

    /// Decodes a picture from a file's bytes; `name` is used in messages.
    ///
    /// # Errors
    /// As [`Picture::open`], but for the reading.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        decode::decode(name, bytes)
    }

    /// A picture from its pixels, `rgb` = `[height, width, 3]`.
    ///
    /// # Errors
    /// A side is 0, or `rgb` has another length; `name` is used in the message.
    pub fn from_rgb(name: &str, width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::EmptyPicture { name: name.into(), width, height });
        }
        if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
            return Err(Error::WrongPictureLength { name: name.into(), width, height, got: rgb.len() });
        }
        Ok(Self { width: width as usize, height: height as usize, rgb })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}×{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests;
