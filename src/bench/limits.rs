//! What each device could do at most, measured: memory and arithmetic of the processor, by instruction set and threads, and of graphics
//! processors.
//!
//! A processor is measured by its own instructions. A graphics processor tells no limits and lets no program time an instruction, so its
//! limits are the best of our own ops: a large copy, and the largest product. Of two devices that share a model's layers no
//! limit is given: they take turns.

use std::io::Write;

use pumice_kernels::probe::{self, Rates};

use super::{
    record::Record,
    setting::{OnCpu, Setting},
    table::{Format, Grid, Line},
};

/// Whose limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// Some threads' of the processor with some instructions.
    Cpu(OnCpu),
    /// A graphics processor's, by its name.
    Gpu(String),
}

/// What a device does at most, per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Whose.
    pub of: Of,
    /// Bytes from memory; of a graphics processor, bytes read and written by a copy.
    pub read: f64,
    /// Operations on bytes.
    pub int8: f64,
    /// Operations of products with F16 and BF16 weights, and on what.
    pub halves: (f64, &'static str),
    /// Operations on f32.
    pub f32: f64,
    /// Operations on f16, where it has them.
    pub f16: Option<f64>,
    /// Operations on bf16.
    pub bf16: Option<f64>,
}

impl From<Rates> for Limits {
    fn from(rates: Rates) -> Self {
        let best = |rate: Option<probe::Rate>| rate.map(|rate| rate.best);
        Self {
            of: Of::Cpu(OnCpu { isa: rates.isa, threads: rates.threads }),
            read: rates.read.best,
            int8: rates.int8.best,
            halves: rates.halves(),
            f32: rates.f32.best,
            f16: best(rates.f16),
            bf16: best(rates.bf16),
        }
    }
}

impl Limits {
    /// Whether `row` was measured on what these are the limits of; nothing is known of two devices together.
    pub fn are_of(&self, row: &Record) -> bool {
        match &self.of {
            Of::Cpu(cpu) => {
                row.gpu_info.is_empty() && cpu.threads == row.n_threads && cpu.isa.name() == row.isa
            }
            Of::Gpu(name) => *name == row.gpu_info && !row.is_on_two(),
        }
    }
}

/// Limits of each of `settings`; on a processor also those of fewer threads.
pub fn measure(settings: &[Setting]) -> anyhow::Result<Vec<Limits>> {
    let cpus: Vec<_> = settings.iter().filter(|s| s.gpu.is_none()).map(|s| s.cpu).collect();
    let mut limits = of_cpu(&cpus)?;
    for setting in settings {
        let Some(gpu) = setting.gpu.as_ref().filter(|gpu| gpu.is_whole()) else { continue };
        let rates = probe::device_rates(&mut *setting.vision(false)?)?;
        limits.push(Limits {
            of: Of::Gpu(gpu.adapter.name().into()),
            read: rates.copy,
            int8: rates.int8,
            halves: (rates.f16, "f16"),
            f32: rates.f32,
            f16: Some(rates.f16),
            bf16: None,
        });
    }
    Ok(limits)
}

/// Limits of each of `cpus`, and with its instructions of 1, 2, 4 … threads below.
pub fn of_cpu(cpus: &[OnCpu]) -> anyhow::Result<Vec<Limits>> {
    let mut wanted: Vec<OnCpu> = Vec::new();
    for &OnCpu { isa, threads } in cpus {
        let fewer = (0..).map(|i| 1 << i).take_while(|n| *n < threads);
        for threads in fewer.chain([threads]) {
            if !wanted.contains(&OnCpu { isa, threads }) {
                wanted.push(OnCpu { isa, threads });
            }
        }
    }
    wanted.into_iter().map(|s| Ok(probe::rates(s.threads, s.isa)?.into())).collect()
}

/// Prints the machine's limits below a table of rows; other formats have them in the rows.
pub fn print(out: &mut dyn Write, limits: &[Limits], format: Format) -> std::io::Result<()> {
    if limits.is_empty() || !matches!(format, Format::Table | Format::Md) {
        return Ok(());
    }
    writeln!(out)?;
    match format {
        Format::Md => grid(limits).markdown(out),
        _ => grid(limits).text(out),
    }
}

/// The machine's limits, as a table.
pub fn grid(limits: &[Limits]) -> Grid {
    let mut grid = Grid::default();
    let (f16, bf16) = (limits.iter().any(|l| l.f16.is_some()), limits.iter().any(|l| l.bf16.is_some()));
    for l in limits {
        let mut line = Line::default();
        let (name, threads) = match &l.of {
            Of::Cpu(cpu) => (cpu.isa.to_string(), cpu.threads.to_string()),
            Of::Gpu(name) => (name.clone(), String::new()),
        };
        line.left("limits", name);
        line.right("threads", threads);
        line.right("read GB/s", format!("{:.1}", l.read / 1e9));
        line.right("int8 GOP/s", format!("{:.0}", l.int8 / 1e9));
        line.right("f32 GFLOP/s", format!("{:.0}", l.f32 / 1e9));
        let cell = |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!("{:.0}", rate / 1e9));
        if f16 {
            line.right("f16 GFLOP/s", cell(l.f16));
        }
        if bf16 {
            line.right("bf16 GFLOP/s", cell(l.bf16));
        }
        grid.push(line);
    }
    grid
}
