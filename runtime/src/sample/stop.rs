//! Where an answer ends: stop strings that may span tokens, held back until it is sure that they are none.

/// Watches streamed text for stop strings.
#[derive(Debug, Clone)]
pub struct Stop {
    strings: Vec<String>,
    /// Text that could be the beginning of a stop string.
    held: String,
}

impl Stop {
    /// Watches for `strings`; empty ones are ignored.
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        Self { strings: strings.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new() }
    }

    /// Takes the next piece of text. Returns what may be shown, and whether a stop string came (it and what follows it
    /// are not shown).
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.strings.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        // The longest end of the text that begins a stop string stays back.
        let keep = self.strings.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back when the answer ended otherwise.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest proper beginning of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .filter(|&at| at > 0 && text.ends_with(&stop[..at]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Stop;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool, String) {
        let mut stop = Stop::new(stops.iter().map(ToString::to_string));
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, ended) = stop.push(piece);
            shown.push(text);
            if ended {
                return (shown, true, stop.finish());
            }
        }
        (shown, false, stop.finish())
    }

    #[test]
    fn a_stop_string_over_three_tokens() {
        let (shown, ended, _) = run(&["###"], &["A cat", "\n#", "#", "# Human"]);
        assert!(ended);
        assert_eq!(shown, ["A cat", "\n", "", ""]);
    }

    #[test]
    fn a_false_start_is_shown_after_all() {
        let (shown, ended, rest) = run(&["###"], &["C#", " and C##", "."]);
        assert!(!ended);
        assert_eq!(shown, ["C", "# and C", "##."]);
        assert_eq!(rest, "");
    }

    #[test]
    fn the_end_gives_what_was_held() {
        let (shown, ended, rest) = run(&["</s>", "###"], &["F#", "</"]);
        assert!(!ended);
        assert_eq!((shown.concat().as_str(), rest.as_str()), ("F#", "</"));
    }

    #[test]
    fn the_earliest_of_several_and_many_bytes() {
        let (shown, ended, _) = run(&["b", "äö"], &["xä", "öb"]);
        assert!(ended);
        assert_eq!(shown.concat(), "x");
    }
}
