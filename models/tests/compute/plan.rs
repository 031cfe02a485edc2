//! The memory plan: its sums by hand, and that what it suggests does fit.

use pumice_kernels::DType;
use pumice_models::{
    llama::LlamaOptions,
    names::keys,
    plan::{Plan, free_memory},
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
    // x, h, q, k, v, attention; gate and up; ids and positions; logits.
    assert_eq!(p.scratch, 16 * 4 * (6 * 64 + 2 * 48 + 2) + 2 * 40 * 4);
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
