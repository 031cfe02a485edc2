//! Orders: permutations, groups, and the published step counts.

use super::*;

const SHAPE: Shape = Shape { seed: 1, batch: 4, accumulate: 2, world: 2, grouped: false };

fn sorted(mut rows: Vec<u32>) -> Vec<u32> {
    rows.sort_unstable();
    rows
}

/// 2 rows with a picture to 1 without, of all lengths.
fn lengths(n: usize) -> Vec<i32> {
    (0..n).map(|i| (1 + hash(3, i as u64) % 300) as i32 * if i % 3 == 0 { -1 } else { 1 }).collect()
}

#[test]
fn every_row_once_an_epoch() {
    for grouped in [false, true] {
        for n in [16, 48, 100, 1000] {
            let shape = Shape { grouped, ..SHAPE };
            let order = shape.epoch(&lengths(n), 0);
            assert_eq!(order.len(), n.div_ceil(16) * 16);
            assert_eq!(sorted(order[..n].to_vec()), (0..n as u32).collect::<Vec<_>>());
            assert_eq!(order[n..], order[..order.len() - n], "filled from the beginning");
        }
    }
    assert_eq!(SHAPE.epoch(&[5, 5, 5], 0).len(), 16, "fewer rows than a step takes");
}

#[test]
fn the_order_is_of_seed_and_epoch() {
    let lengths = lengths(200);
    for grouped in [false, true] {
        let shape = Shape { grouped, ..SHAPE };
        assert_eq!(shape.epoch(&lengths, 3), shape.epoch(&lengths, 3));
        assert_ne!(shape.epoch(&lengths, 3), shape.epoch(&lengths, 4));
        assert_ne!(shape.epoch(&lengths, 3), Shape { seed: 2, ..shape }.epoch(&lengths, 3));
    }
}

#[test]
fn a_hand_dealt_by_hand() {
    let lengths = [9, 7, 5, 4, 2, 1];
    // 9 | 7, then 5 to the 7 (12), 4 to the 9 (13), 2 to the 12 (full), 1 to the 13.
    let dealt = deal(&[0, 1, 2, 3, 4, 5], 2, |row| lengths[row as usize]);
    assert_eq!(dealt, [[0, 3, 5], [1, 2, 4]]);
    assert_eq!(deal(&[0, 1, 2, 3, 4], 2, |_| 1), [vec![0, 2, 4], vec![1, 3]]);
}

#[test]
fn groups_are_of_one_kind_and_of_like_length() {
    let lengths = lengths(3200);
    let shape = Shape { grouped: true, ..SHAPE };
    let order = shape.epoch(&lengths, 0);
    let of = |row: &u32| lengths[*row as usize];
    let megabatches: Vec<&[u32]> = order.chunks(shape.global()).collect();
    // 2133 = 133 · 16 + 5 with a picture, 1067 = 66 · 16 + 11 without: the tails mix in the last.
    let (last, whole) = megabatches.split_last().unwrap();
    assert!(last.iter().any(|row| of(row) > 0) && last.iter().any(|row| of(row) < 0));
    let kinds: Vec<bool> = whole.iter().map(|rows| of(&rows[0]) > 0).collect();
    for (rows, &kind) in whole.iter().zip(&kinds) {
        assert!(rows.iter().all(|row| (of(row) > 0) == kind));
        let totals: Vec<u32> =
            rows.chunks(4).map(|hand| hand.iter().map(|r| of(r).unsigned_abs()).sum()).collect();
        let longest = rows.iter().map(|r| of(r).unsigned_abs()).max().unwrap();
        assert!(totals.iter().max().unwrap() - totals.iter().min().unwrap() <= longest, "{totals:?}");
    }
    assert!(kinds.windows(2).filter(|pair| pair[0] != pair[1]).count() > 20, "kinds take turns");
}

/// llava-facts 4: v1.5 stage 1 and 2, ScienceQA.
#[test]
fn steps_of_the_published_runs() {
    let steps = |rows, batch, accumulate| Shape { batch, accumulate, world: 8, ..SHAPE }.steps(rows);
    assert_eq!(steps(558_128, 32, 1), 2181);
    assert_eq!(steps(665_298, 16, 1), 5198);
    assert_eq!(steps(595_375, 16, 1), 4652);
    assert_eq!(steps(12_726, 4, 4), 100);
}
