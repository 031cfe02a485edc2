//! What the operands of each op must look like: the same on every device.
//!
//! A wrong shape is a bug of the caller; it panics here, with both shapes, before anything is computed.

use crate::{DType, Tensor};

/// Panics unless `t` is [rows, cols].
#[track_caller]
pub(crate) fn shape(what: &str, t: Tensor, rows: usize, cols: usize) {
    assert!(t.rows == rows && t.cols == cols, "{what} is {}×{}, must be {rows}×{cols}", t.rows, t.cols);
}

/// Panics unless `t` has `n` elements, in a column or in a row.
#[track_caller]
pub(crate) fn integers(what: &str, t: Tensor, n: usize) {
    assert!(
        t.rows * t.cols == n && (t.rows == 1 || t.cols == 1),
        "{what} is {}×{}, must be {n}×1",
        t.rows,
        t.cols
    );
}

#[track_caller]
pub(crate) fn matmul(dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
    assert_eq!(x.cols, w.cols, "matmul: x is {}×{}, w is {}×{}", x.rows, x.cols, w.rows, w.cols);
    shape("matmul: dst", dst, x.rows, w.rows);
    if let Some(bias) = bias {
        shape("matmul: bias", bias, 1, w.rows);
    }
}

#[track_caller]
pub(crate) fn get_rows(dst: Tensor, table: Tensor, ids: Tensor) {
    integers("get_rows: ids", ids, dst.rows);
    shape("get_rows: dst", dst, dst.rows, table.cols);
}

/// The row that `id` names.
#[track_caller]
pub(crate) fn row(id: i32, table: Tensor) -> usize {
    let row = usize::try_from(id).ok().filter(|id| *id < table.rows);
    row.unwrap_or_else(|| panic!("get_rows: id {id} in a table of {} rows", table.rows))
}

#[track_caller]
pub(crate) fn rms_norm(dst: Tensor, x: Tensor, weight: Tensor) {
    shape("rms_norm: dst", dst, x.rows, x.cols);
    shape("rms_norm: weight", weight, 1, x.cols);
}

#[track_caller]
pub(crate) fn layer_norm(dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor) {
    shape("layer_norm: dst", dst, x.rows, x.cols);
    shape("layer_norm: weight", weight, 1, x.cols);
    shape("layer_norm: bias", bias, 1, x.cols);
}

#[track_caller]
pub(crate) fn rope(x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
    integers("rope: positions", positions, x.rows);
    let pairs = inv_freq.cols;
    shape("rope: inv_freq", inv_freq, 1, pairs);
    assert!(
        x.cols.is_multiple_of(head_dim) && 2 * pairs <= head_dim,
        "rope: {} columns in heads of {head_dim}, of which {pairs} pairs turn",
        x.cols
    );
}

/// Attention with heads of at most `most` elements.
#[track_caller]
pub(crate) fn attention(
    dst: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Option<Tensor>,
    head_dim: usize,
    most: usize,
) {
    shape("attention: dst", dst, q.rows, q.cols);
    shape("attention: v", v, k.rows, k.cols);
    assert_eq!(k.dtype, v.dtype, "attention: the types of k and v");
    assert!(
        (1..=most).contains(&head_dim)
            && q.cols.is_multiple_of(head_dim)
            && k.cols.is_multiple_of(head_dim)
            && (q.cols / head_dim).is_multiple_of((k.cols / head_dim).max(1)),
        "attention: heads of {head_dim} (at most {most}), q is {}×{}, k is {}×{}",
        q.rows,
        q.cols,
        k.rows,
        k.cols
    );
    if let Some(positions) = positions {
        integers("attention: positions", positions, q.rows);
    }
}

/// Keys that the row at `position` sees.
#[track_caller]
pub(crate) fn seen(position: i32, k: Tensor) -> usize {
    usize::try_from(position)
        .ok()
        .filter(|at| *at < k.rows)
        .map_or_else(|| panic!("attention: position {position} of {} keys", k.rows), |at| at + 1)
}

#[track_caller]
pub(crate) fn swiglu(gate: Tensor, up: Tensor) {
    shape("swiglu: up", up, gate.rows, gate.cols);
}

/// One row is added to every row of dst.
#[track_caller]
pub(crate) fn add(dst: Tensor, x: Tensor) {
    shape("add: x", x, if x.rows == 1 { 1 } else { dst.rows }, dst.cols);
}

#[track_caller]
pub(crate) fn copy(dst: Tensor, x: Tensor) {
    shape("copy: x", x, dst.rows, dst.cols);
    assert!(
        x.dtype == dst.dtype || x.dtype == DType::F32 && dst.dtype != DType::I32,
        "copy: {} to {}",
        x.dtype,
        dst.dtype
    );
    assert_ne!(dst.buffer, x.buffer, "copy within one buffer, {x:?} to {dst:?}");
}

#[track_caller]
pub(crate) fn top_k(dst: Tensor, x: Tensor, among: usize) {
    let k = dst.cols / 2;
    shape("top_k: dst", dst, x.rows, 2 * k);
    assert!(
        (1..=among).contains(&k) && among <= x.cols && x.cols < 1 << 24,
        "top_k: {k} of the first {among} of {} columns",
        x.cols
    );
}
