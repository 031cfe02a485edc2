//! The memory plan: its sums by hand, and that what it suggests does fit.

use pumice_kernels::{DType, Share, Split};
use pumice_models::{
    config::LlamaConfig,
    llama::{Llama, LlamaOptions},
    names::{self, keys},
    plan::{Host, Placed, Plan, Tally, free_memory},
};

use crate::tiny::{Model, Sight, Text};

/// A text model whose cache outweighs the rest, and a mmproj for it.
fn models() -> (Model, Model) {
    let t = Text { hidden: 64, heads: 2, kv_heads: 2, head_dim: 32, ..Text::default() };
    let mut text = t.model();
    text.set(keys::CONTEXT_LENGTH, 4096u32);
    (text, Sight { width_out: 64, ..Sight::default() }.model())
}

fn plan(o: LlamaOptions) -> Plan {
    let (text, vision) = models();
    Plan::new(&text.file("text.gguf"), Some(&vision.file("mmproj.gguf")), &o).unwrap()
}

#[test]
fn sums() {
    let (text, vision) = models();
    let o = LlamaOptions { ctx: 1000, batch: 16, logit_rows: 2, cache_type: DType::F16 };
    let p = plan(o);
    let bytes = |m: &Model| 4 * m.weights.iter().map(|w| w.data.len() as u64).sum::<u64>();
    // The rotary frequencies are computed: 16 of f32.
    assert_eq!(p.text_weights, bytes(&text) + 64);
    assert_eq!(p.vision_weights, bytes(&vision));
    assert_eq!(p.cache, 3 * 2 * 1000 * 64 * 2);
    // x, h, q, k, v, attention; gate and up; ids and positions; logits; the largest of a row and their columns.
    assert_eq!(p.scratch, 16 * 4 * (6 * 64 + 2 * 48 + 2) + 2 * 40 * 4 + 2 * 40 * 4);
    // Patches; x, h, q, k, v, attention and the MLP; two layers of the projector.
    assert_eq!(p.vision_scratch, 4 * (9 * 48 + 10 * (6 * 16 + 24) + 2 * 9 * 64));
    assert_eq!(p.total(), p.text_weights + p.vision_weights + p.cache + p.scratch + p.vision_scratch);
    p.check(p.total()).unwrap();
    p.check(p.total() - 1).unwrap_err();
    // A block of 32 in 34 bytes instead of 64.
    assert_eq!(plan(LlamaOptions { cache_type: DType::Q8_0, ..o }).cache, p.cache / 64 * 34);
}

#[test]
fn the_models_own_context_is_the_default() {
    assert_eq!(plan(LlamaOptions::default()).ctx, 4096);
}

#[test]
fn suggestions_fit() {
    let o = LlamaOptions::default();
    let full = plan(o);
    let q8 = LlamaOptions { cache_type: DType::Q8_0, ..o };
    // Every free figure between "nothing fits" and "all fits", in steps that hit each kind of advice.
    let mut kinds = std::collections::BTreeSet::new();
    for free in (0..full.total()).step_by(10_007) {
        let message = full.check(free).unwrap_err().to_string();
        let Some((_, advice)) = message.split_once("; try ") else {
            assert!(message.contains("no setting makes it fit"), "{message}");
            kinds.insert("none");
            continue;
        };
        for flags in advice.split(" or ") {
            let words: Vec<&str> = flags.split(' ').collect();
            let (text, vision) = models();
            let (text, vision) = (text.file("text.gguf"), vision.file("mmproj.gguf"));
            let mut tried = if flags.contains("-ctk q8_0") { q8 } else { o };
            let vision = (!flags.contains("--no-mmproj")).then_some(&vision);
            if let Some(i) = words.iter().position(|w| *w == "-c") {
                tried.ctx = words[i + 1].parse().unwrap();
                // The longest that fits: one step more does not.
                let more = LlamaOptions { ctx: tried.ctx + 256, ..tried };
                assert!(Plan::new(&text, vision, &more).unwrap().check(free).is_err(), "{free}: {flags}");
            }
            Plan::new(&text, vision, &tried)
                .unwrap()
                .check(free)
                .unwrap_or_else(|e| panic!("{free}: {flags}: {e}"));
            kinds.insert(match words.as_slice() {
                ["-c", _] => "-c",
                ["-ctk", _] => "-ctk",
                ["-c", _, "-ctk", _] => "-c -ctk",
                ["--no-mmproj"] => "--no-mmproj",
                ["--no-mmproj", ..] => "--no-mmproj and more",
                other => panic!("{other:?}"),
            });
        }
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

#[test]
fn the_message_says_where_the_bytes_go() {
    let e = plan(LlamaOptions { batch: 512, ..LlamaOptions::default() })
        .check(2_500_000)
        .unwrap_err()
        .to_string();
    for part in ["needs 4.5 MB", "weights", "vision", "context of 4096 3.1 MB", "2.5 MB free", "try "] {
        assert!(e.contains(part), "{part:?} is missing in {e:?}");
    }
}

#[test]
fn this_machine_has_memory() {
    if cfg!(target_os = "linux") {
        let free = free_memory().unwrap();
        assert!(free > 1 << 20 && free < 1 << 50, "{free}");
    }
}

/// The plan by device is what a split backend asks its two devices for.
#[test]
fn a_split_asks_for_what_was_planned() {
    let (text, vision) = models();
    let mut tied = text.clone();
    tied.remove(names::OUTPUT);
    let mut halves = text.clone();
    halves.store(names::OUTPUT_NORM, DType::F16).store(&names::blk(1, names::FFN_NORM), DType::F16);
    let o = LlamaOptions { ctx: 100, batch: 16, ..LlamaOptions::default() };
    for (what, model) in [("plain", text), ("tied", tied), ("norms of 16 bits", halves)] {
        let file = model.file("text.gguf");
        let config = LlamaConfig::read(&file).unwrap();
        let plan = Plan::new(&file, Some(&vision.file("mmproj.gguf")), &o).unwrap();
        let sight = plan.vision_weights + plan.vision_scratch;
        for layers in 0..=config.blocks + 1 {
            let share = Share { layers, of: config.blocks, tied: config.tied };
            let mut split = Split::new(Tally::default(), Tally::default(), share);
            Llama::load(&file, &mut split, &o).unwrap();
            let (a, b) = split.devices();
            let (device, host) = (a.loaded + a.allocated, b.loaded + b.allocated);
            let placed = plan.placed(layers, false);
            assert_eq!(placed, Placed { device, host: host + sight }, "{what}, {layers} layers");
            assert_eq!(plan.placed(layers, true), Placed { device: device + sight, host });
            let twice = if layers > 0 { b.allocated.min(a.allocated) } else { 0 };
            assert!(placed.device + placed.host <= plan.total() + twice);
        }
    }
}

#[test]
fn layers_by_hand() {
    let (text, _) = models();
    let o = LlamaOptions { ctx: 1000, batch: 16, logit_rows: 2, cache_type: DType::F16 };
    let plan = Plan::new(&text.file("text.gguf"), None, &o).unwrap();
    // Four square matrices of 64, three of 64 by 48, two norms; keys and values of 1000 positions.
    let (weights, cache) = (4 * (4 * 64 * 64 + 3 * 64 * 48 + 2 * 64), 2 * 1000 * 64 * 2);
    assert_eq!(plan.layers, [weights; 3]);
    // Activations and 16 rotary frequencies.
    let both = plan.scratch + 64;
    assert_eq!(plan.placed(0, true), Placed { device: 0, host: plan.total() });
    assert_eq!(plan.placed(2, true).device, 2 * (weights + cache) + both);
    assert_eq!(plan.placed(2, true).host, plan.total() - 2 * (weights + cache));
    // The output: 40 words and a norm. The table stays.
    let all = plan.placed(3, true);
    assert_eq!(all.device, 3 * (weights + cache) + 4 * (41 * 64) + both);
    assert_eq!(all.host, 4 * 40 * 64 + both);
}

#[test]
fn as_many_layers_as_fit() {
    let t = Text { hidden: 64, heads: 2, kv_heads: 2, head_dim: 32, blocks: 9, ..Text::default() };
    let plan = Plan::new(&t.model().file("text.gguf"), None, &LlamaOptions::default()).unwrap();
    let needs = |layers: usize| {
        let device = plan.placed(layers, false).device;
        device + device / 32 + (64 << 20)
    };
    for layers in 0..=9 {
        for room in [needs(layers), needs(layers + 1) - 1].into_iter().filter(|_| layers < 9) {
            let mut asked = 0;
            let found = plan.layers_that_fit(false, Host::default(), &mut |bytes| {
                asked += 1;
                bytes <= room
            });
            assert_eq!(found, layers, "{room} bytes");
            assert!(asked <= 5, "{asked} questions");
        }
    }
    assert_eq!(plan.layers_that_fit(false, Host::default(), &mut |bytes| bytes <= needs(9)), 9);
    assert_eq!(plan.layers_that_fit(false, Host::default(), &mut |_| false), 0);
    // One memory for both: activations are there twice.
    let placed = plan.placed(9, false);
    let free = placed.device + placed.host;
    assert!(free > plan.total());
    for (free, unified, layers) in [(free, true, 9), (free - 1, true, 0), (free - 1, false, 9)] {
        let host = Host { free: Some(free), unified };
        assert_eq!(plan.layers_that_fit(false, host, &mut |_| true), layers, "{host:?}");
    }
}
