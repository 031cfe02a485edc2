//! Pictograms from a colour font on this machine.
//!
//! Debian's `fonts-noto-color-emoji` (SIL Open Font License 1.1) keeps each pictogram as a PNG of 136×128 pixels in its
//! CBDT table, so a PNG reader and a font's character map are all it takes. The font is read where the system has it and
//! never copied; fonts with COLR outlines only (newer Fedora) hold no such pictures and are refused with a hint.

use super::kinds::{Entry, KINDS, Kind};
use crate::{Error, Result};
use image::{RgbaImage, imageops};
use std::path::{Path, PathBuf};

/// Where systems install the font.
const PLACES: [&str; 6] = [
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", // Debian, Ubuntu
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",          // Arch
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/local/share/fonts/NotoColorEmoji.ttf",
    "/Library/Fonts/NotoColorEmoji.ttf", // macOS, where a person put it
];

/// The font to use: `asked` if given, else the first place where one lies.
///
/// # Errors
/// None is there.
pub fn find(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.into());
    }
    let home = std::env::home_dir().map(|h| h.join(".local/share/fonts/NotoColorEmoji.ttf"));
    let places = PLACES.iter().map(PathBuf::from).chain(home);
    places.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        Error::Config(format!(
            "no colour font for the pictograms (looked for {}); install the package fonts-noto-color-emoji \
             or give NotoColorEmoji.ttf with --font",
            PLACES[0]
        ))
    })
}

/// A picture of each kind: RGBA, straight alpha, cropped to what is not transparent.
#[derive(Debug)]
pub struct Glyphs(Vec<RgbaImage>);

impl Glyphs {
    /// Reads the pictogram of every kind.
    ///
    /// # Errors
    /// The font cannot be read or lacks a pictogram.
    pub fn load(font: &Path) -> Result<Self> {
        let bytes = std::fs::read(font).map_err(Error::io(font))?;
        let bad = |what: String| Error::Data(format!("{}: {what}", font.display()));
        let face = ttf_parser::Face::parse(&bytes, 0)
            .map_err(|e| bad(format!("not a font ({e}); --font takes NotoColorEmoji.ttf")))?;
        let read = |e: &Entry| {
            let glyph = face.glyph_index(e.sign).and_then(|g| face.glyph_raster_image(g, u16::MAX));
            let png = glyph.filter(|g| g.format == ttf_parser::RasterImageFormat::PNG).ok_or_else(|| {
                bad(format!(
                    "holds no PNG of {} ({}); the world needs the bitmap (CBDT) form of Noto Color Emoji, \
                     as in Debian's fonts-noto-color-emoji",
                    e.sign, e.name
                ))
            })?;
            let picture = image::load_from_memory_with_format(png.data, image::ImageFormat::Png)
                .map_err(|error| bad(format!("the picture of {} is broken: {error}", e.name)))?
                .into_rgba8();
            crop(&picture).ok_or_else(|| bad(format!("the picture of {} is empty", e.name)))
        };
        KINDS.iter().map(read).collect::<Result<_>>().map(Self)
    }

    /// The picture of `kind`.
    pub fn picture(&self, kind: Kind) -> &RgbaImage {
        &self.0[usize::from(kind)]
    }

    /// How much of its square a kind fills, in width and height: the longer is 1.
    pub fn extent(&self, kind: Kind) -> (f32, f32) {
        let (w, h) = self.picture(kind).dimensions();
        let m = w.max(h) as f32;
        (w as f32 / m, h as f32 / m)
    }

    /// `kind` scaled into a square of `side` pixels: premultiplied RGBA, row-major `[side, side, 4]`.
    pub fn scaled(&self, kind: Kind, side: u32) -> Vec<u8> {
        let source = self.picture(kind);
        let (w, h) = source.dimensions();
        let m = w.max(h);
        let mut square = RgbaImage::new(m, m);
        imageops::replace(&mut square, source, i64::from((m - w) / 2), i64::from((m - h) / 2));
        // Premultiplied before scaling: else the colour of clear pixels bleeds into the rim.
        for p in square.pixels_mut() {
            let a = u16::from(p.0[3]);
            for c in &mut p.0[..3] {
                *c = ((u16::from(*c) * a + 127) / 255) as u8;
            }
        }
        // Triangle over the source's footprint is an area average without Lanczos' rings, which would leave [0, alpha].
        imageops::resize(&square, side, side, imageops::FilterType::Triangle).into_raw()
    }
}

/// The part that is not clear; none if all is. Alpha below 8 of 255 is the font's own soft rim.
fn crop(picture: &RgbaImage) -> Option<RgbaImage> {
    let solid = || picture.enumerate_pixels().filter(|(_, _, p)| p.0[3] >= 8);
    let (x0, x1) = (solid().map(|p| p.0).min()?, solid().map(|p| p.0).max()?);
    let (y0, y1) = (solid().map(|p| p.1).min()?, solid().map(|p| p.1).max()?);
    Some(imageops::crop_imm(picture, x0, y0, x1 - x0 + 1, y1 - y0 + 1).to_image())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictograms_are_there_and_unlike() {
        let Ok(font) = find(None) else { return }; // a machine without the font still runs the other tests
        let glyphs = Glyphs::load(&font).unwrap();
        let all: Vec<Vec<u8>> = (0..KINDS.len() as Kind).map(|k| glyphs.scaled(k, 28)).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(
                a.chunks(4).all(|p| p[..3].iter().all(|c| *c <= p[3])),
                "{} is not premultiplied",
                KINDS[i].name
            );
            for (j, b) in all.iter().enumerate().skip(i + 1) {
                let sum: u32 = a.iter().zip(b).map(|(x, y)| u32::from(x.abs_diff(*y))).sum();
                let mean = sum as f32 / a.len() as f32; // of 255
                assert!(mean > 15.0, "{} and {} differ by {mean}", KINDS[i].name, KINDS[j].name);
            }
        }
    }
}
