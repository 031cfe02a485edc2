//! The demo world: pictures of pictograms, and a teacher that knows all about them.
//!
//! Nobody can judge an image chat by random weights, and a vision model that fits into this repository cannot know the
//! whole world; so it learns a small one, made here. Scenes are symbols first ([`scene`]); a painter turns them into pixels
//! ([`draw`]) and a teacher into captions, conversations and reasoning ([`teacher`], [`describe`], [`reason`]), each from the
//! symbols alone, as LLaVA-Instruct was written from captions and boxes. A judge scores answers ([`judge`]).
//! [`World`] makes any scene by its number in memory, so training needs no files; [`files::generate`] writes them as
//! LLaVA JSON with pictures all the same.

pub mod describe;
pub mod draw;
pub mod files;
pub mod glyphs;
pub mod grammar;
pub mod judge;
pub mod kinds;
pub mod phrases;
pub mod random;
pub mod reason;
pub mod rows;
pub mod scene;
pub mod talk;
pub mod teacher;
pub mod vocabulary;

pub use files::{Options, generate};
pub use judge::{Outcome, score};
pub use rows::{Row, Turn};
pub use scene::{Scene, Split};
pub use teacher::{Category, Facts, Question, Teacher};

use crate::Result;
use image::RgbImage;
use random::Rng;
use std::path::Path;

/// One seed's scenes with all that is said about them. Everything is a function of (seed, split, index).
#[derive(Debug)]
pub struct World {
    seed: u64,
    split: Split,
    teacher: Teacher,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, split: Split) -> Self {
        Self { seed, split, teacher: Teacher::default() }
    }

    /// The teacher.
    pub fn teacher(&self) -> &Teacher {
        &self.teacher
    }

    /// Scene number `index`.
    pub fn scene(&self, index: u64) -> Scene {
        Scene::generate(self.seed, index, self.split)
    }

    /// The random numbers for what is said about scene `index`; `purpose` keeps uses apart.
    pub fn rng(&self, index: u64, purpose: u64) -> Rng {
        Rng::new(random::mix(self.seed ^ 0x7465_6163_6865_7200) ^ purpose, index)
    }

    /// `turns` questions on scene `index`, in mixed order.
    pub fn questions(&self, index: u64, scene: &Scene, turns: usize) -> Vec<Question> {
        self.teacher.conversation(scene, &mut self.rng(index, 1), turns)
    }
}

/// A painter of pictures of `side`×`side` pixels with the pictograms of `font`, or of the system's font.
///
/// # Errors
/// No font is found, or it lacks the pictograms.
pub fn painter(font: Option<&Path>, side: usize) -> Result<draw::Painter> {
    let glyphs = glyphs::Glyphs::load(&glyphs::find(font)?)?;
    Ok(draw::Painter::new(&glyphs, side))
}

/// `n` scenes' pictures side by side, `columns` in a row, for a look.
pub fn sheet(world: &World, painter: &draw::Painter, n: u64, columns: u32) -> RgbImage {
    let side = painter.side() as u32;
    let mut sheet = RgbImage::new(columns * side, (n as u32).div_ceil(columns) * side);
    for i in 0..n {
        let picture = painter.draw(&world.scene(i));
        let (row, column) = (i as u32 / columns, i as u32 % columns);
        image::imageops::replace(&mut sheet, &picture, i64::from(column * side), i64::from(row * side));
    }
    sheet
}

#[cfg(test)]
mod tests;
