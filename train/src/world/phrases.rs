//! How people ask about a picture: the rules of every question.

use super::grammar::Rule;
use super::random::Rng;
use super::scene::Zone;

/// A parsed rule per sort of question.
#[derive(Debug)]
pub struct Phrases {
    /// `{zone}`.
    pub kind: Rule,
    /// A picture of one thing.
    pub only: Rule,
    /// `{kind}` in the singular.
    pub place: Rule,
    /// `{kind}` in the plural.
    pub places: Rule,
    /// `{kinds}`.
    pub count: Rule,
    /// No slot.
    pub total: Rule,
    /// `{a}` seen from `{b}`.
    pub relation: Rule,
    /// `{a}` article, `{kind}`, `{kinds}`.
    pub presence: Rule,
    /// `{a}` `{of}` `{b}`.
    pub check: Rule,
    /// A detailed description.
    pub detail: Rule,
    /// A list of what there is.
    pub list: Rule,
    /// `{fact}` after "which things": "can fly".
    pub which: Rule,
    /// The odd one out.
    pub odd: Rule,
    /// What one could do.
    pub act: Rule,
    zones: Vec<[String; 4]>,
}

const KIND: &str = "((what is|what is|what's) (|there |shown |standing |to see )at the {zone}(| of the picture| of the image)?|\
    (what|which thing) (do you see|can you see|can be seen|stands|is shown|is) at the {zone}\
    (| of the picture| of the image)?|(tell me|say|name) what is at the {zone}.|\
    look at the {zone}: what (is there|is it|is that|do you see)?)";
const ONLY: &str = "((what is|what is|what's) (this|that|it)(| here| in the picture| in the image| on the picture)?|\
    (tell me|say|name) what (this|that|it) is.)";
const PLACE: &str = "((where is|where is|where's) the {kind}(| in the (picture|image)| here)?|\
    where (do you see|can I find|can you see|would I find) the {kind}(| in the (picture|image))?|\
    in (which|what) (place|part of the (picture|image)) is the {kind}?|\
    (find|locate|look for) the {kind}.|(tell me|say) where the {kind} is.)";
const PLACES: &str = "(where are the {kind}(| in the (picture|image)| here)?|\
    where (do you see|can I find|can you see|would I find) the {kind}(| in the (picture|image))?|\
    in (which|what) (places|parts of the (picture|image)) are the {kind}?|\
    (find|locate|look for) the {kind}.|(tell me|say) where the {kind} are.)";
const COUNT: &str = "(how many {kinds} (are there|do you see|can you see|are shown|can be seen|can you count)\
    (| here| in the (picture|image))?|how many {kinds}?|(count|please count) the {kinds}.|\
    (what is|what is|what's) the number of {kinds}(| here| in the (picture|image))?|\
    (tell me|say) how many {kinds} (there are|you see).)";
const TOTAL: &str = "(how many (things|objects|items) (are there|do you see|can you see|are shown)\
    (| here| in all| in total| in the (picture|image))?|\
    (count|please count) (all the|the|all) (things|objects|items).|\
    (what is|what is|what's) the (total|number of things)(| in the (picture|image))?)";
const RELATION: &str = "((where is|where is|where's) the {a} (compared to|relative to|seen from|with respect to|in relation to) the {b}?|\
    (where is|where is|where's) the {a}(,|) (if you look|looking|seen) from the {b}?|\
    (on which side|in which direction) of the {b} is the {a}?|\
    (compared to|relative to|seen from) the {b}, (where is|where is|where's) the {a}?|\
    is the {a} left, right, above or below the {b}?|\
    (tell me|say) where the {a} is (compared to|relative to|seen from) the {b}.)";
const PRESENCE: &str = "(is there {a} {kind}(| in the (picture|image)| here| anywhere)?|\
    (do|can) you see {a} {kind}(| in the (picture|image)| here)?|\
    (are there any|do you see any|can you see any) {kinds}(| in the (picture|image)| here)?|\
    does the (picture|image) (show|have|contain) {a} {kind}?|\
    (tell me|say) (if|whether) there is {a} {kind}.)";
const CHECK: &str = "(is the {a} (|placed |located |found ){of} the {b}(| in the (picture|image)| here)?|\
    (do|can) you see the {a} {of} the {b}?|\
    (is it true|is it right|is it correct|is it so|would you say) that the {a} is {of} the {b}?|\
    the {a} is {of} the {b}, (right|true|correct|is it not)?|\
    (tell me|say) (if|whether) the {a} is {of} the {b}.)";
const DETAIL: &str = "((please |)(describe|explain|analyze) (the|this) (picture|image|scene)\
    (| in detail| in full| thoroughly| with all details).|\
    (give|write|give me) a (|detailed |full |thorough |complete )description of (the|this) (picture|image|scene).|\
    what (exactly|all) is (happening|there|shown) in (the|this) (picture|image|scene)?|\
    tell me (everything|all) about (the|this) (picture|image|scene).)";
const LIST: &str = "((list|name) (everything|all things|all the things|the things|what you see)(| here| in the (picture|image)).|\
    what (do you see|can you see|(things|objects) (do you see|can you see|are there|are shown))(| here| in the (picture|image))?|\
    (make|give me|write) a list of (what you see|the things|everything).|\
    what does (the|this) (picture|image|scene) show?|\
    (describe|sum up) (the|this) (picture|image|scene) (briefly|shortly|in short).|\
    (what is|what is|what's) (in|shown in|to see in) the (picture|image|scene)?)";
const WHICH: &str = "((which|which ones) of (these|these things|the things|them) {fact}?|\
    (is there|do you see|can you see) (anything|something) (here |)that {is}?|\
    which (things|objects) (|here |in the picture |in the image ){fact}?|\
    (name|find|tell me) (what|everything that|whatever) {is}.)";
const ODD: &str = "((which|what) (one |thing |)(does not belong|does not fit|is the odd one out|is unlike the others|is different)(|, and why)?|\
    (find|name|tell me) the (odd one out|one that does not belong|one that does not fit)(| and say why).)";
const ACT: &str = "(what (could|can|would) (one|you|I|we|a child|someone) do with (these|these things|them|the things|all this)?|\
    (how could|how can) (one|you|I|we|someone) use (these|these things|the things)?|\
    (think|tell me) what (one|I|we) could do with (these|these things|the things).)";

impl Default for Phrases {
    fn default() -> Self {
        Self {
            kind: Rule::new(KIND),
            only: Rule::new(ONLY),
            place: Rule::new(PLACE),
            places: Rule::new(PLACES),
            count: Rule::new(COUNT),
            total: Rule::new(TOTAL),
            relation: Rule::new(RELATION),
            presence: Rule::new(PRESENCE),
            check: Rule::new(CHECK),
            detail: Rule::new(DETAIL),
            list: Rule::new(LIST),
            which: Rule::new(WHICH),
            odd: Rule::new(ODD),
            act: Rule::new(ACT),
            zones: Zone::ALL.map(synonyms).into(),
        }
    }
}

impl Phrases {
    /// A word for a zone as people have it: three times in four its own, else "top left", "upper left", "top-left corner".
    pub fn zone(&self, zone: Zone, rng: &mut Rng) -> &str {
        let (row, column) = zone.cell();
        let words = &self.zones[(3 * row + column) as usize];
        if rng.chance(0.75) { &words[0] } else { &words[1 + rng.below(3)] }
    }

    /// Every rule with its name.
    pub fn all(&self) -> [(&'static str, &Rule); 14] {
        [
            ("kind", &self.kind),
            ("only", &self.only),
            ("place", &self.place),
            ("places", &self.places),
            ("count", &self.count),
            ("total", &self.total),
            ("relation", &self.relation),
            ("presence", &self.presence),
            ("check", &self.check),
            ("detail", &self.detail),
            ("list", &self.list),
            ("which", &self.which),
            ("odd", &self.odd),
            ("act", &self.act),
        ]
    }
}

fn synonyms(zone: Zone) -> [String; 4] {
    let word = zone.word();
    match zone.cell() {
        (1, 1) => ["center", "middle", "centre", "very middle"].map(String::from),
        (1, _) => [word.into(), format!("{word} side"), format!("middle {word}"), format!("{word} edge")],
        (row, 1) => {
            let upper = if row == 0 { "upper" } else { "lower" };
            [word.into(), format!("{word} middle"), format!("{upper} middle"), format!("{word} center")]
        }
        (row, column) => {
            let upper = if row == 0 { "upper" } else { "lower" };
            let side = if column == 0 { "left" } else { "right" };
            [word.into(), word.replace('-', " "), format!("{upper} {side}"), format!("{word} corner")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_can_be_asked_in_many_ways() {
        for (name, rule) in Phrases::default().all() {
            assert!(rule.sentences() >= 15, "{name}: {}", rule.sentences());
        }
    }
}
