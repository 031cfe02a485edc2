//! Captions and descriptions of a scene, and captions that are almost right.

use super::glyphs::Glyphs;
use super::grammar::{NUMBERS, capital, list};
use super::kinds::{KINDS, Kind, entry};
use super::random::Rng;
use super::scene::{Scene, Thing, Zone};
use super::teacher::{scan, words};

/// The answer to "list what you see": each thing after its place. "top-left fox, right cake."
pub fn listed(scene: &Scene) -> String {
    format!("{}.", scan(scene))
}

/// The answer to "describe the picture in detail": the same, then how many things these are.
pub fn detailed(scene: &Scene) -> String {
    let n = scene.things.len();
    let things = if n == 1 { "thing" } else { "things" };
    format!("The picture shows {}. So the picture shows {} {things}.", scan(scene), NUMBERS[n])
}

/// What each kind's part of a caption looks like.
type Form = fn(Kind, usize, &[Zone]) -> String;

/// Five paraphrased captions, as LLaVA-Instruct's context has them; each spells kinds, numbers and places.
/// The first is the one to train a projector with: fixed form, thing by thing.
pub fn captions(scene: &Scene) -> [String; 5] {
    let noun = |k: Kind, n: usize| entry(k).noun(n);
    let at: Form = |k, n, z| format!("{} {} at the {}", NUMBERS[n], entry(k).noun(n), words(z));
    let first: Form = |k, n, z| format!("at the {} {} {}", words(z), NUMBERS[n], entry(k).noun(n));
    let bracket: Form = |k, n, z| format!("{} {} ({})", NUMBERS[n], entry(k).noun(n), words(z));
    let parts = |form: Form| -> Vec<String> {
        scene.counts().into_iter().map(|(k, n)| form(k, n, &scene.zones(k))).collect()
    };
    let things = scene.things.len();
    let total = format!("{} thing{}", NUMBERS[things], if things == 1 { "" } else { "s" });
    let mut backwards = parts(at);
    backwards.reverse();
    let verb = if scene.counts().last().is_some_and(|c| c.1 == 1) { "is" } else { "are" };
    let (kind, _) = scene.counts()[0];
    let opening = if scene.counts().len() == 1 { noun(kind, things) } else { total.as_str() };
    [
        listed(scene),
        format!("{}.", capital(&list(&parts(at)))),
        format!("A picture of {}: {}.", opening, parts(first).join("; ")),
        format!("There {verb} {}.", list(&backwards)),
        format!("{}: {}.", capital(&total), parts(bracket).join(", ")),
    ]
}

/// The symbolic context as LLaVA-Instruct gave it to its teacher: captions, then boxes `kind: [x1, y1, x2, y2]`,
/// normalised to the picture's side with three decimals.
pub fn context(scene: &Scene, glyphs: &Glyphs) -> String {
    let mut text = captions(scene).join("\n") + "\n\n";
    for t in &scene.things {
        let (w, h) = glyphs.extent(t.kind);
        let (w, h) = (w * t.size / 2.0, h * t.size / 2.0);
        let name = entry(t.kind).name;
        text += &format!("{name}: [{:.3}, {:.3}, {:.3}, {:.3}]\n", t.x - w, t.y - h, t.x + w, t.y + h);
    }
    text
}

/// The scene as words for a model without eyes: "fox top-left, cake right."
pub fn spoken(scene: &Scene) -> String {
    let item = |t: &Thing| format!("{} {}", entry(t.kind).name, t.zone().word());
    scene.things.iter().map(item).collect::<Vec<_>>().join(", ") + "."
}

/// How a scene was changed into one that is almost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Two things of different kinds changed places.
    Swapped,
    /// One thing moved to an empty zone.
    Moved,
    /// One thing more or one less of a kind.
    Counted,
    /// A kind became another.
    Replaced,
}

/// Scenes that differ from `scene` in one way: their captions are hard negatives for a contrast, since only the very
/// detail that questions ask about tells them from the right one.
pub fn negatives(scene: &Scene, rng: &mut Rng) -> Vec<(Change, Scene)> {
    let changes = [Change::Swapped, Change::Moved, Change::Counted, Change::Replaced];
    changes.into_iter().filter_map(|c| change(scene, c, rng).map(|s| (c, s))).collect()
}

fn change(scene: &Scene, change: Change, rng: &mut Rng) -> Option<Scene> {
    let mut other = scene.clone();
    let things = &mut other.things;
    let n = things.len();
    let empty: Vec<Zone> = Zone::ALL.into_iter().filter(|z| scene.at(*z).is_none()).collect();
    let i = rng.below(n);
    match change {
        Change::Swapped => {
            let others: Vec<usize> = (0..n).filter(|&j| things[j].kind != things[i].kind).collect();
            let j = *others.get(rng.below(others.len().max(1)))?;
            let kind = things[i].kind;
            things[i].kind = things[j].kind;
            things[j].kind = kind;
        }
        Change::Moved => place(&mut things[i], *rng.pick(&empty)),
        Change::Counted if n > 1 && scene.count(things[i].kind) > 1 && rng.chance(0.5) => {
            things.remove(i);
        }
        Change::Counted => {
            if n == super::scene::MOST {
                return None;
            }
            let mut more = things[i];
            place(&mut more, *rng.pick(&empty));
            things.push(more);
        }
        Change::Replaced => {
            let old = things[i].kind;
            let new =
                std::iter::repeat_with(|| rng.below(KINDS.len()) as Kind).find(|k| scene.count(*k) == 0)?;
            for t in things.iter_mut().filter(|t| t.kind == old) {
                t.kind = new;
            }
        }
    }
    other.things.sort_by_key(Thing::zone);
    Some(other)
}

fn place(thing: &mut Thing, zone: Zone) {
    let (row, column) = zone.cell();
    thing.x = (column as f32 + 0.5) / 3.0;
    thing.y = (row as f32 + 0.5) / 3.0;
}
