//! ScienceQA: its problems as rows to train on, and the score of answers.
//!
//! A multiple-choice question with lecture and solution. LLaVA trains it as "question, context, options → lecture, solution, answer" (QCM-LEPA
//! in the paper, QCM-LEA in the scripts of v1); the letter is then found in the text by a rule so strict that an answer in
//! other words counts as wrong. `problems.json` is an object by id, `pid_splits.json` lists the ids of each split.

use crate::{Error, Result};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Letters of the choices.
const LETTERS: [char; 5] = ['A', 'B', 'C', 'D', 'E'];

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// The question.
    pub question: String,
    /// What to choose from, two to five.
    pub choices: Vec<String>,
    /// Which choice is right, from 0.
    pub answer: usize,
    /// Text to the question; empty where there is none.
    #[serde(default)]
    pub hint: String,
    /// File name of its picture, in a folder of the question's id.
    #[serde(default)]
    pub image: Option<String>,
    /// What one has to know.
    #[serde(default)]
    pub lecture: String,
    /// Why the answer is right.
    #[serde(default)]
    pub solution: String,
    /// `grade1` to `grade12`.
    #[serde(default)]
    pub grade: String,
    /// `natural science`, `social science` or `language science`.
    #[serde(default)]
    pub subject: String,
}

/// What the model writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The answer alone.
    A,
    /// Lecture, solution, answer.
    Lea,
    /// The answer, then lecture and solution.
    Ale,
    /// Lecture and solution each on a line of its own, `###`, answer: the paper's.
    Lepa,
}

impl Form {
    /// By its name in LLaVA's scripts: `QCM-LEA`, `QCM-LEPA`, `QCM-ALE`, `QCM-A`.
    ///
    /// # Errors
    /// There is no such form.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "QCM-A" => Ok(Self::A),
            "QCM-LEA" => Ok(Self::Lea),
            "QCM-ALE" => Ok(Self::Ale),
            "QCM-LEPA" => Ok(Self::Lepa),
            _ => Err(Error::Config(format!(
                "there is no ScienceQA form {name:?}; known are QCM-A, QCM-LEA, QCM-ALE, QCM-LEPA"
            ))),
        }
    }
}

/// A split's problems by id, in the order of the split.
pub type Problems = Vec<(String, Problem)>;

/// Reads a split (`train`, `val`, `test`, `minitest` …) of a folder with `problems.json` and `pid_splits.json`.
///
/// # Errors
/// A file is missing or not as described, the split is unknown, or one of its problems is missing or answers itself by none of its choices.
pub fn read(folder: &Path, split: &str) -> Result<Problems> {
    let problems: HashMap<String, Problem> = json(&folder.join("problems.json"))?;
    let splits: BTreeMap<String, Vec<String>> = json(&folder.join("pid_splits.json"))?;
    let Some(ids) = splits.get(split) else {
        let known: Vec<&str> = splits.keys().map(String::as_str).collect();
        return Err(Error::Data(format!(
            "{}: has no split {split:?}; it has {}",
            folder.join("pid_splits.json").display(),
            known.join(", ")
        )));
    };
    let wrong = |id: &str, what: String| {
        Error::Data(format!("{}: problem {id} {what}", folder.join("problems.json").display()))
    };
    let find = |id: &String| {
        let problem = problems.get(id).ok_or_else(|| wrong(id, format!("of split {split} is missing")))?;
        let n = problem.choices.len();
        if problem.answer >= n || n > LETTERS.len() {
            let what = format!(
                "has {n} choices (2 to {} can be), its answer is number {}",
                LETTERS.len(),
                problem.answer
            );
            return Err(wrong(id, what));
        }
        Ok((id.clone(), problem.clone()))
    };
    ids.iter().map(find).collect()
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}

impl Problem {
    /// The letter of the right choice.
    pub fn letter(&self) -> char {
        LETTERS[self.answer]
    }

    /// What is asked: question, context and options (QCM), without a mark for the picture.
    pub fn ask(&self) -> String {
        let options =
            LETTERS.iter().zip(&self.choices).map(|(letter, choice)| format!("({letter}) {choice}"));
        let options = options.collect::<Vec<_>>().join(" ");
        let context = match self.hint.trim() {
            "" => "N/A",
            hint => hint,
        };
        tidy(&format!("{}\nContext: {context}\nOptions: {options}\n", self.question))
    }

    /// What is answered.
    pub fn reply(&self, form: Form) -> String {
        let Self { lecture, solution, .. } = self;
        let answer = format!("The answer is {}.", self.letter());
        tidy(&match form {
            Form::A => answer,
            Form::Lea => format!("{lecture} {solution} {answer}"),
            Form::Ale if tidy(&format!("{lecture} {solution}")).is_empty() => answer,
            Form::Ale => format!("{answer} BECAUSE: {lecture} {solution}"),
            Form::Lepa => {
                let line = |name: &str, text: &str| match text.trim() {
                    "" => String::new(),
                    _ => format!("{name}: {text}\n"),
                };
                let (lecture, solution) = (line("LECTURE", lecture), line("SOLUTION", solution));
                format!("{lecture}{solution}###\nANSWER: {}.", self.letter())
            }
        })
    }

    /// The problem as a row of LLaVA's data, its picture behind the question as in the scripts.
    pub fn row(&self, id: &str, form: Form) -> serde_json::Value {
        let (mut ask, reply) = (self.ask(), self.reply(form));
        let mut row = serde_json::json!({ "id": id });
        if let Some(image) = &self.image {
            ask.push_str("\n<image>");
            row["image"] = format!("{id}/{image}").into();
        }
        row["conversations"] =
            serde_json::json!([{ "from": "human", "value": ask }, { "from": "gpt", "value": reply }]);
        row
    }
}

/// Double spaces made single (once, as the scripts do), ends trimmed.
fn tidy(text: &str) -> String {
    text.replace("  ", " ").trim().to_owned()
}

/// Writes problems as LLaVA JSON.
///
/// # Errors
/// The file cannot be written.
pub fn write(problems: &Problems, form: Form, path: &Path) -> Result<()> {
    let rows: Vec<_> = problems.iter().map(|(id, problem)| problem.row(id, form)).collect();
    let text = serde_json::to_vec(&rows).map_err(|e| Error::io(path)(e.into()))?;
    std::fs::write(path, text).map_err(Error::io(path))
}

/// Reads answers by id from a file of JSON lines as LLaVA's scripts write them, `{"question_id", "text"}`; `id` serves too. Of two answers to one question
/// the last counts.
///
/// # Errors
/// The file cannot be read, or a line is no such object.
pub fn answers(path: &Path) -> Result<HashMap<String, String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut answers = HashMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| Error::Data(format!("{} line {}: {what}", path.display(), i + 1));
        let line: Answer = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        let id = match line.id {
            serde_json::Value::String(id) => id,
            serde_json::Value::Number(id) => id.to_string(),
            other => return Err(wrong(format!("question_id is {other}, not a text or a number"))),
        };
        answers.insert(id, line.text);
    }
    Ok(answers)
}

/// A line of answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(alias = "question_id")]
    id: serde_json::Value,
    text: String,
}

/// The choice (from 0) that an answer names, of `choices`; nothing where it names none or is not clear.
///
/// The text is a letter, or begins with `A. `, or says `The answer is A.` exactly once.
pub fn extract(answer: &str, choices: usize) -> Option<usize> {
    const SAYS: &str = "The answer is ";
    let place = |letter: char| LETTERS.iter().take(choices).position(|&known| known == letter);
    let mut chars = answer.chars();
    let first = chars.next()?;
    if LETTERS.contains(&first) && (chars.as_str().is_empty() || chars.as_str().starts_with(". ")) {
        return place(first);
    }
    let mut said = answer.match_indices(SAYS).filter_map(|(at, _)| {
        let mut rest = answer[at + SAYS.len()..].chars();
        // Any capital counts as said, also one that is no choice: then the text is not clear.
        let letter = rest.next().filter(char::is_ascii_uppercase)?;
        rest.next().is_some_and(|c| c != '\n').then_some(letter)
    });
    match (said.next(), said.next()) {
        (Some(letter), None) => place(letter),
        _ => None,
    }
}

/// Right answers of all in a column of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Share {
    /// Right.
    pub right: usize,
    /// Asked.
    pub of: usize,
}

impl Share {
    /// In percent; 0 where nothing was asked.
    pub fn percent(self) -> f64 {
        if self.of == 0 { 0.0 } else { 100.0 * self.right as f64 / self.of as f64 }
    }
}

/// The paper's table of ScienceQA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Score {
    /// Natural science.
    pub nat: Share,
    /// Social science.
    pub soc: Share,
    /// Language science.
    pub lan: Share,
    /// With text context.
    pub txt: Share,
    /// With a picture.
    pub img: Share,
    /// With neither.
    pub no: Share,
    /// Grades 1 to 6.
    pub g1_6: Share,
    /// Grades 7 to 12.
    pub g7_12: Share,
    /// All.
    pub all: Share,
    /// Answers that name no choice, or are missing; they count as wrong.
    pub failed: usize,
}

/// Scores answers by id.
pub fn score(problems: &Problems, answers: &HashMap<String, String>) -> Score {
    let mut score = Score::default();
    for (id, problem) in problems {
        let chosen = answers.get(id).and_then(|answer| extract(answer, problem.choices.len()));
        score.failed += usize::from(chosen.is_none());
        let right = chosen == Some(problem.answer);
        let mut count = |share: fn(&mut Score) -> &mut Share, counts: bool| {
            let share = share(&mut score);
            share.of += usize::from(counts);
            share.right += usize::from(counts && right);
        };
        let (text, picture) = (!problem.hint.is_empty(), problem.image.is_some());
        let grade: Option<u32> = problem.grade.strip_prefix("grade").and_then(|n| n.parse().ok());
        count(|s| &mut s.nat, problem.subject == "natural science");
        count(|s| &mut s.soc, problem.subject == "social science");
        count(|s| &mut s.lan, problem.subject == "language science");
        count(|s| &mut s.txt, text);
        count(|s| &mut s.img, picture);
        count(|s| &mut s.no, !text && !picture);
        count(|s| &mut s.g1_6, grade.is_some_and(|n| (1..=6).contains(&n)));
        count(|s| &mut s.g7_12, grade.is_some_and(|n| (7..=12).contains(&n)));
        count(|s| &mut s.all, true);
    }
    score
}

#[cfg(test)]
mod tests;
