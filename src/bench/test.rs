//! The tests: what each measures, and its name.

use std::fmt;

/// One thing to measure. In the order in which rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Opening a model whose file is not in the page cache, until it is ready to answer.
    LoadCold,
    /// The same and the pass of one token, which reads every weight of the text model from the disk.
    LoadColdToken,
    /// Opening a model whose file is in the page cache.
    LoadWarm,
    /// One picture from a JPEG file's bytes to rows for the text model: decoding, resizing, tower, projector.
    Image,
    /// From `n` pictures given, with a question, to the first token drawn, in a model that was just opened.
    Photo {
        /// Pictures.
        n: usize,
    },
    /// From a second question on the same pictures to its first token.
    Second,
    /// From the same second question in a conversation without a picture to its first token.
    SecondBlind,
    /// Memory at most, from opening the model to the second question.
    Memory,
    /// A prompt of `n` positions in one go, after `depth` others.
    Prompt {
        /// Positions.
        n: usize,
        /// Positions before them.
        depth: usize,
    },
    /// `n` tokens one by one, after `depth` positions; nothing is drawn.
    Generation {
        /// Tokens.
        n: usize,
        /// Positions before them.
        depth: usize,
    },
}

/// How much of what a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Positions of the prompt.
    pub prompt: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Positions in the cache before.
    pub depth: usize,
    /// Pictures.
    pub images: usize,
}

impl Test {
    /// Tokens that a sample computes, where it is a matter of tokens per second.
    pub fn tokens(self) -> Option<usize> {
        match self {
            Self::Prompt { n, .. } | Self::Generation { n, .. } => Some(n),
            _ => None,
        }
    }

    /// How much of what it is about.
    pub fn sizes(self) -> Sizes {
        let none = Sizes::default();
        match self {
            Self::LoadColdToken => Sizes { prompt: 1, ..none },
            Self::Image => Sizes { images: 1, ..none },
            Self::Photo { n } => Sizes { images: n, generated: 1, ..none },
            Self::Second | Self::SecondBlind => Sizes { generated: 1, ..none },
            Self::Prompt { n, depth } => Sizes { prompt: n, depth, ..none },
            Self::Generation { n, depth } => Sizes { generated: n, depth, ..none },
            Self::LoadCold | Self::LoadWarm | Self::Memory => none,
        }
    }
}

/// llama-bench's names where it has the test.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let depth = match self {
            Self::LoadCold => return f.write_str("load cold"),
            Self::LoadColdToken => return f.write_str("load cold + 1 token"),
            Self::LoadWarm => return f.write_str("load warm"),
            Self::Image => return f.write_str("image"),
            Self::Photo { n: 1 } => return f.write_str("photo"),
            Self::Photo { n } => return write!(f, "photo x{n}"),
            Self::Second => return f.write_str("second question"),
            Self::SecondBlind => return f.write_str("second, no image"),
            Self::Memory => return f.write_str("memory"),
            Self::Prompt { n, depth } => {
                write!(f, "pp{n}")?;
                *depth
            }
            Self::Generation { n, depth } => {
                write!(f, "tg{n}")?;
                *depth
            }
        };
        if depth > 0 { write!(f, " @ d{depth}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_benchs() {
        assert_eq!(Test::Prompt { n: 512, depth: 0 }.to_string(), "pp512");
        assert_eq!(Test::Generation { n: 128, depth: 600 }.to_string(), "tg128 @ d600");
        assert_eq!(Test::Photo { n: 1 }.to_string(), "photo");
        assert_eq!(Test::Photo { n: 3 }.to_string(), "photo x3");
    }

    #[test]
    fn rates_are_of_prompts_and_tokens() {
        assert_eq!(Test::Generation { n: 128, depth: 600 }.tokens(), Some(128));
        assert_eq!(Test::Photo { n: 2 }.tokens(), None);
        assert_eq!(Test::Photo { n: 2 }.sizes(), Sizes { images: 2, generated: 1, ..Sizes::default() });
    }
}
