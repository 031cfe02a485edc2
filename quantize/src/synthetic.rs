//! Models of true shapes with random weights: for benches, for tests and for trying the program without a download.
//!
//! Speed hangs on shapes and types, not on values, so a random 7B measures a real one. To have its 4 GB in seconds, a
//! large model's matrices repeat a few hundred rows, which are quantized once per type and width and then written
//! again and again, each tensor beginning at another row. The tiny model's rows are all different. The words of such a
//! model mean nothing; its vocabulary works, so that the whole way from text to text can be walked.

mod words;

use pumice_models::{
    config::{CLIP_MEAN, CLIP_STD},
    gguf::Value,
    names,
};

use crate::{
    FileType, ModelFacts, Options, Recipe, Result,
    run::run_in_memory,
    source::{Llava, Random, Scaling, Source, SourceTensor, Text, Vision, one_of, text_keys, vision_keys},
    vocab::{Algorithm, Roles, Vocab},
};

/// The shapes that exist.
pub const SHAPES: [&str; 4] = ["tiny", "llava-1.5-7b", "llava-1.5-13b", "llava-v1-7b"];

/// Rows after which a large model's matrices repeat: a prime, so that no two heads are alike, and few enough that they
/// are quantized in a second.
const PERIOD: usize = 251;

/// The key that marks such a file.
const SYNTHETIC_KEY: &str = "pumice.synthetic";

/// What a person is told of such a source.
const NOTE: &str = "the weights are random: its words mean nothing";

/// A GGUF file with random weights of `shape`, whole in memory.
///
/// # Errors
/// No shape has that name.
pub fn synthetic(shape: &str, file_type: FileType) -> Result<Vec<u8>> {
    run_in_memory(&source(shape)?, &Options::new(Recipe::new(file_type)), &())
}

/// A source with random weights of `shape`, to be run like any other.
///
/// # Errors
/// No shape has that name.
pub fn source(shape: &str) -> Result<Source> {
    one_of("synthetic model", Some(shape), &SHAPES)?;
    let large = |blocks, hidden, ff, heads| text(32000, blocks, hidden, ff, heads);
    let (text, clip, projector, name) = match shape {
        "llava-1.5-7b" => (large(32, 4096, 11008, 32), clip(336, 1024, 4096, 24, 16), 2, "llava-v1.5"),
        "llava-1.5-13b" => (large(40, 5120, 13824, 40), clip(336, 1024, 4096, 24, 16), 2, "llava-v1.5"),
        "llava-v1-7b" => {
            let vicuna_1 = Text { context: 2048, rms_eps: 1e-6, ..large(32, 4096, 11008, 32) };
            (vicuna_1, clip(224, 1024, 4096, 24, 16), 1, "llava-v1")
        }
        // Small enough to be made and answered with at once; every width a multiple of 256 in the text model, so that
        // K-quants stay what they are.
        _ => (text(1024, 4, 256, 512, 4), clip(56, 64, 128, 4, 2), 2, "llava-v1.5"),
    };
    Ok(Maker { period: (shape != "tiny").then_some(PERIOD), tensors: Vec::new() }
        .make(shape, &text, &clip, projector, name))
}

/// Elements from which on a model counts as large, and its matrices repeat: drawing all of them would take a minute.
const LARGE: usize = 1 << 28;

/// Random weights in the place of `source`'s, with its shapes, names and metadata, vocabulary included.
pub fn like(mut source: Source) -> Source {
    let elements: usize = source.tensors.iter().map(SourceTensor::elements).sum();
    let mut maker = Maker { period: (elements >= LARGE).then_some(PERIOD), tensors: Vec::new() };
    for SourceTensor { name, dims, .. } in std::mem::take(&mut source.tensors) {
        match dims.len() {
            2.. => maker.matrix(name, &dims),
            // Factors of rotary frequencies are no weights; without them long contexts are as fast.
            _ if name == names::ROPE_FREQS => maker.push(name, &dims, 1.0, 0.0, None),
            _ if name.ends_with(".bias") || name == names::V_CLASS_EMBD => {
                maker.push(name, &dims, 0.0, 0.05, None)
            }
            _ => maker.push(name, &dims, 1.0, 0.2, None),
        }
    }
    source.tensors = maker.tensors;
    source.name = format!("synthetic {}", source.name);
    source.notes = vec![NOTE.into()];
    if source.has_text() {
        source.text.push((SYNTHETIC_KEY.into(), Value::Bool(true)));
    }
    source
}

/// LLaMA-2's constants with the given sizes.
fn text(vocab: usize, blocks: usize, hidden: usize, ff: usize, heads: usize) -> Text {
    Text {
        vocab,
        hidden,
        ff,
        blocks,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        context: 4096,
        rms_eps: 1e-5,
        rope_base: 10000.0,
        scaling: Scaling::None,
        tied: false,
    }
}

/// CLIP's constants with the given sizes.
fn clip(image: usize, width: usize, ff: usize, blocks: usize, heads: usize) -> Vision {
    Vision {
        width,
        ff,
        blocks,
        heads,
        image,
        patch: 14,
        projection: 768,
        eps: 1e-5,
        gelu: false,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    }
}

/// Makes tensors one after the other.
struct Maker {
    period: Option<usize>,
    tensors: Vec<SourceTensor>,
}

impl Maker {
    fn make(mut self, shape: &str, text: &Text, clip: &Vision, layers: usize, name: &str) -> Source {
        let run = clip.blocks - 1;
        self.text(text);
        self.vision(clip, run);
        let mut columns = clip.width;
        for layer in 0..layers {
            self.matrix(names::mm(2 * layer), &[columns, text.hidden]);
            self.bias(names::mm_bias(2 * layer), text.hidden);
            columns = text.hidden;
        }
        let projector = if layers == 1 { "linear".to_owned() } else { format!("mlp{layers}x_gelu") };
        let llava = Llava { aspect: (clip.image != 224).then_some("pad"), ..Llava::unsaid() };
        let mut keys = text_keys(text, text.vocab);
        keys.extend(vocab(text.vocab).keys());
        keys.push((SYNTHETIC_KEY.into(), Value::Bool(true)));
        Source {
            name: format!("synthetic {shape}"),
            paths: Vec::new(),
            notes: vec![NOTE.into()],
            text: keys,
            vision: vision_keys(clip, run, &llava, &projector, name),
            tensors: self.tensors,
            facts: ModelFacts {
                blocks: text.blocks,
                heads: text.heads,
                kv_heads: text.kv_heads,
                tied: false,
            },
        }
    }

    fn text(&mut self, text: &Text) {
        let hidden = text.hidden;
        self.matrix(names::TOKEN_EMBD.into(), &[hidden, text.vocab]);
        for block in 0..text.blocks {
            for part in names::BLK_PARTS {
                let name = names::blk(block, part);
                match part {
                    names::ATTN_NORM | names::FFN_NORM => self.norm(name, hidden),
                    names::FFN_GATE | names::FFN_UP => self.matrix(name, &[hidden, text.ff]),
                    names::FFN_DOWN => self.matrix(name, &[text.ff, hidden]),
                    _ => self.matrix(name, &[hidden, hidden]),
                }
            }
        }
        self.norm(names::OUTPUT_NORM.into(), hidden);
        self.matrix(names::OUTPUT.into(), &[hidden, text.vocab]);
    }

    fn vision(&mut self, clip: &Vision, run: usize) {
        let width = clip.width;
        self.bias(names::V_CLASS_EMBD.into(), width);
        self.matrix(names::V_PATCH_EMBD.into(), &[clip.patch, clip.patch, 3, width]);
        self.matrix(names::V_POSITION_EMBD.into(), &[width, 1 + clip.patches()]);
        self.norm(names::V_PRE_LN.into(), width);
        self.bias(names::V_PRE_LN_BIAS.into(), width);
        for block in 0..run {
            for part in names::V_BLK_PARTS {
                let name = names::v_blk(block, part);
                match part {
                    names::LN1 | names::LN2 => self.norm(name, width),
                    names::FFN_UP => self.matrix(name, &[width, clip.ff]),
                    names::FFN_DOWN => self.matrix(name, &[clip.ff, width]),
                    _ => self.matrix(name, &[width, width]),
                }
                let rows = if part == names::FFN_UP { clip.ff } else { width };
                self.bias(names::v_blk_bias(block, part), rows);
            }
        }
    }

    /// Weights of spread 1.6/√k: rows keep the size of what they are given, and what the picture says is not drowned.
    fn matrix(&mut self, name: String, dims: &[usize]) {
        let cols: usize = dims[..dims.len() - 1].iter().product();
        self.push(name, dims, 0.0, 1.6 / (cols as f32).sqrt(), self.period);
    }

    fn norm(&mut self, name: String, width: usize) {
        self.push(name, &[width], 1.0, 0.2, None);
    }

    fn bias(&mut self, name: String, width: usize) {
        self.push(name, &[width], 0.0, 0.05, None);
    }

    fn push(&mut self, name: String, dims: &[usize], mean: f32, spread: f32, period: Option<usize>) {
        let random = Random { seed: self.tensors.len() as u64, mean, spread, period };
        self.tensors.push(SourceTensor::from_random(name, dims.to_vec(), random));
    }
}

/// A SentencePiece vocabulary of `count` pieces that reads and writes ASCII text in words and syllables.
fn vocab(count: usize) -> Vocab {
    Vocab {
        path: "synthetic".into(),
        pieces: words::pieces(count),
        base: count,
        algorithm: Algorithm::SentencePiece,
        roles: Roles { bos: Some(1), eos: Some(2), unk: Some(0), pad: Some(0) },
        add_bos: true,
        add_eos: false,
        add_space_prefix: true,
        chat_template: None,
    }
}

#[cfg(test)]
mod tests;
