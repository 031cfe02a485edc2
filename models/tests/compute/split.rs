//! A LLaMA on two devices: the logits of one, and no row moved that need not be.

use pumice_kernels::{Count, Cpu, CpuOptions, DType, Isa, Share, Split, count::Op};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    names,
};

use crate::tiny::{Random, Text};

/// A prompt, computed in batches of 8, then three tokens one by one.
const PROMPT: [u32; 13] = [1, 7, 39, 0, 12, 12, 5, 30, 22, 3, 18, 9, 2];
const TOKENS: [u32; 3] = [4, 4, 31];

fn cpu(isa: Isa) -> Cpu {
    Cpu::new(CpuOptions { threads: 2, isa: Some(isa) })
}

fn options() -> LlamaOptions {
    LlamaOptions { ctx: 48, cache_type: DType::F16, batch: 8, logit_rows: PROMPT.len() }
}

fn file(tied: bool) -> File {
    let mut m = Text::default().model();
    m.store(names::TOKEN_EMBD, DType::F16);
    m.store(&names::blk(1, names::ATTN_NORM), DType::F16).store(names::OUTPUT_NORM, DType::F16);
    if tied {
        m.remove(names::OUTPUT);
    }
    m.file("tiny.gguf")
}

/// Logits of every row of the prompt, of a picture's three rows, and of each token.
fn answer(b: &mut dyn pumice_kernels::Backend, file: &File) -> Vec<f32> {
    let mut llama = Llama::load(file, b, &options()).unwrap();
    let picture = Random(5).normal(3 * 32, 1.0);
    let (mut out, mut pos) = (Vec::new(), 0);
    let mut pass = |input: &[Input<'_>], wanted: Logits| {
        let n = llama.forward(b, input, pos, wanted, &mut |_, _| true).unwrap();
        pos += n;
        let rows = if wanted == Logits::All { n } else { 1 };
        let mut logits = vec![0.0; rows * 40];
        llama.logits(b, &mut logits).unwrap();
        out.extend(logits);
    };
    pass(&[Input::Tokens(&PROMPT)], Logits::All);
    pass(&[Input::Tokens(&[3]), Input::Rows(&picture), Input::Tokens(&[8, 9])], Logits::Last);
    for id in TOKENS {
        pass(&[Input::Tokens(&[id])], Logits::Last);
    }
    out
}

#[test]
fn logits_do_not_depend_on_where_layers_are() {
    for tied in [false, true] {
        let file = file(tied);
        for isa in [Isa::Scalar, Isa::best()] {
            let one = answer(&mut cpu(isa), &file);
            for layers in 0..=3 {
                let share = Share { layers, of: 3, tied };
                let two = answer(&mut Split::new(cpu(isa), cpu(isa), share), &file);
                assert!(one == two, "{layers} of 3 layers, {isa}, tied: {tied}");
            }
        }
        // Two devices that round differently: the sums of 32 to 48 products in f32, and the cache's halves, through 3 blocks.
        let one = answer(&mut cpu(Isa::Scalar), &file);
        for layers in 0..=3 {
            let share = Share { layers, of: 3, tied };
            let two = answer(&mut Split::new(cpu(Isa::Scalar), cpu(Isa::best()), share), &file);
            let (error, _) = pumice_kernels::checked::difference(&one, &two);
            assert!(error < 1e-6, "{layers} of 3 layers, tied: {tied}: {error:e}");
        }
    }
}

#[test]
fn a_token_crosses_each_border_with_one_row() {
    // Layers on A, tied; rows that B hands to A and A to B for a token.
    for (layers, tied, to_a, to_b) in [
        (0, false, 0, 0),
        (1, false, 1, 1),
        (2, false, 1, 1),
        // The table stays with B; the output goes to A, and its logits are read there.
        (3, false, 1, 0),
        (2, true, 1, 1),
        (3, true, 0, 0),
    ] {
        let share = Share { layers, of: 3, tied };
        let mut b = Split::new(Count::new(cpu(Isa::Scalar)), Count::new(cpu(Isa::Scalar)), share);
        let file = file(tied);
        let mut llama = Llama::load(&file, &mut b, &options()).unwrap();
        // The first pass moves what never changes: the rotary frequencies.
        for (pos, n) in [(0, 13), (13, 1), (14, 1), (15, 6)] {
            b.devices_mut().0.reset();
            b.devices_mut().1.reset();
            llama
                .forward(&mut b, &[Input::Tokens(&PROMPT[..n])], pos, Logits::Last, &mut |_, _| true)
                .unwrap();
            let rows = |work: pumice_kernels::count::Work| work.bytes / (4 * 32);
            let (a, host) = b.devices();
            let moved = (rows(host.of(Op::Read)), rows(a.of(Op::Read)));
            if pos > 0 {
                let n = n as u64;
                assert_eq!(moved, (to_a * n, to_b * n), "{layers} of 3 layers, tied: {tied}, {n} tokens");
                // Each in one piece.
                assert_eq!((host.of(Op::Read).calls, a.of(Op::Read).calls), (to_a, to_b));
            }
            let mut logits = vec![0.0; 40];
            llama.logits(&mut b, &mut logits).unwrap();
        }
    }
}
