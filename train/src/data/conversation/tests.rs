//! Ids and masks against LLaVA's rules: goldens of tests/golden/conversation.py.

use super::*;
use pumice_runtime::vocab::{Kind, Pieces};
use std::path::PathBuf;

fn at_home(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The small vocabulary of the runtime's tests, with LLaVA's marks around pictures behind it.
pub(crate) fn tiny() -> Arc<Vocabulary> {
    let text = std::fs::read_to_string(at_home("../runtime/tests/golden/tiny.tsv")).unwrap();
    let mut pieces = Pieces { name: "tiny".into(), model: "llama".into(), ..Pieces::default() };
    for line in text.lines() {
        let [score, kind, piece]: [&str; 3] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        pieces.scores.push(score.parse().unwrap());
        let kinds = [Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
        pieces.kinds.push(kinds[kind.parse::<usize>().unwrap() - 1]);
        pieces.tokens.push(serde_json::from_str(piece).unwrap());
    }
    with_marks(pieces)
}

fn with_marks(mut pieces: Pieces) -> Arc<Vocabulary> {
    for mark in ["<im_start>", "<im_end>"] {
        pieces.tokens.push(mark.into());
        pieces.scores.push(0.0);
        pieces.kinds.push(Kind::Control);
    }
    (pieces.unknown, pieces.bos, pieces.eos) = (Some(0), Some(1), Some(2));
    Arc::new(Vocabulary::new(pieces).unwrap())
}

/// LLaMA's vocabulary, or a message.
fn llama() -> Option<Arc<Vocabulary>> {
    let path = at_home("../../shared/data/llama-vocab/llama-spm.gguf");
    if !path.exists() {
        println!("skipped: {} is absent", path.display());
        return None;
    }
    let file = pumice_models::gguf::File::open(&path).unwrap();
    let read = Vocabulary::from_gguf(&file).unwrap();
    let n = read.len() as u32;
    let scores = file.floats("tokenizer.ggml.scores").unwrap().unwrap();
    Some(with_marks(Pieces {
        name: "llama".into(),
        model: "llama".into(),
        tokens: (0..n).map(|id| read.piece(id).to_owned()).collect(),
        kinds: (0..n).map(|id| read.kind(id)).collect(),
        scores,
        ..Pieces::default()
    }))
}

fn row(turns: &[&str]) -> Row {
    let pairs = turns.chunks(2).map(|pair| [pair[0].to_owned(), pair[1].to_owned()]).collect();
    let pictures = turns.iter().map(|text| text.matches(IMAGE_MARK).count()).sum();
    Row { name: "test".into(), images: vec!["a.png".into(); pictures], turns: pairs }
}

#[test]
fn ids_and_masks_equal_the_rules_of_llava() {
    let (tiny, llama) = (tiny(), llama());
    let text = std::fs::read_to_string(at_home("tests/golden/conversation.jsonl")).unwrap();
    let mut seen = 0;
    for line in text.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let vocabulary = match (case["vocabulary"].as_str().unwrap(), &llama) {
            ("tiny", _) => &tiny,
            (_, Some(llama)) => llama,
            _ => continue,
        };
        let numbers = |key: &str| -> Vec<i64> {
            case[key].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
        };
        let around = case["im_start_end"].as_bool().unwrap();
        let template = Template::new(case["template"].as_str().unwrap(), vocabulary.clone(), around).unwrap();
        let turns: Vec<&str> = case["row"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let place = if case["after"].as_bool().unwrap() { ImagePlace::After } else { ImagePlace::Before };
        let sample = template.sample(row(&turns), place).unwrap();
        assert_eq!(sample.ids, numbers("ids"), "ids of {line}");
        assert_eq!(sample.labels, numbers("labels"), "labels of {line}");
        seen += 1;
    }
    assert!(seen >= 30, "{seen}");
}

/// The example of llava-facts 4.1: what is learned of a v1 conversation is the answers and `</s>`.
#[test]
fn v1_learns_answers_and_their_end() {
    let Some(llama) = llama() else { return };
    let template = Template::new("v1", llama.clone(), false).unwrap();
    let turns = ["<image>\nWhat is it?", "A cat.", "Colour?", "Black."];
    let sample = template.sample(row(&turns), ImagePlace::Before).unwrap();
    let learned: Vec<u32> = sample.labels.iter().filter(|&&l| l != IGNORED).map(|&l| l as u32).collect();
    let pieces: Vec<&str> = learned.iter().map(|&id| llama.piece(id)).collect();
    assert_eq!(pieces, ["▁A", "▁cat", ".", "</s>", "▁Black", ".", "</s>"]);
}

/// What is trained is what the model is given at inference, token by token.
#[test]
fn training_equals_inference() {
    let vocabulary = tiny();
    for name in ["v1", "llava_v1", "llava_llama_2", "mistral_instruct", "v1_mmtag", "v0_lines", "plain"] {
        let turns = ["<image>\nwhat is that", "the cat's hat", "Why ###?", "a mat\nand a dog"];
        let turns = if name == "plain" { &turns[..2] } else { &turns[..] };
        let template = Template::new(name, vocabulary.clone(), false).unwrap();
        let sample = template.sample(row(turns), ImagePlace::Before).unwrap();
        let format = Format::named(name).unwrap();
        let mut ids = Vec::new();
        for (i, pair) in turns.chunks(2).enumerate() {
            let images: &[usize] = if i == 0 { &[0] } else { &[] };
            let words = if name == "plain" { "" } else { pair[0].trim_start_matches("<image>\n") };
            let turn = Turn { text: words, images, place: ImagePlace::Before };
            let chunks = match i {
                0 => format.first_turn(&vocabulary, &turn).unwrap(),
                _ => format.next_turn(&vocabulary, &turn).unwrap(),
            };
            for chunk in chunks {
                match chunk {
                    Chunk::Tokens(tokens) => ids.extend(tokens.into_iter().map(i64::from)),
                    Chunk::Image(_) => ids.push(IMAGE),
                }
            }
            ids.extend(format.answer(&vocabulary, pair[1]).unwrap().into_iter().map(i64::from));
        }
        assert_eq!(sample.ids[..ids.len()], ids, "{name}");
        assert!(sample.ids.len() <= ids.len() + 12, "{name}: only the end of the last answer follows");
    }
}

#[test]
fn marks_typed_by_people_stay_text() {
    let vocabulary = tiny();
    let template = Template::new("v1", vocabulary.clone(), false).unwrap();
    let sample = template.sample(row(&["is </s> the end?", "<s> a cat </s>"]), ImagePlace::Before).unwrap();
    assert_eq!(sample.ids.iter().filter(|&&id| id == 2).count(), 1);
    assert_eq!(sample.ids.iter().filter(|&&id| id == 1).count(), 1);
}

#[test]
fn templates_without_an_end_are_refused() {
    for name in ["v0_mmtag", "mpt", "nonsense"] {
        let message = Template::new(name, tiny(), false).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
    let mut pieces = Pieces { name: "x".into(), model: "llama".into(), ..Pieces::default() };
    pieces.tokens = vec!["a".into()];
    pieces.scores = vec![0.0];
    let bare = Arc::new(Vocabulary::new(pieces).unwrap());
    assert!(Template::new("v1", bare, false).is_err());
}

#[test]
fn several_pictures_keep_their_order() {
    let template = Template::new("v1", tiny(), false).unwrap();
    let mut two = row(&["<image>\n<image>\nwhat", "a cat", "and <image>?", "a dog"]);
    two.images = vec!["a".into(), "b".into(), "c".into()];
    let sample = template.sample(two, ImagePlace::Before).unwrap();
    assert_eq!(sample.images, ["a", "b", "c"]);
    assert_eq!(sample.ids.iter().filter(|&&id| id == IMAGE).count(), 3);
    let expanded = sample.expand(4, 4096).unwrap();
    assert_eq!(expanded.places.len(), 3);
    assert_eq!(expanded.ids.len(), sample.ids.len() + 3 * 3);
}

#[test]
fn plain_takes_one_caption_of_one_picture() {
    let template = Template::new("plain", tiny(), false).unwrap();
    for turns in [&["what", "a cat"][..], &["<image>", "a", "b", "c"][..]] {
        let fault = template.sample(row(turns), ImagePlace::Before).unwrap_err();
        assert_eq!(fault.reason, Reason::Roles);
    }
}

#[test]
fn pictures_take_their_slots_and_the_cut_counts_them() {
    let sample = Sample {
        ids: vec![1, IMAGE, 5, 6, 2],
        labels: vec![-100, -100, -100, 6, 2],
        images: vec!["a".into()],
        name: "test".into(),
    };
    let whole = sample.expand(3, 100).unwrap();
    assert_eq!(whole.ids, [1, 0, 0, 0, 5, 6, 2]);
    assert_eq!(whole.labels, [-100, -100, -100, -100, -100, 6, 2]);
    assert_eq!(whole.places, [1]);
    assert_eq!(sample.expand(3, 6).unwrap().labels, [-100, -100, -100, -100, -100, 6]);
    for (max, what) in [(5, "no answer is left"), (3, "a picture does not fit")] {
        let fault = sample.expand(3, max).unwrap_err();
        assert_eq!(fault.reason, Reason::TooLong);
        assert!(fault.what.contains(what), "{}", fault.what);
    }
}

#[test]
fn the_coin_is_fair_and_stays() {
    let afters = |seed| -> Vec<bool> {
        (0..1000).map(|row| ImagePosition::Random.place(seed, row) == ImagePlace::After).collect()
    };
    let heads = afters(7).iter().filter(|&&after| after).count();
    assert!((440..560).contains(&heads), "{heads}");
    assert_eq!(afters(7), afters(7));
    assert_ne!(afters(7), afters(8));
    assert!((0..100).all(|row| ImagePosition::Front.place(7, row) == ImagePlace::Before));
}
