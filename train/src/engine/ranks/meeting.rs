//! Where the ranks of a run meet: one store of keys that rank 0 serves, and who of them is here, late or gone.
//!
//! A rank that ends in order (with or without an error of its own) leaves word, so that whoever waits for it stops within seconds; one that is
//! killed leaves none, and is found out by the timeout.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::shim::store::{Failure, Store};
use crate::{Error, Result};

use super::place::Place;

/// How long one wait lasts before it is asked whether the other rank has left.
const LOOK: Duration = Duration::from_secs(1);
/// How long rank 0 goes on serving at its end, for the others to read what they still need.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of one value: the server refuses more than 8 MiB at once.
const CHUNK: usize = 4 << 20;

/// This rank's connection to the others.
#[derive(Debug)]
pub struct Meeting {
    store: Store,
    place: Place,
    turn: Cell<u64>,
}

impl Meeting {
    /// Serves (rank 0, where no launcher does) or connects, and waits until all ranks are here. `device` (`cpu`, `cuda`) must be the same on all.
    ///
    /// # Errors
    /// [`Error::Ranks`] when the port is taken, rank 0 does not answer, or ranks are missing after the place's timeout; it names them.
    pub fn new(place: &Place, device: &str) -> Result<Self> {
        let serves = place.rank == 0 && !place.served;
        let store = Store::new(&place.addr, place.port, serves, place.timeout).map_err(|e| {
            let (addr, port, rank, wait) = (&place.addr, place.port, place.rank, place.timeout.as_secs());
            Error::Ranks(if serves {
                format!(
                    "rank 0 cannot serve at {addr}:{port}: {e}. Choose a free MASTER_PORT, and run rank 0 on the machine that MASTER_ADDR names"
                )
            } else {
                format!(
                    "rank {rank} got no answer from rank 0 at {addr}:{port} in {wait} s: {e}. Check that rank 0 runs, that MASTER_ADDR and \
                     MASTER_PORT are the same for all ranks, and that no firewall closes the port"
                )
            })
        })?;
        let meeting = Self { store, place: place.clone(), turn: Cell::new(0) };
        meeting.greet(device)?;
        Ok(meeting)
    }

    fn greet(&self, device: &str) -> Result<()> {
        let Place { rank, size, .. } = self.place;
        let word = format!("{size} {device}");
        if self.store.add(&format!("seat/{rank}"), 1).map_err(|e| self.lost(&e))? != 1 {
            return Err(Error::Ranks(format!(
                "two processes are rank {rank} of the run at {}:{}: give each its own RANK",
                self.place.addr, self.place.port
            )));
        }
        self.store.set(&format!("here/{rank}"), word.as_bytes()).map_err(|e| self.lost(&e))?;
        let end = Instant::now() + self.place.timeout;
        let mut missing = Vec::new();
        for other in (0..size).filter(|r| *r != rank) {
            let left = end.saturating_duration_since(Instant::now());
            match self.store.get(&format!("here/{other}"), left) {
                Ok(theirs) if theirs == word.as_bytes() => {}
                Ok(theirs) => {
                    return Err(Error::Ranks(format!(
                        "rank {rank} runs as \"{word}\" (ranks, device) and rank {other} as \"{}\": start all with the same WORLD_SIZE and device",
                        String::from_utf8_lossy(&theirs)
                    )));
                }
                Err(Failure::Late(_)) => missing.push(other.to_string()),
                Err(e) => return Err(self.lost(&e)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Ranks(format!(
            "rank {rank} waited {} s at {}:{} for the start of rank {} of {size}, in vain: timeout. Start all {size} (WORLD_SIZE) ranks, with the \
             same MASTER_ADDR and MASTER_PORT, and look at what the missing ones wrote",
            self.place.timeout.as_secs(),
            self.place.addr,
            self.place.port,
            missing.join(", "),
        )))
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.place.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.place.size
    }

    /// How long a rank is waited for.
    pub fn timeout(&self) -> Duration {
        self.place.timeout
    }

    /// Begins a collective: its name in the store, the same on all ranks. The operation is part of it, so that ranks that do different things
    /// wait for each other and say so, rather than mix bytes.
    pub fn turn(&self, operation: &str) -> String {
        self.turn.set(self.turn.get() + 1);
        format!("{}/{operation}", self.turn.get())
    }

    /// Posts `bytes` under `key`, in chunks.
    pub fn post(&self, key: &str, bytes: &[u8]) -> Result<()> {
        for (i, chunk) in chunks(bytes.len()).enumerate() {
            self.store.set(&format!("{key}/{i}"), &bytes[chunk]).map_err(|e| self.lost(&e))?;
        }
        Ok(())
    }

    /// Reads `out.len()` bytes that rank `from` posts under `key`. `readers` is how many ranks read them: the last takes them away.
    pub fn fetch(&self, key: &str, from: usize, readers: usize, out: &mut [u8]) -> Result<()> {
        for (i, chunk) in chunks(out.len()).enumerate() {
            let value = self.await_value(&format!("{key}/{i}"), from)?;
            if value.len() != chunk.len() {
                return Err(Error::Ranks(format!(
                    "rank {from} sent {} bytes where rank {} expects {} ({key}): start all ranks with the same settings and checkpoint",
                    value.len(),
                    self.place.rank,
                    chunk.len(),
                )));
            }
            out[chunk].copy_from_slice(&value);
        }
        let last = readers == 1
            || self.store.add(&format!("{key}/read"), 1).map_err(|e| self.lost(&e))? == readers as i64;
        if last {
            let counter = (readers > 1).then(|| format!("{key}/read"));
            let values = (0..chunks(out.len()).len()).map(|i| format!("{key}/{i}"));
            for name in values.chain(counter) {
                self.store.delete(&name).map_err(|e| self.lost(&e))?;
            }
        }
        Ok(())
    }

    fn await_value(&self, key: &str, from: usize) -> Result<Vec<u8>> {
        let end = Instant::now() + self.place.timeout;
        let mut gone = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.store.get(key, if gone { LOOK } else { left.min(LOOK) }) {
                Ok(value) => return Ok(value),
                Err(Failure::Late(_)) if gone => return Err(self.left(key, from)),
                Err(Failure::Late(_)) if left.is_zero() => return Err(self.silent(key, from)),
                // Whoever leaves has posted all it will: one more look decides, long enough for a busy machine to answer.
                Err(Failure::Late(_)) => {
                    gone = self.store.wait(&format!("left/{from}"), Duration::ZERO).is_ok()
                }
                Err(e) => return Err(self.lost(&e)),
            }
        }
    }

    fn left(&self, key: &str, from: usize) -> Error {
        let rank = self.place.rank;
        Error::Ranks(format!(
            "rank {from} ended while rank {rank} waited for it ({key}): look at what rank {from} wrote last"
        ))
    }

    fn silent(&self, key: &str, from: usize) -> Error {
        Error::Ranks(format!(
            "timeout: rank {} waited {} s for rank {from}, which does not answer ({key}). It was killed, hangs, or is slower than that: look at \
             what it wrote last (and for the kernel's \"out of memory\"), or allow more time",
            self.place.rank,
            self.place.timeout.as_secs(),
        ))
    }

    /// The connection to rank 0 broke.
    fn lost(&self, e: &Failure) -> Error {
        let Place { rank, addr, port, .. } = &self.place;
        Error::Ranks(format!(
            "rank {rank} lost the connection to rank 0 at {addr}:{port}: {e}. Rank 0 ended, or the network failed: look at what rank 0 wrote last"
        ))
    }
}

/// The ranges into which `n` bytes are cut; one empty range for none, so that there is something to wait for.
fn chunks(n: usize) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> {
    (0..n.div_ceil(CHUNK).max(1)).map(move |i| i * CHUNK..n.min((i + 1) * CHUNK))
}

impl Drop for Meeting {
    fn drop(&mut self) {
        // Failures here are of no more consequence: this rank ends, and the others find out by their own waits.
        let _ = self.store.set(&format!("left/{}", self.place.rank), b"");
        if self.place.rank == 0 {
            let end = Instant::now() + GRACE.min(self.place.timeout);
            for other in 1..self.place.size {
                let left = end.saturating_duration_since(Instant::now());
                if self.store.wait(&format!("left/{other}"), left).is_err() {
                    return;
                }
            }
        }
    }
}
