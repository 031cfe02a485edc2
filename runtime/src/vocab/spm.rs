//! SentencePiece BPE: the best-scored pair is merged until no pair is a piece.
//!
//! ```text
//! text: spaces → U+2581, one more in front of a fresh text; then one symbol per character
//! repeat: among neighbours whose joined text is a piece, join the pair with the highest score, the leftmost on a tie
//! what is left: a piece → its id; an unused piece → the two it was made of, again; else → its UTF-8 bytes, or unknown
//! ```
//! Candidates wait in a heap and carry the length they were made with: one whose symbols have changed since is stale and
//! dropped. Each join makes at most two candidates and pieces are short, so n characters cost O(n log n).

use super::{Kind, Pieces, byte_of};
use crate::{Error, Result};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

/// What SentencePiece writes for a space: U+2581, lower one eighth block.
pub(super) const SPACE: char = '\u{2581}';

/// What the merge loop needs to know of the pieces.
#[derive(Debug)]
pub(super) struct Spm {
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    /// The id of each byte's piece, if all 256 are there.
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    space_prefix: bool,
}

impl Spm {
    pub(super) fn new(pieces: &Pieces) -> Result<Self> {
        let wrong = |what: String| Error::Vocabulary { name: pieces.name.clone(), what };
        let (n, scores) = (pieces.tokens.len(), pieces.scores.len());
        if n != scores {
            return Err(wrong(format!("{n} pieces but {scores} scores; the file is damaged")));
        }
        if let Some(id) = pieces.scores.iter().position(|s| s.is_nan()) {
            return Err(wrong(format!("the score of piece {id} is not a number; the file is damaged")));
        }
        let mut bytes = [None; 256];
        for (id, token) in
            (0..).zip(&pieces.tokens).filter(|(id, _)| pieces.kinds[*id as usize] == Kind::Byte)
        {
            let byte = byte_of(token).ok_or_else(|| wrong(format!("piece {id}, {token:?}, is no byte")))?;
            bytes[usize::from(byte)] = Some(id);
        }
        let bytes: Option<Vec<u32>> = bytes.into_iter().collect();
        Ok(Self {
            scores: pieces.scores.clone(),
            kinds: pieces.kinds.clone(),
            bytes: bytes.and_then(|b| b.try_into().ok()),
            unknown: pieces.unknown,
            space_prefix: pieces.add_space_prefix.unwrap_or(true),
        })
    }

    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the ids of `text`; `fresh` if it begins a text.
    pub(super) fn encode(&self, ids: &HashMap<String, u32>, text: &str, fresh: bool, out: &mut Vec<u32>) {
        if text.is_empty() {
            return; // no text, no leading space
        }
        let mut escaped = String::with_capacity(text.len() + 3);
        if fresh && self.space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let symbols = symbols(&escaped);
        let (queue, joints) = (BinaryHeap::new(), HashMap::new());
        let mut merge = Merge { spm: self, ids, text: &escaped, symbols, queue, joints };
        merge.run();
        let mut at = Some(0);
        while let Some(i) = at {
            let symbol = merge.symbols[i];
            merge.emit(&escaped[symbol.start..symbol.start + symbol.len], out);
            at = symbol.next;
        }
    }

    /// The piece `text` if text may become it.
    fn mergeable(&self, ids: &HashMap<String, u32>, text: &str) -> Option<u32> {
        let id = *ids.get(text)?;
        matches!(self.kinds[id as usize], Kind::Normal | Kind::UserDefined | Kind::Unused).then_some(id)
    }
}

/// A run of the text that is or may become a piece; a list linked through indices. `len` 0: joined to its left.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

fn symbols(text: &str) -> Vec<Symbol> {
    let n = text.chars().count();
    let chars = text.char_indices().enumerate();
    chars
        .map(|(i, (start, c))| Symbol {
            start,
            len: c.len_utf8(),
            previous: i.checked_sub(1),
            next: (i + 1 < n).then_some(i + 1),
        })
        .collect()
}

/// Two neighbours whose joined text is a piece.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when this was queued.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

struct Merge<'a> {
    spm: &'a Spm,
    ids: &'a HashMap<String, u32>,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
    /// Where each unused piece met in this text was last joined, in bytes from its start.
    joints: HashMap<&'a str, usize>,
}

impl<'a> Merge<'a> {
    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.offer(right - 1, right);
        }
        while let Some(c) = self.queue.pop() {
            let (left, right) = (self.symbols[c.left], self.symbols[c.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != c.len {
                continue;
            }
            self.symbols[c.left].len = c.len;
            self.symbols[c.left].next = right.next;
            self.symbols[c.right].len = 0;
            if let Some(next) = right.next {
                self.symbols[next].previous = Some(c.left);
                self.offer(c.left, next);
            }
            if let Some(previous) = left.previous {
                self.offer(previous, c.left);
            }
        }
    }

    /// Queues two neighbours if they make a piece.
    fn offer(&mut self, left: usize, right: usize) {
        let start = self.symbols[left].start;
        let len = self.symbols[left].len + self.symbols[right].len;
        let joined = &self.text[start..start + len];
        if let Some(id) = self.spm.mergeable(self.ids, joined) {
            if self.spm.kinds[id as usize] == Kind::Unused {
                self.joints.insert(joined, self.symbols[left].len);
            }
            self.queue.push(Candidate { score: self.spm.scores[id as usize], left, right, len });
        }
    }

    /// Appends the id or ids of one final symbol.
    fn emit(&self, text: &'a str, out: &mut Vec<u32>) {
        if let Some(&joint) = self.joints.get(text) {
            self.emit(&text[..joint], out);
            self.emit(&text[joint..], out);
            return;
        }
        match (self.spm.mergeable(self.ids, text), &self.spm.bytes, self.spm.unknown) {
            (Some(id), ..) => out.push(id),
            (None, Some(bytes), _) => out.extend(text.bytes().map(|b| bytes[usize::from(b)])),
            // SentencePiece gives one unknown for a run of them.
            (None, None, Some(unknown)) if out.last() != Some(&unknown) => out.push(unknown),
            _ => {}
        }
    }
}
