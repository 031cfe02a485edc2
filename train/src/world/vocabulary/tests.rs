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
    let words =
        TEMPLATE.split(' ').map(|w| w.len() - w.trim_end_matches(['.', ',', ':']).len() + 1).sum::<usize>();
    assert_eq!(vocabulary.encode(TEMPLATE, false).len(), words + 2, "user's is three");
    assert_eq!(vocabulary.encode("\n", false), [vocabulary.id("▁").unwrap(), 3 + 10]);
    for text in ["Wo ist der Bär?", "🦊 fox", "a  b\n\nc", "12%"] {
        assert_eq!(vocabulary.decode(&vocabulary.encode(text, false)), text);
    }
}
