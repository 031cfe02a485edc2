//! Worker threads that turn rows into batches, in an order that does not depend on them.
//!
//! A JPEG takes longer to decode than a small model to learn, so workers read, tokenise and decode ahead while a step is computed. Each
//! takes the next sample by number; the batches are put together by number again, so one thread or eight give the same
//! batches. A row that cannot be used (its picture is missing, broken …) is named in the report and the next good one of the
//! order takes its place; it is the same one on every run, so that a resumed run sees what the first one saw.

use super::{
    Batch,
    conversation::{Expanded, IGNORED, ImagePosition, Template},
    order::Shape,
    report::{Fault, Reason, Report},
    rows::Rows,
};
use crate::{Error, Result};
use pumice_runtime::{Picture, Preprocess};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

/// Rows tried for one place before the data are given up: hundreds in a row without one good is no accident but a wrong folder.
const TRIES: usize = 256;

/// How samples are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder that the rows' pictures are relative to.
    pub images: PathBuf,
    /// The vision tower's preprocessing.
    pub preprocess: Preprocess,
    /// Slots of a picture.
    pub patches: usize,
    /// Positions of the longest sample, picture slots included.
    pub max_length: usize,
    /// Where pictures stand in the first turn.
    pub position: ImagePosition,
    /// Batches, ranks, seed.
    pub shape: Shape,
    /// Which of the ranks this is.
    pub rank: usize,
    /// Worker threads; 0 loads in the caller's.
    pub threads: usize,
    /// Micro-batches that are made ready before they are asked for, at least 1.
    pub ahead: usize,
}

/// How far a run is in its data: all that a resumed one needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Epochs finished.
    pub epoch: u64,
    /// Micro-batches of the epoch that this rank has taken.
    pub micro: u64,
}

/// Batches without end, epoch after epoch.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    report: Report,
}

/// What workers and caller share.
#[derive(Debug)]
struct Shared {
    rows: Arc<Rows>,
    template: Template,
    settings: Settings,
    lengths: Vec<i32>,
    /// Orders of the epochs in use, each `steps · global` rows.
    orders: Mutex<BTreeMap<u64, Arc<Vec<u32>>>>,
    state: Mutex<State>,
    /// A sample is done.
    ready: Condvar,
    /// The caller took samples, or wants the workers to stop.
    room: Condvar,
}

/// Samples by number, counted over all epochs of this rank.
#[derive(Debug)]
struct State {
    /// The next that a worker takes.
    next: u64,
    /// The next that the caller gets.
    taken: u64,
    done: BTreeMap<u64, Loaded>,
    stop: bool,
}

/// A sample, or nothing where no row of the neighbourhood is good; and what was wrong on the way.
#[derive(Debug)]
struct Loaded {
    sample: Option<Ready>,
    faults: Vec<Fault>,
}

/// A sample with its pixels.
#[derive(Debug)]
struct Ready {
    tokens: Expanded,
    /// `[n, 3, size, size]`.
    pixels: Vec<f32>,
    name: String,
}

impl Loader {
    /// Starts the workers at `start`; `report` is what [`Rows::open`] filled, and goes on being filled.
    ///
    /// # Errors
    /// The settings cannot be: no rows in a batch, a rank outside the world, a picture longer than a sample.
    pub fn new(
        rows: Arc<Rows>,
        template: Template,
        settings: Settings,
        start: Position,
        report: Report,
    ) -> Result<Self> {
        let Settings { shape, rank, patches, max_length, .. } = settings;
        if shape.global() == 0 || rank >= shape.world {
            return Err(Error::Config(format!(
                "rank {rank} of {} with {} × {} rows a step: rank must be below the number of ranks, the rest at least 1",
                shape.world, shape.batch, shape.accumulate
            )));
        }
        if patches >= max_length {
            return Err(Error::Config(format!(
                "a picture takes {patches} positions, a sample at most {max_length}; raise --max-length"
            )));
        }
        let lengths = rows.lengths();
        let taken = (start.epoch * per_epoch(&shape, lengths.len()) + start.micro) * shape.batch as u64;
        let threads = settings.threads;
        let state = State { next: taken, taken, done: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared {
            rows,
            template,
            settings,
            lengths,
            orders: Mutex::default(),
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
        });
        let work = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work())
        };
        let workers = (0..threads).map(work).collect();
        Ok(Self { shared, workers, report })
    }

    /// The next micro-batch of this rank.
    ///
    /// # Errors
    /// No row can be used, neither the one due nor the hundreds after it.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let loaded = self.take();
        let mut ready = Vec::with_capacity(loaded.len());
        let mut barren = false;
        for Loaded { sample, faults } in loaded {
            faults.into_iter().for_each(|fault| self.report.add(fault));
            barren |= sample.is_none();
            ready.extend(sample);
        }
        if barren {
            return Err(Error::Data(format!(
                "not one of {} rows in a row can be used; is {} the folder of the images?\n{}",
                TRIES.min(self.shared.rows.len()),
                self.shared.settings.images.display(),
                self.report
            )));
        }
        Ok(batch(ready, self.shared.settings.preprocess.size))
    }

    /// Where the next batch stands: kept in a checkpoint, it is the start of a resumed run.
    pub fn position(&self) -> Position {
        let shape = &self.shared.settings.shape;
        let micro = self.shared.state().taken / shape.batch as u64;
        let per_epoch = per_epoch(shape, self.shared.lengths.len());
        Position { epoch: micro / per_epoch, micro: micro % per_epoch }
    }

    /// What was wrong with the rows so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.shared.settings.shape.steps(self.shared.lengths.len())
    }

    /// The samples of one batch, in their order.
    fn take(&mut self) -> Vec<Loaded> {
        let shared = &self.shared;
        let n = shared.settings.shape.batch as u64;
        let mut state = shared.state();
        let numbers = state.taken..state.taken + n;
        state.taken = numbers.end;
        if self.workers.is_empty() {
            drop(state);
            return numbers.map(|number| shared.load(number)).collect();
        }
        let mut out = Vec::with_capacity(n as usize);
        for number in numbers {
            let mut loaded = state.done.remove(&number);
            while loaded.is_none() {
                state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                loaded = state.done.remove(&number);
            }
            out.extend(loaded);
        }
        drop(state);
        shared.room.notify_all();
        out
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its own panics; there is nothing to do about one that did not.
            let _ = worker.join();
        }
    }
}

/// Micro-batches of an epoch on one rank.
fn per_epoch(shape: &Shape, rows: usize) -> u64 {
    (shape.steps(rows) * shape.accumulate) as u64
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life: take a number, load it, put it down.
    fn work(&self) {
        let ahead = (self.settings.ahead.max(1) * self.settings.shape.batch) as u64;
        loop {
            let mut state = self.state();
            while !state.stop && state.next >= state.taken + ahead {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            let number = state.next;
            state.next += 1;
            drop(state);
            let loaded = self.load(number);
            self.state().done.insert(number, loaded);
            self.ready.notify_all();
        }
    }

    /// Sample `number`, or the next good one of the order.
    fn load(&self, number: u64) -> Loaded {
        let Shape { batch, world, .. } = self.settings.shape;
        let per_epoch = per_epoch(&self.settings.shape, self.lengths.len()) * batch as u64;
        let order = self.order(number / per_epoch);
        let inside = (number % per_epoch) as usize;
        let at = (inside / batch * world + self.settings.rank) * batch + inside % batch;
        let mut faults = Vec::new();
        for next in 0..TRIES.min(self.lengths.len()) {
            let row = order[(at + next) % order.len()] as usize;
            // Decoders are others' code; a file that makes one panic is a broken picture, not the end of a run.
            let made = catch_unwind(AssertUnwindSafe(|| self.sample(row)));
            match made {
                Ok(Ok(sample)) => return Loaded { sample: Some(sample), faults },
                Ok(Err(fault)) => faults.push(fault),
                Err(_) => faults.push(Fault {
                    reason: Reason::BrokenImage,
                    row: format!("usable row {row}"),
                    what: "the decoder failed on its picture".into(),
                }),
            }
        }
        Loaded { sample: None, faults }
    }

    fn order(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        // A worker may still be in the epoch before.
        orders.retain(|&known, _| known + 1 >= epoch);
        let make = || Arc::new(self.settings.shape.epoch(&self.lengths, epoch));
        orders.entry(epoch).or_insert_with(make).clone()
    }

    /// Row `i`, ready for a batch.
    fn sample(&self, i: usize) -> std::result::Result<Ready, Fault> {
        let settings = &self.settings;
        let row = self.rows.read(i)?;
        let sample = self.template.sample(row, settings.position.place(settings.shape.seed, i))?;
        let tokens = sample.expand(settings.patches, settings.max_length)?;
        let mut pixels = Vec::new();
        for image in &sample.images {
            let path = settings.images.join(image);
            let picture = Picture::open(&path).map_err(|e| {
                let missing = matches!(e, pumice_runtime::Error::ReadPicture { .. });
                let reason = if missing { Reason::MissingImage } else { Reason::BrokenImage };
                Fault { reason, row: sample.name.clone(), what: e.to_string() }
            })?;
            pixels.extend(settings.preprocess.apply(&picture));
        }
        Ok(Ready { tokens, pixels, name: sample.name })
    }
}

/// Samples side by side, padded to the longest.
fn batch(samples: Vec<Ready>, size: usize) -> Batch {
    let b = samples.len();
    let t = samples.iter().map(|sample| sample.tokens.ids.len()).max().unwrap_or(0);
    let mut batch = Batch { b, t, size, ..Batch::default() };
    batch.images.reserve_exact(samples.iter().map(|sample| sample.pixels.len()).sum());
    for (row, sample) in samples.into_iter().enumerate() {
        batch.ids.extend_from_slice(&sample.tokens.ids);
        batch.ids.resize((row + 1) * t, 0);
        batch.labels.extend_from_slice(&sample.tokens.labels);
        batch.labels.resize((row + 1) * t, IGNORED);
        batch.images.extend_from_slice(&sample.pixels);
        batch.places.extend(sample.tokens.places.into_iter().map(|place| (row, place)));
        batch.rows.push(sample.name);
    }
    batch
}

#[cfg(test)]
mod tests;
