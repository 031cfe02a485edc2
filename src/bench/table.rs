//! Rows as text: a table for a terminal, one for Markdown, CSV, JSON. Columns of tables are llama-bench's where it has them.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::record::{OpTime, Record};
use crate::terminal;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for a terminal, what all rows share above them.
    Table,
    /// A table in Markdown, each row whole in itself.
    Md,
    /// Comma-separated values with a line of names; samples left out.
    Csv,
    /// One array.
    Json,
    /// One object a line.
    Jsonl,
}

/// Prints `rows`.
pub fn print(out: &mut dyn Write, rows: &[Record], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => {
            let mut grid = grid(rows);
            for line in heading(rows, &mut grid) {
                writeln!(out, "{line}")?;
            }
            grid.text(out)?;
            ops(out, rows)?;
        }
        Format::Md => {
            grid(rows).markdown(out)?;
            if rows.iter().any(|row| !row.ops.is_empty()) {
                writeln!(out, "\n```")?;
                ops(out, rows)?;
                writeln!(out, "```")?;
            }
        }
        Format::Csv => csv(out, rows)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, rows)?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            for row in rows {
                writeln!(out, "{}", serde_json::to_string(row)?)?;
            }
        }
    }
    Ok(())
}

/// What stands above a table: machine and commit, and, taken out of `grid`, what all rows say.
fn heading(rows: &[Record], grid: &mut Grid) -> Vec<String> {
    let Some(row) = rows.first() else { return Vec::new() };
    let program = format!("pumice {} ({})", row.build_version, row.build_commit);
    grid.take_shared(&["cpu_info", "memory", "commit"]);
    let machine = [row.cpu_info.clone(), terminal::size(row.memory_size), row.os.clone(), program];
    let mut lines = vec![machine.join(", ")];
    let shared = grid.take_shared(&["model", "size", "params"]);
    if !shared.is_empty() {
        lines.push(format!("{} parameters", shared.join(", ")));
    }
    if !grid.take_shared(&["backend", "gpu", "ngl", "isa", "threads"]).is_empty() {
        let processor = if row.gpu_info.is_empty() { format!("{}, ", row.backends) } else { String::new() };
        lines.push(processor + &row.device());
    }
    lines
}

/// The table of `rows`.
fn grid(rows: &[Record]) -> Grid {
    let any = |has: fn(&Record) -> bool| rows.iter().any(has);
    let (energy, limit) =
        (any(|r| r.joules.is_some()), any(|r| r.limit_share.is_some() || r.memory_limit.is_some()));
    let gpu = any(|r| !r.gpu_info.is_empty());
    let mut grid = Grid::default();
    for row in rows {
        let mut line = Line::default();
        line.left("cpu_info", row.cpu_info.clone());
        line.right("memory", terminal::size(row.memory_size));
        line.left("commit", row.build_commit.clone());
        line.left("model", row.model_type.clone());
        line.right("size", terminal::size(row.model_size));
        line.right("params", params(row.model_n_params));
        line.left("backend", row.backends.clone());
        if gpu {
            line.left("gpu", row.gpu_info.clone());
            line.right("ngl", row.n_gpu_layers.to_string());
        }
        line.left("isa", row.isa.clone());
        line.right("threads", row.n_threads.to_string());
        line.right("test", row.test.clone());
        line.right("t/s", rate(row));
        line.right("time", time(row));
        line.right("median", middle(row));
        if energy {
            line.right("J", row.joules.map_or_else(String::new, |j| format!("{j:.2}")));
            line.right("J/t", row.joules_per_token.map_or_else(String::new, |j| format!("{j:.3}")));
        }
        if limit {
            line.right("limit", row.memory_limit.map_or_else(|| least(row), terminal::size));
            line.right("of limit", share(row));
        }
        grid.push(line);
    }
    grid
}

/// `6.74 B`, `6.41 M`.
pub fn params(n: u64) -> String {
    match n {
        0..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// `46.51 ± 0.32`: mean and deviation of tokens per second.
fn rate(row: &Record) -> String {
    match (row.avg_ts, row.stddev_ts) {
        (Some(mean), Some(deviation)) => format!("{mean:.2} ± {deviation:.2}"),
        (Some(mean), None) => format!("{mean:.2}"),
        _ => String::new(),
    }
}

/// `1.83 s ± 0.02`: mean and deviation of the time; of `memory` the bytes.
fn time(row: &Record) -> String {
    match row.peak_memory {
        Some(bytes) => terminal::size(bytes),
        None => {
            let (unit, name, digits) = unit(row.avg_ns);
            let (mean, deviation) = (row.avg_ns as f64 / unit, row.stddev_ns as f64 / unit);
            format!("{mean:.digits$} ± {deviation:.digits$} {name}")
        }
    }
}

/// The median of what the row is about: tokens per second, or time.
fn middle(row: &Record) -> String {
    match (row.median_ts, row.median_ns) {
        (Some(rate), _) => format!("{rate:.2} t/s"),
        (None, 0) => String::new(),
        (None, ns) => {
            let (unit, name, digits) = unit(ns);
            format!("{:.digits$} {name}", ns as f64 / unit)
        }
    }
}

/// Nanoseconds in the unit that suits `ns`, its name, and digits behind the point.
fn unit(ns: u64) -> (f64, &'static str, usize) {
    if ns < 1_000_000_000 { (1e6, "ms", 2) } else { (1e9, "s", 3) }
}

/// The limit in the row's unit: `110.20 t/s`, `1.234 s`.
fn least(row: &Record) -> String {
    let Some(ns) = row.limit_ns else { return String::new() };
    // The tokens of a test, by one sample: the medians of few and unlike samples are of different ones.
    let tokens = match (row.samples_ts.first(), row.samples_ns.first()) {
        (Some(rate), Some(ns)) => Some(rate * *ns as f64),
        _ => row.median_ts.map(|rate| rate * row.median_ns as f64),
    };
    middle(&Record {
        median_ts: row.median_ts.and(tokens).map(|tokens| tokens / ns.max(1) as f64),
        median_ns: ns,
        ..Record::default()
    })
}

/// `87 % memory`; of memory the part of what it may be: `93 %`.
fn share(row: &Record) -> String {
    if let (Some(bytes), Some(limit)) = (row.peak_memory, row.memory_limit) {
        return format!("{:.0} %", 100.0 * bytes as f64 / limit.max(1) as f64);
    }
    let name = row.limit.as_deref().unwrap_or_default();
    row.limit_share.map_or_else(String::new, |share| format!("{:.0} % {name}", share * 100.0))
}

/// The tables of ops, below the rows.
fn ops(out: &mut dyn Write, rows: &[Record]) -> io::Result<()> {
    for row in rows.iter().filter(|row| !row.ops.is_empty()) {
        writeln!(out, "\n{}, {}:", row.test, row.device())?;
        let total: u64 = row.ops.iter().map(|op| op.ns).sum();
        let mut grid = Grid::default();
        for op in &row.ops {
            grid.push(op_line(op, total));
        }
        grid.text(out)?;
    }
    Ok(())
}

fn op_line(op: &OpTime, total: u64) -> Line {
    let seconds = op.ns.max(1) as f64 / 1e9;
    let mut line = Line::default();
    line.left("op", op.op.clone());
    line.right("calls", op.calls.to_string());
    line.right("ms", format!("{:.3}", seconds * 1e3));
    line.right("share", format!("{:.1} %", 100.0 * op.ns as f64 / total.max(1) as f64));
    line.right("GFLOP/s", format!("{:.1}", op.flops as f64 / seconds / 1e9));
    line.right("GB/s", format!("{:.1}", op.bytes as f64 / seconds / 1e9));
    line
}

/// All fields of the rows but lists, a line of names first.
fn csv(out: &mut dyn Write, rows: &[Record]) -> anyhow::Result<()> {
    let mut names = None;
    for row in rows {
        let Value::Object(fields) = serde_json::to_value(row)? else { continue };
        let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_array()).collect();
        if names.is_none() {
            let line: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
            writeln!(out, "{}", line.join(","))?;
            names = Some(());
        }
        let line: Vec<_> = fields.iter().map(|(_, value)| cell(value)).collect();
        writeln!(out, "{}", line.join(","))?;
    }
    Ok(())
}

/// A value as RFC 4180 has it: text in quotes, a quote doubled.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => other.to_string(),
    }
}

/// A table's line under construction: each cell with its column's name and whether it stands at the right.
#[derive(Default)]
pub struct Line(Vec<(String, String, bool)>);

impl Line {
    /// A cell of words.
    pub fn left(&mut self, column: impl Into<String>, text: String) {
        self.0.push((column.into(), text, false));
    }

    /// A cell of numbers.
    pub fn right(&mut self, column: impl Into<String>, text: String) {
        self.0.push((column.into(), text, true));
    }
}

/// A table; its columns are those of its first line.
#[derive(Default)]
pub struct Grid {
    lines: Vec<Line>,
}

impl Grid {
    /// Appends a line, which has the columns of the first.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Takes out `columns` where all lines say the same in them. Returns what they say; nothing where lines differ.
    fn take_shared(&mut self, columns: &[&str]) -> Vec<String> {
        let said = |line: &Line| -> Vec<String> {
            line.0.iter().filter(|c| columns.contains(&c.0.as_str())).map(|c| c.1.clone()).collect()
        };
        let Some(shared) = self.lines.first().map(said) else { return Vec::new() };
        if self.lines.iter().any(|line| said(line) != shared) {
            return Vec::new();
        }
        for line in &mut self.lines {
            line.0.retain(|cell| !columns.contains(&cell.0.as_str()));
        }
        shared
    }

    /// Each column's characters.
    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for Line(cells) in &self.lines {
            widths.resize(cells.len().max(widths.len()), 0);
            for (width, (name, text, _)) in widths.iter_mut().zip(cells) {
                *width = (*width).max(name.chars().count()).max(text.chars().count());
            }
        }
        widths
    }

    fn cells<'a>(
        &'a self,
        line: &'a Line,
        widths: &'a [usize],
        text: impl Fn(&'a (String, String, bool)) -> &'a str + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        line.0.iter().zip(widths).map(move |(cell, width)| match cell.2 {
            true => format!("{:>width$}", text(cell)),
            false => format!("{:<width$}", text(cell)),
        })
    }

    /// Columns with two spaces between them.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths();
        let mut write = |cells: Vec<String>| writeln!(out, "{}", cells.join("  ").trim_end());
        if let Some(first) = self.lines.first() {
            write(self.cells(first, &widths, |c| &c.0).collect())?;
        }
        self.lines.iter().try_for_each(|line| write(self.cells(line, &widths, |c| &c.1).collect()))
    }

    /// Columns with bars between them.
    pub fn markdown(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths();
        let mut write = |cells: Vec<String>| writeln!(out, "| {} |", cells.join(" | "));
        if let Some(first) = self.lines.first() {
            write(self.cells(first, &widths, |c| &c.0).collect())?;
            let rule = first.0.iter().zip(&widths).map(|((_, _, right), width)| {
                let end = if *right { ':' } else { '-' };
                format!("{}{end}", "-".repeat(width - 1))
            });
            write(rule.collect())?;
        }
        self.lines.iter().try_for_each(|line| write(self.cells(line, &widths, |c| &c.1).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Record> {
        let common = Record {
            cpu_info: "Chip, \"fast\"".into(),
            os: "linux aarch64".into(),
            build_commit: "0123abcde".into(),
            build_version: "0.1.0".into(),
            memory_size: 8_000_000_000,
            model_type: "llava 7B Q4_K_M".into(),
            model_size: 4_081_004_224,
            model_n_params: 6_738_415_616,
            backends: "CPU".into(),
            isa: "neon".into(),
            n_threads: 6,
            ..Record::default()
        };
        let pp = Record {
            test: "pp512".into(),
            samples_ns: vec![1, 2],
            avg_ns: 11_008_000_000,
            stddev_ns: 70_000_000,
            median_ns: 11_000_000_000,
            avg_ts: Some(46.514),
            stddev_ts: Some(0.324),
            median_ts: Some(46.5),
            ops: vec![OpTime {
                op: "matmul".into(),
                calls: 2,
                ns: 4_000_000,
                flops: 8_000_000,
                bytes: 2_000_000,
            }],
            ..common.clone()
        };
        let load = Record {
            test: "load warm".into(),
            avg_ns: 20_500_000,
            stddev_ns: 40_000,
            median_ns: 20_000_000,
            ..common.clone()
        };
        let memory = Record { test: "memory".into(), peak_memory: Some(5_030_000_000), ..common };
        vec![load, memory, pp]
    }

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        print(&mut out, &rows(), format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_for_people() {
        let text = printed(Format::Table);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..6],
            [
                "Chip, \"fast\", 8.00 GB, linux aarch64, pumice 0.1.0 (0123abcde)",
                "llava 7B Q4_K_M, 4.08 GB, 6.74 B parameters",
                "CPU, neon, 6 threads",
                "     test           t/s              time     median",
                "load warm                 20.50 ± 0.04 ms   20.00 ms",
                "   memory                         5.03 GB",
            ],
            "no energy and no limit where there are none"
        );
        assert_eq!(lines[6], "    pp512  46.51 ± 0.32  11.008 ± 0.070 s  46.50 t/s");
        assert!(
            text.contains("pp512, neon, 6 threads:\nop      calls     ms    share  GFLOP/s  GB/s\n"),
            "{text}"
        );
        assert!(text.contains("matmul      2  4.000  100.0 %      2.0   0.5\n"), "{text}");
    }

    #[test]
    fn what_differs_stays_in_its_row() {
        let mut rows = rows();
        rows[2].n_threads = 1;
        let mut out = Vec::new();
        print(&mut out, &rows, Format::Table).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].starts_with("backend  isa   threads       test"), "{text}");
        assert!(lines[5].starts_with("CPU      neon        1      pp512"), "{text}");
    }

    #[test]
    fn markdown_has_machine_and_commit_in_each_row() {
        let text = printed(Format::Md);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("| cpu_info     |  memory | commit    | model "), "{text}");
        assert!(lines[1].starts_with("| ------------ | ------: | --------- | ----"), "{text}");
        assert!(lines[2..5].iter().all(|l| l.contains("0123abcde") && l.contains("8.00 GB")), "{text}");
        let bars = |line: &str| line.matches('|').count();
        assert!(lines[..5].iter().all(|l| bars(l) == bars(lines[0])), "{text}");
    }

    #[test]
    fn csv_quotes_text_and_leaves_out_lists() {
        let text = printed(Format::Csv);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let names: Vec<_> = lines[0].split(',').collect();
        assert!(
            names.contains(&"avg_ts") && !names.contains(&"samples_ns") && !names.contains(&"ops"),
            "{text}"
        );
        assert!(lines[1].contains("\"Chip, \"\"fast\"\"\""), "{text}");
        let at = names.iter().position(|n| *n == "avg_ts").unwrap();
        let cells: Vec<_> =
            lines[3].replace("\"Chip, \"\"fast\"\"\"", "x").split(',').map(String::from).collect();
        assert_eq!((cells.len(), cells[at].as_str()), (names.len(), "46.514"));
    }

    #[test]
    fn json_comes_back() {
        let all: Vec<Record> = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(all, rows());
        let each: Vec<Record> =
            printed(Format::Jsonl).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(each, rows());
    }

    #[test]
    fn energy_and_limits_have_columns_where_there_are_some() {
        let mut rows = rows();
        (rows[2].joules, rows[2].joules_per_token) = (Some(512.0), Some(1.0));
        (rows[2].limit, rows[2].limit_share) = (Some("int8".into()), Some(0.724));
        rows[2].limit_ns = Some(5_500_000_000);
        rows[1].memory_limit = Some(5_400_000_000);
        let mut out = Vec::new();
        print(&mut out, &rows, Format::Table).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().nth(6).unwrap();
        assert!(line.ends_with("46.50 t/s  512.00  1.000  93.00 t/s  72 % int8"), "{text}");
        let memory = text.lines().nth(5).unwrap();
        assert!(memory.contains("5.03 GB") && memory.ends_with("5.40 GB       93 %"), "{text}");
    }
}
