//! A whole text model in both: a prompt of 512 tokens, and 16 tokens at depth 600. Only where `PUMICE_BENCH_MODEL` names a file.

use std::{env, path::Path};

use criterion::Throughput;
use pumice_kernels::{Cpu, DType};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
};

use super::llama;
use crate::{
    duel::{Bench, Item, Side},
    machine::{Machine, refuse},
};

/// Two programs that round differently at some hundred products one after the other; work that is wrong differs by more than all.
const DIFFER: f64 = 0.1;
/// Pairs of turns: a run takes seconds.
const PAIRS: usize = 5;

/// Both tests of the file that the environment names.
pub fn whole_model(bench: &mut Bench) {
    let Some(path) = env::var_os("PUMICE_BENCH_MODEL").filter(|_| bench.machine.timed) else { return };
    let path = Path::new(&path);
    let machine = bench.machine;
    for (name, work) in [
        ("model/pp512", Work { depth: 0, count: 512, each: 512 }),
        ("model/tg16_at_600", Work { depth: 600, count: 16, each: 1 }),
    ] {
        let item = Item {
            name: name.into(),
            work: Throughput::Elements(work.count as u64),
            differ: DIFFER,
            ours: Box::new(|| Box::new(Ours::open(&machine, path, work))),
            theirs: Box::new(|| {
                let open = |repack| Box::new(Theirs::open(&machine, path, work, repack)) as Box<dyn Side>;
                [true, false].map(open).into()
            }),
        };
        bench.long_item(item, PAIRS);
    }
}

/// `count` tokens at positions from `depth` on, `each` at once.
#[derive(Debug, Clone, Copy)]
struct Work {
    depth: usize,
    count: usize,
    each: usize,
}

impl Work {
    fn length(&self) -> usize {
        self.depth + self.count
    }

    /// Ids that every vocabulary of words has.
    fn tokens(&self) -> Vec<u32> {
        (0..self.length() as u32).map(|i| 3 + i * 7919 % 250).collect()
    }

    /// Calls `forward` with tokens and their first position, for all that is to be timed.
    fn run(&self, tokens: &[u32], mut forward: impl FnMut(&[u32], usize)) {
        for first in (self.depth..self.length()).step_by(self.each) {
            forward(&tokens[first..first + self.each], first);
        }
    }
}

struct Ours {
    cpu: Cpu,
    llama: Llama,
    tokens: Vec<u32>,
    work: Work,
}

impl Ours {
    fn open(machine: &Machine, path: &Path, work: Work) -> Self {
        let file = File::open(path).unwrap_or_else(|e| refuse(&format!("PUMICE_BENCH_MODEL: {e}")));
        let mut cpu = machine.cpu();
        let options = LlamaOptions { ctx: work.length(), cache_type: DType::F16, ..LlamaOptions::default() };
        let llama = Llama::load(&file, &mut cpu, &options)
            .unwrap_or_else(|e| refuse(&format!("PUMICE_BENCH_MODEL: {e}")));
        let mut ours = Self { cpu, llama, tokens: work.tokens(), work };
        if work.depth > 0 {
            forward(&mut ours.llama, &mut ours.cpu, &ours.tokens[..work.depth], 0);
        }
        ours
    }
}

fn forward(llama: &mut Llama, cpu: &mut Cpu, tokens: &[u32], first: usize) {
    let all = llama.forward(cpu, &[Input::Tokens(tokens)], first, Logits::Last, &mut |_, _| true);
    assert_eq!(all.expect("tokens that fit"), tokens.len());
}

impl Side for Ours {
    fn name(&self) -> String {
        "Pumice".into()
    }

    fn run(&mut self) {
        let Self { cpu, llama, tokens, work } = self;
        work.run(tokens, |tokens, first| forward(llama, cpu, tokens, first));
    }

    fn result(&mut self) -> Vec<f32> {
        let mut logits = vec![0.0; self.llama.config().vocab];
        self.llama.logits(&mut self.cpu, &mut logits).expect("logits");
        logits
    }
}

struct Theirs {
    llama: llama::Llama,
    how: &'static str,
    tokens: Vec<u32>,
    work: Work,
}

impl Theirs {
    fn open(machine: &Machine, path: &Path, work: Work, repack: bool) -> Self {
        let mut llama = llama::Llama::open(path, work.length(), machine.threads, repack);
        let tokens = work.tokens();
        if work.depth > 0 {
            llama.forward(&tokens[..work.depth], 0);
        }
        Self { llama, how: if repack { "" } else { ", --no-repack" }, tokens, work }
    }
}

impl Side for Theirs {
    fn name(&self) -> String {
        format!("llama.cpp{}", self.how)
    }

    fn run(&mut self) {
        let Self { llama, tokens, work, .. } = self;
        work.run(tokens, |tokens, first| llama.forward(tokens, first));
    }

    fn result(&mut self) -> Vec<f32> {
        self.llama.logits()
    }

    fn rest(&mut self) {
        self.llama.rest();
    }
}
