//! The device as a [`Backend`]: memory, and ops that are checked and recorded.

use std::time::Duration;

use super::{
    Gpu, attend,
    buffers::Stored,
    product,
    step::Step,
    top_k,
    turns::{Table, Turns},
};
use crate::{Backend, Bytes, DType, Error, Gelu, Result, Tensor, count::Op, shapes};

/// Elements of a head at most: what a lane's registers hold.
const MAX_HEAD_DIM: usize = 256;
/// Single rows of so many floats at most are remembered when the host writes them: RoPE's frequencies are such.
const HOST_COPY: usize = 1024;

impl Backend for Gpu {
    fn name(&self) -> String {
        self.device.name()
    }

    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let row_bytes =
            dtype.row_bytes(cols).ok_or(Error::RaggedBlock { cols, len: dtype.block_len(), dtype })?;
        let expected = row_bytes.saturating_mul(rows);
        if expected != bytes.len() {
            return Err(Error::WrongLength { rows, cols, dtype, expected, got: bytes.len() });
        }
        self.device.check()?;
        let tensor = self.push(Stored::default(), rows, cols, dtype);
        self.reserve(tensor)?;
        self.buffers.pending.push((tensor, bytes));
        Ok(tensor)
    }

    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let row_bytes =
            dtype.row_bytes(cols).ok_or(Error::RaggedBlock { cols, len: dtype.block_len(), dtype })?;
        self.seal();
        self.device.check()?;
        let bytes = row_bytes.saturating_mul(rows);
        let parts = self.buffers.alloc(&mut self.device, (rows, cols), dtype);
        let parts = parts.ok_or_else(|| self.out_of_memory(bytes, rows, cols, dtype))?;
        let host = (dtype == DType::I32).then(|| vec![0; rows * cols]);
        let tensor = self.push(Stored { parts, host }, rows, cols, dtype);
        self.reserve(tensor)?;
        // They may be queries.
        let sums = if dtype == DType::F32 { attend::scratch_for(rows, cols) } else { 0 };
        if !self.grow(sums) {
            return Err(self.out_of_memory(sums as usize, rows, cols, dtype));
        }
        Ok(tensor)
    }

    fn write(&mut self, dst: Tensor, src: &[u8]) {
        let row = dst.dtype.row_bytes(dst.cols).unwrap_or(0);
        assert_eq!(
            src.len(),
            dst.rows * row,
            "bytes for a tensor of {}×{} {}",
            dst.rows,
            dst.cols,
            dst.dtype
        );
        if self.awaits(dst) {
            self.flush();
        }
        if self.device.failed() {
            return;
        }
        self.keep_copy(dst, src);
        for place in self.buffers.places(dst) {
            let bytes = &src[place.from * row..][..place.rows * row];
            if dst.dtype == DType::Q8_0 {
                if self.write_blocks(dst, &place, bytes).is_err() && !self.device.failed() {
                    self.device.starve(bytes.len(), dst.rows, dst.cols, dst.dtype);
                }
            } else {
                let buffer = self.buffers.slots.get(place.buffer);
                self.device.queue.write_buffer(buffer, 4 * u64::from(place.at), bytes);
            }
        }
    }

    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        assert_eq!(dst.len(), src.rows * src.cols, "room for a tensor of {}×{}", src.rows, src.cols);
        self.read_rows(dst, src)
    }

    fn layer(&mut self, _: Option<usize>) {
        self.seal();
    }

    fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
        if !self.device.times {
            return None;
        }
        self.flush();
        self.encoder.times().map(super::times::Times::take)
    }

    fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
        shapes::matmul(dst, x, w, bias);
        self.record(Step::Matmul { dst, x, w, bias });
    }

    fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor) {
        shapes::get_rows(dst, table, ids);
        for id in self.integers(ids) {
            shapes::row(id, table);
        }
        self.record(Step::GetRows { dst, table, ids });
    }

    fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32) {
        shapes::rms_norm(dst, x, weight);
        self.record(Step::RmsNorm { dst, x, weight, eps });
    }

    fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) {
        shapes::layer_norm(dst, x, weight, bias);
        self.record(Step::LayerNorm { dst, x, weight, bias, eps });
    }

    fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
        shapes::rope(x, positions, inv_freq, head_dim);
        let positions = self.integers(positions);
        if let Some(turns) = self.turns_of(&positions, inv_freq) {
            self.record(Step::Rope { x, turns, head_dim });
        }
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
        let keys = match positions {
            None => k.rows,
            Some(p) => self.integers(p).into_iter().map(|at| shapes::seen(at, k)).max().unwrap_or(0),
        };
        let a = attend::Attention { dst, q, k, v, positions, keys, head_dim };
        self.grow_late(attend::scratch(&self.buffers, self.device.info.kind, &a), dst);
        self.record(Step::Attention { dst, q, k, v, positions, keys, head_dim });
    }

    fn swiglu(&mut self, gate: Tensor, up: Tensor) {
        shapes::swiglu(gate, up);
        self.record(Step::SwiGlu { gate, up });
    }

    fn gelu(&mut self, x: Tensor, kind: Gelu) {
        self.record(Step::Gelu { x, kind });
    }

    fn add(&mut self, dst: Tensor, x: Tensor) {
        shapes::add(dst, x);
        self.record(Step::Add { dst, x });
    }

    fn copy(&mut self, dst: Tensor, x: Tensor) {
        shapes::copy(dst, x);
        if x.dtype == DType::I32 {
            // Integers are the host's: it knows them without asking.
            let integers = self.integers(x);
            return self.write(dst, bytemuck::cast_slice(&integers));
        }
        self.record(Step::Copy { dst, x });
    }

    fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize) {
        shapes::top_k(dst, x, among);
        self.grow_late(top_k::scratch(x.rows, among, dst.cols / 2), dst);
        self.record(Step::TopK { dst, x, among });
    }
}

impl Gpu {
    /// Scratch that ops on `tensor` may need, so that no op has to ask for memory.
    fn reserve(&mut self, tensor: Tensor) -> Result<()> {
        let fits = !product::rounds(&self.device.facts, tensor.dtype)
            || self.scratch.reserve(&mut self.device, &mut self.buffers.slots);
        let Tensor { rows, cols, dtype, .. } = tensor;
        let bytes = dtype.row_bytes(cols).unwrap_or(0).saturating_mul(rows);
        if fits { Ok(()) } else { Err(self.out_of_memory(bytes, rows, cols, dtype)) }
    }

    /// Keeps what the host writes where an op will ask for it: integers, and single rows of floats.
    fn keep_copy(&mut self, dst: Tensor, src: &[u8]) {
        let words = src.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let stored = &mut self.buffers.tensors[dst.buffer as usize];
        match (dst.dtype, &mut stored.host) {
            (DType::I32, Some(host)) => {
                let rows = &mut host[dst.first * dst.cols..][..dst.rows * dst.cols];
                rows.iter_mut().zip(words).for_each(|(to, from)| *to = from);
            }
            (DType::F32, host) => {
                let small = dst.first == 0 && dst.rows == 1 && dst.cols <= HOST_COPY;
                *host = small.then(|| words.collect());
            }
            _ => {}
        }
    }

    /// The integers of `t`, as the host wrote them.
    fn integers(&self, t: Tensor) -> Vec<i32> {
        let host = self.buffers.tensors[t.buffer as usize].host.as_ref();
        let host = host.unwrap_or_else(|| panic!("{t:?} holds no integers that the host wrote"));
        host[t.first * t.cols..][..t.rows * t.cols].iter().map(|&word| word as i32).collect()
    }

    /// The turns of `positions`; `None` where the device failed.
    fn turns_of(&mut self, positions: &[i32], inv_freq: Tensor) -> Option<Table> {
        let host = self.buffers.tensors[inv_freq.buffer as usize].host.as_ref();
        let freqs = match host.filter(|_| inv_freq.first == 0 && inv_freq.rows == 1) {
            Some(words) => words.iter().map(|&word| f32::from_bits(word)).collect(),
            None => {
                let mut freqs = vec![0.0; inv_freq.cols];
                self.read(&mut freqs, inv_freq).ok()?;
                freqs
            }
        };
        if let Some(table) = self.turns.find(positions, &freqs) {
            return Some(table);
        }
        // Recorded ops still turn by what stands there.
        if self.steps.iter().any(|step| matches!(step, Step::Rope { .. })) {
            self.flush();
        }
        let bytes = Turns::bytes(positions.len(), freqs.len());
        let number = match self.turns.room(bytes) {
            Some(number) => number,
            None => self.make_turns(bytes)?,
        };
        let turns = self.turns.compute(positions, &freqs);
        let buffer = self.buffers.slots.get(number);
        self.device.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&turns));
        self.turns.find(positions, &freqs)
    }

    /// A buffer of `bytes` for turns.
    fn make_turns(&mut self, bytes: u64) -> Option<u32> {
        let Some(buffer) = self.device.buffer("turns", bytes, super::STORAGE) else {
            self.device.starve(bytes as usize, 1, bytes as usize / 4, DType::F32);
            return None;
        };
        let number = self.buffers.slots.add(buffer.clone());
        if let Some(old) = self.turns.replace(number, &buffer)
            && let Some(old_buffer) = self.buffers.slots.remove(old)
        {
            self.encoder.forget(old);
            self.device.free(&old_buffer);
        }
        Some(number)
    }
}
