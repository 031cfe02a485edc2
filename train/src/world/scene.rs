//! A scene: one to six things on a background, as symbols.
//!
//! Everything that the teacher says and the judge checks comes from here, never from pixels. Lengths are fractions of the
//! picture's side, so one scene can be drawn at any size. Places are words of a 3×3 grid; centres keep `MARGIN` from the
//! grid's lines and `APART` from each other, so that no place is a matter of taste and no zone holds two things.
//!
//! Which scenes are for training is decided by the set of kinds that occur: a hash puts one set in ten into the test
//! world, so the test asks about combinations (and, being continuous, positions) that training never showed.

use super::kinds::{KINDS, Kind, entry};
use super::random::{Rng, mix};
use serde::{Deserialize, Serialize};

/// Centres keep this far from the lines between zones: 4 of 112 pixels.
pub const MARGIN: f32 = 4.0 / 112.0;
/// Centres of two things differ by this much at least, in x or in y.
pub const APART: f32 = 0.27;
/// Smallest and largest square of a thing: 24 and 34 of 112 pixels.
pub const SIZES: (f32, f32) = (24.0 / 112.0, 34.0 / 112.0);
/// Things in one scene at most.
pub const MOST: usize = 6;

/// Which world a scene belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Nine sets of kinds in ten.
    Train,
    /// The rest: never seen in training.
    Test,
}

impl Split {
    /// The world of a set of kinds: by a hash of its members, whatever their order and number.
    pub fn of(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let mut kinds: Vec<Kind> = kinds.into_iter().collect();
        kinds.sort_unstable();
        kinds.dedup();
        let hash = kinds.iter().fold(0x70_75_6d_69_63_65, |h, k| mix(h ^ (u64::from(*k) + 1)));
        if hash.is_multiple_of(10) { Self::Test } else { Self::Train }
    }
}

/// A cell of the 3×3 grid, numbered in reading order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Zone(u8);

impl Zone {
    /// All nine, in reading order.
    pub const ALL: [Self; 9] =
        [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7), Self(8)];

    /// The words of the nine.
    pub const WORDS: [&str; 9] =
        ["top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right"];

    /// The zone of a point given in fractions of the side.
    pub fn of(x: f32, y: f32) -> Self {
        let cell = |v: f32| ((v * 3.0) as u8).min(2);
        Self(3 * cell(y) + cell(x))
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::WORDS[usize::from(self.0)]
    }

    /// Row and column, 0 to 2.
    pub fn cell(self) -> (i32, i32) {
        (i32::from(self.0 / 3), i32::from(self.0 % 3))
    }
}

/// One pictogram in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Its centre, in fractions of the side.
    pub x: f32,
    /// The same downwards.
    pub y: f32,
    /// The side of its square, in fractions of the picture's.
    pub size: f32,
    /// Factors on red, green and blue, near 1.
    pub tint: [f32; 3],
}

impl Thing {
    /// Where it is.
    pub fn zone(&self) -> Zone {
        Zone::of(self.x, self.y)
    }
}

/// A colour: red, green, blue.
pub type Colour = [u8; 3];

/// What is behind the things.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Background {
    /// One colour.
    Plain(Colour),
    /// From one colour to another along a direction (dx, dy of 0 or 1).
    Gradient(Colour, Colour, [u8; 2]),
    /// Coarse noise of that strength (standard deviation-like, of 255) on a colour; the last number seeds it.
    Noise(Colour, u8, u64),
    /// Sky above ground: two colours, and the height of the horizon in fractions of the side.
    Horizon(Colour, Colour, f32),
    /// A wall behind a table with an edge: two colours and the height of the edge.
    Table(Colour, Colour, f32),
}

/// One to six things on a background.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// The things in reading order of their zones.
    pub things: Vec<Thing>,
    /// What is behind them.
    pub background: Background,
}

/// How likely 1, 2 … 6 things are: few things teach names, many teach counting and places.
const NUMBERS: [f32; MOST] = [0.10, 0.16, 0.20, 0.20, 0.18, 0.16];
/// How likely a kind occurs 1, 2, 3 or 4 times, where there is room.
const TIMES: [f32; 4] = [0.66, 0.16, 0.10, 0.08];
/// Scenes whose kinds come from one category, and scenes of that sort with one stranger among them: both feed reasoning
/// and set like against like (lemon, pear), where names are hardest to tell.
const THEMES: (f32, f32) = (0.15, 0.20);

impl Scene {
    /// Scene number `index` of the world `seed`, with a set of kinds of `split`. All of them keep to the rules above.
    pub fn generate(seed: u64, index: u64, split: Split) -> Self {
        let mut rng = Rng::new(seed, index);
        let kinds = loop {
            let kinds = draw_kinds(&mut rng);
            if Split::of(kinds.iter().copied()) == split {
                break kinds;
            }
        };
        let places = loop {
            if let Some(places) = draw_places(&mut rng, kinds.len()) {
                break places;
            }
        };
        let mut things: Vec<Thing> = kinds
            .into_iter()
            .zip(places)
            .map(|(kind, (x, y, size))| {
                let light = rng.between(0.90, 1.06);
                let tint = std::array::from_fn(|_| light * rng.between(0.96, 1.04));
                Thing { kind, x, y, size, tint }
            })
            .collect();
        things.sort_by_key(Thing::zone);
        Self { things, background: draw_background(&mut rng) }
    }

    /// The kinds with their numbers, in the order of their first things.
    pub fn counts(&self) -> Vec<(Kind, usize)> {
        let mut counts: Vec<(Kind, usize)> = Vec::new();
        for thing in &self.things {
            match counts.iter_mut().find(|(k, _)| *k == thing.kind) {
                Some((_, n)) => *n += 1,
                None => counts.push((thing.kind, 1)),
            }
        }
        counts
    }

    /// The kinds with their zones, thing by thing.
    pub fn list(&self) -> Vec<(Kind, Zone)> {
        self.things.iter().map(|t| (t.kind, t.zone())).collect()
    }

    /// How many of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.things.iter().filter(|t| t.kind == kind).count()
    }

    /// Where the things of a kind are, in reading order.
    pub fn zones(&self, kind: Kind) -> Vec<Zone> {
        self.things.iter().filter(|t| t.kind == kind).map(Thing::zone).collect()
    }

    /// What is in a zone.
    pub fn at(&self, zone: Zone) -> Option<Kind> {
        self.things.iter().find(|t| t.zone() == zone).map(|t| t.kind)
    }

    /// For a picture cut in `grid`×`grid` patches: the kind that covers each patch's centre, row by row; on overlap the
    /// thing whose centre is nearest. The target of a contrast per patch.
    pub fn patches(&self, grid: usize) -> Vec<Option<Kind>> {
        let centre = |i: usize| (i as f32 + 0.5) / grid as f32;
        let over = |x: f32, y: f32| {
            let near = |t: &&Thing| (t.x - x).abs().max((t.y - y).abs()) <= t.size / 2.0;
            let distance = |t: &&Thing| (t.x - x).powi(2) + (t.y - y).powi(2);
            self.things.iter().filter(near).min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|t| t.kind)
        };
        (0..grid * grid).map(|i| over(centre(i % grid), centre(i / grid))).collect()
    }

    /// Which world it belongs to.
    pub fn split(&self) -> Split {
        Split::of(self.things.iter().map(|t| t.kind))
    }
}

fn draw_kinds(rng: &mut Rng) -> Vec<Kind> {
    let n = 1 + rng.weighted(&NUMBERS);
    let theme = rng.unit();
    let any = KINDS.len();
    // By a kind, so that each kind is as likely as any other: else yes is the better guess for kinds of small categories.
    let category = entry(rng.below(any) as Kind).category;
    let fits = |kind: Kind, first: bool| {
        let same = entry(kind).category == category;
        theme >= THEMES.0 + THEMES.1 || (if first && theme >= THEMES.0 { !same } else { same })
    };
    let mut kinds: Vec<Kind> = Vec::with_capacity(n);
    let mut distinct: Vec<Kind> = Vec::new();
    while kinds.len() < n {
        let kind = rng.below(any) as Kind;
        if distinct.contains(&kind) || !fits(kind, distinct.is_empty()) {
            continue;
        }
        // A category of four kinds with one each would not fill six places: repeat until there is no room.
        let room = n - kinds.len();
        let times = (1 + rng.weighted(&TIMES)).min(room);
        distinct.push(kind);
        kinds.extend(std::iter::repeat_n(kind, times));
        if distinct.len() >= 4 && theme < THEMES.0 + THEMES.1 {
            kinds.extend(std::iter::repeat_n(kind, n - kinds.len()));
        }
    }
    kinds
}

/// Centres and sizes of `n` things in `n` zones; none when a draw leaves no room.
fn draw_places(rng: &mut Rng, n: usize) -> Option<Vec<(f32, f32, f32)>> {
    let mut zones = Zone::ALL;
    rng.shuffle(&mut zones);
    let mut places: Vec<(f32, f32, f32)> = Vec::with_capacity(n);
    for zone in &zones[..n] {
        let (row, column) = zone.cell();
        let free = (0..30).find_map(|_| {
            let size = rng.between(SIZES.0, SIZES.1);
            let mut along = |cell: i32| {
                let low = (cell as f32 / 3.0 + MARGIN).max(size / 2.0);
                let high = ((cell + 1) as f32 / 3.0 - MARGIN).min(1.0 - size / 2.0);
                rng.between(low, high)
            };
            let (x, y) = (along(column), along(row));
            let clear = |p: &(f32, f32, f32)| (p.0 - x).abs() >= APART || (p.1 - y).abs() >= APART;
            places.iter().all(clear).then_some((x, y, size))
        })?;
        places.push(free);
    }
    Some(places)
}

fn draw_background(rng: &mut Rng) -> Background {
    let colour = |rng: &mut Rng, low: f32, high: f32| -> Colour {
        std::array::from_fn(|_| rng.between(low, high) as u8) // bright enough for black outlines to show
    };
    let first = colour(rng, 80.0, 250.0);
    match rng.weighted(&[0.30, 0.25, 0.20, 0.13, 0.12]) {
        0 => Background::Plain(first),
        1 => {
            let along = *rng.pick(&[[0, 1], [1, 0], [1, 1]]);
            Background::Gradient(first, colour(rng, 80.0, 250.0), along)
        }
        2 => Background::Noise(first, rng.between(4.0, 16.0) as u8, rng.next_u64()),
        3 => {
            let sky = [rng.between(120.0, 190.0) as u8, rng.between(170.0, 225.0) as u8, 245];
            let ground = *rng.pick(&[[140, 190, 100], [215, 195, 140], [170, 150, 120], [230, 235, 240]]);
            Background::Horizon(sky, ground, rng.between(0.35, 0.75))
        }
        _ => {
            let wood = *rng.pick(&[[190, 140, 90], [150, 110, 80], [220, 190, 150], [200, 205, 210]]);
            Background::Table(first, wood, rng.between(0.40, 0.75))
        }
    }
}

#[cfg(test)]
mod tests;
