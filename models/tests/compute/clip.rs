//! CLIP and the projector against the naive ones, in today's layout and in that of 2023.

use pumice_kernels::{
    DType,
    cpu::{Cpu, CpuOptions},
};
use pumice_models::{
    names::{self, keys},
    vision::Vision,
};

use crate::{
    naive::{self, Round},
    tiny::{Model, Random, Sight},
};

fn encode(m: &Model, pixels: &[f32]) -> Vec<f32> {
    let mut b = Cpu::new(CpuOptions { threads: 2, isa: None });
    let vision = Vision::load(&m.file("tiny.gguf"), &mut b).unwrap();
    let first = vision.encode(&mut b, pixels).unwrap();
    // Activations are used again and must not remember.
    vision.encode(&mut b, &vec![3.0; pixels.len()]).unwrap();
    assert_eq!(vision.encode(&mut b, pixels).unwrap(), first);
    first
}

/// What LLaVA computes: the stream after `blocks` blocks without the class row, projected.
#[derive(Clone, Copy)]
struct Wanted {
    blocks: usize,
    class: bool,
    erf: bool,
}

fn naive_rows(m: &Model, s: Sight, w: Wanted, round: Round) -> Vec<Vec<f64>> {
    let stream = naive::clip(m, (s.image, s.patch), s.heads, w.blocks, w.erf, &s.picture(), round);
    naive::project(m, s.layers, &stream[usize::from(!w.class)..], round)
}

/// `m` is the file; `plain` the same weights in today's naming.
#[track_caller]
fn assert_as_naive(what: &str, m: &Model, plain: &Model, s: Sight, w: Wanted) {
    let (exact, rounded) = (naive_rows(plain, s, w, Round::Exact), naive_rows(plain, s, w, Round::F32));
    naive::assert_near(what, &encode(m, &s.picture()), &exact, &rounded);
}

const LLAVA: Wanted = Wanted { blocks: 3, class: false, erf: false };

#[test]
fn todays_layout() {
    let s = Sight::default();
    let m = s.model();
    assert_as_naive("mlp2x_gelu", &m, &m, s, LLAVA);
}

#[test]
fn other_projectors() {
    for layers in [1, 3] {
        let s = Sight { layers, ..Sight::default() };
        let m = s.model();
        assert_as_naive(&format!("{layers} layers"), &m, &m, s, LLAVA);
    }
    let s = Sight { layers: 0, ..Sight::default() };
    let mut m = s.model();
    m.set(keys::PROJECTOR_TYPE, "identity");
    assert_as_naive("identity", &m, &m, s, LLAVA);
}

#[test]
fn which_block_gives_the_feature() {
    let s = Sight::default();
    let plain = s.model();
    let run = |what: &str, blocks: usize, edit: &dyn Fn(&mut Model)| {
        let mut m = plain.clone();
        edit(&mut m);
        assert_as_naive(what, &m, &plain, s, Wanted { blocks, ..LLAVA });
    };
    run("named", 2, &|m| _ = m.set(keys::FEATURE_LAYER, vec![2i32]));
    run("the input of the first block", 0, &|m| _ = m.set(keys::FEATURE_LAYER, vec![0i32]));
    run("today's converters store one more", 2, &|m| _ = m.unset(keys::FEATURE_LAYER));
    run("those of 2023 store what is to be run", 3, &|m| _ = m.unset(keys::FEATURE_LAYER).unset(keys::TYPE));
    // A block that is not run need not be there.
    run("the last block is missing", 2, &|m| {
        m.weights.retain(|w| !w.name.starts_with("v.blk.2."));
        m.set(keys::FEATURE_LAYER, vec![2i32]);
    });
}

#[test]
fn the_class_row_stays_where_the_file_says_so() {
    let s = Sight::default();
    let mut m = s.model();
    m.set(keys::SELECT_FEATURE, "cls_patch");
    assert_as_naive("cls_patch", &m, &m, s, Wanted { class: true, ..LLAVA });
}

#[test]
fn activation() {
    let s = Sight::default();
    let mut m = s.model();
    m.set(keys::USE_GELU, true);
    assert_as_naive("gelu", &m, &m, s, Wanted { erf: true, ..LLAVA });
}

#[test]
fn the_norm_after_the_last_block_is_ignored() {
    let s = Sight::default();
    let plain = s.model();
    let mut m = plain.clone();
    m.add(names::V_POST_LN, &[16], Random(5).norm(16)).add("v.post_ln.bias", &[16], vec![1.0; 16]);
    assert_as_naive("with v.post_ln", &m, &plain, s, LLAVA);
}

/// Rewrites a model of today's layout to that of 2023: the MLP's names swapped, no type of file or projector, f16
/// wherever a weight has two dimensions or four, and a linear projector under its old name.
fn legacy(m: &Model, s: Sight) -> Model {
    let mut old = m.clone();
    old.unset(keys::TYPE).unset(keys::CLIP_PROJECTOR_TYPE).unset(keys::FEATURE_LAYER);
    old.set(keys::HAS_LLAVA_PROJECTOR, true);
    for name in (0..s.blocks).flat_map(|i| [names::v_blk(i, ""), names::v_blk_bias(i, "")]) {
        let (up, down) = (name.replace("..", ".ffn_up."), name.replace("..", ".ffn_down."));
        old.rename(&up, "spare").rename(&down, &up).rename("spare", &down);
    }
    if s.layers == 1 {
        old.rename(&names::mm(0), names::MM_LINEAR).rename(&names::mm_bias(0), names::MM_LINEAR_BIAS);
    }
    old
}

#[test]
fn the_layout_of_2023_gives_the_same_features() {
    for layers in [1, 2] {
        let s = Sight { layers, ..Sight::default() };
        let mut today = s.model();
        let matrices: Vec<String> =
            today.weights.iter().filter(|w| w.dims.len() > 1).map(|w| w.name.clone()).collect();
        for name in &matrices {
            today.store(name, DType::F16);
        }
        let old = legacy(&today, s);
        assert!(old.weight("v.blk.1.ffn_down.weight").dims == [16, 24], "fc1 is named ffn_down there");
        assert_as_naive("2023", &old, &today, s, LLAVA);
        assert_eq!(encode(&old, &s.picture()), encode(&today, &s.picture()));
    }
}

#[test]
fn a_class_embedding_with_suffix_and_a_flat_convolution_load_too() {
    let s = Sight::default();
    let plain = s.model();
    let mut m = plain.clone();
    m.rename(names::V_CLASS_EMBD, "v.class_embd.weight");
    m.weight_mut(names::V_PATCH_EMBD).dims = vec![48, 16];
    assert_eq!(encode(&m, &s.picture()), encode(&plain, &s.picture()));
}
