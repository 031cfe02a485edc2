//! How fast rows are indexed and batches are made:  load DATA.json IMAGES VOCABULARY.gguf SIZE THREADS
//!
//! A step waits for its batch, so a machine's threads must decode faster than its device learns; this tells how many.

use pumice_runtime::{Preprocess, Vocabulary, pixels::Aspect};
use pumice_train::data::{ImagePosition, Loader, Position, Report, Rows, Settings, Shape, Template};
use std::{sync::Arc, time::Instant};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, images, vocabulary, size, threads] = &args[..] else {
        anyhow::bail!("load DATA.json IMAGES VOCABULARY.gguf SIZE THREADS")
    };
    let (size, threads): (usize, usize) = (size.parse()?, threads.parse()?);
    let start = Instant::now();
    let mut report = Report::default();
    let rows = Arc::new(Rows::open(&[data.into()], &mut report)?);
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = std::fs::metadata(data)?.len() as f64 / 1e6;
    println!("{} rows indexed in {seconds:.2} s ({:.0} MB/s)", rows.len(), megabytes / seconds);

    let file = pumice_models::gguf::File::open(vocabulary.as_ref())?;
    let template = Template::new("v1", Arc::new(Vocabulary::from_gguf(&file)?), false)?;
    let settings = Settings {
        images: images.into(),
        preprocess: Preprocess::clip(size, Aspect::Pad),
        patches: (size / 14).pow(2),
        max_length: 2048,
        position: ImagePosition::Front,
        shape: Shape { seed: 42, batch: 16, accumulate: 1, world: 1, grouped: true },
        rank: 0,
        threads,
        ahead: 2,
    };
    let mut loader = Loader::new(rows, template, settings, Position::default(), report)?;
    loader.next_batch()?;
    let (start, mut samples) = (Instant::now(), 0);
    while start.elapsed().as_secs_f64() < 10.0 {
        samples += loader.next_batch()?.b;
    }
    println!("{:.1} samples/s on {threads} threads", samples as f64 / start.elapsed().as_secs_f64());
    print!("{}", loader.report());
    Ok(())
}
