//! Windows against llama.cpp's rule spelled out once more, conversations against what training learns.

use super::*;
use crate::vocab::tests::tiny_pieces;

fn tiny() -> Vocabulary {
    Vocabulary::new(tiny_pieces()).expect("the tiny vocabulary")
}

fn ids(chunk: &Chunk) -> &[u32] {
    match chunk {
        Chunk::Tokens(ids) => ids,
        Chunk::Image(_) => &[],
    }
}

/// All ids of a passage without pictures.
fn flat(passage: &Passage) -> Vec<u32> {
    passage.chunks.iter().flat_map(|(chunk, _)| ids(chunk)).copied().collect()
}

fn row(turns: &[[&str; 2]], images: usize) -> Row {
    Row {
        name: "data.json row 3".into(),
        images: (0..images).map(|i| format!("{i}.png").into()).collect(),
        turns: turns.iter().map(|turn| turn.map(String::from)).collect(),
    }
}

#[test]
fn windows_are_llama_cpps() {
    let vocabulary = tiny();
    let text =
        "Where does the road go? It goes over the hill, past the mill, and down to the harbour.\n".repeat(3);
    let mut whole = vec![1];
    whole.extend(vocabulary.encode(&text[..text.len() - 1], false));
    for ctx in [3, 4, 15, 16, whole.len()] {
        let windows = windows(&vocabulary, &text, ctx).expect("windows");
        assert_eq!(windows.len(), whole.len() / ctx);
        for (i, window) in windows.iter().enumerate() {
            // The window of tokens with its first replaced; token first + 1 + j is foreseen by row first + j.
            let mut expected = whole[i * ctx..][..ctx].to_vec();
            expected[0] = 1;
            assert_eq!(flat(window), expected);
            let first = ctx / 2;
            let scored: Vec<_> = (first..ctx - 1).map(|row| (row, expected[row + 1])).collect();
            assert_eq!(window.targets(0), scored, "ctx {ctx}");
            assert_eq!(window.rows(0), ctx);
        }
    }
}

#[test]
fn without_bos_windows_keep_their_first_token() {
    let vocabulary =
        Vocabulary::new(crate::vocab::Pieces { add_bos: Some(false), ..tiny_pieces() }).expect("one");
    let whole = vocabulary.encode("The stone floats on the sea.", false);
    let windows = windows(&vocabulary, "The stone floats on the sea.", 4).expect("windows");
    assert!(windows.len() > 1);
    assert_eq!(flat(&windows[1]), whole[4..8]);
}

#[test]
fn a_text_that_is_too_short_is_told_with_both_numbers() {
    let vocabulary = tiny();
    let message = windows(&vocabulary, "a cat", 512).expect_err("too short").to_string();
    let tokens = 1 + vocabulary.encode("a cat", false).len();
    assert!(message.contains(&format!("{tokens} tokens")) && message.contains("512"), "{message}");
    assert!(
        windows(&vocabulary, "a cat on the table", 2)
            .expect_err("no half")
            .to_string()
            .contains("at least 3")
    );
}

#[test]
fn of_a_conversation_the_answers_and_their_ends_are_scored() {
    let vocabulary = tiny();
    let format = Format::named("v1").expect("a template");
    let row = row(&[["<image>\nWhat is there?", "A cat."], ["Where?", "Left."]], 1);
    let passage = conversation(&format, &vocabulary, &row).expect("a passage");
    let scored = passage.chunks.iter().filter(|(_, scored)| *scored);
    let answer = |text: &str| [vocabulary.encode_continued(text), vec![2]].concat();
    let expected = [answer(" A cat."), answer(" Left.")];
    assert_eq!(scored.map(|(chunk, _)| ids(chunk).to_vec()).collect::<Vec<_>>(), expected);
    let targets = passage.targets(10);
    assert_eq!(targets.iter().map(|(_, id)| *id).collect::<Vec<_>>(), expected.concat());
    // The row before the answer's first token is the last of what stands before it, the picture's ten counted.
    let before: usize = passage.chunks.iter().take_while(|(_, s)| !s).map(|(c, _)| rows(c, 10)).sum();
    assert_eq!(targets[0].0, before - 1);
    assert_eq!(targets[targets.len() - 1].0, passage.rows(10) - 2);
    assert_eq!(passage.pictures, [PathBuf::from("0.png")]);
}

#[test]
fn where_an_answers_end_is_no_token_the_answer_alone_is_scored() {
    let vocabulary = tiny();
    let format = Format::named("llava_v0").expect("a template");
    let passage = conversation(&format, &vocabulary, &row(&[["What?", "A cat."]], 0)).expect("a passage");
    let scored: Vec<u32> = passage.targets(0).iter().map(|(_, id)| *id).collect();
    assert_eq!(scored, format.answer(&vocabulary, "A cat.").expect("ids"));
}

#[test]
fn a_cut_leaves_whole_pictures_and_something_to_score() {
    let vocabulary = tiny();
    let format = Format::named("v1").expect("a template");
    let row = row(&[["<image>\nWhat is there?", "A cat."], ["Where?", "Left of the red circle."]], 1);
    let passage = conversation(&format, &vocabulary, &row).expect("a passage");
    let whole = passage.rows(10);
    assert_eq!(passage.clone().cut(whole, 10).as_ref(), Some(&passage));
    let shorter = passage.clone().cut(whole - 3, 10).expect("a passage");
    assert_eq!((shorter.rows(10), shorter.targets(10).len()), (whole - 3, passage.targets(10).len() - 3));
    // Only the first token of the first answer, then none; and a cut through the picture.
    let first = passage.targets(10)[0].0;
    assert_eq!(passage.clone().cut(first + 2, 10).expect("a passage").targets(10).len(), 1);
    assert_eq!(passage.clone().cut(first + 1, 10), None);
    let image_from: usize = passage
        .chunks
        .iter()
        .take_while(|(c, _)| matches!(c, Chunk::Tokens(_)))
        .map(|(c, _)| rows(c, 10))
        .sum();
    assert_eq!(passage.cut(image_from + 9, 10), None);
}

#[test]
fn inputs_are_any_run_of_rows() {
    let passage = Passage {
        chunks: vec![
            (Chunk::Tokens(vec![5, 6]), false),
            (Chunk::Image(0), false),
            (Chunk::Tokens(vec![7, 8]), true),
        ],
        pictures: vec!["a.png".into()],
    };
    let features = [vec![0.0, 0.1, 1.0, 1.1, 2.0, 2.1]];
    // Three rows of width 2 for the picture: ids and first numbers of rows, row by row.
    let rows = |range: Range<usize>| -> Vec<f32> {
        let inputs = passage.inputs(range, &features, 2);
        let flat = inputs.iter().flat_map(|input| match input {
            Input::Tokens(ids) => ids.iter().map(|&id| id as f32).collect::<Vec<_>>(),
            Input::Rows(rows) => rows.chunks(2).map(|row| row[0]).collect(),
        });
        flat.collect()
    };
    let all = [5.0, 6.0, 0.0, 1.0, 2.0, 7.0, 8.0];
    for from in 0..=all.len() {
        for to in from..=all.len() {
            assert_eq!(rows(from..to), all[from..to]);
        }
    }
}
