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
    write!(out, "{:LABELS$} {:>6}", "", "n")?;
    for i in 0..judged.len() {
        let head = if judged.len() > 1 { letter(i) } else { "%".into() };
        write!(
            out,
            " {head:>6}{:9}",
            if i > 0 { format!(" {:>7}", format!("{head}-A")) } else { String::new() }.trim_end()
        )?;
    }
    writeln!(out, "goal")?;
    for (row, first) in tables[0].iter().enumerate() {
        write!(out, "{:LABELS$} {:>6}", first.label, first.n)?;
        for (i, lines) in tables.iter().enumerate() {
            let (share, change) = (share(lines[row].percent), difference(first, &lines[row]));
            write!(out, " {share:>6}{:9}", if i > 0 { format!(" {change:>7}") } else { String::new() })?;
        }
        writeln!(out, "{}", goals(tables.iter().map(|lines| &lines[row])))?;
    }
    if judged.len() > 1 {
        write!(out, "{:LABELS$} {:>6}", "largest loss, points", "")?;
        for (i, lines) in tables.iter().enumerate() {
            let loss = if i > 0 { format!("{:.1}", loss(&tables[0], lines)) } else { String::new() };
            write!(out, " {:>6}{:9}", "", if i > 0 { format!(" {loss:>7}") } else { String::new() })?;
        }
        writeln!(out)?;
    }
    out.flush()
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
            (short > 0.0).then(|| format!("{who}misses it by {short:.1}"))
        })
        .collect();
    if misses.is_empty() { said } else { format!("{said:12} {}", misses.join(", ")) }
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
