//! The table counts what was asked, an oracle has all right, and scenes are unseen.

use std::collections::HashSet;

use pumice_quantize::{FileType, Layout};
use tch::{Device, Kind};

use super::*;
use crate::{
    model::{
        ClipConfig, LlamaConfig, Llava, LlavaConfig, Projector, VisionConfig,
        checkpoint::{Saved, save_llava_hf},
    },
    world::{self, vocabulary},
};

fn replies(questions: &[Question], said: impl Fn(&Question) -> String) -> Vec<Reply> {
    questions.iter().map(|q| Reply { text: said(q), cut: false }).collect()
}

#[test]
fn an_oracle_has_all_right() {
    for turns in [None, Some(6)] {
        let exam = Exam { scenes: 200, turns, ..Exam::default() };
        let oracle = || Ok(|_: &Scene, q: &[Question]| Ok(replies(q, |q| q.answer.clone())));
        let table = exam.sit(2, oracle, &|_| ()).unwrap();
        let lines = table.lines();
        for line in &lines {
            let expected = match (line.score, line.label) {
                (true, _) => 100.0,
                (false, "  said yes") => continue,
                (false, _) => 0.0,
            };
            assert_eq!(line.percent, Some(expected), "{line:?}");
        }
        assert!(lines.iter().all(|l| l.n > 0));
        assert!(table.wrong.values().all(Vec::is_empty));
        if turns.is_none() {
            assert_eq!(table.tallies[&Subject::Kind].n, 200);
            assert_eq!(table.tallies[&Subject::Description].n, 200);
            assert!(
                (60..160).contains(&table.tallies[&Subject::Relation].n),
                "half the scenes have two to compare"
            );
            // 200 fair draws: 50 % ± 10 is almost three standard deviations.
            let yes: Vec<f64> =
                lines.iter().filter(|l| l.label == "  said yes").filter_map(|l| l.percent).collect();
            assert!(yes.len() == 2 && yes.iter().all(|p| (40.0..60.0).contains(p)), "{yes:?}");
        }
    }
}

#[test]
fn counts_do_not_depend_on_the_workers() {
    // Every third answer is right, by the scene's number of things.
    let guess = || {
        Ok(|scene: &Scene, q: &[Question]| {
            let right = scene.things.len().is_multiple_of(3);
            Ok(replies(q, |q| if right { q.answer.clone() } else { "yes".into() }))
        })
    };
    let exam = Exam { scenes: 60, ..Exam::default() };
    let [one, three] = [1, 3].map(|workers| exam.sit(workers, guess, &|_| ()).unwrap());
    assert_eq!(one, three);
    let kind = one.tallies[&Subject::Kind];
    assert!(kind.right > 0 && kind.right < kind.n, "{kind:?}");
    assert_eq!(one.wrong[&Subject::Kind].len(), kind.n - kind.right);
    assert_eq!(one.wrong[&Subject::Kind][0].said, "yes");
}

#[test]
fn errors_end_the_examination() {
    let exam = Exam { scenes: 1000, ..Exam::default() };
    let broken = || Ok(|_: &Scene, _: &[Question]| Ok(Vec::new()));
    let error = exam.sit(2, broken, &|_| ()).unwrap_err().to_string();
    assert!(error.contains("0 answers to "), "{error}");
}

#[test]
fn scenes_are_unseen_and_questions_fixed() {
    let (exam, world) = (Exam::default(), World::new(SEED, Split::Test));
    let set = |scene: &Scene| {
        let mut kinds: Vec<u16> = scene.things.iter().map(|t| t.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    let training = World::new(1, Split::Train);
    let trained: HashSet<Vec<u16>> = (0..5000).map(|i| set(&training.scene(i))).collect();
    for index in 0..1000 {
        let (scene, questions) = exam.questions(&world, index);
        assert_eq!(scene.split(), Split::Test);
        assert!(!trained.contains(&set(&scene)), "scene {index}");
        assert_eq!(
            (&scene, &questions),
            (&exam.questions(&world, index).0, &exam.questions(&world, index).1)
        );
    }
}

#[test]
fn goals_tell_by_how_much_they_are_missed() {
    assert_eq!(Goal::AtLeast(90.0).short(88.0), 2.0);
    assert_eq!(Goal::AtLeast(90.0).short(90.0), 0.0);
    assert_eq!(Goal::AtMost(3.0).short(5.5), 2.5);
    assert_eq!([44.0, 45.0, 55.0, 57.0].map(|p| Goal::Between(45.0, 55.0).short(p)), [1.0, 0.0, 0.0, 2.0]);
}

#[test]
fn a_model_that_knows_nothing_scores_nothing() {
    let Ok(painter) = world::painter(None, 32) else {
        return; // no pictograms on this machine: nothing to look at
    };
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer");
    std::fs::create_dir(&tokenizer).unwrap();
    let pieces = vocabulary::train(1200).unwrap();
    pieces.write(&tokenizer).unwrap();
    tch::manual_seed(1);
    let vision = VisionConfig::new(ClipConfig::new(32, 16, 32, 64, 2, 2), Projector::Mlp(2), false);
    let text = LlamaConfig::new(pieces.len() as i64, 32, 64, 2, 2, 256);
    let model =
        Llava::init(LlavaConfig { text, vision: Some(vision), image_id: None }, Kind::Float, Device::Cpu);
    let path = folder.path().join("llava-tiny");
    save_llava_hf(&model, &path, &Saved { kind: Kind::Float, tokenizer: Some(tokenizer), tower: true })
        .unwrap();
    let exam = Exam { scenes: 4, ..Exam::default() };
    for (file_type, name) in [(None, "llava-tiny F32"), (Some(FileType::Q8_0), "llava-tiny Q8_0")] {
        let opening = Opening { file_type, predict: 8, ..Opening::default() };
        let model = Model::open(&path, &opening).unwrap();
        assert_eq!((model.name.as_str(), model.side()), (name, 32));
        let table = exam
            .sit(
                2,
                || {
                    let mut student = model.student(&painter, 1, &exam)?;
                    Ok(move |scene: &Scene, questions: &[Question]| student.answer(scene, questions))
                },
                &|_| (),
            )
            .unwrap();
        let right: usize = table.tallies.values().map(|t| t.right).sum();
        assert_eq!(table.tallies[&Subject::Kind].n, 4);
        assert!(right <= 3, "{right} right by chance: {table:?}");
        assert!(table.cut() > 0, "random weights do not know when to stop");
    }
    let source = pumice_quantize::Source::open(&path, &pumice_quantize::SourceOptions::default()).unwrap();
    let recipe = pumice_quantize::Recipe::new(FileType::Q8_0);
    let options = pumice_quantize::Options { layout: Layout::Pair, ..pumice_quantize::Options::new(recipe) };
    let out = folder.path().join("pair.gguf");
    let [text, mmproj] = &pumice_quantize::run(&source, &out, &options, &()).unwrap().files[..] else {
        panic!("a pair is two files");
    };
    let pair = Opening { mmproj: Some(mmproj.clone()), ..Opening::default() };
    assert_eq!(Model::open(text, &pair).unwrap().name, "pair.gguf");
    let half = Model::open(text, &Opening::default()).unwrap_err().to_string();
    assert!(half.contains("has no vision part") && half.contains("--mmproj"), "{half}");
    let missing = Model::open(&folder.path().join("absent"), &Opening::default()).unwrap_err().to_string();
    assert!(missing.contains("absent"), "{missing}");
}

#[test]
fn a_model_without_eyes_is_not_examined() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer");
    std::fs::create_dir(&tokenizer).unwrap();
    let pieces = vocabulary::train(600).unwrap();
    pieces.write(&tokenizer).unwrap();
    let text = LlamaConfig::new(pieces.len() as i64, 32, 64, 1, 2, 256);
    let model = Llava::init(LlavaConfig { text, vision: None, image_id: None }, Kind::Float, Device::Cpu);
    let path = folder.path().join("vicuna-tiny");
    let saved = Saved { kind: Kind::Float, tokenizer: Some(tokenizer), tower: false };
    crate::model::checkpoint::save_llama(&model, &path, &saved).unwrap();
    let error = Model::open(&path, &Opening::default()).unwrap_err().to_string();
    assert!(error.contains("vicuna-tiny") && error.contains("has no vision part"), "{error}");
}
