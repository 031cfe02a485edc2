//! LLaMA: token ids and image features in, logits out.
//!
//! Read [`Llama::forward`] from top to bottom: everything that the model computes stands there and in
//! `Llama::blocks`. A tensor is a matrix whose rows are tokens; weights stay as the file stores them; every
//! activation is a named matrix allocated at load, so that a forward pass neither allocates nor fails in the middle.
//! The caller says at which position rows go, and thereby what of the cache stays valid: the cache is truncated by
//! writing at a lower position.
//!
//! Letters in shapes: `n` rows of a batch, `h` query heads, `kv` key heads, `d` elements of a head, `ff` width of the
//! MLP, `ctx` positions in the cache.

mod load;

use bytemuck::cast_slice;
use pumice_kernels::{Backend, DType};

use crate::{Error, Result, config::LlamaConfig, gguf::File};
pub(crate) use load::{Activations, Cache, Weights};

/// How much memory a [`Llama`] takes, and how fast it reads a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlamaOptions {
    /// Positions in the cache; 0 for as many as the model was trained for.
    pub ctx: usize,
    /// Element type of keys and values: F16, F32 or Q8_0.
    pub cache_type: DType,
    /// Rows computed at once. More make a prompt faster, until caches overflow, and take more memory.
    pub batch: usize,
    /// Rows whose logits one forward pass can keep.
    pub logit_rows: usize,
}

impl Default for LlamaOptions {
    /// A chat: an f16 cache, logits of one row. 672 rows at once hold a picture's 576 with the words around it, so that a first question
    /// reads the weights once; 512, llama.cpp's `-ub`, would read them twice.
    fn default() -> Self {
        Self { ctx: 0, cache_type: DType::F16, batch: 672, logit_rows: 1 }
    }
}

/// A run of rows to compute.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Embeddings, [n, hidden], row by row: a picture's features.
    Rows(&'a [f32]),
}

/// Of which rows of a forward pass the logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Of none: only the cache is filled.
    None,
    /// Of the last.
    Last,
    /// Of all; as many as [`LlamaOptions::logit_rows`] at most.
    All,
}

/// How many of the likeliest tokens [`Llama::top`] can tell at most: llama.cpp's top-k of 40 and some more. They are half a kilobyte
/// to read back, where all logits are 128 kB.
pub const TOP: usize = 64;

/// A text model on a backend, with its cache and its activations.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    options: LlamaOptions,
    weights: Weights,
    cache: Vec<Cache>,
    activations: Activations,
    /// Rows whose logits the last forward pass made.
    logit_rows: usize,
    /// Rows computed since load.
    computed: usize,
}

impl Llama {
    /// Takes the text model of `file` to `b`.
    ///
    /// # Errors
    /// The file holds no LLaMA, a tensor is missing or misshapen, the cache type does not fit, or memory is short.
    pub fn load(file: &File, b: &mut dyn Backend, options: &LlamaOptions) -> Result<Self> {
        let config = LlamaConfig::read(file)?;
        let options = options.resolve(&config)?;
        let weights = Weights::load(file, &config, b)?;
        let cache = Cache::alloc(&config, &options, b)?;
        let activations = Activations::alloc(&config, &options, b)?;
        Ok(Self { config, options, weights, cache, activations, logit_rows: 0, computed: 0 })
    }

    /// What the model looks like.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The options as they took effect, `ctx` resolved.
    pub fn options(&self) -> &LlamaOptions {
        &self.options
    }

    /// Rows computed since load: what a turn cost, and whether a cache was reused.
    pub fn rows_computed(&self) -> usize {
        self.computed
    }

    /// Computes the rows of `input`, one run after the other, at positions `pos`, `pos + 1` …; they see each other
    /// and whatever the cache holds at 0..pos, causally. Rows at `pos` and later that the cache held are lost.
    ///
    /// `progress` is called after every block of every batch with rows done and rows in all (a half-done batch counts
    /// in part) and says whether to go on. Returns the rows that are whole in the cache: fewer than were given, and no
    /// logits, only where it said no.
    ///
    /// # Errors
    /// The rows do not fit in the cache, an id is not in the vocabulary, or more logits are wanted than were planned
    /// for. Nothing is computed then.
    ///
    /// # Panics
    /// Where the numbers of an [`Input::Rows`] are no whole rows.
    pub fn forward(
        &mut self,
        b: &mut dyn Backend,
        input: &[Input<'_>],
        pos: usize,
        logits: Logits,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<usize> {
        let n = self.check(input, pos, logits)?;
        self.logit_rows = 0;
        for first in (0..n).step_by(self.options.batch) {
            let rows = self.options.batch.min(n - first);
            let wanted = match logits {
                Logits::None => 0,
                Logits::Last => usize::from(first + rows == n),
                Logits::All => rows,
            };
            self.embed(b, input, first, rows);
            self.place(b, pos + first, rows);
            let blocks = self.weights.blocks.len();
            let mut go_on = |done: usize| progress(first + rows * done / blocks, n);
            if !self.blocks(b, pos + first, rows, wanted, &mut go_on) {
                self.logit_rows = 0;
                // A device may still be at work: it is waited for, so that a time taken now is that of the rows done.
                b.read(&mut vec![0.0; self.config.hidden], self.activations.x.rows(0, 1))?;
                return Ok(first);
            }
            self.computed += rows;
        }
        Ok(n)
    }

    /// Runs `n` embedded rows, which go to positions `pos..pos + n`, through all blocks, and makes the logits of the last
    /// `wanted` of them. False where `go_on`, told the blocks done, said to stop.
    fn blocks(
        &mut self,
        b: &mut dyn Backend,
        pos: usize,
        n: usize,
        wanted: usize,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> bool {
        let c = &self.config;
        let a = self.activations.rows(0, n);
        let count = self.weights.blocks.len();
        for (i, (w, cache)) in self.weights.blocks.iter().zip(&self.cache).enumerate() {
            // x += Wo·attention(rope(Wq·h), rope(Wk·h), Wv·h) with h = norm(x)
            b.rms_norm(a.h, a.x, w.attn_norm, c.eps);
            w.attn_k.apply(b, a.k, a.h);
            w.attn_v.apply(b, a.v, a.h);
            b.rope(a.k, a.positions, self.weights.inv_freq, c.head_dim);
            b.copy(cache.k.rows(pos, n), a.k);
            b.copy(cache.v.rows(pos, n), a.v);

            // Later blocks need every row; after the last one only those count whose logits are wanted.
            let a = if i + 1 < count { a } else { a.last(wanted) };
            if a.x.rows == 0 {
                return go_on(count);
            }
            w.attn_q.apply(b, a.q, a.h);
            b.rope(a.q, a.positions, self.weights.inv_freq, c.head_dim);
            let (k, v) = (cache.k.rows(0, pos + n), cache.v.rows(0, pos + n));
            b.attention(a.attn, a.q, k, v, Some(a.positions), c.head_dim);
            w.attn_output.apply(b, a.h, a.attn);
            b.add(a.x, a.h);

            // x += Wdown·(silu(Wgate·h) ⊙ Wup·h) with h = norm(x)
            b.rms_norm(a.h, a.x, w.ffn_norm, c.eps);
            w.ffn_gate.apply(b, a.gate, a.h);
            w.ffn_up.apply(b, a.up, a.h);
            b.swiglu(a.gate, a.up);
            w.ffn_down.apply(b, a.h, a.gate);
            b.add(a.x, a.h);
            if !go_on(i + 1) {
                return false;
            }
        }

        // logits = Wout·norm(x)
        let a = a.last(wanted);
        b.rms_norm(a.h, a.x, self.weights.output_norm, c.eps);
        b.matmul(self.activations.logits.rows(self.logit_rows, wanted), a.h, self.weights.output, None);
        self.logit_rows += wanted;
        true
    }

    /// Reads the logits of the last forward pass, [rows wanted, vocab], row by row.
    ///
    /// # Errors
    /// The device was lost or ran out of memory, here or in the pass.
    ///
    /// # Panics
    /// Where `dst` has another length, or the last pass made no logits.
    pub fn logits(&self, b: &mut dyn Backend, dst: &mut [f32]) -> Result<()> {
        let (rows, vocab) = (self.logit_rows, self.config.vocab);
        assert!(rows > 0, "the last forward pass made no logits");
        assert_eq!(dst.len(), rows * vocab, "logits are [{rows}, {vocab}]");
        Ok(b.read(dst, self.activations.logits.rows(0, rows))?)
    }

    /// The `k` tokens with the largest logits of the last row of the last forward pass, among ids below `among`, as (logit, id):
    /// largest first, the lower id first among equals; what is no number counts as larger than all. `None` where so many cannot be
    /// told: `k` is at most [`TOP`], and tables smaller than that are read whole.
    ///
    /// # Errors
    /// The device was lost or ran out of memory, here or in the pass.
    ///
    /// # Panics
    /// Where the last pass made no logits.
    pub fn top(&self, b: &mut dyn Backend, k: usize, among: usize) -> Result<Option<Vec<(f32, u32)>>> {
        assert!(self.logit_rows > 0, "the last forward pass made no logits");
        let (top, logits) = (self.activations.top, self.activations.logits);
        let width = top.cols / 2;
        if k > width || among < width {
            return Ok(None);
        }
        b.top_k(top, logits.rows(self.logit_rows - 1, 1), among);
        let mut pairs = [0.0; 2 * TOP];
        let pairs = &mut pairs[..top.cols];
        b.read(pairs, top)?;
        let (values, ids) = pairs.split_at(width);
        Ok(Some(values.iter().zip(ids).take(k).map(|(&logit, &id)| (logit, id as u32)).collect()))
    }

    /// Writes the embeddings of rows `first..first + n` of `input` to `x`.
    fn embed(&self, b: &mut dyn Backend, input: &[Input<'_>], first: usize, n: usize) {
        let hidden = self.config.hidden;
        let x = self.activations.x;
        // Where a run starts, counted in rows of the whole input.
        let mut start = 0;
        for run in input {
            let end = start + run.len(hidden);
            let (from, to) = (first.max(start), (first + n).min(end));
            if from < to {
                let (dst, part) = (x.rows(from - first, to - from), from - start..to - start);
                match run {
                    Input::Tokens(ids) => {
                        let ids: Vec<i32> = ids[part].iter().map(|&id| id as i32).collect();
                        let column = self.activations.ids.rows(0, ids.len());
                        b.write(column, cast_slice(&ids));
                        b.get_rows(dst, self.weights.token_embd, column);
                    }
                    Input::Rows(rows) => {
                        b.write(dst, cast_slice(&rows[part.start * hidden..part.end * hidden]));
                    }
                }
            }
            start = end;
        }
    }

    /// Writes the positions of `n` rows from `pos` on.
    fn place(&self, b: &mut dyn Backend, pos: usize, n: usize) {
        let positions: Vec<i32> = (pos..pos + n).map(|p| p as i32).collect();
        b.write(self.activations.positions.rows(0, n), cast_slice(&positions));
    }

    /// The rows of `input`, which must fit.
    fn check(&self, input: &[Input<'_>], pos: usize, logits: Logits) -> Result<usize> {
        let n: usize = input.iter().map(|run| run.len(self.config.hidden)).sum();
        let ctx = self.options.ctx;
        if n > ctx || pos > ctx - n {
            return Err(Error::ContextFull { pos, rows: n, ctx });
        }
        if logits == Logits::All && n > self.options.logit_rows {
            return Err(Error::TooManyLogits { rows: n, planned: self.options.logit_rows });
        }
        let vocab = self.config.vocab;
        for run in input {
            if let Input::Tokens(ids) = run
                && let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab)
            {
                return Err(Error::NoSuchToken { id, vocab });
            }
        }
        Ok(n)
    }
}

impl Input<'_> {
    /// Rows of this run.
    fn len(&self, hidden: usize) -> usize {
        match self {
            Input::Tokens(ids) => ids.len(),
            Input::Rows(rows) => {
                let whole = rows.len().is_multiple_of(hidden);
                assert!(whole, "{} numbers are no whole rows of {hidden}", rows.len());
                rows.len() / hidden
            }
        }
    }
}
