//! NF4: frozen weights in 4 bits, 16 values at equal steps of the normal distribution's quantiles (QLoRA, Dettmers et al., 2023, appendix E).
//!
//! Blocks of 64 in row order: w ≈ scale · TABLE\[code\], scale the block's largest magnitude; two codes to a byte, the first in its high half.
//! Doubled, the scales themselves go into 8 bits: scale ≈ mean + step · q, q an i8, one f32 step per 256 scales. That makes 4.13 bits per
//! weight instead of 4.5. bitsandbytes has a table of its own for those 8 bits; files of the two are not exchanged, so nothing hangs on it.

use tch::{Device, Kind, Tensor};

/// Weights of a block.
pub const BLOCK: i64 = 64;
/// Scales that share a step.
const GROUP: i64 = 256;
/// Largest q.
const LEVELS: f64 = 127.0;

/// The 16 values: negative quantiles for codes 0–6, 0 for 7, positive ones for 8–15.
pub const TABLE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The scales of blocks.
#[derive(Debug)]
enum Scales {
    /// `[blocks]` f32.
    Plain(Tensor),
    /// In 8 bits.
    Doubled {
        /// `[groups, GROUP]` i8, padded with zeros.
        q: Tensor,
        /// `[groups, 1]` f32.
        step: Tensor,
        /// Of all scales.
        mean: f64,
        /// How many scales.
        blocks: i64,
    },
}

/// A matrix in 4 bits.
#[derive(Debug)]
pub struct Nf4 {
    /// `[m, k]`.
    shape: Vec<i64>,
    /// `[m·k / 2]` u8, two codes each.
    codes: Tensor,
    scales: Scales,
}

impl Nf4 {
    /// Quantizes `w [m, k]` onto `device`; `None` where its elements are no whole blocks. `double`: the scales in 8 bits.
    pub fn new(w: &Tensor, double: bool, device: Device) -> Option<Self> {
        if w.numel() as i64 % BLOCK != 0 {
            return None;
        }
        tch::no_grad(|| {
            let blocks = w.to_device(device).to_kind(Kind::Float).reshape([-1, BLOCK]);
            let scale = blocks.abs().amax([1], true);
            let middles: Vec<f32> = TABLE.windows(2).map(|p| (p[0] + p[1]) / 2.0).collect();
            // A block of zeros has scale 0 and any divisor will do.
            let unit = &blocks / scale.clamp_min(f64::from(f32::MIN_POSITIVE));
            let middles = Tensor::from_slice(&middles).to_device(device);
            let codes = unit.bucketize(&middles, true, false).to_kind(Kind::Uint8).view([-1, 2]);
            let codes = codes.select(1, 0) * 16 + codes.select(1, 1);
            let scale = scale.flatten(0, 1);
            let scales = if double { Scales::double(&scale) } else { Scales::Plain(scale) };
            Some(Self { shape: w.size(), codes, scales })
        })
    }

    /// The matrix `[m, k]` in `kind`.
    pub fn dequantize(&self, kind: Kind) -> Tensor {
        tch::no_grad(|| {
            let high = self.codes.bitwise_right_shift_tensor_scalar(4);
            let low = self.codes.bitwise_and(15);
            let index = Tensor::stack(&[high, low], 1).flatten(0, 1).to_kind(Kind::Int);
            let table = Tensor::from_slice(&TABLE).to_device(self.codes.device());
            let unit = table.index_select(0, &index).view([-1, BLOCK]);
            (unit * self.scales.values().unsqueeze(1)).to_kind(kind).view(self.shape.as_slice())
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
        size(&self.codes)
            + match &self.scales {
                Scales::Plain(scales) => size(scales),
                Scales::Doubled { q, step, .. } => size(q) + size(step),
            }
    }
}

impl Scales {
    /// Puts `scales [blocks]` into 8 bits.
    fn double(scales: &Tensor) -> Self {
        let blocks = scales.numel() as i64;
        let mean = scales.mean(Kind::Float).double_value(&[]);
        let pad = (GROUP - blocks % GROUP) % GROUP;
        let groups = (scales - mean).constant_pad_nd([0, pad]).view([-1, GROUP]);
        let step = (groups.abs().amax([1], true) / LEVELS).clamp_min(f64::from(f32::MIN_POSITIVE));
        let q = (groups / &step).round().to_kind(Kind::Int8);
        Self::Doubled { q, step, mean, blocks }
    }

    /// `[blocks]` f32.
    fn values(&self) -> Tensor {
        match self {
            Self::Plain(scales) => scales.shallow_clone(),
            Self::Doubled { q, step, mean, blocks } => {
                (q.to_kind(Kind::Float) * step + *mean).flatten(0, 1).narrow(0, 0, *blocks)
            }
        }
    }
}
