//! What the run computes on: devices, their memory, their peak, and the share of it that training reaches.

use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::{Error, Result, recipe};

/// Share of the dense bf16 peak that the authors' runs reached: their hours on 8 A100s come to 0.22 – 0.31 of it by this crate's count of FLOPs
/// (a test holds seven of them to within a factor of 1.5).
pub const PUBLISHED_MFU: f64 = 0.25;
/// Share of a measured product's rate that a whole step reaches: softmax, norms and the optimizer are bound by memory. A guess, to be
/// replaced by the MFU that a run reports.
const MEASURED_SHARE: f64 = 0.6;

/// Name (a part of what the driver calls it), dense bf16 (V100: f16) tensor FLOP/s without sparsity, memory in bytes: the makers' data sheets.
const GPUS: &[(&str, f64, u64)] = &[
    ("b200", 2250e12, 180_000_000_000),
    ("h200", 989e12, 141_000_000_000),
    ("h100", 989e12, 80_000_000_000),
    ("a100-40g", 312e12, 40_000_000_000),
    ("a100", 312e12, 80_000_000_000),
    ("l40s", 362e12, 48_000_000_000),
    ("a6000", 155e12, 48_000_000_000),
    ("v100", 125e12, 32_000_000_000),
    ("4090", 165e12, 24_000_000_000),
    ("3090", 71e12, 24_000_000_000),
];

/// Devices of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// What they are.
    pub name: String,
    /// How many: one rank each.
    pub count: u64,
    /// Bytes of each.
    pub memory: u64,
    /// FLOP/s of each.
    pub peak: f64,
    /// Share of it that training is taken to reach.
    pub mfu: f64,
    /// Whether `peak` was measured here, by a product of matrices; else it is the maker's.
    pub measured: bool,
}

impl Machine {
    /// GPUs by name: `8xA100`, `a100-40g`, `2xH100`.
    ///
    /// # Errors
    /// A GPU that is not in the table; the message lists those that are.
    pub fn named(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        let (count, name) = match lower.split_once('x') {
            Some((count, name)) if count.parse::<u64>().is_ok_and(|n| n > 0) => {
                (count.parse().unwrap_or(1), name)
            }
            _ => (1, lower.as_str()),
        };
        let name = name.trim_end_matches("-80g");
        let Some((found, peak, memory)) = GPUS.iter().find(|(known, ..)| *known == name) else {
            let names: Vec<_> = GPUS.iter().map(|(name, ..)| *name).collect();
            return Err(Error::Config(format!(
                "{text}: unknown GPU; write 8xA100, say, of {}",
                names.join(", ")
            )));
        };
        let name = found.to_uppercase();
        Ok(Self { name, count, memory: *memory, peak: *peak, mfu: PUBLISHED_MFU, measured: false })
    }

    /// A GPU that the driver calls `name` (`NVIDIA A100-SXM4-80GB`) with `memory` bytes; `None` where its peak is not known.
    pub fn driver(name: &str, count: u64, memory: u64) -> Option<Self> {
        let lower = name.to_lowercase();
        let (_, peak, _) =
            GPUS.iter().find(|(known, ..)| lower.contains(known.split('-').next().unwrap_or(known)))?;
        Some(Self { name: name.into(), count, memory, peak: *peak, mfu: PUBLISHED_MFU, measured: false })
    }

    /// `count` devices like `device`, whose rate is measured by products of two `[n, n]` matrices for about half a second.
    ///
    /// # Errors
    /// The product fails.
    pub fn measure(name: &str, device: Device, kind: recipe::Kind, count: u64, memory: u64) -> Result<Self> {
        let n: i64 = if device == Device::Cpu { 1024 } else { 8192 };
        let kind = match kind {
            recipe::Kind::Bf16 => Kind::BFloat16,
            recipe::Kind::F32 => Kind::Float,
        };
        let a = Tensor::f_rand([n, n], (Kind::Float, device))?.f_to_kind(kind)?;
        let product = || -> Result<f64> { Ok(a.f_matmul(&a)?.f_sum(Kind::Float)?.f_double_value(&[])?) };
        product()?;
        let start = Instant::now();
        let mut times = 0;
        while times == 0 || (start.elapsed().as_secs_f64() < 0.5 && times < 100) {
            product()?;
            times += 1;
        }
        let peak = 2.0 * (n as f64).powi(3) * f64::from(times) / start.elapsed().as_secs_f64();
        Ok(Self { name: name.into(), count, memory, peak, mfu: MEASURED_SHARE, measured: true })
    }
}
