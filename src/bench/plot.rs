//! `pumice bench --plot`: runs as a picture: speed by machine, and each machine's roofline with the tests on it.
//!
//! The SVG is written by hand: bars, lines and text are all that it needs, and text that stays text can be read in any browser,
//! searched and copied. Colours are Okabe's and Ito's, which people of every kind of colour vision tell apart.

mod roof;
mod svg;

use std::{fs, path::Path};

use anyhow::Context;

use self::svg::{Anchor, Svg};
use super::record::Record;
use crate::Usage;

/// Width of the picture, in pixels.
const WIDTH: f64 = 900.0;
/// Space around everything.
const MARGIN: f64 = 24.0;
/// A bar and the distance to the next.
const BAR: (f64, f64) = (18.0, 24.0);
/// Where bars begin, and how long the longest is.
const BARS: (f64, f64) = (60.0, 560.0);
/// Colours of series; a ninth begins again.
const COLOURS: [&str; 8] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#5F5F5F"];

/// Tells series apart: a machine with a setting at a commit, in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Series {
    run: String,
    /// What stands in the legend.
    name: String,
}

impl Series {
    fn of(row: &Record) -> Self {
        let Record { cpu_info, build_commit, run_id, .. } = row;
        Self { run: run_id.clone(), name: format!("{cpu_info}, {}, {build_commit}", row.device()) }
    }
}

/// One panel of bars: a test of a model.
struct Panel<'a> {
    model: &'a str,
    test: &'a str,
    /// A bar for each series that has the test: its number and its row.
    bars: Vec<(usize, &'a Record)>,
}

/// Draws `rows` into the file at `path`.
pub fn write(path: &Path, rows: &[Record]) -> anyhow::Result<()> {
    fs::write(path, draw(rows)).with_context(|| format!("{}: the plot cannot be written", path.display()))
}

/// Checks that a plot can have the name `path`, before an hour is measured for it.
pub fn check(path: &Path) -> Result<(), Usage> {
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg")) {
        return Err(Usage(format!("--plot {}: an SVG is written; name it so: runs.svg", path.display())));
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Usage(format!("--plot {}: there is no folder {}", path.display(), folder.display())))
        }
        _ => Ok(()),
    }
}

/// All of it as SVG.
fn draw(rows: &[Record]) -> String {
    let mut series: Vec<Series> = Vec::new();
    let mut panels: Vec<Panel> = Vec::new();
    // Memory is no matter of speed.
    for row in rows.iter().filter(|row| row.speed().is_some()) {
        let own = Series::of(row);
        let at = series.iter().position(|s| *s == own).unwrap_or_else(|| {
            series.push(own);
            series.len() - 1
        });
        let (model, test) = (row.model_type.as_str(), row.test.as_str());
        match panels.iter_mut().find(|p| (p.model, p.test) == (model, test)) {
            Some(panel) => panel.bars.push((at, row)),
            None => panels.push(Panel { model, test, bars: vec![(at, row)] }),
        }
    }
    // Rates first: they are what most people look for.
    panels.sort_by_key(|p| p.bars.iter().all(|(_, row)| row.median_ts.is_none()));

    let mut svg = Svg::default();
    let mut y = MARGIN + 20.0;
    svg.heading(MARGIN, y, "pumice bench");
    y += 14.0;
    for (i, s) in series.iter().enumerate() {
        y += 20.0;
        svg.rect(MARGIN, y - 11.0, 12.0, 12.0, colour(i), 1.0);
        svg.text(MARGIN + 20.0, y, &s.name, Anchor::Start);
    }
    y += 16.0;
    if panels.iter().flat_map(|p| &p.bars).any(|(_, row)| row.limit_ns.is_some()) {
        y += 10.0;
        let text = "Black lines: the machine's measured limit of arithmetic or memory.";
        svg.small(MARGIN, y, text, Anchor::Start);
        y += 10.0;
    }
    for panel in &panels {
        y = self::panel(&mut svg, panel, y);
    }
    y = roof::draw(&mut svg, rows, &|row| series.iter().position(|s| *s == Series::of(row)), y);
    svg.finish(WIDTH, y + MARGIN)
}

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// A row's length of bar and that of its limit: tokens per second, else seconds.
fn lengths(row: &Record) -> (f64, Option<f64>) {
    let limit = row.limit_ns.filter(|ns| *ns > 0).map(|ns| ns as f64 / 1e9);
    match row.median_ts {
        // The limit is of a sample's time, as the rate is.
        Some(rate) => (rate, limit.map(|limit| rate * row.median_ns as f64 / 1e9 / limit)),
        None => (row.median_ns as f64 / 1e9, limit),
    }
}

/// Draws a panel from `y` on; where it ends.
fn panel(svg: &mut Svg, panel: &Panel<'_>, y: f64) -> f64 {
    let rates = panel.bars.iter().all(|(_, row)| row.median_ts.is_some());
    let unit = if rates { "tokens per second" } else { "seconds, less is better" };
    let mut y = y + 30.0;
    svg.strong(MARGIN, y, &format!("{}, {}: {unit}", panel.test, panel.model));
    y += 10.0;
    let longest = panel.bars.iter().map(|(_, row)| {
        let (value, limit) = lengths(row);
        value.max(limit.unwrap_or(0.0))
    });
    let scale = BARS.1 / longest.fold(f64::MIN_POSITIVE, f64::max);
    for (series, row) in &panel.bars {
        let (value, limit) = lengths(row);
        let longer = limit.map_or(value, |limit| limit.max(value));
        if let Some(limit) = limit {
            svg.rect(BARS.0, y, limit * scale, BAR.0, colour(*series), 0.25);
        }
        svg.rect(BARS.0, y, value * scale, BAR.0, colour(*series), 1.0);
        if let Some(limit) = limit {
            let x = BARS.0 + limit * scale;
            svg.line(&[(x, y - 2.0), (x, y + BAR.0 + 2.0)], "#222", 2.0);
        }
        let mut label = number(value);
        if let (Some(share), Some(bound)) = (row.limit_share, &row.limit) {
            label += &format!("  ({:.0} % of {bound})", share * 100.0);
        }
        svg.text(BARS.0 + longer * scale + 8.0, y + 14.0, &label, Anchor::Start);
        y += BAR.1;
    }
    y
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests;
