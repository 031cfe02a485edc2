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
    /// The tensors, in the order of the method's arguments: the first is written.
    pub fn operands(&self) -> Operands {
        match *self {
            Step::Matmul { dst, x, w, bias } => Operands::of([dst, x, w], bias),
            Step::GetRows { dst, table, ids } => Operands::of([dst, table, ids], None),
            Step::RmsNorm { dst, x, weight, .. } => Operands::of([dst, x, weight], None),
            Step::LayerNorm { dst, x, weight, bias, .. } => Operands::of([dst, x, weight, bias], None),
            Step::Rope { x, .. } | Step::Gelu { x, .. } => Operands::of([x], None),
            Step::Attention { dst, q, k, v, positions, .. } => Operands::of([dst, q, k, v], positions),
            Step::SwiGlu { gate, up } => Operands::of([gate, up], None),
            Step::Add { dst, x } | Step::Copy { dst, x } | Step::TopK { dst, x, .. } => {
                Operands::of([dst, x], None)
            }
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

/// The operands of a step, without asking for memory: a token has hundreds of steps, looked at many times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    tensors: [Tensor; 5],
    len: usize,
}

impl Operands {
    fn of<const N: usize>(some: [Tensor; N], one: Option<Tensor>) -> Self {
        let mut all = Self { tensors: [some[0]; 5], len: N };
        all.tensors[..N].copy_from_slice(&some);
        if let Some(tensor) = one {
            all.tensors[N] = tensor;
            all.len += 1;
        }
        all
    }
}

impl std::ops::Deref for Operands {
    type Target = [Tensor];

    fn deref(&self) -> &[Tensor] {
        &self.tensors[..self.len]
    }
}
