//! The program and the library in conversation: one-shot, interactive, and what a second question costs.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use pumice_kernels::{
    Bytes,
    cpu::{Cpu, CpuOptions},
};
use pumice_models::gguf::File;
use pumice_quantize::{FileType, synthetic::synthetic};
use pumice_runtime::{
    Picture,
    chat::{Chat, Finish, Options, Seen},
    sample::SamplerOptions,
};

use crate::program::{folder, picture, pumice, text, tiny_file};

/// Of 8 bits: where four-bit weights meet several tokens at once, a position differs in the fourth digit from the same one computed alone
/// (NUMERICS.md), and random weights turn that into other words.
fn open(options: Options) -> Chat {
    let bytes = synthetic("tiny", FileType::Q8_0).expect("the tiny model");
    let file = File::from_bytes("tiny", Bytes::new(bytes)).expect("the tiny model");
    let cpu = Cpu::new(CpuOptions { threads: 2, isa: None });
    Chat::from_files(&file, None, Box::new(cpu), options).expect("an open chat")
}

fn greedy() -> Options {
    Options { sampling: SamplerOptions::greedy(), predict: Some(12), ctx: 512, ..Options::default() }
}

/// The answer's text.
fn answer(chat: &mut Chat, question: &str, pictures: &[Seen]) -> String {
    chat.ask(question, pictures).expect("a prompt").map(|p| p.expect("a piece")).collect()
}

#[test]
fn how_the_weights_are_held_changes_no_word() {
    let model = tiny_file(&folder("chat-holding"));
    let ask = |more: &[&str]| {
        let plain = ["chat", "-m", text(&model), "-p", "Well?", "-n", "6", "--temp", "0", "-t", "1"];
        pumice(plain.iter().chain(more)).succeeds().stdout.clone()
    };
    let mapped = ask(&[]);
    assert!(!mapped.trim().is_empty());
    for more in [&["--no-mmap"][..], &["--mlock"], &["--mlock", "--no-mmap"]] {
        assert_eq!(ask(more), mapped, "{more:?}");
    }
}

#[test]
fn a_second_question_computes_no_image_token_again() {
    let mut chat = open(greedy());
    let seen = chat.see(picture()).expect("a picture");
    let tokens = chat.stats().picture_tokens;
    assert_eq!(tokens, 16, "56 pixels in patches of 14");
    answer(&mut chat, "What is this?", &[seen]);
    let first = *chat.stats();
    assert!(first.prompt_tokens > tokens);
    assert_eq!(first.reused_tokens, 0);

    let text_only = {
        let mut other = open(greedy());
        answer(&mut other, "What is this?", &[]);
        let before = *other.stats();
        answer(&mut other, "And what colour is it?", &[]);
        other.stats().since(&before).prompt_tokens
    };
    answer(&mut chat, "And what colour is it?", &[]);
    let second = chat.stats().since(&first);
    assert_eq!(second.pictures, 0, "the tower did not run again");
    assert!(
        second.prompt_tokens <= text_only,
        "a follow-up costs its own words ({} positions), not the picture ({text_only} without one)",
        second.prompt_tokens
    );
    assert!(second.reused_tokens >= first.prompt_tokens);

    // The same picture once more, after everything was forgotten: the tower does not run.
    chat.clear();
    let before = *chat.stats();
    let again = chat.see(picture()).expect("a picture");
    assert_eq!(again, seen);
    assert_eq!(chat.stats().since(&before).pictures, 0);
}

#[test]
fn reuse_changes_no_answer() {
    let mut chat = open(greedy());
    let seen = chat.see(picture()).expect("a picture");
    let one = answer(&mut chat, "What is this?", &[seen]);
    let two = answer(&mut chat, "Why?", &[]);
    chat.clear();
    assert_eq!(answer(&mut chat, "What is this?", &[seen]), one);
    assert_eq!(answer(&mut chat, "Why?", &[]), two);
    let mut fresh = open(greedy());
    let seen = fresh.see(picture()).expect("a picture");
    assert_eq!(answer(&mut fresh, "What is this?", &[seen]), one);
}

#[test]
fn regenerate_answers_the_same_question() {
    let mut chat = open(greedy());
    assert!(chat.regenerate().is_err(), "nothing asked yet");
    let one = answer(&mut chat, "What?", &[]);
    let before = *chat.stats();
    let again: String = chat.regenerate().expect("an answer").map(|p| p.expect("a piece")).collect();
    assert_eq!(again, one, "greedy");
    assert_eq!(chat.stats().since(&before).prompt_tokens, 1, "only the last position, for its logits");
}

#[test]
fn a_full_context_ends_the_answer() {
    let mut chat = open(Options { predict: None, ctx: 64, ..greedy() });
    let mut it = chat.ask("Hi", &[]).expect("a prompt");
    for piece in it.by_ref() {
        piece.expect("a piece");
    }
    // A tiny random model hardly ever ends by itself; where it does, the context is not full.
    let finish = it.finish();
    drop(it);
    let (used, ctx) = chat.context();
    assert!(finish == Some(Finish::ContextFull) && used == ctx || finish == Some(Finish::Stop), "{finish:?}");
    let message = chat.ask("And another question?", &[]).err().expect("no room").to_string();
    assert!(message.contains("-c"), "{message}");
}

#[test]
fn cancelling_stops_the_answer_not_the_chat() {
    let options = greedy();
    let cancel = options.cancel.clone();
    let mut chat = open(options);
    let mut it = chat.ask("Hi", &[]).expect("a prompt");
    cancel.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(it.by_ref().all(|p| p.is_ok()));
    assert_eq!(it.finish(), Some(Finish::Cancelled));
    drop(it);
    assert_eq!(
        chat.ask("Stopped before it begins", &[]).expect("a prompt").finish(),
        Some(Finish::Cancelled)
    );
    cancel.store(false, std::sync::atomic::Ordering::SeqCst);
    answer(&mut chat, "Go on", &[]);
}

/// A question stopped before its first token stays open: `/regen` answers it, and another one takes its pictures over.
#[test]
fn a_question_stopped_before_its_answer_loses_nothing() {
    let stop = |chat: &mut Chat, cancel: &std::sync::atomic::AtomicBool, pictures: &[Seen]| {
        cancel.store(true, std::sync::atomic::Ordering::SeqCst);
        let finish = chat.ask("What is this?", pictures).expect("a prompt").finish();
        assert_eq!(finish, Some(Finish::Cancelled));
        cancel.store(false, std::sync::atomic::Ordering::SeqCst);
    };
    let options = greedy();
    let cancel = options.cancel.clone();
    let mut chat = open(options);
    let seen = chat.see(picture()).expect("a picture");
    let want = answer(&mut chat, "What is this?", &[seen]);
    chat.clear();

    stop(&mut chat, &cancel, &[seen]);
    let again: String = chat.regenerate().expect("the open question").map(|p| p.expect("a piece")).collect();
    assert_eq!(again, want);
    chat.clear();

    stop(&mut chat, &cancel, &[seen]);
    assert_eq!(
        answer(&mut chat, "What is this?", &[]),
        want,
        "the picture is still shown, the question not twice"
    );
}

#[test]
fn a_question_that_does_not_fit_leaves_the_conversation_as_it_was() {
    let mut chat = open(Options { ctx: 192, ..greedy() });
    let one = answer(&mut chat, "What?", &[]);
    assert!(chat.ask(&"word ".repeat(400), &[]).is_err());
    let again: String =
        chat.regenerate().expect("the question before").map(|p| p.expect("a piece")).collect();
    assert_eq!(again, one);
}

#[test]
fn many_pictures_keep_the_memory_and_old_ones_ask_to_be_shown_again() {
    let mut chat = open(Options { predict: Some(1), ..greedy() });
    let grey = |v: u8| Picture::from_rgb("grey", 8, 8, vec![v; 192]).expect("a picture");
    let seen: Vec<Seen> = (0..60).map(|v| chat.see_picture(&grey(v)).expect("a picture")).collect();
    answer(&mut chat, "What is this?", &[seen[59], seen[40]]);
    let message = chat.ask("And this?", &[seen[0]]).err().expect("forgotten").to_string();
    assert!(message.contains("show it again"), "{message}");
    assert_eq!(chat.see_picture(&grey(0)).expect("a picture"), seen[0]);
    answer(&mut chat, "And this?", &[seen[0]]);
}

#[test]
fn no_tokens_are_no_tokens() {
    let mut chat = open(Options { predict: Some(0), ..greedy() });
    assert_eq!(answer(&mut chat, "What?", &[]), "");
    assert_eq!(chat.stats().generated_tokens, 0);
}

#[test]
fn one_shot_and_json() {
    let dir = folder("one-shot");
    let model = tiny_file(&dir);
    let picture = picture();
    let base = [
        "chat",
        "-m",
        text(&model),
        "--image",
        text(&picture),
        "-p",
        "What is this?",
        "-n",
        "8",
        "--temp",
        "0",
    ];
    let plain = pumice(base);
    plain.succeeds();
    assert!(plain.stderr.contains("t/s"), "{}", plain.stderr);
    let json = pumice(base.iter().chain(&["--json"]));
    json.succeeds();
    let object: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(object["answer"].as_str().map(str::trim), Some(plain.stdout.trim()));
    assert_eq!(object["stats"]["image_tokens"], 16);
    assert!(object["stats"]["generated_tokens"].as_u64().is_some_and(|n| n > 0 && n <= 8));
}

#[test]
fn a_conversation_over_a_pipe() {
    let dir = folder("conversation");
    let model = tiny_file(&dir);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pumice"))
        .args(["chat", "-m", text(&model), "-n", "4", "-c", "512", "--temp", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = format!(
        "/help\n/image {}\nWhat is this?\n/stats\n/regen\n/image no-such.png\n/nonsense\n/clear\nHi\n/exit\n",
        text(&picture())
    );
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("a write");
    let out = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    for words in
        ["/regen", "shapes.png", "context:", "no-such.png", "/nonsense is no command", "(forgotten; "]
    {
        assert!(stderr.contains(words), "no {words:?} in: {stderr}");
    }
}
