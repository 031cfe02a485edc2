//! The CPU: a [`Backend`] that computes at once, on all cores, with the best instructions the machine has.
//!
//! This file checks shapes, takes the operands out of their buffers and cuts the work into pieces for the [`pool::Pool`];
//! the arithmetic of a piece is in `scalar` (the specification) and in the vector paths beside it. An op takes the memory
//! of its destination out of its slot, so that the compiler itself sees that it overlaps no source. Scratch grows in
//! `load` and `alloc` only: ops do not allocate.

mod buffer;
mod cores;
pub mod isa;
mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod pool;
pub(crate) mod probe;
mod quantize;
pub(crate) mod scalar;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use cores::physical_cores;
pub use isa::Isa;
pub use quantize::quantize;

use crate::{Backend, Bytes, DType, Error, Gelu, Result, Tensor, quant, shapes};
use buffer::{Buffer, Data};
use matmul::Product;
use pool::Pool;
use scalar::HeadRows;
use simd::{
    Job,
    attention::{FEW_ROWS, HEADS, Heads, QUERIES, Queries, SCRATCH},
    rows::{Add, GeluOf, LayerNorm, RmsNorm, Rope, SwiGlu},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements of an elementwise op that are worth a thread of their own: some 3 µs of work, three times what it costs to
/// hand out a piece.
const GRAIN: usize = 8192;

/// The widest head that attention takes: twice LLaMA's 128, so that its scratch is fixed when the backend is made.
const MAX_HEAD_DIM: usize = 256;

/// How a [`Cpu`] is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuOptions {
    /// Threads that compute, the caller among them. 0: [`physical_cores`].
    pub threads: usize,
    /// Instructions to use. `None`, or one that the machine lacks: [`Isa::best`].
    pub isa: Option<Isa>,
}

/// The backend that computes on this machine's processor.
pub struct Cpu {
    buffers: Vec<Buffer>,
    pool: Pool,
    isa: Isa,
    /// [`SCRATCH`] floats for each thread: the tiles of attention.
    tiles: Vec<Mutex<Data>>,
    /// (cos, sin) of RoPE's angles: [positions, r/2].
    turns: Vec<[f32; 2]>,
    /// What products need.
    products: matmul::Scratch,
}

impl Cpu {
    /// A backend without tensors; starts its threads.
    pub fn new(options: CpuOptions) -> Self {
        let threads = if options.threads == 0 { physical_cores() } else { options.threads };
        let pool = Pool::new(threads);
        let tiles = (0..pool.threads()).map(|_| Mutex::new(Data::default())).collect();
        let isa = options.isa.filter(|isa| isa.is_available()).unwrap_or_else(Isa::best);
        let products = matmul::Scratch::new(pool.threads());
        Self { buffers: Vec::new(), pool, isa, tiles, turns: Vec::new(), products }
    }

    /// Threads that compute, the caller among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instructions in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn push(&mut self, data: Data, rows: usize, cols: usize, dtype: DType, row_bytes: usize) -> Tensor {
        self.buffers.push(Buffer { data, rows, cols, dtype, row_bytes });
        let buffer = u32::try_from(self.buffers.len() - 1).expect("fewer than 2^32 tensors");
        Tensor { buffer, first: 0, rows, cols, dtype }
    }

    fn out_of_memory(&self, bytes: usize, rows: usize, cols: usize, dtype: DType) -> Error {
        Error::OutOfMemory { device: self.name(), bytes, rows, cols, dtype }
    }

    /// Makes the scratch large enough for ops on a matrix of this shape.
    fn reserve(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<()> {
        let bytes = SCRATCH * size_of::<f32>();
        for thread in 0..self.tiles.len() {
            if hold(&self.tiles[thread]).bytes().is_empty() {
                let tile = Data::zeroed(bytes).ok_or_else(|| self.out_of_memory(bytes, rows, cols, dtype))?;
                *hold(&self.tiles[thread]) = tile;
            }
        }
        // It may hold positions: one row of turns each.
        let turns = if dtype == DType::I32 { rows * cols * MAX_HEAD_DIM / 2 } else { 0 };
        let more = turns.saturating_sub(self.turns.len());
        let mut grown = self.turns.try_reserve_exact(more);
        if dtype == DType::F32 {
            // It may hold the activations of a product.
            grown = grown.and_then(|()| self.products.reserve(rows, cols));
        }
        grown.map_err(|_| self.out_of_memory(0, rows, cols, dtype))
    }

    /// The bytes of `t`.
    #[track_caller]
    fn bytes(&self, t: Tensor) -> &[u8] {
        let buffer = &self.buffers[t.buffer as usize];
        let range = buffer.range(t);
        &buffer.data.bytes()[range]
    }

    #[track_caller]
    fn f32(&self, t: Tensor) -> &[f32] {
        assert_eq!(t.dtype, DType::F32, "an operand of {}×{} is {}", t.rows, t.cols, t.dtype);
        bytemuck::cast_slice(self.bytes(t))
    }

    #[track_caller]
    fn i32(&self, t: Tensor) -> &[i32] {
        assert_eq!(t.dtype, DType::I32, "an operand of {}×{} is {}", t.rows, t.cols, t.dtype);
        bytemuck::cast_slice(self.bytes(t))
    }

    /// Calls `f` with the bytes of `dst`, whose memory is out of its slot meanwhile, and with the rest of the backend.
    #[track_caller]
    fn with_bytes<R>(&mut self, dst: Tensor, f: impl FnOnce(&mut Self, &mut [u8]) -> R) -> R {
        let slot = dst.buffer as usize;
        let range = self.buffers[slot].range(dst);
        let mut data = std::mem::take(&mut self.buffers[slot].data);
        let result = f(self, &mut data.bytes_mut()[range]);
        self.buffers[slot].data = data;
        result
    }

    /// The same for an F32 tensor that lies in another buffer than `sources`.
    #[track_caller]
    fn with<R>(&mut self, dst: Tensor, sources: &[Tensor], f: impl FnOnce(&mut Self, &mut [f32]) -> R) -> R {
        assert_eq!(dst.dtype, DType::F32, "the destination of {}×{} is {}", dst.rows, dst.cols, dst.dtype);
        for source in sources {
            assert_ne!(
                dst.buffer, source.buffer,
                "an op writes {dst:?} while it reads {source:?} of the same buffer"
            );
        }
        self.with_bytes(dst, |cpu, bytes| f(cpu, bytemuck::cast_slice_mut(bytes)))
    }
}

/// A thread's scratch. It is that thread's own, so nobody waits, and a panic leaves nothing in it that matters.
fn hold(scratch: &Mutex<Data>) -> MutexGuard<'_, Data> {
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of `cols` elements that make a piece of work.
fn rows_per_piece(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

impl Backend for Cpu {
    fn name(&self) -> String {
        let threads = self.threads();
        format!("cpu ({}, {threads} thread{})", self.isa, if threads == 1 { "" } else { "s" })
    }

    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let row_bytes =
            dtype.row_bytes(cols).ok_or(Error::RaggedBlock { cols, len: dtype.block_len(), dtype })?;
        let expected = row_bytes.saturating_mul(rows);
        if expected != bytes.len() {
            return Err(Error::WrongLength { rows, cols, dtype, expected, got: bytes.len() });
        }
        self.reserve(rows, cols, dtype)?;
        // Files align their tensors; numbers that lie askew all the same are moved, once.
        let aligned = dtype.is_quantized() || (bytes.as_ptr() as usize).is_multiple_of(dtype.block_bytes());
        let data = if aligned {
            Data::Shared(bytes)
        } else {
            let mut own =
                Data::zeroed(expected).ok_or_else(|| self.out_of_memory(expected, rows, cols, dtype))?;
            own.bytes_mut()[..expected].copy_from_slice(&bytes);
            own
        };
        Ok(self.push(data, rows, cols, dtype, row_bytes))
    }

    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let row_bytes =
            dtype.row_bytes(cols).ok_or(Error::RaggedBlock { cols, len: dtype.block_len(), dtype })?;
        let bytes = row_bytes.saturating_mul(rows);
        let data = Data::zeroed(bytes).ok_or_else(|| self.out_of_memory(bytes, rows, cols, dtype))?;
        self.reserve(rows, cols, dtype)?;
        Ok(self.push(data, rows, cols, dtype, row_bytes))
    }

    fn write(&mut self, dst: Tensor, src: &[u8]) {
        self.with_bytes(dst, |_, bytes| {
            assert_eq!(
                src.len(),
                bytes.len(),
                "bytes for a tensor of {}×{} {}",
                dst.rows,
                dst.cols,
                dst.dtype
            );
            bytes.copy_from_slice(src);
        });
    }

    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        assert_eq!(dst.len(), src.rows * src.cols, "room for a tensor of {}×{}", src.rows, src.cols);
        match src.dtype {
            DType::F32 => dst.copy_from_slice(self.f32(src)),
            DType::F16 | DType::Q8_0 => quant::dequantize(src.dtype, self.bytes(src), dst),
            other => panic!("read: a tensor of {}×{} {other}", src.rows, src.cols),
        }
        Ok(())
    }

    fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
        shapes::matmul(dst, x, w, bias);
        self.with(dst, &[x, w, bias.unwrap_or(x)], |cpu, dst| {
            // Out of its slot meanwhile, as the destination is.
            let mut scratch = std::mem::take(&mut cpu.products);
            let product = Product {
                out: dst,
                x: cpu.f32(x),
                w: cpu.bytes(w),
                bias: bias.map(|bias| cpu.f32(bias)),
                dtype: w.dtype,
                n: x.rows,
                k: w.cols,
                m: w.rows,
            };
            matmul::matmul(cpu.isa, &cpu.pool, &mut scratch, product);
            cpu.products = scratch;
        });
    }

    fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor) {
        shapes::get_rows(dst, table, ids);
        self.with(dst, &[table, ids], |cpu, dst| {
            let (bytes, ids) = (cpu.bytes(table), cpu.i32(ids));
            let row_bytes = cpu.buffers[table.buffer as usize].row_bytes;
            cpu.pool.tiles(dst, table.cols, (rows_per_piece(table.cols), table.cols), &|_, mut tile| {
                for r in 0..tile.rows() {
                    let row = shapes::row(ids[tile.first_row() + r], table);
                    quant::dequantize(table.dtype, &bytes[row * row_bytes..][..row_bytes], tile.row(r));
                }
            });
        });
    }

    fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32) {
        shapes::rms_norm(dst, x, weight);
        self.with(dst, &[x, weight], |cpu, dst| {
            let (k, isa, xs, weight) = (x.cols, cpu.isa, cpu.f32(x), cpu.f32(weight));
            cpu.pool.tiles(dst, k, (rows_per_piece(k), k), &|_, mut tile| {
                let x = &xs[tile.first_row() * k..][..tile.rows() * k];
                RmsNorm { dst: tile.whole_rows(), x, weight, eps }.run(isa);
            });
        });
    }

    fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) {
        shapes::layer_norm(dst, x, weight, bias);
        self.with(dst, &[x, weight, bias], |cpu, dst| {
            let (k, isa) = (x.cols, cpu.isa);
            let (xs, weight, bias) = (cpu.f32(x), cpu.f32(weight), cpu.f32(bias));
            cpu.pool.tiles(dst, k, (rows_per_piece(k), k), &|_, mut tile| {
                let x = &xs[tile.first_row() * k..][..tile.rows() * k];
                LayerNorm { dst: tile.whole_rows(), x, weight, bias, eps }.run(isa);
            });
        });
    }

    fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
        shapes::rope(x, positions, inv_freq, head_dim);
        let pairs = inv_freq.cols;
        self.with(x, &[positions, inv_freq], |cpu, xs| {
            let mut turns = std::mem::take(&mut cpu.turns);
            turns.clear();
            turns.resize(x.rows * pairs, [1.0, 0.0]);
            let (isa, positions, freqs) = (cpu.isa, cpu.i32(positions), cpu.f32(inv_freq));
            // The angles are the same for all heads, so they are turned into (cos, sin) once per row.
            cpu.pool.tiles(&mut turns, pairs, (rows_per_piece(16 * pairs), pairs), &|_, mut tile| {
                for r in 0..tile.rows() {
                    let position = positions[tile.first_row() + r] as f32;
                    for (turn, freq) in tile.row(r).iter_mut().zip(freqs) {
                        // One f32 product, as PyTorch has it: at position 4000 its rounding is already 1e-4 radians.
                        let (sin, cos) = (position * freq).sin_cos();
                        *turn = [cos, sin];
                    }
                }
            });
            cpu.pool.tiles(xs, x.cols, (rows_per_piece(x.cols), x.cols), &|_, mut tile| {
                for r in 0..tile.rows() {
                    let turns = &turns[(tile.first_row() + r) * pairs..][..pairs];
                    Rope { row: tile.row(r), turns, head_dim }.run(isa);
                }
            });
            cpu.turns = turns;
        });
    }

    fn attention(
        &mut self,
        dst: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Option<Tensor>,
        head_dim: usize,
    ) {
        shapes::attention(dst, q, k, v, positions, head_dim, MAX_HEAD_DIM);
        let group = q.cols / k.cols.max(1);
        self.with(dst, &[q, k, v, positions.unwrap_or(q)], |cpu, dst| {
            let (qs, positions) = (cpu.f32(q), positions.map(|p| cpu.i32(p)));
            let cache = |t: Tensor, head: usize| {
                let width = t.dtype.row_bytes(head_dim);
                let width = width.unwrap_or_else(|| panic!("attention: heads of {head_dim} in {}", t.dtype));
                let stride = cpu.buffers[t.buffer as usize].row_bytes;
                HeadRows { bytes: cpu.bytes(t), dtype: t.dtype, stride, offset: head / group * width, width }
            };
            let keys = |row: usize| match positions {
                None => k.rows,
                Some(p) => shapes::seen(p[row], k),
            };
            if q.rows <= FEW_ROWS {
                // Side by side as many as a thread can have, so that it reads long stretches of the cache.
                let heads = (q.cols / head_dim).div_ceil(cpu.threads()).min(HEADS);
                cpu.pool.tiles(dst, q.cols, (1, heads * head_dim), &|thread, mut tile| {
                    let (row, col) = (tile.first_row(), tile.first_col());
                    let head = |i: usize| col / head_dim + i;
                    let kv: [_; HEADS] = std::array::from_fn(|i| {
                        let head = head(i).min(q.cols / head_dim - 1);
                        (cache(k, head), cache(v, head))
                    });
                    let (kv, q) = (&kv[..tile.cols() / head_dim], &qs[row * q.cols + col..][..tile.cols()]);
                    let mut scratch = hold(&cpu.tiles[thread]);
                    let scratch = &mut scratch.f32_mut()[..SCRATCH];
                    Heads { out: tile.row(0), q, d: head_dim, kv, keys: keys(row), scratch }.run(cpu.isa);
                });
                return;
            }
            cpu.pool.tiles(dst, q.cols, (QUERIES, head_dim), &|thread, mut tile| {
                let head = tile.first_col() / head_dim;
                let limits: [usize; QUERIES] =
                    std::array::from_fn(|r| if r < tile.rows() { keys(tile.first_row() + r) } else { 1 });
                let (k, v, limits) = (cache(k, head), cache(v, head), &limits[..tile.rows()]);
                let mut scratch = hold(&cpu.tiles[thread]);
                let scratch = &mut scratch.f32_mut()[..SCRATCH];
                if tile.rows() <= FEW_ROWS {
                    // The last of a picture's 577.
                    for (r, &keys) in limits.iter().enumerate() {
                        let q = &qs[(tile.first_row() + r) * q.cols + tile.first_col()..][..head_dim];
                        let kv = &[(k, v)];
                        Heads { out: tile.row(r), q, d: head_dim, kv, keys, scratch }.run(cpu.isa);
                    }
                    return;
                }
                Queries { out: tile, q: qs, cols: q.cols, k, v, limits, scratch }.run(cpu.isa);
            });
        });
    }

    fn swiglu(&mut self, gate: Tensor, up: Tensor) {
        shapes::swiglu(gate, up);
        self.with(gate, &[up], |cpu, gate| {
            let (isa, up, len) = (cpu.isa, cpu.f32(up), gate.len());
            cpu.pool.tiles(gate, len, (1, GRAIN), &|_, mut tile| {
                let up = &up[tile.first_col()..][..tile.cols()];
                SwiGlu { gate: tile.row(0), up }.run(isa);
            });
        });
    }

    fn gelu(&mut self, x: Tensor, kind: Gelu) {
        self.with(x, &[], |cpu, x| {
            let (isa, len) = (cpu.isa, x.len());
            cpu.pool.tiles(x, len, (1, GRAIN), &|_, mut tile| GeluOf { x: tile.row(0), kind }.run(isa));
        });
    }

    fn add(&mut self, dst: Tensor, x: Tensor) {
        shapes::add(dst, x);
        self.with(dst, &[x], |cpu, dst| {
            let (isa, k, once, x) = (cpu.isa, x.cols, x.rows == 1, cpu.f32(x));
            cpu.pool.tiles(dst, k, (rows_per_piece(k), k), &|_, mut tile| {
                for r in 0..tile.rows() {
                    let x = &x[if once { 0 } else { (tile.first_row() + r) * k }..][..k];
                    Add { dst: tile.row(r), x }.run(isa);
                }
            });
        });
    }

    fn copy(&mut self, dst: Tensor, x: Tensor) {
        shapes::copy(dst, x);
        let row_bytes = self.buffers[dst.buffer as usize].row_bytes;
        self.with_bytes(dst, |cpu, bytes| {
            if x.dtype == dst.dtype {
                return bytes.copy_from_slice(cpu.bytes(x));
            }
            let xs = cpu.f32(x);
            cpu.pool.tiles(bytes, row_bytes, (rows_per_piece(x.cols), row_bytes), &|_, mut tile| {
                let x = &xs[tile.first_row() * dst.cols..][..tile.rows() * dst.cols];
                quant::quantize(dst.dtype, dst.cols, x, tile.whole_rows(), None);
            });
        });
    }

    fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize) {
        let k = dst.cols / 2;
        shapes::top_k(dst, x, among);
        self.with(dst, &[x], |cpu, dst| {
            let xs = cpu.f32(x);
            cpu.pool.tiles(dst, 2 * k, (rows_per_piece(x.cols), 2 * k), &|_, mut tile| {
                for r in 0..tile.rows() {
                    let x = &xs[(tile.first_row() + r) * x.cols..][..among];
                    scalar::top_k(tile.row(r), x);
                }
            });
        });
    }
}
