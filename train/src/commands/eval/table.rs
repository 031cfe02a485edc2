//! An examination's table on stdout: one model with its goals, or several with their differences; or JSON.

use std::io::{self, Write};

use pumice_train::eval::{Exam, Goal, Line};
use serde_json::json;

use super::Judged;

/// Width of the labels.
const LABELS: usize = 24;

/// The table for people.
pub fn text(exam: &Exam, judged: &[Judged]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let asked = match exam.turns {
        None => "a conversation for each question".to_owned(),
        Some(turns) => format!("conversations of {turns} questions"),
    };
    writeln!(out, "{} unseen scenes, seed {}, {asked}", exam.scenes, exam.seed)?;
    for (i, one) in judged.iter().enumerate() {
        let mark = if judged.len() > 1 { format!("{}  ", letter(i)) } else { String::new() };
        let cut = match one.table.cut() {
            0 => String::new(),
            n => format!(", {n} answers cut off"),
        };
        writeln!(
            out,
            "{mark}{}, {:.1} MB: {} answers, {:.1} scenes/s{cut}",
            one.name,
            one.bytes as f64 / 1e6,
            one.table.answers(),
            exam.scenes as f64 / one.seconds
        )?;
    }
    writeln!(out)?;
    let tables: Vec<Vec<Line>> = judged.iter().map(|j| j.table.lines()).collect();
    let heads = (0..tables.len()).map(letter).map(|a| if tables.len() > 1 { a } else { "%".into() });
    let heads = heads.enumerate().flat_map(|(i, head)| columns(i, head.clone(), format!("{head}-A")));
    writeln!(out, "{}", row("", "n", heads, "goal"))?;
    for (at, first) in tables[0].iter().enumerate() {
        let cells = tables.iter().map(|lines| &lines[at]).enumerate();
        let cells = cells.flat_map(|(i, line)| columns(i, share(line.percent), difference(first, line)));
        let goal = goals(tables.iter().map(|lines| &lines[at]));
        writeln!(out, "{}", row(first.label, &first.n.to_string(), cells, &goal))?;
    }
    if tables.len() > 1 {
        let losses = tables.iter().map(|lines| format!("{:.1}", loss(&tables[0], lines))).enumerate();
        let losses = losses.flat_map(|(i, loss)| columns(i, String::new(), loss));
        writeln!(out, "{}", row("largest loss, points", "", losses, ""))?;
    }
    out.flush()
}

/// The columns of model `i`: its share, and for all but the first the difference from the first's.
fn columns(i: usize, share: String, difference: String) -> impl Iterator<Item = String> {
    [Some(share), (i > 0).then_some(difference)].into_iter().flatten()
}

fn row(label: &str, n: &str, cells: impl Iterator<Item = String>, goal: &str) -> String {
    let cells: String = cells.map(|cell| format!(" {cell:>6}")).collect();
    format!("{label:LABELS$} {n:>6}{cells}  {goal}").trim_end().to_owned()
}

/// A, B, C …
fn letter(i: usize) -> String {
    char::from_u32('A' as u32 + i as u32)
        .filter(char::is_ascii_uppercase)
        .map_or_else(|| i.to_string(), String::from)
}

fn share(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".into(), |p| format!("{p:.1}"))
}

fn difference(first: &Line, other: &Line) -> String {
    match (first.percent, other.percent) {
        (Some(a), Some(b)) => format!("{:+.1}", b - a),
        _ => "-".into(),
    }
}

/// By how many points `lines` fall behind `first` where they fall most.
fn loss(first: &[Line], lines: &[Line]) -> f64 {
    let loss = |(a, b): (&Line, &Line)| Some(a.percent? - b.percent?);
    first.iter().zip(lines).filter(|(a, _)| a.score).filter_map(loss).fold(0.0, f64::max)
}

/// The goal, and who misses it by how many points.
fn goals<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> String {
    let Some(goal) = lines.clone().find_map(|l| l.goal) else {
        return String::new();
    };
    let said = match goal {
        Goal::AtLeast(low) => format!("at least {low}"),
        Goal::AtMost(high) => format!("at most {high}"),
        Goal::Between(low, high) => format!("{low} to {high}"),
    };
    let several = lines.clone().count() > 1;
    let misses: Vec<String> = lines
        .enumerate()
        .filter_map(|(i, line)| {
            let short = goal.short(line.percent?);
            let who = if several { format!("{} ", letter(i)) } else { String::new() };
            (short > 0.0).then(|| format!("{who}{short:.1}"))
        })
        .collect();
    if misses.is_empty() { said } else { format!("{said:12} missed by {}", misses.join(", ")) }
}

/// The first `most` wrong answers of each subject.
pub fn wrong(one: &Judged, most: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\nWrong answers of {}", one.name)?;
    for (subject, wrong) in &one.table.wrong {
        for w in wrong.iter().take(most) {
            writeln!(
                out,
                "{subject:?}, scene {}: {}\n  right: {}\n  said:  {}",
                w.scene, w.question, w.right, w.said
            )?;
        }
    }
    out.flush()
}

/// The same for programs.
pub fn json(exam: &Exam, judged: &[Judged]) -> io::Result<()> {
    let first = judged.first().map(|j| j.table.lines()).unwrap_or_default();
    let models: Vec<serde_json::Value> = judged
        .iter()
        .map(|j| {
            json!({
                "name": j.name,
                "bytes": j.bytes,
                "seconds": j.seconds,
                "answers": j.table.answers(),
                "cut": j.table.cut(),
                "largest_loss": loss(&first, &j.table.lines()),
                "tallies": j.table.tallies,
                "lines": j.table.lines(),
            })
        })
        .collect();
    let mut out = io::stdout().lock();
    writeln!(out, "{:#}", json!({ "exam": exam, "split": "test", "models": models }))?;
    out.flush()
}
