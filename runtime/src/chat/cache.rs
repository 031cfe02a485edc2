//! What the KV cache holds, position by position, so that nothing is computed twice.

use super::Seen;
use crate::prompt::Chunk;

/// What stands at one position of the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// A token id.
    Token(u32),
    /// A row of a picture's features: which picture, which row.
    Picture { key: Seen, row: u32 },
}

/// The positions of `chunks`; `picture(i)` gives the key and the rows of the turn's i-th picture.
pub(super) fn slots(chunks: &[Chunk], picture: impl Fn(usize) -> (Seen, usize)) -> Vec<Slot> {
    let mut out = Vec::new();
    for chunk in chunks {
        match chunk {
            Chunk::Tokens(ids) => out.extend(ids.iter().map(|&id| Slot::Token(id))),
            Chunk::Image(i) => {
                let (key, rows) = picture(*i);
                out.extend((0..rows as u32).map(|row| Slot::Picture { key, row }));
            }
        }
    }
    out
}

/// How many positions of `held` serve for `wanted`: their common beginning, less one where that is all of `wanted`,
/// since the logits of the last position have to be computed.
pub(super) fn reusable(held: &[Slot], wanted: &[Slot]) -> usize {
    let same = held.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    same.min(wanted.len().saturating_sub(1))
}

/// A run of positions of one kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Rows `first..first + rows` of the picture `key`.
    Picture { key: Seen, first: usize, rows: usize },
}

/// `slots` as runs, in order.
pub(super) fn runs(slots: &[Slot]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    for slot in slots {
        match (*slot, out.last_mut()) {
            (Slot::Token(id), Some(Run::Tokens(ids))) => ids.push(id),
            (Slot::Token(id), _) => out.push(Run::Tokens(vec![id])),
            (Slot::Picture { key, row }, Some(Run::Picture { key: k, first, rows }))
                if *k == key && *first + *rows == row as usize =>
            {
                *rows += 1;
            }
            (Slot::Picture { key, row }, _) => {
                out.push(Run::Picture { key, first: row as usize, rows: 1 });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_question_reuses_the_picture() {
        let picture = |_| (Seen(7), 3);
        let first = slots(&[Chunk::Tokens(vec![1, 5]), Chunk::Image(0), Chunk::Tokens(vec![9])], picture);
        let mut held = first.clone();
        held.extend([Slot::Token(20), Slot::Token(2)]);
        let mut second = held.clone();
        second.push(Slot::Token(30));
        assert_eq!(reusable(&held, &second), held.len());
        assert_eq!(reusable(&held, &first), first.len() - 1, "the last position is computed for its logits");
        let other = slots(&[Chunk::Tokens(vec![1, 5]), Chunk::Image(0)], |_| (Seen(8), 3));
        assert_eq!(reusable(&held, &other), 2, "another picture at the same place");
    }

    #[test]
    fn runs_keep_order_and_rows() {
        let picture = |i: usize| (Seen(i as u64), 2);
        let all =
            slots(&[Chunk::Image(0), Chunk::Image(0), Chunk::Tokens(vec![4, 5]), Chunk::Image(1)], picture);
        assert_eq!(
            runs(&all[1..]),
            [
                Run::Picture { key: Seen(0), first: 1, rows: 1 },
                Run::Picture { key: Seen(0), first: 0, rows: 2 },
                Run::Tokens(vec![4, 5]),
                Run::Picture { key: Seen(1), first: 0, rows: 2 },
            ]
        );
    }
}
