//! The projector: from the tower's features to rows of the text model's width.
//!
//! `linear` (LLaVA 1): y = Wx + b. `mlpNx_gelu` (1.5 has N = 2): N such layers with exact GELU, x·Φ(x), between them. `identity`: y = x.

use std::{fmt, str::FromStr};

use tch::{Device, Kind, Tensor};

use crate::unit::Unit;

/// Where the parameters stand in the authors' checkpoints.
const PREFIX: &str = "model.mm_projector";

/// The kind of projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projector {
    /// Nothing; tower and text model are equally wide.
    Identity,
    /// One layer.
    Linear,
    /// So many layers with GELU between.
    Mlp(i64),
}

impl fmt::Display for Projector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => write!(f, "identity"),
            Self::Linear => write!(f, "linear"),
            Self::Mlp(n) => write!(f, "mlp{n}x_gelu"),
        }
    }
}

impl FromStr for Projector {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let layers =
            || s.strip_prefix("mlp")?.strip_suffix("x_gelu")?.parse().ok().filter(|n| (1..=16).contains(n));
        match s {
            "identity" => Ok(Self::Identity),
            "linear" => Ok(Self::Linear),
            _ => layers()
                .map(Self::Mlp)
                .ok_or_else(|| format!("{s:?} is no projector; known are linear, mlp2x_gelu, identity")),
        }
    }
}

impl Projector {
    /// Names (without `.weight`, `.bias`) and `[out, in]` of the layers between widths `from` and `to`.
    pub fn layers(self, from: i64, to: i64) -> Vec<(String, [i64; 2])> {
        let n = match self {
            Self::Identity => return Vec::new(),
            Self::Linear => return vec![(PREFIX.into(), [to, from])],
            Self::Mlp(n) => n,
        };
        // GELUs take the odd places of the Sequential.
        (0..n).map(|i| (format!("{PREFIX}.{}", 2 * i), [to, if i == 0 { from } else { to }])).collect()
    }

    /// A unit drawn as `torch.nn.Linear` draws (kaiming-uniform with a = √5): weights and biases uniform within ±1/√in.
    pub fn init(self, from: i64, to: i64, kind: Kind, device: Device) -> Unit {
        let mut tensors = Vec::new();
        for (name, [m, k]) in self.layers(from, to) {
            let bound = 1.0 / (k as f64).sqrt();
            let draw = |shape: &[i64]| {
                Tensor::empty(shape, (Kind::Float, device)).uniform_(-bound, bound).to_kind(kind)
            };
            tensors.push((format!("{name}.weight"), draw(&[m, k])));
            tensors.push((format!("{name}.bias"), draw(&[m])));
        }
        Unit::frozen("projector", tensors)
    }

    /// Features `[…, from]` to rows `[…, to]`.
    pub fn forward(self, unit: &Unit, x: &Tensor) -> Tensor {
        let mut x = x.shallow_clone();
        for (i, pair) in unit.leaves.chunks(2).enumerate() {
            if i > 0 {
                x = x.gelu("none");
            }
            x = x.linear(&pair[0], Some(&pair[1]));
        }
        x
    }
}
