//! Pillow's antialiased bicubic resize, to the byte, of a part of a padded picture.
//!
//! Along one axis, output `i` of `out` from a canvas of `n` pixels:
//! ```text
//! scale = n/out, s = max(scale, 1), centre = (i + ½)·scale
//! window = [⌊centre − 2s + ½⌋, ⌊centre + 2s + ½⌋) ∩ [0, n)
//! w_x = cubic((x − centre + ½)/s), divided by their sum, then rounded to 22 fractional bits
//! v_i = clamp((2²¹ + Σ w_x·p_x) >> 22, 0, 255)
//! ```
//! First all rows, then all columns, with bytes between. (So did every Pillow that LLaVA was trained and published
//! with. Pillow 13 takes the columns first for a tall picture, height − out > 2·(width − out), which differs in last bits
//! where a v1 model crops pictures more than twice as high as wide; we stay with what LLaVA saw.) The canvas may reach beyond the picture (LLaVA-1.5 pads to a
//! square *before* resizing): since the sum is an integer sum, the taps on the padding are added up beforehand and the
//! padding is never stored, which costs nothing and bounds the memory for a picture of 100000×1 pixels. In the same way
//! only the outputs asked for are computed, so that a crop after the resize is free.

use std::ops::Range;

/// Fractional bits of a weight: Pillow's `PRECISION_BITS` = 32 − 8 − 2, which leaves room in an `i32` for the overshoot.
const BITS: u32 = 22;

/// How one axis is resized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Pixels of the canvas that is resized.
    pub canvas: usize,
    /// Where on the canvas the picture lies; the rest is background.
    pub picture: Range<usize>,
    /// Pixels that the canvas is resized to.
    pub out: usize,
    /// Which of these are wanted.
    pub keep: Range<usize>,
}

impl Axis {
    /// The whole of `len` pixels resized to the whole of `out`.
    pub fn whole(len: usize, out: usize) -> Self {
        Self { canvas: len, picture: 0..len, out, keep: 0..out }
    }
}

/// The weights of one output on the picture's pixels and, summed, on the background.
struct Taps {
    /// First pixel of the picture (not of the canvas).
    first: usize,
    weights: Vec<i32>,
    background: i32,
}

/// Resizes `rgb` `[height, width, 3]` with `x.picture.len() == width` and `y.picture.len() == height`.
/// Returns `[y.keep.len(), x.keep.len(), 3]`.
///
/// # Panics
/// When the axes do not fit the picture: a bug of the caller.
pub fn resample(rgb: &[u8], x: &Axis, y: &Axis, background: [u8; 3]) -> Vec<u8> {
    let (width, height) = (x.picture.len(), y.picture.len());
    assert_eq!(rgb.len(), width * height * 3, "{width}×{height} RGB pixels");
    let (across, down) = (taps(x), taps(y));
    // Only the rows that the second pass reads go through the first.
    let first = down.iter().map(|t| t.first).min().unwrap_or(0);
    let last = down.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0).max(first);
    let out_width = across.len() * 3;
    let mut narrow = vec![0; out_width * (last - first)];
    for (row, out) in rgb[first * width * 3..].chunks_exact(width * 3).zip(narrow.chunks_exact_mut(out_width))
    {
        horizontal(row, &across, background, out);
    }
    let background = background_row(&across, background);
    let mut result = vec![0; out_width * down.len()];
    let mut sums = vec![0; out_width];
    for (t, out) in down.iter().zip(result.chunks_exact_mut(out_width)) {
        for (sum, &b) in sums.iter_mut().zip(&background) {
            *sum = (1 << (BITS - 1)) + t.background * i32::from(b);
        }
        let rows = narrow[(t.first - first) * out_width..].chunks_exact(out_width);
        for (&w, row) in t.weights.iter().zip(rows) {
            for (sum, &p) in sums.iter_mut().zip(row) {
                *sum += w * i32::from(p);
            }
        }
        for (o, &sum) in out.iter_mut().zip(&sums) {
            *o = byte(sum);
        }
    }
    result
}

/// One row `[width, 3]` to one row `[outputs, 3]`.
fn horizontal(row: &[u8], across: &[Taps], background: [u8; 3], out: &mut [u8]) {
    for (t, out) in across.iter().zip(out.chunks_exact_mut(3)) {
        let [mut r, mut g, mut b] = background.map(|v| (1 << (BITS - 1)) + t.background * i32::from(v));
        let pixels = row[t.first * 3..(t.first + t.weights.len()) * 3].chunks_exact(3);
        for (&w, p) in t.weights.iter().zip(pixels) {
            r += w * i32::from(p[0]);
            g += w * i32::from(p[1]);
            b += w * i32::from(p[2]);
        }
        out.copy_from_slice(&[byte(r), byte(g), byte(b)]);
    }
}

/// What the first pass would make of a row of background, `[outputs, 3]`.
fn background_row(across: &[Taps], background: [u8; 3]) -> Vec<u8> {
    let totals = across.iter().map(|t| t.background + t.weights.iter().sum::<i32>());
    totals.flat_map(|w| background.map(|v| byte((1 << (BITS - 1)) + w * i32::from(v)))).collect()
}

/// Drops the fraction and clamps; the half that rounds is in the sum already.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The weights of each output in `axis.keep`.
fn taps(axis: &Axis) -> Vec<Taps> {
    assert!(axis.picture.end <= axis.canvas && axis.keep.end <= axis.out, "{axis:?}");
    let scale = axis.canvas as f64 / axis.out as f64;
    let spread = scale.max(1.0);
    let support = 2.0 * spread;
    let clip = |at: usize| at.clamp(axis.picture.start, axis.picture.end);
    axis.keep
        .clone()
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let low = (centre - support + 0.5) as usize; // `as` cuts towards 0, as C does; negative becomes 0
            let high = ((centre + support + 0.5) as usize).min(axis.canvas);
            let exact: Vec<f64> =
                (low..high).map(|x| cubic((x as f64 - centre + 0.5) * (1.0 / spread))).collect();
            let total: f64 = exact.iter().sum();
            let fixed = exact.iter().map(|w| fixed_point(w / total)).collect::<Vec<i32>>();
            let (first, last) = (clip(low), clip(high));
            let inside = if first < last { first - low..last - low } else { 0..0 };
            let weights = fixed[inside.clone()].to_vec();
            let background = fixed[..inside.start].iter().chain(&fixed[inside.end..]).sum();
            Taps { first: first - axis.picture.start, weights, background }
        })
        .collect()
}

/// Keys' cubic with a = −½, which is Pillow's (and not the −¾ of PyTorch).
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A weight in units of 2⁻²², rounded half away from zero.
fn fixed_point(w: f64) -> i32 {
    let scaled = w * f64::from(1 << BITS);
    (if w < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}
