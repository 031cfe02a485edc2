//! What AVX2, AVX-VNNI and AVX-512 with VNNI do for the matrix product.
//!
//! [`Avx512`], [`Avx2`] and [`Avx2Vnni`] are proofs: a value exists only where the machine has the instructions, so their methods may call code
//! that is compiled for them. The kernels take slices, check them at the entry and work on pointers within.

mod avx2;
mod gemm;
mod gemv;
mod int16;
mod plain;
pub(super) mod probe;
mod slab;
mod widen;

pub(super) use plain::transpose;

use super::{
    Isa,
    matmul::{
        ActSlab, ByBlock, FloatIsa, FloatTile, FloatWay, Int8Isa, PANEL, Plain, Product, Record, SPAN,
        Scratch, Tile, Unpack, Way, Weights, float_pack, float_passes, pack, passes,
    },
    pool::Pool,
};
use crate::DType;

/// The machine has AVX-512 F, BW, DQ, VL and VNNI, AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The proof, where it holds.
    pub(crate) fn new() -> Option<Self> {
        Isa::Avx512Vnni.is_available().then_some(Self(()))
    }
}

/// The machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The proof, where it holds.
    pub(crate) fn new() -> Option<Self> {
        Isa::Avx2.is_available().then_some(Self(()))
    }
}

/// The machine has AVX-VNNI, and what [`Avx2`] says.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Vnni(Avx2);

impl Avx2Vnni {
    /// The proof, where it holds.
    pub(crate) fn new() -> Option<Self> {
        Isa::Avx2Vnni.is_available().then_some(Self(Avx2(())))
    }
}

/// The checks that let an int8 kernel work on pointers.
#[track_caller]
fn check_int8<F: Unpack>(tokens: usize, record: &[i32], c: &[f32], blocks: usize) {
    assert!(record.len() >= tokens * Record::len(F::GROUP) && c.len() >= tokens * PANEL && blocks <= 8);
}

/// The checks that let an f32 kernel work on pointers.
#[track_caller]
fn check_float(tokens: usize, x: &[f32], c: &[f32], cols: usize) {
    assert!(x.len() >= tokens * cols && c.len() >= tokens * PANEL && cols <= SPAN);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn pack_avx512<F: Unpack>(x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
    pack::<F, { gemm::BIAS }>(x, k, cols, tokens, record);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn pack_avx2<F: Unpack>(x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
    pack::<F, { gemm::BIAS }>(x, k, cols, tokens, record);
}

impl Int8Isa for Avx512 {
    const TOKENS: usize = gemm::TOKENS;

    fn widen<F: Unpack>(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        // SAFETY: the proof.
        unsafe { widen::widen::<F>(tile, w, first, slab) };
    }

    fn prefetch<F: Unpack>(self, w: Weights<'_>, first: usize, slab: usize) {
        widen::prefetch::<F>(w, first, slab);
    }

    fn pack<F: Unpack>(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        // SAFETY: the proof.
        unsafe { pack_avx512::<F>(x, k, cols, tokens, record) }
    }

    fn multiply<F: Unpack>(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        check_int8::<F>(tokens, record, c, blocks);
        // SAFETY: the proof; the lengths are checked.
        unsafe { gemm::multiply::<F>(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }

    fn act<F: Unpack>(self, x: &[f32]) -> ActSlab {
        // SAFETY: the proof.
        unsafe { gemv::act::<F>(x, self.shares_scale::<F>()) }
    }

    fn dots<F: Unpack>(self, w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { gemv::dots::<F>(w, first, x, out) }
    }

    fn shares_scale<F: Unpack>(self) -> bool {
        bears_requantizing::<F>() || F::GROUP == 16
    }

    fn several<F: Unpack>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        match (bears_requantizing::<F>(), F::GROUP) {
            (true, _) => passes::<Requantized, F>(Requantized(self), pool, scratch, w, p),
            (_, 16) => passes::<ByGroup, F>(ByGroup(self), pool, scratch, w, p),
            _ => passes::<ByBlock<Self>, F>(ByBlock(self), pool, scratch, w, p),
        }
    }
}

/// Whether the format has six bits a weight at most, so that rounding its weights to 8 bits a row and slab costs little beside.
const fn bears_requantizing<F: Unpack>() -> bool {
    F::DTYPE.block_bytes() * 8 <= 6 * F::DTYPE.block_len()
}

/// Formats that bear it: see [`slab::requantize`].
#[derive(Clone, Copy)]
struct Requantized(Avx512);

impl<F: Unpack> Way<F> for Requantized {
    const TOKENS: usize = slab::TOKENS;
    const RECORD: usize = slab::SlabRecord::LEN;

    fn widen(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        // SAFETY: the proof.
        unsafe {
            let blocks = widen::widen::<F>(tile, w, first, slab);
            slab::requantize::<F>(tile, blocks);
        }
    }

    fn prefetch(self, w: Weights<'_>, first: usize, slab: usize) {
        widen::prefetch::<F>(w, first, slab);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, _tokens: usize, record: &mut [i32]) {
        // SAFETY: the proof.
        unsafe { slab::pack::<{ slab::SlabRecord::LEN }>(x, k, cols, 128, record) }
    }

    fn multiply(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        assert!(record.len() >= tokens * slab::SlabRecord::LEN && c.len() >= tokens * PANEL && blocks <= 8);
        // SAFETY: the proof; the lengths are checked.
        unsafe { slab::multiply(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }
}

/// Formats with groups of 16 columns: see [`slab::multiply_groups`].
#[derive(Clone, Copy)]
struct ByGroup(Avx512);

impl<F: Unpack> Way<F> for ByGroup {
    const TOKENS: usize = slab::TOKENS_GROUPS;
    const RECORD: usize = slab::SlabRecord::LEN_GROUPS;

    fn widen(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        Int8Isa::widen::<F>(self.0, tile, w, first, slab);
    }

    fn prefetch(self, w: Weights<'_>, first: usize, slab: usize) {
        widen::prefetch::<F>(w, first, slab);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, _tokens: usize, record: &mut [i32]) {
        // SAFETY: the proof.
        unsafe { slab::pack::<{ slab::SlabRecord::LEN_GROUPS }>(x, k, cols, F::ZERO, record) }
    }

    fn multiply(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        let len = slab::SlabRecord::LEN_GROUPS;
        assert!(record.len() >= tokens * len && c.len() >= tokens * PANEL && blocks <= 8);
        // SAFETY: the proof; the lengths are checked.
        unsafe { slab::multiply_groups(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }
}

impl FloatWay for Avx512 {
    type Tile = FloatTile;
    const TOKENS: usize = plain::TOKENS;

    fn convert<F: Plain>(self, tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
        // SAFETY: the proof.
        unsafe { plain::convert::<F>(tile, w, first, col) }
    }

    fn fetch(self, part: &[u8]) {
        plain::fetch(part);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { plain::pack(x, k, cols, tokens, record) }
    }

    fn multiply(self, tokens: usize, tile: &FloatTile, x: &[f32], c: &mut [f32], cols: usize) {
        check_float(tokens, x, c, cols);
        // SAFETY: the proof; the lengths are checked.
        unsafe { plain::multiply(tokens, tile, x.as_ptr(), c.as_mut_ptr(), cols) }
    }
}

impl FloatIsa for Avx512 {
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { plain::dots::<F>(w, first, x, out) }
    }

    fn several<F: Plain>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        match F::DTYPE != DType::F32 && p.n >= int16::MANY {
            true => float_passes::<_, F>(int16::Int16(self), pool, scratch, w, p),
            false => float_passes::<_, F>(self, pool, scratch, w, p),
        }
    }
}

impl Int8Isa for Avx2 {
    const TOKENS: usize = avx2::TOKENS;

    fn widen<F: Unpack>(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        // SAFETY: the proof.
        unsafe { avx2::widen::<F, true>(tile, w, first, slab) };
    }

    fn prefetch<F: Unpack>(self, w: Weights<'_>, first: usize, slab: usize) {
        widen::prefetch::<F>(w, first, slab);
    }

    fn pack<F: Unpack>(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        // SAFETY: the proof.
        unsafe { pack_avx2::<F>(x, k, cols, tokens, record) }
    }

    fn multiply<F: Unpack>(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        check_int8::<F>(tokens, record, c, blocks);
        // SAFETY: the proof; the lengths are checked.
        unsafe { avx2::multiply(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }

    fn dots<F: Unpack>(self, w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { avx2::dots::<F, true>(w, first, x, out) }
    }

    fn act<F: Unpack>(self, x: &[f32]) -> ActSlab {
        // SAFETY: the proof.
        unsafe { avx2::act::<F>(x, Int8Isa::shares_scale::<F>(self)) }
    }

    fn shares_scale<F: Unpack>(self) -> bool {
        F::BITS < 8
    }

    fn several<F: Unpack>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        match self.shares_scale::<F>() {
            true => passes::<BySlabAvx2, F>(BySlabAvx2(self), pool, scratch, w, p),
            false => passes::<ByBlock<Self>, F>(ByBlock(self), pool, scratch, w, p),
        }
    }
}

/// Formats of four to six bits: see [`avx2::slab`].
#[derive(Clone, Copy)]
struct BySlabAvx2(Avx2);

impl<F: Unpack> Way<F> for BySlabAvx2 {
    const TOKENS: usize = avx2::slab::TOKENS;
    const RECORD: usize = avx2::slab::record_len(F::GROUP);

    fn widen(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        // SAFETY: the proof.
        unsafe {
            let blocks = avx2::widen::<F, false>(tile, w, first, slab);
            avx2::slab::integer_scales::<F, false>(tile, blocks);
        }
    }

    fn prefetch(self, w: Weights<'_>, first: usize, slab: usize) {
        widen::prefetch::<F>(w, first, slab);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        // SAFETY: the proof.
        unsafe { avx2::slab::pack::<F, false>(x, k, cols, tokens, record) }
    }

    fn multiply(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        let len = <Self as Way<F>>::RECORD;
        assert!(record.len() >= tokens * len && c.len() >= tokens * PANEL && blocks <= 8);
        // SAFETY: the proof; the lengths are checked.
        unsafe { avx2::slab::multiply::<F>(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }
}

impl FloatWay for Avx2 {
    type Tile = FloatTile;
    const TOKENS: usize = avx2::FLOAT_TOKENS;

    fn convert<F: Plain>(self, tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
        // SAFETY: the proof.
        unsafe { avx2::convert::<F>(tile, w, first, col) }
    }

    fn fetch(self, part: &[u8]) {
        plain::fetch(part);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        float_pack(x, k, cols, tokens, record);
    }

    fn multiply(self, tokens: usize, tile: &FloatTile, x: &[f32], c: &mut [f32], cols: usize) {
        check_float(tokens, x, c, cols);
        // SAFETY: the proof; the lengths are checked.
        unsafe { avx2::float_multiply(tokens, tile, x.as_ptr(), c.as_mut_ptr(), cols) }
    }
}

/// Halves as whole numbers: see [`avx2::int16`].
#[derive(Clone, Copy)]
struct WordsAvx2<I>(I);

/// Which instructions multiply whole numbers of 16 bits.
trait Words: Copy + Sync {
    /// Tokens from which that pays (4096×4096, one thread: the times meet at 140 and 40).
    const MANY: usize;
    /// The product of `steps` steps; see [`FloatWay::multiply`].
    ///
    /// # Safety
    /// As [`avx2::int16::multiply`].
    unsafe fn words(self, tokens: usize, tile: &int16::WordTile, record: &[f32], c: &mut [f32], steps: usize);
}

impl Words for Avx2 {
    const MANY: usize = 192;

    unsafe fn words(
        self,
        tokens: usize,
        tile: &int16::WordTile,
        record: &[f32],
        c: &mut [f32],
        steps: usize,
    ) {
        // SAFETY: the proof; the rest as this function's.
        unsafe { avx2::int16::multiply(tokens, tile, record.as_ptr(), c.as_mut_ptr(), steps) }
    }
}

impl Words for Avx2Vnni {
    const MANY: usize = 48;

    unsafe fn words(
        self,
        tokens: usize,
        tile: &int16::WordTile,
        record: &[f32],
        c: &mut [f32],
        steps: usize,
    ) {
        // SAFETY: the proof; the rest as this function's.
        unsafe { avx2::int16::multiply_vnni(tokens, tile, record.as_ptr(), c.as_mut_ptr(), steps) }
    }
}

impl<I: Words> FloatWay for WordsAvx2<I> {
    type Tile = int16::WordTile;
    const TOKENS: usize = avx2::FLOAT_TOKENS;
    const COLS: usize = 2;
    const RECORD: usize = 1 + SPAN;

    fn convert<F: Plain>(self, tile: &mut int16::WordTile, w: Weights<'_>, first: usize, col: usize) {
        // SAFETY: the proof within.
        unsafe { avx2::int16::convert::<F>(tile, w, first, col) }
    }

    fn fetch(self, part: &[u8]) {
        plain::fetch(part);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        // SAFETY: the proof within.
        unsafe { avx2::int16::pack(x, k, cols, tokens, record) }
    }

    fn multiply(self, tokens: usize, tile: &int16::WordTile, record: &[f32], c: &mut [f32], cols: usize) {
        int16::check(tokens, record, c, cols);
        // SAFETY: the lengths are checked.
        unsafe { self.0.words(tokens, tile, record, c, int16::steps(cols)) }
    }
}

impl FloatIsa for Avx2 {
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { avx2::float_dots::<F>(w, first, x, out) }
    }

    fn several<F: Plain>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        match F::DTYPE != DType::F32 && p.n >= <Self as Words>::MANY {
            true => float_passes::<_, F>(WordsAvx2(self), pool, scratch, w, p),
            false => float_passes::<_, F>(self, pool, scratch, w, p),
        }
    }
}

impl Int8Isa for Avx2Vnni {
    const TOKENS: usize = avx2::TOKENS;

    fn widen<F: Unpack>(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        // SAFETY: the proof.
        unsafe { avx2::widen::<F, false>(tile, w, first, slab) };
    }

    fn prefetch<F: Unpack>(self, w: Weights<'_>, first: usize, slab: usize) {
        self.0.prefetch::<F>(w, first, slab);
    }

    fn pack<F: Unpack>(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        Int8Isa::pack::<F>(self.0, x, k, cols, tokens, record);
    }

    fn multiply<F: Unpack>(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        check_int8::<F>(tokens, record, c, blocks);
        // SAFETY: the proof; the lengths are checked.
        unsafe { avx2::multiply_vnni::<F>(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }

    /// As AVX2's, but that activations share a scale in four bits only.
    fn dots<F: Unpack>(self, w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        match F::BITS {
            4 => Int8Isa::dots::<F>(self.0, w, first, x, out),
            // SAFETY: the proof.
            _ => unsafe { avx2::dots::<F, false>(w, first, x, out) },
        }
    }

    fn act<F: Unpack>(self, x: &[f32]) -> ActSlab {
        // SAFETY: the proof.
        unsafe { avx2::act::<F>(x, Int8Isa::shares_scale::<F>(self)) }
    }

    fn shares_scale<F: Unpack>(self) -> bool {
        F::BITS == 4
    }

    fn several<F: Unpack>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        match self.shares_scale::<F>() {
            true => passes::<BySlabVnni, F>(BySlabVnni(self), pool, scratch, w, p),
            false => passes::<ByBlock<Self>, F>(ByBlock(self), pool, scratch, w, p),
        }
    }
}

/// Formats of four bits: see [`avx2`].
#[derive(Clone, Copy)]
struct BySlabVnni(Avx2Vnni);

impl<F: Unpack> Way<F> for BySlabVnni {
    const TOKENS: usize = avx2::slab::TOKENS;
    const RECORD: usize = avx2::slab::record_len(F::GROUP);

    fn widen(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        // SAFETY: the proof.
        unsafe {
            let blocks = avx2::widen::<F, false>(tile, w, first, slab);
            avx2::slab::integer_scales::<F, true>(tile, blocks);
        }
    }

    fn prefetch(self, w: Weights<'_>, first: usize, slab: usize) {
        widen::prefetch::<F>(w, first, slab);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        // SAFETY: the proof.
        unsafe { avx2::slab::pack::<F, true>(x, k, cols, tokens, record) }
    }

    fn multiply(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        let len = <Self as Way<F>>::RECORD;
        assert!(record.len() >= tokens * len && c.len() >= tokens * PANEL && blocks <= 8);
        // SAFETY: the proof; the lengths are checked.
        unsafe { avx2::multiply_slab_vnni(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }
}

impl FloatWay for Avx2Vnni {
    type Tile = FloatTile;
    const TOKENS: usize = <Avx2 as FloatWay>::TOKENS;

    fn convert<F: Plain>(self, tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
        self.0.convert::<F>(tile, w, first, col);
    }

    fn fetch(self, part: &[u8]) {
        plain::fetch(part);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        FloatWay::pack(self.0, x, k, cols, tokens, record);
    }

    fn multiply(self, tokens: usize, tile: &FloatTile, x: &[f32], c: &mut [f32], cols: usize) {
        FloatWay::multiply(self.0, tokens, tile, x, c, cols);
    }
}

impl FloatIsa for Avx2Vnni {
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
        FloatIsa::dots::<F>(self.0, w, first, x, out);
    }

    fn several<F: Plain>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        match F::DTYPE != DType::F32 && p.n >= <Self as Words>::MANY {
            true => float_passes::<_, F>(WordsAvx2(self), pool, scratch, w, p),
            false => float_passes::<_, F>(self, pool, scratch, w, p),
        }
    }
}
