//! Mean, standard deviation and median of samples.

/// The mean of `samples`; 0 of none.
pub fn mean(samples: &[f64]) -> f64 {
    if samples.is_empty() { 0.0 } else { samples.iter().sum::<f64>() / samples.len() as f64 }
}

/// The standard deviation that the samples estimate: the root of Σ(x − mean)²/(n − 1), as llama-bench's. 0 of fewer than two.
pub fn deviation(samples: &[f64]) -> f64 {
    if samples.len() < 2 {
        return 0.0;
    }
    let mean = mean(samples);
    let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / (samples.len() - 1) as f64).sqrt()
}

/// The middle sample, of an even count the mean of the two in the middle; 0 of none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // 2, 4, 4, 4, 5, 5, 7, 9: squares of the differences from 5 sum to 32.
        let samples = [9.0, 2.0, 5.0, 4.0, 7.0, 4.0, 5.0, 4.0];
        assert_eq!(mean(&samples), 5.0);
        assert!((deviation(&samples) - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(median(&samples), 4.5);
        assert_eq!(median(&samples[..3]), 5.0);
    }

    #[test]
    fn of_one_and_of_none() {
        assert_eq!((mean(&[3.0]), deviation(&[3.0]), median(&[3.0])), (3.0, 0.0, 3.0));
        assert_eq!((mean(&[]), deviation(&[]), median(&[])), (0.0, 0.0, 0.0));
    }
}
