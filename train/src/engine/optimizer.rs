//! AdamW over the shards, with parameter groups as segments of the flat buffers.
//!
//! Loshchilov & Hutter, 2019, as torch.optim.AdamW: with gradient g, rate r, decay w and step t,
//! p ← p·(1 − r·w); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − r·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
//! Groups are told apart by name, so that a projector may have its own rate and norms no decay while one fused call still runs over long stretches.

use tch::{Kind, Tensor};

use super::shard::Shard;
use crate::{Result, shim};

/// How a parameter is updated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Its rate is the schedule's rate times this.
    pub scale: f64,
    /// Weight decay per unit of rate.
    pub decay: f64,
}

impl Group {
    /// The usual grouping by name: `projector` is the projector's rate as a multiple of the others', and norms and biases do not decay (as transformers' Trainer does).
    pub fn of(name: &str, projector: f64, decay: f64) -> Self {
        let still = name.ends_with("bias") || name.contains("norm");
        let scale = if name.contains("projector") { projector } else { 1.0 };
        Self { scale, decay: if still { 0.0 } else { decay } }
    }
}

/// AdamW's settings and groups.
#[derive(Debug)]
pub struct Optimizer {
    betas: (f64, f64),
    eps: f64,
    groups: Vec<Group>,
}

impl Optimizer {
    /// Without groups as yet.
    pub(super) fn new(betas: (f64, f64), eps: f64) -> Self {
        Self { betas, eps, groups: Vec::new() }
    }

    /// The number of a group, made if new.
    pub(super) fn group(&mut self, group: Group) -> usize {
        self.groups.iter().position(|g| *g == group).unwrap_or_else(|| {
            self.groups.push(group);
            self.groups.len() - 1
        })
    }

    /// Step `t` (from 1) at rate `lr`, in place on the shards' masters and moments.
    pub(super) fn step(&self, shards: &[Shard], lr: f64, t: u64) -> Result<()> {
        for (number, group) in self.groups.iter().enumerate() {
            let mut lists: [Vec<Tensor>; 4] = Default::default();
            let mut counts = Vec::new();
            for shard in shards {
                for s in shard.segments.iter().filter(|s| s.group == number) {
                    for (list, of) in lists.iter_mut().zip([&shard.master, shard.grad(), &shard.m, &shard.v])
                    {
                        list.push(of.narrow(0, s.first, s.len));
                    }
                    counts.push(Tensor::full([], t as f64, (Kind::Float, shard.master.device())));
                }
            }
            let with =
                shim::AdamW { lr: lr * group.scale, betas: self.betas, eps: self.eps, decay: group.decay };
            let [p, g, m, v] = lists.each_ref().map(|list| list.iter().collect::<Vec<_>>());
            shim::adamw(&p, &g, &m, &v, &counts.iter().collect::<Vec<_>>(), &with)?;
        }
        Ok(())
    }
}
