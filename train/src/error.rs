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
