//! 50 steps beside transformers and torch.optim.AdamW: same weights, same data order.

use pumice_train::engine::{ranks::Alone, schedule::Schedule};

use crate::small::{BATCHES, Stage, batch, engine, options};

fn hold(stage: Stage, key: &str, checkpoint: bool) {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/loss_curve.json")).unwrap();
    let golden = &golden[key];
    let options = pumice_train::engine::Options { checkpoint, ..options() };
    let mut engine = engine(stage, false, Box::new(Alone), options);
    let schedule = Schedule::cosine(2e-3, 0.03, 50);
    for step in 0..50 {
        for micro in 0..2 {
            engine.micro(&batch((step * 2 + micro) % BATCHES)).unwrap();
        }
        let measured = engine.measure().unwrap();
        let rate = schedule.rate(step as u64);
        engine.apply(rate, measured.norm).unwrap();
        let want = |what: &str| golden[what][step].as_f64().unwrap();
        assert!((rate / 2e-3 - want("rate")).abs() < 1e-12, "step {step}: rate {rate}");
        assert!(
            (measured.loss - want("loss")).abs() < 1e-4,
            "{key} step {step}: {} against {}",
            measured.loss,
            want("loss")
        );
        assert!(
            (measured.norm / want("norm") - 1.0).abs() < 1e-2,
            "{key} step {step}: norm {} against {}",
            measured.norm,
            want("norm")
        );
    }
}

#[test]
fn tuning_follows_transformers_for_50_steps() {
    hold(Stage::Tune, "tune", false);
    hold(Stage::Tune, "tune", true);
}

#[test]
fn aligning_follows_transformers_for_50_steps() {
    hold(Stage::Align, "align", false);
    hold(Stage::Align, "align", true);
}
