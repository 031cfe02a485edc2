//! Reads Hugging Face's `tokenizer.json`.
//!
//! For LLaMA it was made from a SentencePiece model and lost the scores. They can be had back: the merges are listed in
//! the order of the scores of what they make, and SentencePiece's BPE trainer numbers its pieces 0, −1, −2 … in the order
//! in which it found them, single characters last. So the pieces that merges make, in order of their first merge, get
//! those numbers, and the rest follow by id; for LLaMA's vocabulary this gives the original scores exactly. Runs of spaces
//! are the exception: LLaMA's makers added them by hand, to be merged after everything else, and some versions of
//! `transformers` list them first.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use serde_json::Value;

use super::{Algorithm, Piece, Roles, TokenType, Vocab};
use crate::{Error, Result};

/// No vocabulary is near this; more means a damaged or hostile file.
const MAX_PIECES: usize = 1 << 20;

/// Reads the vocabulary from `json`, the contents of `path`.
///
/// # Errors
/// The file is not a BPE tokenizer, has holes in its ids, or splits text by a rule that has no name in GGUF.
pub(super) fn parse(path: &Path, json: &Value) -> Result<Vocab> {
    let bad = |problem: String| Error::Tokenizer { path: path.into(), problem };
    let model = &json["model"];
    if model["type"].as_str() != Some("BPE") {
        return Err(bad(format!("model type {} is not BPE, which LLaMA uses", model["type"])));
    }
    let texts = texts(model).map_err(&bad)?;
    let merges = merges(model).map_err(&bad)?;
    let special: HashMap<usize, bool> = added(json).collect();
    let byte_fallback = model["byte_fallback"].as_bool().unwrap_or(false);
    let algorithm = if byte_fallback {
        Algorithm::SentencePiece
    } else {
        let pre = splitting_rule(&json["pre_tokenizer"]).ok_or_else(|| {
            bad("splits text by an unknown rule; give the checkpoint a tokenizer.model, if its model has one".into())
        })?;
        Algorithm::ByteLevel { merges: merges.iter().map(|(l, r)| format!("{l} {r}")).collect(), pre }
    };
    let kind = |id: usize, text: &str| match special.get(&id) {
        _ if Some(text) == model["unk_token"].as_str() => TokenType::Unknown,
        Some(true) => TokenType::Control,
        _ if byte_fallback && is_byte(text) => TokenType::Byte,
        Some(false) => TokenType::UserDefined,
        None => TokenType::Normal,
    };
    let kinds: Vec<TokenType> = texts.iter().enumerate().map(|(id, text)| kind(id, text)).collect();
    let scores = scores(&texts, &kinds, &merges);
    let base = texts.len();
    let pieces = texts.into_iter().zip(kinds).zip(scores);
    let pieces = pieces.map(|((text, kind), score)| Piece { text, score, kind }).collect();
    let unk = model["unk_token"].as_str();
    let mut vocab = Vocab {
        path: path.into(),
        pieces,
        base,
        algorithm,
        roles: Roles::default(),
        add_bos: adds_bos(&json["post_processor"]) || byte_fallback,
        add_eos: false,
        add_space_prefix: adds_space(json),
        chat_template: None,
    };
    let id_of = |text: &str| vocab.pieces.iter().position(|p| p.text == text).map(|id| id as u32);
    vocab.roles.unk = unk.and_then(id_of);
    if byte_fallback {
        // SentencePiece's names, where no file beside says otherwise.
        (vocab.roles.bos, vocab.roles.eos) = (id_of("<s>"), id_of("</s>"));
    }
    Ok(vocab)
}

/// The pieces by id. `model.vocab` maps text to id; ids must be 0, 1, 2 … without a hole.
fn texts(model: &Value) -> Result<Vec<String>, String> {
    let vocab = model["vocab"].as_object().ok_or("has no model.vocab")?;
    if vocab.is_empty() || vocab.len() > MAX_PIECES {
        return Err(format!("has {} pieces; it is damaged", vocab.len()));
    }
    let mut texts = vec![None; vocab.len()];
    for (text, id) in vocab {
        let slot = id.as_u64().and_then(|id| texts.get_mut(usize::try_from(id).ok()?));
        match slot {
            Some(slot @ None) => *slot = Some(text.clone()),
            _ => {
                return Err(format!(
                    "piece {text:?} has id {id}, which is taken or beyond the {} pieces",
                    vocab.len()
                ));
            }
        }
    }
    Ok(texts.into_iter().flatten().collect())
}

/// The merges, written "left right" or ["left", "right"].
fn merges(model: &Value) -> Result<Vec<(String, String)>, String> {
    let list = model["merges"].as_array().ok_or("has no model.merges")?;
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())),
        Value::Array(pair) if pair.len() == 2 => {
            Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()))
        }
        _ => None,
    };
    list.iter().map(|m| pair(m).ok_or_else(|| format!("merge {m} is not a pair"))).collect()
}

/// Ids of `added_tokens` that lie in the vocabulary, with whether they are special.
fn added(json: &Value) -> impl Iterator<Item = (usize, bool)> {
    let list = json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|t| {
        let id = usize::try_from(t["id"].as_u64()?).ok()?;
        Some((id, t["special"].as_bool().unwrap_or(false)))
    })
}

/// SentencePiece's scores, by the order of the merges (see above). Tokens that are never merged keep 0.
fn scores(texts: &[String], kinds: &[TokenType], merges: &[(String, String)]) -> Vec<f32> {
    let ids: HashMap<&str, usize> = texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for (left, right) in merges {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str())
            && kinds[id] == TokenType::Normal
            && seen.insert(id)
        {
            order.push(id);
        }
    }
    order.extend((0..texts.len()).filter(|id| kinds[*id] == TokenType::Normal && !seen.contains(id)));
    let mut scores = vec![0.0; texts.len()];
    for (rank, id) in order.into_iter().enumerate() {
        scores[id] = if is_run_of_spaces(&texts[id]) { RUN_OF_SPACES } else { -(rank as f32) };
    }
    scores
}

/// What LLaMA's `tokenizer.model` gives runs of spaces.
const RUN_OF_SPACES: f32 = -1e9;

fn is_run_of_spaces(text: &str) -> bool {
    text.chars().count() > 1 && text.chars().all(|c| c == '\u{2581}')
}

/// `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Llama 3's rule of splitting, which differs from others in numbers of up to three digits (`\p{N}{1,3}`).
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// llama.cpp's name of the rule by which `pre_tokenizer` splits text.
fn splitting_rule(pre_tokenizer: &Value) -> Option<&'static str> {
    let single = [pre_tokenizer.clone()];
    let steps = pre_tokenizer["pretokenizers"].as_array().map_or(&single[..], Vec::as_slice);
    let kinds: Vec<&str> = steps.iter().filter_map(|s| s["type"].as_str()).collect();
    match kinds[..] {
        ["Split", "ByteLevel"] if steps[0]["pattern"]["Regex"].as_str() == Some(LLAMA_3) => Some("llama-bpe"),
        ["Digits", "ByteLevel"] if steps[0]["individual_digits"].as_bool() == Some(true) => Some("smollm"),
        ["ByteLevel"] if pre_tokenizer["use_regex"].as_bool() != Some(false) => Some("gpt-2"),
        _ => None,
    }
}

/// Whether the template for one text begins with a special token.
fn adds_bos(post_processor: &Value) -> bool {
    let single = [post_processor.clone()];
    let steps = post_processor["processors"].as_array().map_or(&single[..], Vec::as_slice);
    steps.iter().any(|s| s["single"][0]["SpecialToken"].is_object())
}

/// Whether a space (U+2581) is put before the text: by the normalizer in older files, by Metaspace in newer.
fn adds_space(json: &Value) -> bool {
    let normalizer = &json["normalizer"];
    let single = [normalizer.clone()];
    let steps = normalizer["normalizers"].as_array().map_or(&single[..], Vec::as_slice);
    let pre = &json["pre_tokenizer"];
    let metaspace = pre["type"] == "Metaspace"
        && pre["prepend_scheme"]
            .as_str()
            .map_or(pre["add_prefix_space"] != Value::Bool(false), |s| s != "never");
    metaspace || steps.iter().any(|s| s["type"] == "Prepend")
}
