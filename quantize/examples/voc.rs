//! scratch
use pumice_quantize::vocab::Vocab;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let m = Vocab::open(a[1].as_ref()).unwrap();
    for p in &a[2..] {
        let j = Vocab::open(p.as_ref()).unwrap();
        let d = m.pieces.iter().zip(&j.pieces).enumerate().filter(|(_, (a, b))| a != b).collect::<Vec<_>>();
        println!(
            "{p}: {} vs {} pieces, {} differ {:?} roles {:?} {:?} {} {}",
            m.pieces.len(),
            j.pieces.len(),
            d.len(),
            &d[..d.len().min(5)],
            m.roles,
            j.roles,
            j.add_bos,
            j.add_space_prefix
        );
    }
}
