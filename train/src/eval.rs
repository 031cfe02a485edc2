//! The demo model's examination: questions on scenes that training never showed, the judge's verdicts, a table with goals.
//!
//! A loss says little about what a model sees, so it is asked as a person would ask it, in the program that a person uses,
//! and its words are judged ([`crate::world::judge`]). Scenes come from the test world, whose sets of kinds training never
//! draws ([`Split`]), and from a seed of their own. Who answers is a closure: a model ([`Student`]), or a test's oracle.

mod model;
mod table;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::{
    Error, Result,
    world::{Category, Facts, Question, Scene, Split, World, describe, score},
};
pub use model::{Model, Opening, Student};
pub use table::{Goal, Line, Table, Tally, Wrong};

/// The seed of the scenes: any but those of training, which count up from 1.
pub const SEED: u64 = 1_702_257_004;

/// What is asked: the teacher's categories, its two forms of description apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
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
    /// Which of these can fly?
    Reasoning,
    /// List what you see.
    List,
    /// Describe the picture in detail.
    Description,
}

impl Subject {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Kind,
        Self::Where,
        Self::Count,
        Self::Total,
        Self::Relation,
        Self::Presence,
        Self::Check,
        Self::Reasoning,
        Self::List,
        Self::Description,
    ];

    /// What a question on `scene` is about.
    fn of(question: &Question, scene: &Scene) -> Self {
        match question.category {
            Category::Kind => Self::Kind,
            Category::Where => Self::Where,
            Category::Count => Self::Count,
            Category::Total => Self::Total,
            Category::Relation => Self::Relation,
            Category::Presence => Self::Presence,
            Category::Check => Self::Check,
            Category::Reasoning => Self::Reasoning,
            Category::Description if question.answer == describe::listed(scene) => Self::List,
            Category::Description => Self::Description,
        }
    }
}

/// What is asked about how many scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exam {
    /// Scenes.
    pub scenes: u64,
    /// Decides scenes and questions.
    pub seed: u64,
    /// Mixed questions per scene, in one conversation; `None`: one of each subject, each in a conversation of its own.
    pub turns: Option<usize>,
}

impl Default for Exam {
    fn default() -> Self {
        Self { scenes: 1000, seed: SEED, turns: None }
    }
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What was said.
    pub text: String,
    /// Whether it was cut off where it would have gone on.
    pub cut: bool,
}

/// Keeps the draws of an examination from those of training, which are 1 to 5.
const PURPOSE: u64 = 0x6578_616d;

impl Exam {
    /// Scene number `index` and what is asked about it.
    pub fn questions(&self, world: &World, index: u64) -> (Scene, Vec<Question>) {
        let scene = world.scene(index);
        let mut rng = world.rng(index, PURPOSE);
        let teacher = world.teacher();
        if let Some(turns) = self.turns {
            let questions = teacher.conversation(&scene, &mut rng, turns);
            return (scene, questions);
        }
        let mut questions: Vec<Question> = Category::ALL
            .into_iter()
            .filter(|c| *c != Category::Description)
            .filter_map(|c| teacher.ask(&scene, c, &mut rng))
            .collect();
        let phrases = teacher.phrases();
        for (rule, answer) in
            [(&phrases.list, describe::listed(&scene)), (&phrases.detail, describe::detailed(&scene))]
        {
            questions.push(Question {
                category: Category::Description,
                text: rule.say(&mut rng, &[]),
                answer,
                facts: Facts::Description(scene.list()),
            });
        }
        (scene, questions)
    }

    /// Asks and judges, with `workers` who each have an answerer from `start`. An answerer gets a scene with its questions and
    /// gives a reply to each. `progress` hears the number of scenes done. The table does not depend on `workers`.
    ///
    /// # Errors
    /// An answerer's first error.
    pub fn sit<A>(
        &self,
        workers: usize,
        start: impl Fn() -> Result<A> + Sync,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Table>
    where
        A: FnMut(&Scene, &[Question]) -> Result<Vec<Reply>>,
    {
        let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let whole = Mutex::new(Table::default());
        let work = || -> Result<()> {
            let world = World::new(self.seed, Split::Test);
            let mut table = Table::default();
            let mut answerer = start()?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.scenes {
                    break;
                }
                let (scene, questions) = self.questions(&world, index);
                let replies = answerer(&scene, &questions)?;
                if replies.len() != questions.len() {
                    return Err(Error::Data(format!(
                        "scene {index}: {} answers to {} questions",
                        replies.len(),
                        questions.len()
                    )));
                }
                for (question, reply) in questions.iter().zip(&replies) {
                    let outcome = score(question, &reply.text);
                    table.add(index, Subject::of(question, &scene), question, reply, outcome);
                }
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            }
            whole.lock().unwrap_or_else(std::sync::PoisonError::into_inner).merge(table);
            Ok(())
        };
        // One worker's error ends the others at their next scene.
        let stopping = || work().inspect_err(|_| next.store(self.scenes, Ordering::Relaxed));
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers.max(1)).map(|_| scope.spawn(stopping)).collect();
            let mut outcome = stopping();
            for other in others {
                let theirs = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome = outcome.and(theirs);
            }
            outcome
        })?;
        Ok(whole.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
