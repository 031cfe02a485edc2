//! `pumice bench --kernels`: how fast products are, by weight format, instruction set and shape; which are taken; how near the limit.
//!
//! The shapes are LLaVA's own. Weights are read from more memory than a cache holds, as in a model, where a product comes round
//! again only after all the others. What would take long is measured on some of its rows, which changes the rate little: rows
//! are independent.

use std::{
    io::Write,
    process::ExitCode,
    str::FromStr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use pumice_kernels::{Backend, Bytes, DType, Isa, probe, quant};
use pumice_models::plan::free_memory;
use serde::Serialize;

use super::{
    limits::{self, Limits, Of},
    roofline::Need,
    setting::OnCpu,
    table::{Format, Grid, Line},
};
use crate::{Usage, interrupt, terminal};

/// LLaMA-7B's products (attention; into the MLP; out of it) at decoding, short and long prompts, and CLIP ViT-L/336's, whose
/// picture always has 577 rows: [m, k] and the numbers of rows.
const SHAPES: [(usize, usize, &[usize]); 5] = [
    (4096, 4096, &[1, 8, 64, 512]),
    (11008, 4096, &[1, 8, 64, 512]),
    (4096, 11008, &[1, 8, 64, 512]),
    (1024, 1024, &[577]),
    (4096, 1024, &[577]),
];

/// Bytes of the weights that are gone through: several times the last cache of a laptop, and more than the largest matrix.
const POOL: usize = 256 << 20;
/// Weight rows of the first try, and how many times as many the next one takes.
const ROWS: (usize, usize) = (64, 8);
/// A call that takes this long is not made larger.
const ENOUGH: Duration = Duration::from_millis(60);
/// Calls are repeated until they have taken this long together.
const TOTAL: Duration = Duration::from_millis(50);

/// A product: x [n, k] by w [m, k].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    m: usize,
    k: usize,
    n: usize,
}

/// `4096x11008x512`: m, k, n.
impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        match numbers.as_deref() {
            // Whole blocks of every format; sizes beyond any model's are typing errors.
            Ok(&[m, k, n]) if m > 0 && n > 0 && k > 0 && k % 256 == 0 && m.max(k).max(n) <= 1 << 18 => {
                Ok(Self { m, k, n })
            }
            _ => Err(format!(
                "{text:?} is no shape MxKxN with K a multiple of 256 and each at most 262144: 4096x11008x512"
            )),
        }
    }
}

/// One measured product.
#[derive(Debug, Clone, Serialize)]
struct Cell {
    /// Type of the weights.
    r#type: &'static str,
    isa: &'static str,
    n_threads: usize,
    m: usize,
    k: usize,
    n: usize,
    /// Weight rows that were measured, m at most.
    rows: usize,
    /// Time of the fastest call, nanoseconds.
    best_ns: u64,
    /// Operations per second.
    ops: f64,
    /// Bytes of weights per second.
    bytes: f64,
    /// What bounds it: `memory`, `int8`, `int16` or `f32`.
    limit: &'static str,
    /// The share of that limit, 0 to 1.
    limit_share: f64,
    /// Whether this instruction set is the one that is taken by default.
    taken: bool,
}

/// What is to be measured.
pub struct Plan {
    /// Types of the weights.
    pub types: Vec<DType>,
    /// Instruction sets and threads.
    pub settings: Vec<OnCpu>,
    /// Products; LLaVA's where there are none.
    pub shapes: Vec<Shape>,
}

/// The types that `names` say: `all`, or some.
pub fn types(names: &[String]) -> Result<Vec<DType>, Usage> {
    let all = || DType::ALL.into_iter().filter(|t| *t != DType::I32);
    let mut types = Vec::new();
    for name in names {
        match all().find(|t| t.name().eq_ignore_ascii_case(name)) {
            Some(dtype) => types.push(dtype),
            None if name == "all" => types.extend(all()),
            None => {
                let names: Vec<_> = all().map(DType::name).collect();
                return Err(Usage(format!("--kernels {name}: all, or some of {}", names.join(","))));
            }
        }
    }
    Ok(types)
}

/// Measures all of `plan` and prints it.
pub fn run(out: &mut dyn Write, plan: &Plan, format: Format) -> anyhow::Result<ExitCode> {
    let stopped = interrupt::install()?;
    let shapes = if plan.shapes.is_empty() { llava() } else { plan.shapes.clone() };
    if let Some(free) = free_memory() {
        check(&plan.types, &shapes, free)?;
    }
    let limits = limits::of_cpu(&plan.settings)?;
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let cells = plan.types.len() * plan.settings.len() * shapes.len();
    let bar = ProgressBar::new(cells as u64).with_style(style);
    let mut cells = Vec::new();
    for &dtype in &plan.types {
        let pool = weights(dtype, &shapes);
        for shape in &shapes {
            for &setting in &plan.settings {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Shape { m, k, n } = *shape;
                bar.set_message(format!("{dtype} {m}x{k}, {n} rows, {}", setting.isa));
                if let Some(limits) = limits.iter().find(|l| l.of == Of::Cpu(setting)) {
                    cells.push(measure(dtype, &pool, *shape, setting, limits)?);
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    print(out, &limits, &cells, format)?;
    let code = stopped.load(Ordering::SeqCst).then(|| ExitCode::from(interrupt::EXIT));
    Ok(code.unwrap_or(ExitCode::SUCCESS))
}

fn llava() -> Vec<Shape> {
    SHAPES.iter().flat_map(|&(m, k, rows)| rows.iter().map(move |&n| Shape { m, k, n })).collect()
}

/// Refuses shapes whose weights, rows and products do not fit into `free` bytes.
fn check(types: &[DType], shapes: &[Shape], free: u64) -> Result<(), Usage> {
    for (dtype, shape) in types.iter().flat_map(|t| shapes.iter().map(move |s| (*t, *s))) {
        let Shape { m, k, n } = shape;
        // The rows once more as bytes, to be written.
        let rows = 4 * (2 * n * k + n * m) as u64;
        let needed = rows + bytes(dtype, m, k).max(POOL) as u64;
        if needed > free {
            return Err(Usage(format!(
                "--kernels {dtype} at {m}x{k}x{n}: takes {}, {} are free; take smaller --shapes",
                terminal::size(needed),
                terminal::size(free)
            )));
        }
    }
    Ok(())
}

/// Blocks of random weights, as many as the pool or the largest of `shapes` takes; 16384 different weights, again and again.
fn weights(dtype: DType, shapes: &[Shape]) -> Bytes {
    let mut state = 1u64;
    // Marsaglia's xorshift, 2003.
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..64 * 256).map(|_| draw()).collect();
    let mut some = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
    quant::quantize(dtype, 256, &values, &mut some, None);
    let most = shapes.iter().map(|s| s.m * s.k / dtype.block_len() * dtype.block_bytes()).max().unwrap_or(0);
    Bytes::new(some.repeat(POOL.max(most).div_ceil(some.len())))
}

/// Times `shape`, on more and more of its rows until a call takes long enough to be measured.
fn measure(
    dtype: DType,
    pool: &Bytes,
    shape: Shape,
    setting: OnCpu,
    limits: &Limits,
) -> anyhow::Result<Cell> {
    let Shape { m, k, n } = shape;
    let mut rows = m.min(ROWS.0);
    let time = |rows, total| best(dtype, pool, Shape { m: rows, ..shape }, setting, total);
    while rows < m && time(rows, Duration::ZERO)? < ENOUGH {
        rows = m.min(rows * ROWS.1);
    }
    let best = time(rows, TOTAL)?;
    let (ops, read) = (2 * (rows * k * n) as u64, bytes(dtype, rows, k) as u64);
    let need = Need { read, ..Need::default() };
    let need = match dtype {
        dtype if probe::on_bytes(dtype) => Need { int8: ops, ..need },
        dtype if probe::on_halves(dtype) => Need { halves: ops, ..need },
        _ => Need { f32: ops, ..need },
    };
    let seconds = best.as_secs_f64().max(1e-9);
    let (limit, name) = need.limit(limits);
    Ok(Cell {
        r#type: dtype.name(),
        isa: setting.isa.name(),
        n_threads: setting.threads,
        m,
        k,
        n,
        rows,
        best_ns: best.as_nanos() as u64,
        ops: ops as f64 / seconds,
        bytes: read as f64 / seconds,
        limit: name,
        limit_share: limit / seconds,
        taken: setting.isa == Isa::best(),
    })
}

/// Bytes of a matrix [rows, k].
fn bytes(dtype: DType, rows: usize, k: usize) -> usize {
    rows * k / dtype.block_len() * dtype.block_bytes()
}

/// The time of the fastest call of some that take `total` together, each with the next matrix of `pool`.
fn best(
    dtype: DType,
    pool: &Bytes,
    shape: Shape,
    setting: OnCpu,
    total: Duration,
) -> anyhow::Result<Duration> {
    let Shape { m, k, n } = shape;
    let mut cpu = setting.cpu();
    let len = bytes(dtype, m, k);
    let parts = (0..pool.len() / len).filter_map(|i| pool.slice(i * len..(i + 1) * len));
    let matrices = parts.map(|part| cpu.load(part, m, k, dtype)).collect::<Result<Vec<_>, _>>()?;
    let (x, out) = (cpu.alloc(n, k, DType::F32)?, cpu.alloc(n, m, DType::F32)?);
    let values: Vec<u8> =
        (0..n * k).flat_map(|i| ((i * 37 % 255) as f32 / 127.0 - 1.0).to_le_bytes()).collect();
    cpu.write(x, &values);
    let mut each = matrices.iter().cycle();
    let mut call = || {
        let start = Instant::now();
        if let Some(w) = each.next() {
            cpu.matmul(out, x, *w, None);
        }
        start.elapsed()
    };
    // The first touches memory for the first time; where it takes long, that does not matter.
    let mut best = call();
    if best < ENOUGH {
        best = call();
        let start = Instant::now();
        while start.elapsed() < total {
            best = best.min(call());
        }
    }
    Ok(best)
}

/// Prints limits and cells.
fn print(out: &mut dyn Write, limits: &[Limits], cells: &[Cell], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => grid(cells).text(out)?,
        Format::Md => grid(cells).markdown(out)?,
        Format::Csv => {
            writeln!(out, "type,isa,n_threads,m,k,n,rows,best_ns,ops,bytes,limit,limit_share,taken")?;
            for c in cells {
                let Cell { r#type, isa, n_threads, m, k, n, rows, best_ns, .. } = c;
                write!(
                    out,
                    "{type},{isa},{n_threads},{m},{k},{n},{rows},{best_ns},{:.0},{:.0}",
                    c.ops, c.bytes
                )?;
                writeln!(out, ",{},{:.4},{}", c.limit, c.limit_share, c.taken)?;
            }
        }
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, cells)?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            for cell in cells {
                writeln!(out, "{}", serde_json::to_string(cell)?)?;
            }
        }
    }
    limits::print(out, limits, format)?;
    Ok(out.flush()?)
}

/// A line for each product; `*` marks the instruction set that is taken.
fn grid(cells: &[Cell]) -> Grid {
    let mut grid = Grid::default();
    for c in cells {
        let mut line = Line::default();
        line.left("weights", c.r#type.into());
        line.right("m x k", format!("{}x{}", c.m, c.k));
        line.right("n", c.n.to_string());
        line.left("isa", format!("{}{}", c.isa, if c.taken { " *" } else { "" }));
        line.right("threads", c.n_threads.to_string());
        line.right("GOP/s", format!("{:.1}", c.ops / 1e9));
        line.right("GB/s", format!("{:.1}", c.bytes / 1e9));
        line.right("of limit", format!("{:.0} % {}", c.limit_share * 100.0, c.limit));
        grid.push(line);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_types_are_read() {
        assert_eq!("4096x11008x512".parse(), Ok(Shape { m: 4096, k: 11008, n: 512 }));
        for bad in ["", "64x256", "64x256x0", "64x100x1", "64x256x8x1", "1x256x99999999"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
        let names = |names: &[&str]| types(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(names(&["q4_k", "f16"]).unwrap(), [DType::Q4_K, DType::F16]);
        assert_eq!(names(&["all"]).unwrap().len(), DType::ALL.len() - 1);
        assert!(names(&["q4_k_m"]).unwrap_err().to_string().contains("Q4_K,"));
        assert_eq!(llava().len(), 14);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let shapes = |text: &str| [text.parse::<Shape>().unwrap()];
        let (huge, gb) = (shapes("262144x262144x1"), 1_000_000_000);
        assert!(check(&[DType::Q4_0], &shapes("4096x4096x512"), gb).is_ok());
        let told = check(&[DType::Q4_0, DType::F32], &huge, 60 * gb).unwrap_err().to_string();
        assert!(told.contains("F32 at 262144x262144x1") && told.contains("60.0 GB are free"), "{told}");
        assert!(check(&[DType::Q4_0], &shapes("256x256x262144"), gb / 2).is_err(), "rows and products count");
    }

    #[test]
    fn a_product_is_timed_and_compared_with_its_limit() {
        let setting = OnCpu { isa: Isa::best(), threads: 1 };
        let limits = Limits {
            of: Of::Cpu(setting),
            read: 1e18,
            int8: 1e9,
            halves: (1e18, "f32"),
            f32: 1e18,
            f16: None,
            bf16: None,
        };
        let shape = Shape { m: 96, k: 512, n: 4 };
        let cell = measure(DType::Q4_0, &weights(DType::Q4_0, &[shape]), shape, setting, &limits).unwrap();
        assert!(cell.taken && cell.rows == 96 && cell.best_ns > 0, "{cell:?}");
        let seconds = cell.best_ns as f64 / 1e9;
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
        assert!(near(cell.ops * seconds, 2.0 * 96.0 * 512.0 * 4.0), "{cell:?}");
        assert!(near(cell.bytes * seconds, 96.0 * 512.0 / 32.0 * 18.0), "{cell:?}");
        assert!(cell.limit == "int8" && near(cell.limit_share, cell.ops / 1e9), "{cell:?}");
        let text = |format| {
            let mut out = Vec::new();
            print(&mut out, std::slice::from_ref(&limits), std::slice::from_ref(&cell), format).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(text(Format::Table).contains(" *  "), "{}", text(Format::Table));
        assert!(
            text(Format::Csv).lines().all(|line| line.matches(',').count() == 12),
            "{}",
            text(Format::Csv)
        );
    }
}
