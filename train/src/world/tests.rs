//! The same options give the same bytes; speed and a look, on request.

use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(p, b)| (path.join(p), b)));
        } else {
            all.insert(path.file_name().unwrap().into(), std::fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn the_same_options_give_the_same_bytes() {
    if glyphs::find(None).is_err() {
        return; // no pictograms on this machine: nothing to draw
    }
    let options = Options { pictures: 12, ..Options::default() };
    let [a, b] = [0, 1].map(|_| {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        generate(dir.path(), &options, |n| last = n).unwrap();
        assert_eq!(last, 12);
        let found = files(dir.path());
        found.into_values().collect::<Vec<_>>()
    });
    assert_eq!(a.len(), 12 + 6);
    assert!(a == b, "two runs differ");
}

#[test]
fn another_world_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("world");
    let options = Options { pictures: 12, ..Options::default() };
    files::prepare(&path, &options, false).expect("a new folder");
    let picture = path.join("images/000/000011.png");
    std::fs::create_dir_all(picture.parent().unwrap()).unwrap();
    std::fs::write(&picture, b"").unwrap();
    files::prepare(&path, &options, false).expect("the same world");
    assert!(picture.exists());

    let fewer = Options { pictures: 5, ..options };
    let said = files::prepare(&path, &fewer, false).unwrap_err().to_string();
    assert!(said.contains("pictures 12 there, 5 now") && said.contains("--force"), "{said}");
    files::prepare(&path, &fewer, true).expect("force");
    assert!(!picture.exists(), "the other world's pictures are gone");

    std::fs::write(dir.path().join("letter.txt"), b"mine").unwrap();
    let said = files::prepare(dir.path(), &fewer, false).unwrap_err().to_string();
    assert!(said.contains("not empty"), "{said}");
    files::prepare(dir.path(), &fewer, true).expect("force");
    assert!(dir.path().join("letter.txt").exists());
}

/// Not a test: figures and samples for a person, run with `--ignored --nocapture`; `WORLD_SHEET` names a PNG to write.
#[test]
#[ignore = "prints samples and speed"]
fn a_look() {
    let world = World::new(1, Split::Train);
    let painter = painter(None, 112).unwrap();
    if let Some(path) = std::env::var_os("WORLD_SHEET") {
        let picture = sheet(&world, &painter, 16, 4);
        image::imageops::resize(&picture, 896, 896, image::imageops::FilterType::Nearest).save(path).unwrap();
    }
    for i in 0..10 {
        let scene = world.scene(i);
        println!("\n== {}", describe::captions(&scene).join("\n   "));
        for q in world.questions(i, &scene, 8) {
            println!("{:?}: {} → {}", q.category, q.text, q.answer);
        }
    }
    let glyphs = glyphs::Glyphs::load(&glyphs::find(None).unwrap()).unwrap();
    println!("{}", describe::context(&world.scene(0), &glyphs));
    for (change, other) in describe::negatives(&world.scene(0), &mut world.rng(0, 9)) {
        println!("{change:?}: {}", describe::listed(&other));
    }
    println!("{}", serde_json::to_string_pretty(&world.text_row(0, &world.scene(0), 3)).unwrap());
    println!("{}", serde_json::to_string(&world.general_row(0, 4)).unwrap());
    let start = std::time::Instant::now();
    let mut buffer = vec![0; 112 * 112 * 3];
    for i in 0..3000 {
        painter.draw_into(&world.scene(i), &mut buffer);
    }
    println!("{:.0} pictures/s", 3000.0 / start.elapsed().as_secs_f64());
    let start = std::time::Instant::now();
    for i in 0..3000 {
        std::hint::black_box(world.instruct_row(i, &world.scene(i), 8));
    }
    println!("{:.0} conversations/s", 3000.0 / start.elapsed().as_secs_f64());
}
