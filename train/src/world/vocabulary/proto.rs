//! Writes SentencePiece's `ModelProto`, the format of `tokenizer.model`.
//!
//! Protobuf: a field is a varint `number << 3 | wire type`, then a varint (type 0), four bytes (5), or a length and that
//! many bytes (2). Numbers are those of `sentencepiece_model.proto`; what is left out has SentencePiece's default.

use pumice_runtime::vocab::Kind;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u64, value: i64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(value as u64, out); // a negative int32 is ten bytes of two's complement
}

fn float(field: u64, value: f32, out: &mut Vec<u8>) {
    varint((field << 3) | 5, out);
    out.extend(value.to_le_bytes());
}

fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    varint((field << 3) | 2, out);
    varint(value.len() as u64, out);
    out.extend(value);
}

/// The number of a kind in `SentencePiece.Type`.
fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Normal => 1,
        Kind::Unknown => 2,
        Kind::Control => 3,
        Kind::UserDefined => 4,
        Kind::Unused => 5,
        Kind::Byte => 6,
    }
}

/// The model of pieces with scores and kinds, with LLaMA's settings: BPE, byte fallback, a space in front, text as it is.
pub(super) fn model(pieces: &[(String, f32, Kind)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (piece, score, kind) in pieces {
        let mut entry = Vec::new();
        bytes(1, piece.as_bytes(), &mut entry);
        float(2, *score, &mut entry);
        number(3, kind_number(*kind), &mut entry);
        bytes(1, &entry, &mut out);
    }
    let mut trainer = Vec::new();
    number(3, 2, &mut trainer); // model_type: BPE
    number(4, pieces.len() as i64, &mut trainer); // vocab_size
    number(35, 1, &mut trainer); // byte_fallback
    for (field, id) in [(40, 0), (41, 1), (42, 2), (43, -1)] {
        number(field, id, &mut trainer); // ids of unknown, begin, end, padding
    }
    bytes(2, &trainer, &mut out);
    let mut normalizer = Vec::new();
    bytes(1, b"identity", &mut normalizer);
    number(3, 1, &mut normalizer); // add_dummy_prefix
    number(4, 0, &mut normalizer); // remove_extra_whitespaces
    number(5, 1, &mut normalizer); // escape_whitespaces
    bytes(3, &normalizer, &mut out);
    out
}
