//! Reads `tokenizer.model`, a protobuf of SentencePiece's `ModelProto`.
//!
//! Only the few fields that matter are taken, by a reader of the wire format (varints, 4- and 8-byte fields, lengths):
//! pieces with score and type, the trainer's role ids and the normalizer's dummy prefix. Every length is checked
//! against what is left, and the number of pieces is bounded.

use std::path::Path;

use super::{Algorithm, Piece, Roles, TokenType, Vocab};
use crate::{Error, Result};

/// No vocabulary is near this; more means a damaged or hostile file.
const MAX_PIECES: usize = 1 << 20;
/// `TrainerSpec.model_type` of byte-pair encoding (1 unigram, 3 word, 4 char).
const BPE: u64 = 2;

/// One field of a message.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    Fixed64,
}

/// The fields of a message, one after the other.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    /// The next field with its number; `Some(None)` where the message is broken, `None` at its end.
    fn next(&mut self) -> Option<Option<(u64, Field<'a>)>> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.field())
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

/// Reads the vocabulary from the bytes of `path`.
///
/// # Errors
/// The file is damaged, or is not a BPE model.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vocab> {
    let bad = |problem: String| Error::Tokenizer { path: path.into(), problem };
    let broken = |at: &Fields<'_>| {
        let offset = bytes.len() - at.rest.len();
        bad(format!("byte {offset}: not a SentencePiece model or damaged; download it again"))
    };
    let mut pieces = Vec::new();
    // SentencePiece's defaults (sentencepiece_model.proto).
    let mut trainer = Trainer { model_type: 1, unk: 0, bos: 1, eos: 2, pad: -1 };
    let mut add_space_prefix = true;
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next() {
        match field.ok_or_else(|| broken(&fields))? {
            (1, Field::Bytes(message)) => pieces.push(piece(message).ok_or_else(|| broken(&fields))?),
            (2, Field::Bytes(message)) => trainer.read(message).ok_or_else(|| broken(&fields))?,
            (3, Field::Bytes(message)) => {
                add_space_prefix = dummy_prefix(message).ok_or_else(|| broken(&fields))?
            }
            _ => {}
        }
        if pieces.len() > MAX_PIECES {
            return Err(bad(format!("has more than {MAX_PIECES} pieces; it is damaged")));
        }
    }
    if pieces.is_empty() {
        return Err(bad("has no pieces; it is empty or a Git LFS pointer: download it again".into()));
    }
    if trainer.model_type != BPE {
        return Err(bad(format!(
            "is a SentencePiece model of type {}, not BPE, which LLaMA uses",
            trainer.model_type
        )));
    }
    let id = |id: i64| u32::try_from(id).ok().filter(|id| (*id as usize) < pieces.len());
    let roles =
        Roles { bos: id(trainer.bos), eos: id(trainer.eos), unk: id(trainer.unk), pad: id(trainer.pad) };
    Ok(Vocab {
        path: path.into(),
        base: pieces.len(),
        pieces,
        algorithm: Algorithm::SentencePiece,
        roles,
        add_bos: true,
        add_eos: false,
        add_space_prefix,
        chat_template: None,
    })
}

/// `SentencePiece`: 1 piece, 2 score, 3 type.
fn piece(message: &[u8]) -> Option<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: TokenType::Normal };
    let mut fields = Fields { rest: message };
    while let Some(field) = fields.next() {
        match field? {
            (1, Field::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).ok()?,
            (2, Field::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
            (3, Field::Varint(kind)) => piece.kind = token_type(kind)?,
            _ => {}
        }
    }
    Some(piece)
}

fn token_type(number: u64) -> Option<TokenType> {
    let all = [
        TokenType::Normal,
        TokenType::Unknown,
        TokenType::Control,
        TokenType::UserDefined,
        TokenType::Unused,
        TokenType::Byte,
    ];
    all.into_iter().find(|t| *t as u64 == number)
}

/// What is wanted of `TrainerSpec`; ids are −1 where there is no such token.
struct Trainer {
    model_type: u64,
    unk: i64,
    bos: i64,
    eos: i64,
    pad: i64,
}

impl Trainer {
    fn read(&mut self, message: &[u8]) -> Option<()> {
        let mut fields = Fields { rest: message };
        while let Some(field) = fields.next() {
            match field? {
                (3, Field::Varint(v)) => self.model_type = v,
                // Negative int32s are written as 64-bit varints, so the cast restores their sign.
                (40, Field::Varint(v)) => self.unk = v as i64,
                (41, Field::Varint(v)) => self.bos = v as i64,
                (42, Field::Varint(v)) => self.eos = v as i64,
                (43, Field::Varint(v)) => self.pad = v as i64,
                _ => {}
            }
        }
        Some(())
    }
}

/// `NormalizerSpec`: 3 add_dummy_prefix, true where absent.
fn dummy_prefix(message: &[u8]) -> Option<bool> {
    let mut add = true;
    let mut fields = Fields { rest: message };
    while let Some(field) = fields.next() {
        if let (3, Field::Varint(v)) = field? {
            add = v != 0;
        }
    }
    Some(add)
}
