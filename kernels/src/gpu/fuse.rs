//! Steps that one dispatch can do together.
//!
//! A token's time on a fast device goes into dispatches, not bytes: each costs some microseconds, and a block of LLaMA is 17
//! ops. What a product of few rows reads and writes can be changed on its way, so five things are drawn into products:
//! what becomes of the result (added to the stream, turned, stored into the cache, gate·up), and the norm of what goes in,
//! which each product then takes for itself. Last, products of one input whose weights share an arena become one.
//!
//! The models know nothing of it. A step may go only where nobody sees the difference: what a fused step no longer writes must
//! be overwritten before it is read (`dead`), and nothing that moves may pass a step that reads or writes the same rows.
//! At the end of a submission everything counts as read.

use super::{
    product::{Norm, PARTS, Part, Product, Sums, Then},
    step::Step,
};
use crate::{DType, Tensor};

#[cfg(test)]
mod tests;

/// What the device is given to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    Step(Step),
    Product(Product),
}

/// What fusing asks about tensors: whether two weights lie in one binding, and whether a product can be computed.
pub(super) trait Layout {
    /// Whether `a` and `b` are weights in one arena, each whole.
    fn together(&self, a: Tensor, b: Tensor) -> bool;

    /// Whether there is a kernel for `product`.
    fn possible(&self, product: &Product) -> bool;
}

impl Work {
    /// Whether rows of `t` are read.
    fn reads(&self, t: Tensor) -> bool {
        match self {
            Work::Step(step) => {
                let operands = step.operands();
                let read = if step.in_place() { &operands[..] } else { &operands[1..] };
                read.iter().any(|o| overlap(*o, t))
            }
            Work::Product(p) => {
                overlap(p.x, t)
                    || p.norm.is_some_and(|norm| overlap(norm.weight, t))
                    || parts(p).iter().any(|part| match part.then {
                        Then::Bias(bias) => overlap(bias, t),
                        Then::Add => overlap(part.dst, t),
                        Then::Store | Then::Turn { .. } => false,
                    })
            }
        }
    }

    /// The tensors that are written.
    pub fn written(&self) -> impl Iterator<Item = Tensor> {
        let (one, many) = match self {
            Work::Step(step) => (Some(step.written()), &[][..]),
            Work::Product(Product { sums: Sums::SwiGlu { dst, .. }, .. }) => (Some(*dst), &[][..]),
            Work::Product(product) => (None, parts(product)),
        };
        one.into_iter().chain(many.iter().map(|part| part.dst))
    }

    fn writes(&self, t: Tensor) -> bool {
        self.written().any(|w| overlap(w, t))
    }

    fn touches(&self, t: Tensor) -> bool {
        self.reads(t) || self.writes(t)
    }

    /// Whether all of `t` is written without having been read.
    fn overwrites(&self, t: Tensor) -> bool {
        let covers =
            |w: Tensor| w.buffer == t.buffer && w.first <= t.first && w.first + w.rows >= t.first + t.rows;
        !self.reads(t) && self.written().any(covers)
    }

    fn product(&self) -> Option<&Product> {
        match self {
            Work::Product(p) => Some(p),
            Work::Step(_) => None,
        }
    }
}

/// The weights of `product` with a destination each; none where they are gate and up.
fn parts(product: &Product) -> &[Part] {
    match &product.sums {
        Sums::Parts(parts) => parts,
        Sums::SwiGlu { .. } => &[],
    }
}

fn overlap(a: Tensor, b: Tensor) -> bool {
    a.buffer == b.buffer && a.first < b.first + b.rows && b.first < a.first + a.rows
}

/// Draws steps together.
pub(super) fn fuse(steps: Vec<Step>, layout: &dyn Layout) -> Vec<Work> {
    let work = steps.into_iter().map(|step| Some(product(step, layout))).collect();
    let mut list = List { work, layout };
    let all = 0..list.work.len();
    all.clone().for_each(|i| list.draw_in_what_follows(i));
    all.clone().for_each(|i| list.draw_in_gate(i));
    all.clone().for_each(|i| list.draw_in_norm(i));
    all.for_each(|i| list.join(i));
    list.work.into_iter().flatten().collect()
}

/// A product as such; other steps as they are.
fn product(step: Step, layout: &dyn Layout) -> Work {
    if let Step::Matmul { dst, x, w, bias } = step {
        let part = Part { w, dst, then: bias.map_or(Then::Store, Then::Bias) };
        let product = Product { x, norm: None, sums: Sums::Parts(vec![part]) };
        if layout.possible(&product) {
            return Work::Product(product);
        }
    }
    Work::Step(step)
}

/// The work of a submission; what was drawn into other work is gone.
struct List<'a> {
    work: Vec<Option<Work>>,
    layout: &'a dyn Layout,
}

impl List<'_> {
    /// The next work after `i` that touches `t`.
    fn next(&self, i: usize, t: Tensor) -> Option<usize> {
        (i + 1..self.work.len()).find(|&j| self.work[j].as_ref().is_some_and(|w| w.touches(t)))
    }

    /// Whether what `t` holds after work `i` is never read.
    fn dead(&self, i: usize, t: Tensor) -> bool {
        let next = self.next(i, t).and_then(|j| self.work[j].as_ref());
        next.is_some_and(|work| work.overwrites(t))
    }

    /// Whether no work between `i` and `j` is one that `what` is true of.
    fn none_between(&self, i: usize, j: usize, what: impl Fn(&Work) -> bool) -> bool {
        !self.work[i + 1..j].iter().flatten().any(what)
    }

    /// Puts `product` in the place of work `i`, and takes away `gone`, where there is a kernel for it.
    fn replace(&mut self, i: usize, product: Product, gone: &[usize]) -> bool {
        let possible = self.layout.possible(&product);
        if possible {
            self.work[i] = Some(Work::Product(product));
            gone.iter().for_each(|&j| self.work[j] = None);
        }
        possible
    }

    /// The product at `i` and its weight, where it has one and its sums are only stored.
    fn plain(&self, i: usize) -> Option<(&Product, Part)> {
        let product = self.work[i].as_ref()?.product()?;
        match *parts(product) {
            [part] if part.then == Then::Store => Some((product, part)),
            _ => None,
        }
    }

    /// A sum, a rotation, a store into the cache: what the result of the product at `i` is taken for next.
    fn draw_in_what_follows(&mut self, i: usize) {
        let Some((product, mut part)) = self.plain(i) else { return };
        let (x, dst) = (product.x, part.dst);
        let with = |part: Part| Product { sums: Sums::Parts(vec![part]), x, norm: None };
        let Some(mut j) = self.next(i, dst) else { return };
        match self.work[j] {
            Some(Work::Step(Step::Add { dst: sum, x: term })) if term == dst && sum.rows == dst.rows => {
                let free = self.none_between(i, j, |work| work.touches(sum)) && !overlap(x, sum);
                if free && self.dead(j, dst) {
                    self.replace(i, with(Part { dst: sum, then: Then::Add, ..part }), &[j]);
                }
                return;
            }
            Some(Work::Step(Step::Rope { x: turned, turns, head_dim })) if turned == dst => {
                part.then = Then::Turn { turns, head_dim };
                if !self.replace(i, with(part), &[j]) {
                    return;
                }
                let Some(next) = self.next(j, dst) else { return };
                j = next;
            }
            _ => {}
        }
        if let Some(Work::Step(Step::Copy { dst: kept, x: copied })) = self.work[j]
            && copied == dst
            && kept.dtype != DType::Q8_0
            && self.none_between(i, j, |work| work.touches(kept))
            && self.dead(j, dst)
        {
            self.replace(i, with(Part { dst: kept, ..part }), &[j]);
        }
    }

    /// The other half of a gated MLP, and the product of both.
    fn draw_in_gate(&mut self, i: usize) {
        let Some((product, gate)) = self.plain(i) else { return };
        let x = product.x;
        let Some(j) = self.next(i, gate.dst) else { return };
        let Some(Work::Step(Step::SwiGlu { gate: dst, up })) = self.work[j] else { return };
        let other = (i + 1..j).rev().find(|&u| self.work[u].as_ref().is_some_and(|work| work.writes(up)));
        let Some((u, (other, part))) = other.and_then(|u| Some((u, self.plain(u)?))) else { return };
        let same = dst == gate.dst && other.x == x && part.dst == up && self.layout.together(gate.w, part.w);
        let free = self.none_between(i, u, |work| work.writes(x) || work.touches(up))
            && self.none_between(u, j, |work| work.touches(up));
        if same && free && self.dead(j, up) {
            let sums = Sums::SwiGlu { dst, gate: gate.w, up: part.w };
            self.replace(i, Product { x, norm: None, sums }, &[u, j]);
        }
    }

    /// The norm at `i`, into all products that read what it makes.
    fn draw_in_norm(&mut self, i: usize) {
        let Some(Work::Step(Step::RmsNorm { dst, x, weight, eps })) = self.work[i] else { return };
        let mut readers = Vec::new();
        let mut changed = false;
        for j in i + 1..self.work.len() {
            let Some(work) = &self.work[j] else { continue };
            if work.reads(dst) {
                // It will read x instead, which must still be there and which it must not write itself.
                match work.product() {
                    Some(p) if p.x == dst && !changed && !work.writes(x) => readers.push(j),
                    _ => return,
                }
            } else if work.overwrites(dst) {
                return self.norm_within(i, &readers, x, Norm { weight, eps });
            } else if work.writes(dst) {
                return;
            }
            changed |= work.writes(x);
        }
    }

    /// Gives `readers` the norm at `i`, which goes, where there is a kernel for each.
    fn norm_within(&mut self, i: usize, readers: &[usize], x: Tensor, norm: Norm) {
        let normed: Vec<_> = readers
            .iter()
            .filter_map(|&j| {
                Some(Product { x, norm: Some(norm), ..self.work[j].as_ref()?.product()?.clone() })
            })
            .collect();
        if normed.iter().all(|product| self.layout.possible(product)) {
            self.work[i] = None;
            for (&j, product) in readers.iter().zip(normed) {
                self.work[j] = Some(Work::Product(product));
            }
        }
    }

    /// Products after `i` that read what the product there reads, into it.
    fn join(&mut self, i: usize) {
        for j in i + 1..self.work.len() {
            let Some(product) = self.work[i].as_ref().and_then(Work::product) else { return };
            let Some(work) = &self.work[j] else { continue };
            if !(1..PARTS).contains(&parts(product).len()) {
                return;
            }
            if let Some(other) = work.product().filter(|other| other.x == product.x)
                && let Some(joined) = self.joined(i, j, product, other)
            {
                self.replace(i, joined, &[j]);
            } else if work.writes(product.x) {
                // Past a write to the input nothing can move.
                return;
            }
        }
    }

    /// The products at `i` and `j` as one, where that can be.
    fn joined(&self, i: usize, j: usize, a: &Product, b: &Product) -> Option<Product> {
        let (before, &[part]) = (parts(a), parts(b)) else { return None };
        let can = a.norm == b.norm
            && self.layout.together(before[0].w, part.w)
            && !overlap(a.x, part.dst)
            && !before.iter().any(|other| overlap(other.dst, part.dst))
            && self.none_between(i, j, |work| work.touches(part.dst));
        can.then(|| Product { sums: Sums::Parts([before, &[part]].concat()), ..a.clone() })
    }
}
