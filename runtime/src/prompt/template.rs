//! LLaVA's own conversation templates, to the byte.
//!
//! The texts are data of the trained models: a word changed here is a prompt that the model never saw. Five styles
//! cover them; what each puts where stands at [`Style`]. The image of a turn stands before its words on a line of its own;
//! the `mmtag` templates give it a turn of its own, and `plain` (captioning, stage 1) nothing at all.

use super::{Content, Piece};
use crate::Vocabulary;

/// How turns are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `system###Human: q###Assistant: a###Human: …`
    Single,
    /// `system\n\n### Human: q\n### Assistant: a\n### Human: …`: what the first release trained, then spoke to as `Single`.
    Lines,
    /// `system USER: q ASSISTANT: a</s>USER: …`
    Two,
    /// `[INST] <<SYS>>\nsystem\n<</SYS>>\n\nq [/INST] a </s><s>[INST] …`
    Llama2,
    /// As `Llama2` without `<s>` between turns.
    Mistral,
    /// `<|im_start|>system\n…<|im_end|><|im_start|>user\nq<|im_end|><|im_start|>assistant\na<|im_end|>…`
    Mpt,
    /// `q`, then the answer, ended by a newline: what stage 1 trains.
    Plain,
}

/// A template.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) name: &'static str,
    style: Style,
    pub(super) system: &'static str,
    roles: [&'static str; 2],
    /// A question and its answer that stand before the first turn.
    example: Option<[&'static str; 2]>,
    /// Pictures get a turn of their own, answered `Received.`.
    tagged: bool,
    /// Texts that end an answer, beside the vocabulary's tokens.
    pub(super) stops: &'static [&'static str],
}

const HUMAN: &str = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the human's questions.";
const USER: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";
const TAGGED: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language.The visual content will be provided with the following format: <Image>visual content</Image>.";
const LLAVA_LLAMA_2: &str = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language.";
const MPT: &str = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers.";

/// What stands before each speaker in the templates of v0.
const MARK: &str = "###";

/// Vicuna v0's worked example.
const EXAMPLE: [&str; 2] = [
    "What are the key differences between renewable and non-renewable energy sources?",
    concat!(
        "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, ",
        "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are ",
        "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences ",
        "between renewable and non-renewable energy sources:\n",
        "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are ",
        "finite and will eventually run out.\n",
        "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable ",
        "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n",
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower ",
        "operational costs than non-renewable sources.\n",
        "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations than ",
        "non-renewable sources.\n",
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations and ",
        "needs, while non-renewable sources are more rigid and inflexible.\n",
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable sources ",
        "are not, and their depletion can lead to economic and social instability.\n",
    ),
];

const BASE: Template = Template {
    name: "llava_v1",
    style: Style::Two,
    system: HUMAN,
    roles: ["USER", "ASSISTANT"],
    example: None,
    tagged: false,
    stops: &[],
};

const SINGLE: Template = Template {
    name: "llava_v0",
    style: Style::Single,
    roles: ["Human", "Assistant"],
    stops: &["###"],
    ..BASE
};

static TEMPLATES: [Template; 12] = [
    BASE,
    Template { name: "v1", system: USER, ..BASE },
    SINGLE,
    Template { name: "v0_lines", style: Style::Lines, ..SINGLE },
    Template { name: "v0", example: Some(EXAMPLE), ..SINGLE },
    Template { name: "v0_mmtag", system: TAGGED, tagged: true, ..SINGLE },
    Template { name: "v1_mmtag", system: TAGGED, tagged: true, ..BASE },
    Template { name: "llava_llama_2", style: Style::Llama2, system: LLAVA_LLAMA_2, ..BASE },
    Template { name: "mistral_instruct", style: Style::Mistral, system: "", ..BASE },
    Template {
        name: "mpt",
        style: Style::Mpt,
        system: MPT,
        roles: ["user", "assistant"],
        stops: &["<|im_end|>"],
        ..BASE
    },
    Template {
        name: "chatml_direct",
        style: Style::Mpt,
        system: "Answer the questions.",
        roles: ["user", "assistant"],
        stops: &["<|im_end|>"],
        ..BASE
    },
    Template { name: "plain", style: Style::Plain, system: "", stops: &["\n"], ..BASE },
];

/// Other names of the same templates.
const ALIASES: [(&str, &str); 3] = [("vicuna_v1", "v1"), ("default", "v0"), ("v0_plain", "plain")];

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|t| t.name)
}

pub(super) fn find(name: &str) -> Option<&'static Template> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    TEMPLATES.iter().find(|t| t.name == name)
}

impl Template {
    /// What stands between a picture and the words.
    fn image_line(&self) -> &'static str {
        if self.style == Style::Plain { "" } else { "\n" }
    }

    /// What stands around a picture.
    pub(super) fn image_tags(&self) -> Option<(&'static str, &'static str)> {
        self.tagged.then_some(("<Image>", "</Image>"))
    }

    /// What stands between the open turn and the answer's text.
    pub(super) fn answer_lead(&self) -> &'static str {
        if matches!(self.style, Style::Mpt | Style::Plain) { "" } else { " " }
    }

    /// A turn of `content` and the opening of the answer; before it the system text, or the end of the answer before.
    pub(super) fn turn(
        &self,
        vocabulary: &Vocabulary,
        system: &str,
        content: Content<'_>,
        first: bool,
    ) -> Vec<Piece> {
        let mut out = Vec::new();
        if first {
            self.begin(vocabulary, system, &mut out);
        } else {
            self.close(vocabulary, &mut out);
        }
        self.ask(vocabulary, system, content, first, &mut out);
        out
    }

    /// A turn of `content` and the opening of the answer, and nothing before it; `system` goes into the first one where
    /// the style has it there.
    fn ask(
        &self,
        vocabulary: &Vocabulary,
        system: &str,
        content: Content<'_>,
        first: bool,
        out: &mut Vec<Piece>,
    ) {
        let system = (first && !system.is_empty()).then_some(system);
        let mut said = content.arranged(self.image_line());
        if self.tagged && !content.images.is_empty() {
            // The pictures are a turn of their own.
            self.user(vocabulary, system, first, content.images.concat(), out);
            out.push(Piece::text(format!("{}Received.", self.answer_lead())));
            self.close(vocabulary, out);
            said = vec![Piece::text(content.words)];
        }
        self.user(vocabulary, system, first, said, out);
    }

    /// Everything before the first turn.
    fn begin(&self, vocabulary: &Vocabulary, system: &str, out: &mut Vec<Piece>) {
        match self.style {
            Style::Single => out.push(Piece::text(format!("{system}###"))),
            Style::Lines => out.push(Piece::text(format!("{system}\n\n"))),
            Style::Two => out.push(Piece::text(format!("{system} "))),
            Style::Mpt => {
                out.push(mark(vocabulary, "<|im_start|>"));
                out.push(Piece::text(format!("system\n{system}")));
                out.push(mark(vocabulary, "<|im_end|>"));
            }
            Style::Llama2 | Style::Mistral | Style::Plain => {}
        }
        if let Some([question, answer]) = self.example {
            self.user(vocabulary, None, true, vec![Piece::text(question)], out);
            out.push(Piece::text(format!("{}{answer}", self.answer_lead())));
            self.close(vocabulary, out);
        }
    }

    /// One turn and the opening of its answer.
    fn user(
        &self,
        vocabulary: &Vocabulary,
        system: Option<&str>,
        first: bool,
        content: Vec<Piece>,
        out: &mut Vec<Piece>,
    ) {
        let [user, assistant] = self.roles;
        match self.style {
            Style::Single | Style::Two => {
                let between = if self.style == Style::Single { "###" } else { " " };
                out.push(Piece::text(format!("{user}: ")));
                out.extend(content);
                out.push(Piece::text(format!("{between}{assistant}:")));
            }
            Style::Lines => {
                out.push(Piece::text(format!("{MARK} {user}: ")));
                out.extend(content);
                out.push(Piece::text(format!("\n{MARK} {assistant}:")));
            }
            Style::Llama2 | Style::Mistral => {
                if self.style == Style::Llama2 && !first {
                    out.extend(vocabulary.bos().map(Piece::Token));
                }
                out.push(Piece::text("[INST] "));
                out.extend(system.map(|s| Piece::text(format!("<<SYS>>\n{s}\n<</SYS>>\n\n"))));
                out.extend(content);
                out.push(Piece::text(" [/INST]"));
            }
            Style::Mpt => {
                out.push(mark(vocabulary, "<|im_start|>"));
                out.push(Piece::text(format!("{user}\n")));
                out.extend(content);
                out.push(mark(vocabulary, "<|im_end|>"));
                out.push(mark(vocabulary, "<|im_start|>"));
                out.push(Piece::text(format!("{assistant}\n")));
            }
            Style::Plain => out.extend(content),
        }
    }

    /// The end of an answer.
    fn close(&self, vocabulary: &Vocabulary, out: &mut Vec<Piece>) {
        match self.style {
            Style::Single => out.push(Piece::text("###")),
            Style::Two => out.extend(vocabulary.eos().map(Piece::Token)),
            Style::Llama2 | Style::Mistral => {
                out.push(Piece::text(" "));
                out.extend(vocabulary.eos().map(Piece::Token));
            }
            Style::Mpt => out.push(mark(vocabulary, "<|im_end|>")),
            Style::Plain | Style::Lines => out.push(Piece::text("\n")),
        }
    }

    /// A whole conversation in stretches, each with whether it is learned; nothing where the style does not say in tokens
    /// where an answer ends.
    pub(super) fn conversation(
        &self,
        vocabulary: &Vocabulary,
        system: &str,
        exchanges: Vec<(Content<'_>, &str)>,
    ) -> Option<Vec<(Vec<Piece>, bool)>> {
        if self.style == Style::Lines {
            return Some(self.lines(vocabulary, system, exchanges));
        }
        let mut end = Vec::new();
        self.close(vocabulary, &mut end);
        if self.style != Style::Plain && !matches!(end.last(), Some(Piece::Token(_))) {
            return None;
        }
        let mut out = Vec::new();
        for (i, (content, answer)) in exchanges.into_iter().enumerate() {
            let mut asked = Vec::new();
            if i == 0 {
                self.begin(vocabulary, system, &mut asked);
            }
            self.ask(vocabulary, system, content, i == 0, &mut asked);
            out.push((asked, false));
            let mut said = vec![Piece::text(format!("{}{answer}", self.answer_lead()))];
            said.extend_from_slice(&end);
            out.push((said, true));
        }
        Some(out)
    }

    /// The first release's masks: learned are the answers with their `### Assistant:`, and each `###` that follows
    /// something, so that the model stops; the last one comes with a space.
    fn lines(
        &self,
        vocabulary: &Vocabulary,
        system: &str,
        exchanges: Vec<(Content<'_>, &str)>,
    ) -> Vec<(Vec<Piece>, bool)> {
        let [user, assistant] = self.roles;
        let mut header = Vec::new();
        self.begin(vocabulary, system, &mut header);
        let mut out = vec![(header, false)];
        for (content, answer) in exchanges {
            out.push((vec![Piece::text(MARK)], true));
            let mut asked = vec![Piece::text(format!(" {user}: "))];
            asked.extend(content.arranged(self.image_line()));
            asked.push(Piece::text("\n"));
            out.push((asked, false));
            out.push((vec![Piece::text(format!("{MARK} {assistant}: {answer}\n"))], true));
        }
        out.push((vec![Piece::text(format!("{MARK} "))], true));
        out
    }
}

/// A mark as the token of this name; as text where the vocabulary lacks it.
fn mark(vocabulary: &Vocabulary, name: &str) -> Piece {
    vocabulary.id(name).map_or_else(|| Piece::text(name), Piece::Token)
}
