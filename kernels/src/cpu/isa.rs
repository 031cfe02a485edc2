//! Which instructions this machine has, found at run time.
//!
//! One binary serves every x86-64 and Arm machine, so nothing here depends on what the compiler was told. An ISA is a
//! bundle that a kernel may rely on as a whole, not a single feature.

use std::fmt;

/// A bundle of instructions that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: the specification of every op.
    Scalar,
    /// x86-64 since 2013: AVX2, FMA, F16C.
    Avx2,
    /// x86-64 since 2021 without AVX-512: AVX-VNNI, on top of [`Isa::Avx2`].
    Avx2Vnni,
    /// x86-64 since 2019: AVX-512 F, BW, DQ, VL and VNNI, on top of [`Isa::Avx2`].
    Avx512Vnni,
    /// 64-bit Arm: NEON.
    Neon,
    /// Arm since 2018 (Cortex-A76, Jetson Orin): the dot products `sdot`, on top of [`Isa::Neon`].
    NeonDotprod,
    /// Arm since 2021 (Neoverse V1, Cortex-A710, Apple M2): the matrix product `smmla`, on top of [`Isa::NeonDotprod`].
    NeonI8mm,
}

impl Isa {
    /// What this machine has, the slowest (always [`Isa::Scalar`]) first.
    pub fn available() -> Vec<Isa> {
        let all = [
            Isa::Scalar,
            Isa::Avx2,
            Isa::Avx2Vnni,
            Isa::Avx512Vnni,
            Isa::Neon,
            Isa::NeonDotprod,
            Isa::NeonI8mm,
        ];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest that this machine has.
    pub fn best() -> Isa {
        Self::available().pop().unwrap_or(Isa::Scalar)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            // NEON is part of every aarch64 target that has std.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => {
                Isa::NeonDotprod.is_available() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[allow(unreachable_patterns, reason = "which arms remain depends on the architecture")]
            _ => false,
        }
    }

    /// Its name: `avx512-vnni`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_there_and_best_is_available() {
        assert_eq!(Isa::available()[0], Isa::Scalar);
        assert!(Isa::best().is_available());
        assert_eq!(Isa::best().to_string(), Isa::best().name());
    }

    /// `make test-arm` says what its emulated processor has.
    #[test]
    fn the_best_is_the_expected_one() {
        if let Ok(expected) = std::env::var("PUMICE_EXPECTED_ISA") {
            assert_eq!(Isa::best().name(), expected);
        }
    }
}
