//! Every word of the world is one piece, and other text survives.

use super::*;

#[test]
fn words_are_cut_at_spaces_and_marks() {
    let mut words = BTreeMap::new();
    count_words("A fox, top-left.\nWhat's it?", 2, &mut words);
    let got: Vec<&str> = words.keys().map(String::as_str).collect();
    assert_eq!(got, ["'", ",", ".", "?", "What", "s", "▁A", "▁fox", "▁it", "▁top-left"]);
    assert!(words.values().all(|n| *n == 2));
}

#[test]
fn pairs_are_joined_by_frequency() {
    // low ×5, lower ×2: ow and lo tie at 7; "l","o" comes first in the order of text; then lo+w, ▁+low; then e+r.
    let words = BTreeMap::from([("▁low".to_owned(), 5), ("▁lower".to_owned(), 2)]);
    let model = train_on(&words, FIXED + 95 + 5).unwrap();
    let merges: Vec<&str> = model.pieces[FIXED..FIXED + 5].iter().map(|p| p.0.as_str()).collect();
    assert_eq!(merges, ["lo", "low", "▁low", "er", "▁lower"]);
    assert!(train_on(&words, 300).is_err());
}

#[test]
fn the_world_speaks_in_whole_words() {
    let model = train(PIECES).unwrap();
    let vocabulary = model.vocabulary().unwrap();
    assert!(model.len() <= PIECES);
    let (mut pieces, mut all, mut broken) = (0, 0, BTreeMap::new());
    for (word, n) in world_words() {
        let ids = vocabulary.encode_continued(&word.replace(SPACE, " "));
        pieces += n * ids.len() as u64;
        all += n;
        if ids.len() > 1 {
            *broken.entry(word).or_insert(0) += n;
        }
    }
    let each = pieces as f64 / all as f64;
    println!("{} pieces, {each:.4} per word; {} words are not whole: {broken:?}", model.len(), broken.len());
    assert!(each < 1.01, "{each}");
    for kind in KINDS {
        assert_eq!(vocabulary.encode(kind.name, false).len(), 1, "{}", kind.name);
        assert_eq!(vocabulary.encode(kind.plural, false).len(), 1, "{}", kind.plural);
    }
    let words = TEMPLATES[0]
        .split(' ')
        .map(|w| w.len() - w.trim_end_matches(['.', ',', ':']).len() + 1)
        .sum::<usize>();
    assert_eq!(vocabulary.encode(TEMPLATES[0], false).len(), words + 2, "user's is three");
    assert_eq!(vocabulary.encode("\n", false), [vocabulary.id("▁").unwrap(), 3 + 10]);
    for text in ["Wo ist der Bär?", "🦊 fox", "a  b\n\nc", "12%"] {
        assert_eq!(vocabulary.decode(&vocabulary.encode(text, false)), text);
    }
}

/// A vocabulary that does not change with the world's phrases, for the golden.
fn small() -> Model {
    let mut words = BTreeMap::new();
    count_words(
        "The fox is at the top-left. The foxes are at the top-right, and the cake too: two foxes.",
        3,
        &mut words,
    );
    count_words("Where is the fox?\nIs it to the left of the cake?", 2, &mut words);
    train_on(&words, FIXED + 95 + 60).unwrap()
}

#[test]
fn sentencepiece_reads_the_model_and_gives_the_same_ids() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/golden/world_vocabulary.json")).unwrap();
    let model = small();
    let bytes: Vec<u8> =
        golden["model"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect();
    assert!(model.to_bytes() == bytes, "the file differs from the one that SentencePiece read");
    let vocabulary = model.vocabulary().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let text = case["text"].as_str().unwrap();
        assert_eq!(vocabulary.encode(text, false), ids, "{text:?}");
    }
}

#[test]
#[ignore = "writes the model that the golden's script reads, where PUMICE_WRITE_MODEL says"]
fn write_the_small_model() {
    if let Some(path) = std::env::var_os("PUMICE_WRITE_MODEL") {
        std::fs::write(path, small().to_bytes()).unwrap();
    }
}
