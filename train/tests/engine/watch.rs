//! A loss that is no number or explodes stops the run before it harms the weights; rates of the schedules.

use pumice_train::{
    Result,
    data::Batch,
    engine::{
        Options,
        ranks::Alone,
        schedule::{Schedule, Shape},
        trainer::{Plan, Source, Trainer, Watch},
    },
};
use serde_json::Value;

use crate::{
    resume::{Counted, Notes},
    small::{self, Stage, engine, options, weights},
};

/// Spoilt from micro-batch `from` on: the small batches with a pixel that is no number, or one batch over and over whose labels then change.
struct Spoilt {
    inner: Counted,
    from: usize,
    pixel: bool,
}

impl Source for Spoilt {
    type Batch = Batch;
    fn next(&mut self) -> Result<Option<Batch>> {
        let batch = self.inner.next()?;
        let spoilt = self.inner.0 > self.from;
        Ok(batch.map(|mut batch| {
            if !self.pixel {
                batch = Batch { rows: batch.rows, ..small::batch(0) };
            }
            if spoilt
                && self.pixel
                && let Some(pixel) = batch.images.last_mut()
            {
                *pixel = f32::NAN;
            }
            if spoilt && !self.pixel {
                batch.labels.iter_mut().filter(|l| **l >= 0).for_each(|l| *l = 95);
            }
            batch
        }))
    }
    fn position(&self) -> Value {
        self.inner.position()
    }
}

fn plan(watch: Watch) -> Plan {
    let schedule = Schedule { peak: 5e-3, warmup: 0, total: 10, shape: Shape::Constant };
    Plan { schedule, save_every: 0, keep: 0, folder: None, watch, settings: Value::Null }
}

#[test]
fn a_loss_that_is_no_number_stops_with_step_and_rows() {
    for checkpoint in [false, true] {
        let options = Options { checkpoint, ..options() };
        let engine = engine(Stage::Tune, false, Box::new(Alone), options);
        let mut trainer = Trainer::new(engine, plan(Watch::default()));
        let mut source = Spoilt { inner: Counted(0), from: 5, pixel: true };
        let said = trainer.run(&mut source, &mut Notes::default()).unwrap_err().to_string();
        assert!(said.starts_with("step 3: the loss is NaN"), "{said}");
        assert!(said.contains("rows: row 5 0, row 5 1, row 5 2."), "{said}");
        assert_eq!(trainer.engine.steps(), 2);
        assert!(weights(&trainer.engine).iter().all(|w| w.is_finite()));
    }
}

#[test]
fn an_exploding_loss_stops_after_the_warm_up_only() {
    // Six steps on one batch leave no chance to a word that never followed.
    let run = |after| {
        let engine = engine(Stage::Tune, false, Box::new(Alone), options());
        let watch = Watch { factor: 1.0, slack: 0.5, after };
        let mut trainer = Trainer::new(engine, plan(watch));
        let mut source = Spoilt { inner: Counted(0), from: 12, pixel: false };
        trainer.run(&mut source, &mut Notes::default()).map_err(|e| e.to_string())
    };
    let said = run(4).unwrap_err();
    assert!(
        said.starts_with("step 7: the loss is") && (said.contains("row 12 0") || said.contains("row 13 0")),
        "{said}"
    );
    assert_eq!(run(100), Ok(10));
}

#[test]
fn schedules_warm_up_hold_and_fall_to_their_floor() {
    let constant = Schedule { peak: 2.0, warmup: 4, total: 8, shape: Shape::Constant };
    assert_eq!([0, 1, 4, 7].map(|i| constant.rate(i)), [0.0, 0.5, 2.0, 2.0]);
    // ceil(0.03 · 101) = 4.
    let cosine = Schedule::cosine(1.0, 0.03, 101);
    assert_eq!((cosine.warmup, cosine.rate(4)), (4, 1.0));
    let floor = Schedule { peak: 1.0, warmup: 0, total: 8, shape: Shape::Cosine { floor: 0.1 } };
    assert!((floor.rate(4) - 0.55).abs() < 1e-12);
    assert!((floor.rate(8) - 0.1).abs() < 1e-12 && floor.rate(99) == floor.rate(8));
}
