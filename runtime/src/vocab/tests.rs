//! Vocabularies against SentencePiece and the `tokenizers` package: goldens of tests/golden/vocab.py, and the real LLaMA
//! vocabulary where the test data are.

use super::*;
use std::path::PathBuf;
use std::time::Instant;

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn unquote(json: &str) -> String {
    serde_json::from_str(json).unwrap()
}

/// Our own small vocabulary, trained with LLaMA's settings.
pub(crate) fn tiny_pieces() -> Pieces {
    let mut pieces = Pieces { name: "tiny".into(), model: "llama".into(), ..Pieces::default() };
    for line in golden("tiny.tsv").lines() {
        let [score, kind, piece]: [&str; 3] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        pieces.scores.push(score.parse().unwrap());
        pieces.kinds.push(match kind {
            "2" => Kind::Unknown,
            "3" => Kind::Control,
            "4" => Kind::UserDefined,
            "5" => Kind::Unused,
            "6" => Kind::Byte,
            _ => Kind::Normal,
        });
        pieces.tokens.push(unquote(piece));
    }
    (pieces.unknown, pieces.bos, pieces.eos) = (Some(0), Some(1), Some(2));
    pieces
}

/// The real vocabulary's folder and itself, or a message.
pub(crate) fn real() -> Option<(PathBuf, Vocabulary)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/llama-vocab");
    if !folder.exists() {
        println!("skipped: {} is absent", folder.display());
        return None;
    }
    let file = pumice_models::gguf::File::open(&folder.join("llama-spm.gguf")).unwrap();
    Some((folder, Vocabulary::from_gguf(&file).unwrap()))
}

/// Lines of a text, a tab, its ids.
fn cases(text: &str) -> impl Iterator<Item = (String, Vec<u32>)> {
    text.lines().map(|line| {
        let mut fields = line.split('\t');
        let text = unquote(fields.next().unwrap());
        (text, fields.map(|f| f.parse().unwrap()).collect())
    })
}

#[test]
fn own_vocabulary_equals_sentencepiece() {
    let vocabulary = Vocabulary::new(tiny_pieces()).unwrap();
    for (text, ids) in cases(&golden("tiny.txt")) {
        assert_eq!(vocabulary.encode(&text, false), ids, "{text:?}");
        assert_eq!(vocabulary.decode(&ids), text.replace('\u{2581}', " "), "{text:?}");
    }
}

#[test]
fn the_46_texts_of_llama_cpp() {
    let Some((folder, vocabulary)) = real() else { return };
    let texts = std::fs::read_to_string(folder.join("llama-spm.gguf.inp")).unwrap();
    let ids = std::fs::read_to_string(folder.join("llama-spm.gguf.out")).unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 46);
    for (text, ids) in texts.iter().zip(&ids) {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(vocabulary.encode(text, false), ids, "{text:?}");
        assert_eq!(&vocabulary.decode(&ids), text);
    }
}

/// splitmix64 of the script.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

const RANGES: [(u32, u32); 17] = [
    (0x20, 0x7e),
    (0x61, 0x7a),
    (0x20, 0x21),
    (0x0, 0x1f),
    (0xa0, 0x24f),
    (0x370, 0x5ff),
    (0x900, 0xdff),
    (0x2000, 0x206f),
    (0x2580, 0x2583),
    (0x3040, 0x30ff),
    (0x4e00, 0x9fff),
    (0xac00, 0xd7a3),
    (0xe000, 0xe010),
    (0xfe00, 0xfffd),
    (0x1f300, 0x1faff),
    (0x10000, 0x10fff),
    (0x10_fff0, 0x10_ffff),
];

const WORDS: [&str; 21] = [
    " the",
    "ing",
    "USER:",
    " ASSISTANT:",
    "\n",
    "  ",
    "\t",
    "image",
    "<s>",
    "</s>",
    "<0x0A>",
    "###",
    "1234567",
    " what",
    "You",
    "\u{2581}",
    "tion",
    "don't",
    "\r\n",
    "e\u{301}",
    "\u{1f999}",
];

fn random_text(seed: u64) -> String {
    let mut rng = Rng(seed);
    let mut text = String::new();
    for _ in 0..rng.below(40) {
        if rng.below(3) == 0 {
            text.push_str(WORDS[rng.below(WORDS.len())]);
            continue;
        }
        let (low, high) = RANGES[rng.below(RANGES.len())];
        for _ in 0..1 + rng.below(5) {
            text.push(char::from_u32(low + rng.below((high - low + 1) as usize) as u32).unwrap());
        }
    }
    text
}

#[test]
fn random_texts_equal_sentencepiece() {
    let Some((_, vocabulary)) = real() else { return };
    let golden = golden("spm-random.txt");
    assert_eq!(golden.lines().count(), 2000);
    for (seed, line) in golden.lines().enumerate() {
        let text = random_text(seed as u64);
        let ids = vocabulary.encode(&text, false);
        let mut fields = line.split(' ');
        let hash = fields.next().unwrap();
        let want: Vec<u32> = fields.map(|f| f.parse().unwrap()).collect();
        if !want.is_empty() {
            assert_eq!(ids, want, "{text:?}");
        }
        let got = ids
            .iter()
            .flat_map(|id| id.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(format!("{got:016x}"), hash, "{text:?} became {ids:?}");
        assert_eq!(vocabulary.decode(&ids), text.replace('\u{2581}', " "));
    }
}

#[test]
fn long_texts_take_linear_time() {
    let Some((_, real)) = real() else { return };
    let bpe = bpe("llama-bpe");
    for unit in ["a", " ", "the cat ", "\u{1f999}", "1", "ab", "\u{2581}", "="] {
        let text: String = unit.chars().cycle().take(100_000).collect();
        for (vocabulary, name) in [(&real, "llama"), (&bpe, "gpt2")] {
            let start = Instant::now();
            let n = vocabulary.encode(&text, false).len();
            println!("{name}: 100000 of {unit:?}: {n} tokens in {:?}", start.elapsed());
            assert!(start.elapsed().as_secs_f64() < 4.0, "{name}: {unit:?}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn control_tokens_are_found_only_when_asked_for() {
    let vocabulary = Vocabulary::new(tiny_pieces()).unwrap();
    let the = vocabulary.encode("the", false);
    assert_eq!(vocabulary.encode("</s>the", true), [vec![2], the.clone()].concat());
    assert!(!vocabulary.encode("</s>the<s>", false).iter().any(|id| [1, 2].contains(id)));
    let mark = vocabulary.id("<mark>").unwrap();
    assert_eq!(vocabulary.encode("the<mark>the", false), [the.clone(), vec![mark], the].concat());
    assert_eq!(vocabulary.split("a</s>", true), [Part::Text("a"), Part::Token(2)]);
    assert_eq!(vocabulary.split("a</s>", false), [Part::Text("a</s>")]);
    assert_eq!(vocabulary.stops(), [2]);
    assert!(vocabulary.add_bos());
}

#[test]
fn continuation_has_no_leading_space() {
    let vocabulary = Vocabulary::new(tiny_pieces()).unwrap();
    let fresh = vocabulary.encode("the", false);
    assert_eq!(vocabulary.encode_continued(" the"), fresh);
    assert_ne!(vocabulary.encode_continued("the"), fresh);
    let bare = Vocabulary::new(Pieces { add_space_prefix: Some(false), ..tiny_pieces() }).unwrap();
    assert_eq!(bare.encode("the", false), vocabulary.encode_continued("the"));
    assert_eq!(bare.decode(&fresh), " the");
}

#[test]
fn streaming_never_splits_a_character() {
    let vocabulary = Vocabulary::new(tiny_pieces()).unwrap();
    let bytes =
        |bytes: &[u8]| bytes.iter().map(|b| vocabulary.id(&format!("<0x{b:02X}>")).unwrap()).collect();
    let stream = |ids: Vec<u32>| {
        let mut detokenizer = Detokenizer::new();
        let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(&vocabulary, id)).collect();
        pieces.push(detokenizer.finish());
        pieces
    };
    assert_eq!(stream(bytes("🦙".as_bytes())), ["", "", "", "🦙", ""]);
    assert_eq!(stream(bytes(&[0xf0, 0x9f, b'a'])), ["", "", "\u{fffd}\u{fffd}a", ""]);
    assert_eq!(stream(bytes(&[b'a', 0xf0, 0x9f])), ["a", "", "", "\u{fffd}\u{fffd}"]);
    assert_eq!(stream(bytes(&[0x80, 0xff])), ["\u{fffd}", "\u{fffd}", ""]);
    let the = vocabulary.encode("the the", false);
    assert_eq!(stream([vec![1], the].concat()).concat(), "the the");
}

fn bpe_pieces(pre: &str) -> Pieces {
    let mut pieces =
        Pieces { name: "bpe".into(), model: "gpt2".into(), pre: pre.into(), ..Pieces::default() };
    for line in golden("bpe.tsv").lines() {
        match line.split_once('\t').unwrap() {
            ("token", json) => pieces.tokens.push(unquote(json)),
            ("merge", json) => pieces.merges.push(unquote(json)),
            _ => {}
        }
    }
    pieces
}

fn bpe(pre: &str) -> Vocabulary {
    Vocabulary::new(bpe_pieces(pre)).unwrap()
}

#[test]
fn byte_level_bpe_equals_tokenizers() {
    let golden = golden("bpe.tsv");
    let mut seen = 0;
    for pre in ["gpt-2", "llama-bpe", "smollm"] {
        let vocabulary = bpe(pre);
        let lines: String = golden
            .lines()
            .filter_map(|l| l.strip_prefix(pre)?.strip_prefix('\t'))
            .flat_map(|l| [l, "\n"])
            .collect();
        for (text, ids) in cases(&lines) {
            seen += 1;
            assert_eq!(vocabulary.encode(&text, false), ids, "{pre}: {text:?}");
            assert_eq!(vocabulary.decode(&ids), text, "{pre}");
        }
    }
    assert!(seen > 70, "{seen}");
    assert!(bpe("llama-bpe").add_bos() && !bpe("gpt-2").add_bos());
}

#[test]
fn what_cannot_be_used_is_refused() {
    let refused = |pieces: Pieces| Vocabulary::new(pieces).unwrap_err().to_string();
    let e = refused(Pieces { model: "bert".into(), ..tiny_pieces() });
    assert!(e.starts_with("tiny: vocabulary: is of the kind \"bert\""), "{e}");
    let mut short = tiny_pieces();
    short.scores.pop();
    assert!(refused(short).contains("400 pieces but 399 scores"));
    assert!(refused(Pieces { eos: Some(400), ..tiny_pieces() }).contains("names token 400 of 400"));
    assert!(refused(Pieces { pre: "chameleon".into(), ..bpe_pieces("") }).contains("\"chameleon\""));
    let merges = vec!["Q Qq".to_string()];
    assert!(refused(Pieces { merges, ..bpe_pieces("gpt-2") }).contains("bpe: vocabulary: merges"));
    assert!(refused(Pieces { model: "llama".into(), ..Pieces::default() }).contains("no pieces"));
}

/// Files of early 2023 have no kinds.
#[test]
fn kinds_are_guessed_where_absent() {
    let whole = tiny_pieces();
    let guessed = Vocabulary::new(Pieces { kinds: Vec::new(), ..whole.clone() }).unwrap();
    for id in [0, 1, 2, 100] {
        assert_eq!(guessed.kind(id), whole.kinds[id as usize], "{id}");
    }
    assert_eq!(guessed.encode("🦙", false), Vocabulary::new(whole).unwrap().encode("🦙", false));
}

#[test]
fn the_real_vocabulary_loads_at_once() {
    let start = Instant::now();
    let Some((_, vocabulary)) = real() else { return };
    println!("{} pieces in {:?}", vocabulary.len(), start.elapsed());
    assert_eq!(vocabulary.len(), 32000);
    assert_eq!((vocabulary.bos(), vocabulary.eos()), (Some(1), Some(2)));
    assert!(start.elapsed().as_secs_f64() < 1.5, "{:?}", start.elapsed()); // 150 ms optimised and alone
}

proptest::proptest! {
    #[test]
    fn any_text_comes_back(text in "(\\PC|[ \n\t\0]){0,60}") {
        for vocabulary in [Vocabulary::new(tiny_pieces()).unwrap(), bpe("llama-bpe")] {
            let ids = vocabulary.encode(&text, false);
            // U+2581 comes back as the space that it stands for; after the mark a fresh text begins, with a space.
            if !text.contains("<mark>") && !text.contains('\u{2581}') {
                proptest::prop_assert_eq!(vocabulary.decode(&ids), text.clone());
            }
        }
    }
}
