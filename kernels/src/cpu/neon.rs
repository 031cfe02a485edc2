//! What 64-bit Arm does for the matrix product: one design for three generations of instructions.
//!
//! Codes are taken as signed bytes (q − ZERO fits one in every format), so no sum needs an offset. A tile of 32 weight rows meets groups of a
//! few tokens in an int8 kernel of the generation: [`smull`] (every Arm), [`sdot`] (since 2018: Cortex-A76, -A78AE, Neoverse N1) and
//! [`smmla`] (since 2021: Neoverse V1 and N2, Cortex-A710, Apple M2). Formats of four to six bits have their scales made integers per row
//! and slab, so that a group of 32 columns costs one multiply-add where a float sum costs three operations and a conversion, which
//! would be half of `smmla`'s time; 8-bit formats would lose digits that way and keep a float sum per block, as
//! the specification has it. One token: [`dots`], which unpacks in registers. `sdot` and `smmla` are written in
//! assembly, because their intrinsics are not stable.
//!
//! The departure: where scales are integers, activations share a scale per 256 columns, not per 32 (as on x86, `x86/slab.rs`).

mod dots;
mod float;
pub(super) mod probe;
mod sdot;
mod slab;
mod smmla;
mod smull;
mod tile;

use std::marker::PhantomData;

use super::{
    Isa,
    matmul::{
        ActSlab, FloatIsa, FloatTile, FloatWay, Int8Isa, PANEL, Plain, Record, SLAB, SPAN, Tile, Unpack,
        Weights, float_pack,
    },
};

pub(crate) use {sdot::Sdot, smmla::Smmla, smull::Smull};

/// The machine has the instructions of `K`.
#[derive(Clone, Copy)]
pub(crate) struct Neon<K>(PhantomData<K>);

impl<K: Kernel> Neon<K> {
    /// The proof, where it holds.
    pub(crate) fn new() -> Option<Self> {
        K::ISA.is_available().then_some(Self(PhantomData))
    }
}

/// A generation of instructions.
///
/// # Safety
/// Every method may be called only where the machine has [`Kernel::ISA`].
pub(crate) trait Kernel: Copy + Sync {
    /// The bundle that they are part of.
    const ISA: Isa;
    /// Tokens that [`Kernel::multiply`] takes at once.
    const TOKENS: usize;
    /// Dwords of codes of a row that lie together before the next row's.
    const WORDS: usize;

    /// `c[token][row]` += Σ over `blocks` blocks of 32 columns.
    ///
    /// # Safety
    /// The trait's; `record` is valid for `tokens` · [`Record::len`] reads, `c` for `tokens` · [`PANEL`] reads and writes, and
    /// `tokens` ≤ TOKENS.
    unsafe fn multiply<F: Unpack>(tokens: usize, tile: &Tile, record: *const i32, c: *mut f32, blocks: usize);

    /// `out[i]` = row `first` + i times x: [`dots::dots`] where the instructions are enabled.
    ///
    /// # Safety
    /// The trait's.
    unsafe fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]);
}

/// Whether scales are integers and activations share a scale per slab.
const fn shares<F: Unpack>() -> bool {
    F::BITS < 8
}

impl<K: Kernel> Int8Isa for Neon<K> {
    const TOKENS: usize = K::TOKENS;

    fn widen<F: Unpack>(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        tile::widen::<K, F>(tile, w, first, slab);
    }

    fn prefetch<F: Unpack>(self, w: Weights<'_>, first: usize, slab: usize) {
        let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
        for row in first..w.rows().min(first + PANEL) {
            let part = w.part(row, slab * bytes, bytes);
            for line in part.chunks(64) {
                fetch(line.as_ptr());
            }
        }
    }

    fn pack<F: Unpack>(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        tile::pack::<K, F>(x, k, cols, tokens, record);
    }

    fn multiply<F: Unpack>(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        assert!(tokens <= K::TOKENS && blocks <= SLAB / 32);
        assert!(record.len() >= tokens * Record::len(F::GROUP) && c.len() >= tokens * PANEL);
        // SAFETY: the proof; the lengths are checked.
        unsafe { K::multiply::<F>(tokens, tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }

    fn dots<F: Unpack>(self, w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { K::dots::<F>(w, first, x, out) }
    }

    fn shares_scale<F: Unpack>(self) -> bool {
        shares::<F>()
    }
}

impl<K: Kernel> FloatWay for Neon<K> {
    type Tile = FloatTile;
    const TOKENS: usize = 2;

    fn convert<F: Plain>(self, tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
        float::convert::<F>(tile, w, first, col);
    }

    fn fetch(self, part: &[u8]) {
        part.chunks(64).for_each(|line| fetch(line.as_ptr()));
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        float_pack(x, k, cols, tokens, record);
    }

    fn multiply(self, tokens: usize, tile: &FloatTile, record: &[f32], c: &mut [f32], cols: usize) {
        assert!(record.len() >= tokens * cols && c.len() >= tokens * PANEL && cols <= SPAN);
        // SAFETY: the lengths are checked.
        unsafe {
            match tokens {
                2 => float::kernel::<2>(tile, record.as_ptr(), c.as_mut_ptr(), cols),
                1 => float::kernel::<1>(tile, record.as_ptr(), c.as_mut_ptr(), cols),
                _ => unreachable!("{tokens} tokens in a group of 2"),
            }
        }
    }
}

impl<K: Kernel> FloatIsa for Neon<K> {
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
        float::dots::<F>(w, first, x, out);
    }
}

/// Asks for the cache line at `p`, which need not be valid.
#[inline(always)]
fn fetch(p: *const u8) {
    // SAFETY: a prefetch of any address is no access.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) p, options(readonly, nostack, preserves_flags));
    }
}
