//! What was asked counts and nothing else; evidence is no verdict, and silence is no answer.

use super::*;
use crate::world::teacher::Category;

fn judged(facts: Facts, answer: &str) -> Outcome {
    let category = Category::Kind; // the facts decide
    score(&Question { category, text: String::new(), answer: String::new(), facts }, answer)
}

fn right(facts: &Facts, answer: &str) -> bool {
    judged(facts.clone(), answer).right
}

fn kind(name: &str) -> Kind {
    by_word(name).unwrap()
}

fn at(word: &str) -> Zone {
    zone(word).unwrap()
}

#[test]
fn a_kind_is_named_alone() {
    let fox = Facts::Kind(Some(kind("fox")));
    for answer in ["top-left fox.", "I think it is a Fox!", "fox"] {
        assert!(right(&fox, answer), "{answer}");
    }
    for answer in ["top-left cake.", "top-left nothing.", "top-left fox, right cake.", "top-left.", ""] {
        assert!(!right(&fox, answer), "{answer}");
    }
    assert!(right(&Facts::Kind(Some(kind("sunflower"))), "lower left sunflower."));
    assert!(right(&Facts::Kind(None), "top-left nothing."));
    assert!(!right(&Facts::Kind(None), "top-left."), "silence is not nothing");
    assert!(!right(&Facts::Kind(None), "top-left fox."));
}

#[test]
fn places_are_all_of_them_and_no_other() {
    let two = Facts::Where(kind("fox"), vec![at("top-left"), at("right")]);
    assert!(right(&two, "fox top-left, fox right."));
    assert!(right(&two, "At the right and in the upper left."));
    assert!(!right(&two, "fox top-left."));
    assert!(!right(&two, "fox top-left, fox right, fox bottom."));
    assert!(!right(&two, "cake top-left, cake right."));
    assert!(!right(&Facts::Where(kind("fox"), vec![at("left")]), "fox top-left."), "left is not top-left");
    let none = Facts::Where(kind("fox"), vec![]);
    assert!(right(&none, "fox nowhere.") && right(&none, "There is no fox."));
    assert!(!right(&none, "fox.") && !right(&none, "fox top.") && !right(&none, ""));
    assert!(!right(&two, "fox nowhere."));
}

#[test]
fn a_number_is_the_verdict_behind_the_evidence() {
    let [two, no] = [2, 0].map(|n| Facts::Count(kind("fox"), n));
    assert!(right(&two, "fox top-left, fox right: two foxes.") && right(&two, "There are 2 foxes."));
    assert!(!right(&two, "fox top-left, fox right.") && !right(&two, "fox top-left, fox right:"));
    assert!(!right(&two, "fox top-left, fox right: two cakes."));
    assert!(!right(&two, "two foxes: three foxes."));
    assert!(right(&no, "fox nowhere: no foxes.") && right(&no, "There are no foxes."));
    assert!(!right(&no, "fox nowhere."), "the number is not said");
    assert!(right(&Facts::Total(2), "top-left fox, right cake: two things."));
    assert!(right(&Facts::Total(1), "top-left fox: one thing."));
    assert!(!right(&Facts::Total(1), "top-left fox: two things."));
}

#[test]
fn a_place_is_no_direction() {
    let [left, right_of, above] = [Direction::Left, Direction::Right, Direction::Above].map(Facts::Relation);
    assert!(right(&left, "fox top-left, cake right: left."));
    assert!(!right(&right_of, "fox top-left, cake right: left."));
    for evidence in
        ["fox top, cake left.", "fox top, cake left:", "left fox, top cake.", "The fox is at the left."]
    {
        assert!(!right(&left, evidence), "{evidence}");
    }
    for sentence in ["left.", "The fox is to the left of the cake.", "On the left.", "Fox left of cake."] {
        assert!(right(&left, sentence), "{sentence}");
    }
    let old = "The fox is at the right and the cake at the left, so the fox is to the right.";
    assert!(right(&right_of, old) && !right(&left, old));
    assert!(right(&above, "The fox is above the cake."));
    assert!(!right(&above, "fox top, cake bottom: above, below."), "one of them must be wrong");
}

#[test]
fn yes_or_no_and_not_both() {
    let yes = |answer| judged(Facts::Truth(true), answer).yes;
    assert_eq!(yes("fox top, cake bottom: yes."), Some(true));
    assert_eq!(yes("fox nowhere: no."), Some(false));
    assert_eq!(yes("Yes, at the top."), Some(true));
    assert_eq!(yes("There is no fox."), Some(false));
    for answer in ["fox top, cake bottom.", "fox nowhere:", "yes or no", "Perhaps.", ""] {
        assert_eq!(judged(Facts::Truth(false), answer), Outcome::default(), "{answer}");
    }
    assert!(judged(Facts::Truth(false), "fox nowhere: no.").right);
}

#[test]
fn descriptions_are_weighed_thing_by_thing() {
    let [fox, cake] = [kind("fox"), kind("cake")];
    let seen = Facts::Description(vec![(fox, at("top-left")), (cake, at("right")), (cake, at("bottom"))]);
    let outcome = |answer: &str| judged(seen.clone(), answer);
    let all = Outcome { right: true, found: 3, ..Outcome::default() };
    for answer in [
        "top-left fox, right cake, bottom cake.",
        "The picture shows top-left fox, right cake, bottom cake. So the picture shows three things.",
        "fox top-left, cake right, cake bottom.",
        "A fox at the top-left and two cakes at the right and bottom.",
        "One fox and two cakes.",
    ] {
        assert_eq!(outcome(answer), all, "{answer}");
    }
    let some =
        outcome("The picture shows top-left fox, right cake, left pear. So the picture shows three things.");
    assert_eq!((some.right, some.found, some.missed, some.invented, some.misplaced), (false, 2, 1, 1, 0));
    let moved = outcome("top fox, right cake, left cake.");
    assert_eq!(
        (moved.right, moved.found, moved.missed, moved.invented, moved.misplaced),
        (false, 3, 0, 0, 2)
    );
    let doubled = outcome("top-left fox, top-left fox, right cake, right cake.");
    assert_eq!((doubled.found, doubled.invented, doubled.misplaced), (3, 1, 1));
    let silent = outcome("");
    assert_eq!((silent.right, silent.found, silent.missed), (false, 0, 3));
    let one = judged(
        Facts::Description(vec![(fox, at("top"))]),
        "The picture shows top fox. So the picture shows one thing.",
    );
    assert!(one.right);
}

#[test]
fn reasons_are_not_read_for_names() {
    let [fox, cake] = [kind("fox"), kind("cake")];
    let cakes = Facts::Reasoning(vec![cake]);
    assert!(right(&cakes, "The cakes, because they are food and the fox is not."));
    assert!(!right(&Facts::Reasoning(vec![cake, fox]), "The cakes, because they are food."));
    assert!(!right(&cakes, "The cakes and the fox, because they are food."));
    let nothing = Facts::Reasoning(vec![]);
    assert!(right(&nothing, "Nothing, because nothing here has wheels."));
    assert!(!right(&nothing, "because") && !right(&nothing, "The fox, because it is not."));
}
