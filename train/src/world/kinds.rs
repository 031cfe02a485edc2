//! The kinds of thing: name, plural, pictogram, category and the few facts that reasoning asks for.
//!
//! Names are single words, so that a vocabulary can hold each as one piece, and pictograms differ at 28 pixels in shape or
//! colour. Facts are what the pictogram shows and a child would say; a kind whose answer people would argue about
//! (is a chicken food?) does not carry the fact. The order of the table is part of the world: numbers of kinds are stored.

/// A kind's number: its place in [`KINDS`].
pub type Kind = u16;

/// What a kind belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Fox, owl, crab.
    Animal,
    /// Fruit, vegetables, dishes.
    Food,
    /// Rose, tree.
    Plant,
    /// Car, boat, rocket.
    Vehicle,
    /// Guitar, drum.
    Instrument,
    /// Moon, cloud.
    Sky,
    /// What stands in a house or lies in a toolbox.
    Object,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Animal, Self::Food, Self::Plant, Self::Vehicle, Self::Instrument, Self::Sky, Self::Object];

    /// "an animal", "animals".
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Animal => ("an animal", "animals"),
            Self::Food => ("food", "food"),
            Self::Plant => ("a plant", "plants"),
            Self::Vehicle => ("a vehicle", "vehicles"),
            Self::Instrument => ("an instrument", "instruments"),
            Self::Sky => ("a thing of the sky", "things of the sky"),
            Self::Object => ("an object", "objects"),
        }
    }
}

/// Something that is true of some kinds and not of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fact {
    /// It can fly.
    Flies,
    /// People eat it.
    Edible,
    /// It has wheels.
    Wheels,
    /// It lives in water.
    Water,
    /// It gives light.
    Light,
    /// It makes music.
    Music,
    /// People travel with it.
    Travels,
}

impl Fact {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Flies, Self::Edible, Self::Wheels, Self::Water, Self::Light, Self::Music, Self::Travels];

    /// The predicate after "it" and after "they".
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Flies => ("can fly", "can fly"),
            Self::Edible => ("is food", "are food"),
            Self::Wheels => ("has wheels", "have wheels"),
            Self::Water => ("lives in water", "live in water"),
            Self::Light => ("gives light", "give light"),
            Self::Music => ("makes music", "make music"),
            Self::Travels => ("carries people", "carry people"),
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One kind of thing.
#[derive(Debug)]
pub struct Entry {
    /// Its pictogram.
    pub sign: char,
    /// "fox".
    pub name: &'static str,
    /// "foxes".
    pub plural: &'static str,
    /// What it belongs to.
    pub category: Category,
    /// What one could do with it: a verb before "the fox".
    pub act: &'static str,
    facts: u8,
}

impl Entry {
    /// Whether `fact` is true of it.
    pub fn is(&self, fact: Fact) -> bool {
        self.facts & fact.bit() != 0
    }

    /// "a" or "an".
    pub fn article(&self) -> &'static str {
        if self.name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
    }

    /// "fox" or "foxes".
    pub fn noun(&self, n: usize) -> &'static str {
        if n == 1 { self.name } else { self.plural }
    }
}

/// The entry of a kind.
pub fn entry(kind: Kind) -> &'static Entry {
    &KINDS[usize::from(kind)]
}

/// The kind of a name or plural.
pub fn by_word(word: &str) -> Option<Kind> {
    (0..).zip(KINDS).find(|(_, e)| e.name == word || e.plural == word).map(|(kind, _)| kind)
}

const fn kind(
    sign: char,
    name: &'static str,
    plural: &'static str,
    category: Category,
    act: &'static str,
    facts: u8,
) -> Entry {
    Entry { sign, name, plural, category, act, facts }
}

use Category::{Animal, Food, Instrument, Object, Plant, Sky, Vehicle};
const FLIES: u8 = Fact::Flies.bit();
const EDIBLE: u8 = Fact::Edible.bit();
const WHEELS: u8 = Fact::Wheels.bit();
const WATER: u8 = Fact::Water.bit();
const LIGHT: u8 = Fact::Light.bit();
const MUSIC: u8 = Fact::Music.bit();
const TRAVELS: u8 = Fact::Travels.bit();

/// All kinds.
#[rustfmt::skip]
pub const KINDS: &[Entry] = &[
    kind('🐶', "dog", "dogs", Animal, "pet", 0),
    kind('🐱', "cat", "cats", Animal, "pet", 0),
    kind('🐭', "mouse", "mice", Animal, "watch", 0),
    kind('🐰', "rabbit", "rabbits", Animal, "pet", 0),
    kind('🦊', "fox", "foxes", Animal, "watch", 0),
    kind('🐻', "bear", "bears", Animal, "watch", 0),
    kind('🐼', "panda", "pandas", Animal, "watch", 0),
    kind('🐨', "koala", "koalas", Animal, "watch", 0),
    kind('🐯', "tiger", "tigers", Animal, "watch", 0),
    kind('🦁', "lion", "lions", Animal, "watch", 0),
    kind('🐮', "cow", "cows", Animal, "milk", 0),
    kind('🐷', "pig", "pigs", Animal, "feed", 0),
    kind('🐸', "frog", "frogs", Animal, "watch", 0),
    kind('🐵', "monkey", "monkeys", Animal, "watch", 0),
    kind('🐔', "chicken", "chickens", Animal, "feed", 0),
    kind('🐧', "penguin", "penguins", Animal, "watch", 0),
    kind('🦆', "duck", "ducks", Animal, "feed", FLIES),
    kind('🦉', "owl", "owls", Animal, "watch", FLIES),
    kind('🦜', "parrot", "parrots", Animal, "feed", FLIES),
    kind('🐝', "bee", "bees", Animal, "watch", FLIES),
    kind('🦋', "butterfly", "butterflies", Animal, "watch", FLIES),
    kind('🐌', "snail", "snails", Animal, "watch", 0),
    kind('🐞', "ladybug", "ladybugs", Animal, "watch", FLIES),
    kind('🐢', "turtle", "turtles", Animal, "feed", 0),
    kind('🐍', "snake", "snakes", Animal, "watch", 0),
    kind('🐙', "octopus", "octopuses", Animal, "watch", WATER),
    kind('🦀', "crab", "crabs", Animal, "watch", WATER),
    kind('🐠', "fish", "fish", Animal, "feed", WATER),
    kind('🐳', "whale", "whales", Animal, "watch", WATER),
    kind('🦈', "shark", "sharks", Animal, "watch", WATER),
    kind('🐘', "elephant", "elephants", Animal, "watch", 0),
    kind('🐫', "camel", "camels", Animal, "ride", 0),
    kind('🦔', "hedgehog", "hedgehogs", Animal, "watch", 0),
    kind('🌳', "tree", "trees", Plant, "climb", 0),
    kind('🌵', "cactus", "cactuses", Plant, "water", 0),
    kind('🌴', "palm", "palms", Plant, "climb", 0),
    kind('🌻', "sunflower", "sunflowers", Plant, "water", 0),
    kind('🌹', "rose", "roses", Plant, "water", 0),
    kind('🌷', "tulip", "tulips", Plant, "water", 0),
    kind('🍄', "mushroom", "mushrooms", Plant, "watch", 0),
    kind('🍀', "clover", "clovers", Plant, "water", 0),
    kind('🌙', "moon", "moons", Sky, "watch", LIGHT),
    kind('⭐', "star", "stars", Sky, "watch", LIGHT),
    kind('🌞', "sun", "suns", Sky, "enjoy", LIGHT),
    kind('☁', "cloud", "clouds", Sky, "watch", 0),
    kind('🌈', "rainbow", "rainbows", Sky, "watch", 0),
    kind('❄', "snowflake", "snowflakes", Sky, "watch", 0),
    kind('🍎', "apple", "apples", Food, "eat", EDIBLE),
    kind('🍐', "pear", "pears", Food, "eat", EDIBLE),
    kind('🍊', "orange", "oranges", Food, "eat", EDIBLE),
    kind('🍋', "lemon", "lemons", Food, "eat", EDIBLE),
    kind('🍌', "banana", "bananas", Food, "eat", EDIBLE),
    kind('🍉', "melon", "melons", Food, "eat", EDIBLE),
    kind('🍓', "strawberry", "strawberries", Food, "eat", EDIBLE),
    kind('🍒', "cherry", "cherries", Food, "eat", EDIBLE),
    kind('🍍', "pineapple", "pineapples", Food, "eat", EDIBLE),
    kind('🍅', "tomato", "tomatoes", Food, "eat", EDIBLE),
    kind('🥕', "carrot", "carrots", Food, "eat", EDIBLE),
    kind('🍆', "eggplant", "eggplants", Food, "eat", EDIBLE),
    kind('🥑', "avocado", "avocados", Food, "eat", EDIBLE),
    kind('🧀', "cheese", "cheeses", Food, "eat", EDIBLE),
    kind('🍔', "burger", "burgers", Food, "eat", EDIBLE),
    kind('🍕', "pizza", "pizzas", Food, "eat", EDIBLE),
    kind('🥚', "egg", "eggs", Food, "eat", EDIBLE),
    kind('🍩', "donut", "donuts", Food, "eat", EDIBLE),
    kind('🍪', "cookie", "cookies", Food, "eat", EDIBLE),
    kind('🍰', "cake", "cakes", Food, "eat", EDIBLE),
    kind('🥨', "pretzel", "pretzels", Food, "eat", EDIBLE),
    kind('🚗', "car", "cars", Vehicle, "drive", WHEELS | TRAVELS),
    kind('🚌', "bus", "buses", Vehicle, "take", WHEELS | TRAVELS),
    kind('🚜', "tractor", "tractors", Vehicle, "drive", WHEELS | TRAVELS),
    kind('🚲', "bicycle", "bicycles", Vehicle, "ride", WHEELS | TRAVELS),
    kind('🚂', "train", "trains", Vehicle, "take", WHEELS | TRAVELS),
    kind('🚁', "helicopter", "helicopters", Vehicle, "fly", FLIES | TRAVELS),
    kind('🚀', "rocket", "rockets", Vehicle, "fly", FLIES | TRAVELS),
    kind('⛵', "boat", "boats", Vehicle, "sail", TRAVELS),
    kind('🎸', "guitar", "guitars", Instrument, "play", MUSIC),
    kind('🥁', "drum", "drums", Instrument, "play", MUSIC),
    kind('🎺', "trumpet", "trumpets", Instrument, "play", MUSIC),
    kind('🎻', "violin", "violins", Instrument, "play", MUSIC),
    kind('⚽', "football", "footballs", Object, "kick", 0),
    kind('🏀', "basketball", "basketballs", Object, "throw", 0),
    kind('🏠', "house", "houses", Object, "enter", 0),
    kind('🔑', "key", "keys", Object, "turn", 0),
    kind('📕', "book", "books", Object, "read", 0),
    kind('⏰', "clock", "clocks", Object, "wind", 0),
    kind('☂', "umbrella", "umbrellas", Object, "open", 0),
    kind('💡', "bulb", "bulbs", Object, "light", LIGHT),
    kind('🎁', "gift", "gifts", Object, "open", 0),
    kind('🔨', "hammer", "hammers", Object, "swing", 0),
    kind('🔔', "bell", "bells", Object, "ring", 0),
    kind('👑', "crown", "crowns", Object, "wear", 0),
    kind('🎩', "hat", "hats", Object, "wear", 0),
    kind('🎈', "balloon", "balloons", Object, "hold", 0),
    kind('📷', "camera", "cameras", Object, "use", 0),
    kind('🧲', "magnet", "magnets", Object, "use", 0),
    kind('🔥', "flame", "flames", Object, "watch", LIGHT),
    kind('🤖', "robot", "robots", Object, "use", 0),
    kind('⛄', "snowman", "snowmen", Object, "build", 0),
    kind('🧦', "sock", "socks", Object, "wear", 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_and_unlike() {
        let mut words: Vec<&str> = KINDS.iter().flat_map(|e| [e.name, e.plural]).collect();
        assert!(words.iter().all(|w| w.chars().all(|c| c.is_ascii_lowercase())));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 2 * KINDS.len() - 1, "only fish is its own plural");
        assert!(KINDS.len() >= 84);
        assert_eq!(by_word("foxes").map(entry).map(|e| e.name), Some("fox"));
    }

    #[test]
    fn every_category_and_fact_has_kinds_with_and_without() {
        for c in Category::ALL {
            assert!(KINDS.iter().filter(|e| e.category == c).count() >= 4, "{c:?}");
        }
        for f in Fact::ALL {
            assert!(KINDS.iter().filter(|e| e.is(f)).count() >= 4, "{f:?}");
        }
    }
}
