//! Event files against TensorBoard's own bytes; logs through a kill and a resume; the line that a person reads.

use std::{cell::RefCell, io::Write, path::Path, rc::Rc};

use super::*;

fn report(step: u64) -> StepReport {
    StepReport {
        step,
        of: 10,
        loss: 1.25,
        lr: 2e-5,
        grad_norm: Some(0.5),
        tokens: 3000,
        seconds: 1.5,
        memory: 2_500_000_000,
        flops: 6e12,
        skipped_rows: 0,
    }
}

#[test]
fn events_are_tensorboards_bytes() {
    // RFC 3720, B.4, and the check value of the CRC catalogue.
    assert_eq!(tensorboard::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(tensorboard::crc32c(b"123456789"), 0xe306_9283);
    let ours = [
        tensorboard::record(&tensorboard::version(1_700_000_000.5)),
        tensorboard::record(&tensorboard::scalars(
            1_700_000_001.25,
            300,
            &[("train/loss", 1.25), ("train/lr", 2e-5)],
        )),
    ]
    .concat();
    assert_eq!(ours, include_bytes!("../../tests/golden/events.bin"));
}

#[test]
fn an_event_file_grows_by_one_record_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), Some(8e12)).unwrap();
    board.step(&report(1)).unwrap();
    board.step(&report(2)).unwrap();
    let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
    let data = std::fs::read(path).unwrap();
    let mut rest = data.as_slice();
    let mut records = 0;
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        rest = &rest[length + 16..];
        records += 1;
    }
    assert_eq!(records, 3);
}

#[test]
fn a_resumed_log_has_each_step_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    let write = |first: u64, steps: std::ops::RangeInclusive<u64>| {
        let mut log = Jsonl::open(&path, first, Some(8e12)).unwrap();
        steps.for_each(|step| log.step(&report(step)).unwrap());
    };
    write(1, 1..=5);
    // A kill in the middle of a line, four steps after the last checkpoint.
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"step\": 2, \"lo");
    std::fs::write(&path, text).unwrap();
    write(4, 4..=6);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        (&lines[0]["loss"], &lines[0]["tokens_per_second"], &lines[0]["mfu"]),
        (&1.25.into(), &2000.0.into(), &0.5.into())
    );
    assert!(
        Jsonl::open(Path::new("/nowhere/log.jsonl"), 1, None)
            .is_err_and(|e| e.to_string().contains("/nowhere"))
    );
}

/// Bytes that a test can still read after the writer is given away.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_tell_what_a_person_asks() {
    let out = Shared::default();
    let mut progress = Progress::lines(Box::new(out.clone()), Some(8e12));
    for step in 1..=9 {
        progress.step(&report(step)).unwrap();
    }
    progress.note("saved step 9");
    progress.step(&StepReport { grad_norm: None, skipped_rows: 2, ..report(10) }).unwrap();
    let text = String::from_utf8(out.0.borrow().clone()).unwrap();
    assert_eq!(
        text,
        "step 1/10 · loss 1.2500 · lr 2.0e-5 · 2000 tok/s · |g| 0.50 · MFU 50 % · 2.5 GB · 14 s left\n\
         saved step 9\n\
         step 10/10 · loss 1.2500 · lr 2.0e-5 · 2000 tok/s · MFU 50 % · 2.5 GB · 2 rows skipped · 0 s left\n"
    );
    assert_eq!(progress::span(200.0), "3 min 20 s");
    assert_eq!(progress::span(7500.0), "2 h 05 min");
    assert_eq!(progress::span(277_200.0), "3 d 5 h");
}

#[test]
fn all_observers_are_told_and_the_first_failure_is_kept() {
    struct Fails;
    impl Observer for Fails {
        fn step(&mut self, _: &StepReport) -> Result<()> {
            Err(crate::Error::Data("disk full".into()))
        }
        fn note(&mut self, _: &str) {}
    }
    let out = Shared::default();
    let lines = Progress::lines(Box::new(out.clone()), None);
    let mut all = Observers(vec![Box::new(Fails), Box::new(lines)]);
    assert_eq!(all.step(&report(1)).unwrap_err().to_string(), "disk full");
    all.note("on");
    assert_eq!(String::from_utf8(out.0.borrow().clone()).unwrap().lines().count(), 2);
}
