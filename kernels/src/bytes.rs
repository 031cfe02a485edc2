//! Shared, immutable bytes: usually a range of a memory-mapped file, so that weights are never copied.

use std::{fmt, ops::Range, sync::Arc};

/// What holds bytes: a memory map, a `Vec<u8>`.
pub trait Owner: AsRef<[u8]> + Send + Sync {
    /// Lets memory go that `range` takes, where its bytes can be had again (pages of a mapped file).
    fn release(&self, _range: Range<usize>) {}
}

impl Owner for Vec<u8> {}

/// A range of bytes that keeps its owner alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl Owner + 'static) -> Self {
        let len = owner.as_ref().len();
        Self { owner: Arc::new(owner), range: 0..len }
    }

    /// A part of these bytes, `range` counted from their start; `None` where it leaves them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (range.start <= range.end && end <= self.range.end)
            .then(|| Self { owner: Arc::clone(&self.owner), range: start..end })
    }

    /// Says that these bytes will hardly be read again: they lie on a device now. What can be had again lets its memory go.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.range.len())
    }
}
