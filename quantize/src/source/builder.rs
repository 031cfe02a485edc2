//! Takes the tensors that a configuration asks for out of the heap that the folders made, in llama.cpp's order.
//!
//! Each must be there with the shape that follows from the configuration, so that a file of another model is found out
//! before anything is written. Here rows are put in GGUF's order, and the vocabulary is cut to the rows worth keeping.

use std::path::PathBuf;

use pumice_models::names;

use super::{
    SourceOptions,
    config::{Json, Llava, Text, Vision},
    folder::Tensors,
    keys::Rope,
    metadata,
    tensor::{Data, Order, SourceTensor},
};
use crate::{
    Error, ModelFacts, Result,
    vocab::{TokenType, Vocab},
};

/// Takes the tensors that a configuration asks for, in llama.cpp's order.
pub(super) struct Builder {
    /// The checkpoint, for messages.
    pub path: PathBuf,
    /// The heap.
    pub tensors: Tensors,
    /// What was dropped.
    pub notes: Vec<String>,
    /// The tensors taken so far.
    pub out: Vec<SourceTensor>,
}

impl Builder {
    /// Takes tensor `name`, which must have `shape` (rows first).
    fn take(&mut self, name: &str, shape: &[usize], why: &str) -> Result<&mut SourceTensor> {
        let Some(tensor) = self.tensors.map.remove(name) else {
            return Err(Error::MissingTensor { path: self.path.clone(), tensor: name.into() });
        };
        if tensor.shape() != shape {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: name.into(),
                got: tensor.shape(),
                expected: shape.into(),
                why: why.into(),
            });
        }
        self.out.push(tensor);
        Ok(self.out.last_mut().expect("just pushed"))
    }

    /// The text model's tensors; the vocabulary is cut or filled to the rows that are kept.
    pub fn text(
        &mut self,
        text: &Text,
        mut vocab: Vocab,
        llava: Option<&Llava>,
        options: &SourceOptions,
    ) -> Result<(Vocab, ModelFacts)> {
        let why = "config.json";
        let Some(rows) = self.tensors.map.get(names::TOKEN_EMBD).map(SourceTensor::rows) else {
            return Err(Error::MissingTensor { path: self.path.clone(), tensor: names::TOKEN_EMBD.into() });
        };
        let kept = self.rows_to_keep(&vocab, rows, llava, options)?;
        vocab.resize(kept);
        self.take(names::TOKEN_EMBD, &[rows, text.hidden], why)?.dims[1] = kept;
        let (q, kv) = (text.heads * text.head_dim, text.kv_heads * text.head_dim);
        for block in 0..text.blocks {
            for part in names::BLK_PARTS {
                let shape: &[usize] = match part {
                    names::ATTN_NORM | names::FFN_NORM => &[text.hidden],
                    names::ATTN_Q => &[q, text.hidden],
                    names::ATTN_K | names::ATTN_V => &[kv, text.hidden],
                    names::ATTN_OUTPUT => &[text.hidden, q],
                    names::FFN_DOWN => &[text.hidden, text.ff],
                    _ => &[text.ff, text.hidden],
                };
                self.take_rotated(&names::blk(block, part), shape, text.head_dim)?;
                let bias = names::blk_bias(block, part);
                if self.tensors.map.contains_key(&bias) {
                    self.take_rotated(&bias, &shape[..1], text.head_dim)?;
                }
            }
        }
        self.take(names::OUTPUT_NORM, &[text.hidden], why)?;
        let tied = text.tied || !self.tensors.map.contains_key(names::OUTPUT);
        if tied {
            self.tensors.map.remove(names::OUTPUT);
        } else {
            self.take(names::OUTPUT, &[rows, text.hidden], "token_embd.weight")?.dims[1] = kept;
        }
        if let Some(factors) = text.rope_factors() {
            self.out.push(SourceTensor::from_values(names::ROPE_FREQS, factors));
        }
        if let Some(left) = self.tensors.map.keys().find(|name| name.starts_with("blk.")) {
            let problem = format!(
                "is {}, but the checkpoint holds a {left} too; the file belongs to another model",
                text.blocks
            );
            return Err(Error::Config {
                path: self.path.join("config.json"),
                key: "num_hidden_layers".into(),
                problem,
            });
        }
        let facts = ModelFacts { blocks: text.blocks, heads: text.heads, kv_heads: text.kv_heads, tied };
        Ok((vocab, facts))
    }

    /// Takes a tensor whose rows may have to be reordered for adjacent-pair rotation.
    fn take_rotated(&mut self, name: &str, shape: &[usize], head: usize) -> Result<()> {
        let rotates = self.tensors.ropes.get(name).is_some_and(|r| *r != Rope::None);
        let tensor = self.take(name, shape, "config.json")?;
        if !rotates {
            return Ok(());
        }
        tensor.order = Order::Interleaved { head };
        if tensor.dims.len() == 1 {
            // A bias is one row here, whose elements are reordered; it is small enough to be done at once.
            let column = SourceTensor { dims: vec![1, shape[0]], ..tensor.clone() };
            let mut values = vec![0.0; shape[0]];
            column.reader()?.read(0, &mut values)?;
            tensor.data = Data::Values(values);
            tensor.order = Order::Same;
        }
        Ok(())
    }

    /// How many of the `rows` of the embeddings are worth keeping. LLaVA's extra rows stand for `<image>`, which never
    /// reaches the embeddings, for padding, or make the number round; a sampler that met them would pick nonsense.
    fn rows_to_keep(
        &mut self,
        vocab: &Vocab,
        rows: usize,
        llava: Option<&Llava>,
        options: &SourceOptions,
    ) -> Result<usize> {
        if rows < vocab.base {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: names::TOKEN_EMBD.into(),
                got: vec![rows],
                expected: vec![vocab.base],
                why: format!("the tokenizer {}", vocab.path.display()),
            });
        }
        let Some(llava) = llava.filter(|_| !options.keep_original_vocab_rows) else { return Ok(rows) };
        let marks = ["<im_start>", "<im_end>", "<im_patch>"];
        let useless = |text: &str| match text {
            "<image>" | "<pad>" | "[PAD]" => true,
            mark if marks.contains(&mark) => !llava.im_start_end,
            _ => false,
        };
        let wanted = vocab.pieces.iter().take(rows).enumerate().skip(vocab.base);
        let last = wanted
            .filter(|(_, p)| p.kind != TokenType::Unused && !useless(&p.text))
            .map(|(id, _)| id)
            .next_back();
        let kept = last.map_or(vocab.base, |id| id + 1);
        if kept < rows {
            self.notes.push(format!(
                "{} rows of the vocabulary that only pad or stand for <image> are dropped",
                rows - kept
            ));
        }
        Ok(kept)
    }

    /// The vision tower's and the projector's tensors, and the metadata.
    pub fn vision(
        &mut self,
        config: Json<'_>,
        llava: &Llava,
        vision: &Vision,
        hidden: usize,
        name: &str,
    ) -> Result<metadata::Keys> {
        let run = llava.blocks_to_run(config, vision.blocks)?;
        let (why, width) = ("the vision tower's config.json", vision.width);
        self.take(names::V_CLASS_EMBD, &[width], why)?;
        self.take(names::V_PATCH_EMBD, &[width, 3, vision.patch, vision.patch], why)?;
        self.take(names::V_POSITION_EMBD, &[1 + vision.patches(), width], why)?;
        self.take(names::V_PRE_LN, &[width], why)?;
        self.take(names::V_PRE_LN_BIAS, &[width], why)?;
        for block in 0..run {
            for part in names::V_BLK_PARTS {
                let shape: &[usize] = match part {
                    names::LN1 | names::LN2 => &[width],
                    names::FFN_UP => &[vision.ff, width],
                    names::FFN_DOWN => &[width, vision.ff],
                    _ => &[width, width],
                };
                self.take(&names::v_blk(block, part), shape, why)?;
                self.take(&names::v_blk_bias(block, part), &shape[..1], why)?;
            }
        }
        let projector = self.projector(config, llava, width, hidden)?;
        Ok(metadata::vision_keys(vision, run, llava, &projector, name))
    }

    /// The projector's tensors; its kind follows from them and must agree with what the configuration says.
    fn projector(&mut self, config: Json<'_>, llava: &Llava, width: usize, hidden: usize) -> Result<String> {
        let layers = (0..).take_while(|i| self.tensors.map.contains_key(&names::mm(2 * i))).count();
        let kind = match layers {
            0 => "identity".to_owned(),
            1 => "linear".to_owned(),
            n => format!("mlp{n}x_gelu"),
        };
        let said = llava.projector.as_deref().or((layers == 0).then_some("linear")).unwrap_or(&kind);
        if said != kind {
            if layers == 0 {
                return Err(Error::MissingTensor { path: self.path.clone(), tensor: names::mm(0) });
            }
            return Err(config
                .error("mm_projector_type", format!("is {said}, but the checkpoint's projector is {kind}")));
        }
        if layers == 0 && width != hidden {
            let problem =
                format!("identity, but the vision tower is {width} wide and the text model {hidden}");
            return Err(config.error("mm_projector_type", problem));
        }
        let mut columns = width;
        for layer in 0..layers {
            let why = if layer == 0 {
                "the vision tower's width and the text model's"
            } else {
                "the text model's width"
            };
            self.take(&names::mm(2 * layer), &[hidden, columns], why)?;
            self.take(&names::mm_bias(2 * layer), &[hidden], why)?;
            columns = hidden;
        }
        Ok(kind)
    }
}
