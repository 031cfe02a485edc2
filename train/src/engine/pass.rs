//! Forward and backward of one micro-batch, piece by piece.
//!
//! Each piece gets a detached input x that requires grad, so its graph ends there; in reverse, autograd takes ⟨y, ∂L/∂y⟩ to the piece's parameters and x,
//! which is the same arithmetic as one long backward pass. With checkpoints only x is kept and y is computed again, from the same
//! weights and random seed, hence to the same bits. A piece below which nothing learns keeps no graph at all.

use tch::{Device, Kind, Tensor};

use super::{Engine, Piece, Stack};
use crate::Result;

/// What the forward pass leaves for the backward pass.
struct Kept {
    piece: Piece,
    /// The piece's detached input; none for the start.
    x: Option<Tensor>,
    /// Its output with its graph; none where it is computed again or nothing learns up to here.
    y: Option<Tensor>,
}

impl<S: Stack> Engine<S> {
    /// Runs one micro-batch and adds its gradient, divided by the micro-batches of a step and the ranks. The loss is the mean over the batch's labelled positions.
    ///
    /// All ranks call it equally often.
    ///
    /// # Errors
    /// What the model says of the batch, and the ranks of their connection.
    pub fn micro(&mut self, batch: &S::Batch) -> Result<()> {
        // Bringing the batch to a device waits for all that was queued there, for ever where a rank died; this wait has an end.
        self.ranks.barrier()?;
        let input = tch::no_grad(|| self.stack.prepare(batch, self.place()))?;
        let number = self.losses.len() as u64;
        let (mut kept, x) = self.forward(&input, number)?;
        let mut down = self.head(&input, &x, number)?;
        drop(x);
        while let Some(k) = kept.pop() {
            down = self.backward(&input, k, down, number)?;
        }
        Ok(())
    }

    /// All pieces but the head: what each leaves, and the last rows, which require grad where anything below them learns.
    fn forward(&mut self, input: &S::Input, number: u64) -> Result<(Vec<Kept>, Tensor)> {
        let mut kept = Vec::new();
        let mut x: Option<Tensor> = None;
        let pieces = std::iter::once(Piece::Start).chain((0..self.stack.layers()).map(Piece::Layer));
        for piece in pieces {
            self.fetch(piece)?;
            let below = x.as_ref().is_some_and(Tensor::requires_grad);
            let learns = below || !self.learners(piece).is_empty();
            // The start is cheap, and only its graph tells whether this batch reaches a parameter (a projector without a picture does not).
            let graph = learns && (!self.options.checkpoint || piece == Piece::Start);
            let y = if graph {
                self.run(piece, x.as_ref(), input, number)
            } else {
                tch::no_grad(|| self.run(piece, x.as_ref(), input, number))
            }?;
            let live = if piece == Piece::Start { y.requires_grad() } else { learns };
            self.let_go(piece);
            let next = y.detach().set_requires_grad(live);
            kept.push(Kept { piece, x, y: (graph && live && !self.options.checkpoint).then_some(y) });
            x = Some(next);
        }
        Ok((kept, x.expect("the start")))
    }

    /// The loss over the labelled rows in chunks, its gradient for the head's parameters, and ∂L/∂x where x requires it.
    fn head(&mut self, input: &S::Input, x: &Tensor, number: u64) -> Result<Option<Tensor>> {
        self.fetch(Piece::Head)?;
        let (rows, ids) = {
            let targets = self.stack.targets(input);
            (targets.rows.shallow_clone(), targets.ids.shallow_clone())
        };
        let n = ids.size()[0];
        self.seed(Piece::Head, number);
        let live = x.requires_grad();
        let learners = self.learners(Piece::Head);
        let picked = x.detach().flatten(0, -2).index_select(0, &rows);
        let scale = 1.0 / (n as f64 * (self.options.accumulate * self.ranks.size()) as f64);
        let mut sum = Tensor::zeros([], (Kind::Float, x.device()));
        let mut slopes = Vec::new();
        let mut first = 0;
        while first < n {
            let len = (n - first).min(self.options.chunk as i64);
            let (xs, ids) = (picked.narrow(0, first, len).detach(), ids.narrow(0, first, len));
            first += len;
            if !live && learners.is_empty() {
                sum += tch::no_grad(|| self.stack.loss(&xs, &ids));
                continue;
            }
            let xs = xs.set_requires_grad(live);
            let loss = self.stack.loss(&xs, &ids);
            sum += loss.detach();
            if let Some(slope) = self.differentiate(&(loss * scale), &learners, live.then_some(&xs)) {
                slopes.push(slope);
            }
        }
        self.losses.push(sum / n as f64);
        self.settle(Piece::Head)?;
        if !live {
            return Ok(None);
        }
        let _guard = tch::no_grad_guard();
        let whole = Tensor::zeros_like(&x.detach()).flatten(0, -2);
        let slopes = if slopes.len() == 1 { slopes.remove(0) } else { Tensor::cat(&slopes, 0) };
        Ok(Some(whole.index_copy(0, &rows, &slopes).view_as(x)))
    }

    /// One piece in reverse: from ∂L/∂y to its parameters' gradients and ∂L/∂x.
    fn backward(
        &mut self,
        input: &S::Input,
        kept: Kept,
        down: Option<Tensor>,
        number: u64,
    ) -> Result<Option<Tensor>> {
        let Kept { piece, x, y } = kept;
        let mut up = None;
        // Gathering and reducing speak with the other ranks, so they happen with or without a gradient here.
        self.fetch(piece)?;
        if let Some(down) = down {
            let y = y.map_or_else(|| self.run(piece, x.as_ref(), input, number), Ok)?;
            let learners = self.learners(piece);
            let below = x.as_ref().filter(|x| x.requires_grad());
            if below.is_some() || !learners.is_empty() {
                let product = y.flatten(0, -1).dot(&down.flatten(0, -1));
                drop((y, down));
                up = self.differentiate(&product, &learners, below);
            }
        }
        self.settle(piece)?;
        Ok(up)
    }

    /// ∂out/∂parameters goes into the shards; ∂out/∂x comes back.
    fn differentiate(
        &mut self,
        out: &Tensor,
        learners: &[(usize, usize)],
        x: Option<&Tensor>,
    ) -> Option<Tensor> {
        let mut inputs = Vec::with_capacity(learners.len() + 1);
        for (shard, slot) in learners {
            inputs.push(&self.stack.unit(self.shards[*shard].unit).leaves[*slot]);
        }
        inputs.extend(x);
        let mut slopes = Tensor::run_backward(&[out], &inputs, false, false);
        let up = x.and_then(|_| slopes.pop());
        for ((shard, slot), slope) in learners.iter().zip(&slopes) {
            // Undefined: the batch does not reach this parameter.
            if slope.defined() {
                let shard = &mut self.shards[*shard];
                shard.add(self.stack.unit(shard.unit), *slot, slope);
            }
        }
        up
    }

    /// Computes a piece, after seeding it where it draws random numbers.
    fn run(&self, piece: Piece, x: Option<&Tensor>, input: &S::Input, number: u64) -> Result<Tensor> {
        self.seed(piece, number);
        match (piece, x) {
            (Piece::Layer(i), Some(x)) => Ok(self.stack.layer(i, x, input)),
            _ => self.stack.start(input),
        }
    }

    /// Type and device of the computation.
    pub(super) fn place(&self) -> (Kind, Device) {
        (self.options.kind, self.shards[0].master.device())
    }

    /// The seed is a function of run, step, micro-batch, rank and piece: a resumed run draws the same numbers without any saved generator.
    fn seed(&self, piece: Piece, number: u64) {
        if !self.stack.random() {
            return;
        }
        let place = match piece {
            Piece::Start => 0,
            Piece::Layer(i) => i as u64 + 1,
            Piece::Head => self.stack.layers() as u64 + 1,
        };
        let mut hash = self.options.seed;
        for part in [self.step, number, self.ranks.rank() as u64, place] {
            // SplitMix64's finalizer (Steele, Lea & Flood, 2014) between the parts.
            hash = hash.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            hash ^= hash >> 31;
        }
        tch::manual_seed((hash >> 1) as i64);
    }

    /// The trainable parameters that a piece reads: (shard, slot).
    fn learners(&self, piece: Piece) -> Vec<(usize, usize)> {
        let mut list = Vec::new();
        for unit in self.stack.reads(piece) {
            if let Some(shard) = self.shards.iter().position(|s| s.unit == unit) {
                list.extend((0..self.stack.unit(unit).slots.len()).map(|slot| (shard, slot)));
            }
        }
        list
    }

    /// Gathers what a piece reads, where weights are sharded.
    fn fetch(&mut self, piece: Piece) -> Result<()> {
        for unit in self.stack.reads(piece) {
            if let Some(shard) = self.shards.iter().find(|s| s.unit == unit) {
                shard.gather(self.stack.unit_mut(unit), &*self.ranks)?;
            }
        }
        Ok(())
    }

    /// Frees what a piece reads, where weights are sharded.
    fn let_go(&mut self, piece: Piece) {
        for unit in self.stack.reads(piece) {
            if let Some(shard) = self.shards.iter().find(|s| s.unit == unit) {
                shard.release(self.stack.unit_mut(unit));
            }
        }
    }

    /// After a piece's backward pass: reduces the units that no piece before it reads, and frees what it read.
    fn settle(&mut self, piece: Piece) -> Result<()> {
        for unit in self.stack.reads(piece) {
            if self.first_reader(unit) == piece
                && let Some(shard) = self.shards.iter_mut().find(|s| s.unit == unit)
            {
                shard.reduce(&*self.ranks)?;
            }
        }
        self.let_go(piece);
        Ok(())
    }

    /// The first piece that reads a unit which some piece reads.
    fn first_reader(&self, unit: usize) -> Piece {
        let reads = |piece: &Piece| self.stack.reads(*piece).contains(&unit);
        std::iter::once(Piece::Start)
            .chain((0..self.stack.layers()).map(Piece::Layer))
            .find(reads)
            .unwrap_or(Piece::Head)
    }
}

/// The first few names and how many more there are.
pub(super) fn list(names: &[String]) -> String {
    // Eight names fill a line; the step is named too, so the rest can be found.
    let shown = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 8 { format!("{shown} and {} more", names.len() - 8) } else { shown }
}
