//! The few shapes of an SVG that a plot is made of. All coordinates are pixels from the left and from above.

use std::fmt::Write;

/// Which point of a text stands where it is put.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture under construction.
#[derive(Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// A filled rectangle; `opacity` 0 to 1.
    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str, opacity: f64) {
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>"
        ));
    }

    /// A broken line through `points`, `width` wide.
    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            points.join(" ")
        ));
    }

    /// A dot.
    pub fn dot(&mut self, x: f64, y: f64, colour: &str) {
        self.push(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\" stroke=\"#fff\"/>"
        ));
    }

    /// Text, its foot at `y`.
    pub fn text(&mut self, x: f64, y: f64, text: &str, anchor: Anchor) {
        self.words(x, y, text, anchor, "");
    }

    /// Text that is read second.
    pub fn small(&mut self, x: f64, y: f64, text: &str, anchor: Anchor) {
        self.words(x, y, text, anchor, " font-size=\"11\" fill=\"#555\"");
    }

    /// The heading of a panel.
    pub fn strong(&mut self, x: f64, y: f64, text: &str) {
        self.words(x, y, text, Anchor::Start, " font-weight=\"bold\"");
    }

    /// The heading of the whole.
    pub fn heading(&mut self, x: f64, y: f64, text: &str) {
        self.words(x, y, text, Anchor::Start, " font-size=\"20\" font-weight=\"bold\"");
    }

    fn words(&mut self, x: f64, y: f64, text: &str, anchor: Anchor, style: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = escaped(text);
        self.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\"{anchor}{style}>{text}</text>"));
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = writeln!(self.body, "{element}");
    }

    /// The whole file.
    pub fn finish(self, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// `text` without what XML would read as its own, or not at all.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
