//! exp and erf on vectors.
//!
//! Coefficients are minimax fits of our own (Lawson's iteration on 4000 Chebyshev points in f64, then rounded to f32); the
//! errors stated are of the whole function in f32, measured by the tests below against f64.

use super::Simd;

/// Largest argument of [`exp`]: beyond it 2ⁿ leaves f32.
const EXP_MAX: f32 = 88.37;
/// Below this e^x is under the smallest normal f32.
const EXP_MIN: f32 = -87.33;

/// e^x within `EXP_ULPS` for x in EXP_MIN..=EXP_MAX; 0 below, e^EXP_MAX above; no number for no number.
///
/// e^x = 2ⁿ·e^r with n = round(x/ln 2), |r| ≤ ln 2/2, and e^r = 1 + r + r²·P(r).
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // The limits come first: an argument that is no number then passes through min and max.
    let bounded = s.max(s.splat(EXP_MIN), s.min(s.splat(EXP_MAX), x));
    let n = s.round(s.mul(bounded, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts (Cody and Waite): n times the first, of 9 bits, is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), bounded);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let p = s.splat(1.381_446_7e-3);
    let p = s.fma(p, r, s.splat(8.368_781e-3));
    let p = s.fma(p, r, s.splat(4.166_839_3e-2));
    let p = s.fma(p, r, s.splat(1.666_652e-1));
    let p = s.fma(p, r, s.splat(4.999_999_4e-1));
    let e = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.if_less(x, s.splat(EXP_MIN), s.splat(0.0), s.mul(e, s.pow2(n)))
}

/// 2^x within `EXP2_ULPS` for x in −126..=0; 0 or a subnormal number below; no number for no number and for −∞, which no finite score gives.
///
/// 2^x = 2ⁿ·2^f with n = round(x), |f| ≤ ½, which is exact, and 2^f = 1 + f·P(f). The exponential of a softmax: without limits above,
/// and with a base that needs no splitting, it takes two thirds of [`exp`]'s operations.
#[inline(always)]
pub(super) fn exp2_below<S: Simd>(s: S, x: S::V) -> S::V {
    let n = s.round(x);
    let f = s.sub(x, n);
    let p = s.splat(1.535_336_2e-4);
    let p = s.fma(p, f, s.splat(1.339_887_4e-3));
    let p = s.fma(p, f, s.splat(9.618_437e-3));
    let p = s.fma(p, f, s.splat(5.550_332_4e-2));
    let p = s.fma(p, f, s.splat(2.402_264_8e-1));
    let p = s.fma(p, f, s.splat(std::f32::consts::LN_2));
    s.scale(s.fma(p, f, s.splat(1.0)), n)
}

/// 1/(1 + e^(−x)): the logistic function, within 4 ulp where it is above e^−87.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// erf(x) within `ERF_ERROR`.
///
/// Below 1: x·P(x²), which keeps the relative error small too. From 1: 1 − e^(−Q(|x|)), Q a fit of −ln erfc.
#[inline(always)]
pub(super) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let u = s.mul(x, x);
    let p = s.splat(7.647_119_5e-5);
    let p = s.fma(p, u, s.splat(-7.942_357e-4));
    let p = s.fma(p, u, s.splat(5.179_75e-3));
    let p = s.fma(p, u, s.splat(-2.684_859_2e-2));
    let p = s.fma(p, u, s.splat(1.128_343_05e-1));
    let p = s.fma(p, u, s.splat(-3.761_260_5e-1));
    // The fit is an ulp below 2/√π, the first coefficient of the series.
    let p = s.fma(p, u, s.splat(std::f32::consts::FRAC_2_SQRT_PI.next_down()));
    let small = s.mul(p, x);
    // 1 − erf(4) is 1.5e-8, a quarter ulp of 1: beyond, the fit need not hold.
    let a = s.min(s.splat(4.0), s.abs(x));
    let q = s.splat(-1.855_740_7e-4);
    let q = s.fma(q, a, s.splat(2.939_608e-3));
    let q = s.fma(q, a, s.splat(-2.180_532e-2));
    let q = s.fma(q, a, s.splat(1.030_372_3e-1));
    let q = s.fma(q, a, s.splat(6.382_257e-1));
    let q = s.fma(q, a, s.splat(1.127_04));
    let q = s.fma(q, a, s.splat(3.537_187_6e-4));
    let large = s.sub(s.splat(1.0), exp(s, s.sub(s.splat(0.0), q)));
    s.if_less(s.abs(x), s.splat(1.0), small, s.with_sign(large, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Isa, scalar, simd::Job};

    /// Error of [`exp`] in units of the last place of the true value.
    const EXP_ULPS: f64 = 1.5;
    /// The same of [`exp2_below`].
    const EXP2_ULPS: f64 = 1.5;
    /// Absolute error of [`erf`].
    const ERF_ERROR: f64 = 1.2e-7;

    struct Map<'a>(&'a mut [f32], Function);

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Exp2,
        Sigmoid,
        Erf,
    }

    impl Job for Map<'_> {
        fn scalar(self) {}

        #[inline(always)]
        fn vector<S: Simd>(self, s: S) {
            for x in self.0.chunks_mut(S::LANES) {
                let v = s.load_part(x);
                let y = match self.1 {
                    Function::Exp => exp(s, v),
                    Function::Exp2 => exp2_below(s, v),
                    Function::Sigmoid => sigmoid(s, v),
                    Function::Erf => erf(s, v),
                };
                s.store_part(y, x);
            }
        }
    }

    /// `f` at `x`, for each vector ISA here but those that only add products of bytes to the one before.
    fn each(x: &[f32], f: Function, check: impl Fn(Isa, &[f32])) {
        let alike = |isa: Isa| matches!(isa, Isa::Avx2Vnni | Isa::NeonDotprod | Isa::NeonI8mm);
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar && !alike(*isa)) {
            let mut y = x.to_vec();
            Map(&mut y, f).run(isa);
            check(isa, &y);
        }
    }

    /// A million arguments across `range`.
    fn across(first: f32, last: f32) -> Vec<f32> {
        (0..1_000_000).map(|i| first + (last - first) * i as f32 / 999_999.0).map(|x| x.min(last)).collect()
    }

    #[test]
    fn exp_within_its_ulps() {
        for (first, last) in [(EXP_MIN, EXP_MAX), (-1.0, 1.0), (-0.01, 0.01)] {
            let x = across(first, last);
            each(&x, Function::Exp, |isa, y| {
                for (x, y) in x.iter().zip(y) {
                    let want = f64::from(*x).exp();
                    let ulp = f64::from((want as f32).next_up()) - f64::from(want as f32);
                    let error = (f64::from(*y) - want).abs() / ulp;
                    assert!(error <= EXP_ULPS, "{isa}: exp({x}) = {y} is {error} ulp off");
                }
            });
        }
    }

    #[test]
    fn exp2_within_its_ulps() {
        for (first, last) in [(-126.0, 0.0), (-1.0, 0.0)] {
            let x = across(first, last);
            each(&x, Function::Exp2, |isa, y| {
                for (x, y) in x.iter().zip(y) {
                    let want = f64::from(*x).exp2();
                    let ulp = f64::from((want as f32).next_up()) - f64::from(want as f32);
                    let error = (f64::from(*y) - want).abs() / ulp;
                    assert!(error <= EXP2_ULPS, "{isa}: exp2({x}) = {y} is {error} ulp off");
                }
            });
        }
        let ends = [0.0, -0.0, -150.0, -1e30, f32::MIN, f32::NEG_INFINITY, f32::NAN];
        each(&ends, Function::Exp2, |isa, y| {
            assert_eq!(y[..2], [1.0; 2], "{isa}");
            assert_eq!(y[2..5], [0.0; 3], "{isa}");
            assert!(y[6].is_nan(), "{isa}: {y:?}");
        });
    }

    #[test]
    fn exp_at_the_ends() {
        let x = [-87.4, f32::NEG_INFINITY, 0.0, -0.0, 89.0, f32::INFINITY, f32::NAN];
        each(&x, Function::Exp, |isa, y| {
            assert_eq!(y[..4], [0.0, 0.0, 1.0, 1.0], "{isa}");
            assert!(y[4] > 2e38 && y[5] > 2e38, "{isa}: {y:?}");
            assert!(y[6].is_nan(), "{isa}: {y:?}");
        });
    }

    #[test]
    fn sigmoid_within_4_ulps() {
        let x = across(-80.0, 80.0);
        each(&x, Function::Sigmoid, |isa, y| {
            for (x, y) in x.iter().zip(y) {
                let want = 1.0 / (1.0 + (-f64::from(*x)).exp());
                let error = (f64::from(*y) / want - 1.0).abs();
                assert!(error <= 4.0 * f64::from(f32::EPSILON), "{isa}: sigmoid({x}) = {y}, {error:e} off");
            }
        });
    }

    #[test]
    fn erf_within_its_error() {
        for (first, last) in [(-5.0, 5.0), (-1.01, 1.01)] {
            let x = across(first, last);
            each(&x, Function::Erf, |isa, y| {
                for (x, y) in x.iter().zip(y) {
                    let error = (f64::from(*y) - scalar::erf(f64::from(*x))).abs();
                    assert!(error <= ERF_ERROR, "{isa}: erf({x}) = {y} is {error:e} off");
                }
            });
        }
        each(&[f32::NAN, 1e30, -1e30, f32::INFINITY], Function::Erf, |isa, y| {
            assert!(y[0].is_nan(), "{isa}");
            assert_eq!(y[1..], [1.0, -1.0, 1.0], "{isa}");
        });
    }
}
