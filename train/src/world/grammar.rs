//! A small grammar for questions: one rule per thing to ask, each of many sentences.
//!
//! ```text
//! rule   = part*            part = text | slot | choice
//! slot   = "{" name "}"     filled by the caller with a kind, a zone …
//! choice = "(" rule ("|" rule)* ")"      an empty branch may be taken
//! ```
//! A branch is drawn with equal chance; what differs between people is how they ask, so questions vary and answers do
//! not. [`Rule::sentences`] counts what a rule can say; a test holds every rule to fifteen at least.

use super::random::Rng;

/// A parsed rule.
#[derive(Clone, Debug)]
pub struct Rule(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Slot(String),
    Choice(Vec<Rule>),
}

impl Rule {
    /// Parses a rule of this program; a rule that does not parse is our own mistake.
    ///
    /// # Panics
    /// Brackets do not match.
    pub fn new(text: &str) -> Self {
        let (rule, rest) = parse(text);
        assert!(rest.is_empty(), "a rule with brackets that do not match: {text:?}");
        rule
    }

    /// How many sentences it can say, slots counted as one word.
    pub fn sentences(&self) -> usize {
        let count = |part: &Part| match part {
            Part::Text(_) | Part::Slot(_) => 1,
            Part::Choice(rules) => rules.iter().map(Self::sentences).sum(),
        };
        self.0.iter().map(count).product()
    }

    /// All its stretches of plain text: the words that it may say.
    pub fn fragments(&self) -> Vec<&str> {
        let parts = self.0.iter().flat_map(|part| match part {
            Part::Text(text) => vec![text.as_str()],
            Part::Slot(_) => Vec::new(),
            Part::Choice(rules) => rules.iter().flat_map(Self::fragments).collect(),
        });
        parts.collect()
    }

    /// One sentence, with `slots` (name, word) filled in, single spaces and a capital in front.
    ///
    /// # Panics
    /// A slot has no word: our own mistake.
    pub fn say(&self, rng: &mut Rng, slots: &[(&str, &str)]) -> String {
        let mut raw = String::new();
        self.write(rng, slots, &mut raw);
        let words: Vec<&str> = raw.split_whitespace().collect();
        capital(&words.join(" "))
    }

    fn write(&self, rng: &mut Rng, slots: &[(&str, &str)], out: &mut String) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Slot(name) => {
                    let word = slots.iter().find(|(slot, _)| slot == name);
                    out.push_str(word.unwrap_or_else(|| panic!("no word for the slot {name}")).1);
                }
                Part::Choice(rules) => rng.pick(rules).write(rng, slots, out),
            }
        }
    }
}

/// `text` with a capital first letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// "a", "a and b", "a, b and c".
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The words of 0 to 6.
pub const NUMBERS: [&str; 7] = ["zero", "one", "two", "three", "four", "five", "six"];

/// The rule at the start of `text` up to an unmatched `|` or `)`, and what follows it.
fn parse(mut text: &str) -> (Rule, &str) {
    let mut parts = Vec::new();
    while let Some(c) = text.chars().next() {
        match c {
            '(' => {
                let mut branches = Vec::new();
                loop {
                    let (rule, rest) = parse(&text[1..]);
                    branches.push(rule);
                    text = rest;
                    assert!(!text.is_empty(), "a choice without its end");
                    if text.starts_with(')') {
                        break;
                    }
                }
                text = &text[1..];
                parts.push(Part::Choice(branches));
            }
            '{' => {
                let end = text.find('}').expect("a slot without its end");
                parts.push(Part::Slot(text[1..end].into()));
                text = &text[end + 1..];
            }
            '|' | ')' => break,
            _ => {
                let end = text.find(['(', '{', '|', ')']).unwrap_or(text.len());
                parts.push(Part::Text(text[..end].into()));
                text = &text[end..];
            }
        }
    }
    (Rule(parts), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_counts_and_says_its_sentences() {
        let rule = Rule::new("(what|which thing) is (|here )at the {zone}(?|, please?)");
        assert_eq!(rule.sentences(), 8);
        let mut said = std::collections::BTreeSet::new();
        let mut rng = Rng::new(1, 1);
        for _ in 0..300 {
            said.insert(rule.say(&mut rng, &[("zone", "left")]));
        }
        assert_eq!(said.len(), 8);
        assert!(
            said.contains("What is at the left?")
                && said.contains("Which thing is here at the left, please?")
        );
    }

    #[test]
    fn lists_read_as_english() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!([list(&items(1)), list(&items(2)), list(&items(3))], ["0", "0 and 1", "0, 1 and 2"]);
    }
}
