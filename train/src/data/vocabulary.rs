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

/// Makes sure that what texts become has rows in a table of `rows` rows. A mark behind the table that no text leads to (a padding
/// token that never got its row) does no harm.
///
/// # Errors
/// A piece, or the token that begins or ends, has no row: model and vocabulary do not belong together.
pub fn check(vocabulary: &Vocabulary, rows: i64) -> Result<()> {
    let used = |id: u32| {
        !matches!(vocabulary.kind(id), Kind::Control | Kind::Unused)
            || [vocabulary.bos(), vocabulary.eos()].contains(&Some(id))
    };
    match (0..vocabulary.len() as u32).rev().find(|id| used(*id)).filter(|id| i64::from(*id) >= rows) {
        Some(id) => Err(Error::Data(format!(
            "the vocabulary's token {id} ({:?}) has no row in the model's table of {rows}: the tokenizer's files belong to another model",
            vocabulary.piece(id)
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::conversation::tests::tiny;

    #[test]
    fn texts_need_rows_and_marks_do_not() {
        // The last two of tiny's tokens are marks around pictures.
        let (vocabulary, rows) = (tiny(), tiny().len() as i64);
        for enough in [rows + 64, rows, rows - 2] {
            check(&vocabulary, enough).expect("a row for each");
        }
        let said = check(&vocabulary, rows - 3).expect_err("a piece without a row").to_string();
        assert!(said.contains(&format!("token {}", rows - 3)) && said.contains("another model"), "{said}");
    }
}
