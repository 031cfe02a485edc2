//! An answer on its way: each step computes one token and hands out the text that is sure.

use std::{sync::atomic::Ordering, time::Instant};

use pumice_models::llama::Input;

use super::{Chat, cache::Slot};
use crate::{
    Result,
    sample::{Sampler, Stop},
    vocab::Detokenizer,
};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model said that it was done: its end token, or the template's stop string.
    Stop,
    /// The answer has as many tokens as were allowed.
    Length,
    /// No position of the context is left.
    ContextFull,
    /// Somebody stopped it.
    Cancelled,
}

/// The pieces of an answer, as an iterator. Dropped or stopped early, the answer stands in the conversation as far as it
/// came; before its first token the question stays open, for [`Chat::regenerate`] to answer or [`Chat::ask`] to replace.
pub struct Answer<'a> {
    chat: &'a mut Chat,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: Stop,
    /// Ids of the answer, as generated.
    ids: Vec<u32>,
    /// Bytes of text shown or held after each id, so that ids of a stop string can be told from the answer's.
    ends: Vec<usize>,
    /// Bytes of text so far.
    text: usize,
    /// Bytes handed out.
    shown: usize,
    finish: Option<Finish>,
    /// Whether the conversation knows of it.
    recorded: bool,
}

impl<'a> Answer<'a> {
    /// An answer to the prompt that the cache holds, its logits computed; or, with `finish`, one that ended before it began.
    pub(super) fn new(chat: &'a mut Chat, sampler: Sampler, finish: Option<Finish>) -> Self {
        let detokenizer = Detokenizer::new();
        let stop = Stop::new(chat.format.stop_strings().iter().map(ToString::to_string));
        Self {
            chat,
            sampler,
            detokenizer,
            stop,
            ids: Vec::new(),
            ends: Vec::new(),
            text: 0,
            shown: 0,
            finish,
            recorded: false,
        }
    }

    /// Why it ended; `None` while it goes on.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Ids generated so far, the end token left out.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Draws a token and takes its text. Returns what may be shown.
    fn step(&mut self) -> Result<String> {
        if self.chat.options.predict.is_some_and(|most| self.ids.len() >= most) {
            return Ok(self.end(Finish::Length));
        }
        if let Some(&last) = self.ids.last() {
            if self.chat.models.held().len() == self.chat.models.ctx() {
                return Ok(self.end(Finish::ContextFull));
            }
            if !self.feed(last)? {
                return Ok(self.end(Finish::Cancelled));
            }
        }
        if self.chat.options.cancel.load(Ordering::SeqCst) {
            return Ok(self.end(Finish::Cancelled));
        }
        let id = self.chat.models.draw(&mut self.sampler, &self.ids)?;
        self.chat.stats.generated_tokens += 1;
        if self.chat.vocabulary.stops().contains(&id) {
            return Ok(self.end(Finish::Stop));
        }
        let piece = self.detokenizer.push(&self.chat.vocabulary, id);
        self.ids.push(id);
        self.text += piece.len();
        self.ends.push(self.text);
        let (shown, stopped) = self.stop.push(&piece);
        self.shown += shown.len();
        if stopped {
            // Ids that reach into the stop string are the template's, not the answer's.
            let whole = self.ends.partition_point(|&end| end <= self.shown);
            self.ids.truncate(whole);
            self.set_finish(Finish::Stop);
        }
        Ok(shown)
    }

    /// Computes the pass of a token that was drawn. Where the device fails and there is another one, all that was said is computed
    /// there, up to this token; false where that is cancelled.
    fn feed(&mut self, id: u32) -> Result<bool> {
        let models = &mut self.chat.models;
        if let Err(error) = models.forward(&[Input::Tokens(&[id])], &[Slot::Token(id)], &mut |_, _| true) {
            models.recover_text(error)?;
            let wanted = self.chat.wanted(&self.ids);
            let (reused, done) = self.chat.compute(&wanted)?;
            return Ok(reused + done == wanted.len());
        }
        Ok(true)
    }

    /// Ends the answer; returns the text that was held back.
    fn end(&mut self, finish: Finish) -> String {
        self.set_finish(finish);
        let rest = self.detokenizer.finish();
        let (mut shown, stopped) = self.stop.push(&rest);
        if !stopped {
            shown += &self.stop.finish();
        }
        shown
    }

    fn set_finish(&mut self, finish: Finish) {
        self.finish = Some(finish);
        self.record();
    }

    /// Tells the conversation what was answered, once.
    fn record(&mut self) {
        let said = !self.ids.is_empty() || self.finish == Some(Finish::Stop);
        if !std::mem::replace(&mut self.recorded, true)
            && said
            && let Some(exchange) = self.chat.exchanges.last_mut()
        {
            exchange.answer = Some(self.ids.clone());
        }
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String>;

    /// The next piece of text, never empty and never a part of a character.
    fn next(&mut self) -> Option<Self::Item> {
        while self.finish.is_none() {
            let start = Instant::now();
            let step = self.step();
            self.chat.stats.generation += start.elapsed();
            match step {
                Ok(text) if text.is_empty() => {}
                Ok(text) => return Some(Ok(text)),
                Err(error) => {
                    self.set_finish(Finish::Cancelled);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.record();
    }
}
