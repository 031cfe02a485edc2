//! Norms, activations, RoPE, sums, conversions, rows of tables, and the plain product.

use super::*;

/// Columns around the lanes of every vector: one, below, at and above 16, LLaMA's and CLIP's widths.
const COLS: [usize; 8] = [1, 15, 16, 17, 100, 1024, 4096, 11008];

#[test]
fn rms_norm() {
    each_cpu(|cpu, name| {
        let mut random = Random(1);
        for cols in COLS {
            for rows in [1, 5] {
                let (x, w) = (random.vec(rows * cols), random.vec(cols));
                let (xt, wt) = (put(cpu, rows, cols, &x), put(cpu, 1, cols, &w));
                let dst = cpu.alloc(rows, cols, DType::F32).unwrap();
                cpu.rms_norm(dst, xt, wt, 1e-5);
                let mean = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / cols as f64;
                let means: Vec<f64> = x.chunks(cols).map(mean).collect();
                let want = |i: usize| {
                    f64::from(x[i]) / (means[i / cols] + f64::from(1e-5f32)).sqrt() * f64::from(w[i % cols])
                };
                // The sum of squares errs by γ(k) relative, its root by half of that; vector lanes have k/16 of it, not used here.
                let bound = EPS * (cols as f64 / 4.0 + 4.0);
                close(name, &get(cpu, dst), want, |i| bound * want(i).abs());
            }
        }
    });
}

#[test]
fn layer_norm() {
    each_cpu(|cpu, name| {
        let mut random = Random(2);
        for cols in COLS {
            // A mean of 3 deviations, as some of CLIP's rows have.
            let x: Vec<f32> = random.vec(3 * cols).iter().map(|x| x + 3.0).collect();
            let (w, b) = (random.vec(cols), random.vec(cols));
            let (xt, wt, bt) = (put(cpu, 3, cols, &x), put(cpu, 1, cols, &w), put(cpu, 1, cols, &b));
            let dst = cpu.alloc(3, cols, DType::F32).unwrap();
            cpu.layer_norm(dst, xt, wt, bt, 1e-5);
            let moments = |row: &[f32]| {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / cols as f64;
                let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / cols as f64;
                (mean, 1.0 / (var + f64::from(1e-5f32)).sqrt())
            };
            let moments: Vec<_> = x.chunks(cols).map(moments).collect();
            let parts = |i: usize| {
                let (mean, scale) = moments[i / cols];
                (mean, scale, f64::from(w[i % cols]), f64::from(b[i % cols]))
            };
            let want = |i: usize| {
                let (mean, scale, w, b) = parts(i);
                (f64::from(x[i]) - mean) * scale * w + b
            };
            // The mean errs by γ(k)·mean, which moves every element; lanes of 8 at the least sum the long rows.
            let gamma = EPS * (cols.div_ceil(8) as f64 / 2.0 + 8.0);
            close(name, &get(cpu, dst), want, |i| {
                let (mean, scale, w, b) = parts(i);
                gamma * (mean.abs() * scale * w.abs() + (want(i) - b).abs()) + EPS * (want(i).abs() + b.abs())
            });
        }
    });
}

/// Elements around the vectors and the pieces of work, with every magnitude and sign of an activation.
fn activations(random: &mut Random, len: usize) -> Vec<f32> {
    let special = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4];
    let mut x: Vec<f32> = random.vec(len).iter().map(|x| x * 4.0).collect();
    x.iter_mut().zip(special).for_each(|(x, s)| *x = s);
    x
}

#[test]
fn swiglu() {
    each_cpu(|cpu, name| {
        let mut random = Random(3);
        for (rows, cols) in [(1, 1), (1, 17), (1, 11008), (3, 4096), (2, 8192)] {
            let (g, u) = (activations(&mut random, rows * cols), random.vec(rows * cols));
            let (gt, ut) = (put(cpu, rows, cols, &g), put(cpu, rows, cols, &u));
            cpu.swiglu(gt, ut);
            let want = |i: usize| f64::from(g[i]) / (1.0 + (-f64::from(g[i])).exp()) * f64::from(u[i]);
            // exp within 1 ulp, then a sum, a division and a product. Vectors hold e^88 to be the largest: x·e^−88 is nothing.
            close(name, &get(cpu, gt), want, |i| 4.0 * EPS * want(i).abs() + 1e-33);
        }
    });
}

#[test]
fn gelu() {
    fn erf(x: f64) -> f64 {
        // The integral by Simpson's rule with 2000 steps: error under 1e-12 for |x| ≤ 6.
        let x = x.clamp(-6.0, 6.0);
        let simpson = |i: usize| match i {
            0 | 2000 => 1.0,
            _ => 2.0 * (1 + i % 2) as f64,
        };
        let f = |i: usize| simpson(i) * (-(x * i as f64 / 2000.0).powi(2)).exp();
        (0..=2000).map(f).sum::<f64>() * x / 6000.0 * std::f64::consts::FRAC_2_SQRT_PI
    }
    let mut random = Random(4);
    let x = activations(&mut random, 1000);
    let erfs: Vec<f64> = x.iter().map(|x| erf(f64::from(*x) / 2f64.sqrt())).collect();
    each_cpu(|cpu, name| {
        for kind in [Gelu::Erf, Gelu::Quick, Gelu::Tanh] {
            for len in [1, 16, 33, 1000] {
                let t = put(cpu, 1, len, &x[..len]);
                cpu.gelu(t, kind);
                let want = |i: usize| {
                    let (x, erf) = (f64::from(x[i]), erfs[i]);
                    match kind {
                        Gelu::Erf => x / 2.0 * (1.0 + erf),
                        Gelu::Quick => x / (1.0 + (-1.702 * x).exp()),
                        Gelu::Tanh => {
                            x / 2.0
                                * (1.0
                                    + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3)))
                                        .tanh())
                        }
                    }
                };
                // erf errs by 1.2e-7 at the most, absolute; x/2 scales that. 1.702·x rounded turns e^ by |x|·ε.
                let bound = |i: usize| {
                    let x = f64::from(x[i]).abs();
                    x * 1.2e-7
                        + 3.0 * EPS * want(i).abs() * (1.0 + if kind == Gelu::Quick { x } else { 0.0 })
                        + 1e-12
                };
                close(&format!("{name} {kind:?}"), &get(cpu, t), want, bound);
            }
        }
    });
}

#[test]
fn rope() {
    each_cpu(|cpu, name| {
        let mut random = Random(5);
        // (heads, head width, pairs that turn): odd widths of tiny models, LLaMA's, and a partial rotation.
        for (heads, d, pairs) in
            [(1, 2, 1), (3, 6, 3), (2, 16, 8), (2, 34, 17), (32, 128, 64), (2, 64, 8), (1, 4, 0)]
        {
            let positions = [0, 1, 7, 611, 4095];
            let x = random.vec(positions.len() * heads * d);
            let freqs: Vec<f32> = (0..pairs).map(|i| 10000f32.powf(-2.0 * i as f32 / d as f32)).collect();
            let (t, p) = (put(cpu, positions.len(), heads * d, &x), put_ids(cpu, &positions));
            let f = cpu.alloc(1, pairs, DType::F32).unwrap();
            if pairs > 0 {
                cpu.write(f, &encode(DType::F32, pairs, &freqs));
            }
            cpu.rope(t, p, f, d);
            let want = |i: usize| {
                let (row, e) = (i / (heads * d), i % d);
                if e >= 2 * pairs {
                    return f64::from(x[i]);
                }
                // The angle is an f32 product, by definition.
                let (sin, cos) = f64::from(positions[row] as f32 * freqs[e / 2]).sin_cos();
                let (a, b) = (f64::from(x[i - e % 2]), f64::from(x[i - e % 2 + 1]));
                if e % 2 == 0 { a * cos - b * sin } else { a * sin + b * cos }
            };
            // cos and sin to an ulp, two products, a sum.
            let size = |i: usize| f64::from(x[i - i % 2].abs() + x[i - i % 2 + 1].abs());
            close(name, &get(cpu, t), want, |i| 2.0 * EPS * size(i));
        }
    });
}

#[test]
fn add() {
    each_cpu(|cpu, name| {
        let mut random = Random(6);
        for (rows, cols) in [(1, 1), (3, 17), (5, 4096), (1, 32000), (577, 16)] {
            let x = random.vec(rows * cols);
            for same in [true, false] {
                let y = random.vec(if same { rows * cols } else { cols });
                let (xt, yt) = (put(cpu, rows, cols, &x), put(cpu, y.len() / cols, cols, &y));
                cpu.add(xt, yt);
                let got = get(cpu, xt);
                // One addition is exact to the bit.
                close(name, &got, |i| f64::from(x[i] + y[i % y.len()]), |_| 0.0);
            }
        }
    });
}

#[test]
fn copy() {
    each_cpu(|cpu, name| {
        let mut random = Random(7);
        for (rows, cols) in [(1, 32), (3, 64), (2, 4096), (7, 5120)] {
            let mut x = random.vec(rows * cols);
            (x[0], x[1], x[2]) = (1e-7, -0.0, 60000.0);
            for dtype in [DType::F32, DType::F16, DType::Q8_0] {
                let xt = put(cpu, rows, cols, &x);
                let dst = cpu.alloc(rows + 1, cols, dtype).unwrap();
                let (first, twin) = (dst.rows(1, rows), cpu.alloc(rows, cols, dtype).unwrap());
                cpu.copy(first, xt);
                // Of one type: the bytes themselves.
                cpu.copy(twin, first);
                // Seen through an op that reads every type.
                let ids: Vec<i32> = (0..rows as i32).collect();
                let (ids, seen) = (put_ids(cpu, &ids), cpu.alloc(rows, cols, DType::F32).unwrap());
                for copied in [first, twin] {
                    cpu.get_rows(seen, copied, ids);
                    let want = rounded(dtype, cols, &x);
                    close(&format!("{name} {dtype}"), &get(cpu, seen), |i| f64::from(want[i]), |_| 0.0);
                }
                let zero = put_ids(cpu, &[0]);
                cpu.get_rows(seen.rows(0, 1), dst.rows(0, 1), zero);
                assert!(
                    get(cpu, seen)[..cols].iter().all(|x| *x == 0.0),
                    "{name}: the row before was touched"
                );
            }
        }
    });
}

#[test]
fn get_rows_of_every_type() {
    each_cpu(|cpu, name| {
        let mut random = Random(8);
        let (rows, cols) = (9, 512);
        let table = random.vec(rows * cols);
        for dtype in DType::ALL.into_iter().filter(|t| *t != DType::I32) {
            let want = rounded(dtype, cols, &table);
            let t =
                cpu.load(pumice_kernels::Bytes::new(encode(dtype, cols, &table)), rows, cols, dtype).unwrap();
            let picks = [8, 0, 3, 3];
            let (ids, dst) = (put_ids(cpu, &picks), cpu.alloc(picks.len(), cols, DType::F32).unwrap());
            cpu.get_rows(dst, t, ids);
            let want = |i: usize| f64::from(want[picks[i / cols] as usize * cols + i % cols]);
            close(&format!("{name} {dtype}"), &get(cpu, dst), want, |_| 0.0);
        }
    });
}

#[test]
fn matmul_of_plain_numbers_and_bias() {
    each_cpu(|cpu, name| {
        let mut random = Random(9);
        for (n, k, m) in [(1, 1, 1), (1, 64, 33), (5, 100, 17), (17, 256, 16), (3, 1024, 40)] {
            let (x, w, b) = (random.vec(n * k), random.vec(m * k), random.vec(m));
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let wr = rounded(dtype, k, &w);
                let wt = cpu.load(pumice_kernels::Bytes::new(encode(dtype, k, &w)), m, k, dtype).unwrap();
                let (xt, bt) = (put(cpu, n, k, &x), put(cpu, 1, m, &b));
                let dst = cpu.alloc(n, m, DType::F32).unwrap();
                for bias in [None, Some(bt)] {
                    cpu.matmul(dst, xt, wt, bias);
                    let terms = |i: usize| {
                        let (x, w) = (&x[i / m * k..][..k], &wr[i % m * k..][..k]);
                        let bias = bias.map_or(0.0, |_| f64::from(b[i % m]));
                        x.iter()
                            .zip(w)
                            .map(|(x, w)| f64::from(*x) * f64::from(*w))
                            .chain([bias])
                            .collect::<Vec<_>>()
                    };
                    let want = |i: usize| terms(i).iter().sum();
                    let size = |i: usize| terms(i).iter().map(|t| t.abs()).sum::<f64>();
                    // Whole numbers of 16 bits: half a unit of each factor, ‖·‖/32700 at most, times the 1-norm of the other.
                    let words = |i: usize| {
                        let (x, w) = (&x[i / m * k..][..k], &wr[i % m * k..][..k]);
                        let norms = |v: &[f32]| {
                            let squares = v.iter().map(|v| f64::from(v * v)).sum::<f64>();
                            (squares.sqrt(), v.iter().map(|v| f64::from(v.abs())).sum::<f64>())
                        };
                        let ((x2, x1), (w2, w1)) = (norms(x), norms(w));
                        if dtype == DType::F32 || n < 16 { 0.0 } else { 0.51 / 32700.0 * (x2 * w1 + w2 * x1) }
                    };
                    close(&format!("{name} {dtype}"), &get(cpu, dst), want, |i| {
                        EPS * (k as f64 / 2.0 + 1.0) * size(i) + words(i)
                    });
                }
            }
        }
    });
}

#[test]
fn memory_that_the_machine_does_not_have_is_an_error() {
    let mut cpu = Cpu::new(CpuOptions { threads: 1, isa: None });
    for rows in [1 << 40, usize::MAX / 4096] {
        let error = cpu.alloc(rows, 4096, DType::F32).unwrap_err();
        assert!(error.to_string().contains("could not be allocated"), "{error}");
    }
    let error = cpu.alloc(1, 33, DType::Q8_0).unwrap_err();
    assert!(error.to_string().contains("33 columns"), "{error}");
    let error = cpu.load(pumice_kernels::Bytes::new(vec![0; 9]), 1, 2, DType::F32).unwrap_err();
    assert!(error.to_string().contains("takes 8 bytes, got 9"), "{error}");
}

#[test]
fn weights_that_lie_askew_are_read_all_the_same() {
    let mut cpu = Cpu::new(CpuOptions { threads: 1, isa: None });
    let mut bytes = vec![0];
    bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
    let bytes = pumice_kernels::Bytes::new(bytes).slice(1..9).unwrap();
    let t = cpu.load(bytes, 1, 2, DType::F32).unwrap();
    assert_eq!(get(&mut cpu, t), [1.5, -2.0]);
}

/// The message of the panic of `f`.
fn panic_of(f: impl FnOnce(&mut Cpu)) -> String {
    let mut cpu = Cpu::new(CpuOptions { threads: 2, isa: None });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&mut cpu)));
    let payload = caught.expect_err("must panic");
    let plain = payload.downcast_ref::<&str>().map(|m| m.to_string());
    plain.or_else(|| payload.downcast_ref::<String>().cloned()).expect("a message")
}

#[test]
fn shape_bugs_panic_with_both_shapes() {
    let alloc = |cpu: &mut Cpu, rows, cols| cpu.alloc(rows, cols, DType::F32).unwrap();
    let message = panic_of(|cpu| {
        let (dst, x, w) = (alloc(cpu, 2, 5), alloc(cpu, 2, 4), alloc(cpu, 6, 4));
        cpu.matmul(dst, x, w, None);
    });
    assert!(message.contains("dst is 2×5, must be 2×6"), "{message}");
    let message = panic_of(|cpu| {
        let x = alloc(cpu, 4, 4);
        cpu.add(x.rows(0, 2), x.rows(2, 2));
    });
    assert!(message.contains("same buffer"), "{message}");
    let message = panic_of(|cpu| {
        let (dst, table, ids) = (alloc(cpu, 1, 4), alloc(cpu, 3, 4), put_ids(cpu, &[3]));
        cpu.get_rows(dst, table, ids);
    });
    assert!(message.contains("id 3 in a table of 3 rows"), "{message}");
    let message = panic_of(|cpu| {
        let w = cpu.load(pumice_kernels::Bytes::new(vec![0; 16]), 1, 4, DType::F32).unwrap();
        cpu.gelu(w, Gelu::Erf);
    });
    assert!(message.contains("read-only"), "{message}");
}

#[test]
fn top_k() {
    each_cpu(|cpu, name| {
        let mut random = Random(9);
        for (k, among, cols) in [(1, 1, 1), (1, 700, 1000), (5, 5, 9), (40, 1023, 1025), (64, 5000, 5003)] {
            // Steps of a quarter: many are equal.
            let mut x: Vec<f32> = random.vec(3 * cols).iter().map(|x| (4.0 * x).round() / 4.0).collect();
            x[cols / 2] = f32::NAN;
            x[cols] = f32::NEG_INFINITY;
            if among < cols {
                x[among] = f32::INFINITY;
            }
            let xt = put(cpu, 3, cols, &x);
            let dst = cpu.alloc(3, 2 * k, DType::F32).unwrap();
            cpu.top_k(dst, xt, among);
            for (got, x) in get(cpu, dst).chunks(2 * k).zip(x.chunks(cols)) {
                let mut order: Vec<usize> = (0..among).collect();
                // A stable sort; −0 is not among the numbers that are unequal.
                order.sort_by(|&a, &b| {
                    let nan = x[b].is_nan().cmp(&x[a].is_nan());
                    nan.then(x[b].partial_cmp(&x[a]).unwrap_or(std::cmp::Ordering::Equal))
                });
                let columns: Vec<usize> = got[k..].iter().map(|c| *c as usize).collect();
                assert_eq!(columns, order[..k], "{name}: {k} of {among} of {cols}");
                for (value, column) in got.iter().zip(columns) {
                    assert!(*value == x[column] || value.is_nan() && x[column].is_nan(), "{name}");
                }
            }
        }
    });
}
