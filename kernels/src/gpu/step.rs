//! An op as it is recorded: what it does to which tensors.

use crate::{
    Gelu, Tensor,
    count::{Op, work},
};

use super::turns::Table;

/// A recorded op. The names are those of the methods of [`crate::Backend`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    Matmul {
        dst: Tensor,
        x: Tensor,
        w: Tensor,
        bias: Option<Tensor>,
    },
    GetRows {
        dst: Tensor,
        table: Tensor,
        ids: Tensor,
    },
    RmsNorm {
        dst: Tensor,
        x: Tensor,
        weight: Tensor,
        eps: f32,
    },
    LayerNorm {
        dst: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f32,
    },
    /// `turns` are those of x's rows.
    Rope {
        x: Tensor,
        turns: Table,
        head_dim: usize,
    },
    /// Query row i sees keys `0..=positions[i]`, or all; the last of all rows sees `keys`.
    Attention {
        dst: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Option<Tensor>,
        keys: usize,
        head_dim: usize,
    },
    SwiGlu {
        gate: Tensor,
        up: Tensor,
    },
    Gelu {
        x: Tensor,
        kind: Gelu,
    },
    Add {
        dst: Tensor,
        x: Tensor,
    },
    Copy {
        dst: Tensor,
        x: Tensor,
    },
    TopK {
        dst: Tensor,
        x: Tensor,
        among: usize,
    },
}

impl Step {
    /// The method.
    pub fn op(&self) -> Op {
        match self {
            Step::Matmul { .. } => Op::Matmul,
            Step::GetRows { .. } => Op::GetRows,
            Step::RmsNorm { .. } => Op::RmsNorm,
            Step::LayerNorm { .. } => Op::LayerNorm,
            Step::Rope { .. } => Op::Rope,
            Step::Attention { .. } => Op::Attention,
            Step::SwiGlu { .. } => Op::SwiGlu,
            Step::Gelu { .. } => Op::Gelu,
            Step::Add { .. } => Op::Add,
            Step::Copy { .. } => Op::Copy,
            Step::TopK { .. } => Op::TopK,
        }
    }

    /// The tensors, in the order of the method's arguments: the first is written.
    pub fn operands(&self) -> Vec<Tensor> {
        match *self {
            Step::Matmul { dst, x, w, bias } => [dst, x, w].into_iter().chain(bias).collect(),
            Step::GetRows { dst, table, ids } => vec![dst, table, ids],
            Step::RmsNorm { dst, x, weight, .. } => vec![dst, x, weight],
            Step::LayerNorm { dst, x, weight, bias, .. } => vec![dst, x, weight, bias],
            Step::Rope { x, .. } | Step::Gelu { x, .. } => vec![x],
            Step::Attention { dst, q, k, v, positions, .. } => {
                [dst, q, k, v].into_iter().chain(positions).collect()
            }
            Step::SwiGlu { gate, up } => vec![gate, up],
            Step::Add { dst, x } | Step::Copy { dst, x } | Step::TopK { dst, x, .. } => vec![dst, x],
        }
    }

    /// The tensor that is written.
    pub fn written(&self) -> Tensor {
        self.operands()[0]
    }

    /// Whether what is written was read before: the op works in place.
    pub fn in_place(&self) -> bool {
        matches!(self, Step::Rope { .. } | Step::Gelu { .. } | Step::SwiGlu { .. } | Step::Add { .. })
    }

    /// Its arithmetic operations.
    pub fn flops(&self) -> u64 {
        match self {
            Step::Matmul { .. } => work(Op::Matmul, &self.operands(), 0).flops,
            Step::Attention { head_dim, .. } => work(Op::Attention, &self.operands(), *head_dim).flops,
            // Beside products nothing counts.
            _ => 0,
        }
    }
}
