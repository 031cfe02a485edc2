//! Scenes keep the rules that make every question decidable.

use super::*;
use std::collections::HashMap;

fn some(split: Split) -> impl Iterator<Item = Scene> {
    (0..3000).map(move |i| Scene::generate(5, i, split))
}

#[test]
fn places_are_unambiguous() {
    for (i, scene) in some(Split::Train).enumerate() {
        assert!((1..=MOST).contains(&scene.things.len()));
        for (n, t) in scene.things.iter().enumerate() {
            for v in [t.x, t.y] {
                assert!(
                    v - t.size / 2.0 >= -1e-6 && v + t.size / 2.0 <= 1.0 + 1e-6,
                    "scene {i} leaves the picture"
                );
                for line in [1.0 / 3.0, 2.0 / 3.0] {
                    assert!((v - line).abs() >= MARGIN - 1e-6, "scene {i}: {v} is on a line");
                }
            }
            for u in &scene.things[..n] {
                assert!((t.x - u.x).abs() >= APART || (t.y - u.y).abs() >= APART, "scene {i}: too close");
                assert!(t.zone() > u.zone(), "scene {i}: not in reading order, or two in a zone");
            }
        }
    }
}

#[test]
fn the_worlds_share_no_set_of_kinds() {
    let sets = |split| {
        let set = |s: Scene| {
            let mut k: Vec<Kind> = s.counts().into_iter().map(|(k, _)| k).collect();
            k.sort_unstable();
            k
        };
        some(split).map(set).collect::<std::collections::HashSet<_>>()
    };
    assert!(sets(Split::Train).is_disjoint(&sets(Split::Test)));
    assert_eq!(Split::of([3, 9, 3]), Split::of([9, 3]));
    let share = (0..84u16).flat_map(|a| (0..a).map(move |b| Split::of([a, b])));
    let test = share.clone().filter(|s| *s == Split::Test).count() as f32 / share.count() as f32;
    assert!((0.08..0.12).contains(&test), "{test} of the pairs are for the test");
}

#[test]
fn numbers_and_kinds_are_spread() {
    let (mut totals, mut times, mut kinds) = ([0; MOST + 1], [0; MOST + 1], HashMap::new());
    for scene in some(Split::Train) {
        totals[scene.things.len()] += 1;
        for (kind, n) in scene.counts() {
            times[n] += 1;
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    assert!(totals[1..].iter().all(|n| *n > 200), "{totals:?}");
    assert!(times[1..=4].iter().all(|n| *n > 200), "{times:?}");
    assert_eq!(kinds.len(), KINDS.len());
}

#[test]
fn a_patch_knows_what_covers_it() {
    let thing = Thing { kind: 4, x: 0.25, y: 0.75, size: 0.3, tint: [1.0; 3] };
    let scene = Scene { things: vec![thing], background: Background::Plain([0; 3]) };
    // Centres at 1/8, 3/8, 5/8, 7/8: the square spans 0.10–0.40 across and 0.60–0.90 down.
    let four = scene.patches(4);
    let covered: Vec<usize> = (0..16).filter(|&i| four[i].is_some()).collect();
    assert_eq!(covered, [8, 9, 12, 13]);
}
