//! The ops of [`crate::Backend`] for a backend that stands before two others: each becomes one call of `relay`.
//!
//! A decorator of one device passes tensors on as they are (`count::decorate`). Before two devices a tensor has another handle
//! on each, so an op is told as what it writes, what it reads, and a call that takes a device and its handles.

use crate::{Backend, Tensor};

/// An op, to be called with a device and with what turns our handles into that device's.
pub(crate) type Call<'a> = &'a dyn Fn(&mut dyn Backend, &dyn Fn(Tensor) -> Tensor);

/// Inside an `impl Backend`: the ops, by `self.relay(op, dst, reads, call)`. An op in place reads its `dst` too.
macro_rules! relay_ops {
    () => {
        fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
            let reads = [x, w, bias.unwrap_or(w)];
            let reads = &reads[..2 + usize::from(bias.is_some())];
            self.relay(Op::Matmul, dst, reads, &|b, t| b.matmul(t(dst), t(x), t(w), bias.map(t)));
        }

        fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor) {
            self.relay(Op::GetRows, dst, &[table, ids], &|b, t| b.get_rows(t(dst), t(table), t(ids)));
        }

        fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32) {
            self.relay(Op::RmsNorm, dst, &[x, weight], &|b, t| b.rms_norm(t(dst), t(x), t(weight), eps));
        }

        fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) {
            self.relay(Op::LayerNorm, dst, &[x, weight, bias], &|b, t| {
                b.layer_norm(t(dst), t(x), t(weight), t(bias), eps)
            });
        }

        fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
            self.relay(Op::Rope, x, &[x, positions, inv_freq], &|b, t| {
                b.rope(t(x), t(positions), t(inv_freq), head_dim)
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
            let reads = [q, k, v, positions.unwrap_or(q)];
            let reads = &reads[..3 + usize::from(positions.is_some())];
            self.relay(Op::Attention, dst, reads, &|b, t| {
                b.attention(t(dst), t(q), t(k), t(v), positions.map(t), head_dim)
            });
        }

        fn swiglu(&mut self, gate: Tensor, up: Tensor) {
            self.relay(Op::SwiGlu, gate, &[gate, up], &|b, t| b.swiglu(t(gate), t(up)));
        }

        fn gelu(&mut self, x: Tensor, kind: Gelu) {
            self.relay(Op::Gelu, x, &[x], &|b, t| b.gelu(t(x), kind));
        }

        fn add(&mut self, dst: Tensor, x: Tensor) {
            self.relay(Op::Add, dst, &[dst, x], &|b, t| b.add(t(dst), t(x)));
        }

        fn copy(&mut self, dst: Tensor, x: Tensor) {
            self.relay(Op::Copy, dst, &[x], &|b, t| b.copy(t(dst), t(x)));
        }

        fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize) {
            self.relay(Op::TopK, dst, &[x], &|b, t| b.top_k(t(dst), t(x), among));
        }
    };
}
pub(crate) use relay_ops;
