//! Sampling on rows small enough to compute by hand.

use super::{Sampler, SamplerOptions};

fn counts(options: SamplerOptions, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(options);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.draw(logits, logits.len(), &[]).unwrap() as usize] += 1;
    }
    counts
}

const PLAIN: SamplerOptions = SamplerOptions {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    repeat_last_n: 64,
    seed: 42,
};

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    assert_eq!(sampler.draw(&[0.0, 3.0, 3.0, -1.0], 4, &[]).unwrap(), 1);
    assert_eq!(
        sampler.draw(&[0.0, 1.0, 2.0, 9.0], 3, &[]).unwrap(),
        2,
        "ids past the vocabulary are padding"
    );
}

#[test]
fn draws_follow_the_softmax() {
    // Probabilities 1/2, 1/4, 1/8, 1/8.
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
    let n = 40_000;
    let c = counts(PLAIN, &logits, n);
    for (got, p) in c.iter().zip([0.5, 0.25, 0.125, 0.125]) {
        // Five standard deviations of a binomial count.
        let sd = (n as f64 * p * (1.0 - p)).sqrt();
        assert!((*got as f64 - n as f64 * p).abs() < 5.0 * sd, "{c:?}");
    }
    // At temperature 1/2 the odds are squared: 16 : 4 : 1 : 1.
    let c = counts(SamplerOptions { temperature: 0.5, ..PLAIN }, &logits, n);
    assert!((c[0] as f64 / n as f64 - 16.0 / 22.0).abs() < 0.015, "{c:?}");
}

#[test]
fn truncation_leaves_what_it_says() {
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
    let seen = |o: SamplerOptions| counts(o, &logits, 2000).iter().map(|&c| c > 0).collect::<Vec<_>>();
    assert_eq!(seen(SamplerOptions { top_k: 2, ..PLAIN }), [true, true, false, false]);
    assert_eq!(seen(SamplerOptions { top_p: 0.5, ..PLAIN }), [true, false, false, false]);
    assert_eq!(seen(SamplerOptions { top_p: 0.6, ..PLAIN }), [true, true, false, false]);
    assert_eq!(seen(SamplerOptions { min_p: 0.4, ..PLAIN }), [true, true, false, false]);
    assert_eq!(seen(SamplerOptions { min_p: 1.0, ..PLAIN }), [true, false, false, false]);
}

#[test]
fn the_penalty_lowers_recent_tokens_only() {
    let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n: 2, ..SamplerOptions::greedy() };
    let mut sampler = Sampler::new(options);
    let logits = [1.0, 1.5, -0.5];
    assert_eq!(sampler.draw(&logits, 3, &[1]).unwrap(), 0, "1.5 / 2 < 1");
    assert_eq!(sampler.draw(&logits, 3, &[1, 2, 2]).unwrap(), 1, "out of the window");
    assert_eq!(sampler.draw(&logits, 3, &[77]).unwrap(), 1, "an id that has no logit");
}

#[test]
fn a_seed_is_a_sequence() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
    let draw = |seed| {
        let mut s = Sampler::new(SamplerOptions { seed, ..PLAIN });
        (0..20).map(|_| s.draw(&logits, 50, &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn broken_logits_are_an_error() {
    let mut sampler = Sampler::new(PLAIN);
    for bad in [f32::NAN, f32::INFINITY] {
        let message = sampler.draw(&[0.0, bad], 2, &[]).unwrap_err().to_string();
        assert!(message.contains("token 1"), "{message}");
    }
    assert!(sampler.draw(&[], 0, &[]).is_err());
    let no = f32::NEG_INFINITY;
    for options in [PLAIN, SamplerOptions::greedy(), SamplerOptions { top_p: 0.9, min_p: 0.1, ..PLAIN }] {
        let mut sampler = Sampler::new(options);
        let message = sampler.draw(&[no, no, 1.0], 2, &[]).unwrap_err().to_string();
        assert!(message.contains("token 0 is -inf"), "{message}");
        assert_eq!(sampler.draw(&[no, -80.0, no], 3, &[]).unwrap(), 1, "some −∞ only forbid tokens");
    }
    assert!(SamplerOptions { top_p: 0.0, ..PLAIN }.check().is_err());
    assert!(SamplerOptions { temperature: f32::NAN, ..PLAIN }.check().is_err());
    assert!(PLAIN.check().is_ok());
}

#[test]
fn the_likeliest_alone_give_the_same_draws() {
    let logits: Vec<f32> = (0..200).map(|i| (i as f32 * 0.73).sin() * 4.0).collect();
    let some = [
        SamplerOptions::greedy(),
        SamplerOptions { top_k: 1, ..PLAIN },
        SamplerOptions { top_k: 40, temperature: 0.7, ..PLAIN },
        SamplerOptions { top_k: 64, top_p: 0.8, min_p: 0.05, ..PLAIN },
    ];
    for options in some {
        let k = options.needs().unwrap();
        let mut likeliest: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
        likeliest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        likeliest.truncate(k);
        let (mut all, mut few) = (Sampler::new(options), Sampler::new(options));
        for _ in 0..500 {
            assert_eq!(few.draw_likeliest(&likeliest).unwrap(), all.draw(&logits, 200, &[]).unwrap());
        }
    }
    for options in [PLAIN, SamplerOptions { repeat_penalty: 1.1, ..SamplerOptions::greedy() }] {
        assert_eq!(options.needs(), None, "{options:?} may look at any token");
    }
}
