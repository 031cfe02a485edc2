//! Answers are true, in balance, and of fixed form.

use super::*;
use crate::world::judge::score;
use crate::world::scene::{Background, Split};
use std::collections::HashMap;

fn scene(things: &[(&str, usize)]) -> Scene {
    let thing = |&(name, zone): &(&str, usize)| {
        let (row, column) = Zone::ALL[zone].cell();
        let centre = |cell: i32| (cell as f32 + 0.5) / 3.0;
        let kind = crate::world::kinds::by_word(name).unwrap();
        Thing { kind, x: centre(column), y: centre(row), size: 0.25, tint: [1.0; 3] }
    };
    Scene { things: things.iter().map(thing).collect(), background: Background::Plain([9; 3]) }
}

/// All answers of a category over many draws.
fn answers(scene: &Scene, category: Category) -> Vec<String> {
    let (teacher, mut rng) = (Teacher::default(), Rng::new(3, 3));
    let mut all: Vec<String> =
        (0..400).filter_map(|_| teacher.ask(scene, category, &mut rng)).map(|q| q.answer).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn answers_read_as_they_should() {
    let s = scene(&[("fox", 0), ("cake", 5), ("cake", 7)]);
    assert_eq!(answers(&s, Category::Kind), ["A cake.", "A fox.", "Nothing."]);
    let places = answers(&s, Category::Where);
    assert_eq!(places[..2], ["At the right, bottom.", "At the top-left."]);
    assert!(places[2..].iter().all(|a| a.starts_with("There is no ")));
    assert_eq!(answers(&s, Category::Total), ["A fox, a cake, a cake: three things."]);
    assert_eq!(
        answers(&s, Category::Presence),
        ["No.", "Yes, at the right, bottom.", "Yes, at the top-left."]
    );
    let counts = answers(&s, Category::Count);
    assert_eq!(counts[..2], ["At the right, bottom: two cakes.", "At the top-left: one fox."]);
    assert!(counts[2..].iter().all(|a| a.starts_with("There are no ")));
    assert!(answers(&s, Category::Relation).is_empty(), "the cake is not the only one");
    assert_eq!(
        answers(&s, Category::Description),
        [
            "A fox at the top-left, a cake at the right, a cake at the bottom: one fox and two cakes.",
            "At the top-left is a fox. At the right is a cake. At the bottom is a cake. \
             So the picture shows one fox and two cakes."
        ]
    );
    let s = scene(&[("fox", 0), ("owl", 5)]);
    assert_eq!(
        answers(&s, Category::Relation),
        [
            "The fox is at the top-left and the owl at the right, so the fox is to the left.",
            "The owl is at the right and the fox at the top-left, so the owl is to the right."
        ]
    );
    assert_eq!(
        answers(&s, Category::Check),
        [
            "The fox is at the top-left and the owl at the right: no.",
            "The fox is at the top-left and the owl at the right: yes.",
            "The owl is at the right and the fox at the top-left: no.",
            "The owl is at the right and the fox at the top-left: yes."
        ]
    );
    let s = scene(&[("bee", 0), ("cake", 1), ("apple", 2)]);
    let said = answers(&s, Category::Reasoning);
    for expected in [
        "The bee, because it can fly.",
        "The cake and the apple, because they are food.",
        "The bee, because it is an animal and the others are food.",
        "One could watch the bee, eat the cake and eat the apple.",
        "Nothing, because nothing here has wheels.",
    ] {
        assert!(said.iter().any(|a| a == expected), "{expected} is not in {said:#?}");
    }
}

#[test]
fn diagonals_are_not_asked_for_a_direction() {
    assert!(answers(&scene(&[("fox", 0), ("owl", 8)]), Category::Relation).is_empty());
    assert_eq!(Direction::main(Zone::ALL[1], Zone::ALL[6]), Some(Direction::Above)); // two rows, one column
}

#[test]
fn the_judge_agrees_with_the_teacher() {
    let (teacher, mut rng) = (Teacher::default(), Rng::new(8, 0));
    for i in 0..600 {
        let scene = Scene::generate(8, i, Split::Test);
        for q in teacher.conversation(&scene, &mut rng, 8) {
            assert!(score(&q, &q.answer).right, "{q:?}");
        }
    }
}

#[test]
fn guessing_does_not_pay() {
    let (teacher, mut rng) = (Teacher::default(), Rng::new(9, 0));
    let mut tally: HashMap<(Category, String), usize> = HashMap::new();
    for i in 0..3000 {
        let scene = Scene::generate(9, i, Split::Train);
        for q in teacher.conversation(&scene, &mut rng, 8) {
            let key = match &q.facts {
                Facts::Truth(t) => t.to_string(),
                Facts::Count(_, n) | Facts::Total(n) => n.to_string(),
                Facts::Relation(d) => d.word().into(),
                _ => continue,
            };
            *tally.entry((q.category, key)).or_default() += 1;
        }
    }
    let most = |category| {
        let of: Vec<usize> = tally.iter().filter(|(k, _)| k.0 == category).map(|(_, n)| *n).collect();
        *of.iter().max().unwrap() as f32 / of.iter().sum::<usize>() as f32
    };
    for (category, limit) in [
        (Category::Count, 0.40),
        (Category::Total, 0.25),
        (Category::Relation, 0.30),
        (Category::Presence, 0.54),
        (Category::Check, 0.53),
    ] {
        assert!(most(category) < limit, "the best guess for {category:?} is right {}", most(category));
    }
}
