//! What a run will cost before it starts: steps, tokens, parameters, memory of a rank, hours.
//!
//! Formulae, per token of a language model with `N` matrix elements, `L` layers of width `h` and rows of `t` positions:
//! forward `F = 2·N + 2·L·h·t` FLOPs (causal attention, half of `4·t·h` a layer); a frozen layer that gradients pass through costs `2·F`,
//! a learned one `3·F` (Kaplan et al., 2020). What checkpointing computes twice is not counted, so it lowers the MFU.

pub mod corpus;
pub mod machine;
pub mod shape;
mod show;

use serde::Serialize;

pub use corpus::Corpus;
pub use machine::Machine;
pub use shape::Shape;

use super::{Kind, Layered, Recipe, Stage};
use crate::Result;

/// Rows of logits that stand at once in f32: the loss goes through the tokens in pieces of this many.
const LOGIT_ROWS: u64 = 1024;

/// Parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Vision tower, frozen.
    pub vision: u64,
    /// Projector, learned.
    pub projector: u64,
    /// Language model.
    pub language: u64,
    /// LoRA's matrices, learned.
    pub adapters: u64,
    /// Learned, of all.
    pub trainable: u64,
    /// Frozen, of all.
    pub frozen: u64,
}

/// Bytes on one rank at the fullest moment of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights that are computed with, and under ZeRO-3 the two layers that are gathered.
    pub weights: u64,
    /// f32 copies of learned weights (0 where it computes in f32: the weights are the masters).
    pub master: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// f32 gradients.
    pub gradients: u64,
    /// What the backward pass needs of the forward pass, of one micro-batch of longest rows.
    pub activations: u64,
}

impl Memory {
    /// Sum.
    pub fn total(&self) -> u64 {
        self.weights + self.master + self.moments + self.gradients + self.activations
    }
}

/// What a run will do and take.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Samples of the data.
    pub rows: u64,
    /// Whether the data's file was counted; else the published numbers stand here.
    pub counted: bool,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Of them with a rising rate.
    pub warmup_steps: u64,
    /// Processes.
    pub ranks: u64,
    /// Micro-batches of a step on a rank.
    pub accumulation: u64,
    /// Positions over the run, image slots counted, padding not.
    pub tokens: u64,
    /// Parameters.
    pub parameters: Parameters,
    /// Memory of a rank.
    pub memory: Memory,
    /// FLOPs of the run by the formulae above.
    pub flops: f64,
    /// The machine that the hours are for.
    pub machine: Machine,
    /// Hours of computing; saving checkpoints is not in it.
    pub hours: f64,
    /// Whether `memory` is within the machine's.
    pub fits: bool,
}

impl Plan {
    /// The plan of `recipe` on `machine`.
    ///
    /// # Errors
    /// The batch cannot be shared out over the machine's devices.
    pub fn new(recipe: &Recipe, shape: &Shape, corpus: &Corpus, machine: &Machine) -> Result<Self> {
        let ranks = machine.count;
        let steps = recipe.total_steps(corpus.rows);
        let steps_per_epoch = recipe.steps_per_epoch(corpus.rows);
        let epochs = steps as f64 / steps_per_epoch.max(1) as f64;
        let tokens = epochs * corpus.tokens(recipe, shape);
        let flops = epochs * flops(recipe, shape, corpus);
        let memory = memory(recipe, shape, corpus, ranks);
        Ok(Self {
            rows: corpus.rows,
            counted: corpus.counted,
            steps_per_epoch,
            steps,
            warmup_steps: recipe.warmup_steps(steps),
            ranks,
            accumulation: recipe.accumulation(ranks)?,
            tokens: tokens as u64,
            parameters: parameters(recipe, shape),
            memory,
            flops,
            hours: flops / (ranks as f64 * machine.peak * machine.mfu) / 3600.0,
            fits: memory.total() <= machine.memory,
            machine: machine.clone(),
        })
    }

    /// Settings with who set them, then the plan, as text in aligned columns.
    pub fn text(&self, layered: &Layered) -> String {
        show::text(self, layered)
    }

    /// The same as JSON: `{"settings": {key: {"value", "from"}}, "plan": …}`.
    pub fn json(&self, layered: &Layered) -> serde_json::Value {
        show::json(self, layered)
    }
}

/// Parameters of each part, and which are learned.
pub fn parameters(recipe: &Recipe, shape: &Shape) -> Parameters {
    let vision = shape.vision.parameters(shape.vision.blocks);
    let projector = shape.projector(recipe.projector_type);
    let language = shape.language();
    let adapters = recipe.lora.as_ref().map_or(0, |lora| shape.adapters(lora));
    let learned = projector + adapters + if trains_language(recipe) { language } else { 0 };
    Parameters {
        vision,
        projector,
        language,
        adapters,
        trainable: learned,
        frozen: vision + projector + language + adapters - learned,
    }
}

fn trains_language(recipe: &Recipe) -> bool {
    recipe.stage != Stage::Align && recipe.lora.is_none()
}

/// FLOPs of one epoch.
fn flops(recipe: &Recipe, shape: &Shape, corpus: &Corpus) -> f64 {
    step_flops(recipe, shape, corpus.tokens(recipe, shape), corpus.rows as f64, corpus.images as f64)
}

/// FLOPs of learning from `rows` rows of `tokens` positions in all, with `images` pictures.
pub fn step_flops(recipe: &Recipe, shape: &Shape, tokens: f64, rows: f64, images: f64) -> f64 {
    let t = tokens / rows.max(1.0);
    let forward = 2.0 * shape.matrices() as f64 + 2.0 * (shape.blocks * shape.hidden) as f64 * t;
    let passes = if trains_language(recipe) { 3.0 } else { 2.0 };
    let adapters = recipe.lora.as_ref().map_or(0, |lora| shape.adapters(lora)) as f64;
    let slots = shape.vision.patches() as f64 * images;
    passes * forward * tokens
        + 6.0 * adapters * tokens
        + 6.0 * shape.projector(recipe.projector_type) as f64 * slots
        + images * shape.vision.forward(recipe.select_layer)
}

/// Memory of one rank of `ranks`.
pub fn memory(recipe: &Recipe, shape: &Shape, corpus: &Corpus, ranks: u64) -> Memory {
    let p = parameters(recipe, shape);
    let share = |bytes: u64| bytes.div_ceil(ranks);
    // Weights that are learned, and those alone: what is frozen stands whole on each rank.
    let sharded = recipe.zero == 3 && ranks > 1 && trains_language(recipe);
    let bytes = recipe.kind.bytes();
    let language = match &recipe.lora {
        // 4.5 bits a weight: 4, and a scale per 64 of them that is itself quantized or 16 bits wide; norms and tables stay whole.
        Some(lora) if lora.bits == 4 => {
            (shape.blocks * shape.block_matrices()) * 9 / 16
                + bytes * (p.language - shape.blocks * shape.block_matrices())
        }
        _ => bytes * p.language,
    };
    let gathered = if sharded { 2 * bytes * shape.largest_unit() } else { 0 };
    let master = if recipe.kind == Kind::F32 { 0 } else { 4 * p.trainable };
    // Several ranks: a unit's gradient stands whole until it is reduced.
    let whole_gradient = if trains_language(recipe) && ranks > 1 { 4 * shape.largest_unit() } else { 0 };
    Memory {
        weights: if sharded { share(language) } else { language }
            + gathered
            + bytes * (p.vision + p.projector + p.adapters),
        master: share(master),
        moments: share(8 * p.trainable),
        gradients: share(4 * p.trainable) + whole_gradient,
        activations: activations(recipe, shape, corpus),
    }
}

/// Bytes kept between forward and backward of a micro-batch whose rows are all as long as the longest.
fn activations(recipe: &Recipe, shape: &Shape, corpus: &Corpus) -> u64 {
    let bytes = recipe.kind.bytes();
    let positions = recipe.device_batch * corpus.longest(recipe, shape);
    // Of a layer: its input, both normed rows (and their f32), q, k, v, attention's output, the sum after it; gate, up, silu(gate), the product.
    let layer = bytes * (6 * shape.hidden + 2 * shape.kv_heads * shape.head_dim + 4 * shape.ff)
        + 2 * 4 * shape.hidden;
    let kept = if recipe.checkpointing {
        shape.blocks * bytes * shape.hidden + 2 * layer
    } else {
        shape.blocks * layer
    };
    // Logits, their softmax and their gradient, in f32.
    let logits = 3 * 4 * LOGIT_ROWS.min(positions) * shape.vocab;
    let v = &shape.vision;
    let vision = recipe.device_batch * (v.patches() + 1) * bytes * (4 * v.hidden + 2 * v.ff);
    let projector = 2 * bytes * recipe.device_batch * v.patches() * shape.hidden;
    positions * kept + logits.max(vision) + projector
}

#[cfg(test)]
mod tests;
