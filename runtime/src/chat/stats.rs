//! Counts and times of a chat: what was computed, what was saved, how long each part took.

use std::time::Duration;

use serde::Serialize;

/// Counts and times since the model was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Bytes that the model takes by its own estimate, mapped weights included.
    pub memory: u64,
    /// From opening the file to being ready.
    pub load: Duration,
    /// Pictures that went through the vision tower.
    pub pictures: usize,
    /// Rows that those pictures became.
    pub picture_tokens: usize,
    /// Decoding, resizing, tower and projector.
    pub picture: Duration,
    /// Positions of prompts that were computed (pictures' rows among them).
    pub prompt_tokens: usize,
    /// Positions of prompts that the KV cache held already.
    pub reused_tokens: usize,
    /// Computing prompts.
    pub prompt: Duration,
    /// Tokens drawn.
    pub generated_tokens: usize,
    /// Drawing them, the model's passes between them included.
    pub generation: Duration,
}

impl Stats {
    /// What has come since `earlier`; memory and load stay as they are.
    pub fn since(&self, earlier: &Stats) -> Stats {
        Stats {
            memory: self.memory,
            load: self.load,
            pictures: self.pictures - earlier.pictures,
            picture_tokens: self.picture_tokens - earlier.picture_tokens,
            picture: self.picture - earlier.picture,
            prompt_tokens: self.prompt_tokens - earlier.prompt_tokens,
            reused_tokens: self.reused_tokens - earlier.reused_tokens,
            prompt: self.prompt - earlier.prompt,
            generated_tokens: self.generated_tokens - earlier.generated_tokens,
            generation: self.generation - earlier.generation,
        }
    }

    /// Prompt positions computed per second; 0 where none were.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt)
    }

    /// Tokens generated per second; 0 where none were.
    pub fn generation_rate(&self) -> f64 {
        rate(self.generated_tokens, self.generation)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 || time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}
