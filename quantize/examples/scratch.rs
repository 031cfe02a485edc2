//! scratch
use pumice_quantize::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let source = if a[1].starts_with("syn:") {
        synthetic::source(&a[1][4..]).unwrap()
    } else {
        Source::open(
            a[1].as_ref(),
            &SourceOptions {
                vision_tower: std::env::var_os("TOWER").map(Into::into),
                mmproj: std::env::var_os("MMPROJ").map(Into::into),
                ..Default::default()
            },
        )
        .unwrap()
    };
    println!("opened {:?} {:?}", t.elapsed(), source.notes());
    let mut o = Options::new(Recipe::new(a[3].parse().unwrap()));
    o.force = true;
    if a.len() > 4 {
        o.layout = Layout::Pair
    }
    o.measure = std::env::var_os("MEASURE").is_some();
    struct P(std::time::Instant, std::sync::Mutex<(u64, u64)>);
    impl Progress for P {
        fn advance(&self, d: u64, t: u64) -> bool {
            *self.1.lock().unwrap() = (d, t);
            self.0.elapsed().as_secs() < std::env::var("SECS").map_or(100000, |s| s.parse().unwrap())
        }
    }
    let p = P(t, Default::default());
    let r = match run(&source, a[2].as_ref(), &o, &p) {
        Ok(r) => r,
        Err(e) => {
            println!("{e}: {:?} {:?}", t.elapsed(), p.1.lock().unwrap());
            let s = std::fs::read_to_string("/proc/self/status").unwrap();
            for l in s.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon")) {
                println!("{l}")
            }
            return;
        }
    };
    println!("{:?} {} bytes {:.3} bpw", t.elapsed(), r.bytes, r.bytes as f64 * 8.0 / r.elements as f64);
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in s.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon")) {
        println!("{l}")
    }
    if o.measure {
        for t in r.tensors.iter().take(12) {
            println!(
                "{} {} {:?}",
                t.planned.name,
                t.planned.to,
                t.error.map(|e| (e.rmse(), e.max, e.snr_db()))
            )
        }
    }
}
