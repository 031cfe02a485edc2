//! The loop over steps: takes batches, lets the engine learn, watches the loss, saves, and tells an observer.
//!
//! It prints nothing and knows no file but the checkpoints' folder. A step whose loss or gradient is no number, or whose loss jumps, is never applied:
//! the run stops there with the step and the rows named, and the last checkpoint stays good.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tch::Device;

use super::{Engine, Measured, Stack, memory::or_full, pass::list, schedule::Schedule};
use crate::{Error, Result, shim};

/// When a loss counts as exploded: above `factor` × the running mean + `slack`, after `after` steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watch {
    /// Multiple of the running mean.
    pub factor: f64,
    /// Nats on top, so that a small mean does not make a common bad batch an alarm.
    pub slack: f64,
    /// Steps in which only NaN and infinity stop the run.
    pub after: u64,
}

impl Default for Watch {
    /// 3 × mean + 5 nats: no sound batch came near it; a diverged run passes it at once (an even guess over 32000 words is 10.4 nats).
    fn default() -> Self {
        Self { factor: 3.0, slack: 5.0, after: 20 }
    }
}

/// Share of the old mean in the running mean: it spans about 50 steps.
const MEMORY: f64 = 0.98;

/// What a run does besides learning.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rates, and with them the number of steps.
    pub schedule: Schedule,
    /// Steps between checkpoints; 0 saves at the end only.
    pub save_every: u64,
    /// Newest checkpoints to keep; 0 keeps all.
    pub keep: usize,
    /// Where checkpoints go; `None` saves none.
    pub folder: Option<PathBuf>,
    /// When to stop a run that went wrong.
    pub watch: Watch,
    /// What the run was asked for, kept in each checkpoint (`settings` of what [`newest`](super::state::newest) gives).
    pub settings: Value,
}

/// Where batches come from.
pub trait Source {
    /// What it gives.
    type Batch;
    /// This rank's next micro-batch; `None` at the end of the data. All ranks end together.
    fn next(&mut self) -> Result<Option<Self::Batch>>;
    /// Where it stands after the batch that [`next`](Self::next) gave last: enough to go on from there.
    fn position(&self) -> Value;
}

/// What a step did.
#[derive(Debug)]
pub struct Report<'a> {
    /// Steps done, this one too.
    pub step: u64,
    /// Steps of the run.
    pub total: u64,
    /// Mean loss over micro-batches and ranks, nats.
    pub loss: f64,
    /// Learning rate of this step.
    pub rate: f64,
    /// Norm of the gradient before clipping.
    pub norm: f64,
    /// Positions that this rank computed.
    pub tokens: usize,
    /// Time since the last step's end, loading of data included.
    pub time: Duration,
    /// Of which waiting for batches.
    pub waited: Duration,
    /// Most bytes allocated on this rank's device so far, where it tells.
    pub memory: Option<u64>,
    /// This rank's rows.
    pub rows: &'a [String],
}

/// Someone who looks on.
pub trait Observer {
    /// A step was done.
    fn step(&mut self, report: &Report);
    /// A checkpoint was written.
    fn saved(&mut self, _step: u64, _path: &Path) {}
    /// A checkpoint could not be written; training goes on and the last good one stays.
    fn save_failed(&mut self, _step: u64, _error: &Error) {}
    /// Asked after each step: whether to save and end here.
    fn stop(&mut self) -> bool {
        false
    }
}

/// An engine with its plan.
pub struct Trainer<S: Stack> {
    /// The model in training.
    pub engine: Engine<S>,
    plan: Plan,
    mean: Option<f64>,
}

impl<S: Stack> Trainer<S> {
    /// A run from the engine's present step.
    pub fn new(engine: Engine<S>, plan: Plan) -> Self {
        Self { engine, plan, mean: None }
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        self.plan.schedule.total
    }

    /// Goes back to the newest checkpoint in the plan's folder; gives the data's position there, or `None` where the run is new.
    pub fn resume(&mut self) -> Result<Option<Value>> {
        let Some(folder) = &self.plan.folder else { return Ok(None) };
        let Some(mut state) = self.engine.resume(folder)? else { return Ok(None) };
        self.mean = state["mean"].as_f64();
        Ok(Some(state["data"].take()))
    }

    /// Steps until the schedule, the data or the observer ends; gives the steps done.
    ///
    /// # Errors
    /// [`Error::Diverged`] where a loss is no number or exploded, [`Error::Memory`], and what data and ranks say. A checkpoint that cannot be
    /// written is no error here.
    pub fn run(
        &mut self,
        source: &mut dyn Source<Batch = S::Batch>,
        observer: &mut dyn Observer,
    ) -> Result<u64> {
        let total = self.plan.schedule.total;
        // What a run resumes from is on the disk already.
        let mut saved = self.engine.steps();
        while self.engine.steps() < total {
            let start = Instant::now();
            let Some(taken) = self.accumulate(source)? else { break };
            let measured = self.engine.measure()?;
            self.judge(&measured, &taken.rows)?;
            let rate = self.plan.schedule.rate(self.engine.steps());
            self.engine.apply(rate, measured.norm)?;
            let step = self.engine.steps();
            observer.step(&Report {
                step,
                total,
                loss: measured.loss,
                rate,
                norm: measured.norm,
                tokens: taken.tokens,
                time: start.elapsed(),
                waited: taken.waited,
                memory: self.memory(),
                rows: &taken.names,
            });
            let stop = self.any(observer.stop())?;
            if stop
                || step == total
                || (self.plan.save_every > 0 && step.is_multiple_of(self.plan.save_every))
            {
                self.save(source, observer);
                saved = step;
            }
            if stop {
                break;
            }
        }
        if self.engine.steps() > saved {
            self.save(source, observer);
        }
        Ok(self.engine.steps())
    }

    /// One step's micro-batches; `None` where the data ends before they are complete.
    fn accumulate(&mut self, source: &mut dyn Source<Batch = S::Batch>) -> Result<Option<Taken>> {
        let mut taken = Taken::default();
        for _ in 0..self.engine.options().accumulate {
            let start = Instant::now();
            let Some(batch) = source.next()? else { return Ok(None) };
            taken.waited += start.elapsed();
            let stack = self.engine.stack();
            let (names, tokens) = (stack.rows(&batch).to_vec(), stack.tokens(&batch));
            let full = Error::Memory { rows: names.len(), tokens };
            or_full(full, || self.engine.micro(&batch))?;
            taken.tokens += tokens;
            taken.names.extend_from_slice(&names);
            taken.rows.push(names);
        }
        Ok(Some(taken))
    }

    /// Stops a step that would harm the weights.
    fn judge(&mut self, measured: &Measured, rows: &[Vec<String>]) -> Result<()> {
        let Watch { factor, slack, after } = self.plan.watch;
        let step = self.engine.steps();
        let limit = self.mean.filter(|_| step >= after).map(|mean| factor * mean + slack);
        let exploded = limit.is_some_and(|limit| measured.loss > limit);
        if exploded || !measured.loss.is_finite() || !measured.norm.is_finite() {
            return Err(Error::Diverged {
                step: step + 1,
                loss: measured.loss,
                norm: measured.norm,
                limit: limit.unwrap_or(f64::INFINITY),
                rows: suspects(measured, rows),
            });
        }
        self.mean =
            Some(self.mean.map_or(measured.loss, |mean| MEMORY * mean + (1.0 - MEMORY) * measured.loss));
        Ok(())
    }

    /// Most bytes that this rank's accelerator ever held; the CPU does not tell.
    fn memory(&self) -> Option<u64> {
        match self.engine.place().1 {
            Device::Cpu => None,
            Device::Cuda(gpu) => shim::peak_memory(gpu),
            _ => shim::peak_memory(0),
        }
    }

    /// Whether any rank says so.
    fn any(&self, own: bool) -> Result<bool> {
        let mut votes = [f64::from(u8::from(own))];
        self.engine.ranks().sum(&mut votes)?;
        Ok(votes[0] > 0.0)
    }

    fn save(&self, source: &dyn Source<Batch = S::Batch>, observer: &mut dyn Observer) {
        let Some(folder) = &self.plan.folder else { return };
        let state = json!({"mean": self.mean, "data": source.position(), "settings": self.plan.settings});
        match self.engine.save(folder, self.plan.keep, &state) {
            Ok(path) => observer.saved(self.engine.steps(), &path),
            Err(error) => observer.save_failed(self.engine.steps(), &error),
        }
    }
}

/// One step's batches, as far as reports need them.
#[derive(Default)]
struct Taken {
    /// Per micro-batch its rows.
    rows: Vec<Vec<String>>,
    /// All rows.
    names: Vec<String>,
    tokens: usize,
    waited: Duration,
}

/// The rows to look at after a step that was refused: this rank's worst micro-batch, unless the not-a-number came from another rank.
fn suspects(measured: &Measured, rows: &[Vec<String>]) -> String {
    if !measured.loss.is_finite() && measured.micro.iter().all(|loss| loss.is_finite()) {
        return "none of this rank's, another rank names them".into();
    }
    let badness = |i: &usize| if measured.micro[*i].is_nan() { f64::INFINITY } else { measured.micro[*i] };
    let worst = (0..measured.micro.len()).max_by(|a, b| badness(a).total_cmp(&badness(b)));
    list(worst.map_or(&[], |i| rows[i].as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_with_the_bad_batch_names_it() {
        let rows = ["a", "b", "c"].map(|name| vec![name.to_owned()]);
        let said = |loss, micro: [f64; 3]| {
            suspects(&Measured { loss, micro: micro.to_vec(), norm: f64::NAN }, &rows)
        };
        assert_eq!(said(f64::NAN, [1.0, f64::NAN, 9.0]), "b");
        assert_eq!(said(90.0, [1.0, 2.0, 300.0]), "c");
        assert!(said(f64::NAN, [1.0, 2.0, 3.0]).contains("another rank"));
    }
}
