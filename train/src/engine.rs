//! A training step: forward and backward layer by layer, accumulation, clipping, AdamW on this rank's shards, the learning rate, resumable state.
//!
//! The engine knows a model only as a [`Stack`] of pieces. It runs them one by one with detached inputs, so that a layer's graph, its gradients and
//! (with [`Options::shard_weights`]) even its weights live only while that layer is at work. Gradients, master weights and moments are
//! f32 on this rank's equal share of each unit's flat buffer (Rajbhandari et al., ZeRO, 2020: stage 2, or 3 with the weights).

pub mod llava;
pub mod memory;
pub mod optimizer;
pub mod pass;
pub mod ranks;
pub mod schedule;
pub mod shard;
pub mod stack;
pub mod state;
pub mod trainer;

use tch::{Kind, Tensor};

pub use optimizer::Group;
pub use stack::{Piece, Stack};

use crate::{Error, Result};
use optimizer::Optimizer;
use ranks::Ranks;
use shard::Shard;

/// How the engine computes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Type in which trainable weights compute: f32 or bf16. Frozen weights keep theirs, which must fit.
    pub kind: Kind,
    /// Micro-batches of one step.
    pub accumulate: usize,
    /// Keeps only the layers' inputs and computes each layer again in the backward pass (Chen et al., 2016).
    pub checkpoint: bool,
    /// Weights too live in shards and are gathered layer by layer (ZeRO-3); needs `checkpoint`.
    pub shard_weights: bool,
    /// Largest norm of the whole gradient; 0 clips nothing.
    pub clip: f64,
    /// Positions whose logits stand at once in the loss.
    pub chunk: usize,
    /// Decay of AdamW's two moments.
    pub betas: (f64, f64),
    /// Added to the root of AdamW's second moment.
    pub eps: f64,
    /// Seeds whatever is random inside the model (dropout).
    pub seed: u64,
}

impl Default for Options {
    /// The published runs: bf16, AdamW (0.9, 0.999, 1e-8), clipping at 1, checkpoints; 1024 positions are 131 MB of f32 logits for 32000 words.
    fn default() -> Self {
        Self {
            kind: Kind::BFloat16,
            accumulate: 1,
            checkpoint: true,
            shard_weights: false,
            clip: 1.0,
            chunk: 1024,
            betas: (0.9, 0.999),
            eps: 1e-8,
            seed: 0,
        }
    }
}

/// What a step's gradient looks like before it is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Mean loss over micro-batches and ranks, nats per labelled position.
    pub loss: f64,
    /// Loss of each micro-batch of this rank.
    pub micro: Vec<f64>,
    /// Norm of the whole gradient over all ranks, before clipping.
    pub norm: f64,
}

/// A model in training on this rank.
pub struct Engine<S: Stack> {
    stack: S,
    ranks: Box<dyn Ranks>,
    options: Options,
    shards: Vec<Shard>,
    optimizer: Optimizer,
    losses: Vec<Tensor>,
    step: u64,
}

impl<S: Stack> Engine<S> {
    /// Takes over `stack`; `groups` gives each trainable parameter's group by its name.
    ///
    /// A trainable unit may stand in f32 here: its master copy then keeps what bf16 would lose.
    ///
    /// # Errors
    /// [`Error::Config`] when nothing is trainable, settings contradict each other, or a flat buffer does not divide by the ranks.
    pub fn new(
        mut stack: S,
        ranks: Box<dyn Ranks>,
        options: Options,
        groups: &dyn Fn(&str) -> Group,
    ) -> Result<Self> {
        if options.accumulate == 0 || options.chunk == 0 {
            return Err(Error::Config(
                "gradient accumulation and the loss's chunk must be at least 1".into(),
            ));
        }
        if options.shard_weights && !options.checkpoint {
            return Err(Error::Config(
                "sharded weights need gradient checkpointing: without it each layer's graph would keep the gathered weights"
                    .into(),
            ));
        }
        let mut optimizer = Optimizer::new(options.betas, options.eps);
        let mut shards = Vec::new();
        for i in 0..stack.count() {
            if stack.unit(i).flat.is_some() {
                shards.push(Shard::new(stack.unit_mut(i), i, &*ranks, &options, &mut optimizer, groups)?);
            }
        }
        if shards.is_empty() {
            return Err(Error::Config("nothing to train: every unit of the model is frozen".into()));
        }
        Ok(Self { stack, ranks, options, shards, optimizer, losses: Vec::new(), step: 0 })
    }

    /// The model; with sharded weights its trainable units are empty between steps (see [`gather`](Self::gather)).
    pub fn stack(&self) -> &S {
        &self.stack
    }

    /// The model, at the end of its training, and the processes that trained it.
    pub fn into_parts(self) -> (S, Box<dyn Ranks>) {
        (self.stack, self.ranks)
    }

    /// The processes of this run.
    pub fn ranks(&self) -> &dyn Ranks {
        &*self.ranks
    }

    /// How it computes.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Steps done since the start of the training, over resumptions.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// This rank's shards, in the order of the units.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The mean loss of the micro-batches since the last step and the norm of their gradient; all ranks must call it together.
    pub fn measure(&mut self) -> Result<Measured> {
        // As in `micro`: reading a value waits for the device without an end, this does not.
        self.ranks.barrier()?;
        let mut micro = Vec::new();
        for loss in self.losses.drain(..) {
            micro.push(loss.double_value(&[]));
        }
        let mean = micro.iter().sum::<f64>() / micro.len().max(1) as f64;
        let squares = tch::no_grad(|| -> f64 {
            let norms: Vec<Tensor> = self.shards.iter_mut().map(|s| s.gradient().norm()).collect();
            let norms = Tensor::stack(&norms, 0).to_kind(Kind::Double);
            norms.dot(&norms).double_value(&[])
        });
        let mut over = [mean, squares];
        self.ranks.sum(&mut over)?;
        Ok(Measured { loss: over[0] / self.ranks.size() as f64, micro, norm: over[1].sqrt() })
    }

    /// Clips by the measured `norm`, lets AdamW move the shards at rate `lr`, and puts the new weights into the units.
    pub fn apply(&mut self, lr: f64, norm: f64) -> Result<()> {
        // As torch.nn.utils.clip_grad_norm_: the 1e-6 keeps a zero norm from dividing.
        let factor = self.options.clip / (norm + 1e-6);
        let _guard = tch::no_grad_guard();
        for shard in &mut self.shards {
            let mut gradient = shard.gradient();
            if self.options.clip > 0.0 && factor < 1.0 {
                let _ = gradient.g_mul_scalar_(factor);
            }
        }
        self.step += 1;
        self.optimizer.step(&self.shards, lr, self.step)?;
        self.publish()
    }

    /// Writes the master weights into the compute copies, of all ranks.
    pub(crate) fn publish(&mut self) -> Result<()> {
        for shard in &mut self.shards {
            shard.spent();
            shard.publish(self.stack.unit_mut(shard.unit), &*self.ranks)?;
        }
        Ok(())
    }

    /// Calls `with` once per trainable parameter with its name and its f32 master weights of full shape, one unit at a time; every rank must call it, and all see all.
    pub fn export(&self, with: &mut dyn FnMut(&str, &Tensor) -> Result<()>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for shard in &self.shards {
            let whole = shard.whole(&shard.master, &*self.ranks)?;
            for slot in &self.stack.unit(shard.unit).slots {
                with(&slot.name, &whole.narrow(0, slot.offset, slot.numel()).view(slot.shape.as_slice()))?;
            }
        }
        Ok(())
    }

    /// With sharded weights: gathers every unit, to save the model once its training has ended. All ranks together.
    pub fn gather(&mut self) -> Result<()> {
        for shard in &self.shards {
            shard.gather(self.stack.unit_mut(shard.unit), &*self.ranks)?;
        }
        Ok(())
    }
}
