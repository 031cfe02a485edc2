//! What can go wrong while training, said so that a person can mend it.

use std::path::PathBuf;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint, GGUF or config that cannot be used.
    #[error(transparent)]
    Model(#[from] pumice_models::Error),
    /// A vocabulary, prompt or picture that cannot be used.
    #[error(transparent)]
    Runtime(#[from] pumice_runtime::Error),
    /// A checkpoint that cannot be made a GGUF.
    #[error(transparent)]
    Quantize(#[from] pumice_quantize::Error),
    /// libtorch through tch.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// libtorch through the shim.
    #[error(transparent)]
    Shim(#[from] crate::shim::TorchError),
    /// Settings that contradict each other or the checkpoint.
    #[error("{0}")]
    Config(String),
    /// Data that cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// A training state that cannot be continued.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A loss that is no number or far above the running mean; the step was not applied.
    #[error(
        "step {step}: the loss is {loss} (allowed: {limit:.3}), the gradient's norm {norm}; rows: {rows}. The last checkpoint is good; look at these rows, or lower the learning rate"
    )]
    Diverged {
        /// Which step, from 1.
        step: u64,
        /// Mean loss over micro-batches and ranks.
        loss: f64,
        /// Norm of the gradient.
        norm: f64,
        /// Above which loss the run stops.
        limit: f64,
        /// Names of this rank's worst micro-batch, or that they are another rank's.
        rows: String,
    },
    /// The device's memory is full.
    #[error(
        "out of memory with a batch of {rows} rows ({tokens} positions in all): lower the batch size and accumulate more, turn gradient checkpointing on, shorten the longest row, or shard the weights over more devices"
    )]
    Memory {
        /// Rows of the micro-batch.
        rows: usize,
        /// Positions of the micro-batch.
        tokens: usize,
    },
    /// The device's memory is full before the first step.
    #[error(
        "out of memory for the model with masters, moments and gradients of what it learns, whatever the batch size: shard over more devices (--zero 3), learn adapters (--lora, --lora-bits 4), or take a smaller model; --show-config tells what each part takes"
    )]
    ModelMemory,
    /// Another process of the run does not answer, or ended.
    #[error("{0}")]
    Ranks(String),
}

impl Error {
    /// An [`Error::Io`] with its path, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
