//! Ops do not allocate: memory is planned and reserved by `load` and `alloc`, so that nothing can fail in the middle of an answer.
//!
//! A file of its own, because the counting allocator is the whole program's.

use pumice_kernels::{Backend, Bytes, Cpu, CpuOptions, DType, Gelu, Isa, Tensor};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations during `f`.
fn allocations(f: impl FnOnce()) -> usize {
    let before = CALLS.load(SeqCst);
    f();
    CALLS.load(SeqCst) - before
}

/// A weight of `dtype` whose blocks are all zeros.
fn weight(cpu: &mut Cpu, rows: usize, cols: usize, dtype: DType) -> Tensor {
    let bytes = Bytes::new(vec![0; rows * dtype.row_bytes(cols).unwrap()]);
    cpu.load(bytes, rows, cols, dtype).unwrap()
}

#[test]
fn ops_do_not_allocate() {
    for isa in Isa::available() {
        for threads in [1, 2] {
            let mut cpu = Cpu::new(CpuOptions { threads, isa: Some(isa) });
            let (n, k) = (70, 512);
            let mut f32 = |rows, cols| cpu.alloc(rows, cols, DType::F32).unwrap();
            let (x, y, z, row, freqs) = (f32(n, k), f32(n, k), f32(n, k), f32(1, k), f32(1, 32));
            let top = f32(n, 2 * 40);
            let weights: Vec<Tensor> = DType::ALL
                .into_iter()
                .filter(|t| *t != DType::I32)
                .map(|t| weight(&mut cpu, k, k, t))
                .collect();
            let caches = [DType::F32, DType::F16, DType::Q8_0]
                .map(|t| (cpu.alloc(100, k, t).unwrap(), cpu.alloc(100, k, t).unwrap()));
            let ids = cpu.alloc(n, 1, DType::I32).unwrap();
            let all = |cpu: &mut Cpu| {
                for rows in [1, 3, n] {
                    let (x, y, z, ids) =
                        (x.rows(0, rows), y.rows(0, rows), z.rows(0, rows), ids.rows(0, rows));
                    for w in &weights {
                        cpu.matmul(y, x, *w, Some(row));
                        cpu.get_rows(y, *w, ids);
                    }
                    for (key, value) in caches {
                        cpu.copy(key.rows(0, rows), x);
                        cpu.attention(z, y, key, value, Some(ids), 64);
                        cpu.attention(z, y, key, value, None, 64);
                    }
                    cpu.rms_norm(y, x, row, 1e-5);
                    cpu.layer_norm(y, x, row, row, 1e-5);
                    cpu.rope(y, ids, freqs, 64);
                    cpu.swiglu(y, x);
                    [Gelu::Erf, Gelu::Quick, Gelu::Tanh].into_iter().for_each(|kind| cpu.gelu(y, kind));
                    cpu.add(y, x);
                    cpu.add(y, row);
                    cpu.top_k(top.rows(0, rows), x, k - 1);
                }
            };
            // A job in which all threads take part: starting them allocates.
            cpu.add(x, y);
            // Twice, as the test harness may allocate meanwhile; an op that does, does so each time.
            let least = (0..2).map(|_| allocations(|| all(&mut cpu))).min();
            assert_eq!(least, Some(0), "{}", cpu.name());
            assert!(allocations(|| drop(cpu.alloc(1, 8, DType::F32))) > 0, "the counter counts");
        }
    }
}
