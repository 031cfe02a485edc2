//! Two devices as one: the first layers of the text model on one of them, the rest on the other.
//!
//! A model that does not fit a graphics processor runs there as far as it fits. Each weight and cache lies on one device, by the layer
//! that it belongs to ([`Backend::layer`]); an op runs where its weight or cache lies. Activations, which belong to no layer,
//! exist on both devices, and of every row it is known which device holds its newest values: an op that needs rows of the other device
//! has them moved first, and only them. So a token crosses each border with a single row, and nothing in the models speaks of devices.
//!
//! What belongs to no layer:
//! - What is loaded before the first layer is the embedding table, of which a token reads one row. It stays on B, the host, where it
//!   takes no room from layers; only in a tied model, where it is the output matrix too, it goes where that goes.
//! - What is loaded later (norm and matrix of the output) is on A where all layers are, else on B, where the last layer is.
//! - F32 and I32 matrices that are allocated are activations, on both devices; of integers both hold the newest values, since
//!   [`Backend::write`] gives them to both. Other types (a cache without a layer) are placed like what is loaded late.
//! - An op without weight or cache (SwiGLU, RoPE, a sum) runs where fewer bytes must be moved for it.
//!
//! Given up: every activation takes memory on both devices, some MB for each hundred rows of a batch. On a CPU they are
//! untouched pages, which take nothing, as far as only the other device writes them; a graphics processor needs them all, with a single layer or
//! with all. Where no layer is on A, nothing is.

use crate::{
    Backend, Bytes, DType, Error, Gelu, Result, Tensor,
    count::Op,
    relay::{Call, relay_ops},
};
use std::time::{Duration, Instant};

/// Which layers live on the first device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Layers on A: the first ones. As many as there are, or more: all.
    pub layers: usize,
    /// Layers of the text model.
    pub of: usize,
    /// Whether the model is tied: its embedding table is the output matrix too.
    pub tied: bool,
}

/// One of the two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
}

impl Side {
    /// Its bit in what says who holds a row's newest values.
    fn bit(self) -> u8 {
        match self {
            Side::A => 1,
            Side::B => 2,
        }
    }

    fn other(self) -> Self {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// Both devices hold the newest values.
const BOTH: u8 = 3;

/// Where a tensor's rows are.
enum Home {
    /// A weight or a cache.
    One(Side, Tensor),
    /// An activation, and for each of its rows the bits of those who hold its newest values.
    Both([Tensor; 2], Box<[u8]>),
}

impl Home {
    /// The rows of `t` as `side` knows them.
    #[track_caller]
    fn on(&self, side: Side, t: Tensor) -> Tensor {
        let whole = match self {
            Home::One(here, tensor) => {
                assert_eq!(*here, side, "an op reads weights or caches of two devices: {t:?}");
                tensor
            }
            Home::Both(tensors, _) => &tensors[side as usize],
        };
        Tensor { buffer: whole.buffer, first: whole.first + t.first, ..t }
    }

    /// Who holds the rows of `t`; nothing for a weight or a cache.
    fn holders(&self, t: Tensor) -> &[u8] {
        match self {
            Home::One(..) => &[],
            Home::Both(_, fresh) => &fresh[t.first..t.first + t.rows],
        }
    }
}

/// A backend of two devices: the first layers on `A`, the rest on `B`.
pub struct Split<A, B> {
    a: A,
    b: B,
    share: Share,
    homes: Vec<Home>,
    /// The layer that is being loaded.
    layer: Option<usize>,
    /// Whether there was one: what is loaded before is the embedding table.
    begun: bool,
    /// Where the last op ran: an op that could run on either stays there.
    last: Side,
    /// Rows on their way. As large as the largest activation, of which only what is moved is ever touched.
    moved: Vec<f32>,
    /// What went wrong in an op, until somebody can be told.
    failure: Option<Error>,
    /// Time of the calls of each op, for a device that does not measure by itself.
    spent: [[Duration; Op::ALL.len()]; 2],
}

impl<A: Backend, B: Backend> Split<A, B> {
    /// Layers on `a` and `b` as `share` says.
    pub fn new(a: A, b: B, share: Share) -> Self {
        Self {
            a,
            b,
            share,
            homes: Vec::new(),
            layer: None,
            begun: false,
            last: Side::B,
            moved: Vec::new(),
            failure: None,
            spent: Default::default(),
        }
    }

    /// The two devices.
    pub fn devices(&self) -> (&A, &B) {
        (&self.a, &self.b)
    }

    /// The two devices, to ask or to reset them; ops on them behind our back are not noticed.
    pub fn devices_mut(&mut self) -> (&mut A, &mut B) {
        (&mut self.a, &mut self.b)
    }

    fn device(&mut self, side: Side) -> &mut dyn Backend {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// The device of layer i.
    fn of_layer(&self, i: usize) -> Side {
        if i < self.share.layers { Side::A } else { Side::B }
    }

    /// The device of the output, and of what else belongs to no layer.
    fn of_output(&self) -> Side {
        let all = self.share.layers > 0 && self.share.layers >= self.share.of;
        if all { Side::A } else { Side::B }
    }

    fn push(&mut self, home: Home, rows: usize, cols: usize, dtype: DType) -> Tensor {
        self.homes.push(home);
        let buffer = u32::try_from(self.homes.len() - 1).expect("fewer than 2^32 tensors");
        Tensor { buffer, first: 0, rows, cols, dtype }
    }

    /// Where an op runs that writes `dst` and reads `reads`.
    fn place(&self, dst: Tensor, reads: &[Tensor]) -> Side {
        let pinned = reads.iter().chain([&dst]).find_map(|t| match self.homes[t.buffer as usize] {
            Home::One(side, _) => Some(side),
            Home::Both(..) => None,
        });
        let missing = |side: Side| -> usize {
            let of = |t: &Tensor| {
                let holders = self.homes[t.buffer as usize].holders(*t);
                holders.iter().filter(|bits| **bits & side.bit() == 0).count() * t.cols
            };
            reads.iter().map(of).sum()
        };
        pinned.unwrap_or_else(|| match missing(Side::A).cmp(&missing(Side::B)) {
            std::cmp::Ordering::Less => Side::A,
            std::cmp::Ordering::Equal => self.last,
            std::cmp::Ordering::Greater => Side::B,
        })
    }

    /// Moves the rows of `t` that are newer on the other device to `side`.
    fn bring(&mut self, t: Tensor, side: Side) -> Result<()> {
        let Home::Both(tensors, fresh) = &mut self.homes[t.buffer as usize] else { return Ok(()) };
        let end = t.first + t.rows;
        let mut row = t.first;
        while row < end {
            let lacks = |bits: &u8| *bits & side.bit() == 0;
            let rows = fresh[row..end].iter().take_while(|bits| lacks(bits)).count();
            if rows > 0 {
                let here = |side: Side| {
                    let whole = tensors[side as usize];
                    Tensor { first: whole.first + row, rows, ..whole }
                };
                let len = rows * t.cols;
                if self.moved.len() < len {
                    self.moved.resize(len, 0.0);
                }
                let moved = &mut self.moved[..len];
                let (from, to): (&mut dyn Backend, &mut dyn Backend) = match side {
                    Side::A => (&mut self.b, &mut self.a),
                    Side::B => (&mut self.a, &mut self.b),
                };
                from.read(moved, here(side.other()))?;
                to.write(here(side), bytemuck::cast_slice(moved));
                fresh[row..row + rows].fill(BOTH);
            }
            row += rows.max(1);
        }
        Ok(())
    }

    /// Notes that the rows of `t` were written on the devices of `bits` and nowhere else.
    fn written(&mut self, t: Tensor, bits: u8) {
        if let Home::Both(_, fresh) = &mut self.homes[t.buffer as usize] {
            fresh[t.first..t.first + t.rows].fill(bits);
        }
    }

    /// Runs an op on `side`, which has all that it reads.
    fn run(&mut self, op: Op, side: Side, call: Call<'_>) {
        let (homes, start) = (&self.homes, Instant::now());
        let device: &mut dyn Backend = match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        };
        call(device, &|t| homes[t.buffer as usize].on(side, t));
        self.spent[side as usize][op as usize] += start.elapsed();
    }

    /// Runs an op where its weight or cache lies, else where most of its input does.
    fn relay(&mut self, op: Op, dst: Tensor, reads: &[Tensor], call: Call<'_>) {
        if self.failure.is_some() {
            return;
        }
        let side = self.place(dst, reads);
        for t in reads {
            if let Err(error) = self.bring(*t, side) {
                self.failure = Some(error);
                return;
            }
        }
        self.run(op, side, call);
        let both = matches!(self.homes[dst.buffer as usize], Home::Both(..));
        if dst.dtype == DType::I32 && both {
            // Integers are not moved, so each device makes its own.
            self.run(op, side.other(), call);
        }
        self.written(dst, if dst.dtype == DType::I32 { BOTH } else { side.bit() });
        self.last = side;
    }
}

impl<A: Backend, B: Backend> Backend for Split<A, B> {
    fn name(&self) -> String {
        let Share { layers, of, .. } = self.share;
        format!("{}, {} of {of} layers + {}", self.a.name(), layers.min(of), self.b.name())
    }

    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.failure.take().map_or(Ok(()), Err)?;
        let side = match self.layer {
            Some(i) => self.of_layer(i),
            None if self.begun || self.share.tied => self.of_output(),
            None => Side::B,
        };
        let tensor = self.device(side).load(bytes, rows, cols, dtype)?;
        Ok(self.push(Home::One(side, tensor), rows, cols, dtype))
    }

    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.failure.take().map_or(Ok(()), Err)?;
        let one = match (self.layer, dtype) {
            (Some(i), _) => Some(self.of_layer(i)),
            (None, DType::F32 | DType::I32) if self.share.layers > 0 => None,
            (None, _) => Some(self.of_output()),
        };
        let home = match one {
            Some(side) => Home::One(side, self.device(side).alloc(rows, cols, dtype)?),
            None => {
                let tensors = [self.a.alloc(rows, cols, dtype)?, self.b.alloc(rows, cols, dtype)?];
                let more = (rows * cols).saturating_sub(self.moved.len());
                self.moved.try_reserve_exact(more).map_err(|_| Error::OutOfMemory {
                    device: self.name(),
                    bytes: rows * cols * size_of::<f32>(),
                    rows,
                    cols,
                    dtype,
                })?;
                // Zeros everywhere.
                Home::Both(tensors, vec![BOTH; rows].into())
            }
        };
        Ok(self.push(home, rows, cols, dtype))
    }

    fn write(&mut self, dst: Tensor, src: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        let home = &self.homes[dst.buffer as usize];
        match home {
            Home::One(side, _) => {
                let (side, t) = (*side, home.on(*side, dst));
                self.device(side).write(t, src);
            }
            Home::Both(..) => {
                // Integers to both; the rest to where the first layer will look for it.
                let [a, b] = [Side::A, Side::B].map(|side| home.on(side, dst));
                self.a.write(a, src);
                if dst.dtype == DType::I32 {
                    self.b.write(b, src);
                }
                self.written(dst, if dst.dtype == DType::I32 { BOTH } else { Side::A.bit() });
            }
        }
    }

    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)?;
        let home = &self.homes[src.buffer as usize];
        let (tensors, fresh) = match home {
            Home::One(side, _) => {
                let (side, t) = (*side, home.on(*side, src));
                return self.device(side).read(dst, t);
            }
            Home::Both(tensors, fresh) => (tensors, fresh),
        };
        let (mut row, end) = (src.first, src.first + src.rows);
        while row < end {
            let side = if fresh[row] & Side::B.bit() != 0 { Side::B } else { Side::A };
            let rows = fresh[row..end].iter().take_while(|bits| **bits & side.bit() != 0).count();
            let whole = tensors[side as usize];
            let device: &mut dyn Backend = match side {
                Side::A => &mut self.a,
                Side::B => &mut self.b,
            };
            let part = &mut dst[(row - src.first) * src.cols..][..rows * src.cols];
            device.read(part, Tensor { first: whole.first + row, rows, ..whole })?;
            row += rows;
        }
        Ok(())
    }

    fn layer(&mut self, index: Option<usize>) {
        self.layer = index;
        self.begun |= index.is_some();
        self.a.layer(index);
        self.b.layer(index);
    }

    /// Of a device that measures by itself its own figures, of the other the time of the calls; rows on their way between the two
    /// are in neither.
    fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
        let spent = std::mem::take(&mut self.spent);
        let measured = [self.a.device_times(), self.b.device_times()];
        if measured.iter().all(Option::is_none) {
            return None;
        }
        let sides = measured.into_iter().zip(spent).map(|(own, spent)| {
            let calls =
                || Op::ALL.into_iter().zip(spent).filter(|(_, time)| *time > Duration::ZERO).collect();
            own.unwrap_or_else(calls)
        });
        Some(sides.flatten().collect())
    }

    relay_ops!();
}

#[cfg(test)]
mod tests;
