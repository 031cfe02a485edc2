//! `cargo bench`: one token and many through every weight type, attention, a block of CLIP, opening a file.
//!
//! With `--features peer` each item is also done by ggml in this process, on the same bytes and as many threads, in turns with Pumice: their
//! results are compared first, then the ratio of times is printed. Names filter as in every criterion bench: `cargo bench -- matmul/Q4_K`.
//! Variables: `PUMICE_BENCH_THREADS` (else the physical cores), `PUMICE_BENCH_ISA` (`avx2` …), and with the peer
//! `PUMICE_BENCH_MODEL`, a text GGUF whose prompt and answer are timed in Pumice and llama.cpp, whatever names are given. Without `--bench`, as in `cargo test`, all is run
//! once and small, and nothing is timed.

#![deny(unsafe_code)]

mod attention;
mod clip;
mod duel;
mod machine;
mod open;
#[cfg(feature = "peer")]
mod peer;
#[cfg(not(feature = "peer"))]
#[path = "no_peer.rs"]
mod peer;
mod product;

use std::time::Duration;

use criterion::Criterion;
use duel::Bench;
use machine::Machine;

fn main() {
    let machine = Machine::here();
    // Test runners ask for names of tests: there are none.
    if std::env::args().any(|a| a == "--list") && !machine.timed {
        return;
    }
    let mut bench = Bench::new(machine, criterion);
    println!("{}", machine.name());
    if let Some(peer) = peer::about() {
        println!("beside {peer}");
    }
    product::one_token(&mut bench);
    product::many_tokens(&mut bench);
    attention::all(&mut bench);
    clip::block(&mut bench);
    open::header(&mut bench);
    peer::whole_model(&mut bench);
    bench.finish();
}

/// Criterion as the command line wants it.
fn criterion() -> Criterion {
    // Ten samples and half a second an item: the whole list is to take minutes, and the machine's own noise is larger.
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .nresamples(2000)
        .without_plots()
        .configure_from_args()
}
