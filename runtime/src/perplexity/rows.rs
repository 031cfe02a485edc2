//! LLaVA's data files: conversations about pictures, row by row.
//!
//! A row is `{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}, …]}`; other keys are passed over and `image`
//! may be a list. The file is one JSON array or one object a line. A measurement must say what it was made of, so a row
//! that cannot be used ends it, by its name; nothing is mended but an answer before the first question, which LLaVA's
//! scripts drop as well. Only as many rows are read as are wanted: the published files are gigabytes.

use crate::{Error, Result};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, SeqAccess, Visitor},
};
use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// The mark in a text where a picture goes.
pub const IMAGE_MARK: &str = "<image>";

/// What a row looks like, for messages.
const FORM: &str =
    r#"{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}"#;

/// A conversation, perhaps about pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// File, number from 0 and id, for messages.
    pub name: String,
    /// Pictures in the order of their marks.
    pub images: Vec<PathBuf>,
    /// Question and answer, at least one pair; each picture's [`IMAGE_MARK`] stands in a question.
    pub turns: Vec<[String; 2]>,
}

/// Reads the first `most` rows of the file `data`, whose pictures lie in `folder`.
///
/// # Errors
/// The file cannot be read or is no LLaVA data, a row is faulty, or a picture is not there; the message names the row.
pub fn read_rows(data: &Path, folder: &Path, most: usize) -> Result<Vec<Row>> {
    let file = File::open(data).map_err(|source| Error::ReadData { path: data.into(), source })?;
    let not_rows =
        |what: String| Error::NotRows { path: data.into(), what: format!("{what}; rows are {FORM}") };
    let mut raw = Vec::new();
    parse(BufReader::new(file), most, &mut raw).map_err(|e| match e.io_error_kind() {
        Some(_) => Error::ReadData { path: data.into(), source: e.into() },
        None => not_rows(format!("row {}: {e}", raw.len())),
    })?;
    if raw.is_empty() {
        return Err(not_rows("no rows".into()));
    }
    let name = data.file_name().unwrap_or(data.as_os_str()).to_string_lossy();
    raw.into_iter().enumerate().map(|(number, row)| row.check(&name, number, folder)).collect()
}

#[derive(Deserialize)]
struct RawRow {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    image: Option<Images>,
    conversations: Vec<RawTurn>,
}

#[derive(Deserialize)]
struct RawTurn {
    from: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Images {
    One(String),
    Many(Vec<String>),
}

/// Adds the first `most` rows of an array, or of objects one after the other, to `rows`.
fn parse(mut from: impl BufRead, most: usize, rows: &mut Vec<RawRow>) -> serde_json::Result<()> {
    // A byte-order mark is no JSON but common.
    if from.fill_buf().map_err(serde_json::Error::io)?.starts_with(b"\xEF\xBB\xBF") {
        from.consume(3);
    }
    loop {
        let buffer = from.fill_buf().map_err(serde_json::Error::io)?;
        let (all, blank) = (buffer.len(), buffer.iter().take_while(|b| b.is_ascii_whitespace()).count());
        let is_array = buffer.get(blank) == Some(&b'[');
        from.consume(blank);
        if is_array {
            return array(from, most, rows);
        }
        if blank < all || all == 0 {
            for row in serde_json::Deserializer::from_reader(from).into_iter().take(most) {
                rows.push(row?);
            }
            return Ok(());
        }
    }
}

fn array(from: impl BufRead, most: usize, rows: &mut Vec<RawRow>) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_reader(from);
    let outcome = First { rows, most }.deserialize(&mut json);
    // What stands behind the last row that is wanted is not read, which the parser calls an error.
    if rows.len() < most { outcome } else { Ok(()) }
}

/// Takes the first rows out of an array.
struct First<'r> {
    rows: &'r mut Vec<RawRow>,
    most: usize,
}

impl<'de> DeserializeSeed<'de> for First<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for First<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        while self.rows.len() < self.most
            && let Some(row) = seq.next_element()?
        {
            self.rows.push(row);
        }
        Ok(())
    }
}

impl RawRow {
    /// The row, if it is one that can be measured.
    fn check(self, file: &str, number: usize, folder: &Path) -> Result<Row> {
        let id = match self.id {
            Some(Id::Text(id)) => format!(" (id {id:?})"),
            Some(Id::Number(id)) => format!(" (id {id})"),
            None => String::new(),
        };
        let name = format!("{file} row {number}{id}");
        let wrong = |what: String| Error::Row { row: name.clone(), what };
        let mut turns = self.conversations;
        if turns.len() > 1 && turns[0].from == "gpt" {
            turns.remove(0);
        }
        if turns.is_empty() || turns.len() % 2 == 1 {
            return Err(wrong(format!("{} turns: every question needs its answer", turns.len())));
        }
        for (i, turn) in turns.iter().enumerate() {
            let due = ["human", "gpt"][i % 2];
            if turn.from != due {
                return Err(wrong(format!("turn {i} is from {:?} where {due:?} is due", turn.from)));
            }
            if due == "gpt" && turn.value.contains(IMAGE_MARK) {
                return Err(wrong(format!("{IMAGE_MARK} stands in the answer of turn {i}")));
            }
        }
        let images: Vec<PathBuf> = match self.image {
            None => Vec::new(),
            Some(Images::One(image)) => vec![folder.join(image)],
            Some(Images::Many(images)) => images.iter().map(|image| folder.join(image)).collect(),
        };
        let marks: usize = turns.iter().map(|turn| turn.value.matches(IMAGE_MARK).count()).sum();
        if marks != images.len() {
            let named = images.len();
            return Err(wrong(format!("{named} pictures are named, {marks} {IMAGE_MARK} marks are there")));
        }
        if let Some(missing) = images.iter().find(|path| !path.is_file()) {
            let path = missing.display();
            return Err(wrong(format!("there is no picture {path}; --images names the folder they lie in")));
        }
        let mut values = turns.into_iter().map(|turn| turn.value);
        let mut pairs = Vec::new();
        while let (Some(question), Some(answer)) = (values.next(), values.next()) {
            pairs.push([question, answer]);
        }
        Ok(Row { name, images, turns: pairs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TALK: &str =
        r#""conversations":[{"from":"human","value":"<image>\nWhat?"},{"from":"gpt","value":"A cat."}]"#;

    /// The rows of a file that holds `json`, beside a picture `cat.png`.
    fn rows(json: &str, most: usize) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data.json");
        std::fs::write(&data, json).expect("a file");
        std::fs::write(folder.path().join("cat.png"), "").expect("a file");
        read_rows(&data, folder.path(), most)
    }

    #[track_caller]
    fn refused(json: &str, words: &[&str]) {
        let message = rows(json, usize::MAX).expect_err("a refusal").to_string();
        for word in words {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
    }

    #[test]
    fn an_array_and_lines_are_read_alike_and_no_further_than_wanted() {
        let row = |id: &str| format!(r#"{{"id":{id},"image":"cat.png",{TALK},"model":"x"}}"#);
        let (a, b) = (row("\"a\""), row("7"));
        let array = rows(&format!("\u{feff} \n[{a},\n{b}]"), usize::MAX).expect("rows");
        let lines = rows(&format!("{a}\n{b}\n"), usize::MAX).expect("rows");
        let names = |rows: &[Row]| rows.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&array), ["data.json row 0 (id \"a\")", "data.json row 1 (id 7)"]);
        assert_eq!(names(&lines), names(&array));
        assert_eq!(array[0].turns, [["<image>\nWhat?".to_string(), "A cat.".to_string()]]);
        assert!(array[0].images[0].ends_with("cat.png"));
        for broken in [format!("[{a},{{broken"), format!("{a}\n{{broken")] {
            assert_eq!(rows(&broken, 1).expect("the first row").len(), 1);
            refused(&broken, &["data.json: row 1: ", "line", "conversations"]);
        }
    }

    #[test]
    fn an_answer_before_the_first_question_is_dropped() {
        let json = r#"[{"conversations":[{"from":"gpt","value":"Hm."},{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]}]"#;
        let row = rows(json, 9).expect("rows").remove(0);
        assert_eq!((row.turns, row.images.len()), (vec![["Q".into(), "A".into()]], 0));
    }

    #[test]
    fn what_is_no_conversation_is_refused_by_the_name_of_the_row() {
        refused("[]", &["data.json: no rows"]);
        refused("", &["no rows"]);
        refused("A plain text.", &["data.json", "rows are"]);
        refused(r#"{"a":1}"#, &["conversations", "line 1"]);
        refused(r#"[{"id":"x","conversations":[]}]"#, &["row 0 (id \"x\")", "0 turns"]);
        let two = |a: &str, b: &str, text: &str| {
            format!(
                r#"[{{"conversations":[{{"from":"{a}","value":"Q"}},{{"from":"{b}","value":"{text}"}}]}}]"#
            )
        };
        refused(&two("human", "human", "A"), &["row 0", "turn 1", "\"gpt\" is due"]);
        refused(&two("user", "gpt", "A"), &["turn 0", "\"human\" is due"]);
        refused(&two("human", "gpt", "<image>"), &["answer of turn 1"]);
        refused(&format!("[{{{TALK}}}]"), &["0 pictures", "1 <image>"]);
        refused(&format!(r#"[{{"image":["cat.png","b.png"],{TALK}}}]"#), &["2 pictures", "1 <image>"]);
        refused(
            &format!(r#"[{{"id":3,"image":"dog.png",{TALK}}}]"#),
            &["row 0 (id 3)", "dog.png", "--images"],
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let message = read_rows(Path::new("absent.json"), Path::new(""), 1).expect_err("no file").to_string();
        assert!(message.contains("absent.json"), "{message}");
    }
}
