//! What can go wrong between a person's words and pictures and the model: one enum for the crate.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the runtime; each message names the thing at fault and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A picture's file could not be read.
    #[error("{}: cannot read the picture: {source}", path.display())]
    ReadPicture {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are of none of the formats known.
    #[error("{name}: not a JPEG, PNG, WebP, BMP or GIF picture; convert it to one of these")]
    UnknownPicture {
        /// The file, or what the caller calls it.
        name: String,
    },
    /// The header announces more pixels than are decoded.
    #[error(
        "{name}: {width}×{height} pixels are more than the limit of {limit} pixels; make the picture smaller (a model sees at most a few hundred pixels a side)"
    )]
    PictureTooLarge {
        /// The file, or what the caller calls it.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The most pixels decoded.
        limit: u64,
    },
    /// A picture of no pixels.
    #[error("{name}: {width}×{height} is not a picture's size; both sides must be at least 1")]
    EmptyPicture {
        /// The file, or what the caller calls it.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The decoder gave up.
    #[error("{name}: broken picture: {why}; save it anew or fetch it again")]
    BrokenPicture {
        /// The file, or what the caller calls it.
        name: String,
        /// What the decoder said.
        why: String,
    },
    /// The bytes given are not `width * height` RGB pixels.
    #[error("{name}: {width}×{height} RGB pixels take {} bytes, got {got}", *width as u64 * *height as u64 * 3)]
    WrongPictureLength {
        /// What the caller calls the picture.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes given.
        got: usize,
    },
    /// A metadata key has a value that cannot be used.
    #[error("{}: key {key}: {what}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A vocabulary that cannot be used.
    #[error("{name}: vocabulary: {what}")]
    Vocabulary {
        /// The file.
        name: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// No such conversation template.
    #[error("there is no template {name:?}; known are {known}")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A template in which the end of an answer cannot be told from the ids.
    #[error(
        "a model cannot be trained in the format {template:?}: where its answers end is not known in tokens"
    )]
    NotTrainable {
        /// The template's name.
        template: String,
    },
    /// Two parts of a conversation share a token.
    #[error("the tokens of this conversation in {template:?} run across the edge of an answer")]
    SplitTokens {
        /// The template's name.
        template: String,
    },
    /// A token that the prompt needs is not in the vocabulary.
    #[error(
        "the vocabulary has no token {token}, which this model's prompts need; the text file belongs to another model"
    )]
    MissingToken {
        /// The token's text.
        token: String,
    },
    /// A model's own chat template fails.
    #[error("{name}: chat template: {why}; choose one of Pumice's templates instead")]
    ChatTemplate {
        /// The file.
        name: String,
        /// What failed, and where in the template.
        why: String,
    },
    /// The model's file, or running the model.
    #[error(transparent)]
    Model(#[from] pumice_models::Error),
    /// A sampling option outside its range.
    #[error("{what} {value}: must be {range}")]
    SamplerOption {
        /// The option.
        what: &'static str,
        /// What was given.
        value: f32,
        /// What is allowed.
        range: &'static str,
    },
    /// The model computed something that is no number.
    #[error(
        "the logit of token {id} is {value}: the model's weights are damaged; check the file or make it anew"
    )]
    BadLogits {
        /// The first such token.
        id: u32,
        /// Its logit: no number or +∞, or −∞ where every token's is.
        value: f32,
    },
    /// There is no token to draw.
    #[error("the model's vocabulary is empty: the file is damaged; make it anew")]
    NoLogits,
    /// A picture was shown to a model without eyes.
    #[error(
        "this model has no vision part: give its mmproj file (--mmproj FILE), or a LLaVA model that holds both"
    )]
    NoVision,
    /// A picture's features were let go of.
    #[error("this picture was seen too many pictures ago to be kept: show it again, or begin anew (/clear)")]
    PictureForgotten,
    /// A device failed, and the model could not be opened on the one to go on with.
    #[error(
        "the model is open on no device any more; start again, with `--device cpu` or a smaller context (-c)"
    )]
    NoDevice,
    /// Nothing was asked.
    #[error("the question is empty: ask something, or show a picture")]
    EmptyQuestion,
    /// Nothing can be answered again.
    #[error("nothing has been asked yet that could be answered again")]
    NothingAsked,
    /// The conversation does not fit in the context.
    #[error(
        "the conversation takes {tokens} tokens, the context holds {ctx} with room for an answer; \
         ask less, begin anew (/clear), or make the context larger (-c {})", (tokens + 256).next_multiple_of(256)
    )]
    PromptTooLong {
        /// Positions that the prompt takes.
        tokens: usize,
        /// Positions of the context.
        ctx: usize,
    },
    /// A text has not enough tokens for one window.
    #[error(
        "the text has {tokens} tokens, one window needs {ctx}: give a longer text, or make the window shorter (-c N)"
    )]
    TextTooShort {
        /// Tokens of the text, the beginning-of-text token counted.
        tokens: usize,
        /// Tokens of a window.
        ctx: usize,
    },
    /// A window in whose second half no token follows another.
    #[error(
        "a window of {ctx} tokens has no second half to score: it takes at least 3 (-c N), usual are 512"
    )]
    WindowTooShort {
        /// Tokens of a window.
        ctx: usize,
    },
    /// A file of conversations could not be read.
    #[error("{}: cannot read the conversations: {source}", path.display())]
    ReadData {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds no conversations in LLaVA's form.
    #[error("{}: {what}", path.display())]
    NotRows {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and the form that is expected.
        what: String,
    },
    /// A conversation of a data file that cannot be used.
    #[error("{row}: {what}")]
    Row {
        /// File, number from 0 and id.
        row: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// Two models whose predictions cannot be held against each other.
    #[error("the two models cannot be compared: {what}; a KL divergence takes two files of the same model")]
    NotComparable {
        /// In what they differ.
        what: String,
    },
    /// Two models that are to be compared are different models.
    #[error(
        "the file and the reference are different models: their prompts, vocabularies or widths differ; \
         give the checkpoint that the file was made of, with the same --template and --image-aspect-ratio"
    )]
    VerifyPrompts,
}
