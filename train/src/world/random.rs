//! The world's own random numbers: xoshiro256**, seeded by splitmix64.
//!
//! A scene must be the same on every machine and in every later version, so its numbers come from a generator that is
//! written down here and not from a library that may change. Each (seed, stream) pair starts a sequence of its own, so
//! scene 1,000,000 costs no more than scene 0 and threads may take any share of the indices.
//!
//! ```text
//! splitmix64   z ← z + 0x9e3779b97f4a7c15;  mix(z) = xor-shift-multiply by 30/27/31           (Steele, Lea, Flood 2014)
//! xoshiro256** out = rotl(s1·5, 7)·9;  then the linear step with shifts 17 and 45              (Blackman, Vigna 2018)
//! ```

/// A generator: 256 bits of state.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

/// The finaliser of splitmix64: a bijection on 64 bits that scatters neighbouring numbers.
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The sequence number `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut z = mix(seed).wrapping_add(mix(stream ^ 0x5851_f42d_4c95_7f2d));
        Self(std::array::from_fn(|_| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(z)
        }))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A whole number in `0..n`; `n` must not be 0. The upper half of a 128-bit product: biased by less than n/2⁶⁴.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number in `[0, 1)` with 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Whether an event of probability `p` happens.
    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// An index drawn in proportion to `weights`, which must not be empty or all 0.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut at = self.unit() * weights.iter().sum::<f32>();
        for (i, w) in weights.iter().enumerate() {
            if at < *w {
                return i;
            }
            at -= w;
        }
        weights.len() - 1
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_xoshiro256_starstar() {
        // From the state 1, 2, 3, 4: the first outputs of the authors' C code (rand_xoshiro holds the same vector).
        let mut rng = Rng([1, 2, 3, 4]);
        let got: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(got, [11520, 0, 1509978240, 1215971899390074240]);
    }

    #[test]
    fn streams_differ_and_draws_are_even() {
        assert_ne!(Rng::new(1, 2).next_u64(), Rng::new(2, 1).next_u64());
        let mut rng = Rng::new(7, 0);
        let mut seen = [0; 9];
        for _ in 0..9000 {
            seen[rng.below(9)] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}"); // ±5 standard deviations of 30
    }
}
