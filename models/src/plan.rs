//! How much memory a model will take, before any of it is taken.
//!
//! The plan runs the same loading code on a backend that only counts, so it cannot drift from what loading does. The
//! weights count although they are mapped: every token reads all of them, and a model whose weights do not stay in
//! memory reads its file once per token, a hundred times slower. So a model that does not fit is refused, with changes
//! that were found to fit by planning with them; a program may let a person insist.

mod free;
mod place;
mod tally;

use pumice_kernels::DType;

pub use free::free_memory;
pub use place::{Host, Placed};
pub use tally::Tally;

use crate::{
    Error, Result, clip,
    config::{LlamaConfig, VisionConfig},
    gguf::File,
    llama::{Activations, Cache, LlamaOptions, Weights},
    projector::Projector,
};

/// Suggested contexts are multiples of this many positions: round enough to remember.
const CTX_STEP: usize = 256;
/// Positions that a suggested context leaves for words beside one picture: a question and a long answer.
const CTX_WORDS: usize = 256;

/// The memory that a model takes, in bytes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The text model's weights; on the CPU they stay in the mapped file.
    pub text_weights: u64,
    /// Tower's and projector's weights, mapped as well; 0 without vision.
    pub vision_weights: u64,
    /// Keys and values of all blocks, for the whole context.
    pub cache: u64,
    /// Activations of the text model.
    pub scratch: u64,
    /// Activations of the vision tower and the projector; 0 without vision.
    pub vision_scratch: u64,
    /// Positions in the cache.
    pub ctx: usize,
    /// Of the text model's weights those of each layer.
    pub layers: Vec<u64>,
    /// The embedding table.
    table: u64,
    /// Norm and matrix of the output.
    output: u64,
    config: LlamaConfig,
    options: LlamaOptions,
    image_tokens: usize,
}

impl Plan {
    /// Plans for the text model `text`, the vision half in `vision` (which may be the same file) and `options`.
    ///
    /// # Errors
    /// As loading them: a file is of a wrong kind, a tensor is missing or misshapen, or the two do not fit each other.
    pub fn new(text: &File, vision: Option<&File>, options: &LlamaOptions) -> Result<Self> {
        let config = LlamaConfig::read(text)?;
        let mut tally = Tally::default();
        Weights::load(text, &config, &mut tally)?;
        let mut plan = Self {
            text_weights: tally.loaded + tally.allocated,
            vision_weights: 0,
            cache: 0,
            scratch: 0,
            vision_scratch: 0,
            ctx: 0,
            layers: tally.layers,
            table: tally.table,
            output: tally.output,
            options: *options,
            config,
            image_tokens: 0,
        };
        if let Some(file) = vision {
            let v = VisionConfig::read(file)?;
            v.check_fits(file, text, &plan.config)?;
            let mut tally = Tally::default();
            clip::Weights::load(file, &v.clip, &mut tally)?;
            clip::Activations::alloc(&v.clip, &mut tally)?;
            Projector::load(file, &v.projector, v.clip.feature_rows(), &mut tally)?;
            plan.vision_weights = tally.loaded;
            plan.vision_scratch = tally.allocated;
            plan.image_tokens = v.image_tokens();
        }
        plan.with(options)
    }

    /// The same model with other options.
    fn with(&self, options: &LlamaOptions) -> Result<Self> {
        let options = options.resolve(&self.config)?;
        let (mut cache, mut scratch) = (Tally::default(), Tally::default());
        Cache::alloc(&self.config, &options, &mut cache)?;
        Activations::alloc(&self.config, &options, &mut scratch)?;
        Ok(Self {
            cache: cache.allocated,
            scratch: scratch.allocated,
            ctx: options.ctx,
            options,
            ..self.clone()
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        [self.text_weights, self.vision_weights, self.cache, self.scratch, self.vision_scratch]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Checks that it fits into `free` bytes.
    ///
    /// # Errors
    /// It does not; the message says by how much, where the bytes go, and which changes make it fit.
    pub fn check(&self, free: u64) -> Result<()> {
        if self.total() <= free {
            return Ok(());
        }
        let vision = match self.vision_weights + self.vision_scratch {
            0 => String::new(),
            bytes => format!("vision {}, ", size(bytes)),
        };
        let advice = match self.suggestions(free).as_slice() {
            [] => "no setting makes it fit: close other programs, or take a smaller model or type (Q4_K_M)"
                .into(),
            some => format!("try {}", some.join(" or ")),
        };
        let what = format!(
            "needs {} (weights {}, {vision}context of {} {}, scratch {}), {} free; {advice}",
            size(self.total()),
            size(self.text_weights),
            self.ctx,
            size(self.cache),
            size(self.scratch),
            size(free),
        );
        Err(Error::NoMemory { what })
    }

    /// Flags with each of which the model fits into `free` bytes: single ones, or else pairs.
    fn suggestions(&self, free: u64) -> Vec<String> {
        let here = self.options;
        let small_cache = LlamaOptions { cache_type: DType::Q8_0, ..here };
        let fits = |o: &LlamaOptions| self.with(o).is_ok_and(|p| p.total() <= free);
        let blind = self.total() - self.vision_weights - self.vision_scratch;

        let mut found = Vec::new();
        found.extend(self.largest_ctx(here, free).map(|ctx| format!("-c {ctx}")));
        if here.cache_type != DType::Q8_0 && fits(&small_cache) {
            found.push("-ctk q8_0".into());
        }
        if self.vision_weights > 0 && blind <= free {
            found.push("--no-mmproj".into());
        }
        if found.is_empty() {
            found.extend(self.largest_ctx(small_cache, free).map(|ctx| format!("-c {ctx} -ctk q8_0")));
        }
        if found.is_empty() && self.vision_weights > 0 {
            let text = Self { vision_weights: 0, vision_scratch: 0, image_tokens: 0, ..self.clone() };
            found.extend(text.suggestions(free).iter().map(|flags| format!("--no-mmproj {flags}")));
        }
        found
    }

    /// The longest context below the present one that fits and still holds a picture and some words.
    fn largest_ctx(&self, options: LlamaOptions, free: u64) -> Option<usize> {
        let fits = |ctx: usize| self.with(&LlamaOptions { ctx, ..options }).is_ok_and(|p| p.total() <= free);
        let least = (self.image_tokens + CTX_WORDS).div_ceil(CTX_STEP);
        let steps = (self.ctx - 1) / CTX_STEP;
        if least > steps || !fits(least * CTX_STEP) {
            return None;
        }
        // More positions never take less memory, so the border is found by halving.
        let (mut good, mut end) = (least, steps + 1);
        while end - good > 1 {
            let middle = good + (end - good) / 2;
            if fits(middle * CTX_STEP) {
                good = middle;
            } else {
                end = middle;
            }
        }
        Some(good * CTX_STEP)
    }
}

/// Bytes for people, in the powers of ten that disks and `free -h --si` use.
fn size(bytes: u64) -> String {
    match bytes {
        0..100_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        100_000..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
