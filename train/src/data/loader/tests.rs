//! Loading: the same batches whatever the threads, damaged pictures, resumption.

use super::*;
use crate::data::conversation::tests::tiny;
use pumice_runtime::pixels::Aspect;
use std::path::Path;

const SIZE: usize = 14;
const PATCHES: usize = 4;

/// A folder of `n` rows, every third without a picture; pictures are one colour each, by number.
fn folder(n: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = (0..n).map(|i| {
        let words = "what is that ".repeat(1 + i % 5);
        if i % 3 == 0 {
            return format!(r#"{{"id": "{i}", "conversations": [{{"from": "human", "value": "{words}"}}, {{"from": "gpt", "value": "a cat {i}"}}]}}"#);
        }
        let picture = image::RgbImage::from_pixel(20, 16, image::Rgb([i as u8, 0, 255]));
        picture.save(folder.path().join(format!("{i}.png"))).unwrap();
        format!(r#"{{"id": "{i}", "image": "{i}.png", "conversations": [{{"from": "human", "value": "<image>\n{words}"}}, {{"from": "gpt", "value": "a cat {i}"}}]}}"#)
    });
    let rows: Vec<String> = rows.collect();
    std::fs::write(folder.path().join("data.json"), format!("[{}]", rows.join(",\n"))).unwrap();
    folder
}

fn settings(folder: &Path) -> Settings {
    Settings {
        images: folder.into(),
        preprocess: Preprocess::clip(SIZE, Aspect::Square),
        patches: PATCHES,
        max_length: 512,
        position: ImagePosition::Random,
        shape: Shape { seed: 5, batch: 3, accumulate: 2, world: 1, grouped: false },
        rank: 0,
        threads: 0,
        ahead: 2,
    }
}

fn loader(folder: &Path, settings: Settings, start: Position) -> Loader {
    let mut report = Report::default();
    let rows = Rows::open(&[folder.join("data.json")], &mut report).unwrap();
    let template = Template::new("v1", tiny(), false).unwrap();
    Loader::new(Arc::new(rows), template, settings, start, report).unwrap()
}

fn batches(loader: &mut Loader, n: usize) -> Vec<Batch> {
    (0..n).map(|_| loader.next_batch().unwrap()).collect()
}

fn id(name: &str) -> usize {
    name.split('"').nth(1).unwrap().parse().unwrap()
}

#[test]
fn threads_do_not_change_what_is_seen() {
    let folder = folder(20);
    let mut want = loader(folder.path(), settings(folder.path()), Position::default());
    let want = batches(&mut want, 19);
    for (threads, ahead) in [(1, 1), (2, 3), (5, 1)] {
        let settings = Settings { threads, ahead, ..settings(folder.path()) };
        let mut loader = loader(folder.path(), settings, Position::default());
        assert!(batches(&mut loader, 19) == want, "{threads} threads");
    }
}

#[test]
fn a_run_resumes_where_it_stopped() {
    let folder = folder(20);
    let settings = Settings { threads: 2, ..settings(folder.path()) };
    let mut whole = loader(folder.path(), settings.clone(), Position::default());
    // 20 rows in steps of 6: 4 steps of 2 micro-batches.
    assert_eq!(whole.steps_per_epoch(), 4);
    batches(&mut whole, 11);
    let position = whole.position();
    assert_eq!(position, Position { epoch: 1, micro: 3 });
    let kept: Position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
    let rest = batches(&mut whole, 6);
    let mut resumed = loader(folder.path(), settings, kept);
    assert!(batches(&mut resumed, 6) == rest);
}

#[test]
fn ranks_share_an_epoch() {
    let folder = folder(24);
    let one = Settings {
        shape: Shape { batch: 6, accumulate: 1, ..settings(folder.path()).shape },
        ..settings(folder.path())
    };
    let mut alone = loader(folder.path(), one.clone(), Position::default());
    let shape = Shape { batch: 3, world: 2, ..one.shape };
    let two = |rank| Settings { shape, rank, ..one.clone() };
    let mut first = loader(folder.path(), two(0), Position::default());
    let mut second = loader(folder.path(), two(1), Position::default());
    let mut seen = Vec::new();
    for _ in 0..4 {
        let rows = [first.next_batch().unwrap().rows, second.next_batch().unwrap().rows].concat();
        assert_eq!(rows, alone.next_batch().unwrap().rows);
        seen.extend(rows.iter().map(|name| id(name)));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..24).collect::<Vec<_>>());
}

#[test]
fn a_batch_holds_what_its_rows_say() {
    let folder = folder(9);
    let mut loader = loader(folder.path(), settings(folder.path()), Position::default());
    let vocabulary = tiny();
    for batch in batches(&mut loader, 6) {
        assert_eq!((batch.b, batch.size), (3, SIZE));
        assert_eq!((batch.ids.len(), batch.labels.len()), (3 * batch.t, 3 * batch.t));
        assert_eq!(batch.images.len(), batch.places.len() * 3 * SIZE * SIZE);
        for (n, &(row, slot)) in batch.places.iter().enumerate() {
            let at = row * batch.t + slot;
            assert_eq!(batch.ids[at..at + PATCHES], [0; PATCHES]);
            assert_ne!(batch.ids[at - 1], 0);
            let red = batch.images[n * 3 * SIZE * SIZE];
            let mean = pumice_models::config::CLIP_MEAN[0];
            let std = pumice_models::config::CLIP_STD[0];
            let want = (id(&batch.rows[row]) as f32 / 255.0 - mean) / std;
            assert!((red - want).abs() < 1e-5, "the picture belongs to the row");
        }
        for (row, name) in batch.rows.iter().enumerate() {
            let labels = &batch.labels[row * batch.t..(row + 1) * batch.t];
            let ids = &batch.ids[row * batch.t..(row + 1) * batch.t];
            let learned: Vec<u32> = labels.iter().filter(|&&l| l >= 0).map(|&l| l as u32).collect();
            assert_eq!(
                vocabulary.decode(&learned[..learned.len() - 1]).trim(),
                format!("a cat {}", id(name))
            );
            assert!(ids.iter().zip(labels).all(|(id, label)| *label == IGNORED || label == id));
        }
    }
}

#[test]
fn damaged_pictures_are_named_and_replaced() {
    let folder = folder(12);
    let at = |name: &str| folder.path().join(name);
    std::fs::remove_file(at("1.png")).unwrap();
    std::fs::write(at("2.png"), b"no picture").unwrap();
    let whole = std::fs::read(at("4.png")).unwrap();
    std::fs::write(at("4.png"), &whole[..whole.len() / 2]).unwrap();
    let run = |threads| {
        let settings = Settings { threads, ..settings(folder.path()) };
        let mut loader = loader(folder.path(), settings, Position::default());
        let rows: Vec<_> = batches(&mut loader, 12).into_iter().map(|batch| batch.rows).collect();
        (rows, loader.report().clone())
    };
    let (rows, report) = run(0);
    assert!(rows.iter().flatten().all(|name| ![1, 2, 4].contains(&id(name))));
    assert_eq!(report.count(Reason::MissingImage), 1, "{report}");
    assert_eq!(report.count(Reason::BrokenImage), 2, "{report}");
    assert_eq!(report.skipped(), 3);
    let text = report.to_string();
    assert!(text.contains("1.png") && text.contains("id \"1\"") && text.contains("2.png"), "{text}");
    assert_eq!(run(3).0, rows);
}

#[test]
fn rows_too_long_for_the_context_are_named() {
    let folder = folder(9);
    let settings = Settings { max_length: 64, ..settings(folder.path()) };
    let mut loader = loader(folder.path(), settings, Position::default());
    let message = loader.next_batch().unwrap_err().to_string();
    assert!(message.contains("too long for the context"), "{message}");
    assert_eq!(loader.report().count(Reason::TooLong), 9);
}

#[test]
fn a_wrong_folder_ends_the_run() {
    let folder = folder(9);
    let json = std::fs::read_to_string(folder.path().join("data.json")).unwrap();
    let pictures: Vec<&str> = json.lines().filter(|line| line.contains(".png")).collect();
    let text = pictures.join("\n").replace("]},", "]}").replace("]}]", "]}");
    std::fs::write(folder.path().join("data.json"), text).unwrap();
    for threads in [0, 2] {
        let settings = Settings { images: "no/such".into(), threads, ..settings(folder.path()) };
        let mut loader = loader(folder.path(), settings, Position::default());
        let message = loader.next_batch().unwrap_err().to_string();
        assert!(message.contains("no/such the folder of the images?"), "{message}");
    }
}

#[test]
fn settings_that_cannot_be() {
    let folder = folder(3);
    let rows = Arc::new(Rows::open(&[folder.path().join("data.json")], &mut Report::default()).unwrap());
    let template = Template::new("v1", tiny(), false).unwrap();
    let base = settings(folder.path());
    let shape = Shape { batch: 0, ..base.shape };
    let cases = [
        Settings { shape, ..base.clone() },
        Settings { rank: 1, ..base.clone() },
        Settings { patches: 512, ..base },
    ];
    for settings in cases {
        let made =
            Loader::new(rows.clone(), template.clone(), settings, Position::default(), Report::default());
        assert!(matches!(made, Err(Error::Config(_))));
    }
}
