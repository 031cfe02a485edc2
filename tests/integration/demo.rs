//! `pumice chat` without a model: the demo model, found beside the program, and one of its pictures.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::program::{Outcome, folder, picture, pumice, run, text, tiny};

/// The program in a folder of its own, with random weights and the same picture twice where it looks for the demo.
fn installed(name: &str) -> PathBuf {
    let dir = folder(name);
    let program = dir.join("pumice");
    fs::copy(env!("CARGO_BIN_EXE_pumice"), &program).expect("a copy of the program");
    let demo = dir.join("models/demo");
    fs::create_dir_all(&demo).expect("a folder for the test");
    fs::write(demo.join("pumice-demo-q4_k_m.gguf"), tiny()).expect("a model for the test");
    for name in ["1-shapes.png", "2-again.png"] {
        fs::copy(picture(), demo.join(name)).expect("a picture");
    }
    program
}

fn chat(program: &Path, more: &[&str]) -> Outcome {
    run(Command::new(program).args(["chat", "-p", "What is this?", "-n", "8"]).args(more))
}

#[test]
fn a_question_alone_asks_the_demo_model_about_its_first_picture() {
    let program = installed("demo-question");
    let one = chat(&program, &[]);
    one.succeeds();
    for words in ["demo model: knows", "1-shapes.png", "--image"] {
        assert!(one.stderr.contains(words), "no {words:?} in: {}", one.stderr);
    }
    assert_eq!(chat(&program, &[]).stdout, one.stdout, "the likeliest words, unless --temp says otherwise");
    let json = chat(&program, &["--json"]);
    let object: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(object["stats"]["image_tokens"], 16);
}

#[test]
fn a_picture_of_ones_own_or_none_is_taken_instead() {
    let program = installed("demo-picture");
    let own = chat(&program, &["--image", text(&picture())]);
    own.succeeds();
    assert!(own.stderr.contains("demo model") && !own.stderr.contains("1-shapes.png"), "{}", own.stderr);
    let blind = chat(&program, &["--no-mmproj"]);
    blind.succeeds();
    assert!(!blind.stderr.contains("1-shapes.png"), "{}", blind.stderr);
    let unseeing = run(Command::new(&program)
        .args(["chat", "-p", "What?", "-n", "2", "-m"])
        .arg(program.parent().expect("a folder").join("models/demo/pumice-demo-q4_k_m.gguf")));
    assert!(unseeing.stderr.contains("no picture is shown"), "{}", unseeing.stderr);
    chat(&program, &["--image", "absent.png"]).fails_with(&["absent.png"]);
}

#[test]
fn a_conversation_shows_its_pictures_by_number_one_at_a_time() {
    let program = installed("demo-conversation");
    let mut child = Command::new(&program)
        .args(["chat", "-n", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = "What is this?\n/image 2\n/stats\nAnd this?\n/image\n/image 7\n/exit\n";
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("a write");
    let out = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    let mut rest = &*stderr;
    for words in [
        "(1-shapes.png: ",
        "(2-again.png: ",
        "begins anew",
        "context: 0 of",
        "/image NUMBER",
        "  1 1-shapes.png\n  2 2-again.png",
        "error: 7",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("no {words:?}, at its place, in: {stderr}"));
        rest = &rest[at + words.len()..];
    }
}

#[test]
fn after_clear_the_next_question_is_about_the_same_picture() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pumice"))
        .args(["chat", "-c", "2000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = "What is in the picture?\n/clear\nWhat is in the picture?\n";
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("a write");
    let out = child.wait_with_output().expect("an end");
    let (answers, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let answers: Vec<&str> = answers.lines().collect();
    assert!(answers.len() == 2 && answers[0] == answers[1], "{answers:?}");
    assert!(stderr.contains("about the same picture"), "{stderr}");
    assert!(stderr.contains("-c 2000") && stderr.contains("trained for 1024"), "{stderr}");
    assert!(!stderr.contains("no picture is shown"), "{stderr}");
}

#[test]
fn the_demo_model_of_this_repository_is_small_and_answers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let model =
        folder.join("pumice-demo-q4_k_m.gguf").metadata().expect("the demo model is part of the repository");
    assert!(model.len() <= 12_000_000, "{} bytes", model.len());
    let outcome = pumice(["chat", "-p", "How many things are in the picture?", "--json"]);
    outcome.succeeds();
    let object: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(object["finish"], "stop", "an answer that ends by itself: {object}");
    assert!(object["stats"]["image_tokens"].as_u64().is_some_and(|n| n > 0), "one of its pictures: {object}");
    // The first of its pictures, by name, shows four things.
    assert!(object["answer"].as_str().is_some_and(|a| a.ends_with("four things.")), "{object}");
}
