//! This rank's share of one trainable unit: master weights, moments and gradient in f32.
//!
//! With one rank the share is the whole unit; in f32 the master copy then *is* the unit's flat buffer and nothing is copied after a step.

use tch::{Device, Kind, Tensor};

use super::{Options, optimizer::Group, optimizer::Optimizer, ranks::Ranks};
use crate::{Error, Result, unit::Unit};

/// A part of a shard that one parameter group owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Which group of the optimizer.
    pub group: usize,
    /// First element, counted in the shard.
    pub first: i64,
    /// Elements.
    pub len: i64,
}

/// This rank's share of a unit's flat buffer; `n` = padded length / ranks.
#[derive(Debug)]
pub struct Shard {
    /// Index of the unit.
    pub unit: usize,
    /// Its name.
    pub name: String,
    /// Elements of the unit without padding.
    pub numel: i64,
    /// First element of this share in the flat buffer.
    pub first: i64,
    /// `[n]` f32 weights.
    pub master: Tensor,
    /// `[n]` f32 first moment.
    pub m: Tensor,
    /// `[n]` f32 second moment.
    pub v: Tensor,
    /// `[n]` f32 sum of the gradients since the last step.
    grad: Tensor,
    /// Groups over the share, in order.
    pub segments: Vec<Segment>,
    /// `[padded]` f32 gradient of the whole unit while a micro-batch's backward pass is at it (several ranks).
    open: Option<Tensor>,
    /// Per slot the part of the gradient that it writes: of `grad` with one rank, else of `open`.
    views: Vec<Tensor>,
    /// Per slot whether `views` was written since the last step (one rank) or micro-batch.
    written: Vec<bool>,
    /// `[n]` weights in the compute type, where the unit itself is freed between uses.
    weights: Option<Tensor>,
    /// Whether the master copy shares the unit's flat buffer.
    shared: bool,
    /// Whether `grad` holds something (several ranks).
    filled: bool,
    kind: Kind,
    device: Device,
    alone: bool,
}

impl Shard {
    /// Takes the share out of a trainable unit and turns the unit's weights into the compute type.
    pub(super) fn new(
        unit: &mut Unit,
        index: usize,
        ranks: &dyn Ranks,
        options: &Options,
        optimizer: &mut Optimizer,
        groups: &dyn Fn(&str) -> Group,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let flat = unit.flat.take().expect("a trainable unit");
        let (padded, size, device) = (flat.size()[0], ranks.size() as i64, flat.device());
        if padded % size != 0 {
            return Err(Error::Config(format!(
                "unit {}: its {padded} elements do not divide by {size} ranks; make it trainable with that number of ranks",
                unit.name
            )));
        }
        let alone = size == 1;
        let n = padded / size;
        let first = n * ranks.rank() as i64;
        let own = flat.narrow(0, first, n);
        let floats = options.kind == Kind::Float && flat.kind() == Kind::Float;
        let shared = alone && floats && !options.shard_weights;
        let master = if shared { flat.shallow_clone() } else { own.to_dtype(Kind::Float, false, true) };
        let weights = options.shard_weights.then(|| master.to_dtype(options.kind, false, true));
        unit.leaves.clear();
        if !options.shard_weights {
            unit.flat = Some(flat.to_kind(options.kind));
            unit.view();
        }
        let zeros = || Tensor::zeros([n], (Kind::Float, device));
        let mut shard = Self {
            unit: index,
            name: unit.name.clone(),
            numel: unit.numel(),
            first,
            m: zeros(),
            v: zeros(),
            grad: zeros(),
            master,
            segments: segments(unit, first, n, optimizer, groups),
            open: None,
            views: Vec::new(),
            written: vec![false; unit.slots.len()],
            weights,
            shared,
            filled: false,
            kind: options.kind,
            device,
            alone,
        };
        if alone {
            shard.views = views(&shard.grad, unit);
        }
        Ok(shard)
    }

    /// Elements of the share.
    pub fn len(&self) -> i64 {
        self.master.size()[0]
    }

    /// Whether the unit has no parameter at all.
    pub fn is_empty(&self) -> bool {
        self.numel == 0
    }

    /// Adds one parameter's gradient (any type, the parameter's shape).
    pub(super) fn add(&mut self, unit: &Unit, slot: usize, gradient: &Tensor) {
        let _guard = tch::no_grad_guard();
        if self.views.is_empty() {
            let padded = unit.flat.as_ref().expect("a gathered unit").size()[0];
            let whole = Tensor::zeros([padded], (Kind::Float, self.device));
            self.views = views(&whole, unit);
            self.open = Some(whole);
        }
        let mut view = self.views[slot].shallow_clone();
        // The first gradient overwrites: no pass over memory only to set zeros.
        if self.written[slot] {
            let _ = view.g_add_(gradient);
        } else {
            view.copy_(gradient);
            self.written[slot] = true;
        }
    }

    /// After the last use of the unit in a micro-batch: sums the whole gradient over the ranks and keeps this rank's share. Every rank calls it, with or without a gradient.
    pub(super) fn reduce(&mut self, ranks: &dyn Ranks) -> Result<()> {
        if self.alone {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        let padded = self.len() * ranks.size() as i64;
        self.views.clear();
        let whole = self.open.take().unwrap_or_else(|| Tensor::zeros([padded], (Kind::Float, self.device)));
        let own = ranks.reduce_scatter(&whole)?;
        if self.filled {
            let _ = self.grad.g_add_(&own);
        } else {
            self.grad.copy_(&own);
            self.filled = true;
        }
        self.written.fill(false);
        Ok(())
    }

    /// `[n]` the gradient summed since the last step; zero where nothing came.
    pub(super) fn gradient(&mut self) -> Tensor {
        let _guard = tch::no_grad_guard();
        if self.alone {
            for (view, written) in self.views.iter_mut().zip(&mut self.written) {
                if !*written {
                    let _ = view.zero_();
                    *written = true;
                }
            }
        } else if !self.filled {
            let _ = self.grad.zero_();
            self.filled = true;
        }
        self.grad.shallow_clone()
    }

    /// `[n]` the gradient, complete between [`Engine::measure`](super::Engine::measure) and the step that uses it up.
    pub fn grad(&self) -> &Tensor {
        &self.grad
    }

    /// Forgets the gradient: the next one overwrites it.
    pub(super) fn spent(&mut self) {
        self.written.fill(false);
        self.filled = false;
    }

    /// Brings the master weights into the unit (of all ranks) or, where weights are sharded, into this rank's copy.
    pub(super) fn publish(&mut self, unit: &mut Unit, ranks: &dyn Ranks) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if self.shared {
            return Ok(());
        }
        if let Some(weights) = &mut self.weights {
            weights.copy_(&self.master);
            return Ok(());
        }
        let flat = unit.flat.as_mut().expect("a unit whose weights are not sharded");
        if self.alone {
            flat.copy_(&self.master);
            return Ok(());
        }
        ranks.all_gather(&self.master.to_kind(self.kind), flat)
    }

    /// Where weights are sharded: fills the unit from all ranks.
    pub(super) fn gather(&self, unit: &mut Unit, ranks: &dyn Ranks) -> Result<()> {
        let Some(weights) = &self.weights else { return Ok(()) };
        if unit.flat.is_none() {
            unit.flat = Some(self.whole(weights, ranks)?);
            unit.view();
        }
        Ok(())
    }

    /// Where weights are sharded: frees the unit.
    pub(super) fn release(&self, unit: &mut Unit) {
        if self.weights.is_some() {
            unit.flat = None;
            unit.leaves.clear();
        }
    }

    /// `[padded]` all ranks' `part`s joined; `part` is one of this shard's tensors.
    pub(super) fn whole(&self, part: &Tensor, ranks: &dyn Ranks) -> Result<Tensor> {
        if self.alone {
            return Ok(part.shallow_clone());
        }
        let padded = self.len() * ranks.size() as i64;
        let mut whole = Tensor::empty([padded], (part.kind(), self.device));
        ranks.all_gather(part, &mut whole)?;
        Ok(whole)
    }
}

/// Per slot its part of `flat`, in the slot's shape.
fn views(flat: &Tensor, unit: &Unit) -> Vec<Tensor> {
    unit.slots.iter().map(|s| flat.narrow(0, s.offset, s.numel()).view(s.shape.as_slice())).collect()
}

/// The groups over elements `first..first + n` of the unit; neighbours of one group become one segment, the padding belongs to the last.
fn segments(
    unit: &Unit,
    first: i64,
    n: i64,
    optimizer: &mut Optimizer,
    groups: &dyn Fn(&str) -> Group,
) -> Vec<Segment> {
    let mut list: Vec<Segment> = Vec::new();
    let last = unit.slots.len().saturating_sub(1);
    for (i, slot) in unit.slots.iter().enumerate() {
        let end = if i == last { i64::MAX } else { slot.offset + slot.numel() };
        let (from, to) = (slot.offset.max(first), end.min(first + n));
        if from >= to {
            continue;
        }
        let group = optimizer.group(groups(&slot.name));
        match list.last_mut() {
            Some(s) if s.group == group => s.len += to - from,
            _ => list.push(Segment { group, first: from - first, len: to - from }),
        }
    }
    list
}
