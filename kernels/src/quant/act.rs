//! What activations become before they meet quantized weights: 32 integers of 8 bits and a scale.
//!
//! ```text
//! ActBlock, 40 bytes:  d f32 | sum i32 | q i8 × 32        x[i] ≈ d·q[i],  sum = Σ q[i]
//! ```
//! One block serves every weight format, as every format's scales cover 16, 32 or 256 elements in steps of 32. The scale is
//! a float (not a half, as in ggml's Q8_0), so large activations cannot overflow. The sum of the codes is what a format
//! with a minimum multiplies it by.

/// 32 activations.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct ActBlock {
    /// The scale: the largest magnitude / 127.
    pub d: f32,
    /// Σ q.
    pub sum: i32,
    /// The codes, in −127..=127.
    pub q: [i8; ActBlock::LEN],
}

const _: () = assert!(size_of::<ActBlock>() == 40);

impl ActBlock {
    /// Elements of a block.
    pub const LEN: usize = 32;

    /// A block of zeros.
    pub const ZERO: Self = Self { d: 0.0, sum: 0, q: [0; Self::LEN] };

    /// q = x·(127/amax) rounded to nearest, ties to even; d = amax/127 with amax = max |x|.
    ///
    /// Where some x is not finite, d is NaN, so that the fault shows in every product. Where amax is so small that
    /// 127/amax overflows (below 4e-37), the block is zero.
    pub fn new(x: &[f32; Self::LEN]) -> Self {
        // The bits of |x| order as numbers do, with ∞ and NaN above all: an integer maximum loses no NaN.
        let amax = f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
        let inverse = 127.0 / amax;
        if !amax.is_finite() {
            return Self { d: f32::NAN, ..Self::ZERO };
        }
        if !inverse.is_finite() {
            return Self::ZERO;
        }
        let mut q = [0; Self::LEN];
        let mut sum = 0;
        for (q, x) in q.iter_mut().zip(x) {
            let i = super::fit::nearest(x * inverse) as i32;
            *q = i as i8;
            sum += i;
        }
        Self { d: amax / 127.0, sum, q }
    }
}

/// Quantizes a row of activations.
///
/// # Panics
/// Where `x` does not hold 32 elements for every block of `out`.
#[track_caller]
pub fn quantize_act(x: &[f32], out: &mut [ActBlock]) {
    assert!(
        x.len() == out.len() * ActBlock::LEN,
        "{} activations for {} blocks of {}",
        x.len(),
        out.len(),
        ActBlock::LEN
    );
    for (x, out) in x.chunks_exact(ActBlock::LEN).zip(out) {
        *out = ActBlock::new(super::array(x));
    }
}

/// Σ wᵢ·qᵢ for weight codes of any offset, `w` as long as `q`: exact.
pub(super) fn isum(w: impl IntoIterator<Item = i32>, q: &[i8]) -> f32 {
    // At most 32·128·127 < 2^24: the conversion is exact.
    w.into_iter().zip(q).map(|(w, &q)| w * i32::from(q)).sum::<i32>() as f32
}
