//! Scenes to pixels: pictograms blended over a background.
//!
//! ```text
//! out = c·tint + (1 − α)·background      c premultiplied by α, all in 0..=255
//! ```
//! Each pictogram is scaled once per size when the painter is made; a picture is then a background and at most six blends
//! of integers, so that training can draw faster than it learns and needs no files. Integer blending also makes the
//! pixels the same on every machine.

use super::glyphs::Glyphs;
use super::kinds::KINDS;
use super::random::Rng;
use super::scene::{Background, Colour, SIZES, Scene};
use image::RgbImage;

/// Draws scenes at one picture size.
#[derive(Debug)]
pub struct Painter {
    side: usize,
    /// Smallest and largest side of a pictogram, in pixels.
    sizes: (usize, usize),
    /// `[kind][size]`: premultiplied RGBA, `[size, size, 4]`.
    scaled: Vec<Vec<Vec<u8>>>,
}

impl Painter {
    /// A painter of pictures of `side`×`side` pixels.
    pub fn new(glyphs: &Glyphs, side: usize) -> Self {
        let pixels = |f: f32| ((f * side as f32).round() as usize).max(1);
        let sizes = (pixels(SIZES.0), pixels(SIZES.1));
        let all = |kind| (sizes.0..=sizes.1).map(|s| glyphs.scaled(kind, s as u32)).collect();
        Self { side, sizes, scaled: (0..KINDS.len() as u16).map(all).collect() }
    }

    /// The picture's side in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The picture of a scene: RGB, `[side, side, 3]`.
    pub fn draw(&self, scene: &Scene) -> RgbImage {
        let mut pixels = vec![0; self.side * self.side * 3];
        self.draw_into(scene, &mut pixels);
        RgbImage::from_raw(self.side as u32, self.side as u32, pixels)
            .expect("the buffer has the picture's size")
    }

    /// The same into a buffer of `side`·`side`·3 bytes.
    pub fn draw_into(&self, scene: &Scene, pixels: &mut [u8]) {
        assert_eq!(pixels.len(), self.side * self.side * 3, "a buffer of another size than the picture's");
        self.background(&scene.background, pixels);
        let side = self.side as f32;
        for thing in &scene.things {
            let size = ((thing.size * side).round() as usize).clamp(self.sizes.0, self.sizes.1);
            let corner =
                |v: f32| ((v * side - size as f32 / 2.0).round().max(0.0) as usize).min(self.side - size);
            let tint = thing.tint.map(|t| (t * 256.0).round() as u32);
            let glyph = &self.scaled[usize::from(thing.kind)][size - self.sizes.0];
            self.blend(glyph, size, (corner(thing.x), corner(thing.y)), tint, pixels);
        }
    }

    fn blend(&self, glyph: &[u8], size: usize, at: (usize, usize), tint: [u32; 3], pixels: &mut [u8]) {
        for (y, row) in glyph.chunks_exact(4 * size).enumerate() {
            let start = 3 * ((at.1 + y) * self.side + at.0);
            let under = &mut pixels[start..start + 3 * size];
            for (under, over) in under.chunks_exact_mut(3).zip(row.chunks_exact(4)) {
                let alpha = u32::from(over[3]);
                if alpha == 0 {
                    continue;
                }
                for c in 0..3 {
                    let tinted = ((u32::from(over[c]) * tint[c]) >> 8).min(alpha); // c ≤ α keeps the sum ≤ 255
                    under[c] = (tinted + (u32::from(under[c]) * (255 - alpha) + 127) / 255) as u8;
                }
            }
        }
    }

    fn background(&self, background: &Background, pixels: &mut [u8]) {
        let side = self.side;
        match *background {
            Background::Plain(colour) => fill(pixels, colour),
            Background::Gradient(from, to, [dx, dy]) => {
                let last = (side.max(2) - 1) * (usize::from(dx) + usize::from(dy));
                let ramp: Vec<Colour> = (0..=last).map(|i| between(from, to, i, last)).collect();
                for (i, p) in pixels.chunks_exact_mut(3).enumerate() {
                    let (x, y) = (i % side, i / side);
                    p.copy_from_slice(&ramp[x * usize::from(dx) + y * usize::from(dy)]);
                }
            }
            Background::Noise(colour, strength, seed) => self.noise(colour, strength, seed, pixels),
            Background::Horizon(above, below, height) => self.halves(above, below, below, height, pixels),
            Background::Table(above, below, height) => {
                self.halves(above, below, below.map(|c| (u32::from(c) * 4 / 5) as u8), height, pixels);
            }
        }
    }

    /// Two fields, and an edge of 1/28 of the side (4 of 112 pixels) between them.
    fn halves(&self, above: Colour, below: Colour, edge: Colour, height: f32, pixels: &mut [u8]) {
        let line = (height * self.side as f32) as usize;
        let thick = (self.side / 28).max(1);
        for (y, row) in pixels.chunks_exact_mut(3 * self.side).enumerate() {
            let colour = if y < line {
                above
            } else if y < line + thick {
                edge
            } else {
                below
            };
            fill(row, colour);
        }
    }

    /// Cells of 1/14 of the side, each off the colour by the sum of four draws: near enough to a normal one.
    fn noise(&self, colour: Colour, strength: u8, seed: u64, pixels: &mut [u8]) {
        const CELLS: usize = 14;
        let mut rng = Rng::new(seed, 0);
        let cells: Vec<Colour> = (0..CELLS * CELLS)
            .map(|_| {
                colour.map(|c| {
                    let four: f32 = (0..4).map(|_| rng.between(-0.866, 0.866)).sum(); // variance 1
                    (f32::from(c) + four * f32::from(strength)).clamp(0.0, 255.0) as u8
                })
            })
            .collect();
        for (y, row) in pixels.chunks_exact_mut(3 * self.side).enumerate() {
            let line = &cells[y * CELLS / self.side * CELLS..];
            for (x, p) in row.chunks_exact_mut(3).enumerate() {
                p.copy_from_slice(&line[x * CELLS / self.side]);
            }
        }
    }
}

fn fill(pixels: &mut [u8], colour: Colour) {
    for p in pixels.chunks_exact_mut(3) {
        p.copy_from_slice(&colour);
    }
}

/// The colour `i`/`n` of the way.
fn between(from: Colour, to: Colour, i: usize, n: usize) -> Colour {
    std::array::from_fn(|c| ((usize::from(from[c]) * (n - i) + usize::from(to[c]) * i) / n) as u8)
}
