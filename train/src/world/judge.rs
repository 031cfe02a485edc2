//! The judge: whether an answer is right, by what it says and not by how.
//!
//! An answer is read as words; of each category only what was asked counts (the number for a count, the set of places for
//! where, the last direction for a relation), so a model that words its answers in another way is not wronged, and one that
//! gives right evidence with a wrong verdict is not praised.

use super::grammar::NUMBERS;
use super::kinds::{Kind, by_word, entry};
use super::scene::Zone;
use super::teacher::{Direction, Facts, Question};

/// How an answer fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The asked thing is said rightly; for a description: nothing missed and nothing made up.
    pub right: bool,
    /// The verdict of a yes/no question; none if the answer gives none or was not asked for one.
    pub yes: Option<bool>,
    /// Things named that are there (description and reasoning; things of one kind count each).
    pub found: usize,
    /// Things that are there and not named.
    pub missed: usize,
    /// Things named that are not there.
    pub invented: usize,
}

/// Judges `answer` to `question`.
pub fn score(question: &Question, answer: &str) -> Outcome {
    let words = words(answer);
    let right = |right| Outcome { right, ..Outcome::default() };
    match &question.facts {
        Facts::Kind(kind) => right(first_kind(&words) == *kind),
        Facts::Where(_, zones) => right(zones_of(&words) == *zones),
        Facts::Count(_, n) | Facts::Total(n) => right(last_number(&words) == Some(*n)),
        Facts::Relation(direction) => right(last_direction(&words) == Some(*direction)),
        Facts::Truth(truth) => {
            // "The fox … : yes." ends with its verdict, "Yes, at the top." begins with it: whichever is there, once.
            let yes = words.iter().rev().find_map(|w| match w.as_str() {
                "yes" => Some(true),
                "no" => Some(false),
                _ => None,
            });
            Outcome { right: yes == Some(*truth), yes, ..Outcome::default() }
        }
        Facts::Description(kinds) => named(kinds, &items(answer)),
        Facts::Reasoning(kinds) => {
            let before = answer.split(" because ").next().unwrap_or_default();
            let mut said: Vec<(Kind, usize)> =
                self::words(before).iter().filter_map(|w| by_word(w)).map(|k| (k, 1)).collect();
            said.dedup();
            let asked: Vec<(Kind, usize)> = kinds.iter().map(|k| (*k, 1)).collect();
            named(&asked, &said)
        }
    }
}

/// Lower-case words; the hyphen belongs to a word.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn first_kind(words: &[String]) -> Option<Kind> {
    words.iter().find_map(|w| by_word(w))
}

/// The places named, each once, in reading order.
fn zones_of(words: &[String]) -> Vec<Zone> {
    Zone::ALL.into_iter().filter(|z| words.iter().any(|w| w == z.word())).collect()
}

fn last_number(words: &[String]) -> Option<usize> {
    words.iter().rev().find_map(|w| match w.as_str() {
        "no" | "nothing" | "none" => Some(0),
        word => NUMBERS.iter().position(|n| *n == word).or_else(|| word.parse().ok()),
    })
}

fn last_direction(words: &[String]) -> Option<Direction> {
    words.iter().rev().find_map(|w| Direction::ALL.into_iter().find(|d| d.word() == w))
}

/// The kinds of a description with their numbers. Things are named one by one and summed up at the end: the sum says
/// nothing new, so it is left out where it is marked (a colon or "So the picture").
fn items(answer: &str) -> Vec<(Kind, usize)> {
    let end = answer.find("So the picture").or_else(|| answer.find(':')).unwrap_or(answer.len());
    let mut items: Vec<(Kind, usize)> = Vec::new();
    let mut number = 1;
    for word in words(&answer[..end]) {
        if let Some(kind) = by_word(&word) {
            let plural = word == entry(kind).plural && word != entry(kind).name;
            let n = if plural { number.max(2) } else { 1 };
            match items.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, sum)) => *sum += n,
                None => items.push((kind, n)),
            }
            number = 1;
        } else if let Some(n) = NUMBERS.iter().position(|n| *n == word) {
            number = n;
        }
    }
    items
}

fn named(there: &[(Kind, usize)], said: &[(Kind, usize)]) -> Outcome {
    let of = |list: &[(Kind, usize)], kind| list.iter().find(|(k, _)| *k == kind).map_or(0, |(_, n)| *n);
    let found = there.iter().map(|&(k, n)| n.min(of(said, k))).sum();
    let missed = there.iter().map(|&(_, n)| n).sum::<usize>() - found;
    let invented = said.iter().map(|&(k, n)| n.saturating_sub(of(there, k))).sum();
    Outcome { right: missed == 0 && invented == 0, yes: None, found, missed, invented }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::teacher::Category;

    fn judged(facts: Facts, answer: &str) -> Outcome {
        let category = Category::Kind; // the facts decide
        score(&Question { category, text: String::new(), answer: String::new(), facts }, answer)
    }

    fn kind(name: &str) -> Kind {
        by_word(name).unwrap()
    }

    #[test]
    fn what_was_asked_counts_and_nothing_else() {
        let [fox, cake] = [kind("fox"), kind("cake")];
        let z = |i: usize| Zone::ALL[i];
        assert!(judged(Facts::Kind(Some(fox)), "I think it is a Fox!").right);
        assert!(!judged(Facts::Kind(Some(fox)), "A cake.").right);
        assert!(judged(Facts::Kind(None), "Nothing.").right);
        assert!(!judged(Facts::Kind(Some(fox)), "Nothing.").right);
        assert!(judged(Facts::Where(fox, vec![z(0), z(5)]), "At the top-left, right.").right);
        assert!(!judged(Facts::Where(fox, vec![z(0), z(5)]), "At the top-left.").right);
        assert!(!judged(Facts::Where(fox, vec![z(0)]), "At the top-left, right.").right);
        assert!(!judged(Facts::Where(fox, vec![z(3)]), "At the top-left.").right, "left is not top-left");
        assert!(judged(Facts::Where(fox, vec![]), "There is no fox.").right);
        assert!(judged(Facts::Count(fox, 2), "At the top-left, right: two foxes.").right);
        assert!(judged(Facts::Count(fox, 0), "There are no foxes.").right);
        assert!(!judged(Facts::Count(fox, 2), "At the left, right: three foxes.").right);
        assert!(judged(Facts::Total(3), "A fox, a cake, a cake: three things.").right);
        let relation = "The fox is at the right and the cake at the left, so the fox is to the right.";
        assert!(judged(Facts::Relation(Direction::Right), relation).right);
        assert!(!judged(Facts::Relation(Direction::Left), relation).right);
        let both = judged(Facts::Truth(true), "The fox is at the top and the cake at the bottom: yes.");
        assert_eq!((both.right, both.yes), (true, Some(true)));
        assert_eq!(judged(Facts::Truth(false), "Yes, at the top.").yes, Some(true));
        assert_eq!(judged(Facts::Truth(true), "Perhaps.").yes, None);
        let seen = Facts::Description(vec![(fox, 1), (cake, 2)]);
        let all = "At the left is a fox. At the top is a cake. At the right is a cake. So the picture shows one fox and two cakes.";
        assert_eq!(
            judged(seen.clone(), all),
            Outcome { right: true, yes: None, found: 3, missed: 0, invented: 0 }
        );
        let some = judged(seen, "A fox at the left, a cake at the top, a pear at the right: one fox.");
        assert_eq!((some.found, some.missed, some.invented), (2, 1, 1));
        assert!(
            judged(Facts::Reasoning(vec![cake]), "The cakes, because they are food and the fox is not.")
                .right
        );
        assert!(!judged(Facts::Reasoning(vec![cake, fox]), "The cakes, because they are food.").right);
    }
}
