//! How much there is to learn from: rows, pictures, tokens of text. Counted from the data's file, or as published.

use std::path::Path;

use super::Shape;
use crate::{
    Error, Result,
    data::{Report, Rows},
    recipe::{Preset, Recipe, Stage, Template},
};

/// Characters of English per token of LLaMA's vocabulary, roughly; only estimates use it.
const CHARACTERS_PER_TOKEN: f64 = 4.0;
/// Tokens of the system sentence of v0 and v1, and of the words that mark a turn.
const SYSTEM: f64 = 40.0;
const TURN: f64 = 5.0;

/// Sizes of a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Corpus {
    /// Samples.
    pub rows: u64,
    /// Samples with a picture.
    pub images: u64,
    /// Mean tokens of a sample, image slots not counted.
    pub text: f64,
    /// Most tokens of a sample, image slots not counted.
    pub most_text: f64,
    /// Whether a file was counted.
    pub counted: bool,
}

impl Corpus {
    /// The data of the published run. Rows and pictures from the data sets' cards; tokens from the files' bytes per row.
    pub fn published(preset: Preset, stage: Stage) -> Self {
        let (rows, images, text, most_text) = match (preset.is_v0(), stage) {
            // CC-595K under `###` conversations: a system sentence, a request, a caption.
            (true, Stage::Align) => (595_375, 595_375, 100.0, 200.0),
            // Instruct-158K: 1,450 bytes of JSON a row.
            (true, Stage::Tune) => (157_712, 157_712, 300.0, 2048.0),
            // LCS-558K: the caption alone.
            (false, Stage::Align) => (558_128, 558_128, 20.0, 200.0),
            // mix-665K: short answers and long conversations; 40,688 rows of text alone.
            (false, Stage::Tune) => (665_298, 624_610, 300.0, 2048.0),
            // ScienceQA's training split; 6,218 of its questions have a picture.
            (_, Stage::Sqa) => (12_726, 6_218, 300.0, 1024.0),
        };
        Self { rows, images, text, most_text, counted: false }
    }

    /// Counts the rows of LLaVA JSON that a run would take, one in memory at a time; pictures are not looked at.
    ///
    /// # Errors
    /// As [`Rows::open`].
    pub fn count(path: &Path, template: Template) -> Result<Self> {
        let rows = Rows::open(&[path.to_owned()], &mut Report::default())?;
        let plain = template == Template::Plain;
        let mut corpus =
            Self { rows: rows.len() as u64, images: 0, text: 0.0, most_text: 0.0, counted: true };
        let mut sum = 0.0;
        for i in 0..rows.len() {
            let row = rows.read(i).map_err(|f| Error::Data(format!("{}: {}", f.row, f.what)))?;
            // The plain template throws the question away.
            let turns = || row.turns.iter().flatten().skip(usize::from(plain));
            let characters: usize = turns().map(String::len).sum();
            let around = if plain { 2.0 } else { SYSTEM + TURN * turns().count() as f64 };
            let tokens = characters as f64 / CHARACTERS_PER_TOKEN + around;
            corpus.images += u64::from(!row.images.is_empty());
            corpus.most_text = corpus.most_text.max(tokens);
            sum += tokens;
        }
        corpus.text = sum / corpus.rows as f64;
        Ok(corpus)
    }

    /// Tokens of one epoch, image slots counted, rows cut at `max_length` on average only.
    pub fn tokens(&self, recipe: &Recipe, shape: &Shape) -> f64 {
        let all = self.rows as f64 * self.text + (self.images * shape.vision.patches()) as f64;
        all.min((self.rows * recipe.max_length) as f64)
    }

    /// Positions of the longest row.
    pub fn longest(&self, recipe: &Recipe, shape: &Shape) -> u64 {
        let slots = if self.images > 0 { shape.vision.patches() } else { 0 };
        (self.most_text as u64 + slots).min(recipe.max_length)
    }
}
