//! What an examination came to: counts per subject, shares with goals, wrong answers to look at.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Reply, Subject};
use crate::world::{Outcome, Question};

/// The counts of one subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Answers.
    pub n: usize,
    /// Right ones.
    pub right: usize,
    /// Answers that say yes.
    pub yes: usize,
    /// Answers that were cut off.
    pub cut: usize,
    /// Things named that are there.
    pub found: usize,
    /// Things not named that are there.
    pub missed: usize,
    /// Things named that are not there.
    pub invented: usize,
    /// Things named that are there, but elsewhere.
    pub misplaced: usize,
}

impl Tally {
    fn add(&mut self, outcome: Outcome, cut: bool) {
        self.n += 1;
        self.right += usize::from(outcome.right);
        self.yes += usize::from(outcome.yes == Some(true));
        self.cut += usize::from(cut);
        self.found += outcome.found;
        self.missed += outcome.missed;
        self.invented += outcome.invented;
        self.misplaced += outcome.misplaced;
    }

    fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.right += other.right;
        self.yes += other.yes;
        self.cut += other.cut;
        self.found += other.found;
        self.missed += other.missed;
        self.invented += other.invented;
        self.misplaced += other.misplaced;
    }
}

/// An answer that the judge did not accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// Which scene.
    pub scene: u64,
    /// What was asked.
    pub question: String,
    /// What the teacher would say.
    pub right: String,
    /// What was said.
    pub said: String,
}

/// Wrong answers kept per subject.
const KEPT: usize = 100;

/// The outcome of an examination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Counts.
    pub tallies: BTreeMap<Subject, Tally>,
    /// The first wrong answers of each subject.
    #[serde(skip)]
    pub wrong: BTreeMap<Subject, Vec<Wrong>>,
}

/// Where a share should lie, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Between these.
    Between(f64, f64),
}

impl Goal {
    /// By how many points `percent` misses the goal; 0 where it does not.
    pub fn short(self, percent: f64) -> f64 {
        match self {
            Self::AtLeast(low) => (low - percent).max(0.0),
            Self::AtMost(high) => (percent - high).max(0.0),
            Self::Between(low, high) => (low - percent).max(percent - high).max(0.0),
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The subject.
    pub subject: Subject,
    /// What the share is of.
    pub label: &'static str,
    /// How many it is a share of.
    pub n: usize,
    /// The share in percent; none of nothing.
    pub percent: Option<f64>,
    /// Where it should lie.
    pub goal: Option<Goal>,
    /// Whether more is better: then a fall is a loss when two models are compared.
    pub score: bool,
}

impl Table {
    pub(super) fn add(
        &mut self,
        scene: u64,
        subject: Subject,
        question: &Question,
        reply: &Reply,
        outcome: Outcome,
    ) {
        self.tallies.entry(subject).or_default().add(outcome, reply.cut);
        let kept = self.wrong.entry(subject).or_default();
        if !outcome.right && kept.len() < KEPT {
            kept.push(Wrong {
                scene,
                question: question.text.clone(),
                right: question.answer.clone(),
                said: reply.text.clone(),
            });
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (subject, tally) in &other.tallies {
            self.tallies.entry(*subject).or_default().merge(tally);
        }
        for (subject, wrong) in other.wrong {
            let kept = self.wrong.entry(subject).or_default();
            kept.extend(wrong);
            kept.sort_by_key(|w| w.scene);
            kept.truncate(KEPT);
        }
    }

    /// Answers in all.
    pub fn answers(&self) -> usize {
        self.tallies.values().map(|t| t.n).sum()
    }

    /// Answers that were cut off.
    pub fn cut(&self) -> usize {
        self.tallies.values().map(|t| t.cut).sum()
    }

    /// The lines, in the order of [`Subject::ALL`]: the share of right answers; of yes; of things named, made up, misplaced.
    pub fn lines(&self) -> Vec<Line> {
        Subject::ALL.into_iter().flat_map(|s| self.lines_of(s)).collect()
    }

    fn lines_of(&self, subject: Subject) -> Vec<Line> {
        let t = self.tallies.get(&subject).copied().unwrap_or_default();
        let line = |label, (part, n): (usize, usize), goal, score| {
            let percent = (n > 0).then(|| 100.0 * part as f64 / n as f64);
            Line { subject, label, n, percent, goal, score }
        };
        let at_least = |percent| Some(Goal::AtLeast(percent));
        let right = |label, goal| line(label, (t.right, t.n), goal, true);
        let yes = || line("  said yes", (t.yes, t.n), Some(Goal::Between(45.0, 55.0)), false);
        let things = |named, invented| {
            [
                line("  things named", (t.found, t.found + t.missed), named, true),
                line("  named, not there", (t.invented, t.found + t.invented), invented, false),
                line("  named, elsewhere", (t.misplaced, t.found), None, false),
            ]
        };
        match subject {
            Subject::Kind => vec![right("kind", at_least(95.0))],
            Subject::Where => vec![right("where", None)],
            Subject::Count => vec![right("count", at_least(90.0))],
            Subject::Total => vec![right("count of all", at_least(90.0))],
            Subject::Relation => vec![right("relation", at_least(90.0))],
            Subject::Presence => vec![right("yes/no: is there", at_least(90.0)), yes()],
            Subject::Check => vec![right("yes/no: relation", at_least(90.0)), yes()],
            Subject::Reasoning => vec![right("reasoning", None)],
            Subject::List => [vec![right("list, all right", None)], things(None, None).into()].concat(),
            Subject::Description => {
                let things = things(at_least(90.0), Some(Goal::AtMost(3.0)));
                [vec![right("description, all right", None)], things.into()].concat()
            }
        }
    }
}
