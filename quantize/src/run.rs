//! The run: tensors stream from the mapped source through a pool of threads into temporary files.
//!
//! A tensor is cut into pieces of rows. Each wave takes a few pieces per thread: read to f32, quantize, and if asked
//! compare with what was read. While a wave is made, the one before it is written, in order. Memory is bounded by two waves,
//! not by the tensor.

mod space;

use std::{
    collections::{HashMap, hash_map::Entry},
    io::Write,
    path::{Path, PathBuf},
};

use pumice_kernels::{DType, Isa, cpu, quant::error::Deviation};
use pumice_models::gguf::Writer;
use rayon::prelude::*;

use crate::{
    Error, Layout, Plan, Planned, Recipe, Result, Source, SourceTensor, plan,
    plan::headers,
    source::{Random, Reader},
};

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The types.
    pub recipe: Recipe,
    /// One file or a pair.
    pub layout: Layout,
    /// Threads; 0 for one per processor.
    pub threads: usize,
    /// Replaces an existing output.
    pub force: bool,
    /// Measures every tensor's error, which takes a fifth more time.
    pub measure: bool,
}

impl Options {
    /// One file by `recipe`, on all processors, without measuring.
    pub fn new(recipe: Recipe) -> Self {
        Self { recipe, layout: Layout::OneFile, threads: 0, force: false, measure: false }
    }
}

/// Hears how a run goes, and can stop it.
pub trait Progress: Sync {
    /// Tensor `index` of `count` begins.
    fn tensor(&self, index: usize, count: usize, tensor: &Planned) {
        let _ = (index, count, tensor);
    }

    /// `done` of `total` bytes of the output are written. False stops the run; nothing is left behind.
    fn advance(&self, done: u64, total: u64) -> bool {
        let _ = (done, total);
        true
    }
}

/// Nobody listens.
impl Progress for () {}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The files written, the text model's first.
    pub files: Vec<PathBuf>,
    /// Bytes of their tensors.
    pub bytes: u64,
    /// Elements of their tensors.
    pub elements: u64,
    /// Every tensor, in order.
    pub tensors: Vec<TensorReport>,
}

/// What became of a tensor.
#[derive(Debug, Clone)]
pub struct TensorReport {
    /// What was planned.
    pub planned: Planned,
    /// Its error, where it was measured and its type rounds.
    pub error: Option<Deviation>,
}

/// Elements of a piece: 1 MB of f32, which stays in a core's cache while it is quantized.
const PIECE: usize = 1 << 18;
/// Pieces of a wave per thread: enough that a thread which ends early finds another.
const PIECES_PER_THREAD: usize = 8;

/// Converts `source` to `out`, and beside it where a pair is asked for.
///
/// # Errors
/// The output exists, does not fit on the disk, or is the source; a weight cannot be stored; somebody stopped the run.
/// No output is left then.
pub fn run(source: &Source, out: &Path, options: &Options, progress: &dyn Progress) -> Result<Report> {
    let plan = plan(source, out, &options.recipe, options.layout)?;
    if !options.force
        && let Some(path) = plan.files.iter().find(|p| p.exists())
    {
        return Err(Error::Exists { path: path.clone() });
    }
    space::check(&plan)?;
    let pool = pool(options.threads)?;
    let mut writers = Vec::new();
    for (header, path) in headers(source, &options.recipe, &plan).into_iter().zip(&plan.files) {
        writers.push(Writer::create(path, header, options.force)?);
    }
    let tensors = pool.install(|| convert_all(source, &plan, options, &mut writers, progress))?;
    // Both halves are whole before either takes its name; half a pair is not left behind.
    for (index, writer) in writers.into_iter().enumerate() {
        if let Err(error) = writer.finish() {
            for path in &plan.files[..index] {
                // The first error is the one to tell.
                let _ = std::fs::remove_file(path);
            }
            return Err(error.into());
        }
    }
    Ok(Report { bytes: plan.bytes(), elements: plan.elements(), files: plan.files, tensors })
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let builder =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quantize-{i}"));
    builder.build().map_err(|e| Error::Threads { threads, problem: e.to_string() })
}

/// Converts `source` to one GGUF file in memory.
///
/// # Errors
/// As [`run`], but for what concerns the disk.
pub fn run_in_memory(source: &Source, options: &Options, progress: &dyn Progress) -> Result<Vec<u8>> {
    let plan = plan(source, Path::new("(memory)"), &options.recipe, Layout::OneFile)?;
    let pool = pool(options.threads)?;
    let headers = headers(source, &options.recipe, &plan);
    let mut writers = headers.into_iter().map(Writer::in_memory).collect::<Result<Vec<_>, _>>()?;
    pool.install(|| convert_all(source, &plan, options, &mut writers, progress))?;
    Ok(writers.remove(0).finish()?)
}

fn convert_all<W: Write + Send>(
    source: &Source,
    plan: &Plan,
    options: &Options,
    writers: &mut [Writer<W>],
    progress: &dyn Progress,
) -> Result<Vec<TensorReport>> {
    let mut out = Output { writers, progress, done: 0, total: plan.bytes(), made: None };
    let mut tiles = Tiles::default();
    let mut reports = Vec::with_capacity(plan.tensors.len());
    for (index, (tensor, planned)) in source.tensors.iter().zip(&plan.tensors).enumerate() {
        progress.tensor(index, plan.tensors.len(), planned);
        let error = match tensor.repeats() {
            Some(random) => tiles.write(tensor, random, planned, &mut out).map(|()| None)?,
            None => convert(tensor, planned, options.measure, &mut out)?,
        };
        reports.push(TensorReport { planned: planned.clone(), error });
    }
    out.flush()?;
    Ok(reports)
}

/// Where bytes go, and the wave that is made but not yet written.
struct Output<'a, W: Write> {
    writers: &'a mut [Writer<W>],
    progress: &'a dyn Progress,
    done: u64,
    total: u64,
    made: Option<(&'a Planned, Vec<Vec<u8>>)>,
}

impl<'a, W: Write> Output<'a, W> {
    /// Writes the next bytes of `tensor`, after all that was made before.
    fn write(&mut self, tensor: &Planned, bytes: &[u8]) -> Result<()> {
        self.flush()?;
        self.put(tensor, bytes)
    }

    /// Keeps the next pieces of `tensor` until the next wave is in the making, or the end.
    fn keep(&mut self, tensor: &'a Planned, pieces: Vec<Vec<u8>>) -> Result<()> {
        self.flush()?;
        self.made = Some((tensor, pieces));
        Ok(())
    }

    /// Writes what was kept.
    fn flush(&mut self) -> Result<()> {
        match self.made.take() {
            Some((tensor, pieces)) => pieces.iter().try_for_each(|bytes| self.put(tensor, bytes)),
            None => Ok(()),
        }
    }

    fn put(&mut self, tensor: &Planned, bytes: &[u8]) -> Result<()> {
        self.writers[tensor.file].write(&tensor.name, bytes)?;
        self.done += bytes.len() as u64;
        if self.progress.advance(self.done, self.total) { Ok(()) } else { Err(Error::Cancelled) }
    }
}

/// Rows of synthetic tensors in their types, each kind converted once: by type, columns and spread.
#[derive(Default)]
struct Tiles(HashMap<(DType, usize, u32), Vec<u8>>);

impl Tiles {
    /// Writes a tensor whose rows repeat.
    fn write<W: Write>(
        &mut self,
        tensor: &SourceTensor,
        random: &Random,
        planned: &Planned,
        out: &mut Output<'_, W>,
    ) -> Result<()> {
        let (rows, cols, dtype) = (tensor.rows(), tensor.cols(), planned.to);
        let period = random.period.unwrap_or(rows);
        let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
        let tile = match self.0.entry((dtype, cols, random.spread.to_bits())) {
            Entry::Occupied(tile) => tile.into_mut(),
            Entry::Vacant(slot) => {
                // From the first shared row on, whichever this tensor begins with; a generator has no last row.
                let first = period - random.rotation();
                let reader = tensor.reader()?;
                let rows: Vec<usize> = (first..first + period).collect();
                let rows: Vec<_> = rows
                    .par_iter()
                    .map(|r| piece(tensor, &reader, *r, 1, dtype, false))
                    .collect::<Result<_>>()?;
                slot.insert(rows.into_iter().flat_map(|(bytes, _)| bytes).collect())
            }
        };
        let mut row = 0;
        while row < rows {
            let at = (row + random.rotation()) % period;
            let count = (period - at).min(rows - row);
            out.write(planned, &tile[at * row_bytes..(at + count) * row_bytes])?;
            row += count;
        }
        Ok(())
    }
}

/// Converts one tensor as planned and hands its bytes to `out`, piece by piece in order.
fn convert<'a, W: Write + Send>(
    tensor: &SourceTensor,
    planned: &'a Planned,
    measure: bool,
    out: &mut Output<'a, W>,
) -> Result<Option<Deviation>> {
    let dtype = planned.to;
    if let Some(bytes) = tensor.verbatim(dtype) {
        // Written by the piece, so that a person who stops the run does not wait for a whole matrix.
        bytes.chunks(4 * PIECE).try_for_each(|bytes| out.write(planned, bytes))?;
        return Ok(None);
    }
    let measure = measure && dtype != DType::F32;
    let reader = tensor.reader()?;
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let rows_per_piece = (PIECE / cols.max(1)).max(1);
    let pieces: Vec<usize> = (0..rows).step_by(rows_per_piece).collect();
    let wave = rayon::current_num_threads() * PIECES_PER_THREAD;
    let mut error: Option<Deviation> = None;
    for wave in pieces.chunks(wave) {
        let one = |first: &usize| {
            let count = rows_per_piece.min(rows - first);
            piece(tensor, &reader, *first, count, dtype, measure)
        };
        let (written, made) =
            rayon::join(|| out.flush(), || wave.par_iter().map(one).collect::<Result<Vec<_>>>());
        written?;
        let (pieces, errors): (Vec<_>, Vec<_>) = made?.into_iter().unzip();
        out.keep(planned, pieces)?;
        for of_piece in errors {
            error = match (error, of_piece) {
                (Some(all), Some(piece)) => Some(all.with(piece)),
                (all, piece) => all.or(piece),
            };
        }
    }
    Ok(error)
}

/// Rows `first .. first + count` as bytes of `dtype`, with their error.
fn piece(
    tensor: &SourceTensor,
    reader: &Reader<'_>,
    first: usize,
    count: usize,
    dtype: DType,
    measure: bool,
) -> Result<(Vec<u8>, Option<Deviation>)> {
    let cols = tensor.cols();
    let mut values = vec![0.0f32; count * cols];
    reader.read(first, &mut values)?;
    if dtype == DType::F16 {
        check_f16(tensor, first, &values)?;
    }
    let mut bytes = vec![0u8; values.len() / dtype.block_len() * dtype.block_bytes()];
    cpu::quantize(Isa::best(), dtype, cols, &values, &mut bytes, None);
    let error = measure.then(|| Deviation::of(dtype, &values, &bytes));
    Ok((bytes, error))
}

/// bf16 and f32 reach further than f16, which would become infinite without a word.
fn check_f16(tensor: &SourceTensor, first: usize, values: &[f32]) -> Result<()> {
    /// The first number that rounds to infinity: halfway between 65504 and the 65536 that would follow it.
    const OVERFLOW: f32 = 65520.0;
    match values.iter().position(|v| v.abs() >= OVERFLOW) {
        None => Ok(()),
        Some(at) => {
            let row = first + at / tensor.cols();
            Err(Error::BeyondF16 { tensor: tensor.name.clone(), row, value: values[at] })
        }
    }
}

#[cfg(test)]
mod tests;
