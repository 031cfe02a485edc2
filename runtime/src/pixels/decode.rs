//! File bytes to RGB, as Pillow's `Image.open(f).convert("RGB")` gives them.
//!
//! The header is judged before a pixel is decoded, so that a small file cannot ask for a large memory. Alpha is dropped,
//! not blended, since `convert("RGB")` does so; 16-bit samples keep their high byte. JPEG decoders differ among
//! themselves by ±1 in a sample (the inverse DCT, chroma upsampling), so JPEG pixels equal Pillow's only about that
//! closely; the lossless formats are exact.

use super::Picture;
use crate::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Bytes that a decoder may hold: the largest picture at 16 bits in four channels.
const MAX_ALLOC: u64 = Picture::MAX_PIXELS * 8;
/// Bytes of a file that are read: even uncompressed, the largest picture takes no more.
pub(super) const MAX_BYTES: u64 = MAX_ALLOC;
/// Bytes that tell a format.
pub(super) const HEAD: u64 = 16;

/// Whether a file that begins with `head` is in one of the formats.
pub(super) fn is_known(head: &[u8]) -> bool {
    image::guess_format(head).is_ok_and(|format| KNOWN.contains(&format))
}

/// Decodes `bytes`; `name` is used in messages.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Picture> {
    let broken = |e: ImageError| Error::BrokenPicture { name: name.into(), why: e.to_string() };
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader.no_limits(); // our own check of the header comes first and says more
    let reader = reader.with_guessed_format().map_err(|e| broken(ImageError::IoError(e)))?;
    let format = reader.format().ok_or_else(|| Error::UnknownPicture { name: name.into() })?;
    let mut decoder = reader.into_decoder().map_err(|e| match e {
        ImageError::Unsupported(_) if !KNOWN.contains(&format) => Error::UnknownPicture { name: name.into() },
        e => broken(e),
    })?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::EmptyPicture { name: name.into(), width, height });
    }
    if u64::from(width) * u64::from(height) > Picture::MAX_PIXELS {
        return Err(Error::PictureTooLarge { name: name.into(), width, height, limit: Picture::MAX_PIXELS });
    }
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Error::BrokenPicture { name: name.into(), why: "the JPEG data end too early".into() });
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOC);
    decoder.set_limits(limits).map_err(broken)?;
    // An unreadable EXIF block is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut pixels = DynamicImage::from_decoder(decoder).map_err(broken)?;
    pixels.apply_orientation(orientation);
    let (width, height) = (pixels.width(), pixels.height());
    Picture::from_rgb(name, width, height, rgb(pixels))
}

/// The formats that the crate's features build.
const KNOWN: [ImageFormat; 5] =
    [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif];

/// Whether an end-of-image marker follows the first scan. The decoder fills what is missing with grey; Pillow refuses.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2; // after the start-of-image marker
    // Segments are skipped by their lengths, since an EXIF thumbnail holds markers of its own.
    while let [0xff, marker, high, low, ..] = bytes.get(at..).unwrap_or_default() {
        match marker {
            0xff => at += 1, // a fill byte
            0xda => return bytes[at..].windows(2).any(|w| w == [0xff, 0xd9]),
            _ => at += 2 + usize::from(*high) * 256 + usize::from(*low),
        }
    }
    false
}

/// Any layout to `[height, width, 3]` bytes.
fn rgb(pixels: DynamicImage) -> Vec<u8> {
    match pixels {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageRgba8(p) => p.as_raw().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(p) => p.as_raw().iter().flat_map(|&v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(p) => p.as_raw().chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageLuma16(p) => p.as_raw().iter().flat_map(|&v| [high(v); 3]).collect(),
        DynamicImage::ImageLumaA16(p) => p.as_raw().chunks_exact(2).flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageRgb16(p) => p.as_raw().iter().map(|&v| high(v)).collect(),
        DynamicImage::ImageRgba16(p) => {
            p.as_raw().chunks_exact(4).flat_map(|p| [high(p[0]), high(p[1]), high(p[2])]).collect()
        }
        other => other.into_rgb8().into_raw(), // float layouts, which none of the five formats decodes to
    }
}

/// The high byte of a 16-bit sample: Pillow's reading of 16-bit RGB PNG files.
fn high(v: u16) -> u8 {
    (v >> 8) as u8
}
