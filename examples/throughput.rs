//! Tokens per second of a model file: `cargo run --release --example throughput -- FILE [PROMPT] [GENERATE] [REPEATS] [THREADS]`.
//!
//! What llama-bench calls `pp512` and `tg32`: a prompt of 512 positions in one go, and 32 tokens one by one after it is
//! forgotten. Medians over the repeats.

use std::{env, error::Error, path::Path, time::Instant};

use pumice_kernels::{
    Timed,
    cpu::{Cpu, CpuOptions},
};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let path = args.first().ok_or("FILE is missing")?;
    let number = |i: usize, otherwise: usize| args.get(i).map_or(Ok(otherwise), |a| a.parse());
    let (prompt, generate, repeats) = (number(1, 512)?, number(2, 32)?, number(3, 3)?);

    let start = Instant::now();
    let file = File::open(Path::new(path))?;
    let cpu = Cpu::new(CpuOptions { threads: number(4, 0)?, isa: None });
    let mut cpu = Timed::new(cpu);
    let options = LlamaOptions { ctx: prompt.max(generate) + 1, ..LlamaOptions::default() };
    let mut llama = Llama::load(&file, &mut cpu, &options)?;
    println!("{path}: ready in {:.3} s", start.elapsed().as_secs_f64());

    let vocab = llama.config().vocab as u32;
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| (i * 7919 + 11) % vocab).collect();
    let mut go_on = |_, _| true;
    let (mut pp, mut tg) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        cpu.reset();
        let start = Instant::now();
        llama.forward(&mut cpu, &[Input::Tokens(&tokens)], 0, Logits::Last, &mut go_on)?;
        pp.push(prompt as f64 / start.elapsed().as_secs_f64());
        if env::var_os("PUMICE_TIMING").is_some() {
            println!("{cpu}");
        }
        cpu.reset();
        let start = Instant::now();
        for (i, token) in tokens.iter().cycle().take(generate).enumerate() {
            llama.forward(&mut cpu, &[Input::Tokens(&[*token])], i, Logits::Last, &mut go_on)?;
        }
        tg.push(generate as f64 / start.elapsed().as_secs_f64());
        if env::var_os("PUMICE_TIMING").is_some() {
            println!("{cpu}");
        }
    }
    println!("pp{prompt} {:.2} t/s, tg{generate} {:.2} t/s (median of {repeats})", median(pp), median(tg));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
