//! The vocabulary of a checkpoint's folder, for training: read by the same code that `pumice quantize` writes it into GGUF with.

use std::path::Path;

use pumice_quantize::vocab::{Algorithm, Vocab};
use pumice_runtime::vocab::{Kind, Pieces, Vocabulary};

use crate::{Error, Result};

/// Reads `tokenizer.model` or `tokenizer.json` in `folder`, with the tokens that files beside add.
///
/// # Errors
/// There is none, or it is damaged or of an unknown kind.
pub fn open(folder: &Path) -> Result<Vocabulary> {
    let vocab = Vocab::open(folder).map_err(|e| Error::Data(e.to_string()))?;
    let (model, pre, merges) = match &vocab.algorithm {
        Algorithm::SentencePiece => ("llama", "", Vec::new()),
        Algorithm::ByteLevel { merges, pre } => ("gpt2", *pre, merges.clone()),
    };
    let kind = |n: i32| match n {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => Kind::Normal,
    };
    let pieces = Pieces {
        name: vocab.path.display().to_string(),
        model: model.into(),
        pre: pre.into(),
        tokens: vocab.pieces.iter().map(|p| p.text.clone()).collect(),
        scores: vocab.pieces.iter().map(|p| p.score).collect(),
        kinds: vocab.pieces.iter().map(|p| kind(p.kind as i32)).collect(),
        merges,
        bos: vocab.roles.bos,
        eos: vocab.roles.eos,
        unknown: vocab.roles.unk,
        add_bos: Some(vocab.add_bos),
        add_space_prefix: Some(vocab.add_space_prefix),
        ..Pieces::default()
    };
    Ok(Vocabulary::new(pieces)?)
}
