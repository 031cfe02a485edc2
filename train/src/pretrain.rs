//! The demo model's beginnings: a small vision tower by contrast (`pumice-train clip`) and a small language model on text (`pumice-train lm`).
//!
//! LLaVA starts from a CLIP and a Vicuna that others trained. The demo world has neither, so both are made here, on data of that world;
//! then stage 1 and stage 2 run as they would on the real ones.

use std::{path::PathBuf, sync::Arc};

use pumice_runtime::{ImagePlace, vocab::Vocabulary};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::{
    Error, Result,
    contrast::{Contrast, Pictures},
    data::{Batch, conversation::Template, rows},
    engine::{
        Engine, Group, Options,
        ranks::Alone,
        schedule::Schedule,
        trainer::{Observer, Plan, Source, Trainer, Watch},
    },
    model::{
        ClipConfig, LlamaConfig, Llava, LlavaConfig,
        checkpoint::{Saved, save_clip, save_llama},
    },
    world::{self, Split, World, draw::Painter, kinds::KINDS, vocabulary},
};

/// What both pre-trainings share.
#[derive(Clone, Debug)]
pub struct Run {
    /// Folder of checkpoints and logs, and of the finished model ([`Run::model`]).
    pub out: PathBuf,
    /// Steps.
    pub steps: u64,
    /// Pictures or rows of a step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Type in which weights compute.
    pub kind: Kind,
    /// Where it computes.
    pub device: Device,
    /// Of the world and the fresh weights.
    pub seed: u64,
    /// Steps between checkpoints, 0: none before the end.
    pub save_every: u64,
    /// Pieces of the vocabulary.
    pub vocabulary: usize,
}

impl Run {
    /// Where the finished model's folder stands: beside the checkpoints and logs in `out`.
    pub fn model(&self) -> PathBuf {
        self.out.join("model")
    }

    /// What its checkpoints keep of it; seed and batch decide the order of the data.
    pub fn settings(&self) -> Value {
        let kind = if self.kind == Kind::BFloat16 { "bf16" } else { "f32" };
        json!({"steps": self.steps, "batch": self.batch, "lr": self.lr, "kind": kind, "seed": self.seed})
    }

    fn options(&self) -> Options {
        Options {
            kind: self.kind,
            checkpoint: false,
            // Small models at high rates: a shorter memory of squares recovers sooner from a jump (as CLIP's own 0.98).
            betas: (0.9, 0.98),
            seed: self.seed,
            ..Options::default()
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            schedule: Schedule::cosine(self.lr, 0.03, self.steps),
            save_every: self.save_every,
            keep: 1,
            folder: Some(self.out.clone()),
            watch: Watch::default(),
            settings: self.settings(),
        }
    }
}

/// Norms, biases and scales keep their size; matrices decay a little, as CLIP and LLaMA were trained.
fn groups(name: &str) -> Group {
    if name.ends_with("scale") { Group { scale: 1.0, decay: 0.0 } } else { Group::of(name, 1.0, 0.05) }
}

/// Runs from the newest checkpoint, or from the start.
fn run<S, F>(
    trainer: &mut Trainer<S>,
    source: &mut F,
    seek: impl Fn(&mut F, u64),
    watch: &mut dyn Observer,
) -> Result<bool>
where
    S: crate::engine::Stack,
    F: Source<Batch = S::Batch>,
{
    if let Some(at) = trainer.resume()? {
        let wrong =
            || Error::Data(format!("the checkpoint's place in the data is {at}, not a number of rows"));
        seek(source, at.as_u64().ok_or_else(wrong)?);
    }
    let total = trainer.total();
    Ok(trainer.run(source, watch)? == total)
}

/// A vision tower's pre-training.
#[derive(Clone, Debug)]
pub struct ClipRun {
    /// What both have.
    pub run: Run,
    /// The tower.
    pub config: ClipConfig,
    /// The font of the pictograms; none: the system's.
    pub font: Option<PathBuf>,
}

/// What the tower tells right of pictures that it never saw.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Seen {
    /// Share of the patches on things whose kind is told, of all kinds.
    pub kind: f64,
    /// Share whose thing's place is told.
    pub place: f64,
    /// Share of the pictures whose caption is found among its batch's and as many that are almost right.
    pub caption: f64,
}

impl ClipRun {
    fn pictures(&self, split: Split, painter: Painter, size: usize) -> Result<Pictures> {
        let vocabulary = vocabulary::train(self.run.vocabulary)?.vocabulary()?;
        Ok(Pictures::new(
            World::new(self.run.seed, split),
            painter,
            vocabulary,
            self.config.patch as usize,
            size,
        ))
    }

    /// Trains and writes the tower's folder; `None` where it was stopped before the end.
    ///
    /// # Errors
    /// No font, a full disk, a loss that is no number.
    pub fn train(&self, watch: &mut dyn Observer) -> Result<Option<Seen>> {
        let side = self.config.image as usize;
        let mut pictures =
            self.pictures(Split::Train, world::painter(self.font.as_deref(), side)?, self.run.batch)?;
        let pieces = vocabulary::train(self.run.vocabulary)?.len() as i64;
        tch::manual_seed(self.run.seed as i64);
        let stack = Contrast::init(self.config.clone(), pieces, self.run.device);
        let engine = Engine::new(stack, Box::new(Alone), self.run.options(), &groups)?;
        let mut trainer = Trainer::new(engine, self.run.plan());
        if !run(&mut trainer, &mut pictures, Pictures::seek, watch)? {
            return Ok(None);
        }
        let stack = trainer.engine.stack();
        save_clip(&self.config, stack.tower(), true, &self.run.model(), Kind::Float)?;
        let mut unseen = self.pictures(Split::Test, world::painter(self.font.as_deref(), side)?, 128)?;
        let mut sums = [0.0; 3];
        const BATCHES: usize = 8;
        for _ in 0..BATCHES {
            let shares = stack.judge(&unseen.batch()?, self.run.device)?;
            sums.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share / BATCHES as f64);
        }
        Ok(Some(Seen { kind: sums[0], place: sums[1], caption: sums[2] }))
    }
}

/// A language model's pre-training.
#[derive(Clone, Debug)]
pub struct TextRun {
    /// What both have.
    pub run: Run,
    /// The model; its vocabulary's size is overwritten.
    pub config: LlamaConfig,
    /// Questions on one scene.
    pub turns: usize,
    /// Name of the template.
    pub template: String,
}

/// Conversations on scenes told in words, made as they are asked for.
pub struct Spoken {
    world: World,
    template: Template,
    size: usize,
    turns: usize,
    context: usize,
    next: u64,
}

/// One row in so many is general knowledge of a kind.
const GENERAL: u64 = 24;

impl Spoken {
    /// Batches of `size` rows of `turns` questions, cut at `context` positions.
    pub fn new(world: World, template: Template, size: usize, turns: usize, context: usize) -> Self {
        Self { world, template, size, turns, context, next: 0 }
    }

    fn row(&self, index: u64) -> world::Row {
        if index.is_multiple_of(GENERAL) {
            return self.world.general_row(index, (index / GENERAL % KINDS.len() as u64) as u16);
        }
        self.world.text_row(index, &self.world.scene(index), self.turns)
    }
}

impl Source for Spoken {
    type Batch = Batch;

    fn next(&mut self) -> Result<Option<Batch>> {
        let mut samples = Vec::with_capacity(self.size);
        for _ in 0..self.size {
            let row = self.row(self.next);
            self.next += 1;
            let pairs: Vec<[String; 2]> =
                row.conversations.chunks_exact(2).map(|t| [t[0].value.clone(), t[1].value.clone()]).collect();
            let row = rows::Row { name: row.id, images: Vec::new(), turns: pairs };
            let sample = self.template.sample(row, ImagePlace::Before).and_then(|s| {
                let expanded = s.expand(1, self.context)?;
                Ok((s.name, expanded))
            });
            samples.push(sample.map_err(|f| Error::Data(format!("{}: {}", f.row, f.what)))?);
        }
        let (b, t) = (samples.len(), samples.iter().map(|(_, s)| s.ids.len()).max().unwrap_or(0));
        let mut batch = Batch { ids: vec![0; b * t], labels: vec![-100; b * t], b, t, ..Batch::default() };
        for (i, (name, sample)) in samples.into_iter().enumerate() {
            let n = sample.ids.len();
            batch.ids[i * t..i * t + n].copy_from_slice(&sample.ids);
            batch.labels[i * t..i * t + n].copy_from_slice(&sample.labels);
            batch.rows.push(name);
        }
        Ok(Some(batch))
    }

    fn position(&self) -> Value {
        json!(self.next)
    }
}

impl TextRun {
    /// Trains and writes the model's folder with its tokenizer; whether it came to the end.
    ///
    /// # Errors
    /// A full disk, a loss that is no number.
    pub fn train(&self, watch: &mut dyn Observer) -> Result<bool> {
        let pieces = vocabulary::train(self.run.vocabulary)?;
        let vocabulary: Arc<Vocabulary> = Arc::new(pieces.vocabulary()?);
        let template = Template::new(&self.template, vocabulary, false)?;
        let mut text = self.config.clone();
        text.vocab = pieces.len() as i64;
        let context = text.context as usize;
        let world = World::new(self.run.seed, Split::Train);
        let mut source = Spoken::new(world, template, self.run.batch, self.turns, context);
        tch::manual_seed(self.run.seed as i64);
        let mut model =
            Llava::init(LlavaConfig { text, vision: None, image_id: None }, Kind::Float, self.run.device);
        for unit in model.units_mut().skip(2) {
            let frozen = std::mem::replace(unit, crate::unit::Unit::frozen("", Vec::new()));
            *unit = frozen.trainable(Kind::Float, self.run.device, 1);
        }
        let engine = Engine::new(model, Box::new(Alone), self.run.options(), &groups)?;
        let mut trainer = Trainer::new(engine, self.run.plan());
        let done = run(&mut trainer, &mut source, |s, at| s.next = at, watch)?;
        if done {
            let tokenizer = tempfile::tempdir().map_err(Error::io("a temporary folder"))?;
            pieces.write(tokenizer.path())?;
            let saved = Saved { kind: Kind::Float, tokenizer: Some(tokenizer.path().into()), tower: false };
            save_llama(trainer.engine.stack(), &self.run.model(), &saved)?;
        }
        Ok(done)
    }
}
