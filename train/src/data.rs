//! From LLaVA JSON and pictures to batches of token ids, labels and pixels.
//!
//! A model learns what it is shown: a prompt one token off, a mask one place off or a picture resized otherwise than at
//! inference does not fail, it only makes a worse model. So prompts, vocabulary and pixels are the runtime's own code, and
//! every row that cannot be used is named in a [`Report`].

pub mod conversation;
pub mod loader;
pub mod order;
pub mod report;
pub mod rows;
pub mod scienceqa;
pub mod vocabulary;

pub use conversation::{ImagePosition, Sample, Template};
pub use loader::{Loader, Position, Settings};
pub use order::Shape;
pub use report::{Fault, Reason, Report};
pub use rows::{Row, Rows};

/// One micro-batch, padded on the right to `t` positions; image slots count as positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[b, t]` token ids; image slots and padding hold 0.
    pub ids: Vec<i64>,
    /// `[b, t]` the id that stands at that position where it is to be learned, else -100. The loss shifts: the row of logits at `i` predicts `labels[i + 1]`.
    pub labels: Vec<i64>,
    /// Samples.
    pub b: usize,
    /// Positions of each sample.
    pub t: usize,
    /// `[n, 3, size, size]` pixels as `pumice_runtime::pixels::Preprocess` gives them.
    pub images: Vec<f32>,
    /// Per picture its sample and first slot; its patches fill consecutive slots.
    pub places: Vec<(usize, usize)>,
    /// Side of a picture in pixels.
    pub size: usize,
    /// Names of the samples, for messages.
    pub rows: Vec<String>,
}
