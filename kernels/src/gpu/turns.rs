//! The rotations of RoPE: (cos θ, sin θ) for positions and frequencies, computed on the host.
//!
//! A device may err by 2⁻¹¹ in a cosine (Vulkan's own bound), and only within ±π. The host knows positions and frequencies,
//! since it wrote them, and all blocks of a model share the turns; so they are computed once for a batch, exactly as
//! the CPU does.

use wgpu::Buffer;

/// Turns in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// The buffer's number.
    pub buffer: u32,
    /// The first row's, in pairs.
    pub first: u32,
    /// Pairs of a row.
    pub pairs: usize,
}

/// The turns computed last.
#[derive(Default)]
pub(super) struct Turns {
    positions: Vec<i32>,
    freqs: Vec<f32>,
    buffer: Option<(u32, u64)>,
}

impl Turns {
    /// The row of the turns of `positions` where they are there, by `freqs`.
    pub fn find(&self, positions: &[i32], freqs: &[f32]) -> Option<Table> {
        let (buffer, _) = self.buffer.filter(|_| self.freqs == freqs)?;
        // The rows of a prompt's last block are the last ones of the batch.
        let first = match self.positions.len().checked_sub(positions.len())? {
            rest if self.positions[rest..] == *positions => rest,
            _ if self.positions.starts_with(positions) => 0,
            _ => return None,
        };
        Some(Table { buffer, first: (first * freqs.len()) as u32, pairs: freqs.len() })
    }

    /// Bytes of the turns of so many positions.
    pub fn bytes(positions: usize, freqs: usize) -> u64 {
        8 * (positions * freqs) as u64
    }

    /// The buffer, where it has room for `bytes`.
    pub fn room(&self, bytes: u64) -> Option<u32> {
        self.buffer.filter(|(_, room)| *room >= bytes).map(|(number, _)| number)
    }

    /// Takes another buffer, whose number is `number`; returns the number of the one before.
    pub fn replace(&mut self, number: u32, buffer: &Buffer) -> Option<u32> {
        self.buffer.replace((number, buffer.size())).map(|(old, _)| old)
    }

    /// Computes the turns of `positions`, to be written to the buffer.
    pub fn compute(&mut self, positions: &[i32], freqs: &[f32]) -> Vec<[f32; 2]> {
        (self.positions, self.freqs) = (positions.to_vec(), freqs.to_vec());
        let mut turns = Vec::with_capacity(positions.len() * freqs.len());
        for &position in positions {
            turns.extend(freqs.iter().map(|freq| {
                // One f32 product, as PyTorch has it.
                let (sin, cos) = (position as f32 * freq).sin_cos();
                [cos, sin]
            }));
        }
        turns
    }
}
