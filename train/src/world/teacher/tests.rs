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
    let (kinds, empty): (Vec<String>, Vec<String>) =
        answers(&s, Category::Kind).into_iter().partition(|a| !a.ends_with(" nothing."));
    assert_eq!(kinds, ["bottom cake.", "right cake.", "top-left fox."]);
    assert_eq!(empty.len(), 6, "one for each empty place: {empty:?}");
    assert!(answers(&scene(&[("fox", 4)]), Category::Kind).contains(&"center fox.".into()));
    let there = |all: Vec<String>| -> Vec<String> {
        let (absent, there): (Vec<_>, Vec<_>) = all.into_iter().partition(|a| a.contains(" nowhere"));
        assert!(!absent.is_empty());
        there
    };
    let places = answers(&s, Category::Where);
    assert!(places.iter().filter(|a| a.contains("nowhere")).all(|a| a.ends_with(" nowhere.")));
    assert_eq!(there(places), ["cake right, cake bottom.", "fox top-left."]);
    assert_eq!(answers(&s, Category::Total), ["top-left fox, right cake, bottom cake: three things."]);
    assert_eq!(answers(&scene(&[("fox", 4)]), Category::Total), ["center fox: one thing."]);
    let presence = answers(&s, Category::Presence);
    assert!(presence.iter().filter(|a| a.contains("nowhere")).all(|a| a.ends_with(" nowhere: no.")));
    assert_eq!(there(presence), ["cake right, cake bottom: yes.", "fox top-left: yes."]);
    let counts = answers(&s, Category::Count);
    for answer in counts.iter().filter(|a| a.contains("nowhere")) {
        let kind = crate::world::kinds::by_word(answer.split(' ').next().unwrap()).unwrap();
        assert_eq!(*answer, format!("{} nowhere: no {}.", entry(kind).name, entry(kind).plural));
    }
    assert_eq!(there(counts), ["cake right, cake bottom: two cakes.", "fox top-left: one fox."]);
    assert!(answers(&s, Category::Relation).is_empty(), "the cake is not the only one");
    assert_eq!(
        answers(&s, Category::Description),
        [
            "The picture shows top-left fox, right cake, bottom cake. So the picture shows three things.",
            "top-left fox, right cake, bottom cake."
        ]
    );
    let s = scene(&[("fox", 0), ("owl", 5)]);
    assert_eq!(
        answers(&s, Category::Relation),
        ["fox top-left, owl right: left.", "owl right, fox top-left: right."]
    );
    assert_eq!(
        answers(&s, Category::Check),
        [
            "fox top-left, owl right: no.",
            "fox top-left, owl right: yes.",
            "owl right, fox top-left: no.",
            "owl right, fox top-left: yes."
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
        (Category::Count, 0.42),
        (Category::Total, 0.25),
        (Category::Relation, 0.30),
        (Category::Presence, 0.54),
        (Category::Check, 0.53),
    ] {
        assert!(most(category) < limit, "the best guess for {category:?} is right {}", most(category));
    }
}

#[test]
fn a_conversation_is_never_empty() {
    let (teacher, lonely) = (Teacher::default(), scene(&[("fox", 4)]));
    for stream in 0..5000 {
        assert_eq!(teacher.conversation(&lonely, &mut Rng::new(1, stream), 1).len(), 1, "stream {stream}");
    }
}
