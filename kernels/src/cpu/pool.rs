//! Threads that wait for the next op, and the two ways in which they share a matrix: [`Disjoint`] and [`Tile`].
//!
//! A token of a 7B model is some three hundred ops, most of them shorter than the microseconds that waking a parked
//! thread costs. So a worker spins for `SPIN` after a job, in which time the next op nearly always comes, and only
//! then parks, so that an idle program uses no core. The caller works as thread 0 and waits in the same way.
//!
//! An op is flat (given up: nested jobs), and [`Pool::each`] gives every thread a run of neighbouring pieces, because memory is read faster in
//! order; who is done takes half of what another has left.

use std::{
    any::Any,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a thread spins before it parks: longer than the scalar work between two ops (under 10 µs in a forward
/// pass), shorter than a person or the scheduler would notice.
const SPIN: Duration = Duration::from_micros(50);

/// Spins between two looks at the clock, which costs as much as about twenty of them.
const SPINS_PER_LOOK: usize = 64;

/// A job, its lifetime erased. [`Pool::run`] does not return before the last call has.
type Job = *const (dyn Fn(usize) + Sync);

/// What the caller and the workers share.
struct Shared {
    /// The job of the current epoch. Written by the caller while no worker is busy, under `lock`.
    job: Mutex<Option<SendJob>>,
    /// Counts jobs; a worker that sees it change has work.
    epoch: AtomicUsize,
    /// Workers that have not finished the current job.
    busy: AtomicUsize,
    /// The pool is being dropped.
    stop: AtomicBool,
    /// Threads parked on `wake`, and whether the caller is parked on `done`.
    parked: AtomicUsize,
    caller_parked: AtomicBool,
    /// Guards parking: held from the last look at the condition until the thread sleeps.
    lock: Mutex<()>,
    wake: Condvar,
    done: Condvar,
    /// The first panic of a worker's task.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct SendJob(Job);
// SAFETY: the closure behind it is `Sync`, so calling it through a shared pointer from any thread is sound.
unsafe impl Send for SendJob {}

/// A lock whose poisoning says nothing: no invariant is broken by a panic while one of these is held.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spins for [`SPIN`] at most; whether `ready` came true.
fn spin(ready: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let changed = || self.epoch.load(SeqCst) != seen;
            if !spin(changed) {
                let mut guard = hold(&self.lock);
                self.parked.fetch_add(1, SeqCst);
                while !changed() {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.parked.fetch_sub(1, SeqCst);
            }
            if self.stop.load(SeqCst) {
                return;
            }
            seen = self.epoch.load(SeqCst);
            let job = hold(&self.job).expect("an epoch has a job");
            // SAFETY: `run` keeps the closure alive until `busy` is 0, which this thread still holds up.
            let task = unsafe { &*job.0 };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(thread))) {
                hold(&self.panic).get_or_insert(payload);
            }
            if self.busy.fetch_sub(1, SeqCst) == 1 && self.caller_parked.load(SeqCst) {
                drop(hold(&self.lock));
                self.done.notify_one();
            }
        }
    }

    /// Starts the next epoch and wakes whoever is parked.
    fn next_epoch(&self) {
        self.epoch.fetch_add(1, SeqCst);
        if self.parked.load(SeqCst) > 0 {
            drop(hold(&self.lock));
            self.wake.notify_all();
        }
    }

    /// Waits until the workers are done.
    fn join(&self) {
        let idle = || self.busy.load(SeqCst) == 0;
        if spin(idle) {
            return;
        }
        let mut guard = hold(&self.lock);
        self.caller_parked.store(true, SeqCst);
        while !idle() {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_parked.store(false, SeqCst);
    }
}

/// Threads that run one job at a time, all of them together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a job: two callers take turns.
    turn: Mutex<()>,
    /// Per thread, what is left of its pieces in [`Pool::each`].
    runs: Vec<Run>,
}

/// A run of pieces, packed as `first << 32 | end`; on a line of its own, because its thread takes from it all the time.
#[repr(align(64))]
struct Run(AtomicU64);

impl Run {
    fn pack(pieces: Range<usize>) -> u64 {
        (pieces.start as u64) << 32 | pieces.end as u64
    }

    /// Takes some of the pieces that are left: `split` says which stay and which are taken.
    fn take(&self, split: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>)) -> Option<Range<usize>> {
        let mut old = self.0.load(Relaxed);
        loop {
            let left = (old >> 32) as usize..(old & u64::from(u32::MAX)) as usize;
            if left.is_empty() {
                return None;
            }
            let (stay, taken) = split(left);
            match self.0.compare_exchange_weak(old, Self::pack(stay), Relaxed, Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => old = now,
            }
        }
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] among them (so `threads − 1` are started; 0 counts as 1).
    /// Where the system refuses threads, the pool has fewer: see [`Pool::threads`].
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            epoch: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            caller_parked: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            done: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers: Vec<_> = (1..threads)
            .map_while(|thread| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("pumice-{thread}"))
                    .spawn(move || shared.work(thread))
                    .ok()
            })
            .collect();
        let runs = (0..=workers.len()).map(|_| Run(AtomicU64::new(0))).collect();
        Self { shared, workers, turn: Mutex::new(()), runs }
    }

    /// Threads that take part in a job.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0)`, …, `f(threads − 1)` once each, at the same time, `f(0)` on the calling thread; returns when all are done.
    ///
    /// Must not be called from within a job of the same pool: it would wait for itself.
    ///
    /// # Panics
    /// Where a call panicked, with its panic, after all calls have ended.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        match self.workers.is_empty() {
            true => f(0),
            false => self.run_in(hold(&self.turn), f),
        }
    }

    /// [`Pool::run`] where there are workers, in the caller's turn.
    fn run_in(&self, turn: MutexGuard<'_, ()>, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is used by workers while `busy` > 0, and this function does not
        // leave before `join` has seen 0, not even where `f(0)` panics.
        let job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(f) };
        *hold(&shared.job) = Some(SendJob(job));
        shared.busy.store(self.workers.len(), SeqCst);
        shared.next_epoch();
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        shared.join();
        let theirs = hold(&shared.panic).take();
        drop(turn);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Calls `f(thread, piece)` once for every piece of 0..`pieces`: a thread takes neighbouring ones in order, then helps others.
    pub fn each(&self, pieces: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        if pieces <= 1 || self.workers.is_empty() {
            return (0..pieces).for_each(|piece| f(0, piece));
        }
        assert!(u32::try_from(pieces).is_ok(), "{pieces} pieces");
        let turn = hold(&self.turn);
        let first = |thread: usize| pieces * thread / self.threads();
        for (thread, run) in self.runs.iter().enumerate() {
            run.0.store(Run::pack(first(thread)..first(thread + 1)), Relaxed);
        }
        self.run_in(turn, &|thread| {
            while let Some(piece) = self.next_piece(thread) {
                f(thread, piece);
            }
        });
    }

    /// The next piece for `thread`: of its run or, where that is empty, of the second half of another's, which becomes its own.
    fn next_piece(&self, thread: usize) -> Option<usize> {
        let next = |left: Range<usize>| (left.start + 1..left.end, left.start..left.start + 1);
        if let Some(piece) = self.runs[thread].take(next) {
            return Some(piece.start);
        }
        let half = |left: Range<usize>| {
            let middle = left.start + left.len() / 2;
            (left.start..middle, middle..left.end)
        };
        let threads = self.threads();
        let found = (1..threads).find_map(|i| self.runs[(thread + i) % threads].take(half))?;
        // Others only take from a run, so an empty one is still empty.
        self.runs[thread].0.store(Run::pack(found.start + 1..found.end), Relaxed);
        Some(found.start)
    }

    /// Cuts `matrix`, [rows, cols], into tiles of `tile_rows` × `tile_cols` (less at the edges) and calls `f(thread, tile)`
    /// for each, row of tiles by row of tiles.
    ///
    /// # Panics
    /// Where `cols` does not divide the length, or a tile is empty.
    pub fn tiles<T: Send>(
        &self,
        matrix: &mut [T],
        cols: usize,
        (tile_rows, tile_cols): (usize, usize),
        f: &(dyn Fn(usize, Tile<'_, T>) + Sync),
    ) {
        if matrix.is_empty() {
            return;
        }
        assert!(cols > 0 && matrix.len().is_multiple_of(cols), "{} elements in rows of {cols}", matrix.len());
        assert!(tile_rows > 0 && tile_cols > 0, "tiles of {tile_rows}×{tile_cols}");
        let rows = matrix.len() / cols;
        let across = cols.div_ceil(tile_cols);
        let matrix = Disjoint::new(matrix);
        self.each(rows.div_ceil(tile_rows) * across, &|thread, piece| {
            let (first_row, first_col) = (piece / across * tile_rows, piece % across * tile_cols);
            let tile = Tile {
                matrix: &matrix,
                stride: cols,
                first_row,
                rows: tile_rows.min(rows - first_row),
                first_col,
                cols: tile_cols.min(cols - first_col),
            };
            f(thread, tile);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.next_epoch();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so there is nothing to learn here.
            let _ = worker.join();
        }
    }
}

/// A mutable slice from which threads take ranges that do not overlap.
pub struct Disjoint<'a, T> {
    first: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut T` to other threads (so `T: Send`), and `slice` obliges its callers not to overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: it stands for a `&mut [T]`, which is `Send` where `T` is.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// A shared view of `slice`.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { first: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements of the whole.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements `range`.
    ///
    /// # Safety
    /// While the result lives, no other slice of a range that overlaps `range` may be taken.
    ///
    /// # Panics
    /// Where `range` leaves the slice.
    #[allow(clippy::mut_from_ref, reason = "the obligation above stands in for the borrow checker")]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds by the assert, alive by `'a`, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.end - range.start) }
    }
}

/// A rectangle of a matrix that one thread may write. Made by [`Pool::tiles`], which never makes two that overlap.
pub struct Tile<'a, T> {
    matrix: &'a Disjoint<'a, T>,
    stride: usize,
    first_row: usize,
    rows: usize,
    first_col: usize,
    cols: usize,
}

impl<T> Tile<'_, T> {
    /// The matrix's row that is this tile's first.
    pub fn first_row(&self) -> usize {
        self.first_row
    }

    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The matrix's column that is this tile's first.
    pub fn first_col(&self) -> usize {
        self.first_col
    }

    /// Columns of the tile.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row` of the tile, `[cols]`.
    ///
    /// # Panics
    /// Where the tile has no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of a tile of {}", self.rows);
        let start = (self.first_row + row) * self.stride + self.first_col;
        // SAFETY: tiles do not overlap, and `&mut self` lets one row of a tile be held at a time.
        unsafe { self.matrix.slice(start..start + self.cols) }
    }

    /// All rows of the tile as one slice, [rows, cols], where the tile is as wide as the matrix.
    ///
    /// # Panics
    /// Where it is narrower.
    pub fn whole_rows(&mut self) -> &mut [T] {
        assert_eq!(self.cols, self.stride, "a tile of {} of {} columns", self.cols, self.stride);
        let start = self.first_row * self.stride;
        // SAFETY: tiles do not overlap, and `&mut self` lets it be held once.
        unsafe { self.matrix.slice(start..start + self.rows * self.stride) }
    }
}

#[cfg(test)]
mod tests;
