//! The teacher: questions about a scene with their answers, as LLaVA-Instruct's GPT-4 wrote them from captions and boxes.
//!
//! Questions are varied by grammar ([`super::phrases`]); answers are not: each category has one form, and what has to be
//! counted or compared is first named with its place, so that every token to predict follows from the picture, the
//! question and what was said before it. The same facts that made an answer let the judge check one.

use super::describe;
use super::grammar::NUMBERS;
use super::kinds::{KINDS, Kind, entry};
use super::phrases::Phrases;
use super::random::Rng;
use super::reason;
use super::scene::{Scene, Thing, Zone};
use super::talk::{STRANGERS, Talk};
use serde::{Deserialize, Serialize};

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Category {
    /// What is at the top-left?
    Kind,
    /// Where is the fox?
    Where,
    /// How many foxes are there?
    Count,
    /// How many things are there?
    Total,
    /// Where is the fox, seen from the cake?
    Relation,
    /// Is there a fox?
    Presence,
    /// Is the fox above the cake?
    Check,
    /// Describe the picture in detail.
    Description,
    /// Which of these can fly?
    Reasoning,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Kind,
        Self::Where,
        Self::Count,
        Self::Total,
        Self::Relation,
        Self::Presence,
        Self::Check,
        Self::Description,
        Self::Reasoning,
    ];

    /// How often each is drawn for a mixed conversation: what needs the most steps to learn the most. Relations are
    /// drawn more often than they are asked, since half the scenes have no two things to compare.
    const WEIGHTS: [f32; 9] = [0.14, 0.12, 0.16, 0.07, 0.24, 0.11, 0.20, 0.05, 0.04];
}

/// A direction between two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// In a column before.
    Left,
    /// In a column behind.
    Right,
    /// In a row before.
    Above,
    /// In a row behind.
    Below,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Above, Self::Below];

    /// The word that an answer ends with.
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    /// "to the left of", "above".
    pub fn preposition(self) -> &'static str {
        match self {
            Self::Left => "to the left of",
            Self::Right => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    /// Where `a` is from `b`: along the axis on which they are further apart in zones; none if neither is.
    pub fn main(a: Zone, b: Zone) -> Option<Self> {
        let ((ra, ca), (rb, cb)) = (a.cell(), b.cell());
        let (rows, columns) = (ra - rb, ca - cb);
        (rows.abs() != columns.abs())
            .then(|| if columns.abs() > rows.abs() { Self::across(columns) } else { Self::down(rows) })
    }

    fn across(columns: i32) -> Self {
        if columns < 0 { Self::Left } else { Self::Right }
    }

    fn down(rows: i32) -> Self {
        if rows < 0 { Self::Above } else { Self::Below }
    }

    fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// What was asked and what is so: enough to judge any wording of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Facts {
    /// The kind at a zone, or nothing.
    Kind(Option<Kind>),
    /// The zones of a kind.
    Where(Kind, Vec<Zone>),
    /// A kind and its number.
    Count(Kind, usize),
    /// The number of things.
    Total(usize),
    /// A direction between two kinds.
    Relation(Direction),
    /// Whether it is so.
    Truth(bool),
    /// The things and their places, in reading order.
    Description(Vec<(Kind, Zone)>),
    /// The kinds to be named.
    Reasoning(Vec<Kind>),
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What it is about.
    pub category: Category,
    /// As a person would ask it.
    pub text: String,
    /// As the teacher answers it.
    pub answer: String,
    /// What is so.
    pub facts: Facts,
}

/// Asks and answers.
#[derive(Debug, Default)]
pub struct Teacher {
    phrases: Phrases,
    talk: Talk,
}

impl Teacher {
    /// The phrases that it asks with.
    pub fn phrases(&self) -> &Phrases {
        &self.phrases
    }

    /// What people say besides questions.
    pub fn talk(&self) -> &Talk {
        &self.talk
    }

    /// `turns` different questions on one scene, of all categories in random order.
    pub fn conversation(&self, scene: &Scene, rng: &mut Rng, turns: usize) -> Vec<Question> {
        let mut questions: Vec<Question> = Vec::with_capacity(turns);
        // A scene of one thing has few different questions: stop after as many tries as suffice for any other.
        for _ in 0..8 * turns {
            if questions.len() == turns {
                break;
            }
            let category = Category::ALL[rng.weighted(&Category::WEIGHTS)];
            // Truths are compared by their text only: dropping repeated ones would unbalance yes and no.
            let same = |q: &Question, p: &Question| {
                q.text == p.text
                    || (q.facts == p.facts && q.answer == p.answer && !matches!(q.facts, Facts::Truth(_)))
            };
            match self.ask(scene, category, rng) {
                Some(q) if !questions.iter().any(|p| same(&q, p)) => questions.push(q),
                _ => {}
            }
        }
        // A single thing may be unlucky with few tries; what it is can always be asked.
        if questions.is_empty() && turns > 0 {
            questions.extend(self.ask(scene, Category::Kind, rng));
        }
        questions
    }

    /// A question of one category; none if the scene has nothing to ask of it.
    pub fn ask(&self, scene: &Scene, category: Category, rng: &mut Rng) -> Option<Question> {
        let (text, answer, facts) = match category {
            Category::Kind => self.kind(scene, rng),
            Category::Where => self.place(scene, rng),
            Category::Count => self.count(scene, rng),
            Category::Total => self.total(scene, rng),
            Category::Relation => self.relation(scene, rng)?,
            Category::Presence => self.presence(scene, rng),
            Category::Check => self.check(scene, rng)?,
            Category::Description => {
                let detailed = rng.chance(0.5);
                let rule = if detailed { &self.phrases.detail } else { &self.phrases.list };
                let answer = if detailed { describe::detailed(scene) } else { describe::listed(scene) };
                (rule.say(rng, &[]), answer, Facts::Description(scene.list()))
            }
            Category::Reasoning => reason::ask(&self.phrases, scene, rng)?,
        };
        Some(Question { category, text: sloppy(text, rng), answer, facts })
    }

    fn kind(&self, scene: &Scene, rng: &mut Rng) -> Asked {
        if let ([thing], true) = (&scene.things[..], rng.chance(0.3)) {
            let text = self.phrases.only.say(rng, &[]);
            return (text, format!("{}.", placed(thing)), Facts::Kind(Some(thing.kind)));
        }
        // One in eight asks where nothing is: a model that never heard "nothing" would invent.
        let zone = if rng.chance(0.125) {
            let empty: Vec<Zone> = Zone::ALL.into_iter().filter(|z| scene.at(*z).is_none()).collect();
            *rng.pick(&empty)
        } else {
            rng.pick(&scene.things).zone()
        };
        let word = self.phrases.zone(zone, rng);
        let text = self.phrases.kind.say(rng, &[("zone", word)]);
        let kind = scene.at(zone);
        let name = kind.map_or("nothing", |k| entry(k).name);
        (text, format!("{} {name}.", zone.word()), Facts::Kind(kind))
    }

    fn place(&self, scene: &Scene, rng: &mut Rng) -> Asked {
        // One in twelve looks for what is not there.
        if rng.chance(1.0 / 12.0) {
            let kind = absent(scene, rng);
            let e = entry(kind);
            let text = self.phrases.place.say(rng, &[("kind", e.name)]);
            return (text, format!("{}.", found(e.name, &[])), Facts::Where(kind, Vec::new()));
        }
        let (kind, n) = *rng.pick(&scene.counts());
        let rule = if n == 1 { &self.phrases.place } else { &self.phrases.places };
        let zones = scene.zones(kind);
        let text = rule.say(rng, &[("kind", entry(kind).noun(n))]);
        (text, format!("{}.", found(entry(kind).name, &zones)), Facts::Where(kind, zones))
    }

    fn count(&self, scene: &Scene, rng: &mut Rng) -> Asked {
        let counts = scene.counts();
        // First the answer, then a kind that has it, so that no number is the safe guess.
        let mut answers: Vec<usize> = counts.iter().map(|c| c.1).collect();
        answers.sort_unstable();
        answers.dedup();
        let kind = if rng.chance(0.18) {
            absent(scene, rng)
        } else {
            let weights: Vec<f32> = answers.iter().map(|n| [0.6, 1.3, 1.8, 2.0, 2.0, 2.0][n - 1]).collect();
            let n = answers[rng.weighted(&weights)];
            let fitting: Vec<Kind> = counts.iter().filter(|c| c.1 == n).map(|c| c.0).collect();
            *rng.pick(&fitting)
        };
        let (e, zones) = (entry(kind), scene.zones(kind));
        let n = zones.len();
        let number = if n == 0 { "no" } else { NUMBERS[n] };
        let answer = format!("{}: {number} {}.", found(e.name, &zones), e.noun(n));
        (self.phrases.count.say(rng, &[("kinds", e.plural)]), answer, Facts::Count(kind, n))
    }

    fn total(&self, scene: &Scene, rng: &mut Rng) -> Asked {
        let n = scene.things.len();
        let answer = format!("{}: {} thing{}.", scan(scene), NUMBERS[n], if n == 1 { "" } else { "s" });
        (self.phrases.total.say(rng, &[]), answer, Facts::Total(n))
    }

    fn relation(&self, scene: &Scene, rng: &mut Rng) -> Option<Asked> {
        let (a, b) = pair(scene, rng, |a, b| Direction::main(a.zone(), b.zone()).is_some())?;
        let direction = Direction::main(a.zone(), b.zone())?;
        let (ea, eb) = (entry(a.kind), entry(b.kind));
        let text = self.phrases.relation.say(rng, &[("a", ea.name), ("b", eb.name)]);
        let answer = format!("{}: {}.", both(&a, &b), direction.word());
        Some((text, answer, Facts::Relation(direction)))
    }

    fn presence(&self, scene: &Scene, rng: &mut Rng) -> Asked {
        let there = rng.chance(0.5);
        if !there && rng.chance(0.08) {
            let (name, plural) = *rng.pick(&STRANGERS);
            let text = self.phrases.presence.say(rng, &[("a", "a"), ("kind", name), ("kinds", plural)]);
            return (text, format!("{}: no.", found(name, &[])), Facts::Truth(false));
        }
        let kind = if there { rng.pick(&scene.counts()).0 } else { absent(scene, rng) };
        let e = entry(kind);
        let answer = format!("{}: {}.", found(e.name, &scene.zones(kind)), if there { "yes" } else { "no" });
        let text =
            self.phrases.presence.say(rng, &[("a", e.article()), ("kind", e.name), ("kinds", e.plural)]);
        (text, answer, Facts::Truth(there))
    }

    fn check(&self, scene: &Scene, rng: &mut Rng) -> Option<Asked> {
        let (a, b) = pair(scene, rng, |a, b| a.zone() != b.zone())?;
        let ((ra, ca), (rb, cb)) = (a.zone().cell(), b.zone().cell());
        // On an axis where they differ, so that the answer is no matter of taste: a direction or its opposite.
        let across = if ra == rb { true } else { ca != cb && rng.chance(0.5) };
        let real = if across { Direction::across(ca - cb) } else { Direction::down(ra - rb) };
        let truth = rng.chance(0.5);
        let asked = if truth { real } else { real.opposite() };
        let (ea, eb) = (entry(a.kind), entry(b.kind));
        let slots = [("a", ea.name), ("b", eb.name), ("of", asked.preposition())];
        let answer = format!("{}: {}.", both(&a, &b), if truth { "yes" } else { "no" });
        Some((self.phrases.check.say(rng, &slots), answer, Facts::Truth(truth)))
    }
}

/// Question, answer, facts.
pub(super) type Asked = (String, String, Facts);

/// What is looked up by kind: "fox top-left, fox right", or "fox nowhere". The name stands right before each place, so that a place
/// is one look at the picture away from the word before it; so does the place in [`placed`]. Small models learn this in minutes, and
/// sentences that separate the two ("the fox is at the …") in hours.
fn found(name: &str, zones: &[Zone]) -> String {
    if zones.is_empty() {
        return format!("{name} nowhere");
    }
    zones.iter().map(|z| format!("{name} {}", z.word())).collect::<Vec<_>>().join(", ")
}

/// What is looked up by place: "top-left fox".
pub(super) fn placed(thing: &Thing) -> String {
    format!("{} {}", thing.zone().word(), entry(thing.kind).name)
}

/// All things in reading order: "top-left fox, right cake".
pub(super) fn scan(scene: &Scene) -> String {
    scene.things.iter().map(placed).collect::<Vec<_>>().join(", ")
}

/// "top-left, right"
pub(super) fn words(zones: &[Zone]) -> String {
    zones.iter().map(|z| z.word()).collect::<Vec<_>>().join(", ")
}

/// "fox top-left, cake right"
fn both(a: &Thing, b: &Thing) -> String {
    format!("{}, {}", found(entry(a.kind).name, &[a.zone()]), found(entry(b.kind).name, &[b.zone()]))
}

/// A kind that the scene lacks.
fn absent(scene: &Scene, rng: &mut Rng) -> Kind {
    loop {
        let kind = rng.below(KINDS.len()) as Kind;
        if scene.count(kind) == 0 {
            return kind;
        }
    }
}

/// Two things, each the only one of its kind, that `fit`; both orders are as likely.
fn pair(scene: &Scene, rng: &mut Rng, fit: impl Fn(&Thing, &Thing) -> bool) -> Option<(Thing, Thing)> {
    let single: Vec<&Thing> = scene.things.iter().filter(|t| scene.count(t.kind) == 1).collect();
    let mut pairs = Vec::new();
    for a in &single {
        pairs.extend(single.iter().filter(|b| a.kind != b.kind && fit(a, b)).map(|b| (**a, **b)));
    }
    (!pairs.is_empty()).then(|| *rng.pick(&pairs))
}

/// As people type: one question in ten without its capital, one in ten without the mark at its end.
fn sloppy(text: String, rng: &mut Rng) -> String {
    let text = if rng.chance(0.1) { text.to_lowercase() } else { text };
    match text.strip_suffix(['?', '.']) {
        Some(bare) if rng.chance(0.1) => bare.into(),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
