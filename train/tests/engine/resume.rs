//! Kills, full disks and broken files: a run goes on as if nothing had been, or says why not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use pumice_train::{
    Error, Result,
    data::Batch,
    engine::{
        Options,
        ranks::Alone,
        schedule::Schedule,
        state::checkpoints,
        trainer::{Observer, Plan, Report, Source, Trainer, Watch},
    },
    model::Llava,
};
use serde_json::{Value, json};

use crate::small::{Stage, batch, engine, options, weights};

/// The small batches in order.
pub struct Counted(pub usize);

impl Source for Counted {
    type Batch = Batch;
    fn next(&mut self) -> Result<Option<Batch>> {
        self.0 += 1;
        Ok(Some(batch(self.0 - 1)))
    }
    fn position(&self) -> Value {
        json!({"batch": self.0})
    }
}

/// Writes down what it is told.
#[derive(Default)]
pub struct Notes {
    pub losses: Vec<f64>,
    pub saved: Vec<PathBuf>,
    pub failures: Vec<String>,
    pub stop_at: Option<u64>,
}

impl Observer for Notes {
    fn step(&mut self, report: &Report) {
        assert_eq!(report.rows.len(), 6);
        self.losses.push(report.loss);
    }
    fn saved(&mut self, _: u64, path: &Path) {
        self.saved.push(path.into());
    }
    fn save_failed(&mut self, _: u64, error: &Error) {
        self.failures.push(error.to_string());
    }
    fn stop(&mut self) -> bool {
        self.stop_at.is_some_and(|at| self.losses.len() as u64 >= at)
    }
}

const STEPS: u64 = 16;

pub fn trainer(folder: Option<&Path>, save_every: u64, options: Options) -> Trainer<Llava> {
    let engine = engine(Stage::Tune, false, Box::new(Alone), options);
    let schedule = Schedule::cosine(2e-3, 0.1, STEPS);
    let folder = folder.map(Path::to_path_buf);
    Trainer::new(
        engine,
        Plan { schedule, save_every, keep: 2, folder, watch: Watch::default(), settings: Value::Null },
    )
}

/// Resumes if there is something, and runs.
fn go_on(trainer: &mut Trainer<Llava>, notes: &mut Notes) {
    let position = trainer.resume().unwrap();
    let mut source = Counted(position.map_or(0, |p| p["batch"].as_u64().unwrap() as usize));
    trainer.run(&mut source, notes).unwrap();
}

/// Losses and last weights of a run that nothing disturbs.
fn undisturbed(options: Options) -> (Vec<f64>, Vec<f32>) {
    let (mut trainer, mut notes) = (trainer(None, 0, options), Notes::default());
    go_on(&mut trainer, &mut notes);
    (notes.losses, weights(&trainer.engine))
}

#[test]
fn a_stopped_run_continues_bit_for_bit() {
    for kind in [tch::Kind::Float, tch::Kind::BFloat16] {
        let options = Options { kind, ..options() };
        let (losses, last) = undisturbed(options);
        let folder = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        for stop_at in [Some(5), Some(1), None] {
            let mut notes = Notes { stop_at, ..Notes::default() };
            let mut trainer = trainer(Some(folder.path()), 4, options);
            go_on(&mut trainer, &mut notes);
            all.extend(notes.losses);
            if stop_at.is_none() {
                assert_eq!(weights(&trainer.engine), last);
            }
        }
        assert_eq!(all, losses);
        let mut notes = Notes::default();
        go_on(&mut trainer(Some(folder.path()), 4, options), &mut notes);
        assert!(notes.saved.is_empty(), "a run that had ended writes nothing again");
        let kept: Vec<u64> = checkpoints(folder.path()).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(kept, [12, 16]);
    }
}

const CHILD: &str = "PUMICE_TEST_FOLDER";

/// Not a test by itself: what the tests below run in another process, in the folder that the environment names.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let mut notes = Notes::default();
    go_on(&mut trainer(Some(&folder), 1, options()), &mut notes);
    fs::write(folder.join("failures"), notes.failures.join("\n")).unwrap();
}

fn me(folder: &Path) -> Vec<(String, String)> {
    vec![(CHILD.into(), folder.display().to_string())]
}

#[test]
fn a_killed_run_loses_at_most_one_step_and_ends_at_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let newest = || checkpoints(folder.path()).unwrap().last().map_or(0, |(step, _)| *step);
    let exe = std::env::current_exe().unwrap();
    // Each child may do a step or two more; then it dies somewhere within a step or a save.
    for kill in 0..4u64 {
        let mut child = Command::new(&exe)
            .args(["--exact", "resume::child", "--test-threads", "1"])
            .envs(me(folder.path()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (before, start) = (newest(), Instant::now());
        while newest() <= before && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(3 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(newest() > before, "child {kill} made no step in a minute");
    }
    let reached = newest();
    let (losses, last) = undisturbed(options());
    let (mut trainer, mut notes) = (trainer(Some(folder.path()), 1, options()), Notes::default());
    go_on(&mut trainer, &mut notes);
    assert_eq!(notes.losses, losses[reached as usize..]);
    assert_eq!(weights(&trainer.engine), last);
}

#[cfg(unix)]
#[test]
fn a_full_disk_stops_no_run_and_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut notes = Notes { stop_at: Some(2), ..Notes::default() };
    go_on(&mut trainer(Some(folder.path()), 0, options()), &mut notes);
    assert_eq!(notes.saved.len(), 1);
    // No file above 64 KiB: as a disk that fills up in the middle of a shard.
    let exe = std::env::current_exe().unwrap();
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact resume::child --test-threads 1";
    let mut child = Command::new("sh");
    let done = child.args(["-c", script]).arg(&exe).envs(me(folder.path())).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let failures = fs::read_to_string(folder.path().join("failures")).unwrap();
    assert_eq!(failures.lines().count(), 14, "steps 3 to 16 each fail to save: {failures}");
    assert!(failures.contains("rank-00000.safetensors: File too large"), "{failures}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the good checkpoint and the list of failures: {left:?}");
    assert_eq!(checkpoints(folder.path()).unwrap().last().unwrap().0, 2);
}

#[test]
fn what_is_incomplete_or_broken_is_not_taken_for_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(trainer(Some(&path.join("none")), 1, options()).resume().unwrap().is_none());
    let mut notes = Notes { stop_at: Some(3), ..Notes::default() };
    go_on(&mut trainer(Some(path), 1, options()), &mut notes);
    // A save that was cut off, and a folder that someone made.
    fs::create_dir(path.join("step-00000009.partial")).unwrap();
    fs::create_dir(path.join("step-00000010")).unwrap();
    assert_eq!(checkpoints(path).unwrap().len(), 2);
    let newest = path.join("step-00000003");

    let mut other = Trainer::new(
        engine(Stage::Align, false, Box::new(Alone), options()),
        Plan {
            schedule: Schedule::cosine(1e-3, 0.0, 4),
            save_every: 0,
            keep: 0,
            folder: Some(path.into()),
            watch: Watch::default(),
            settings: Value::Null,
        },
    );
    let said = other.resume().unwrap_err().to_string();
    assert!(said.contains("state.json: of another model or stage"), "{said}");
    assert!(said.contains("it trains embed with 6208 weights, this run nothing more"), "{said}");

    let state = newest.join("state.json");
    let sound = fs::read(&state).unwrap();
    fs::write(&state, &sound[..sound.len() / 2]).unwrap();
    let said = trainer(Some(path), 1, options()).resume().unwrap_err().to_string();
    assert!(said.contains("not a training state") && said.contains("delete "), "{said}");
    fs::write(&state, sound).unwrap();

    let shard = newest.join("rank-00000.safetensors");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() - 8]).unwrap();
    let said = trainer(Some(path), 1, options()).resume().unwrap_err().to_string();
    assert!(said.contains("rank-00000.safetensors: cut short"), "{said}");
    assert!(
        said.contains("delete ") && said.contains("step-00000003, and the run then goes on from"),
        "{said}"
    );
    assert!(said.ends_with("step-00000002"), "{said}");
    fs::remove_file(&shard).unwrap();
    let said = trainer(Some(path), 1, options()).resume().unwrap_err().to_string();
    assert!(said.contains("rank-00000.safetensors"), "{said}");

    // The file is an ordinary safetensors file.
    fs::write(&shard, &whole).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    assert_eq!(tensors.tensor("embed/master").unwrap().shape(), [97 * 64]);
}
