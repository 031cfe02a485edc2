//! LLaMA's forward pass against the naive one, and against itself when the same rows come in other pieces.

use pumice_kernels::{
    DType,
    cpu::{Cpu, CpuOptions},
};
use pumice_models::{
    Error,
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    names::{self, keys},
};

use crate::{
    naive::{self, Heads, Round},
    tiny::{Model, Random, Text},
};

const IDS: [u32; 13] = [1, 7, 39, 0, 12, 12, 5, 30, 22, 3, 18, 9, 2];

fn options() -> LlamaOptions {
    LlamaOptions { ctx: 48, cache_type: DType::F32, batch: 32, logit_rows: IDS.len() }
}

fn open(file: &File, o: LlamaOptions) -> (Cpu, Llama) {
    let mut b = Cpu::new(CpuOptions { threads: 2, isa: None });
    let llama = Llama::load(file, &mut b, &o).unwrap();
    (b, llama)
}

/// Computes `input` at `pos` and reads the logits that were wanted.
fn run(b: &mut Cpu, llama: &mut Llama, input: &[Input<'_>], pos: usize, logits: Logits) -> Vec<f32> {
    let n = llama.forward(b, input, pos, logits, &mut |_, _| true).unwrap();
    let rows = match logits {
        Logits::None => return Vec::new(),
        Logits::Last => 1,
        Logits::All => n,
    };
    let mut out = vec![0.0; rows * llama.config().vocab];
    llama.logits(b, &mut out).unwrap();
    out
}

/// Logits of all of `IDS`, computed at once.
fn at_once(m: &Model, o: LlamaOptions) -> Vec<f32> {
    let (mut b, mut llama) = open(&m.file("tiny.gguf"), o);
    run(&mut b, &mut llama, &[Input::Tokens(&IDS)], 0, Logits::All)
}

fn exact(m: &Model, t: Text, heads: Heads, round: Round) -> Vec<Vec<f64>> {
    naive::llama(m, t.blocks, heads, &naive::embed(m, &IDS, t.hidden), round)
}

#[track_caller]
fn assert_as_naive(what: &str, m: &Model, t: Text, heads: Heads) {
    let (exact, rounded) = (exact(m, t, heads, Round::Exact), exact(m, t, heads, Round::F32));
    naive::assert_near(what, &at_once(m, options()), &exact, &rounded);
}

#[test]
fn plain() {
    let t = Text::default();
    assert_as_naive("multi-head", &t.model(), t, Heads::new(4, 4, 8));
}

#[test]
fn grouped_queries_and_heads_that_do_not_make_up_the_stream() {
    let t = Text { heads: 6, kv_heads: 2, head_dim: 10, ..Text::default() };
    assert_as_naive("grouped", &t.model(), t, Heads::new(6, 2, 10));
}

#[test]
fn tied_output() {
    let t = Text::default();
    let mut m = t.model();
    m.remove(names::OUTPUT);
    assert_as_naive("tied", &m, t, Heads::new(4, 4, 8));
}

#[test]
fn biases_where_the_file_has_them() {
    let t = Text::default();
    let (mut m, mut r) = (t.model(), Random(3));
    for part in [names::ATTN_Q, names::ATTN_K, names::ATTN_V, names::ATTN_OUTPUT, names::FFN_DOWN] {
        m.add(&names::blk_bias(1, part), &[32], r.normal(32, 0.5));
    }
    m.add(&names::blk_bias(0, names::FFN_UP), &[48], r.normal(48, 0.5));
    m.add(&names::blk_bias(2, names::FFN_GATE), &[48], r.normal(48, 0.5));
    assert_as_naive("biases", &m, t, Heads::new(4, 4, 8));
}

#[test]
fn rotary_variants() {
    let t = Text::default();
    let plain = Heads::new(4, 4, 8);
    let with = |set: &dyn Fn(&mut Model)| {
        let mut m = t.model();
        set(&mut m);
        m
    };
    let base = with(&|m| _ = m.set(keys::ROPE_BASE, 500_000.0f32));
    assert_as_naive("base", &base, t, Heads { base: 500_000.0, ..plain });
    let part = with(&|m| _ = m.set(keys::ROPE_DIMS, 4u32));
    assert_as_naive("half a head turns", &part, t, Heads { rotate: 4, ..plain });
    let linear =
        with(&|m| _ = m.set(keys::ROPE_SCALING_TYPE, "linear").set(keys::ROPE_SCALING_FACTOR, 4.0f32));
    assert_as_naive("linear scaling", &linear, t, Heads { stretch: 4.0, ..plain });
    let legacy = with(&|m| _ = m.set(keys::ROPE_SCALE_LINEAR, 2.0f32));
    assert_as_naive("linear scaling of 2023", &legacy, t, Heads { stretch: 2.0, ..plain });
    let none = with(&|m| _ = m.set(keys::ROPE_SCALING_TYPE, "none").set(keys::ROPE_SCALING_FACTOR, 4.0f32));
    assert_as_naive("scaling switched off", &none, t, plain);
    let llama3 = with(&|m| _ = m.add(names::ROPE_FREQS, &[4], vec![1.0, 1.0, 3.5, 8.0]));
    assert_as_naive("Llama 3", &llama3, t, plain);
}

#[test]
fn norms_stored_as_f16_are_converted() {
    let t = Text::default();
    let mut m = t.model();
    m.store(names::OUTPUT_NORM, DType::F16).store(&names::blk(1, names::FFN_NORM), DType::F16);
    m.store(&names::blk(1, names::ATTN_Q), DType::F16).store(names::TOKEN_EMBD, DType::F16);
    assert_as_naive("f16 norms", &m, t, Heads::new(4, 4, 8));
}

#[test]
fn grouped_queries_are_repeated_key_heads() {
    let t = Text { kv_heads: 2, ..Text::default() };
    let grouped = t.model();
    let mut repeated = grouped.clone();
    repeated.set(keys::HEAD_COUNT_KV, 4u32);
    for (i, part) in (0..t.blocks).flat_map(|i| [(i, names::ATTN_K), (i, names::ATTN_V)]) {
        let w = repeated.weight_mut(&names::blk(i, part));
        w.data = w.data.chunks(8 * 32).flat_map(|head| [head, head].concat()).collect();
        w.dims = vec![32, 32];
    }
    let (a, b) = (at_once(&grouped, options()), at_once(&repeated, options()));
    let heads = Heads::new(4, 2, 8);
    let exact_rows = exact(&grouped, t, heads, Round::Exact);
    let rounded = exact(&grouped, t, heads, Round::F32);
    naive::assert_near("grouped", &a, &exact_rows, &rounded);
    naive::assert_near("repeated", &b, &exact_rows, &rounded);
}

#[test]
fn batches_and_single_tokens_give_what_one_pass_gives() {
    let t = Text { kv_heads: 2, ..Text::default() };
    let (m, heads) = (t.model(), Heads::new(4, 2, 8));
    let file = m.file("tiny.gguf");
    let (exact, rounded) = (exact(&m, t, heads, Round::Exact), exact(&m, t, heads, Round::F32));
    for batch in [1, 4, 5, 12, 13] {
        let got = at_once(&m, LlamaOptions { batch, ..options() });
        naive::assert_near(&format!("batches of {batch}"), &got, &exact, &rounded);
    }
    let (mut b, mut llama) = open(&file, options());
    let mut got = Vec::new();
    for (pos, id) in IDS.iter().enumerate() {
        got.extend(run(&mut b, &mut llama, &[Input::Tokens(&[*id])], pos, Logits::Last));
    }
    naive::assert_near("token by token", &got, &exact, &rounded);
}

#[test]
fn the_last_row_is_computed_alone_and_is_the_same() {
    let t = Text::default();
    let m = t.model();
    let all = exact(&m, t, Heads::new(4, 4, 8), Round::Exact);
    let rounded = exact(&m, t, Heads::new(4, 4, 8), Round::F32);
    for batch in [5, 13] {
        let (mut b, mut llama) =
            open(&m.file("tiny.gguf"), LlamaOptions { batch, logit_rows: 1, ..options() });
        let got = run(&mut b, &mut llama, &[Input::Tokens(&IDS)], 0, Logits::Last);
        naive::assert_near("last", &got, &all[12..], &rounded[12..]);
        // Without logits the cache is filled all the same.
        run(&mut b, &mut llama, &[Input::Tokens(&IDS[..12])], 0, Logits::None);
        let got = run(&mut b, &mut llama, &[Input::Tokens(&IDS[12..])], 12, Logits::Last);
        naive::assert_near("after a pass without logits", &got, &all[12..], &rounded[12..]);
    }
}

#[test]
fn rows_and_tokens_mix_across_batches() {
    let t = Text::default();
    let m = t.model();
    // A "picture": rows that no token has.
    let picture = Random(9).normal(6 * t.hidden, 1.0);
    let mut embeddings = naive::embed(&m, &IDS[..4], t.hidden);
    embeddings.extend(picture.chunks(t.hidden).map(|r| r.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()));
    embeddings.extend(naive::embed(&m, &IDS[4..], t.hidden));
    let heads = Heads::new(4, 4, 8);
    let exact = naive::llama(&m, t.blocks, heads, &embeddings, Round::Exact);
    let rounded = naive::llama(&m, t.blocks, heads, &embeddings, Round::F32);
    let runs =
        [Input::Tokens(&IDS[..4]), Input::Rows(&picture), Input::Tokens(&[]), Input::Tokens(&IDS[4..])];
    for batch in [3, 4, 7, 32] {
        let o = LlamaOptions { batch, logit_rows: 19, ..options() };
        let (mut b, mut llama) = open(&m.file("tiny.gguf"), o);
        let got = run(&mut b, &mut llama, &runs, 0, Logits::All);
        naive::assert_near(&format!("batches of {batch}"), &got, &exact, &rounded);
    }
}

#[test]
fn the_cache_is_cut_by_writing_at_a_lower_position() {
    let m = Text::default().model();
    let (mut b, mut llama) = open(&m.file("tiny.gguf"), options());
    run(&mut b, &mut llama, &[Input::Tokens(&[4, 4, 4, 4, 4, 4, 4, 4])], 0, Logits::None);
    run(&mut b, &mut llama, &[Input::Tokens(&IDS[..3])], 0, Logits::None);
    let reused = run(&mut b, &mut llama, &[Input::Tokens(&IDS[3..])], 3, Logits::Last);
    assert_eq!(llama.rows_computed(), 8 + 13);
    let (mut b, mut llama) = open(&m.file("tiny.gguf"), options());
    run(&mut b, &mut llama, &[Input::Tokens(&IDS[..3])], 0, Logits::None);
    let fresh = run(&mut b, &mut llama, &[Input::Tokens(&IDS[3..])], 3, Logits::Last);
    assert_eq!(reused, fresh);
}

#[test]
fn cache_types_lose_what_their_rounding_loses() {
    let t = Text { hidden: 64, heads: 2, kv_heads: 2, head_dim: 32, ..Text::default() };
    let (m, heads) = (t.model(), Heads::new(2, 2, 32));
    let exact_rows = exact(&m, t, heads, Round::Exact);
    let of = |cache_type| at_once(&m, LlamaOptions { cache_type, ..options() });
    let (f16, q8) = (exact(&m, t, heads, Round::CacheF16), exact(&m, t, heads, Round::CacheQ8));
    naive::assert_near("f16", &of(DType::F16), &exact_rows, &f16);
    naive::assert_near("q8_0", &of(DType::Q8_0), &exact_rows, &q8);
    // The types really differ: f16 is at least ten times nearer, and neither is f32.
    let lost = |got: Vec<f32>| {
        let got: Vec<Vec<f64>> = got.chunks(t.vocab).map(|r| r.iter().map(|&x| x.into()).collect()).collect();
        naive::distance(&got, &exact_rows)
    };
    let (f32, f16, q8) = (lost(of(DType::F32)), lost(of(DType::F16)), lost(of(DType::Q8_0)));
    assert!(10.0 * f32 < f16 && 10.0 * f16 < q8, "{f32:e} {f16:e} {q8:e}");
}

#[test]
fn progress_counts_rows_and_stops() {
    let m = Text::default().model();
    let file = m.file("tiny.gguf");
    let (mut b, mut llama) = open(&file, LlamaOptions { batch: 5, ..options() });
    let mut seen = Vec::new();
    let n = llama.forward(&mut b, &[Input::Tokens(&IDS)], 0, Logits::Last, &mut |done, all| {
        seen.push((done, all));
        true
    });
    assert_eq!(n.unwrap(), 13);
    assert_eq!(seen, [1, 3, 5, 6, 8, 10, 11, 12, 13].map(|done| (done, 13)));
    let mut whole = vec![0.0; 40];
    llama.logits(&mut b, &mut whole).unwrap();

    // Stopped within the second batch: five rows are whole, and going on from there gives the same answer.
    let (mut b, mut llama) = open(&file, LlamaOptions { batch: 5, ..options() });
    let done =
        llama.forward(&mut b, &[Input::Tokens(&IDS)], 0, Logits::Last, &mut |done, _| done < 8).unwrap();
    assert_eq!((done, llama.rows_computed()), (5, 5));
    assert_eq!(run(&mut b, &mut llama, &[Input::Tokens(&IDS[5..])], 5, Logits::Last), whole);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_computed() {
    let m = Text::default().model();
    let (mut b, mut llama) = open(&m.file("tiny.gguf"), LlamaOptions { ctx: 8, logit_rows: 2, ..options() });
    let mut try_at = |ids: &[u32], pos, logits| {
        llama.forward(&mut b, &[Input::Tokens(ids)], pos, logits, &mut |_, _| true).unwrap_err()
    };
    assert!(matches!(try_at(&IDS[..5], 4, Logits::None), Error::ContextFull { pos: 4, rows: 5, ctx: 8 }));
    assert!(matches!(try_at(&IDS[..5], usize::MAX, Logits::None), Error::ContextFull { .. }));
    assert!(matches!(try_at(&[3, 40], 0, Logits::None), Error::NoSuchToken { id: 40, vocab: 40 }));
    assert!(matches!(try_at(&IDS[..3], 0, Logits::All), Error::TooManyLogits { rows: 3, planned: 2 }));
    assert_eq!(llama.rows_computed(), 0);

    let mut b = Cpu::new(CpuOptions::default());
    for cache_type in [DType::Q8_0, DType::Q4_0] {
        let o = LlamaOptions { cache_type, ..options() };
        let e = Llama::load(&m.file("tiny.gguf"), &mut b, &o).unwrap_err();
        assert!(matches!(e, Error::CacheType { head_dim: 8, .. }), "{e}");
    }
}
