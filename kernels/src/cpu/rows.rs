//! The ops on rows, each sent to the path of the instructions in use.

use super::{Isa, scalar};
use crate::{DType, Gelu, quant};

pub(super) fn rms_norm(_: Isa, dst: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    scalar::rms_norm(dst, x, weight, eps);
}

pub(super) fn layer_norm(_: Isa, dst: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    scalar::layer_norm(dst, x, weight, bias, eps);
}

pub(super) fn rope(_: Isa, row: &mut [f32], turns: &[[f32; 2]], head_dim: usize) {
    scalar::rope(row, turns, head_dim);
}

pub(super) fn swiglu(_: Isa, gate: &mut [f32], up: &[f32]) {
    scalar::swiglu(gate, up);
}

pub(super) fn gelu(_: Isa, x: &mut [f32], kind: Gelu) {
    scalar::gelu(x, kind);
}

pub(super) fn add(_: Isa, dst: &mut [f32], x: &[f32]) {
    scalar::add(dst, x);
}

pub(super) fn convert(_: Isa, dtype: DType, cols: usize, dst: &mut [u8], x: &[f32]) {
    quant::quantize(dtype, cols, x, dst, None);
}
