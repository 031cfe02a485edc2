//! Finds the rows of a data file without reading it as a whole: a pass over the bytes that counts braces and quotes.
//!
//! A row that is broken must not take its neighbours with it. In an array a missing brace or quote makes a row swallow
//! what follows, so after a row that does not parse or never ends, the search goes on inside it, at the next `{` that is followed by a
//! key which only rows have. Such a place cannot lie in a sound text: quotes in texts are escaped.

use std::{
    fs::File,
    io::{Error, ErrorKind, Read, Result},
};

/// Longest row in bytes: ten times the longest of ShareGPT's conversations; what is longer lacks a brace or a quote.
const MAX_ROW: usize = 16 << 20;
/// Bytes read at once.
const BLOCK: usize = 1 << 20;
/// Bytes in which a row's first key must end.
const KEY_SPACE: usize = 64;
/// Keys with which rows begin, and turns do not.
const ROW_KEYS: [&[u8]; 4] = [b"\"id\"", b"\"image\"", b"\"conversations\"", b"\"model\""];

/// What stands at a place of the file.
pub(super) enum Found<'a> {
    /// An object.
    Row { offset: u64, bytes: &'a [u8] },
    /// Something else, passed over.
    Garbage { offset: u64, what: String },
    /// The file ends too early; nothing follows.
    Cut { offset: u64, what: String },
}

impl Found<'_> {
    /// Byte in the file.
    pub(super) fn offset(&self) -> u64 {
        let (Self::Row { offset, .. } | Self::Garbage { offset, .. } | Self::Cut { offset, .. }) = self;
        *offset
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Array,
    Lines,
    Done,
}

/// The pass over one file.
pub(super) struct Scanner {
    file: File,
    buf: Vec<u8>,
    /// Byte of the file that `buf` begins with.
    base: u64,
    /// Next byte to look at, in `buf`.
    pos: usize,
    ended: bool,
    layout: Layout,
}

impl Scanner {
    /// # Errors
    /// The file cannot be read, or begins neither as an array nor as an object (`InvalidData`).
    pub(super) fn new(file: File) -> Result<Self> {
        let mut scanner =
            Self { file, buf: Vec::new(), base: 0, pos: 0, ended: false, layout: Layout::Array };
        scanner.fill()?;
        if scanner.buf.starts_with(b"\xef\xbb\xbf") {
            scanner.pos = 3; // a byte order mark
        }
        let wrong = |what: &str| {
            Error::new(
                ErrorKind::InvalidData,
                format!("{what}; LLaVA's data is a JSON array of rows, or a row a line"),
            )
        };
        match scanner.peek(false)? {
            Some(b'[') => scanner.pos += 1,
            Some(b'{') => scanner.layout = Layout::Lines,
            Some(_) => return Err(wrong("begins with neither [ nor {")),
            None => return Err(wrong("is empty")),
        }
        Ok(scanner)
    }

    /// What comes next; nothing at the end.
    pub(super) fn next(&mut self) -> Result<Option<Found<'_>>> {
        if self.pos > BLOCK {
            self.buf.drain(..self.pos);
            self.base += self.pos as u64;
            self.pos = 0;
        }
        match self.layout {
            Layout::Array => self.next_element(),
            Layout::Lines => self.next_line(),
            Layout::Done => Ok(None),
        }
    }

    /// After a row at `offset` that could not be read: goes on at a row that it may have swallowed.
    pub(super) fn look_inside(&mut self, offset: u64) {
        let start = (offset - self.base) as usize + 1;
        if self.layout == Layout::Array
            && let Some(at) = (start..self.pos).find(|&at| is_row(&self.buf[at..]))
        {
            self.pos = at;
        }
    }

    fn next_element(&mut self) -> Result<Option<Found<'_>>> {
        let first = self.peek(true)?;
        let start = self.pos;
        let offset = self.base + start as u64;
        match first {
            Some(b'{') => match self.object_end(start)? {
                Some(end) => {
                    self.pos = end;
                    Ok(Some(Found::Row { offset, bytes: &self.buf[start..end] }))
                }
                None if self.seek_row(start + 1)? => {
                    Ok(Some(Found::Garbage { offset, what: "its object never ends".into() }))
                }
                None => {
                    self.layout = Layout::Done;
                    Ok(Some(Found::Cut { offset, what: "the file ends inside this row".into() }))
                }
            },
            Some(b']') => {
                self.layout = Layout::Done;
                Ok(None)
            }
            Some(byte) => {
                let what = format!("{:?} where a row or the end of the array is due", char::from(byte));
                if !self.seek_row(start + 1)? {
                    self.layout = Layout::Done;
                }
                Ok(Some(Found::Garbage { offset, what }))
            }
            None => {
                self.layout = Layout::Done;
                Ok(Some(Found::Cut { offset, what: "the file ends without the ] of its array".into() }))
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Found<'_>>> {
        if self.peek(false)?.is_none() {
            return Ok(None);
        }
        let start = self.pos;
        let mut at = start;
        let end = loop {
            match self.buf[at..].iter().position(|&b| b == b'\n') {
                Some(n) => break at + n,
                None => at = self.buf.len(),
            }
            if !self.fill()? {
                break self.buf.len();
            }
        };
        self.pos = end;
        let offset = self.base + start as u64;
        if end - start > MAX_ROW {
            return Ok(Some(Found::Garbage { offset, what: format!("a line of {} bytes", end - start) }));
        }
        Ok(Some(Found::Row { offset, bytes: &self.buf[start..end] }))
    }

    /// Skips white space (and commas); the byte that stops it.
    fn peek(&mut self, commas: bool) -> Result<Option<u8>> {
        loop {
            let skip = |b: &u8| b.is_ascii_whitespace() || (commas && *b == b',');
            if let Some(n) = self.buf[self.pos..].iter().position(|b| !skip(b)) {
                self.pos += n;
                return Ok(Some(self.buf[self.pos]));
            }
            self.pos = self.buf.len();
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Behind the brace that closes the object at `start`; nothing where the file ends before, or a row's length.
    fn object_end(&mut self, start: usize) -> Result<Option<usize>> {
        let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
        let mut at = start;
        loop {
            while let Some(&byte) = self.buf.get(at) {
                at += 1;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    _ if in_text => {}
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Ok(Some(at));
                        }
                    }
                    _ => {}
                }
            }
            if at - start > MAX_ROW || !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Goes to the first row at or behind `at`, or to the end of the file; whether there is one.
    fn seek_row(&mut self, mut at: usize) -> Result<bool> {
        loop {
            // The last bytes of a block may hold half a key.
            let end = if self.ended { self.buf.len() } else { self.buf.len().saturating_sub(KEY_SPACE) };
            if let Some(found) = (at..end).find(|&at| is_row(&self.buf[at..])) {
                self.pos = found;
                return Ok(true);
            }
            at = at.max(end);
            // What is passed over is not kept.
            let passed = at.min(self.buf.len());
            self.buf.drain(..passed);
            self.base += passed as u64;
            at -= passed;
            self.pos = 0;
            if !self.fill()? && self.buf.len() <= at + KEY_SPACE {
                let found = (at..self.buf.len()).find(|&at| is_row(&self.buf[at..]));
                self.pos = found.unwrap_or(self.buf.len());
                return Ok(found.is_some());
            }
        }
    }

    /// Reads one more block; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let read = (&mut self.file).take(BLOCK as u64).read_to_end(&mut self.buf)?;
        self.ended = read == 0;
        Ok(!self.ended)
    }
}

/// Whether a row begins here.
fn is_row(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(b"{") else { return false };
    let rest = &rest[..rest.len().min(KEY_SPACE - 1)];
    ROW_KEYS.iter().any(|key| rest.trim_ascii_start().starts_with(key))
}
