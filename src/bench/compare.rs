//! Runs side by side: a row for each test of each model, a column for each machine, commit and setting, and how they compare.

use std::{io::Write, path::PathBuf};

use super::{
    record::{self, Record},
    table::{Format, Grid, Line},
};
use crate::terminal;

/// What tells columns apart, in the words that stand above the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    run: String,
    machine: String,
    setting: String,
    commit: String,
    date: String,
}

impl Column {
    fn of(row: &Record) -> Self {
        Self {
            run: row.run_id.clone(),
            machine: row.cpu_info.clone(),
            setting: setting(row),
            commit: row.build_commit.clone(),
            date: row.test_time.chars().take(10).collect(),
        }
    }
}

/// How a row was computed: what else would be compared with each other unseen.
fn setting(row: &Record) -> String {
    let processor = row.gpu_info.is_empty().then(|| row.backends.clone());
    let mut parts: Vec<_> = processor.into_iter().chain([row.device()]).collect();
    if !matches!(row.type_k.as_str(), "" | "f16") {
        parts.push(format!("{} cache", row.type_k));
    }
    parts.extend(row.no_mmap.then(|| "no mmap".into()));
    parts.extend(row.mlock.then(|| "mlock".into()));
    parts.join(", ")
}

/// What a line of the table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key<'a> {
    model: &'a str,
    test: &'a str,
}

/// The rows of some runs, by test and by column.
struct Comparison<'a> {
    columns: Vec<Column>,
    /// Model and test, and a row for each column that has it.
    tests: Vec<(Key<'a>, Vec<Option<&'a Record>>)>,
}

/// Prints the runs in `files` side by side; their rows.
pub fn print(out: &mut dyn Write, files: &[PathBuf], format: Format) -> anyhow::Result<Vec<Record>> {
    let mut rows = Vec::new();
    for file in files {
        rows.extend(record::read(file)?);
    }
    let comparison = Comparison::of(&rows);
    match format {
        Format::Table => {
            comparison.heading(out)?;
            comparison.grid().text(out)?;
        }
        Format::Md => {
            comparison.heading(out)?;
            writeln!(out)?;
            comparison.grid().markdown(out)?;
        }
        // Programs want the rows themselves.
        other => super::table::print(out, &rows, other)?,
    }
    Ok(rows)
}

impl<'a> Comparison<'a> {
    fn of(rows: &'a [Record]) -> Self {
        let mut columns: Vec<Column> = Vec::new();
        for row in rows {
            let column = Column::of(row);
            // The tests of a run begin on one day or, around midnight, on two.
            if !columns.iter().any(|c| c.is(&column)) {
                columns.push(column);
            }
        }
        let mut tests: Vec<(Key<'a>, Vec<Option<&Record>>)> = Vec::new();
        for row in rows {
            let (key, column) = (Key { model: &row.model_type, test: &row.test }, Column::of(row));
            let at = columns.iter().position(|c| c.is(&column)).unwrap_or(0);
            let line = match tests.iter().position(|(k, _)| *k == key) {
                Some(line) => line,
                None => {
                    tests.push((key, vec![None; columns.len()]));
                    tests.len() - 1
                }
            };
            tests[line].1[at] = Some(row);
        }
        Self { columns, tests }
    }

    /// A line for each column: what it stands for.
    fn heading(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for (i, c) in self.columns.iter().enumerate() {
            writeln!(out, "[{}] {}; {}; {} ({})", i + 1, c.machine, c.setting, c.commit, c.date)?;
        }
        Ok(())
    }

    fn grid(&self) -> Grid {
        let mut grid = Grid::default();
        for (Key { model, test }, rows) in &self.tests {
            let mut line = Line::default();
            line.left("model", (*model).to_owned());
            line.right("test", (*test).to_owned());
            let first = rows.first().copied().flatten();
            for (i, row) in rows.iter().enumerate() {
                line.right(format!("[{}]", i + 1), row.map_or_else(String::new, value));
                if i > 0 {
                    let ratio = first.zip(*row).and_then(|(first, row)| ratio(first, row));
                    let text = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
                    line.right(format!("[{}]/[1]", i + 1), text);
                }
            }
            grid.push(line);
        }
        grid
    }
}

impl Column {
    fn is(&self, other: &Self) -> bool {
        (&self.run, &self.machine, &self.setting, &self.commit)
            == (&other.run, &other.machine, &other.setting, &other.commit)
    }
}

/// The median of a row, in its unit.
fn value(row: &Record) -> String {
    match (row.peak_memory, row.median_ts) {
        (Some(bytes), _) => terminal::size(bytes),
        (None, Some(rate)) => format!("{rate:.2} t/s"),
        (None, None) if row.median_ns < 1_000_000_000 => format!("{:.2} ms", row.median_ns as f64 / 1e6),
        (None, None) => format!("{:.3} s", row.median_ns as f64 / 1e9),
    }
}

/// How many times as fast `row` is; of memory, how many times as much it takes.
fn ratio(first: &Record, row: &Record) -> Option<f64> {
    let ratio = match (first.peak_memory, row.peak_memory) {
        (Some(first), Some(row)) => row as f64 / first as f64,
        _ => row.speed()? / first.speed()?,
    };
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: &str, threads: usize, test: &str, ts: Option<f64>, ns: u64) -> Record {
        Record {
            run_id: run.into(),
            cpu_info: "Chip".into(),
            build_commit: "abc".into(),
            isa: "neon".into(),
            backends: "CPU".into(),
            n_threads: threads,
            model_type: "llava 7B Q4_0".into(),
            test: test.into(),
            median_ts: ts,
            median_ns: ns,
            test_time: "2026-11-20T23:59:59Z".into(),
            ..Record::default()
        }
    }

    #[test]
    fn columns_are_runs_and_settings_and_more_is_faster() {
        let mut late = row("one", 2, "photo", None, 4_000_000_000);
        late.test_time = "2026-11-21T00:00:01Z".into();
        let rows = [
            row("one", 2, "pp512", Some(20.0), 1),
            late,
            row("one", 4, "pp512", Some(30.0), 1),
            row("two", 2, "photo", None, 1_000_000_000),
            Record { peak_memory: Some(6), ..row("two", 2, "memory", None, 0) },
        ];
        let comparison = Comparison::of(&rows);
        assert_eq!(comparison.columns.len(), 3);
        let mut out = Vec::new();
        comparison.heading(&mut out).unwrap();
        comparison.grid().markdown(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "[2] Chip; CPU, neon, 4 threads; abc (2026-11-20)");
        let cells = |line: usize| -> Vec<_> { lines[line].split('|').map(str::trim).collect() };
        assert_eq!(cells(3), ["", "model", "test", "[1]", "[2]", "[2]/[1]", "[3]", "[3]/[1]", ""]);
        assert_eq!(cells(5), ["", "llava 7B Q4_0", "pp512", "20.00 t/s", "30.00 t/s", "1.50x", "", "", ""]);
        assert_eq!(cells(6)[3..], ["4.000 s", "", "", "1.000 s", "4.00x", ""]);
        assert_eq!(cells(7)[3..], ["", "", "", "6 B", "", ""]);
    }

    #[test]
    fn what_is_computed_otherwise_stands_in_another_column() {
        let pp = || row("one", 1, "pp512", Some(20.0), 1);
        let rows = [
            Record { type_k: "f16".into(), ..pp() },
            Record { type_k: "q8_0".into(), no_mmap: true, ..pp() },
            Record { model_type: "llava 7B Q4_0 random".into(), ..pp() },
        ];
        let comparison = Comparison::of(&rows);
        let settings: Vec<_> = comparison.columns.iter().map(|c| c.setting.as_str()).collect();
        assert_eq!(
            settings,
            ["CPU, neon, 1 thread", "CPU, neon, 1 thread, q8_0 cache, no mmap", "CPU, neon, 1 thread"][..2]
        );
        assert_eq!(comparison.tests.len(), 2, "random weights are another model");
    }

    #[test]
    fn more_memory_is_a_larger_ratio() {
        let memory = |bytes| Record { peak_memory: Some(bytes), ..row("x", 1, "memory", None, 0) };
        assert_eq!(ratio(&memory(4), &memory(6)), Some(1.5));
        assert_eq!(ratio(&memory(4), &row("x", 1, "pp1", Some(1.0), 1)), None);
    }
}
