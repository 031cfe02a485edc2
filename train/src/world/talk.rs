//! What people say besides: greetings, thanks, and names of things that the world does not have.
//!
//! A person's first words to a chat are often none of the teacher's questions, and the second ask for something that is
//! not there; a model that never heard them answers with noise.

use super::grammar::Rule;
use super::random::Rng;

/// Greetings and the like, with the one answer to each.
#[derive(Debug)]
pub struct Talk(Vec<(Rule, &'static str)>);

impl Default for Talk {
    fn default() -> Self {
        let pairs = [
            ("(hello|hi|hey|good morning|good evening)(| there)(|!|.)", "Hello! Ask me about the picture."),
            ("how (are you|do you do)(| today)?", "I am well. Ask me about the picture."),
            (
                "(who|what) are you?|(tell me|say) (who|what) you are.|what is your name?",
                "I am Pumice's demo model, and I know a small world of a hundred kinds of things.",
            ),
            (
                "what (can|do) you (do|know)?|what can I ask(| you)?|help(|!|.)|how can you help(| me)?",
                "I can name and count the things in a picture, say where they are and compare their places.",
            ),
            ("(thank you|thanks|many thanks)(|!|.)|(great|good|well done|nice)(|!|.)", "You are welcome."),
            ("(goodbye|bye|see you|that is all)(|!|.)", "Goodbye!"),
        ];
        Self(pairs.map(|(rule, answer)| (Rule::new(&format!("({rule})")), answer)).into())
    }
}

impl Talk {
    /// One utterance and its answer.
    pub fn say(&self, rng: &mut Rng) -> (String, String) {
        let (rule, answer) = rng.pick(&self.0);
        (rule.say(rng, &[]), (*answer).to_owned())
    }

    /// The rules, for counting words.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().map(|pair| &pair.0)
    }
}

/// Things that no picture of this world shows, singular and plural: "is there a zebra?" is then answered, not guessed.
pub const STRANGERS: [(&str, &str); 24] = [
    ("zebra", "zebras"),
    ("giraffe", "giraffes"),
    ("horse", "horses"),
    ("bird", "birds"),
    ("dinosaur", "dinosaurs"),
    ("spider", "spiders"),
    ("person", "people"),
    ("man", "men"),
    ("woman", "women"),
    ("child", "children"),
    ("chair", "chairs"),
    ("table", "tables"),
    ("bed", "beds"),
    ("door", "doors"),
    ("window", "windows"),
    ("phone", "phones"),
    ("computer", "computers"),
    ("knife", "knives"),
    ("cup", "cups"),
    ("bottle", "bottles"),
    ("ship", "ships"),
    ("truck", "trucks"),
    ("mountain", "mountains"),
    ("river", "rivers"),
];
