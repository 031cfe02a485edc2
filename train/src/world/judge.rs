//! The judge: whether an answer is right, by what it says and not by how.
//!
//! An answer is read as words; of each category only what was asked counts, so a model that words its answers in another
//! way is not wronged. Evidence is no verdict: "fox top, cake left: above." says *above*, what stands behind the last
//! colon, and "fox top, cake left." says nothing about the direction. An answer without colon is read as a plain
//! sentence. Right evidence with a wrong verdict is wrong, and so is silence: "nothing", "nowhere", "no" must be said.

use super::grammar::NUMBERS;
use super::kinds::{Kind, by_word, entry};
use super::scene::Zone;
use super::teacher::{Direction, Facts, Question};

/// How an answer fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The asked thing is said rightly; for a description: nothing missed, made up or put elsewhere.
    pub right: bool,
    /// The verdict of a yes/no question; none if the answer gives none or was not asked for one.
    pub yes: Option<bool>,
    /// Things named that are there, wherever they were said to be (description and reasoning; things of one kind count each).
    pub found: usize,
    /// Things that are there and not named.
    pub missed: usize,
    /// Things named that are not there.
    pub invented: usize,
    /// Of those found, how many were said to be where they are not.
    pub misplaced: usize,
}

/// Judges `answer` to `question`.
pub fn score(question: &Question, answer: &str) -> Outcome {
    let text = plain(answer);
    let (all, verdict) = (words(&text), words(text.rsplit(':').next().unwrap_or_default()));
    let right = |right| Outcome { right, ..Outcome::default() };
    match &question.facts {
        Facts::Kind(kind) => right(the_kind(&all) == Some(*kind)),
        Facts::Where(kind, zones) => {
            right(kinds(&all).iter().all(|k| k == kind) && places(&all).as_ref() == Some(zones))
        }
        Facts::Count(kind, n) => {
            right(kinds(&verdict).iter().all(|k| k == kind) && last_number(&verdict) == Some(*n))
        }
        Facts::Total(n) => right(last_number(&verdict) == Some(*n)),
        Facts::Relation(direction) => {
            let said = if text.contains(':') { directions(&verdict) } else { relations(&all) };
            right(!said.is_empty() && said.iter().all(|d| d == direction))
        }
        Facts::Truth(truth) => {
            let yes = match ["yes", "no"].map(|w| verdict.contains(&w)) {
                [yes, no] if yes != no => Some(yes),
                _ => None,
            };
            Outcome { right: yes == Some(*truth), yes, ..Outcome::default() }
        }
        Facts::Description(things) => described(things, &items(&text)),
        Facts::Reasoning(asked) => {
            let answer = words(text.split(" because ").next().unwrap_or_default());
            let one = |kind: &Kind| Item { kind: *kind, n: 1, zones: Vec::new() };
            let there: Vec<(Kind, Zone)> = asked.iter().map(|k| (*k, Zone::ALL[0])).collect();
            let said: Vec<Item> = kinds(&answer).iter().map(one).collect();
            let outcome = described(&there, &said);
            Outcome { right: outcome.right && (!asked.is_empty() || denies(&answer)), ..outcome }
        }
    }
}

/// Lower case, with one spelling for each place: "upper left" becomes "top-left".
fn plain(answer: &str) -> String {
    let mut text = format!(" {}", answer.to_lowercase());
    // From the start of a word: a sunflower is not at the bottom.
    for (from, to) in
        [(" upper", " top"), (" lower", " bottom"), (" centre", " center"), (" middle", " center")]
    {
        text = text.replace(from, to);
    }
    for (row, column) in [("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right")] {
        text = text.replace(&format!(" {row} {column}"), &format!(" {row}-{column}"));
    }
    text
}

/// The words; the hyphen belongs to a word.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|w| !w.is_empty()).collect()
}

/// The kinds named, each once.
fn kinds(words: &[&str]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = words.iter().filter_map(|w| by_word(w)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Whether it says that something is not.
fn denies(words: &[&str]) -> bool {
    words.iter().any(|w| ["nothing", "nowhere", "none", "no", "not", "empty"].contains(w))
}

/// The one kind named, or `Some(None)` for "nothing"; none if it names several, or neither.
fn the_kind(words: &[&str]) -> Option<Option<Kind>> {
    match kinds(words)[..] {
        [kind] => Some(Some(kind)),
        [] if denies(words) => Some(None),
        _ => None,
    }
}

fn zone(word: &str) -> Option<Zone> {
    Zone::ALL.into_iter().find(|z| z.word() == word)
}

/// The places named, each once, in reading order; empty for "nowhere", none if it names neither or both.
fn places(words: &[&str]) -> Option<Vec<Zone>> {
    let mut zones: Vec<Zone> = words.iter().filter_map(|w| zone(w)).collect();
    zones.sort_unstable();
    zones.dedup();
    (zones.is_empty() == denies(words)).then_some(zones)
}

fn number(word: &str) -> Option<usize> {
    match word {
        "no" => Some(0),
        word => NUMBERS.iter().position(|n| *n == word).or_else(|| word.parse().ok()),
    }
}

fn last_number(words: &[&str]) -> Option<usize> {
    words.iter().rev().find_map(|w| match *w {
        "nothing" | "none" => Some(0),
        word => number(word),
    })
}

fn direction(word: &str) -> Option<Direction> {
    Direction::ALL.into_iter().find(|d| d.word() == word)
}

fn directions(words: &[&str]) -> Vec<Direction> {
    words.iter().filter_map(|w| direction(w)).collect()
}

/// The directions of a plain sentence: "left" and "right" are places and no directions beside a thing ("fox left", "left
/// fox") and after "at"; before "of" they are directions always.
fn relations(words: &[&str]) -> Vec<Direction> {
    let at = |i: usize| words.get(i).copied().unwrap_or_default();
    let is_place = |i: usize| {
        let before = |n: usize| i.checked_sub(n).map_or("", at);
        let beside = by_word(before(1)).is_some() || by_word(at(i + 1)).is_some();
        let at_the = before(1) == "at" || (before(2) == "at" && before(1) == "the");
        zone(at(i)).is_some() && at(i + 1) != "of" && (beside || at_the)
    };
    (0..words.len()).filter(|i| !is_place(*i)).filter_map(|i| direction(at(i))).collect()
}

/// What a description says of one kind at one point: how many, and the places given for them.
#[derive(Debug, PartialEq)]
struct Item {
    kind: Kind,
    n: usize,
    zones: Vec<Zone>,
}

/// The things of a description up to its sum ("So the picture shows …"), which says nothing new.
fn items(text: &str) -> Vec<Item> {
    let words = words(text.split("so the picture").next().unwrap_or_default());
    let first = |is: fn(&str) -> bool| words.iter().position(|w| is(w)).unwrap_or(usize::MAX);
    // "top-left fox" names the place first, "a fox at the top-left" the thing: whichever comes first tells which it is.
    let place_first = first(|w| zone(w).is_some()) < first(|w| by_word(w).is_some());
    let (mut items, mut waiting, mut many): (Vec<Item>, Vec<Zone>, _) = (Vec::new(), Vec::new(), None);
    for word in words {
        if let Some(zone) = zone(word) {
            match items.last_mut() {
                Some(item) if !place_first => item.zones.push(zone),
                _ => waiting.push(zone),
            }
        } else if let Some(kind) = by_word(word) {
            let plural = word == entry(kind).plural && word != entry(kind).name;
            let n = many.take().unwrap_or(if plural { 2 } else { 1 });
            items.push(Item { kind, n, zones: std::mem::take(&mut waiting) });
        } else if let Some(n) = number(word) {
            many = Some(n);
        }
    }
    items
}

/// Compares what is said with what is there, kind by kind.
fn described(there: &[(Kind, Zone)], said: &[Item]) -> Outcome {
    let mut kinds: Vec<Kind> = there.iter().map(|t| t.0).chain(said.iter().map(|i| i.kind)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut outcome = Outcome::default();
    for kind in kinds {
        let real: Vec<Zone> = there.iter().filter(|t| t.0 == kind).map(|t| t.1).collect();
        let of_kind = || said.iter().filter(|i| i.kind == kind);
        let n: usize = of_kind().map(|i| i.n).sum();
        let mut claimed: Vec<Zone> = of_kind().flat_map(|i| i.zones.iter().copied()).collect();
        let unplaced = n.saturating_sub(claimed.len());
        claimed.sort_unstable();
        claimed.dedup();
        let matched = claimed.iter().filter(|z| real.contains(z)).count();
        let found = n.min(real.len());
        outcome.found += found;
        outcome.missed += real.len() - found;
        outcome.invented += n - found;
        outcome.misplaced += found.saturating_sub(matched + unplaced);
    }
    outcome.right = outcome.missed + outcome.invented + outcome.misplaced == 0;
    outcome
}

#[cfg(test)]
mod tests;
