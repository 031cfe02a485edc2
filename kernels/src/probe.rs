//! What this machine could do at most: memory read and arithmetic, by threads and instruction set.
//!
//! A prompt and a picture are bound by arithmetic, a generated token by reading the weights, so these rates over the
//! counts of [`crate::Count`] are the least time that a model can take: the roofline (Williams, Waterman, Patterson
//! 2009). A burst lasts milliseconds, because other programs and the chip's own clock disturb longer ones; the best of some
//! bursts is the limit, the median says how steady the machine is. Given up: the limits of single caches, and of each
//! core of a hybrid chip; all threads work alike, as they do in an op.

mod device;

pub use device::{DeviceRates, device_rates};

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    DType, Error, Isa, Result,
    cpu::{
        physical_cores,
        pool::Pool,
        probe::{bf16, f16, f32, int8, read},
    },
};

/// Bursts of each kind: spread over a quarter of a second, some meet no other program even on a busy machine.
const BURSTS: usize = 96;
/// After so long the bursts that there are must do: an emulator, a machine that swaps.
const LONGEST: Duration = Duration::from_secs(2);
/// Seconds that a burst of arithmetic lasts: a hundred times what starting the threads costs, a tenth of a scheduler's slice.
const BURST: f64 = 4e-4;
/// Bytes that a thread reads in a burst, some 4e-4 s of it too.
const READ: usize = 8 << 20;
/// The memory that is read is so many times the last cache, so that none of it stays there between two bursts …
const CACHES: usize = 8;
/// … and within these bounds, in bytes: more than the caches of small chips, less than a small board's memory.
const MEMORY: (usize, usize) = (256 << 20, 1 << 30);
/// The last cache where the system does not tell, in bytes.
const CACHE: usize = 32 << 20;

/// A rate per second, measured in bursts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Of the fastest burst: the limit.
    pub best: f64,
    /// Of the middle one.
    pub median: f64,
}

impl Rate {
    /// Of the rates of `bursts`; `None` where there are none.
    fn of(mut bursts: Vec<f64>) -> Option<Self> {
        bursts.sort_by(f64::total_cmp);
        Some(Self { best: *bursts.last()?, median: bursts[bursts.len() / 2] })
    }
}

/// What some threads of this machine do at most. A multiplication and an addition are two operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// The instructions used.
    pub isa: Isa,
    /// Threads at work.
    pub threads: usize,
    /// Bytes read from memory.
    pub read: Rate,
    /// Operations on bytes, summed in 32 bits: products with quantized weights.
    pub int8: Rate,
    /// Operations on f32: products with other weights, attention.
    pub f32: Rate,
    /// Operations on f16, where `isa` and the machine have them.
    pub f16: Option<Rate>,
    /// Operations on bf16 summed in f32, where `isa` and the machine have them.
    pub bf16: Option<Rate>,
}

/// Whether products with weights of `dtype` run on bytes; on f32 if not.
pub fn on_bytes(dtype: DType) -> bool {
    dtype.is_quantized()
}

/// Whether `dtype` is one of 16 bits; see [`Rates::halves`].
pub fn on_halves(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

impl Rates {
    /// Operations a second of products with F16 and BF16 weights and many tokens, and on what: on x86 whole numbers of 16 bits, which are
    /// multiplied half as fast as bytes, elsewhere f32.
    pub fn halves(&self) -> (f64, &'static str) {
        match self.isa {
            Isa::Avx2 | Isa::Avx2Vnni | Isa::Avx512Vnni => (self.int8.best / 2.0, "int16"),
            _ => (self.f32.best, "f32"),
        }
    }
}

/// Measures `threads` threads (0: [`physical_cores`]) with the instructions of `isa` (or of the best, where the machine lacks it);
/// takes half a second and eight times the last cache of memory (256 MB to 1 GB), which is given back.
///
/// # Errors
/// The memory is not to be had.
pub fn rates(threads: usize, isa: Isa) -> Result<Rates> {
    let pool = Pool::new(if threads == 0 { physical_cores() } else { threads });
    let isa = if isa.is_available() { isa } else { Isa::best() };
    let memory = memory(&pool)?;
    let kinds: [Option<Burst<'_>>; 5] = [
        Some(Box::new(|i| read_burst(&pool, isa, &memory, i))),
        arithmetic(&pool, move || Some(int8(isa))),
        arithmetic(&pool, move || Some(f32(isa))),
        arithmetic(&pool, move || f16(isa)),
        arithmetic(&pool, move || bf16(isa)),
    ];
    // In turn: what disturbs lasts longer than a burst, and shall not meet all bursts of one kind. The first warms up.
    let mut bursts: [Vec<f64>; 5] = Default::default();
    let start = Instant::now();
    for i in (0..=BURSTS).take_while(|i| *i < 2 || start.elapsed() < LONGEST) {
        for (burst, rates) in kinds.iter().zip(&mut bursts) {
            let rate = burst.as_ref().map(|burst| burst(i));
            rates.extend(rate.filter(|_| i > 0));
        }
    }
    let [read, int8, f32, f16, bf16] = bursts.map(Rate::of);
    let always = |rate: Option<Rate>| rate.expect("every instruction set has it");
    let (read, int8, f32) = (always(read), always(int8), always(f32));
    Ok(Rates { isa, threads: pool.threads(), read, int8, f32, f16, bf16 })
}

/// Does burst i and says its rate per second.
type Burst<'a> = Box<dyn Fn(usize) -> f64 + 'a>;

/// Memory to read, each part touched by the thread that will read it.
fn memory(pool: &Pool) -> Result<Box<[f32]>> {
    let cache = last_cache(Path::new("/sys/devices/system/cpu")).unwrap_or(CACHE);
    let floats = (CACHES * cache).clamp(MEMORY.0, MEMORY.1) / size_of::<f32>();
    let mut memory =
        bytemuck::allocation::try_zeroed_slice_box::<f32>(floats).map_err(|()| Error::OutOfMemory {
            device: "probe".into(),
            bytes: floats * size_of::<f32>(),
            rows: 1,
            cols: floats,
            dtype: DType::F32,
        })?;
    let part = floats.div_ceil(pool.threads());
    let parts: Vec<_> = memory.chunks_mut(part).map(std::sync::Mutex::new).collect();
    pool.run(&|thread| {
        if let Some(Ok(mut part)) = parts.get(thread).map(|part| part.lock()) {
            part.fill(1.0);
        }
    });
    drop(parts);
    Ok(memory)
}

/// Bytes a second that all threads read together, each in its part of `memory`, a burst where the last one ended.
fn read_burst(pool: &Pool, isa: Isa, memory: &[f32], i: usize) -> f64 {
    let part = memory.len() / pool.threads();
    let len = part.min(READ / size_of::<f32>());
    let first = i % (part / len) * len;
    let start = Instant::now();
    pool.run(&|thread| read(isa, &memory[thread * part + first..][..len]));
    (pool.threads() * len * size_of::<f32>()) as f64 / start.elapsed().as_secs_f64()
}

/// Bursts of as many rounds as last long enough, where `round` says the operations that it did; `None` where it does none.
fn arithmetic<'a>(pool: &'a Pool, round: impl Fn() -> Option<usize> + Sync + 'a) -> Option<Burst<'a>> {
    round()?;
    let start = Instant::now();
    let done = round()?;
    let rounds = (BURST / start.elapsed().as_secs_f64().max(1e-9)).clamp(1.0, 1e4) as usize;
    Some(Box::new(move |_| {
        let start = Instant::now();
        pool.run(&|_| {
            for _ in 0..rounds {
                round();
            }
        });
        (pool.threads() * rounds * done) as f64 / start.elapsed().as_secs_f64()
    }))
}

/// Bytes of all of the machine's last caches, by the files under `cpus` (/sys/devices/system/cpu).
fn last_cache(cpus: &Path) -> Option<usize> {
    let mut caches: Vec<(usize, String, usize)> = Vec::new();
    for cpu in (0..).map_while(|i| fs::read_dir(cpus.join(format!("cpu{i}/cache"))).ok()) {
        for cache in cpu.flatten() {
            let text = |name: &str| fs::read_to_string(cache.path().join(name)).ok();
            let number = |text: String| text.trim().trim_end_matches('K').parse::<usize>().ok();
            let (Some(level), Some(kib)) = (text("level").and_then(number), text("size").and_then(number))
            else {
                continue;
            };
            // One that several processors share is met once for each.
            let found = (level, text("shared_cpu_list").unwrap_or_default(), kib << 10);
            if !caches.contains(&found) {
                caches.push(found);
            }
        }
    }
    let last = caches.iter().map(|(level, ..)| *level).max()?;
    Some(caches.iter().filter(|(level, ..)| *level == last).map(|(.., bytes)| bytes).sum())
}

#[cfg(test)]
mod tests;
