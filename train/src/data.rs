//! From LLaVA JSON and pictures to batches of token ids, labels and pixels.

/// One micro-batch, padded on the right to `t` positions; image slots count as positions.
#[derive(Clone, Debug, Default)]
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
