//! What the engine asks of a model: pieces in a row, each reading some units.
//!
//! A start (embedding, with the projected pictures in their slots), layers of equal shape, and a loss. The engine decides which pieces keep
//! a graph, which are computed twice and when a unit's weights are there; the model only says what each piece computes.

use tch::{Device, Kind, Tensor};

use crate::{Result, model::llama::Targets, unit::Unit};

/// A piece of a [`Stack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// From the input to the first rows.
    Start,
    /// The layer of that number.
    Layer(usize),
    /// From the last rows to the loss.
    Head,
}

/// A model as a row of pieces.
pub trait Stack {
    /// What the data loader gives.
    type Batch;
    /// A batch on the device, with all that is computed without gradient (features of the frozen vision tower).
    type Input;

    /// Number of units, trainable and frozen.
    fn count(&self) -> usize;
    /// Unit `i`; it is trainable where it has a flat buffer.
    fn unit(&self, i: usize) -> &Unit;
    /// Unit `i`.
    fn unit_mut(&mut self, i: usize) -> &mut Unit;
    /// Number of layers between start and head.
    fn layers(&self) -> usize;
    /// Units whose parameters `piece` reads.
    fn reads(&self, piece: Piece) -> Vec<usize>;
    /// Brings a batch to the place where, and the type in which, the engine computes. It runs without gradient, and trainable units may not be there.
    fn prepare(&self, batch: &Self::Batch, place: (Kind, Device)) -> Result<Self::Input>;
    /// The first layer's input `[b, t, d]`.
    fn start(&self, input: &Self::Input) -> Result<Tensor>;
    /// Layer `i` of `x` `[b, t, d]`: `[b, t, d]`.
    fn layer(&self, i: usize, x: &Tensor, input: &Self::Input) -> Tensor;
    /// Which rows of the last output (seen as `[b·t, d]`) predict what; never none.
    fn targets<'a>(&self, input: &'a Self::Input) -> &'a Targets;
    /// The summed cross-entropy of rows `x` `[n, d]` against `ids` `[n]`: an f32 scalar.
    fn loss(&self, x: &Tensor, ids: &Tensor) -> Tensor;
    /// Names of a batch's rows, for messages.
    fn rows<'a>(&self, batch: &'a Self::Batch) -> &'a [String];
    /// Positions of a batch, padding and picture slots too; for speed figures.
    fn tokens(&self, batch: &Self::Batch) -> usize;
    /// Whether a forward pass draws random numbers (dropout): each piece then gets its own seed, the same when it is computed again.
    fn random(&self) -> bool {
        false
    }
}
