//! Rows of LLaVA JSON: what a picture is trained with, and the same without one.

use super::describe;
use super::kinds::Kind;
use super::reason;
use super::scene::Scene;
use super::{Category, World};
use serde::{Deserialize, Serialize};

/// One row: a conversation, with a picture or without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Names it in messages.
    pub id: String,
    /// The picture's path, from the folder of the pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Question, answer, question …
    pub conversations: Vec<Turn>,
}

/// One utterance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// "human" or "gpt".
    pub from: String,
    /// What is said.
    pub value: String,
}

/// The marker of the picture, with the line end that LLaVA puts behind it.
const IMAGE: &str = "<image>\n";

/// Eleven ways to ask for a caption, as many as LLaVA's stage 1 has.
pub const BRIEFLY: [&str; 11] = [
    "Describe the picture briefly.",
    "What is in the picture, in a few words?",
    "Give a short description of the picture.",
    "Write a short caption for the picture.",
    "Say in one sentence what the picture shows.",
    "Sum up the picture.",
    "Give a brief account of what you see.",
    "Name what the picture shows and where it is.",
    "Tell me shortly what is in the image.",
    "Give a clear and short summary of the image.",
    "Share a short caption of the image.",
];

fn row(id: String, image: Option<String>, pairs: impl IntoIterator<Item = (String, String)>) -> Row {
    let turn = |from: &str, value| Turn { from: from.into(), value };
    let turns = pairs.into_iter().flat_map(|(q, a)| [turn("human", q), turn("gpt", a)]);
    Row { id, image, conversations: turns.collect() }
}

/// How often a conversation holds a greeting or thanks.
const SMALL_TALK: f32 = 0.06;

impl World {
    /// What is asked and answered on a scene, now and then with small talk among it.
    fn pairs(&self, index: u64, scene: &Scene, turns: usize) -> Vec<(String, String)> {
        let questions = self.questions(index, scene, turns.max(1));
        let mut pairs: Vec<(String, String)> = questions.into_iter().map(|q| (q.text, q.answer)).collect();
        let mut rng = self.rng(index, 5);
        if rng.chance(SMALL_TALK) {
            let at = rng.below(pairs.len() + 1);
            pairs.insert(at, self.teacher.talk().say(&mut rng));
            pairs.truncate(turns.max(1));
        }
        pairs
    }

    /// Stage 1: a brief question and the first caption.
    pub fn caption_row(&self, index: u64, scene: &Scene) -> Row {
        let question = *self.rng(index, 2).pick(&BRIEFLY);
        let pair = (format!("{IMAGE}{question}"), describe::listed(scene));
        row(name(index), Some(picture(index)), [pair])
    }

    /// Stage 2: a conversation about the picture.
    pub fn instruct_row(&self, index: u64, scene: &Scene, turns: usize) -> Row {
        let mut pairs = self.pairs(index, scene, turns);
        pairs[0].0.insert_str(0, IMAGE);
        row(name(index), Some(picture(index)), pairs)
    }

    /// For the language model alone: the conversation with the scene told in words where the picture would be.
    pub fn text_row(&self, index: u64, scene: &Scene, turns: usize) -> Row {
        let mut pairs = self.pairs(index, scene, turns);
        pairs[0].0.insert_str(0, &format!("{}\n", describe::spoken(scene)));
        row(format!("text-{index:06}"), None, pairs)
    }

    /// For the language model alone: one question of one category on a scene told in words.
    pub fn text_question(&self, index: u64, scene: &Scene, category: Category) -> Option<Row> {
        let q = self.teacher.ask(scene, category, &mut self.rng(index, 3))?;
        let question = format!("{}\n{}", describe::spoken(scene), q.text);
        Some(row(format!("text-{index:06}"), None, [(question, q.answer)]))
    }

    /// General questions on one kind, without any scene.
    pub fn general_row(&self, index: u64, kind: Kind) -> Row {
        row(format!("general-{index:06}"), None, reason::general(kind, &mut self.rng(index, 4)))
    }
}

fn name(index: u64) -> String {
    format!("{index:06}")
}

/// The path of a picture: a thousand to a folder.
pub fn picture(index: u64) -> String {
    format!("{:03}/{index:06}.png", index / 1000)
}
