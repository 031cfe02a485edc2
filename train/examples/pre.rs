//! scratch
use pumice_train::{model::*, pretrain::*, engine::trainer::*};
use tch::{Kind, Device};
struct P(std::time::Instant, f64, u64);
impl Observer for P { fn step(&mut self, r: &Report) { self.1 += r.loss; self.2 += 1; if r.step % 25 == 0 { println!("{} {}/{} loss {:.4} lr {:.2e} norm {:.2} {:.2} step/s {:.0} tok/s wait {:?}", self.0.elapsed().as_secs(), r.step, r.total, self.1 / self.2 as f64, r.rate, r.norm, 1.0/r.time.as_secs_f64(), r.tokens as f64/r.time.as_secs_f64(), r.waited); self.1=0.;self.2=0; } } fn save_failed(&mut self, _: u64, e: &pumice_train::Error) { println!("save failed {e}") } }
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let kind = if a[5] == "bf16" { Kind::BFloat16 } else { Kind::Float };
    tch::set_num_threads(a[7].parse().unwrap());
    let run = Run { out: a[2].clone().into(), steps: a[3].parse().unwrap(), batch: a[4].parse().unwrap(), lr: a[6].parse().unwrap(), kind, device: Device::Cpu, seed: 1, save_every: 500, vocabulary: 2048 };
    let mut w = P(std::time::Instant::now(), 0., 0);
    if a[1] == "clip" {
        let config = ClipConfig { hidden: 192, ff: 768, layers: 6, heads: 3, patch: 16, image: 112, ..clip_like() };
        println!("{:?}", ClipRun { run, config, font: None }.train(&mut w));
    } else {
        let mut c = LlamaConfig::new(2048, 256, 768, 4, 8, 512); c.tied = true;
        println!("{:?}", TextRun { run, config: c, turns: 8, template: "v1".into() }.train(&mut w));
    }
}
fn clip_like() -> ClipConfig { ClipConfig::large(112) }
