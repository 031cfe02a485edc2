//! A run in progress: the settings that are measured, the samples so far, and the watch that takes them.
//!
//! Repeats go round all tests and settings instead of finishing one before the next: what else the machine does meanwhile
//! (heat, other programs) then falls on all of them, and ratios within a run are fair. Whoever stops a run gets what was
//! whole by then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use pumice_kernels::{
    Backend, Timed,
    count::{Op, Work},
};

use super::{
    energy::Meter,
    machine,
    record::{OpTime, Record},
    setting::{OnGpu, Setting},
    stats::{deviation, mean, median},
    test::Test,
};
use crate::terminal;

/// One measured run of a test.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Its time.
    pub time: Duration,
    /// Its energy, where there is a meter.
    pub joules: Option<f64>,
}

/// A test with one setting: its samples and what is known of them.
struct Series {
    test: Test,
    setting: usize,
    begun: String,
    samples: Vec<Sample>,
    /// Prompt positions that a sample computed, and those in the cache before them, where the test does not say it itself.
    prompt: Option<(usize, usize)>,
    /// Bytes of memory at most, and how many they may be.
    peak: Option<(u64, u64)>,
    work: Option<Work>,
    ops: Vec<OpTime>,
}

/// A run in progress.
pub struct Session {
    /// What is compared.
    pub settings: Vec<Setting>,
    /// Samples of each test.
    pub repeats: usize,
    stopped: Arc<AtomicBool>,
    meter: Option<Meter>,
    bar: ProgressBar,
    series: Vec<Series>,
}

/// A sample being taken.
pub struct Watch {
    start: Instant,
    joules: Option<f64>,
}

impl Session {
    /// A run that has measured nothing yet.
    pub fn new(
        settings: Vec<Setting>,
        repeats: usize,
        stopped: Arc<AtomicBool>,
        meter: Option<Meter>,
    ) -> Self {
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style);
        Self { settings, repeats, stopped, meter, bar, series: Vec::new() }
    }

    /// Announces samples to come, for the bar.
    pub fn expect(&self, samples: usize) {
        self.bar.inc_length(samples as u64);
    }

    /// The flag that Ctrl-C sets.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }

    /// Whether somebody stopped it.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The order in which a repeat goes through the settings: there and back, so that none is always the one behind another.
    pub fn order(&self, repeat: usize) -> Vec<usize> {
        let forth = 0..self.settings.len();
        if repeat.is_multiple_of(2) { forth.collect() } else { forth.rev().collect() }
    }

    /// Says what is being done.
    pub fn say(&self, what: &str, setting: usize) {
        self.bar.set_message(format!("{what}, {}", self.settings[setting]));
    }

    /// A note that leaves the progress line whole.
    pub fn note(&self, text: &str) {
        self.aside(|| terminal::note(text));
    }

    /// Does what may write to the terminal, the progress line out of the way.
    pub fn aside(&self, f: impl FnOnce()) {
        self.bar.suspend(f);
    }

    /// Begins a sample.
    pub fn watch(&mut self) -> Watch {
        let joules = self.meter.as_mut().and_then(Meter::joules);
        Watch { start: Instant::now(), joules }
    }

    /// Ends a sample.
    pub fn end(&mut self, watch: &Watch) -> Sample {
        let time = watch.start.elapsed();
        let now = self.meter.as_mut().and_then(Meter::joules);
        Sample { time, joules: now.zip(watch.joules).map(|(now, before)| now - before) }
    }

    /// Keeps a sample, unless the run was stopped while it was taken.
    pub fn add(&mut self, test: Test, setting: usize, sample: Sample) {
        if !self.is_stopped() {
            self.series(test, setting).samples.push(sample);
            self.bar.inc(1);
        }
    }

    /// Forgets what was measured of `test`.
    pub fn forget(&mut self, test: Test) {
        self.series.retain(|series| series.test != test);
    }

    /// Notes how many prompt positions a sample of `test` computes, and after how many others.
    pub fn prompt(&mut self, test: Test, setting: usize, positions: usize, depth: usize) {
        if !self.is_stopped() {
            self.series(test, setting).prompt = Some((positions, depth));
        }
    }

    /// Notes a peak of memory, and what it may be.
    pub fn peak(&mut self, setting: usize, bytes: u64, allowed: u64) {
        if !self.is_stopped() {
            let peak = &mut self.series(Test::Memory, setting).peak;
            *peak = (*peak).max(Some((bytes, allowed)));
        }
    }

    /// Notes the work of a sample, as `backend` counted it.
    pub fn work(&mut self, test: Test, setting: usize, work: Work) {
        if !self.is_stopped() {
            self.series(test, setting).work = Some(work);
        }
    }

    /// Notes where the time of a sample goes, as `backend` timed it.
    pub fn ops(&mut self, test: Test, setting: usize, backend: &Timed<Box<dyn Backend>>) {
        if !self.is_stopped() {
            self.series(test, setting).ops = op_times(backend);
        }
    }

    fn series(&mut self, test: Test, setting: usize) -> &mut Series {
        let found = self.series.iter().position(|s| s.test == test && s.setting == setting);
        let at = found.unwrap_or_else(|| {
            self.series.push(Series {
                test,
                setting,
                begun: machine::now(),
                samples: Vec::new(),
                prompt: None,
                peak: None,
                work: None,
                ops: Vec::new(),
            });
            self.series.len() - 1
        });
        &mut self.series[at]
    }

    /// All rows that have something to tell, `common` filled in with what is their own; in the order of the tests.
    pub fn finish(mut self, common: &Record) -> Vec<Record> {
        self.bar.finish_and_clear();
        self.series.sort_by_key(|s| (s.setting, s.test));
        let told = self.series.iter().filter(|s| !s.samples.is_empty() || s.peak.is_some());
        told.map(|s| s.record(common, &self.settings[s.setting])).collect()
    }
}

impl Series {
    fn record(&self, common: &Record, setting: &Setting) -> Record {
        let ns: Vec<f64> = self.samples.iter().map(|s| s.time.as_nanos() as f64).collect();
        let tokens = self.test.tokens();
        let rates: Vec<f64> = match tokens {
            Some(n) => ns.iter().map(|ns| n as f64 * 1e9 / ns.max(1.0)).collect(),
            None => Vec::new(),
        };
        let some = |value: f64| (!rates.is_empty()).then_some(value);
        let joules: Option<Vec<f64>> = self.samples.iter().map(|s| s.joules).collect();
        // The meter of a processor does not see a card.
        let seen = setting.gpu.as_ref().is_none_or(|gpu| gpu.adapter.is_unified());
        let joules = joules.filter(|j| !j.is_empty() && seen).map(|j| mean(&j));
        let sizes = self.test.sizes();
        let (n_prompt, n_depth) = self.prompt.unwrap_or((sizes.prompt, sizes.depth));
        let (peak_memory, memory_limit) = self.peak.unzip();
        let gpu = setting.gpu.as_ref();
        Record {
            backends: gpu.map_or("CPU", |gpu| gpu.adapter.interface()).into(),
            gpu_info: gpu.map_or("", |gpu| gpu.adapter.name()).into(),
            n_gpu_layers: gpu.map_or(0, OnGpu::layers),
            isa: setting.cpu.isa.to_string(),
            n_threads: setting.cpu.threads,
            test: self.test.to_string(),
            n_prompt,
            n_gen: sizes.generated,
            n_depth,
            n_image: sizes.images,
            test_time: self.begun.clone(),
            samples_ns: ns.iter().map(|ns| *ns as u64).collect(),
            avg_ns: mean(&ns) as u64,
            stddev_ns: deviation(&ns) as u64,
            median_ns: median(&ns) as u64,
            avg_ts: some(mean(&rates)),
            stddev_ts: some(deviation(&rates)),
            median_ts: some(median(&rates)),
            samples_ts: rates,
            peak_memory,
            memory_limit,
            joules,
            joules_per_token: joules.zip(tokens).map(|(joules, n)| joules / n as f64),
            flops: self.work.map(|w| w.flops),
            bytes: self.work.map(|w| w.bytes),
            ops: self.ops.clone(),
            ..common.clone()
        }
    }
}

/// The ops that were called, the slowest first.
fn op_times(backend: &Timed<Box<dyn Backend>>) -> Vec<OpTime> {
    let mut ops: Vec<_> = Op::ALL
        .map(|op| {
            let (time, work) = backend.of(op);
            OpTime {
                op: op.name().into(),
                calls: work.calls,
                ns: time.as_nanos() as u64,
                flops: work.flops,
                bytes: work.bytes,
            }
        })
        .into();
    // A device that measures by itself tells nothing of what is moved to and from it.
    ops.retain(|op| op.ns > 0);
    ops.sort_by_key(|op| std::cmp::Reverse(op.ns));
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::setting::OnCpu;
    use pumice_kernels::Isa;

    fn session(repeats: usize) -> Session {
        let settings = [1, 2].map(|threads| Setting { cpu: OnCpu { isa: Isa::Scalar, threads }, gpu: None });
        Session::new(settings.into(), repeats, Arc::default(), None)
    }

    fn sample(ms: u64, joules: Option<f64>) -> Sample {
        Sample { time: Duration::from_millis(ms), joules }
    }

    #[test]
    fn samples_become_rows_in_the_order_of_the_tests() {
        let mut s = session(2);
        let (pp, tg) = (Test::Prompt { n: 100, depth: 0 }, Test::Generation { n: 4, depth: 600 });
        s.add(tg, 1, sample(500, Some(6.0)));
        s.add(tg, 1, sample(1000, Some(10.0)));
        s.add(pp, 1, sample(2000, None));
        s.peak(0, 7, 10);
        s.peak(0, 5, 10);
        s.work(pp, 0, Work::default());
        s.prompt(Test::Photo { n: 1 }, 1, 620, 0);
        s.add(Test::Photo { n: 1 }, 1, sample(30, None));
        s.prompt(Test::Second, 1, 20, 630);
        s.add(Test::Second, 1, sample(3, None));
        let rows = s.finish(&Record { cpu_info: "x".into(), ..Record::default() });
        let names: Vec<_> = rows.iter().map(|r| (r.n_threads, r.test.as_str())).collect();
        assert_eq!(
            names,
            [(1, "memory"), (2, "photo"), (2, "second question"), (2, "pp100"), (2, "tg4 @ d600")],
            "no row without a sample"
        );
        assert_eq!((rows[0].peak_memory, rows[0].samples_ns.len(), rows[0].speed()), (Some(7), 0, None));
        assert_eq!(rows[0].memory_limit, Some(10));
        assert_eq!((rows[1].n_prompt, rows[1].n_image, rows[1].avg_ts), (620, 1, None));
        assert_eq!((rows[2].n_prompt, rows[2].n_depth), (20, 630), "what the cache holds already");
        assert_eq!((rows[3].avg_ts, rows[3].joules, rows[3].n_prompt), (Some(50.0), None, 100));
        let tg = &rows[4];
        // 8 and 4 tokens per second; the mean of rates is not the rate of the mean.
        assert_eq!(
            (tg.samples_ts.as_slice(), tg.avg_ts, tg.avg_ns),
            ([8.0, 4.0].as_slice(), Some(6.0), 750_000_000)
        );
        assert_eq!((tg.joules, tg.joules_per_token, tg.n_depth, tg.n_gen), (Some(8.0), Some(2.0), 600, 4));
        assert_eq!(tg.cpu_info, "x");
    }

    #[test]
    fn what_was_stopped_halfway_does_not_count() {
        let mut s = session(1);
        let pp = Test::Prompt { n: 1, depth: 0 };
        s.add(pp, 0, sample(1, None));
        s.flag().store(true, Ordering::SeqCst);
        s.add(pp, 0, sample(9, None));
        s.peak(1, 9, 9);
        assert!(s.is_stopped());
        let rows = s.finish(&Record::default());
        assert_eq!((rows.len(), rows[0].samples_ns.as_slice()), (1, [1_000_000].as_slice()));
    }

    #[test]
    fn settings_take_turns() {
        let s = session(3);
        assert_eq!([s.order(0), s.order(1), s.order(2)], [[0, 1], [1, 0], [0, 1]]);
    }
}
