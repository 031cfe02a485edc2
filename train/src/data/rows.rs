//! LLaVA's data files: an index of their rows, and rows read one at a time.
//!
//! `llava_v1_5_mix665k.json` is one array of a gigabyte; as objects in memory it takes several. Here one pass checks every row and
//! notes where it is (16 bytes a row and a little); the texts stay on disk and a row is read again when its turn comes. A row that
//! cannot be used is named in the [`Report`] and has no place in the index, so the number of rows is known before training.
//!
//! A row is `{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}, …]}`; other keys (`model`) are passed over.
//! `image` may be a list: as many names as there are `<image>` marks. The file is one JSON array, or one object a line (JSONL).

mod scan;

use super::report::{Fault, Reason, Report};
use crate::{Error, Result};
use scan::{Found, Scanner};
use serde::Deserialize;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The mark in a text where a picture goes.
pub const IMAGE_MARK: &str = "<image>";

/// A usable row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// File, number, id and byte offset, for messages.
    pub name: String,
    /// Pictures in the order of their marks, relative to the folder of images.
    pub images: Vec<String>,
    /// Question and answer, at least one pair; each picture's [`IMAGE_MARK`] stands in a question.
    pub turns: Vec<[String; 2]>,
}

/// Where a row is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    /// Bytes.
    len: u32,
    /// Words of all turns; negative for rows without a picture.
    words: i32,
    /// Number among all rows of its file, from 0, bad ones too.
    number: u32,
    /// Which file.
    file: u32,
}

/// An open data file.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: Mutex<File>,
}

/// The rows of one or more data files.
#[derive(Debug)]
pub struct Rows {
    sources: Vec<Source>,
    index: Vec<Entry>,
}

impl Rows {
    /// Reads the files once, checks every row and notes the good ones; the others go into `report`.
    ///
    /// # Errors
    /// A file cannot be read or is neither a JSON array nor JSONL, or there is no good row in any of them.
    pub fn open(paths: &[PathBuf], report: &mut Report) -> Result<Self> {
        let mut rows = Self { sources: Vec::new(), index: Vec::new() };
        for path in paths {
            rows.add(path, report)?;
        }
        if rows.index.is_empty() {
            let files: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            return Err(Error::Data(format!(
                "{}: no row that can be trained on; rows look like {{\"id\", \"image\", \"conversations\": [{{\"from\": \"human\", \"value\"}}, {{\"from\": \"gpt\", \"value\"}}]}}\n{report}",
                files.join(", ")
            )));
        }
        Ok(rows)
    }

    /// Number of usable rows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none: never after [`Rows::open`].
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whitespace-separated words of each row, negative for rows without a picture: the lengths by which LLaVA groups.
    pub fn lengths(&self) -> Vec<i32> {
        self.index.iter().map(|entry| entry.words).collect()
    }

    /// Whether row `i` has a picture.
    pub fn has_image(&self, i: usize) -> bool {
        self.index[i].words > 0
    }

    /// Reads row `i` from its file.
    ///
    /// # Errors
    /// The file changed since it was indexed: the fault says how.
    pub fn read(&self, i: usize) -> std::result::Result<Row, Fault> {
        let entry = self.index[i];
        let source = &self.sources[entry.file as usize];
        let place = Place { path: &source.path, number: entry.number, offset: entry.offset };
        let mut bytes = vec![0; entry.len as usize];
        let read = {
            // A reader that panicked leaves a file that can be read as well as before.
            let mut file = source.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(entry.offset)).and_then(|_| file.read_exact(&mut bytes))
        };
        read.map_err(|e| place.fault("", Reason::BrokenJson, format!("cannot be read again: {e}")))?;
        check(&bytes, &place).map(|(row, _)| row)
    }

    fn add(&mut self, path: &Path, report: &mut Report) -> Result<()> {
        let open = |path: &Path| File::open(path).map_err(Error::io(path));
        let file = self.sources.len() as u32;
        let mut scanner = Scanner::new(open(path)?).map_err(|e| named(path, e))?;
        let mut number = 0;
        while let Some(found) = scanner.next().map_err(|e| named(path, e))? {
            let offset = found.offset();
            let place = Place { path, number, offset };
            number += 1;
            match found {
                Found::Row { bytes, .. } => match check(bytes, &place) {
                    Ok((row, mended)) => {
                        mended.into_iter().for_each(|fault| report.add(fault));
                        let (len, words) = (bytes.len() as u32, row.words());
                        self.index.push(Entry { offset, len, words, number: place.number, file });
                    }
                    Err(fault) => {
                        let broken = fault.reason == Reason::BrokenJson;
                        report.add(fault);
                        if broken {
                            scanner.look_inside(offset);
                        }
                    }
                },
                Found::Garbage { what, .. } => report.add(place.fault("", Reason::BrokenJson, what)),
                Found::Cut { what, .. } => report.add(place.fault(
                    "",
                    Reason::CutFile,
                    format!("{what}; all that follows byte {offset} is missing"),
                )),
            }
        }
        self.sources.push(Source { path: path.into(), file: Mutex::new(open(path)?) });
        Ok(())
    }
}

/// An input error with its file; what the scanner refuses is told as it is.
fn named(path: &Path, e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::InvalidData => Error::Data(format!("{}: {e}", path.display())),
        _ => Error::Io { path: path.into(), source: e },
    }
}

impl Row {
    /// Words of all turns, as Python's `split` counts them; negative without a picture.
    fn words(&self) -> i32 {
        let words: usize = self.turns.iter().flatten().map(|text| text.split_whitespace().count()).sum();
        let words = i32::try_from(words).unwrap_or(i32::MAX);
        if self.images.is_empty() { -words } else { words }
    }
}

/// Where a row stands, for messages.
struct Place<'a> {
    path: &'a Path,
    number: u32,
    offset: u64,
}

impl Place<'_> {
    fn name(&self, id: &str) -> String {
        let file = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy();
        let id = if id.is_empty() { String::new() } else { format!(", id {id:?}") };
        format!("{file} row {} (byte {}{id})", self.number, self.offset)
    }

    fn fault(&self, id: &str, reason: Reason, what: impl Into<String>) -> Fault {
        Fault { reason, row: self.name(id), what: what.into() }
    }
}

#[derive(Deserialize)]
struct RawRow {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    image: Option<Images>,
    #[serde(default)]
    conversations: Option<Vec<RawTurn>>,
}

#[derive(Deserialize)]
struct RawTurn {
    from: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`id` is neither a text nor a whole number")]
enum Id {
    Text(String),
    Number(i64),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`image` is neither the name of a picture nor a list of names")]
enum Images {
    One(String),
    Many(Vec<String>),
}

/// A row's bytes to a row, with what was mended in it.
fn check(bytes: &[u8], place: &Place<'_>) -> std::result::Result<(Row, Option<Fault>), Fault> {
    let raw: RawRow = serde_json::from_slice(bytes)
        .map_err(|e| place.fault("", Reason::BrokenJson, format!("{e} of the row's text")))?;
    let id = match raw.id {
        Some(Id::Text(id)) => id,
        Some(Id::Number(id)) => id.to_string(),
        None => String::new(),
    };
    let fault = |reason, what: String| place.fault(&id, reason, what);
    let mut turns = raw.conversations.unwrap_or_default();
    if turns.is_empty() {
        return Err(fault(Reason::NoConversation, "has no conversations".into()));
    }
    let leading = turns.len() > 1 && turns[0].from == "gpt";
    if leading {
        turns.remove(0);
    }
    for (i, turn) in turns.iter().enumerate() {
        let want = ["human", "gpt"][i % 2];
        if turn.from != want {
            return Err(fault(
                Reason::Roles,
                format!("turn {i} is from {:?} where {want:?} is due", turn.from),
            ));
        }
        if turn.value.trim().is_empty() {
            return Err(fault(Reason::EmptyText, format!("turn {i}, of {want:?}, is empty")));
        }
    }
    if turns.len() % 2 == 1 {
        return Err(fault(Reason::Roles, "the last question has no answer".into()));
    }
    let images = match raw.image {
        None => Vec::new(),
        Some(Images::One(image)) => vec![image],
        Some(Images::Many(images)) => images,
    };
    marks(&turns, images.len()).map_err(|what| fault(Reason::ImageMarks, what))?;
    let mut values = turns.into_iter().map(|turn| turn.value);
    let mut pairs = Vec::new();
    while let (Some(question), Some(answer)) = (values.next(), values.next()) {
        pairs.push([question, answer]);
    }
    let mended = leading.then(|| fault(Reason::LeadingAnswer, "begins with an answer".into()));
    Ok((Row { name: place.name(&id), images, turns: pairs }, mended))
}

/// Every picture has its mark in a question, and every mark its picture.
fn marks(turns: &[RawTurn], images: usize) -> std::result::Result<(), String> {
    let count = |of: usize| -> usize {
        turns.iter().skip(of).step_by(2).map(|turn| turn.value.matches(IMAGE_MARK).count()).sum()
    };
    let (asked, answered) = (count(0), count(1));
    if answered > 0 {
        return Err(format!("{IMAGE_MARK} stands in an answer"));
    }
    if asked != images {
        return Err(format!("{images} pictures are named, {asked} {IMAGE_MARK} marks are in the questions"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
