//! Prompts: what a model is given around a person's words and pictures, as token ids.
//!
//! A prompt is built of pieces (text, token, picture), never of one string that is searched for marks. So `<image>`,
//! `</s>` or `<s>` in a person's text stay what they look like, text: only the template places pictures and control
//! tokens. (`###` *is* text to the models of v0 that stop at it, there is no token to protect; it passes as typed.)
//!
//! Tokens follow LLaVA: each stretch of text between pictures or control tokens is tokenised as a fresh text, with its
//! own leading space; `bos` stands once, at the front. After `</s>` the next turn therefore begins with a leading space,
//! `USER` = 3148 1001: the slow tokenizer's "legacy" form and llama.cpp's. Which form the published LLaVA-1.5 saw for
//! later turns is not known (`legacy=False` would give 11889); training here uses the same code, hence the same form.
//!
//! A turn's tokens are only ever appended: the caller keeps the ids that the model generated as they came, without the
//! token that ended the answer, and [`Format::next_turn`] begins with what closes the answer. So everything before
//! a new turn is in the KV cache already.

mod jinja;
mod template;

use crate::{Error, Result, Vocabulary};
use jinja::Jinja;
use pumice_models::{gguf, names::keys};
use std::sync::Arc;
use template::Template;

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Token ids, at least one.
    Tokens(Vec<u32>),
    /// The rows of a picture, by the number that the caller gave it.
    Image(usize),
}

/// Where pictures stand in a turn, each on a line of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePlace {
    /// Before the question, as LLaVA is trained since v1.
    #[default]
    Before,
    /// After the question, which the first release trained as well.
    After,
}

/// What a person says in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn<'a> {
    /// The words.
    pub text: &'a str,
    /// Numbers of the pictures shown in this turn; they come back in [`Chunk::Image`].
    pub images: &'a [usize],
    /// Where the pictures stand.
    pub place: ImagePlace,
}

/// A part of a prompt before it is tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Ordinary text; joined with the text beside it.
    Text(String),
    /// A control token, or a user-defined one of the template.
    Token(u32),
    /// A picture.
    Image(usize),
}

impl Piece {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

/// How a model is spoken to.
#[derive(Clone, Debug)]
pub struct Format {
    kind: Kind,
    system: Option<String>,
    im_start_end: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Template(&'static Template),
    Jinja(Arc<Jinja>),
}

impl Format {
    /// One of LLaVA's own templates: see [`Format::names`].
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(name: &str) -> Result<Self> {
        match template::find(name) {
            Some(template) => Ok(Self::new(Kind::Template(template))),
            None => Err(Error::UnknownTemplate {
                name: name.into(),
                known: Self::names().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Names of LLaVA's own templates.
    pub fn names() -> impl Iterator<Item = &'static str> {
        template::names()
    }

    /// A Jinja template as in `tokenizer.chat_template`; `name` is used in messages.
    ///
    /// # Errors
    /// The template does not parse.
    pub fn jinja(name: &str, source: &str) -> Result<Self> {
        Ok(Self::new(Kind::Jinja(Arc::new(Jinja::new(name, source)?))))
    }

    /// The format of a model: `pumice.template` of the vision file or the text file; else the text file's
    /// `tokenizer.chat_template`; else `llava_v1` where there is vision, since the pairs that were made for llama.cpp name
    /// no template and hold LLaVA-1.5; else `v1`, Vicuna's.
    ///
    /// # Errors
    /// A key has another type, or the template is unknown or does not parse.
    pub fn from_gguf(text: &gguf::File, vision: Option<&gguf::File>) -> Result<Self> {
        let files = || vision.into_iter().chain([text]);
        let mut format = None;
        for file in files() {
            if format.is_none()
                && let Some(name) = file.str(keys::TEMPLATE)?
            {
                format = Some(Self::named(name)?);
            }
        }
        let mut format = match (format, text.str("tokenizer.chat_template")?) {
            (Some(format), _) => format,
            (None, Some(source)) => Self::jinja(&text.path().display().to_string(), source)?,
            (None, None) => {
                let sees = text.bool(keys::HAS_VISION)?.unwrap_or(vision.is_some());
                Self::named(if sees { "llava_v1" } else { "v1" })?
            }
        };
        for file in files() {
            format.im_start_end |= file.bool(keys::USE_IM_START_END)?.unwrap_or(false);
        }
        Ok(format)
    }

    fn new(kind: Kind) -> Self {
        Self { kind, system: None, im_start_end: false }
    }

    /// The template's name; "jinja" for one that came with the model.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Template(template) => template.name,
            Kind::Jinja(_) => "jinja",
        }
    }

    /// Replaces the template's system text.
    pub fn with_system(mut self, text: &str) -> Self {
        self.system = Some(text.into());
        self
    }

    /// Puts `<im_start>` and `<im_end>` around pictures, as v0's checkpoints want it (`mm_use_im_start_end`).
    pub fn with_im_start_end(mut self, yes: bool) -> Self {
        self.im_start_end = yes;
        self
    }

    /// The beginning of a conversation up to where the model answers.
    ///
    /// # Errors
    /// The model's own template fails on the turn, or `<im_start>` is asked for and the vocabulary lacks it.
    pub fn first_turn(&self, vocabulary: &Vocabulary, turn: &Turn<'_>) -> Result<Vec<Chunk>> {
        Ok(tokenise(vocabulary, &self.pieces(vocabulary, turn, true)?, true))
    }

    /// What follows an answer, up to where the model answers again: the end of the answer, then the new turn.
    ///
    /// # Errors
    /// As [`Format::first_turn`].
    pub fn next_turn(&self, vocabulary: &Vocabulary, turn: &Turn<'_>) -> Result<Vec<Chunk>> {
        Ok(tokenise(vocabulary, &self.pieces(vocabulary, turn, false)?, false))
    }

    /// The ids of an answer that is known as text only (a conversation read from a file), as they would have been
    /// generated after a turn; without what ends it.
    ///
    /// # Errors
    /// As [`Format::first_turn`].
    pub fn answer(&self, vocabulary: &Vocabulary, text: &str) -> Result<Vec<u32>> {
        let before = self.pieces(vocabulary, &Turn::default(), true)?;
        let fresh = !matches!(before.last(), Some(Piece::Text(_)));
        let text = match &self.kind {
            Kind::Template(template) => format!("{}{text}", template.answer_lead()),
            Kind::Jinja(jinja) => format!("{}{text}", jinja.answer_lead(vocabulary, self.system.as_deref())?),
        };
        Ok(if fresh { vocabulary.encode(&text, false) } else { vocabulary.encode_continued(&text) })
    }

    /// A whole conversation with its answers, for training: its chunks in order, each with whether it is learned. Learned
    /// is every answer with what ends it, and where the form is `v0_lines` also the marks that the model stops at; the rest
    /// is what a person or the program writes. The ids are those of [`Format::first_turn`], [`Format::answer`] and
    /// [`Format::next_turn`] one after the other, and those of the whole text tokenised at once.
    ///
    /// # Errors
    /// As [`Format::first_turn`]; or the format is Jinja or ends an answer by `###` without a line, so that where an answer
    /// ends in the ids is not known; or the whole text has other ids than its parts.
    pub fn conversation(
        &self,
        vocabulary: &Vocabulary,
        exchanges: &[(Turn<'_>, &str)],
    ) -> Result<Vec<(Chunk, bool)>> {
        let cannot = || Error::NotTrainable { template: self.name().into() };
        let Kind::Template(template) = &self.kind else { return Err(cannot()) };
        let contents = exchanges
            .iter()
            .map(|(turn, answer)| Ok((self.content(vocabulary, turn, template.image_tags())?, *answer)))
            .collect::<Result<Vec<_>>>()?;
        let stretches = template.conversation(vocabulary, self.system(), contents).ok_or_else(cannot)?;
        let mut chunks = Vec::new();
        let mut fresh = true;
        for (i, (pieces, learned)) in stretches.iter().enumerate() {
            let part = tokenise_from(vocabulary, pieces, i == 0, fresh);
            chunks.extend(part.into_iter().map(|chunk| (chunk, *learned)));
            fresh = match pieces.last() {
                Some(last) => !matches!(last, Piece::Text(_)),
                None => fresh,
            };
        }
        let whole: Vec<Piece> = stretches.into_iter().flat_map(|(pieces, _)| pieces).collect();
        if !same_ids(&tokenise(vocabulary, &whole, true), &chunks) {
            return Err(Error::SplitTokens { template: self.name().into() });
        }
        Ok(chunks)
    }

    /// The system text: the template's, or what [`Format::with_system`] put there; empty for Jinja's own.
    pub fn system(&self) -> &str {
        let own = match &self.kind {
            Kind::Template(template) => template.system,
            Kind::Jinja(_) => "",
        };
        self.system.as_deref().unwrap_or(own)
    }

    /// Texts that end an answer, beside the tokens of [`Vocabulary::stops`].
    pub fn stop_strings(&self) -> &'static [&'static str] {
        match &self.kind {
            Kind::Template(template) => template.stops,
            Kind::Jinja(_) => &[],
        }
    }

    fn pieces(&self, vocabulary: &Vocabulary, turn: &Turn<'_>, first: bool) -> Result<Vec<Piece>> {
        match &self.kind {
            Kind::Template(template) => {
                let content = self.content(vocabulary, turn, template.image_tags())?;
                Ok(template.turn(vocabulary, self.system(), content, first))
            }
            Kind::Jinja(jinja) => {
                let content = self.content(vocabulary, turn, None)?;
                jinja.turn(vocabulary, self.system.as_deref(), content, first)
            }
        }
    }

    /// What one turn shows and says; `tags` stand around each picture unless the model has tokens for that.
    fn content<'t>(
        &self,
        vocabulary: &Vocabulary,
        turn: &Turn<'t>,
        tags: Option<(&str, &str)>,
    ) -> Result<Content<'t>> {
        let around = if self.im_start_end && !turn.images.is_empty() {
            let id =
                |name: &str| vocabulary.id(name).ok_or_else(|| Error::MissingToken { token: name.into() });
            Some((Piece::Token(id("<im_start>")?), Piece::Token(id("<im_end>")?)))
        } else {
            tags.map(|(open, close)| (Piece::text(open), Piece::text(close)))
        };
        let images = turn.images.iter().map(|&image| match &around {
            Some((open, close)) => vec![open.clone(), Piece::Image(image), close.clone()],
            None => vec![Piece::Image(image)],
        });
        Ok(Content { images: images.collect(), words: turn.text, place: turn.place })
    }
}

/// What one turn shows and says.
struct Content<'t> {
    /// Each picture with what stands around it.
    images: Vec<Vec<Piece>>,
    words: &'t str,
    place: ImagePlace,
}

impl Content<'_> {
    /// Pictures and words in their order; `line` after each picture that stands before the words, and before each after.
    fn arranged(&self, line: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        // An empty text would count as something that the next one continues.
        let words = (!self.words.is_empty()).then(|| Piece::text(self.words));
        let line = (!line.is_empty()).then(|| Piece::text(line));
        if self.place == ImagePlace::After {
            out.extend(words.clone());
        }
        for image in &self.images {
            if self.place == ImagePlace::After {
                out.extend(line.clone());
            }
            out.extend_from_slice(image);
            if self.place == ImagePlace::Before {
                out.extend(line.clone());
            }
        }
        if self.place == ImagePlace::Before {
            out.extend(words);
        }
        out
    }
}

/// Pieces to chunks. `first`: at the beginning of everything, where `bos` goes; else what continues a text.
fn tokenise(vocabulary: &Vocabulary, pieces: &[Piece], first: bool) -> Vec<Chunk> {
    tokenise_from(vocabulary, pieces, first, first)
}

/// As [`tokenise`]; `fresh`: the first text begins anew, with its leading space.
fn tokenise_from(vocabulary: &Vocabulary, pieces: &[Piece], first: bool, mut fresh: bool) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut ids: Vec<u32> = Vec::new();
    if first && vocabulary.add_bos() {
        ids.extend(vocabulary.bos().filter(|&bos| pieces.first() != Some(&Piece::Token(bos))));
    }
    let mut text = String::new();
    let flush = |text: &mut String, ids: &mut Vec<u32>, fresh: &mut bool| {
        if !text.is_empty() {
            ids.extend(if *fresh {
                vocabulary.encode(text, false)
            } else {
                vocabulary.encode_continued(text)
            });
            text.clear();
        }
        *fresh = true;
    };
    for piece in pieces {
        if let Piece::Text(more) = piece {
            text.push_str(more);
            continue;
        }
        flush(&mut text, &mut ids, &mut fresh);
        match piece {
            Piece::Image(image) => {
                if !ids.is_empty() {
                    chunks.push(Chunk::Tokens(std::mem::take(&mut ids)));
                }
                chunks.push(Chunk::Image(*image));
            }
            Piece::Token(id) => ids.push(*id),
            Piece::Text(_) => {}
        }
    }
    flush(&mut text, &mut ids, &mut fresh);
    if !ids.is_empty() {
        chunks.push(Chunk::Tokens(ids));
    }
    chunks
}

/// Whether `parts` are `whole`, however either is cut into chunks.
fn same_ids(whole: &[Chunk], parts: &[(Chunk, bool)]) -> bool {
    fn flat<'c>(chunks: impl Iterator<Item = &'c Chunk>) -> impl Iterator<Item = (bool, usize)> {
        chunks.flat_map(|chunk| match chunk {
            Chunk::Tokens(ids) => ids.iter().map(|&id| (false, id as usize)).collect(),
            Chunk::Image(image) => vec![(true, *image)],
        })
    }
    flat(whole.iter()).eq(flat(parts.iter().map(|(chunk, _)| chunk)))
}

#[cfg(test)]
mod tests;
