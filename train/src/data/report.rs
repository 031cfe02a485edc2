//! What was wrong with the data: counts and examples per reason.
//!
//! LLaVA's scripts print a line per bad sample, or train on it with a loss of zero. In a data set of 665,000 rows nobody
//! sees either. Here every row that is left out has a reason; the reasons are counted and the first rows of each are named,
//! so that the end of a run (and its log) can say what it was not trained on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Why a row is left out, or what was mended in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The text of the row is not JSON, or its fields have other types.
    BrokenJson,
    /// The file ends inside its array.
    CutFile,
    /// The row has no `conversations`, or an empty list.
    NoConversation,
    /// Speakers are not `human` and `gpt` in turn, or nobody answers the last question.
    Roles,
    /// A turn without words.
    EmptyText,
    /// `<image>` marks and the pictures named do not agree.
    ImageMarks,
    /// The picture's file cannot be read.
    MissingImage,
    /// The picture's file is read but cannot be decoded.
    BrokenImage,
    /// The ids built turn by turn differ from those of the whole text.
    Tokens,
    /// Longer than the context, so that a picture is cut in two or nothing is left to learn.
    TooLong,
    /// No position is learned.
    NothingLearned,
    /// Mended: the conversation began with an answer, which was dropped.
    LeadingAnswer,
}

impl Reason {
    /// Whether rows with this are left out; otherwise they are mended and used.
    pub fn skips(self) -> bool {
        self != Self::LeadingAnswer
    }

    /// What a person reads.
    pub fn text(self) -> &'static str {
        match self {
            Self::BrokenJson => "not readable as a row of JSON",
            Self::CutFile => "cut off: the file ends inside its array, and what follows is missing",
            Self::NoConversation => "no conversations",
            Self::Roles => "speakers out of turn",
            Self::EmptyText => "empty text",
            Self::ImageMarks => "<image> marks and pictures do not agree",
            Self::MissingImage => "picture missing",
            Self::BrokenImage => "picture broken",
            Self::Tokens => "tokens by turn differ from those of the whole text",
            Self::TooLong => "too long for the context",
            Self::NothingLearned => "nothing to learn",
            Self::LeadingAnswer => "first answer without a question dropped (row used)",
        }
    }
}

/// One row's trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub reason: Reason,
    /// Which row: file, number, id, byte offset.
    pub row: String,
    /// What exactly is wrong with it.
    pub what: String,
}

/// The faults of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    reasons: BTreeMap<Reason, Tally>,
}

/// Faults of one reason.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Rows already counted, so that a row met in every epoch counts once.
    rows: BTreeSet<String>,
    examples: Vec<String>,
}

impl Report {
    /// Examples kept per reason: enough to see a pattern (a folder, a file type), short enough for a terminal.
    pub const EXAMPLES: usize = 5;

    /// Counts a fault; the same row with the same reason counts once.
    pub fn add(&mut self, fault: Fault) {
        let tally = self.reasons.entry(fault.reason).or_default();
        if tally.examples.len() < Self::EXAMPLES && !tally.rows.contains(&fault.row) {
            tally.examples.push(format!("{}: {}", fault.row, fault.what));
        }
        tally.rows.insert(fault.row);
    }

    /// Rows with this reason.
    pub fn count(&self, reason: Reason) -> usize {
        self.reasons.get(&reason).map_or(0, |tally| tally.rows.len())
    }

    /// Rows left out.
    pub fn skipped(&self) -> usize {
        self.reasons.iter().filter(|(reason, _)| reason.skips()).map(|(_, tally)| tally.rows.len()).sum()
    }

    /// What is said of files that end inside their array: with how many rows nobody knows, so their number is no measure.
    pub fn cut(&self) -> &[String] {
        self.reasons.get(&Reason::CutFile).map_or(&[], |tally| tally.examples.as_slice())
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Per reason that occurred: itself, the number of rows, and the first few by name.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, usize, &[String])> {
        self.reasons.iter().map(|(&reason, tally)| (reason, tally.rows.len(), tally.examples.as_slice()))
    }

    /// Adds another report's faults.
    pub fn merge(&mut self, other: Self) {
        for (reason, tally) in other.reasons {
            let own = self.reasons.entry(reason).or_default();
            let room = Self::EXAMPLES.saturating_sub(own.examples.len());
            let new = tally.examples.into_iter().filter(|e| !own.examples.contains(e));
            let new: Vec<String> = new.take(room).collect();
            own.examples.extend(new);
            own.rows.extend(tally.rows);
        }
    }
}

impl fmt::Display for Report {
    /// A line per reason, its examples indented below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (reason, count, examples) in self.reasons() {
            writeln!(f, "{count} row{}: {}", if count == 1 { "" } else { "s" }, reason.text())?;
            for example in examples {
                writeln!(f, "    {example}")?;
            }
            if count > examples.len() {
                writeln!(f, "    and {} more", count - examples.len())?;
            }
        }
        Ok(())
    }
}
