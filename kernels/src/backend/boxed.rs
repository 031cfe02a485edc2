//! A backend behind a pointer is a backend: so that decorators stand before a device that is chosen at run time.

use super::{Backend, Gelu, Tensor};
use crate::{Bytes, DType, Result, count::Op};
use std::time::Duration;

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        (**self).load(bytes, rows, cols, dtype)
    }

    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        (**self).alloc(rows, cols, dtype)
    }

    fn write(&mut self, dst: Tensor, src: &[u8]) {
        (**self).write(dst, src);
    }

    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        (**self).read(dst, src)
    }

    fn layer(&mut self, index: Option<usize>) {
        (**self).layer(index);
    }

    fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
        (**self).device_times()
    }

    fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
        (**self).matmul(dst, x, w, bias);
    }

    fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor) {
        (**self).get_rows(dst, table, ids);
    }

    fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32) {
        (**self).rms_norm(dst, x, weight, eps);
    }

    fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) {
        (**self).layer_norm(dst, x, weight, bias, eps);
    }

    fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
        (**self).rope(x, positions, inv_freq, head_dim);
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
        (**self).attention(dst, q, k, v, positions, head_dim);
    }

    fn swiglu(&mut self, gate: Tensor, up: Tensor) {
        (**self).swiglu(gate, up);
    }

    fn gelu(&mut self, x: Tensor, kind: Gelu) {
        (**self).gelu(x, kind);
    }

    fn add(&mut self, dst: Tensor, x: Tensor) {
        (**self).add(dst, x);
    }

    fn copy(&mut self, dst: Tensor, x: Tensor) {
        (**self).copy(dst, x);
    }

    fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize) {
        (**self).top_k(dst, x, among);
    }
}
