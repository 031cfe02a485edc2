//! Complex reasoning over a scene: what can fly, what does not belong, what one could do.
//!
//! Computed from the facts of each kind; the answer names the things in reading order and then the reason.

use super::grammar::{capital, list};
use super::kinds::{Category, Fact, Kind, entry};
use super::phrases::Phrases;
use super::random::Rng;
use super::scene::Scene;
use super::teacher::{Asked, Facts};

/// A question that needs a reason; none if the scene gives nothing to reason on.
pub(super) fn ask(phrases: &Phrases, scene: &Scene, rng: &mut Rng) -> Option<Asked> {
    if let (Some((kind, others)), true) = (odd(scene), rng.chance(0.6)) {
        return Some(odd_one(phrases, kind, others, scene, rng));
    }
    Some(if rng.chance(0.3) { acts(phrases, scene, rng) } else { which(phrases, scene, rng) })
}

/// "the fox", "the foxes".
fn the(scene: &Scene, kind: Kind) -> String {
    format!("the {}", entry(kind).noun(scene.count(kind)))
}

/// Which of these can fly? Asked three times in four of a fact that something here has.
fn which(phrases: &Phrases, scene: &Scene, rng: &mut Rng) -> Asked {
    let kinds: Vec<Kind> = scene.counts().into_iter().map(|c| c.0).collect();
    let having = |fact: Fact| kinds.iter().copied().filter(move |k| entry(*k).is(fact));
    let (some, none): (Vec<Fact>, Vec<Fact>) =
        Fact::ALL.into_iter().partition(|f| having(*f).next().is_some());
    let fact = if none.is_empty() || (!some.is_empty() && rng.chance(0.75)) {
        rng.pick(&some)
    } else {
        rng.pick(&none)
    };
    let (it, they) = fact.words();
    let named: Vec<Kind> = having(*fact).collect();
    let things: Vec<String> = named.iter().map(|k| the(scene, *k)).collect();
    let several = named.len() > 1 || named.iter().any(|k| scene.count(*k) > 1);
    let answer = match (named.is_empty(), several) {
        (true, _) => format!("Nothing, because nothing here {it}."),
        (_, true) => format!("{}, because they {they}.", capital(&list(&things))),
        (_, false) => format!("{}, because it {it}.", capital(&list(&things))),
    };
    (phrases.which.say(rng, &[("fact", they), ("is", it)]), answer, Facts::Reasoning(named))
}

/// The one kind whose category differs from that of all others, which share theirs; it must be one thing against more.
fn odd(scene: &Scene) -> Option<(Kind, Category)> {
    let counts = scene.counts();
    let category = |k: &Kind| entry(*k).category;
    let alone = |kind: Kind| {
        let mut others = counts.iter().map(|c| c.0).filter(|k| *k != kind);
        let first = category(&others.next()?);
        let shared = others.all(|k| category(&k) == first) && first != category(&kind);
        (shared && scene.count(kind) == 1 && scene.things.len() >= 3).then_some(first)
    };
    counts.iter().find_map(|c| alone(c.0).map(|others| (c.0, others)))
}

fn odd_one(phrases: &Phrases, kind: Kind, others: Category, scene: &Scene, rng: &mut Rng) -> Asked {
    let (own, _) = entry(kind).category.words();
    let answer = format!(
        "{}, because it is {own} and the others are {}.",
        capital(&the(scene, kind)),
        others.words().1
    );
    (phrases.odd.say(rng, &[]), answer, Facts::Reasoning(vec![kind]))
}

/// What could one do with these? "One could watch the fox and eat the cakes."
fn acts(phrases: &Phrases, scene: &Scene, rng: &mut Rng) -> Asked {
    let kinds: Vec<Kind> = scene.counts().into_iter().map(|c| c.0).collect();
    let acts: Vec<String> = kinds.iter().map(|k| format!("{} {}", entry(*k).act, the(scene, *k))).collect();
    (phrases.act.say(rng, &[]), format!("One could {}.", list(&acts)), Facts::Reasoning(kinds))
}

/// General sentences on a kind, as questions with answers: what the facts say without any picture.
pub fn general(kind: Kind, rng: &mut Rng) -> Vec<(String, String)> {
    let e = entry(kind);
    let thing = format!("{} {}", e.article(), e.name);
    let mut rows = vec![
        (format!("What is {thing}?"), format!("{} is {}.", capital(&thing), e.category.words().0)),
        (format!("What could one do with {thing}?"), format!("One could {} the {}.", e.act, e.name)),
        (format!("What is the plural of {}?", e.name), format!("{}.", capital(e.plural))),
    ];
    for fact in Fact::ALL {
        // The verb of "it has" asks as "is it true that".
        let question = format!("Is it true that {thing} {}?", fact.words().0);
        rows.push((question, if e.is(fact) { "Yes." } else { "No." }.into()));
    }
    rng.shuffle(&mut rows);
    rows
}
