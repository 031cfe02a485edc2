//! The least time that a test can take on this machine: its work, counted from the model's shapes, over measured rates.
//!
//! Arithmetic and reading go on at once, so the longer of the two bounds a test: a prompt or a picture is bound by arithmetic,
//! a generated token by reading the weights (Williams, Waterman, Patterson 2009). Products with quantized weights run on bytes, with F16 and
//! BF16 weights on x86 on 16 bits, all else on f32; of memory only what no cache can keep is counted. A model that fits into the caches can beat its limit.

use pumice_kernels::{Count, DType, probe};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    plan::Tally,
    vision::Vision,
};

use super::{limits::Limits, model::Model, record::Record};

/// What a test computes and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Operations on bytes: products with quantized weights.
    pub int8: u64,
    /// Products with F16 and BF16 weights: on f32, or on whole numbers of 16 bits.
    pub halves: u64,
    /// Operations on f32: all others.
    pub f32: u64,
    /// Bytes that come from memory: weights, looked-up rows, keys and values.
    pub read: u64,
}

impl Need {
    /// Operations of all kinds.
    pub fn flops(self) -> u64 {
        self.int8 + self.halves + self.f32
    }

    /// Seconds that it takes at least with `limits`, and what bounds it: `memory`, `int8`, `int16`, `f16` or `f32`.
    pub fn limit(self, limits: &Limits) -> (f64, &'static str) {
        let read = self.read as f64 / limits.read;
        let (int8, f32) = (self.int8 as f64 / limits.int8, self.f32 as f64 / limits.f32);
        let (halves, on) = limits.halves;
        let halves = self.halves as f64 / halves;
        match int8 + halves + f32 {
            arithmetic if arithmetic < read => (read, "memory"),
            arithmetic if int8 >= halves + f32 => (arithmetic, "int8"),
            arithmetic if halves >= f32 => (arithmetic, on),
            arithmetic => (arithmetic, "f32"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            int8: self.int8 + other.int8,
            halves: self.halves + other.halves,
            f32: self.f32 + other.f32,
            read: self.read + other.read,
        }
    }

    fn times(self, n: usize) -> Self {
        let n = n as u64;
        Self { int8: self.int8 * n, halves: self.halves * n, f32: self.f32 * n, read: self.read * n }
    }
}

/// A model's shapes, without memory and arithmetic.
pub struct Shapes {
    counter: Count<Tally>,
    llama: Llama,
    vision: Option<Vision>,
}

impl Shapes {
    /// Of the text model `text` and the vision half in `eyes`, with a cache of `ctx` positions of `cache_type`.
    pub fn open(text: &File, eyes: Option<&File>, cache_type: DType, ctx: usize) -> anyhow::Result<Self> {
        let mut counter = Count::new(Tally::default());
        let options = LlamaOptions { ctx, cache_type, ..LlamaOptions::default() };
        let llama = Llama::load(text, &mut counter, &options)?;
        let vision = eyes.map(|eyes| Vision::load(eyes, &mut counter)).transpose()?;
        Ok(Self { counter, llama, vision })
    }

    /// A prompt of `n` positions in one go, after `depth` others.
    pub fn prompt(&mut self, n: usize, depth: usize) -> anyhow::Result<Need> {
        self.counter.reset();
        let ids = vec![0; n];
        let input = [Input::Tokens(&ids)];
        self.llama.forward(&mut self.counter, &input, depth, Logits::Last, &mut |_, _| true)?;
        Ok(self.need())
    }

    /// `n` tokens one by one, after `depth` positions.
    pub fn generation(&mut self, n: usize, depth: usize) -> anyhow::Result<Need> {
        (depth..depth + n).try_fold(Need::default(), |sum, at| Ok(sum.and(self.prompt(1, at)?)))
    }

    /// A picture, through tower and projector; nothing where the model does not see.
    pub fn image(&mut self) -> anyhow::Result<Need> {
        let Some(vision) = &self.vision else { return Ok(Need::default()) };
        self.counter.reset();
        vision.encode(&mut self.counter, &vec![0.0; vision.config().clip.pixels()])?;
        Ok(self.need())
    }

    /// What was counted since the reset.
    fn need(&self) -> Need {
        let products = |is: fn(DType) -> bool| {
            self.counter.products().filter(|(dtype, _)| is(*dtype)).map(|(_, work)| work.flops).sum()
        };
        let (int8, halves): (u64, u64) = (products(probe::on_bytes), products(probe::on_halves));
        let f32 = self.counter.total().flops - int8 - halves;
        Need { int8, halves, f32, read: self.counter.streamed() }
    }

    /// What a row's test needs; `None` for loading and memory.
    fn of(&mut self, row: &Record) -> anyhow::Result<Option<Need>> {
        let positions = row.n_prompt + row.n_gen;
        if row.test.starts_with("load") || row.n_image + positions == 0 {
            return Ok(None);
        }
        let images = self.image()?.times(row.n_image);
        let words = match (row.n_prompt, row.n_gen) {
            (0, 0) => Need::default(),
            (0, n) if row.n_image == 0 => self.generation(n, row.n_depth)?,
            // The first token is drawn from the prompt's own logits.
            (n, _) => self.prompt(n, row.n_depth)?,
        };
        Ok(Some(images.and(words)))
    }
}

/// Writes into `rows` of `model` what bounds them: the limit, the share of it that was reached, and the rates that it comes from.
pub fn fill(rows: &mut [Record], model: &Model, cache_type: DType, limits: &[Limits]) -> anyhow::Result<()> {
    let text = File::open(&model.text)?;
    let half = model.mmproj.as_deref().map(File::open).transpose()?;
    let eyes = half.as_ref().or(model.image_tokens.map(|_| &text));
    mark(rows, (&text, eyes), cache_type, limits)
}

/// The same for the text model and the vision half of two files.
fn mark(
    rows: &mut [Record],
    (text, eyes): (&File, Option<&File>),
    cache_type: DType,
    limits: &[Limits],
) -> anyhow::Result<()> {
    let ctx = rows.iter().map(|row| row.n_depth + row.n_prompt + row.n_gen).max().unwrap_or(0).max(1);
    let mut shapes = Shapes::open(text, eyes, cache_type, ctx)?;
    for row in rows {
        let here = limits.iter().find(|limits| limits.are_of(row));
        let (Some(limits), Some(need)) = (here, shapes.of(row)?) else { continue };
        let (seconds, bound) = need.limit(limits);
        row.flops = Some(need.flops());
        row.bytes_read = Some(need.read);
        row.limit = Some(bound.into());
        row.limit_ns = Some((seconds * 1e9).round() as u64);
        row.limit_share = (row.median_ns > 0).then(|| seconds * 1e9 / row.median_ns as f64);
        row.read_rate = Some(limits.read);
        row.int8_rate = Some(limits.int8);
        row.f32_rate = Some(limits.f32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{limits::Of, setting::OnCpu};
    use pumice_kernels::{Bytes, Isa};
    use pumice_quantize::{FileType, synthetic::synthetic};

    fn shapes(file_type: FileType) -> Shapes {
        let file = File::from_bytes("tiny", Bytes::new(synthetic("tiny", file_type).unwrap())).unwrap();
        Shapes::open(&file, Some(&file), DType::F16, 64).unwrap()
    }

    fn limits(read: f64, int8: f64, f32: f64) -> Limits {
        Limits {
            of: Of::Cpu(OnCpu { isa: Isa::Scalar, threads: 2 }),
            read,
            int8,
            halves: (f32, "f32"),
            f32,
            f16: None,
            bf16: None,
        }
    }

    /// Of a block of the tiny shape: hidden 256, MLP 512.
    const WEIGHTS: u64 = 4 * 256 * 256 + 3 * 256 * 512;
    /// The output layer: vocabulary 1024.
    const OUTPUT: u64 = 256 * 1024;

    #[test]
    fn a_token_needs_every_weight_once() {
        let mut shapes = shapes(FileType::Q8_0);
        let token = shapes.generation(1, 9).unwrap();
        assert_eq!(token.int8, 2 * (4 * WEIGHTS + OUTPUT));
        // Q8_0 has 34 bytes for 32 weights; one row of the table; ten positions of 2 × 256 halves in each of 4 blocks.
        assert_eq!(token.read, (4 * WEIGHTS + OUTPUT + 256) * 34 / 32 + 4 * 10 * 2 * 256 * 2);
        // Attention: 4 operations for each of 256 columns and 3 for each of 4 heads, at each of ten positions; besides it norms,
        // RoPE, SwiGLU and sums, some 20 operations a column.
        let attention = 4 * 10 * (4 * 256 + 3 * 4);
        assert!((attention..attention + 4 * 20 * 1000).contains(&token.f32), "{token:?}");
        let two = shapes.generation(2, 9).unwrap();
        assert_eq!(two.int8, 2 * token.int8);
        assert_eq!(two.read, 2 * token.read + 4 * 2 * 256 * 2, "the second token sees a position more");
    }

    #[test]
    fn a_prompt_needs_all_rows_but_in_the_last_block() {
        let prompt = shapes(FileType::Q8_0).prompt(20, 0).unwrap();
        let (kv, rest) = (2 * 256 * 256, WEIGHTS - 2 * 256 * 256);
        assert_eq!(prompt.int8, 2 * (20 * (3 * WEIGHTS + kv) + rest + OUTPUT));
        let plain = shapes(FileType::F16).prompt(20, 0).unwrap();
        assert_eq!(
            (plain.int8, plain.f32 + plain.halves),
            (0, prompt.f32 + prompt.int8),
            "halves are multiplied as floats"
        );
    }

    #[test]
    fn a_picture_needs_the_towers_blocks_and_the_projector() {
        // 56 pixels in patches of 14 are 16 and the class row; width 64, MLP 128, three blocks of four; projector 64 → 256 → 256.
        let products =
            2 * (16 * 588 * 64 + 3 * 17 * (4 * 64 * 64 + 2 * 64 * 128) + 16 * (64 * 256 + 256 * 256));
        let image = shapes(FileType::Q8_0).image().unwrap();
        assert_eq!(image.int8, 0, "the tower stays in halves");
        assert!(
            (products..products * 11 / 10).contains(&(image.f32 + image.halves)),
            "{image:?}, products {products}"
        );
    }

    #[test]
    fn the_longer_of_arithmetic_and_reading_bounds() {
        let need = Need { int8: 600, f32: 40, read: 100, ..Need::default() };
        assert_eq!(need.limit(&limits(10.0, 100.0, 10.0)), (10.0, "int8"));
        assert_eq!(need.limit(&limits(5.0, 100.0, 10.0)), (20.0, "memory"));
        assert_eq!(need.limit(&limits(100.0, 600.0, 10.0)), (5.0, "f32"));
    }

    #[test]
    fn rows_are_told_their_limits() {
        let file = File::from_bytes("tiny", Bytes::new(synthetic("tiny", FileType::Q8_0).unwrap())).unwrap();
        let row = |test: &str, n_prompt, n_gen, n_image| Record {
            test: test.into(),
            isa: "scalar".into(),
            n_threads: 2,
            n_prompt,
            n_gen,
            n_image,
            median_ns: 1_000_000_000,
            ..Record::default()
        };
        let mut rows = [
            row("load cold + 1 token", 1, 0, 0),
            row("image", 0, 0, 1),
            row("photo", 20, 1, 1),
            row("pp20", 20, 0, 0),
            row("tg2", 0, 2, 0),
            Record { n_threads: 9, ..row("pp20", 20, 0, 0) },
            Record { gpu_info: "Card".into(), n_gpu_layers: 4, n_layers: 4, ..row("pp20", 20, 0, 0) },
            Record { gpu_info: "Card".into(), n_gpu_layers: 3, n_layers: 4, ..row("pp20", 20, 0, 0) },
        ];
        let gpu = Limits { of: Of::Gpu("Card".into()), ..limits(1e12, 2e9, 2e9) };
        mark(&mut rows, (&file, Some(&file)), DType::F16, &[limits(1e12, 1e9, 1e9), gpu]).unwrap();
        assert_eq!([0, 5, 7].map(|i: usize| rows[i].limit_ns), [None; 3], "no work, and no limits for it");
        let ns = |i: usize| rows[i].limit_ns.unwrap();
        assert!(ns(2).abs_diff(ns(1) + ns(3)) <= 1, "a photo is an image and a prompt");
        assert!(ns(4) < ns(3) && rows[4].limit.as_deref() == Some("int8"), "{:?}", rows[4]);
        let share = rows[3].limit_share.unwrap();
        assert!((share - ns(3) as f64 / 1e9).abs() < 1e-9, "{share}");
        let need = Shapes::open(&file, None, DType::F16, 64).unwrap().prompt(20, 0).unwrap();
        assert_eq!(ns(3), need.flops(), "at an operation a nanosecond");
        assert!(ns(6).abs_diff(ns(3) / 2) <= 1, "at two");
    }
}
