//! A tiny LLaVA and its batches, drawn by the hash that `golden/loss_curve.py` uses too.

use pumice_train::{
    data::Batch,
    engine::{Engine, Group, Options, ranks::Ranks},
    model::{ClipConfig, LlamaConfig, Llava, LlavaConfig, Projector, VisionConfig},
    unit::Unit,
};
use tch::{Device, Kind, Tensor};

const SIDE: usize = 28;
const PATCHES: usize = 4;
/// Micro-batches until they come again.
pub const BATCHES: usize = 8;

/// MurmurHash3's 32-bit finalizer.
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// `n` numbers for a name.
fn draw(name: &str, n: usize) -> Vec<u32> {
    let fnv = name.bytes().fold(0x811c_9dc5u32, |h, c| (h ^ u32::from(c)).wrapping_mul(0x0100_0193));
    let start = fnv.wrapping_mul(2_654_435_761);
    (1..=n as u32).map(|i| mix(start.wrapping_add(i))).collect()
}

/// `n` numbers evenly over [-1, 1).
fn even(name: &str, n: usize) -> Vec<f32> {
    draw(name, n).into_iter().map(|x| (f64::from(x) / 2_147_483_648.0 - 1.0) as f32).collect()
}

/// Which units learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    Align,
    Tune,
}

/// The tiny model, its trainable units in f32 and divided for `ranks`, its frozen ones in `kind`.
pub fn model(stage: Stage, kind: Kind, tied: bool, ranks: i64) -> Llava {
    let mut text = LlamaConfig::new(97, 64, 96, 2, 4, 64);
    (text.kv_heads, text.tied) = (2, tied);
    let clip = ClipConfig::new(SIDE as i64, 14, 32, 48, 2, 2);
    let vision = Some(VisionConfig::new(clip, Projector::Mlp(2), false));
    let mut model = Llava::init(LlavaConfig { text, vision, image_id: None }, Kind::Float, Device::Cpu);
    for unit in model.units_mut() {
        let fill = |(slot, leaf): (&pumice_train::unit::Slot, &Tensor)| {
            let (size, n) = (leaf.size(), slot.numel() as usize);
            let scale = if size.len() == 1 { 0.1 } else { (3.0 / (n as f64 / size[0] as f64)).sqrt() as f32 };
            let norm = size.len() == 1 && slot.name.contains("norm") && slot.name.ends_with("weight");
            let values: Vec<f32> =
                even(&slot.name, n).into_iter().map(|v| v * scale + f32::from(u8::from(norm))).collect();
            (slot.name.clone(), Tensor::from_slice(&values).view(size.as_slice()))
        };
        let tensors: Vec<_> = unit.slots.iter().zip(&unit.leaves).map(fill).collect();
        let learns = match unit.name.as_str() {
            "clip" => false,
            "projector" => true,
            _ => stage == Stage::Tune,
        };
        let kind = if learns || unit.name == "clip" { Kind::Float } else { kind };
        let tensors = tensors.into_iter().map(|(name, t)| (name, t.to_kind(kind))).collect();
        let name = unit.name.clone();
        let plain = Unit::frozen(&name, tensors);
        *unit = if learns { plain.trainable(Kind::Float, Device::Cpu, ranks) } else { plain };
    }
    model
}

/// Micro-batch `k`.
pub fn batch(k: usize) -> Batch {
    let mut rows = Vec::new();
    let mut batch = Batch { b: 3, size: SIDE, ..Batch::default() };
    for r in 0..batch.b {
        let a = draw(&format!("row {k} {r}"), 3);
        let (n, seen, first) =
            (12 + a[0] as usize % 12, k % BATCHES != 3 && !a[1].is_multiple_of(4), 1 + a[2] as usize % 4);
        let mut ids: Vec<i64> =
            draw(&format!("ids {k} {r}"), n).into_iter().map(|v| 2 + i64::from(v % 90)).collect();
        let mut labels: Vec<i64> =
            ids.iter().enumerate().map(|(i, id)| if i < 8 { -100 } else { *id }).collect();
        if seen {
            ids.splice(first..first, [0; PATCHES]);
            labels.splice(first..first, [-100; PATCHES]);
            batch.images.extend(even(&format!("picture {k} {r}"), 3 * SIDE * SIDE));
            batch.places.push((r, first));
        }
        batch.t = batch.t.max(ids.len());
        batch.rows.push(format!("row {k} {r}"));
        rows.push((ids, labels));
    }
    for (mut ids, mut labels) in rows {
        ids.resize(batch.t, 0);
        labels.resize(batch.t, -100);
        batch.ids.extend(ids);
        batch.labels.extend(labels);
    }
    batch
}

/// The groups of the golden curve: the projector at half the rate in stage 2, decay 0.05 on matrices.
pub fn groups(stage: Stage) -> impl Fn(&str) -> Group {
    move |name| Group::of(name, if stage == Stage::Tune { 0.5 } else { 1.0 }, 0.05)
}

/// f32, two micro-batches a step, no checkpoints, tiny chunks.
pub fn options() -> Options {
    Options { kind: Kind::Float, accumulate: 2, checkpoint: false, chunk: 7, ..Options::default() }
}

/// An engine over [`model`].
pub fn engine(stage: Stage, tied: bool, ranks: Box<dyn Ranks>, options: Options) -> Engine<Llava> {
    tch::set_num_threads(1);
    let model = model(stage, options.kind, tied, ranks.size() as i64);
    Engine::new(model, ranks, options, &groups(stage)).unwrap()
}

/// All trainable weights in one row of f32.
pub fn weights(engine: &Engine<Llava>) -> Vec<f32> {
    let mut all = Vec::new();
    engine
        .export(&mut |_, tensor| {
            all.extend(Vec::<f32>::try_from(tensor.flatten(0, -1))?);
            Ok(())
        })
        .unwrap();
    all
}
