//! Open a model, see pictures, ask, and read the answer piece by piece.
//!
//! The chat keeps three things that make the next answer cheap: the features of every picture seen (by the hash of its
//! pixels), the ids of every answer as they were generated, and a note of what stands at each position of the KV cache.
//! A question is turned into the whole conversation's positions each time; what the cache holds already is not computed
//! again. So the second question on a picture, `/regen` and the same picture after `/clear` need no case of their own.

mod answer;
mod cache;
mod stats;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use pumice_kernels::{Backend, DType};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    plan::Plan,
    vision::Vision,
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
            template: None,
            image_place: ImagePlace::Before,
            predict: Some(512),
            sampling: SamplerOptions::default(),
            cancel: Arc::default(),
        }
    }
}

/// A picture that the chat has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(usize);

/// What a picture became for the text model.
struct Features {
    /// Hash of the pixels that the tower saw.
    key: u64,
    /// [image tokens, hidden of the text model].
    rows: Vec<f32>,
}

/// A turn and its answer.
struct Exchange {
    /// What the turn appends to everything before it, up to where the model answers.
    turn: Vec<Chunk>,
    /// The answer's ids as they were generated; `None` while there is none.
    answer: Option<Vec<u32>>,
}

/// A model in conversation.
pub struct Chat {
    backend: Box<dyn Backend>,
    llama: Llama,
    eyes: Option<(Vision, Preprocess)>,
    vocabulary: Vocabulary,
    format: Format,
    /// What was said, oldest first; only the last one may lack its answer.
    exchanges: Vec<Exchange>,
    seen: Vec<Features>,
    /// What stands at each position of the KV cache.
    held: Vec<Slot>,
    /// Logits of the last position, [rows of the output matrix].
    logits: Vec<f32>,
    /// Answers begun; each draws from a sequence of its own.
    answers: u64,
    options: Options,
    stats: Stats,
    progress: Option<Box<dyn FnMut(usize, usize)>>,
}

impl Chat {
    /// Opens the model in `path` on `backend`.
    ///
    /// # Errors
    /// The file is damaged, of another architecture, does not fit its mmproj, needs more than [`Options::memory`], or has no
    /// vocabulary or template that can be used; the message says which and what to do.
    pub fn open(path: impl AsRef<Path>, backend: Box<dyn Backend>, options: Options) -> Result<Self> {
        let start = Instant::now();
        let text = File::open(path.as_ref())?;
        let mmproj = match &options.mmproj {
            Some(path) if options.vision => Some(File::open(path)?),
            _ => None,
        };
        let mut chat = Self::from_files(&text, mmproj.as_ref(), backend, options)?;
        chat.stats.load = start.elapsed();
        Ok(chat)
    }

    /// As [`Chat::open`], with files that are open already (or lie in memory).
    ///
    /// # Errors
    /// As [`Chat::open`].
    pub fn from_files(
        text: &File,
        mmproj: Option<&File>,
        mut backend: Box<dyn Backend>,
        options: Options,
    ) -> Result<Self> {
        let start = Instant::now();
        let vision_file = match mmproj {
            Some(file) => Some(file),
            None if options.vision && pumice_models::config::has_vision(text)? => Some(text),
            None => None,
        };
        let llama_options =
            LlamaOptions { ctx: options.ctx, cache_type: options.cache_type, ..LlamaOptions::default() };
        let plan = Plan::new(text, vision_file, &llama_options)?;
        if let Some(free) = options.memory {
            plan.check(free)?;
        }
        let llama = Llama::load(text, &mut *backend, &llama_options)?;
        let eyes = match vision_file {
            Some(file) => Some((Vision::load(file, &mut *backend)?, Preprocess::from_gguf(file)?)),
            None => None,
        };
        let vocabulary = Vocabulary::from_gguf(text)?;
        let format = match &options.template {
            Some(name) => Format::named(name)?,
            None => Format::from_gguf(text, vision_file)?,
        };
        let logits = vec![0.0; llama.config().vocab];
        let stats = Stats { memory: plan.total(), load: start.elapsed(), ..Stats::default() };
        Ok(Self {
            backend,
            llama,
            eyes,
            vocabulary,
            format,
            exchanges: Vec::new(),
            seen: Vec::new(),
            held: Vec::new(),
            logits,
            answers: 0,
            options,
            stats,
            progress: None,
        })
    }

    /// Calls `progress` with positions done and positions in all while a prompt is computed.
    pub fn on_progress(&mut self, progress: impl FnMut(usize, usize) + 'static) {
        self.progress = Some(Box::new(progress));
    }

    /// Whether this model sees pictures.
    pub fn can_see(&self) -> bool {
        self.eyes.is_some()
    }

    /// Positions of the context: taken by the conversation, and in all.
    pub fn context(&self) -> (usize, usize) {
        (self.held.len(), self.llama.options().ctx)
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
        self.eyes.as_ref().ok_or(Error::NoVision)?;
        let start = Instant::now();
        let picture = Picture::open(path.as_ref())?;
        self.look(&picture, start)
    }

    /// Looks at a picture that lies in memory.
    ///
    /// # Errors
    /// The model has no vision part.
    pub fn see_picture(&mut self, picture: &Picture) -> Result<Seen> {
        self.look(picture, Instant::now())
    }

    fn look(&mut self, picture: &Picture, start: Instant) -> Result<Seen> {
        let (vision, preprocess) = self.eyes.as_ref().ok_or(Error::NoVision)?;
        let pixels = preprocess.apply(picture);
        let key = hash(&pixels);
        let known = self.seen.iter().position(|s| s.key == key);
        let seen = match known {
            Some(i) => Seen(i),
            None => {
                let rows = vision.encode(&mut *self.backend, &pixels);
                self.stats.pictures += 1;
                self.stats.picture_tokens += rows.len() / self.llama.config().hidden;
                self.seen.push(Features { key, rows });
                Seen(self.seen.len() - 1)
            }
        };
        self.stats.picture += start.elapsed();
        Ok(seen)
    }

    /// Asks `question` about `pictures` and about all that was said before.
    ///
    /// # Errors
    /// Nothing was asked, or the conversation does not fit in the context any more; it then stands as it stood before.
    pub fn ask(&mut self, question: &str, pictures: &[Seen]) -> Result<Answer<'_>> {
        if question.trim().is_empty() && pictures.is_empty() {
            return Err(Error::EmptyQuestion);
        }
        self.options.sampling.check()?;
        let images: Vec<usize> = pictures.iter().map(|p| p.0).collect();
        let turn = Turn { text: question, images: &images, place: self.options.image_place };
        let turn = match self.exchanges.is_empty() {
            true => self.format.first_turn(&self.vocabulary, &turn)?,
            false => self.format.next_turn(&self.vocabulary, &turn)?,
        };
        self.exchanges.push(Exchange { turn, answer: None });
        self.answer()
    }

    /// Answers the last question again, with other draws.
    ///
    /// # Errors
    /// Nothing has been asked yet.
    pub fn regenerate(&mut self) -> Result<Answer<'_>> {
        self.exchanges.last_mut().ok_or(Error::NothingAsked)?.answer = None;
        self.answer()
    }

    /// Forgets the conversation; pictures stay known.
    pub fn clear(&mut self) {
        self.exchanges.clear();
    }

    /// Computes what the cache does not hold of the conversation up to its open turn.
    fn answer(&mut self) -> Result<Answer<'_>> {
        let start = Instant::now();
        let prefilled = self.prefill();
        self.stats.prompt += start.elapsed();
        let whole = match prefilled {
            Ok(whole) => whole,
            Err(error) => {
                self.exchanges.pop();
                return Err(error);
            }
        };
        let mut options = self.options.sampling;
        options.seed = options.seed.wrapping_add(self.answers);
        self.answers += 1;
        let finish = (!whole).then(|| {
            self.exchanges.pop();
            Finish::Cancelled
        });
        Ok(Answer::new(self, Sampler::new(options), finish))
    }

    /// Fills the cache up to the end of the prompt. False where it was cancelled on the way.
    fn prefill(&mut self) -> Result<bool> {
        let hidden = self.llama.config().hidden;
        let ctx = self.llama.options().ctx;
        let seen = &self.seen;
        let mut wanted = Vec::new();
        for Exchange { turn, answer } in &self.exchanges {
            wanted.extend(cache::slots(turn, |i| (seen[i].key, seen[i].rows.len() / hidden)));
            wanted.extend(answer.iter().flatten().map(|&id| Slot::Token(id)));
        }
        if wanted.len() >= ctx {
            return Err(Error::PromptTooLong { tokens: wanted.len(), ctx });
        }
        let reused = cache::reusable(&self.held, &wanted);
        self.held.truncate(reused);
        let runs = cache::runs(&wanted[reused..]);
        let input: Vec<Input<'_>> = runs
            .iter()
            .map(|run| match run {
                Run::Tokens(ids) => Input::Tokens(ids),
                Run::Picture { key, first, rows } => {
                    let picture = seen.iter().find(|s| s.key == *key);
                    let features = picture.map_or(&[][..], |s| &s.rows);
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
        let done = self.llama.forward(&mut *self.backend, &input, reused, Logits::Last, &mut go_on)?;
        self.held.extend_from_slice(&wanted[reused..reused + done]);
        self.stats.prompt_tokens += done;
        self.stats.reused_tokens += reused;
        Ok(self.held.len() == wanted.len())
    }
}

/// FNV-1a over the numbers' bits (Fowler, Noll, Vo): two pictures are the same where the tower would see the same.
fn hash(pixels: &[f32]) -> u64 {
    pixels.iter().fold(0xCBF2_9CE4_8422_2325, |hash, x| {
        (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
