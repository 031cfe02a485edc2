//! Open a model, see pictures, ask, and read the answer piece by piece.
//!
//! The chat keeps three things that make the next answer cheap: the features of every picture seen (by the hash of its
//! pixels), the ids of every answer as they were generated, and a note of what stands at each position of the KV cache.
//! A question is turned into the whole conversation's positions each time; what the cache holds already is not computed
//! again. So the second question on a picture, `/regen` and the same picture after `/clear` need no case of their own.

mod answer;
mod cache;
mod models;
mod stats;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use pumice_kernels::DType;
use pumice_models::{
    gguf::{File, Holding},
    llama::{Input, LlamaOptions},
    plan::Plan,
};

use crate::{
    Error, Result,
    pixels::{Picture, Preprocess},
    prompt::{Chunk, Format, ImagePlace, Turn},
    sample::{Sampler, SamplerOptions},
    vocab::Vocabulary,
};
pub use answer::{Answer, Finish};
use cache::{Run, Slot};
pub use models::{Devices, Failure, Fallback};
use models::{Models, Needs};
pub use stats::Stats;

/// How a model is opened and asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The vision half where it is a file of its own (llama.cpp's pair).
    pub mmproj: Option<PathBuf>,
    /// Whether the vision part is loaded where there is one.
    pub vision: bool,
    /// Positions for prompt, pictures and answers together; 0: as many as the model was trained for.
    pub ctx: usize,
    /// Type of the KV cache: F16, F32 or Q8_0.
    pub cache_type: DType,
    /// Bytes that the model may take, by its own estimate; `None`: no limit.
    pub memory: Option<u64>,
    /// How the files are held in memory.
    pub holding: Holding,
    /// Name of the conversation template; `None`: as the file says.
    pub template: Option<String>,
    /// Where a turn's pictures stand.
    pub image_place: ImagePlace,
    /// Tokens of an answer at most; `None`: until the context is full.
    pub predict: Option<usize>,
    /// How tokens are drawn.
    pub sampling: SamplerOptions,
    /// Set to true from anywhere (a Ctrl-C handler), it stops the answer being computed.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    /// A context of 2048, what LLaVA was trained with; answers of 512 tokens at most, LLaVA's own command line's default.
    fn default() -> Self {
        Self {
            mmproj: None,
            vision: true,
            ctx: 2048,
            cache_type: DType::F16,
            memory: None,
            holding: Holding::default(),
            template: None,
            image_place: ImagePlace::Before,
            predict: Some(512),
            sampling: SamplerOptions::default(),
            cancel: Arc::default(),
        }
    }
}

/// A picture that the chat has seen, by the hash of the pixels that the tower saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(u64);

/// What a picture became for the text model.
struct Features {
    key: Seen,
    /// [image tokens, hidden of the text model].
    rows: Vec<f32>,
}

/// Pictures whose features are kept at least: 150 MB for LLaVA-1.5 7B (576 rows of 4096 f32 each). More are kept only
/// while all their rows would fit in the context, so that pictures looked at for one question are there together.
const KEPT_PICTURES: usize = 16;

/// A turn and its answer.
struct Exchange {
    /// The turn's pictures; [`Chunk::Image`] counts them from 0.
    pictures: Vec<Arc<Features>>,
    /// What the turn appends to everything before it, up to where the model answers.
    turn: Vec<Chunk>,
    /// The answer's ids as they were generated; `None` while there is none, or where it was stopped before its first.
    answer: Option<Vec<u32>>,
}

/// A model in conversation.
pub struct Chat {
    models: Models,
    /// How pixels are made for the tower, where there is one.
    preprocess: Option<Preprocess>,
    vocabulary: Vocabulary,
    format: Format,
    /// What was said, oldest first; only the last one may lack its answer.
    exchanges: Vec<Exchange>,
    /// Oldest first.
    seen: Vec<Arc<Features>>,
    /// Answers begun; each draws from a sequence of its own.
    answers: u64,
    options: Options,
    unlocked: Option<String>,
    stats: Stats,
    progress: Option<Box<dyn FnMut(usize, usize)>>,
}

/// The file that holds the vision half, where there is one and it is wanted.
fn vision_file<'a>(text: &'a File, mmproj: Option<&'a File>, options: &Options) -> Result<Option<&'a File>> {
    Ok(match mmproj {
        Some(file) => Some(file),
        None if options.vision && pumice_models::config::has_vision(text)? => Some(text),
        None => None,
    })
}

fn llama_options(options: &Options) -> LlamaOptions {
    LlamaOptions { ctx: options.ctx, cache_type: options.cache_type, ..LlamaOptions::default() }
}

/// The memory that a chat will take: for choosing devices before it is opened.
///
/// # Errors
/// As [`Plan::new`].
pub fn plan(text: &File, mmproj: Option<&File>, options: &Options) -> Result<Plan> {
    Ok(Plan::new(text, vision_file(text, mmproj, options)?, &llama_options(options))?)
}

/// The memory that a chat will take, which must not be more than [`Options::memory`].
fn checked_plan(text: &File, mmproj: Option<&File>, options: &Options) -> Result<Plan> {
    let plan = plan(text, mmproj, options)?;
    if let Some(free) = options.memory {
        plan.check(free)?;
    }
    Ok(plan)
}

impl Chat {
    /// Opens the model in `path` on `devices`: a backend, or several and one to go on with where they fail.
    ///
    /// # Errors
    /// The file is damaged, of another architecture, does not fit its mmproj, needs more than [`Options::memory`], or has no
    /// vocabulary or template that can be used; the message says which and what to do.
    pub fn open(path: impl AsRef<Path>, devices: impl Into<Devices>, options: Options) -> Result<Self> {
        let start = Instant::now();
        let files = |holding| {
            let eyes = options.mmproj.as_ref().filter(|_| options.vision);
            let eyes = eyes.map(|path| File::open_as(path, holding)).transpose()?;
            Ok::<_, Error>((File::open_as(path.as_ref(), holding)?, eyes))
        };
        if options.holding != Holding::default() {
            // What does not fit is refused before it is read.
            let (text, mmproj) = files(Holding::default())?;
            checked_plan(&text, mmproj.as_ref(), &options)?;
        }
        let (text, mmproj) = files(options.holding)?;
        let mut chat = Self::from_files(&text, mmproj.as_ref(), devices, options)?;
        let refused = text.unlocked().or_else(|| mmproj.as_ref()?.unlocked());
        chat.unlocked = refused.map(Into::into);
        chat.stats.load = start.elapsed();
        Ok(chat)
    }

    /// As [`Chat::open`], with files that are open already (or lie in memory); [`Options::holding`] does not touch them.
    ///
    /// # Errors
    /// As [`Chat::open`].
    pub fn from_files(
        text: &File,
        mmproj: Option<&File>,
        devices: impl Into<Devices>,
        options: Options,
    ) -> Result<Self> {
        let start = Instant::now();
        let vision_file = vision_file(text, mmproj, &options)?;
        let plan = checked_plan(text, mmproj, &options)?;
        let preprocess = vision_file.map(Preprocess::from_gguf).transpose()?;
        let vocabulary = Vocabulary::from_gguf(text)?;
        let format = match &options.template {
            Some(name) => Format::named(name)?,
            None => Format::from_gguf(text, vision_file)?,
        };
        let needs = Needs { few: options.sampling.needs(), among: vocabulary.len() };
        let models = Models::open((text, vision_file), &llama_options(&options), devices.into(), needs)?;
        let stats = Stats { memory: plan.total(), load: start.elapsed(), ..Stats::default() };
        Ok(Self {
            models,
            preprocess,
            vocabulary,
            format,
            exchanges: Vec::new(),
            seen: Vec::new(),
            answers: 0,
            options,
            unlocked: None,
            stats,
            progress: None,
        })
    }

    /// Calls `progress` with positions done and positions in all while a prompt is computed.
    pub fn on_progress(&mut self, progress: impl FnMut(usize, usize) + 'static) {
        self.progress = Some(Box::new(progress));
    }

    /// Why the system did not lock the model in memory though [`Options::holding`] asks for it.
    pub fn unlocked(&self) -> Option<&str> {
        self.unlocked.as_deref()
    }

    /// Whether this model sees pictures.
    pub fn can_see(&self) -> bool {
        self.preprocess.is_some()
    }

    /// Positions of the context: taken by the conversation, and in all.
    pub fn context(&self) -> (usize, usize) {
        // After `clear` the cache still holds what was said, in case it is said again; the conversation does not.
        let taken = if self.exchanges.is_empty() { 0 } else { self.models.held().len() };
        (taken, self.models.ctx())
    }

    /// The device that the text model is on, in words; `None` where it is on none any more.
    pub fn device(&self) -> Option<String> {
        self.models.device()
    }

    /// Counts and times so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Looks at the picture in the file `path`. Seen before, it costs nothing but the decoding.
    ///
    /// # Errors
    /// The model has no vision part, or the file is no picture that can be read.
    pub fn see(&mut self, path: impl AsRef<Path>) -> Result<Seen> {
        self.preprocess.as_ref().ok_or(Error::NoVision)?;
        let start = Instant::now();
        let picture = Picture::open(path.as_ref())?;
        self.look(&picture, start)
    }

    /// Looks at a picture that lies in memory.
    ///
    /// # Errors
    /// The model has no vision part, or its device fails.
    pub fn see_picture(&mut self, picture: &Picture) -> Result<Seen> {
        self.look(picture, Instant::now())
    }

    fn look(&mut self, picture: &Picture, start: Instant) -> Result<Seen> {
        let preprocess = self.preprocess.as_ref().ok_or(Error::NoVision)?;
        let pixels = preprocess.apply(picture);
        let key = Seen(hash(&pixels));
        if !self.seen.iter().any(|s| s.key == key) {
            let rows = self.models.encode(&pixels)?;
            self.stats.pictures += 1;
            self.stats.picture_tokens += rows.len() / self.models.config().hidden;
            self.seen.push(Arc::new(Features { key, rows }));
            self.forget_pictures();
        }
        self.stats.picture += start.elapsed();
        Ok(key)
    }

    /// Lets go of the oldest pictures, so that a program that looks at thousands keeps its memory.
    fn forget_pictures(&mut self) {
        let room = self.models.ctx() * self.models.config().hidden;
        let mut kept: usize = self.seen.iter().map(|s| s.rows.len()).sum();
        while self.seen.len() > KEPT_PICTURES && kept > room {
            kept -= self.seen.remove(0).rows.len();
        }
    }

    /// Asks `question` about `pictures` and about all that was said before. A question that was stopped before the first
    /// token of its answer is replaced by this one, which is then about its pictures too.
    ///
    /// # Errors
    /// Nothing was asked, a picture was seen too many pictures ago, or the conversation does not fit in the context any
    /// more; it then stands as it stood before.
    pub fn ask(&mut self, question: &str, pictures: &[Seen]) -> Result<Answer<'_>> {
        if question.trim().is_empty() && pictures.is_empty() {
            return Err(Error::EmptyQuestion);
        }
        self.options.sampling.check()?;
        let replaced = self.exchanges.pop_if(|e| e.answer.is_none());
        let prompt = match self.exchange(question, pictures, replaced.as_ref()) {
            Ok(exchange) => {
                self.exchanges.push(exchange);
                let prompt = self.prefill();
                if prompt.is_err() {
                    self.exchanges.pop();
                }
                prompt
            }
            Err(error) => Err(error),
        };
        match prompt {
            Ok(prompt) => Ok(self.answer(prompt)),
            Err(error) => {
                self.exchanges.extend(replaced);
                Err(error)
            }
        }
    }

    /// The next exchange, still to be answered.
    fn exchange(&self, question: &str, pictures: &[Seen], replaced: Option<&Exchange>) -> Result<Exchange> {
        let mut all = replaced.map_or_else(Vec::new, |e| e.pictures.clone());
        for key in pictures {
            let known = self.seen.iter().find(|s| s.key == *key).ok_or(Error::PictureForgotten)?;
            all.push(Arc::clone(known));
        }
        let images: Vec<usize> = (0..all.len()).collect();
        let turn = Turn { text: question, images: &images, place: self.options.image_place };
        let turn = match self.exchanges.is_empty() {
            true => self.format.first_turn(&self.vocabulary, &turn)?,
            false => self.format.next_turn(&self.vocabulary, &turn)?,
        };
        Ok(Exchange { pictures: all, turn, answer: None })
    }

    /// Answers the last question again, with other draws, and forgets the answer that it had.
    ///
    /// # Errors
    /// Nothing has been asked yet, or the model fails; the conversation then stands as it stood before.
    pub fn regenerate(&mut self) -> Result<Answer<'_>> {
        let before = self.exchanges.last_mut().ok_or(Error::NothingAsked)?.answer.take();
        match self.prefill() {
            Ok(prompt) => Ok(self.answer(prompt)),
            Err(error) => {
                if let Some(last) = self.exchanges.last_mut() {
                    last.answer = before;
                }
                Err(error)
            }
        }
    }

    /// Forgets the conversation; pictures stay known.
    pub fn clear(&mut self) {
        self.exchanges.clear();
    }

    /// Begins the answer to a prompt, which ends at once where the prompt was not computed to its end.
    fn answer(&mut self, prompt: Prompt) -> Answer<'_> {
        let mut options = self.options.sampling;
        options.seed = options.seed.wrapping_add(self.answers);
        self.answers += 1;
        let finish = (prompt == Prompt::Cancelled).then_some(Finish::Cancelled);
        Answer::new(self, Sampler::new(options), finish)
    }

    /// Computes what the cache does not hold of the conversation up to its open turn.
    fn prefill(&mut self) -> Result<Prompt> {
        let start = Instant::now();
        let (wanted, ctx) = (self.wanted(&[]), self.models.ctx());
        if wanted.len() >= ctx {
            return Err(Error::PromptTooLong { tokens: wanted.len(), ctx });
        }
        let (reused, done) = self.compute(&wanted)?;
        self.stats.prompt_tokens += done;
        self.stats.reused_tokens += reused;
        self.stats.prompt += start.elapsed();
        Ok(if reused + done == wanted.len() { Prompt::Computed } else { Prompt::Cancelled })
    }

    /// Positions of the conversation, and of `begun`, the ids of an answer that is not yet part of it.
    fn wanted(&self, begun: &[u32]) -> Vec<Slot> {
        let hidden = self.models.config().hidden;
        let mut wanted = Vec::new();
        for Exchange { pictures, turn, answer } in &self.exchanges {
            wanted.extend(cache::slots(turn, |i| (pictures[i].key, pictures[i].rows.len() / hidden)));
            wanted.extend(answer.iter().flatten().map(|&id| Slot::Token(id)));
        }
        wanted.extend(begun.iter().map(|&id| Slot::Token(id)));
        wanted
    }

    /// Computes what the cache does not hold of `wanted`, all of it anew where the device fails and there is another. Returns the
    /// positions that the cache held, and those that were computed: not all the rest only where it was cancelled.
    fn compute(&mut self, wanted: &[Slot]) -> Result<(usize, usize)> {
        loop {
            let reused = cache::reusable(self.models.held(), wanted);
            self.models.truncate(reused);
            match self.compute_from(&wanted[reused..]) {
                Ok(done) => return Ok((reused, done)),
                Err(error) => self.models.recover_text(error)?,
            }
        }
    }

    /// Computes `slots` behind what the cache holds. Returns how many were computed.
    fn compute_from(&mut self, slots: &[Slot]) -> Result<usize> {
        let hidden = self.models.config().hidden;
        let runs = cache::runs(slots);
        let input: Vec<Input<'_>> = runs
            .iter()
            .map(|run| match run {
                Run::Tokens(ids) => Input::Tokens(ids),
                Run::Picture { key, first, rows } => {
                    let mut pictures = self.exchanges.iter().flat_map(|e| &e.pictures);
                    let features = pictures.find(|p| p.key == *key).map_or(&[][..], |p| &p.rows);
                    Input::Rows(&features[first * hidden..(first + rows) * hidden])
                }
            })
            .collect();
        let cancel = Arc::clone(&self.options.cancel);
        let mut quiet = |_, _| {};
        let report: &mut dyn FnMut(usize, usize) = match &mut self.progress {
            Some(progress) => progress,
            None => &mut quiet,
        };
        let mut go_on = |done, total| {
            report(done, total);
            !cancel.load(Ordering::SeqCst)
        };
        self.models.forward(&input, slots, &mut go_on)
    }
}

/// How far a prompt came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prompt {
    /// To its end: the logits of its last position are there.
    Computed,
    /// It was stopped on the way; what was computed is in the cache.
    Cancelled,
}

/// FNV-1a over the numbers' bits (Fowler, Noll, Vo): two pictures are the same where the tower would see the same.
fn hash(pixels: &[f32]) -> u64 {
    pixels.iter().fold(0xCBF2_9CE4_8422_2325, |hash, x| {
        (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
