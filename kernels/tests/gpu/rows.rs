//! Ops by rows and by elements: norms, RoPE, activations, sums.

use super::*;
use pumice_kernels::Gelu;

const TOLERANCE: f64 = 1e-7;
/// Rows and columns around the workgroups of 256 lanes.
const SHAPES: [(usize, usize); 6] = [(1, 4), (3, 64), (5, 255), (2, 256), (7, 260), (9, 1000)];

#[test]
fn rms_norm() {
    for (n, k) in SHAPES {
        agree(&format!("rms_norm {n}×{k}"), TOLERANCE, |b| {
            let (x, w) = (put(b, n, k, &random(1, n * k)), load(b, DType::F32, 1, k, &random(2, k)));
            let dst = b.alloc(n + 2, k, DType::F32).unwrap();
            b.rms_norm(dst.rows(2, n), x, w, 1e-5);
            get(b, dst)
        });
    }
}

#[test]
fn layer_norm() {
    for (n, k) in SHAPES {
        agree(&format!("layer_norm {n}×{k}"), TOLERANCE, |b| {
            // A mean far from zero, which a variance of squares would not survive.
            let x: Vec<_> = random(1, n * k).iter().map(|x| x + 100.0).collect();
            let x = put(b, n, k, &x);
            let (w, bias) =
                (load(b, DType::F32, 1, k, &random(2, k)), load(b, DType::F32, 1, k, &random(3, k)));
            let dst = b.alloc(n, k, DType::F32).unwrap();
            b.layer_norm(dst.rows(n - 1, 1), x.rows(n - 1, 1), w, bias, 1e-5);
            b.layer_norm(dst, x, w, bias, 1e-5);
            get(b, dst)
        });
    }
}

#[test]
fn rope_at_far_positions() {
    for (n, heads, d, pairs) in [(1, 2, 8, 4), (5, 3, 64, 32), (33, 2, 80, 20)] {
        agree(&format!("rope {n}×{heads}×{d}"), TOLERANCE, |b| {
            let x = put(b, n, heads * d, &random(1, n * heads * d));
            let y = put(b, n, heads * d, &random(2, n * heads * d));
            let positions = put_ids(b, &(0..n as i32).map(|i| 37 * i + 4000).collect::<Vec<_>>());
            let freqs: Vec<f32> = (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect();
            let freqs = put(b, 1, pairs, &freqs);
            b.rope(x, positions, freqs, d);
            // The last rows alone, as after a prompt's last block, and others at other positions.
            b.rope(y.rows(n - 1, 1), positions.rows(n - 1, 1), freqs, d);
            let others = put_ids(b, &vec![7; n]);
            b.rope(y, others, freqs, d);
            b.add(x, y);
            get(b, x)
        });
    }
}

#[test]
fn activations() {
    for (n, k) in SHAPES {
        for kind in [Gelu::Erf, Gelu::Quick, Gelu::Tanh] {
            agree(&format!("{kind:?} {n}×{k}"), TOLERANCE, |b| {
                let x: Vec<_> = random(1, n * k).iter().map(|x| 4.0 * x).collect();
                let x = put(b, n, k, &x);
                b.gelu(x, kind);
                get(b, x)
            });
        }
        agree(&format!("swiglu {n}×{k}"), TOLERANCE, |b| {
            let gate: Vec<_> = random(1, n * k).iter().map(|x| 30.0 * x).collect();
            let (gate, up) = (put(b, n, k, &gate), put(b, n, k, &random(2, n * k)));
            b.swiglu(gate, up);
            get(b, gate)
        });
    }
}

#[test]
fn sums_and_copies() {
    for (n, k) in SHAPES {
        agree(&format!("add {n}×{k}"), 0.0, |b| {
            let (x, y) = (put(b, n, k, &random(1, n * k)), put(b, n + 1, k, &random(2, n * k + k)));
            b.add(x, y.rows(1, n));
            b.add(x, y.rows(0, 1));
            let dst = b.alloc(n + 3, k, DType::F32).unwrap();
            b.copy(dst.rows(3, n), x);
            get(b, dst)
        });
    }
}

/// What the host writes reaches the ops that follow, and none that came before.
#[test]
fn writes_keep_their_place() {
    agree("writes between ops", 0.0, |b| {
        let (x, y) = (put(b, 2, 64, &random(1, 128)), put(b, 2, 64, &random(2, 128)));
        b.add(x, y);
        b.write(y, bytemuck::cast_slice(&random(3, 128)));
        b.add(x, y);
        b.write(y.rows(1, 1), bytemuck::cast_slice(&random(4, 64)));
        b.add(x, y);
        get(b, x)
    });
}

#[test]
fn a_lost_device_says_so_and_does_nothing() {
    let Some(mut gpu) = gpu(Allow::default()) else { return };
    let x = put(&mut gpu, 2, 64, &random(1, 128));
    gpu.lose();
    gpu.gelu(x, Gelu::Erf);
    gpu.write(x, &[0; 512]);
    let error = gpu.read(&mut [0.0; 128], x).unwrap_err().to_string();
    assert!(error.contains("lost while computing") && error.contains("--device cpu"), "{error}");
    let again = gpu.alloc(1, 4, DType::F32).unwrap_err().to_string();
    assert_eq!(again, error);
}

#[test]
fn memory_that_runs_out_is_named() {
    let options = GpuOptions { memory: Some(2 << 20), ..GpuOptions::default() };
    let Ok(mut gpu) = Gpu::new(&options) else { return eprintln!("skipped: no adapter") };
    assert!(gpu.fits(1 << 20) && !gpu.fits(2 << 20));
    gpu.alloc(256, 256, DType::F32).unwrap();
    let error = gpu.alloc(1024, 512, DType::F32).unwrap_err().to_string();
    assert!(error.contains("2097152 bytes for a 1024×512 F32 tensor"), "{error}");
    // A weight's place is taken when its layer is whole; the next call that can fail says so.
    gpu.load(Bytes::new(vec![0; 4 << 20]), 1024, 1024, DType::F32).unwrap();
    let error = gpu.alloc(1, 4, DType::F32).unwrap_err().to_string();
    assert!(error.contains("1024×1024 F32"), "{error}");
}

/// Caches are written by ops and by the host, and read back.
#[test]
fn caches() {
    for dtype in [DType::F16, DType::Q8_0] {
        for cols in [32, 64, 96] {
            agree(&format!("a cache of {cols} columns {dtype}"), 1e-7, |b| {
                let cache = b.alloc(40, cols, dtype).unwrap();
                let x = put(b, 31, cols, &random(1, 31 * cols));
                b.copy(cache.rows(3, 31), x);
                let bytes = {
                    let mut bytes = vec![0; 5 * dtype.row_bytes(cols).unwrap()];
                    quant::quantize(dtype, cols, &random(2, 5 * cols), &mut bytes, None);
                    bytes
                };
                b.write(cache.rows(8, 5), &bytes);
                b.write(cache.rows(21, 5), &bytes);
                b.copy(cache.rows(35, 1), x.rows(0, 1));
                let mut all = get(b, cache);
                all.extend(get(b, cache.rows(9, 3)));
                all
            });
        }
    }
}

#[test]
fn compiled_shaders_are_kept_on_disk() {
    let folder = std::env::temp_dir().join(format!("pumice-pipelines-{}", std::process::id()));
    let options = GpuOptions { pipeline_cache: Some(folder.join("new")), ..GpuOptions::default() };
    let run = || {
        let mut gpu = Gpu::new(&options).ok()?;
        let x = put(&mut gpu, 2, 64, &random(1, 128));
        gpu.gelu(x, Gelu::Erf);
        Some((get(&mut gpu, x), gpu.info().pipeline_cache))
    };
    let Some((first, kept)) = run() else { return eprintln!("skipped: no adapter") };
    let files = || -> Vec<_> {
        std::fs::read_dir(folder.join("new"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    assert_eq!(files().len(), usize::from(kept));
    for path in files() {
        // Cut short, changed, empty, and none at all: the shaders are compiled again and kept whole.
        let whole = std::fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for wrong in [&whole[..whole.len() / 2], &changed, &[], &whole[..5]] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(run().unwrap().0, first);
            assert_eq!(std::fs::read(&path).unwrap().len(), whole.len());
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(folder.join("new").join("other"), "").unwrap();
        assert_eq!(run().unwrap().0, first);
    }
    std::fs::remove_dir_all(&folder).ok();
    // Where nothing can be written all goes as well.
    let nowhere = GpuOptions { pipeline_cache: Some("/proc/nowhere".into()), ..GpuOptions::default() };
    assert!(Gpu::new(&nowhere).is_ok());
}
