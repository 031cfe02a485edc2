//! The chat template that a model's file brings along, in Jinja as `transformers` runs it.
//!
//! A template is a program over whole messages; we need pieces, and only what a new turn appends. So the template never
//! sees a person's words: each message is a marker of private-use characters, and what it prints around the markers is
//! the template's own text. There control tokens are recognised; in the words put back for the markers they are not.
//! What a later turn appends is what is printed after the marker of an answer before it. Templates that strip messages are
//! found out by an odd space on both sides of a marker, and the words are then stripped alike.

use super::{Content, Piece};
use crate::vocab::Part;
use crate::{Error, Result, Vocabulary};
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};
use std::time::{SystemTime, UNIX_EPOCH};

/// Around each marker; U+2000 is white space to every `strip` and stands in no template.
const EDGE: char = '\u{2000}';
/// What stands for a person's words, the answer before them, the words before that, and the system text.
const WORDS: &str = "\u{f0000}";
const ANSWER: &str = "\u{f0001}";
const EARLIER: &str = "\u{f0002}";
const SYSTEM: &str = "\u{f0003}";

/// A template with its environment, parsed.
#[derive(Debug)]
pub(super) struct Jinja {
    name: String,
    environment: Environment<'static>,
}

/// How a template takes what is said in a message.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// As text.
    Text,
    /// As a list of parts of a type: templates of processors that print `<image>` themselves.
    Parts,
}

impl Jinja {
    pub(super) fn new(name: &str, source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failed(name, &e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |text: String| -> std::result::Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
            },
        );
        environment.add_function("strftime_now", |format: String| strftime(&format, now()));
        let source = without_generation_tags(source);
        environment.add_template_owned("chat", source).map_err(|e| failed(name, &e))?;
        Ok(Self { name: name.into(), environment })
    }

    /// See [`super::Template::turn`].
    pub(super) fn turn(
        &self,
        vocabulary: &Vocabulary,
        system: Option<&str>,
        content: Content<'_>,
        first: bool,
    ) -> Result<Vec<Piece>> {
        let mut messages = vec![("user", WORDS)];
        if !first {
            messages.splice(0..0, [("user", EARLIER), ("assistant", ANSWER)]);
        }
        let (printed, shape) = self.print(vocabulary, system, &messages, content.images.len(), true)?;
        let mut own = printed.as_str();
        if !first {
            let at = own.find(ANSWER).ok_or_else(|| self.broken("prints no answers"))?;
            own = own[at + ANSWER.len()..].trim_start_matches(EDGE);
        }
        let at = own.find(WORDS).ok_or_else(|| self.broken("does not print what the user says"))?;
        let (before, after) = (&own[..at], &own[at + WORDS.len()..]);
        if [before, after].iter().any(|t| t.contains(WORDS) || t.contains(ANSWER)) {
            return Err(self.broken("prints a message twice"));
        }
        let mut images = content.images.iter();
        let mut out = Vec::new();
        self.own_text(vocabulary, system, before.trim_end_matches(EDGE), shape, &mut images, &mut out);
        let strip = (!before.ends_with(EDGE), !after.starts_with(EDGE));
        let said =
            if shape == Shape::Parts { vec![Piece::text(content.words)] } else { content.arranged("\n") };
        out.extend(stripped(said, strip));
        self.own_text(vocabulary, system, after.trim_start_matches(EDGE), shape, &mut images, &mut out);
        match images.next() {
            None => Ok(out),
            Some(_) if shape == Shape::Parts => Err(self.broken("leaves out a picture")),
            Some(_) => Ok(out), // they stand among what is said
        }
    }

    /// What stands between the opening of an answer and its text.
    pub(super) fn answer_lead(&self, vocabulary: &Vocabulary, system: Option<&str>) -> Result<String> {
        let (open, _) = self.print(vocabulary, system, &[("user", WORDS)], 0, true)?;
        let (whole, _) =
            self.print(vocabulary, system, &[("user", WORDS), ("assistant", ANSWER)], 0, false)?;
        let at = whole.find(ANSWER).ok_or_else(|| self.broken("prints no answers"))?;
        Ok(whole[..at].trim_end_matches(EDGE).strip_prefix(open.as_str()).unwrap_or_default().to_owned())
    }

    /// Runs the template; `open` asks for the opening of an answer. Pictures belong to the last user message.
    fn print(
        &self,
        vocabulary: &Vocabulary,
        system: Option<&str>,
        messages: &[(&str, &str)],
        images: usize,
        open: bool,
    ) -> Result<(String, Shape)> {
        let system = system.map(|_| ("system", SYSTEM));
        let markers: Vec<&str> = messages.iter().map(|m| m.1).filter(|&m| m != EARLIER).collect();
        let mut error = None;
        for shape in [Shape::Text, Shape::Parts] {
            let messages: Vec<Value> = system
                .iter()
                .chain(messages)
                .map(|&(role, marker)| {
                    let text = format!("{EDGE}{marker}{EDGE}");
                    if shape == Shape::Text {
                        return context! { role => role, content => text };
                    }
                    let pictures = if marker == WORDS { images } else { 0 };
                    let pictures = (0..pictures).map(|_| context! { type => "image" });
                    let parts: Vec<Value> =
                        pictures.chain([context! { type => "text", text => text }]).collect();
                    context! { role => role, content => parts }
                })
                .collect();
            let piece = |id: Option<u32>| id.map_or("", |id| vocabulary.piece(id));
            let values = context! {
                messages => messages,
                bos_token => piece(vocabulary.bos()),
                eos_token => piece(vocabulary.eos()),
                add_generation_prompt => open,
                tools => Value::from(()),
                documents => Value::from(()),
            };
            let printed = self.environment.get_template("chat").and_then(|t| t.render(values));
            match printed {
                // A template of the other shape prints nothing, or fails.
                Ok(text) if markers.iter().all(|m| text.contains(m)) => return Ok((text, shape)),
                Ok(_) => {}
                Err(e) => error = error.or(Some(e)),
            }
        }
        Err(error
            .map_or_else(|| self.broken("does not print what the user says"), |e| failed(&self.name, &e)))
    }

    /// The template's own text as pieces: its control tokens, its places for pictures, the system text.
    fn own_text<'p>(
        &self,
        vocabulary: &Vocabulary,
        system: Option<&str>,
        text: &str,
        shape: Shape,
        images: &mut impl Iterator<Item = &'p Vec<Piece>>,
        out: &mut Vec<Piece>,
    ) {
        for (i, text) in text.split(SYSTEM).enumerate() {
            if i > 0 {
                out.extend(system.map(Piece::text));
            }
            let mut text = text.replace(EDGE, "");
            if shape == Shape::Parts {
                while let Some((before, after)) = text.split_once("<image>") {
                    tokens(vocabulary, before, out);
                    out.extend(images.next().into_iter().flatten().cloned());
                    text = after.to_owned();
                }
            }
            tokens(vocabulary, &text, out);
        }
    }

    fn broken(&self, why: &str) -> Error {
        Error::ChatTemplate { name: self.name.clone(), why: why.into() }
    }
}

fn tokens(vocabulary: &Vocabulary, text: &str, out: &mut Vec<Piece>) {
    out.extend(vocabulary.split(text, true).into_iter().map(|part| match part {
        Part::Text(text) => Piece::text(text),
        Part::Token(id) => Piece::Token(id),
    }));
}

/// What is said, without white space at the sides that the template strips.
fn stripped(mut said: Vec<Piece>, (start, end): (bool, bool)) -> Vec<Piece> {
    if start && let Some(Piece::Text(text)) = said.first_mut() {
        *text = text.trim_start().to_owned();
    }
    if end && let Some(Piece::Text(text)) = said.last_mut() {
        *text = text.trim_end().to_owned();
    }
    said
}

fn failed(name: &str, error: &minijinja::Error) -> Error {
    Error::ChatTemplate { name: name.into(), why: error.to_string() }
}

/// `{% generation %}` marks answers for training in `transformers`; here it becomes a condition that always holds.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let Some(end) = rest[at..].find("%}").map(|e| at + e + 2) else { break };
        let tag = &rest[at..end];
        out.push_str(&rest[..at]);
        out.push_str(&match tag[2..tag.len() - 2].trim_matches(['-', '+', ' ', '\n']) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        });
        rest = &rest[end..];
    }
    out + rest
}

/// Seconds since 1970. Some templates print today's date, as they did when the model was trained.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The conversions of C's `strftime` that chat templates use, in UTC.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86400;
    let (year, month, day) = civil(days);
    let (name, weekday) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out.push_str(&match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => name.to_owned(),
            Some('b') => name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{:02}", seconds / 3600 % 24),
            Some('M') => format!("{:02}", seconds / 60 % 60),
            Some('S') => format!("{:02}", seconds % 60),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        });
    }
    out
}

/// Year, month 1–12, day 1–31 of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (year, month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(
            strftime("%A %a %Y-%m-%d %H:%M:%S %y %B %% %", 1_709_210_096),
            "Thursday Thu 2024-02-29 12:34:56 24 February %% %"
        );
        assert_eq!(strftime("%Y-%m-%d", 4_102_444_800), "2100-01-01");
    }

    #[test]
    fn generation_tags_become_conditions() {
        let source = "{% if x %}{%- generation -%}a{%- endgeneration %}{% endif %}{% x";
        assert_eq!(without_generation_tags(source), "{% if x %}{%- if true -%}a{%- endif %}{% endif %}{% x");
    }
}
