//! Contrastive pre-training of a vision tower on pictures of the demo world (`pumice-train clip`).
//!
//! Two contrasts at once. Whole pictures against captions, as CLIP (Radford et al., 2021): softmax over cosines · e^s both ways, each picture
//! also against one caption that is almost right. And patches against short phrases, as RegionCLIP (Zhong et al., 2022) and GLIP do with
//! boxes: a patch on a thing shall say "a fox" among all kinds and "at the top-left" among all places, any other "nothing". The second teaches in
//! minutes what the first would need many more pictures for: features that know what stands where.
//!
//! The engine sees one piece whose output is the loss itself, so a run saves, resumes and reports like any other.
//! Letters: `n` pictures, `p` patches, `c` tower width, `e` width of the shared space, `t` positions of a caption.

use std::sync::Arc;

use pumice_runtime::{
    pixels::{Aspect, Picture, Preprocess},
    vocab::Vocabulary,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::{
    Result,
    engine::{
        stack::{Piece, Stack},
        trainer::Source,
    },
    model::{clip, config::ClipConfig, llama::Targets},
    unit::Unit,
    world::{
        World, describe,
        draw::Painter,
        kinds::{KINDS, entry},
        scene::{Scene, Zone},
    },
};

/// Width of the space in which pictures, patches and texts meet.
const SPACE: i64 = 128;
/// Weight of a patch that shows nothing, against 1 of one that shows a thing: there are about eight times as many.
const EMPTY: f64 = 0.15;
/// A patch shows a thing where their centres differ by no more than this share of the thing's side, in x and y.
const INSIDE: f32 = 0.36;
/// Positions of the text tower.
const CONTEXT: i64 = 96;
/// One in so many pictures of a batch meets captions; all meet phrases. A caption costs as much as its picture.
const CAPTIONED: usize = 2;

/// Both towers and what joins them.
#[derive(Debug)]
pub struct Contrast {
    /// Vision tower.
    pub config: ClipConfig,
    text: ClipConfig,
    units: Vec<Unit>,
}

/// Places of the units.
const TOWER: usize = 0;
const TEXT: usize = 1;
const HEADS: usize = 2;

impl Contrast {
    /// A fresh tower of `config`, a text tower for a vocabulary of `pieces`, and projections.
    pub fn init(config: ClipConfig, pieces: i64, device: Device) -> Self {
        let place = (Kind::Float, device);
        let text = ClipConfig { layers: 2, ..config.clone() };
        let c = config.hidden;
        let normal = |shape: &[i64], deviation: f64| Tensor::randn(shape, place) * deviation;
        let blocks = clip::init(&text, Kind::Float, device);
        // The text tower is made of the same blocks as the vision tower, with words in place of patches.
        let mut words: Vec<(String, Tensor)> = blocks
            .slots
            .iter()
            .zip(blocks.leaves)
            .filter(|(slot, _)| slot.name.contains("encoder.") || slot.name.contains("post_layernorm"))
            .map(|(slot, leaf)| (slot.name.clone(), leaf))
            .collect();
        words.push(("token_embedding.weight".into(), normal(&[pieces, c], 0.02)));
        words.push(("position_embedding.weight".into(), normal(&[CONTEXT, c], 0.02)));
        let narrow = (c as f64).sqrt().recip();
        let heads = ["visual_projection", "patch_projection", "text_projection"]
            .map(|name| (format!("{name}.weight"), normal(&[SPACE, c], narrow)));
        let scales = [("logit_scale", 2.66), ("patch_scale", 2.66)]
            .map(|(name, value)| (name.to_string(), Tensor::full([1], value, place)));
        let mut tower = clip::init(&config, Kind::Float, device);
        for (slot, leaf) in tower.slots.iter().zip(&mut tower.leaves) {
            if slot.name.ends_with("position_embedding.weight") {
                *leaf = waves(&config, place);
            }
        }
        let units = vec![
            tower,
            Unit::frozen("text", words),
            Unit::frozen("heads", heads.into_iter().chain(scales).collect()),
        ];
        let units = units.into_iter().map(|u| u.trainable(Kind::Float, device, 1)).collect();
        Self { config, text, units }
    }

    /// The vision tower.
    pub fn tower(&self) -> &Unit {
        &self.units[TOWER]
    }

    /// Texts as unit vectors `[m, e]`, from ids `[m, t]` (padded with 0) and each text's last position `[m]`.
    fn embed(&self, texts: &Texts) -> Tensor {
        let unit = &self.units[TEXT];
        let t = texts.ids.size()[1];
        let words = Tensor::embedding(unit.get("token_embedding.weight"), &texts.ids, -1, false, false);
        let mut x = words + unit.get("position_embedding.weight").narrow(0, 0, t);
        for block in 0..self.text.layers {
            x = clip::block(unit, &self.text, &format!("encoder.layers.{block}"), &x, true);
        }
        // As CLIP: the row of the last word has seen the whole text.
        let size = x.size();
        let last = x.view([-1, size[2]]).index_select(0, &texts.last);
        let last = clip::norm(unit, &self.text, "post_layernorm", &last);
        self.meet("text_projection.weight", &last)
    }

    /// Rows `[…, c]` as unit vectors `[…, e]`.
    fn meet(&self, projection: &str, x: &Tensor) -> Tensor {
        let y = x.linear::<&Tensor>(self.units[HEADS].get(projection), None).to_kind(Kind::Float);
        let length = y.square().sum_dim_intlist([-1i64].as_slice(), true, Kind::Float).sqrt();
        y / length.clamp_min(1e-6)
    }

    fn scale(&self, name: &str) -> Tensor {
        // CLIP's ceiling of 100 keeps the softmax from hardening beyond what f32 resolves.
        self.units[HEADS].get(name).to_kind(Kind::Float).exp().clamp_max(100.0)
    }

    /// The vectors of the region phrases: kinds and "nothing" `[kinds + 1, e]`, places `[9, e]`.
    fn phrases(&self, input: &Input) -> (Tensor, Tensor) {
        let all = self.embed(&input.phrases);
        let kinds = KINDS.len() as i64 + 1;
        (all.narrow(0, 0, kinds), all.narrow(0, kinds, Zone::ALL.len() as i64))
    }

    /// Logits of each patch over kinds and places, `[n·p, kinds + 1]` and `[n·p, 9]`.
    fn regions(&self, input: &Input, patches: &Tensor) -> (Tensor, Tensor) {
        let (kinds, places) = self.phrases(input);
        let rows = self.meet("patch_projection.weight", &patches.flatten(0, 1)) * self.scale("patch_scale");
        (rows.matmul(&kinds.tr()), rows.matmul(&places.tr()))
    }

    /// Caption contrast + patch contrast, a scalar.
    fn contrast(&self, input: &Input) -> Tensor {
        let seen = clip::forward(&self.units[TOWER], &self.config, &input.images);
        let n = input.captions.last.size()[0] / 2;
        let pictures = self.meet("visual_projection.weight", &seen.pooled.narrow(0, 0, n));
        let logits = pictures.matmul(&self.embed(&input.captions).tr()) * self.scale("logit_scale");
        let right = Tensor::arange(n, (Kind::Int64, logits.device()));
        // Pictures against right and almost right captions; captions against pictures.
        let whole = (logits.cross_entropy_for_logits(&right)
            + logits.narrow(1, 0, n).tr().cross_entropy_for_logits(&right))
            * 0.5;
        let (kinds, places) = self.regions(input, &seen.patches);
        let nll = |logits: &Tensor, labels: &Tensor| {
            logits.log_softmax(-1, Kind::Float).gather(1, &labels.unsqueeze(1), false).squeeze_dim(1).neg()
        };
        let kind =
            (nll(&kinds, &input.kinds) * &input.weights).sum(Kind::Float) / input.weights.sum(Kind::Float);
        let thing = input.kinds.not_equal(KINDS.len() as i64).to_kind(Kind::Float);
        let place =
            (nll(&places, &input.places) * &thing).sum(Kind::Float) / thing.sum(Kind::Float).clamp_min(1.0);
        whole * 0.5 + kind + place * 0.5
    }

    /// Shares of the patches with things that are told right, by kind and by place, and of the pictures whose caption is found.
    pub fn judge(&self, batch: &Batch, device: Device) -> Result<[f64; 3]> {
        let _guard = tch::no_grad_guard();
        let kind = self.tower().leaves[0].kind();
        let input = self.prepare(batch, (kind, device))?;
        let seen = clip::forward(self.tower(), &self.config, &input.images);
        let (kinds, places) = self.regions(&input, &seen.patches);
        let thing = input.kinds.not_equal(KINDS.len() as i64);
        let share = |logits: &Tensor, labels: &Tensor| {
            let right = logits.argmax(-1, false).eq_tensor(labels).masked_select(&thing);
            right.to_kind(Kind::Float).mean(Kind::Float).double_value(&[])
        };
        let n = input.captions.last.size()[0] / 2;
        let pictures = self.meet("visual_projection.weight", &seen.pooled.narrow(0, 0, n));
        let found = pictures.matmul(&self.embed(&input.captions).tr()).argmax(-1, false);
        let found = found.eq_tensor(&Tensor::arange(n, (Kind::Int64, device)));
        Ok([
            share(&kinds, &input.kinds),
            share(&places, &input.places),
            found.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]),
        ])
    }
}

/// Positions to begin with, `[1 + p, c]`: sines and cosines of row and column (as MAE; He et al., 2022), as large as the patches beside them. From
/// CLIP's small noise a short training never learns where a patch is: after 1,800 steps places were still told by chance.
fn waves(cfg: &ClipConfig, place: (Kind, Device)) -> Tensor {
    let (across, c) = (cfg.image / cfg.patch, cfg.hidden);
    let quarter = c / 4;
    let mut rows = vec![0f32; c as usize];
    for patch in 0..cfg.patches() {
        for i in 0..c {
            // Four parts: sine and cosine of the row, sine and cosine of the column; wavelengths from 2π to 100·2π patches.
            let (part, n) = (i / quarter.max(1), i % quarter.max(1));
            let at = if part < 2 { patch / across } else { patch % across } as f64;
            let angle = at / 100f64.powf(n as f64 / quarter.max(1) as f64);
            rows.push((0.7 * if part % 2 == 0 { angle.sin() } else { angle.cos() }) as f32);
        }
    }
    Tensor::from_slice(&rows).view([1 + cfg.patches(), c]).to_device(place.1).to_kind(place.0)
}

/// Texts on the device.
#[derive(Debug)]
struct Texts {
    /// `[m, t]`.
    ids: Tensor,
    /// `[m]` indices of the last words into `[m·t]`.
    last: Tensor,
}

impl Texts {
    fn new(texts: &[Vec<i64>], device: Device) -> Self {
        let t = texts.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = vec![0i64; texts.len() * t];
        for (row, text) in ids.chunks_mut(t).zip(texts) {
            row[..text.len()].copy_from_slice(text);
        }
        let last: Vec<i64> = texts.iter().enumerate().map(|(i, x)| (i * t + x.len()) as i64 - 1).collect();
        let tensor = |v: &[i64]| Tensor::from_slice(v).to_device(device);
        Self { ids: tensor(&ids).view([texts.len() as i64, t as i64]), last: tensor(&last) }
    }
}

/// A batch of the world, on the host.
#[derive(Debug)]
pub struct Batch {
    /// `[n, 3, s, s]` normalised pixels.
    images: Vec<f32>,
    /// Right captions, then as many almost right ones.
    captions: Vec<Vec<i64>>,
    /// Phrases of kinds, "nothing", places.
    phrases: Arc<Vec<Vec<i64>>>,
    /// `[n·p]` the kind that a patch shows; `KINDS.len()` for nothing.
    kinds: Vec<i64>,
    /// `[n·p]` the zone of that thing.
    places: Vec<i64>,
    names: Vec<String>,
}

/// A batch on the device.
#[derive(Debug)]
pub struct Input {
    images: Tensor,
    captions: Texts,
    phrases: Texts,
    kinds: Tensor,
    places: Tensor,
    weights: Tensor,
    targets: Targets,
}

impl Stack for Contrast {
    type Batch = Batch;
    type Input = Input;

    fn count(&self) -> usize {
        self.units.len()
    }

    fn unit(&self, i: usize) -> &Unit {
        &self.units[i]
    }

    fn unit_mut(&mut self, i: usize) -> &mut Unit {
        &mut self.units[i]
    }

    fn layers(&self) -> usize {
        0
    }

    fn reads(&self, piece: Piece) -> Vec<usize> {
        if piece == Piece::Start { vec![TOWER, TEXT, HEADS] } else { Vec::new() }
    }

    fn prepare(&self, batch: &Batch, (kind, device): (Kind, Device)) -> Result<Input> {
        let s = self.config.image;
        let numbers = |v: &[i64]| Tensor::from_slice(v).to_device(device);
        let kinds = numbers(&batch.kinds);
        let empty = kinds.eq(KINDS.len() as i64).to_kind(Kind::Float);
        Ok(Input {
            images: Tensor::from_slice(&batch.images).view([-1, 3, s, s]).to_device(device).to_kind(kind),
            captions: Texts::new(&batch.captions, device),
            phrases: Texts::new(&batch.phrases, device),
            weights: empty * (EMPTY - 1.0) + 1.0,
            kinds,
            places: numbers(&batch.places),
            targets: Targets { rows: numbers(&[0]), ids: numbers(&[0]) },
        })
    }

    fn start(&self, input: &Input) -> Result<Tensor> {
        Ok(self.contrast(input).view([1, 1, 1]))
    }

    fn layer(&self, _: usize, x: &Tensor, _: &Input) -> Tensor {
        x.shallow_clone()
    }

    fn targets<'a>(&self, input: &'a Input) -> &'a Targets {
        &input.targets
    }

    fn loss(&self, x: &Tensor, _: &Tensor) -> Tensor {
        x.sum(Kind::Float)
    }

    fn rows<'a>(&self, batch: &'a Batch) -> &'a [String] {
        &batch.names
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.kinds.len()
    }
}

/// Pictures of the world with what is to be said of them, drawn as they are asked for.
pub struct Pictures {
    world: World,
    painter: Painter,
    vocabulary: Vocabulary,
    phrases: Arc<Vec<Vec<i64>>>,
    preprocess: Preprocess,
    patch: usize,
    size: usize,
    next: u64,
}

impl Pictures {
    /// Batches of `size` pictures from number `next` on; patches of `patch` pixels.
    pub fn new(world: World, painter: Painter, vocabulary: Vocabulary, patch: usize, size: usize) -> Self {
        let kinds = (0..KINDS.len()).map(|k| entry(k as u16)).map(|e| format!("{} {}", e.article(), e.name));
        let phrases: Vec<String> = kinds
            .chain(["nothing".into()])
            .chain(Zone::ALL.iter().map(|z| format!("at the {}", z.word())))
            .collect();
        let phrases = Arc::new(phrases.iter().map(|text| encode(&vocabulary, text)).collect());
        let preprocess = Preprocess::clip(painter.side(), Aspect::Pad);
        Self { world, painter, vocabulary, phrases, preprocess, patch, size, next: 0 }
    }

    /// Goes to picture number `next`.
    pub fn seek(&mut self, next: u64) {
        self.next = next;
    }

    /// The next batch.
    ///
    /// # Errors
    /// A picture cannot be made: our own mistake.
    pub fn batch(&mut self) -> Result<Batch> {
        let mut batch = Batch {
            images: Vec::new(),
            captions: Vec::new(),
            phrases: self.phrases.clone(),
            kinds: Vec::new(),
            places: Vec::new(),
            names: Vec::new(),
        };
        let mut wrong = Vec::new();
        for i in 0..self.size {
            let index = self.next;
            self.next += 1;
            let scene = self.world.scene(index);
            let side = self.painter.side() as u32;
            let picture = Picture::from_rgb("scene", side, side, self.painter.draw(&scene).into_raw())?;
            batch.images.extend(self.preprocess.apply(&picture));
            self.label(&scene, &mut batch);
            batch.names.push(format!("scene {index}"));
            if i < self.size / CAPTIONED {
                let mut rng = self.world.rng(index, 5);
                let captions = describe::captions(&scene);
                batch.captions.push(encode(&self.vocabulary, rng.pick::<String>(&captions)));
                let near = describe::negatives(&scene, &mut rng);
                let near = describe::captions(&rng.pick(&near[..]).1);
                wrong.push(encode(&self.vocabulary, rng.pick::<String>(&near)));
            }
        }
        batch.captions.append(&mut wrong);
        Ok(batch)
    }

    /// What each patch of a scene shows, and where that thing stands.
    fn label(&self, scene: &Scene, batch: &mut Batch) {
        let across = self.painter.side() / self.patch;
        let centre = |i: usize| (i as f32 + 0.5) / across as f32;
        for row in 0..across {
            for column in 0..across {
                let (x, y) = (centre(column), centre(row));
                let near = |t: &&crate::world::scene::Thing| {
                    let apart = (t.x - x).abs().max((t.y - y).abs());
                    // The patch that holds the centre always shows the thing.
                    apart <= (INSIDE * t.size).max(0.5 / across as f32)
                };
                let distance = |t: &crate::world::scene::Thing| (t.x - x).abs().max((t.y - y).abs());
                let thing =
                    scene.things.iter().filter(near).min_by(|a, b| distance(a).total_cmp(&distance(b)));
                batch.kinds.push(thing.map_or(KINDS.len() as i64, |t| t.kind.into()));
                batch.places.push(
                    thing.map_or(0, |t| {
                        Zone::ALL.iter().position(|z| *z == t.zone()).unwrap_or_default() as i64
                    }),
                );
            }
        }
    }
}

impl Source for Pictures {
    type Batch = Batch;

    fn next(&mut self) -> Result<Option<Batch>> {
        self.batch().map(Some)
    }

    fn position(&self) -> Value {
        json!(self.next)
    }
}

fn encode(vocabulary: &Vocabulary, text: &str) -> Vec<i64> {
    let mut ids: Vec<i64> = vocabulary.encode(text, false).into_iter().map(i64::from).collect();
    ids.truncate(CONTEXT as usize);
    ids
}
