//! The matrix product through the backend: properties over random shapes, and weights that end where readable memory ends.
//!
//! Every ISA must agree with the scalar specification. Integer products are exact in both, so results differ by f32 roundings of
//! sums: at most one per addition, relative to Σ|w·x|.

use proptest::prelude::*;
use pumice_kernels::{
    Backend, Bytes, DType,
    cpu::{Cpu, CpuOptions, Isa},
    quant,
};

fn weight_types() -> Vec<DType> {
    DType::ALL.into_iter().filter(|&t| t != DType::I32).collect()
}

/// Numbers in −1..1, alike for a seed (xorshift64*, arXiv 1402.6246).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn quantized(dtype: DType, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(cols).expect("whole blocks") * rows];
    quant::quantize(dtype, cols, &numbers(rows * cols, seed), &mut bytes, None);
    bytes
}

/// x·wᵀ (+ bias) with `isa`.
fn product(
    isa: Isa,
    threads: usize,
    dtype: DType,
    w: Bytes,
    m: usize,
    x: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut cpu = Cpu::new(CpuOptions { threads, isa: Some(isa) });
    let k = w.len() / m / dtype.block_bytes() * dtype.block_len();
    let n = x.len() / k;
    let w = cpu.load(w, m, k, dtype).expect("loads");
    let (xs, out) =
        (cpu.alloc(n, k, DType::F32).expect("memory"), cpu.alloc(n, m, DType::F32).expect("memory"));
    cpu.write(xs, bytemuck::cast_slice(x));
    let bias = bias.map(|bias| {
        let to = cpu.alloc(1, m, DType::F32).expect("memory");
        cpu.write(to, bytemuck::cast_slice(bias));
        to
    });
    cpu.matmul(out, xs, w, bias);
    let mut result = vec![0.0; n * m];
    cpu.read(&mut result, out).unwrap();
    result
}

/// What rounding activations of 256 columns by one scale may add, on an ISA that does so for formats under seven bits, and rounding weights so:
/// a step of at most max |x|/127 each, or of 2·max |w|/127. The kernels' own tests are narrower.
fn shared_scale(dtype: DType, w: &[f32], x: &[f32]) -> f32 {
    let largest = |v: &[f32]| v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let size = |v: &[f32]| v.iter().map(|v| v.abs()).sum::<f32>();
    match dtype {
        dtype if dtype.is_quantized() && dtype != DType::Q8_0 => {
            largest(x) / 127.0 * size(w) + 2.0 * largest(w) / 127.0 * size(x)
        }
        _ => 0.0,
    }
}

/// What whole numbers of 16 bits may add, on an ISA that multiplies F16 and BF16 by them: half a unit of each factor times the other, where
/// a unit of 256 columns is at most 16 times the largest magnitude by 32700. The kernel's own tests are narrower.
fn words(dtype: DType, w: &[f32], x: &[f32]) -> f32 {
    let largest = |v: &[f32]| v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    match dtype {
        DType::F16 | DType::BF16 => largest(w) * largest(x) * x.len() as f32 * 16.1 / 32700.0,
        _ => 0.0,
    }
}

/// What `got` may differ from scalar by: 2·additions·2⁻²⁴·Σ|wx|, at most k additions on either side; Σ|wx| ≤ 2·(max |w|)·Σ|x|
/// allows for the minimum that some formats add apart.
fn bound(w: &[f32], x: &[f32]) -> f32 {
    let largest = w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    2.0 * x.len() as f32 * 2f32.powi(-24) * 2.0 * (largest * x.iter().map(|x| x.abs()).sum::<f32>() + 1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_isa_agrees_with_scalar(
        which in 0..weight_types().len(), n in 1usize..20, m in 1usize..100, blocks in 1usize..12, seed: u64, threads in 1usize..4,
    ) {
        let dtype = weight_types()[which];
        let k = match dtype.block_len() {
            1 => 49 * blocks,
            256 => 256 * blocks.div_ceil(3),
            len => len * blocks,
        };
        let bytes = quantized(dtype, m, k, seed);
        let mut w = vec![0.0; m * k];
        quant::dequantize(dtype, &bytes, &mut w);
        let (x, bias) = (numbers(n * k, seed ^ 1), numbers(m, seed ^ 2));
        let expected = product(Isa::Scalar, 1, dtype, Bytes::new(bytes.clone()), m, &x, Some(&bias));
        for isa in Isa::available() {
            let got = product(isa, threads, dtype, Bytes::new(bytes.clone()), m, &x, Some(&bias));
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let (w, x) = (&w[i % m * k..][..k], &x[i / m * k..][..k]);
                let bound = bound(w, x) + shared_scale(dtype, w, x) + words(dtype, w, x);
                prop_assert!((got - expected).abs() <= bound, "{dtype} {isa} {n}×{k}×{m} [{i}]: {got}, expected {expected} ± {bound}");
            }
        }
    }
}

/// Memory whose last byte is the last that may be read: a page that may not follows.
#[cfg(unix)]
struct Guarded {
    map: *mut u8,
    mapped: usize,
    start: usize,
    len: usize,
}

// SAFETY: nothing writes to it once it is made.
#[cfg(unix)]
unsafe impl Send for Guarded {}
// SAFETY: as above.
#[cfg(unix)]
unsafe impl Sync for Guarded {}

#[cfg(unix)]
impl Guarded {
    fn new(bytes: &[u8]) -> Self {
        // SAFETY: asks for the size of a page, maps fresh memory, protects its last page and writes before that.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let readable = bytes.len().next_multiple_of(page);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(
                std::ptr::null_mut(),
                readable + page,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map.add(readable), page, libc::PROT_NONE), 0);
            let start = readable - bytes.len();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.cast::<u8>().add(start), bytes.len());
            Self { map: map.cast(), mapped: readable + page, start, len: bytes.len() }
        }
    }
}

#[cfg(unix)]
impl pumice_kernels::bytes::Owner for Guarded {}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: written by `new`, alive until dropped.
        unsafe { std::slice::from_raw_parts(self.map.add(self.start), self.len) }
    }
}

#[cfg(unix)]
impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
    }
}

#[cfg(unix)]
#[test]
fn nothing_past_the_weights_is_read() {
    for dtype in weight_types() {
        for m in [1, 16, 32, 33, 64, 70] {
            let ks: &[usize] = if dtype.block_len() == 256 { &[256, 512] } else { &[32, 96, 256, 320] };
            for &k in ks {
                let bytes = quantized(dtype, m, k, 5);
                let w = Bytes::new(Guarded::new(&bytes));
                for n in [1, 2, 7] {
                    let x = numbers(n * k, 6);
                    for isa in Isa::available() {
                        let got = product(isa, 1, dtype, w.clone(), m, &x, None);
                        let expected = product(isa, 1, dtype, Bytes::new(bytes.clone()), m, &x, None);
                        assert_eq!(got, expected, "{dtype} {isa} {n}×{k}×{m}");
                    }
                }
            }
        }
    }
}
