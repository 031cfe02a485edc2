//! The largest of each row, as dispatches: see `wgsl/top_k.wgsl`.

use super::{
    buffers::Buffers,
    dispatch::Dispatch,
    shader::{Kernel, Main},
};
use crate::{Tensor, count::Op};

/// Candidates that a workgroup takes: `CHUNK` of top_k.wgsl.
const CHUNK: usize = 2048;
/// The largest k: each round must leave half of the candidates at most.
const MOST_K: usize = CHUNK / 2;
/// Rows of a dispatch at most: some MB of scratch for a vocabulary of 128,000.
const ROWS: usize = 256;

/// How many candidates of a row each round begins with, `among` first; the last is a workgroup's.
fn rounds(among: usize, k: usize) -> Vec<usize> {
    let mut rounds = vec![among];
    let mut count = among;
    while count > CHUNK {
        count = count.div_ceil(CHUNK) * k;
        rounds.push(count);
    }
    rounds
}

/// Bytes of scratch for the k largest of `among` columns of `rows` rows.
///
/// # Panics
/// Where k is larger than 1024.
#[track_caller]
pub(super) fn scratch(rows: usize, among: usize, k: usize) -> u64 {
    assert!(k <= MOST_K, "top_k: {k} of each row, at most {MOST_K}");
    let candidates: usize = rounds(among, k)[1..].iter().sum();
    8 * (rows.min(ROWS) * candidates) as u64
}

/// Dispatches of `dst` = the largest of the first `among` columns of `x`.
pub(super) fn top_k(
    b: &Buffers,
    scratch: u32,
    out: &mut Vec<Dispatch>,
    dst: Tensor,
    x: Tensor,
    among: usize,
) {
    let k = dst.cols / 2;
    let rounds = rounds(among, k);
    for rows in b.stretches(&[dst, x]) {
        for first in rows.clone().step_by(ROWS) {
            let n = ROWS.min(rows.end - first);
            let (dst, from) = (b.place(dst.rows(first, n)), b.place(x.rows(first, n)));
            // Where the candidates of the round and of the next one begin in the scratch, in words.
            let (mut here, mut next) = (0, 0);
            for (i, &count) in rounds.iter().enumerate() {
                let (is_first, is_last) = (i == 0, i + 1 == rounds.len());
                let chunks = count.div_ceil(CHUNK);
                out.push(Dispatch {
                    op: Op::TopK,
                    kernel: Kernel {
                        constants: vec![
                            ("FIRST", is_first.into()),
                            ("LAST", is_last.into()),
                            ("ONE", (k == 1).into()),
                        ],
                        ..Kernel::plain(Main::TopK)
                    },
                    params: vec![
                        count as u32,
                        k as u32,
                        chunks as u32,
                        if is_first { from.at } else { here },
                        x.cols as u32,
                        if is_last { dst.at } else { next },
                    ],
                    buffers: vec![from.buffer, scratch, dst.buffer],
                    groups: [chunks as u32, n as u32, 1],
                });
                here = next;
                next += (2 * n * chunks * k) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rounds;

    #[test]
    fn a_vocabulary_takes_two_rounds() {
        assert_eq!(rounds(2048, 64), [2048]);
        assert_eq!(rounds(32000, 64), [32000, 1024]);
        assert_eq!(rounds(32000, 1), [32000, 16]);
        assert_eq!(rounds(2049, 1024), [2049, 2048]);
        assert_eq!(rounds(128_256, 64), [128_256, 4032, 128]);
    }
}
