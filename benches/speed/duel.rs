//! An item timed by criterion, and, where there is a peer, in turns with it.
//!
//! Turns are short and alternate, so that whatever else the machine does disturbs both; the ratio is the median of the ratios of pairs. A side
//! that is not at work has its threads asleep. Nothing is timed before both sides have given the same result.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};

use crate::machine::Machine;

/// A turn is at least so long: waking the threads (tens of microseconds) is to be small beside it, the untimed first call too.
const TURN: Duration = Duration::from_millis(5);

/// Somebody who does the work of an item.
pub trait Side {
    /// Who, and how.
    fn name(&self) -> String;
    /// Does it once.
    fn run(&mut self);
    /// What the last run gave.
    fn result(&mut self) -> Vec<f32>;
    /// Puts the threads to sleep until the next run.
    fn rest(&mut self) {}
}

/// One thing to time.
pub struct Item<'a> {
    /// Its name: what, type, shape.
    pub name: String,
    /// What a run does, for rates.
    pub work: Throughput,
    /// The most that results may differ: Σ(a − b)²/Σb².
    pub differ: f64,
    /// Pumice.
    pub ours: Box<dyn FnOnce() -> Box<dyn Side> + 'a>,
    /// The ways in which the peer can do it; none without one.
    pub theirs: Box<dyn FnOnce() -> Vec<Box<dyn Side>> + 'a>,
}

/// All items of a run.
pub struct Bench {
    /// None where nothing is timed.
    criterion: Option<Criterion>,
    /// What it is made with.
    pub machine: Machine,
    /// Items that were run without being timed.
    run: usize,
    ratios: Vec<Ratio>,
}

/// How much faster Pumice is.
struct Ratio {
    item: String,
    peer: String,
    /// Seconds of a run, medians: ours and theirs.
    seconds: (f64, f64),
    /// Theirs by ours: first quartile, median, third quartile.
    quartiles: [f64; 3],
}

impl Bench {
    /// Nothing timed yet.
    pub fn new(machine: Machine, criterion: fn() -> Criterion) -> Self {
        Self { criterion: machine.timed.then(criterion), machine, run: 0, ratios: Vec::new() }
    }

    /// Times `item`, unless the command line's filter leaves it out; or runs it once, where nothing is timed.
    pub fn item(&mut self, item: Item<'_>) {
        let Item { name, work, differ, ours, theirs } = item;
        let Some(criterion) = &mut self.criterion else {
            Duel::new(&name, ours(), theirs(), differ).take_turns(1);
            self.run += 1;
            return;
        };
        let mut makers = Some((ours, theirs));
        let mut duel: Option<Duel> = None;
        let (group, id) = name.split_once('/').unwrap_or((&name, "all"));
        let mut group = criterion.benchmark_group(group);
        group.throughput(work).sampling_mode(SamplingMode::Flat).bench_function(id, |b| {
            if let Some((ours, theirs)) = makers.take() {
                duel = Some(Duel::new(&name, ours(), theirs(), differ));
            }
            let duel = duel.as_mut().expect("made just now");
            b.iter_custom(|iterations| duel.take_turns(iterations));
        });
        group.finish();
        if let Some(duel) = duel {
            self.note(duel.ratios(&name));
        }
    }

    /// Times `item`, whose runs take seconds, in `pairs` of turns and without criterion, which wants ten.
    #[cfg(feature = "peer")]
    pub fn long_item(&mut self, item: Item<'_>, pairs: usize) {
        let mut duel = Duel::new(&item.name, (item.ours)(), (item.theirs)(), item.differ);
        (0..pairs).for_each(|_| _ = duel.take_turns(1));
        println!("{}", item.name);
        self.note(duel.ratios(&item.name));
    }

    /// Tells ratios, and keeps them for the end.
    fn note(&mut self, ratios: Vec<Ratio>) {
        ratios.iter().for_each(|ratio| println!("{}", ratio.line()));
        self.ratios.extend(ratios);
    }

    /// Ends the run with a table of the ratios.
    pub fn finish(self) {
        match &self.criterion {
            Some(criterion) => criterion.final_summary(),
            None => println!("{} items ran; cargo bench times them", self.run),
        }
        if self.ratios.is_empty() {
            return;
        }
        println!("\nmedians of a run, and how many times faster Pumice is (quartiles of pairs of turns)");
        println!("| item | peer | peer's time | Pumice's time | ratio |\n|---|---|---|---|---|");
        for ratio in &self.ratios {
            let Ratio { item, peer, seconds: (ours, theirs), quartiles: [low, middle, high] } = ratio;
            println!(
                "| {item} | {peer} | {} | {} | {middle:.2} ({low:.2}–{high:.2}) |",
                time(*theirs),
                time(*ours)
            );
        }
    }
}

/// Pumice, and perhaps peers, at one item.
struct Duel {
    ours: Box<dyn Side>,
    theirs: Vec<Peer>,
}

/// A peer, and what a run took in each pair of turns.
struct Peer {
    side: Box<dyn Side>,
    /// Seconds: ours, theirs.
    pairs: Vec<(f64, f64)>,
}

impl Duel {
    /// All sides have run once, with the same result.
    fn new(name: &str, mut ours: Box<dyn Side>, theirs: Vec<Box<dyn Side>>, differ: f64) -> Self {
        ours.run();
        let ours_gave = ours.result();
        let sum: f32 = ours_gave.iter().map(|x| x.abs()).sum();
        assert!(sum.is_finite() && sum > 0.0, "{name}: {} gave nothing: Σ|x| is {sum}", ours.name());
        ours.rest();
        let checked = theirs.into_iter().map(|mut side| {
            side.run();
            let error = difference(&ours_gave, &side.result());
            side.rest();
            assert!(
                error <= differ,
                "{name}: {} and {} differ by {error:.1e} (Σ(a − b)²/Σb², at most {differ:.1e}), so their times cannot be compared",
                ours.name(),
                side.name()
            );
            Peer { side, pairs: Vec::new() }
        });
        let theirs = checked.collect();
        Self { ours, theirs }
    }

    /// The time that `iterations` runs of ours take; between them each peer has as much time, or a run's.
    fn take_turns(&mut self, iterations: u64) -> Duration {
        let (mut left, mut total) = (iterations, Duration::ZERO);
        // Learned by the first turn of one run.
        let mut calls = 1;
        while left > 0 {
            calls = calls.min(left);
            let ours = turn(&mut *self.ours, calls);
            self.ours.rest();
            total += ours;
            left -= calls;
            let each = ours.as_secs_f64() / calls as f64;
            for Peer { side, pairs } in &mut self.theirs {
                let last = pairs.last().map_or(each, |pair| pair.1);
                let same = (ours.as_secs_f64() / last.max(1e-9)).round().max(1.0) as u64;
                let theirs = turn(&mut **side, same);
                side.rest();
                pairs.push((each, theirs.as_secs_f64() / same as f64));
            }
            calls = (TURN.as_secs_f64() / each.max(1e-9)).ceil() as u64;
        }
        total
    }

    /// What the pairs say of each peer.
    fn ratios(&self, item: &str) -> Vec<Ratio> {
        let median = |values: Vec<f64>| values[values.len() / 2];
        let timed = self.theirs.iter().filter(|peer| !peer.pairs.is_empty());
        let ratio = |Peer { side, pairs }: &Peer| {
            let ratios = sorted(pairs.iter().map(|(ours, theirs)| theirs / ours));
            Ratio {
                item: item.to_owned(),
                peer: side.name(),
                seconds: (
                    median(sorted(pairs.iter().map(|pair| pair.0))),
                    median(sorted(pairs.iter().map(|pair| pair.1))),
                ),
                quartiles: [1, 2, 3].map(|quarter| ratios[(ratios.len() - 1) * quarter / 4]),
            }
        };
        timed.map(ratio).collect()
    }
}

impl Ratio {
    fn line(&self) -> String {
        let Self { peer, seconds: (ours, theirs), quartiles: [low, middle, high], .. } = self;
        format!("    {peer} {} / Pumice {} = {middle:.2} ({low:.2}–{high:.2})", time(*theirs), time(*ours))
    }
}

/// The time of `calls` runs. Where a run is short one more goes before, to wake the threads.
fn turn(side: &mut dyn Side, calls: u64) -> Duration {
    if calls > 1 {
        side.run();
    }
    let start = Instant::now();
    (0..calls).for_each(|_| side.run());
    start.elapsed()
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Σ(a − b)²/Σb²; infinite where they differ in number or are no numbers.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let all: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    let error = off / all;
    if a.len() == b.len() && error.is_finite() { error } else { f64::INFINITY }
}

/// Seconds in a unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}
