//! What can go wrong between a checkpoint and a GGUF file, each with its file, its tensor and the way out.

use std::path::PathBuf;

use pumice_kernels::DType;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the quantizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint or GGUF file could not be read, or the output not be written.
    #[error(transparent)]
    Model(#[from] pumice_models::Error),
    /// The operating system refused.
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Nothing that this program reads lies at the path.
    #[error("{}: {problem}", path.display())]
    NotASource {
        /// File or folder.
        path: PathBuf,
        /// What is missing and what to give.
        problem: String,
    },
    /// A configuration file says something that cannot be used.
    #[error("{}: \"{key}\": {problem}", path.display())]
    Config {
        /// The JSON file.
        path: PathBuf,
        /// The key, dotted where nested.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The checkpoint does not hold its own vision tower and none was given.
    #[error(
        "{}: the vision tower is not in this checkpoint; its config.json names \"{tower}\" (mm_vision_tower): \
         download that model's folder and give it with --vision-tower FOLDER", path.display()
    )]
    NoVisionTower {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What `mm_vision_tower` says.
        tower: String,
    },
    /// The tokenizer's file is damaged or of an unknown kind.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// `tokenizer.model`, `tokenizer.json` or a file beside.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A tensor has no place in the models that are read here.
    #[error("{}: tensor \"{tensor}\" belongs to no part of LLaMA, CLIP or a projector; the model is of another architecture", path.display())]
    UnknownTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name there.
        tensor: String,
    },
    /// The configuration asks for a tensor that is not there.
    #[error("{}: tensor \"{tensor}\" is missing; the checkpoint is incomplete: download it again", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Its GGUF name.
        tensor: String,
    },
    /// A tensor's shape is not what the configuration says.
    #[error("{}: tensor \"{tensor}\" is {got:?}, but {why} asks for {expected:?}", path.display())]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape, rows first.
        got: Vec<usize>,
        /// The shape expected, rows first.
        expected: Vec<usize>,
        /// Where the expectation comes from.
        why: String,
    },
    /// A weight is infinite or not a number.
    #[error(
        "tensor \"{tensor}\": row {row} holds a value that is infinite or not a number; the checkpoint is damaged"
    )]
    NotFinite {
        /// The tensor's GGUF name.
        tensor: String,
        /// The first such row.
        row: usize,
    },
    /// A weight is beyond the range of its target type.
    #[error(
        "tensor \"{tensor}\": row {row} holds {value}, beyond what F16 can hold (65504); choose BF16 or F32 for it"
    )]
    BeyondF16 {
        /// The tensor's GGUF name.
        tensor: String,
        /// The first such row.
        row: usize,
        /// The value.
        value: f32,
    },
    /// A name that should be one of a few is not.
    #[error("unknown {what} \"{name}\"; known are {known}")]
    Unknown {
        /// What the name should be of.
        what: &'static str,
        /// What was given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A `PATTERN=TYPE` cannot be used.
    #[error("--tensor-type {text}: {problem}")]
    Pattern {
        /// The argument.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor cannot take the type that was asked for it by name.
    #[error(
        "tensor \"{tensor}\": rows of {cols} elements cannot be {dtype}; choose a type whose blocks divide them"
    )]
    Ragged {
        /// The tensor's GGUF name.
        tensor: String,
        /// Elements of its rows.
        cols: usize,
        /// The type asked for.
        dtype: DType,
    },
    /// The output is there already.
    #[error("{}: exists and is kept; use --force to replace it", path.display())]
    Exists {
        /// The output path.
        path: PathBuf,
    },
    /// The output would not fit.
    #[error("{}: needs {needed} bytes, {free} are free on that disk; free some space or choose a smaller type", path.display())]
    NoSpace {
        /// The output path.
        path: PathBuf,
        /// Bytes that will be written.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The output would replace what is being read.
    #[error("{}: is the file being read; give another output path", path.display())]
    OverSource {
        /// The path.
        path: PathBuf,
    },
    /// Somebody asked to stop. Nothing is left behind.
    #[error("stopped; no output was written")]
    Cancelled,
    /// The thread pool could not start.
    #[error("{threads} threads could not be started: {problem}")]
    Threads {
        /// How many.
        threads: usize,
        /// The system's answer.
        problem: String,
    },
}
