//! What can go wrong between a file and a forward pass; each message names the file, the place and the way out.
//!
//! Variants follow whose fault it is: the disk, the bytes, a key, a tensor, the caller. `what` texts are whole clauses
//! ("missing; …", "is a str, …") so that a message reads as one sentence after the nouns that the variant adds.

use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: could not {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted, as a verb: "open", "map into memory".
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk (or the file system's limit on one file) ends before the output does.
    #[error(
        "{}: no room: the file needs {needed} bytes and the disk was full after {written}; free space or \
            write elsewhere ({source})",
        path.display()
    )]
    NoSpace {
        /// The file being written.
        path: PathBuf,
        /// Bytes of the whole file.
        needed: u64,
        /// Bytes written before the disk was full; 0 where the whole could not be reserved.
        written: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The output is already there and overwriting was not asked for.
    #[error("{}: exists already; choose another name or pass --force to replace it", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// The bytes break their format's rules.
    #[error("{}: byte {offset}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What is wrong there and what to do.
        what: String,
    },
    /// The file is whole but of a kind that Pumice does not read.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What kind it is and what to do.
        what: String,
    },
    /// A file or folder that should be there is not.
    #[error("{}: {what}", path.display())]
    Missing {
        /// The folder or file that was looked at.
        path: PathBuf,
        /// What is missing, named, and what to do.
        what: String,
    },
    /// A metadata key is missing or has an unusable value.
    #[error("{}: key {key}: {what}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A tensor is missing or unusable.
    #[error("{}: tensor {tensor}: {what}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// The rows do not fit in the cache.
    #[error(
        "{rows} more tokens after {pos} do not fit in a context of {ctx}; raise it (-c) or shorten the \
            conversation"
    )]
    ContextFull {
        /// Position of the first row.
        pos: usize,
        /// Rows to be computed.
        rows: usize,
        /// Positions in the cache.
        ctx: usize,
    },
    /// A token id outside the embedding table.
    #[error("token {id} is not among the model's {vocab}; the vocabulary belongs to another model")]
    NoSuchToken {
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab: usize,
    },
    /// More logits are wanted than there is room for.
    #[error(
        "logits of {rows} rows are wanted but room was planned for {planned}; raise LlamaOptions::logit_rows"
    )]
    TooManyLogits {
        /// Rows wanted.
        rows: usize,
        /// Rows planned.
        planned: usize,
    },
    /// The cache cannot be of this type.
    #[error(
        "a cache of {asked} does not work with heads of {head_dim}; take f16, f32, or (heads of whole \
            32s) q8_0"
    )]
    CacheType {
        /// The type asked for.
        asked: pumice_kernels::DType,
        /// Elements of a head.
        head_dim: usize,
    },
    /// The model does not fit in memory; found by planning before load.
    #[error("{what}")]
    NoMemory {
        /// What is needed, what is free, and what would fit.
        what: String,
    },
    /// A backend refused memory.
    #[error(transparent)]
    Backend(#[from] pumice_kernels::Error),
}

impl Error {
    /// An [`Error::Io`].
    pub fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.into(), doing, source }
    }

    /// An [`Error::Malformed`] at byte `offset`.
    pub fn malformed(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), offset, what: what.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }

    /// An [`Error::Missing`].
    pub fn missing(path: &Path, what: impl Into<String>) -> Self {
        Self::Missing { path: path.into(), what: what.into() }
    }

    /// An [`Error::Key`].
    pub fn key(path: &Path, key: &str, what: impl Into<String>) -> Self {
        Self::Key { path: path.into(), key: key.into(), what: what.into() }
    }

    /// An [`Error::Tensor`].
    pub fn tensor(path: &Path, tensor: &str, what: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), what: what.into() }
    }
}
