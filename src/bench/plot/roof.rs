//! The roofline: operations per second over operations per byte, both axes logarithmic.
//!
//! A series' roof rises with what its memory delivers and is flat where its arithmetic ends, for bytes and for floats; a test is a
//! dot under it. A dot far below the roof has room.

use super::{
    BARS, MARGIN, WIDTH, colour,
    svg::{Anchor, Svg},
};
use crate::bench::record::Record;

/// Height of the field, in pixels.
const HEIGHT: f64 = 360.0;
/// Space beside a dot for its name.
const NAME: f64 = 8.0;
/// Width of a small character, in pixels, at most on the average.
const CHARACTER: f64 = 6.5;

/// A logarithmic axis: the powers of ten between which it runs, and where these lie in pixels.
#[derive(Debug, Clone, Copy)]
struct Axis {
    decades: (i32, i32),
    pixels: (f64, f64),
}

impl Axis {
    /// With whole decades around `values`, all of which are above 0.
    fn around(values: &[f64], pixels: (f64, f64)) -> Self {
        let least = values.iter().copied().fold(f64::MAX, f64::min).log10().floor() as i32;
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max).log10().ceil() as i32;
        Self { decades: (least, most.max(least + 1)), pixels }
    }

    fn at(self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.decades.0)) / f64::from(self.decades.1 - self.decades.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    fn ends(self) -> (f64, f64) {
        (10f64.powi(self.decades.0), 10f64.powi(self.decades.1))
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        (self.decades.0..=self.decades.1).map(|d| 10f64.powi(d))
    }
}

/// A series' limits, per second.
#[derive(Debug, Clone, Copy)]
struct Roof {
    series: usize,
    read: f64,
    int8: f64,
    f32: f64,
}

/// A test: operations per byte, operations per second.
struct Dot<'a> {
    series: usize,
    test: &'a str,
    x: f64,
    y: f64,
}

/// Draws the roofline of those of `rows` that know their limits, from `y` on; where it ends. Nothing where there are none.
pub fn draw(svg: &mut Svg, rows: &[Record], series: &dyn Fn(&Record) -> Option<usize>, y: f64) -> f64 {
    let mut roofs: Vec<Roof> = Vec::new();
    let mut dots = Vec::new();
    for row in rows {
        let Some((roof, dot)) = series(row).and_then(|series| place(row, series)) else { continue };
        if !roofs.iter().any(|r| r.series == roof.series) {
            roofs.push(roof);
        }
        dots.push(dot);
    }
    if dots.is_empty() {
        return y;
    }
    svg.strong(MARGIN, y + 36.0, "Roofline: operations per second over operations per byte of memory");
    let (top, bottom) = (y + 50.0, y + 50.0 + HEIGHT);
    let (x, y) = axes(&roofs, &dots, (top, bottom));
    field(svg, x, y);
    for roof in &roofs {
        let (left, right) = x.ends();
        for (name, flat) in [("int8", roof.int8), ("f32", roof.f32)] {
            // Where memory begins to suffice; the rise may begin left of the field or below it.
            let knee = flat / roof.read;
            let start = left.max(y.ends().0 / roof.read).min(knee);
            let points = [(start, start * roof.read), (knee, flat), (right, flat)];
            let points = points.map(|(a, b)| (x.at(a.clamp(left, right)), y.at(b)));
            svg.line(&points, colour(roof.series), 2.0);
            svg.small(x.pixels.1 - 4.0, y.at(flat) - 5.0, name, Anchor::End);
        }
    }
    for dot in &dots {
        let (px, py) = (x.at(dot.x), y.at(dot.y));
        svg.dot(px, py, colour(dot.series));
        let left = px + NAME + CHARACTER * dot.test.chars().count() as f64 > WIDTH - MARGIN;
        let anchor = if left { Anchor::End } else { Anchor::Start };
        svg.small(if left { px - NAME } else { px + NAME }, py + 14.0, dot.test, anchor);
    }
    bottom + 44.0
}

/// A row's roof and dot, where it knows its work, its time and the machine's limits.
fn place(row: &Record, series: usize) -> Option<(Roof, Dot<'_>)> {
    let above = |rate: Option<f64>| rate.filter(|rate| *rate > 0.0);
    let roof =
        Roof { series, read: above(row.read_rate)?, int8: above(row.int8_rate)?, f32: above(row.f32_rate)? };
    let flops = row.flops.filter(|flops| *flops > 0)? as f64;
    let read = row.bytes_read.filter(|read| *read > 0)? as f64;
    let seconds = (row.median_ns > 0).then_some(row.median_ns as f64 / 1e9)?;
    Some((roof, Dot { series, test: &row.test, x: flops / read, y: flops / seconds }))
}

/// Axes around all of it, the field between `top` and `bottom`.
fn axes(roofs: &[Roof], dots: &[Dot<'_>], (top, bottom): (f64, f64)) -> (Axis, Axis) {
    let knees = roofs.iter().flat_map(|r| [r.int8 / r.read, r.f32 / r.read]);
    let xs: Vec<_> = dots.iter().map(|d| d.x).chain(knees).collect();
    let ys: Vec<_> = dots.iter().map(|d| d.y).chain(roofs.iter().flat_map(|r| [r.int8, r.f32])).collect();
    (Axis::around(&xs, (BARS.0, WIDTH - MARGIN)), Axis::around(&ys, (bottom, top)))
}

/// Lines and numbers of both axes.
fn field(svg: &mut Svg, x: Axis, y: Axis) {
    for tick in x.ticks() {
        svg.line(&[(x.at(tick), y.pixels.0), (x.at(tick), y.pixels.1)], "#ddd", 1.0);
        svg.small(x.at(tick), y.pixels.0 + 16.0, &tick.to_string(), Anchor::Middle);
    }
    for tick in y.ticks() {
        svg.line(&[(x.pixels.0, y.at(tick)), (x.pixels.1, y.at(tick))], "#ddd", 1.0);
        svg.small(x.pixels.0 - 6.0, y.at(tick) + 4.0, &operations(tick), Anchor::End);
    }
    let middle = f64::midpoint(x.pixels.0, x.pixels.1);
    svg.small(middle, y.pixels.0 + 34.0, "operations per byte", Anchor::Middle);
}

/// `10 G`, `1 T`: operations per second.
fn operations(value: f64) -> String {
    match value {
        v if v >= 1e12 => format!("{:.0} T", v / 1e12),
        v if v >= 1e9 => format!("{:.0} G", v / 1e9),
        v if v >= 1e6 => format!("{:.0} M", v / 1e6),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_whole_decades() {
        let axis = Axis::around(&[3.0, 70.0, 2500.0], (100.0, 500.0));
        assert_eq!(
            (axis.decades, axis.at(1.0), axis.at(10_000.0), axis.at(100.0)),
            ((0, 4), 100.0, 500.0, 300.0)
        );
        assert_eq!(Axis::around(&[10.0], (0.0, 1.0)).decades, (1, 2));
        assert_eq!([1e9, 1e10, 1e12, 1e6].map(operations), ["1 G", "10 G", "1 T", "1 M"]);
    }
}
