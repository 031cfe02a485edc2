//! The conversation at a terminal: line editing, commands, Ctrl-C that stops the answer only.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use pumice_runtime::chat::{Answer, Chat, Seen, Stats};
use rustyline::{DefaultEditor, error::ReadlineError};

use super::{Args, demo::Demo, open::file_name, say_finish, stats_line};
use crate::terminal;

const HELP: &str = "\
/image PATH   show a picture (or drag its file here); the next question is about it. Of the demo's pictures: /image NUMBER
/clear        forget what was said; the next question is about the same picture
/regen        answer the last question again
/stats        times, rates and how full the context is
/help         this list
/exit         leave (so does Ctrl-D); Ctrl-C stops an answer";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Image(PathBuf),
    NoPath,
    Clear,
    Regenerate,
    Stats,
    Help,
    Exit,
    Unknown(&'a str),
    Question(&'a str),
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        "" => Line::Nothing,
        // A file dragged into the terminal, without a command.
        _ if looks_absolute(line) && pasted(line).is_file() => Line::Image(pasted(line)),
        "/image" if rest.trim().is_empty() => Line::NoPath,
        "/image" => Line::Image(pasted(rest.trim())),
        "/clear" => Line::Clear,
        "/regen" => Line::Regenerate,
        "/stats" => Line::Stats,
        "/help" | "/?" => Line::Help,
        "/exit" | "/quit" => Line::Exit,
        _ if word.starts_with('/') && !word[1..].contains('/') => Line::Unknown(word),
        _ => Line::Question(line),
    }
}

/// Whether `line` begins as a path does that a terminal pastes: a drag always pastes the whole path.
fn looks_absolute(line: &str) -> bool {
    Path::new(line.trim_start_matches(['"', '\''])).is_absolute()
}

/// A path as terminals paste it when a file is dragged there: in quotes, or with `\` before each space.
fn pasted(text: &str) -> PathBuf {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|p| p.strip_suffix(quote)) {
            return PathBuf::from(inner);
        }
    }
    let as_it_stands = PathBuf::from(text);
    // Where `\` parts folders (Windows), or is part of a name, the path exists as it stands.
    if cfg!(windows) || as_it_stands.exists() {
        return as_it_stands;
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    PathBuf::from(plain)
}

/// A conversation that outlives its mistakes: an error is told, and the next line read.
struct Session<'a> {
    chat: &'a mut Chat,
    /// Where the demo model answers.
    demo: Option<&'a Demo>,
    stopped: &'a AtomicBool,
    /// Pictures that the next question is about.
    waiting: Vec<Seen>,
    /// Pictures that this conversation is about already.
    shown: Vec<Seen>,
    /// Counts and times before the last answer.
    before: Stats,
}

/// Reads lines until the end of the input.
pub fn run(
    args: &Args,
    chat: &mut Chat,
    demo: Option<&Demo>,
    stopped: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let before = *chat.stats();
    let mut session = Session { chat, demo, stopped, waiting: Vec::new(), shown: Vec::new(), before };
    for path in &args.image {
        session.show(path)?;
    }
    let mut editor = DefaultEditor::new()?;
    if args.image.is_empty() && !session.offer(&mut editor)? {
        return Ok(ExitCode::SUCCESS);
    }
    if io::stdin().is_terminal() {
        terminal::note("Ask something; /image PATH shows a picture, /help tells the rest.");
    }
    loop {
        match editor.readline("> ") {
            Ok(line) => {
                let _ = editor.add_history_entry(line.trim());
                if !session.line(&line)? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => terminal::note("(Ctrl-D or /exit leaves)"),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
        stopped.store(false, Ordering::SeqCst);
    }
    let all = session.chat.stats();
    if all.prompt_tokens > 0 {
        terminal::note(&stats_line(all));
    }
    Ok(ExitCode::SUCCESS)
}

impl Session<'_> {
    /// Shows one of the demo's pictures: which, a person at a terminal says; else the first. False where the person leaves.
    fn offer(&mut self, editor: &mut DefaultEditor) -> anyhow::Result<bool> {
        let Some((demo, first)) = self.demo.and_then(|demo| Some((demo, demo.pictures.first()?))) else {
            return Ok(true);
        };
        if !io::stdin().is_terminal() {
            self.show(first)?;
            return Ok(true);
        }
        terminal::note(&demo.list());
        loop {
            let line = match editor.readline("Which picture? (Enter: 1) ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let text = if line.trim().is_empty() { "1" } else { line.trim() };
            match self.show(&demo.picture(&pasted(text))) {
                Ok(()) => return Ok(true),
                Err(error) => terminal::error(&error),
            }
        }
    }

    /// Does what one line asks for; false at the end. Only a closed stdout is an error here.
    fn line(&mut self, line: &str) -> anyhow::Result<bool> {
        let done = match parse(line) {
            Line::Nothing => Ok(()),
            Line::Exit => return Ok(false),
            Line::Help => {
                terminal::note(HELP);
                Ok(())
            }
            Line::Unknown(word) => {
                terminal::note(&format!("{word} is no command; /help lists them"));
                Ok(())
            }
            Line::Stats => {
                self.tell_stats();
                Ok(())
            }
            Line::Clear => {
                self.chat.clear();
                self.waiting.splice(..0, self.shown.drain(..));
                terminal::note(match self.waiting.len() {
                    0 => "(forgotten)",
                    1 => "(forgotten; the next question is about the same picture)",
                    _ => "(forgotten; the next question is about the same pictures)",
                });
                Ok(())
            }
            Line::NoPath => {
                match self.demo {
                    Some(demo) => terminal::note(&format!("/image NUMBER, or a path:\n{}", demo.list())),
                    None => terminal::note("/image PATH: the path of a picture is missing"),
                }
                Ok(())
            }
            Line::Image(path) => {
                let path = self.demo.map_or_else(|| path.clone(), |demo| demo.picture(&path));
                self.show(&path)
            }
            Line::Regenerate => {
                self.before = *self.chat.stats();
                self.chat.regenerate().map_err(Into::into).and_then(print)
            }
            Line::Question(text) => self.ask(text),
        };
        match done {
            Err(error) if crate::is_broken_pipe(&error) => Err(error),
            Err(error) => {
                terminal::error(&error);
                Ok(true)
            }
            Ok(()) => Ok(true),
        }
    }

    fn show(&mut self, path: &Path) -> anyhow::Result<()> {
        let before = *self.chat.stats();
        let picture = self.chat.see(path)?;
        let mut anew = "";
        if self.demo.is_some() {
            // It learned from conversations about one picture.
            anew = if self.chat.context().0 > 0 { "; the conversation begins anew" } else { "" };
            self.chat.clear();
            self.waiting.clear();
            self.shown.clear();
        }
        self.waiting.push(picture);
        let spent = self.chat.stats().since(&before);
        let seconds = terminal::seconds(spent.picture.as_secs_f64());
        let seen = if spent.pictures == 0 { ", seen before" } else { "" };
        terminal::note(&format!("({}: {seconds}{seen}{anew})", file_name(path)));
        Ok(())
    }

    fn ask(&mut self, text: &str) -> anyhow::Result<()> {
        self.stopped.store(false, Ordering::SeqCst);
        self.before = *self.chat.stats();
        if self.waiting.is_empty() && self.shown.is_empty() && self.chat.can_see() {
            terminal::note("(no picture is shown; /image PATH shows one)");
        }
        let answer = self.chat.ask(text, &self.waiting)?;
        self.shown.append(&mut self.waiting);
        print(answer)
    }

    fn tell_stats(&self) {
        let (used, ctx) = self.chat.context();
        let all = self.chat.stats();
        terminal::note(&format!("last: {}", stats_line(&all.since(&self.before))));
        terminal::note(&format!("all:  {}", stats_line(all)));
        terminal::note(&format!(
            "context: {used} of {ctx} positions | memory: {} by estimate, mapped weights included",
            terminal::size(all.memory)
        ));
    }
}

/// Streams an answer to stdout.
fn print(mut answer: Answer<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for piece in &mut answer {
        out.write_all(piece?.as_bytes())?;
        out.flush()?;
    }
    writeln!(out)?;
    say_finish(answer.finish());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_commands() {
        assert_eq!(parse("  "), Line::Nothing);
        assert_eq!(parse(" What is this? "), Line::Question("What is this?"));
        assert_eq!(parse("/image my cat.jpg"), Line::Image("my cat.jpg".into()));
        assert_eq!(parse("/image '/tmp/my cat.jpg'"), Line::Image("/tmp/my cat.jpg".into()));
        assert_eq!(parse("/image no\\ such\\ cat.jpg"), Line::Image("no such cat.jpg".into()));
        assert_eq!(parse("/image"), Line::NoPath);
        assert_eq!(parse("/regenerate"), Line::Unknown("/regenerate"));
        assert_eq!(parse("/usr/bin is what?"), Line::Question("/usr/bin is what?"));
        assert_eq!(parse("/exit"), Line::Exit);
    }

    #[test]
    fn a_dragged_file_is_a_picture() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shapes.png");
        assert_eq!(parse(&format!("'{}'", file.display())), Line::Image(file.clone()));
        assert_eq!(parse(&format!("{}", file.display())), Line::Image(file.clone()));
        let question = format!("{} what is it?", file.display());
        assert_eq!(parse(&question), Line::Question(&question));
    }
}
