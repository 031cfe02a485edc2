//! What a device gives our own ops at most, where it tells no limits itself: copying, and large products.
//!
//! A graphics processor has no instruction that a program could time by itself, so its limits are taken from ops that do nothing else:
//! a copy for memory, and a product of matrices so large that all of the device works. These are limits of what is
//! computed here: a better kernel would raise them. Sizes grow until a burst is long beside what it costs to submit
//! and to wait; software that poses as a device stays at small ones.

use std::time::{Duration, Instant};

use crate::{Backend, Bytes, DType, Result, Tensor, quant};

/// A burst shorter than this says more of submitting and waiting than of the device.
const ENOUGH: Duration = Duration::from_millis(20);
/// Bursts, of which the fastest counts.
const BURSTS: usize = 3;
/// Columns of the matrices that are copied.
const WIDTH: usize = 4096;
/// Rows of them: 4 MB to 256 MB, more than any cache.
const COPIES: [usize; 4] = [256, 1024, 4096, 16384];
/// Weight rows and columns, and rows of a product: up to the largest of LLaMA-7B by a prompt.
const PRODUCTS: [(usize, usize); 3] = [(256, 64), (1024, 256), (4096, 512)];

/// What a device does at most, per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceRates {
    /// Bytes read and written by a copy.
    pub copy: f64,
    /// Operations of a product with weights of 8 bits.
    pub int8: f64,
    /// With weights of 16 bits.
    pub f16: f64,
    /// With weights of 32 bits.
    pub f32: f64,
}

/// Measures the device of `b`. The memory that it takes there, up to half a gigabyte, is given back only with `b` itself.
///
/// # Errors
/// The memory is not to be had, or the device fails.
pub fn device_rates(b: &mut dyn Backend) -> Result<DeviceRates> {
    Ok(DeviceRates {
        copy: copy(b)?,
        int8: product(b, DType::Q8_0)?,
        f16: product(b, DType::F16)?,
        f32: product(b, DType::F32)?,
    })
}

/// Bytes a second that a copy reads and writes.
fn copy(b: &mut dyn Backend) -> Result<f64> {
    let mut rate = 0.0;
    for rows in COPIES {
        let (x, y) = (b.alloc(rows, WIDTH, DType::F32)?, b.alloc(rows, WIDTH, DType::F32)?);
        let (time, calls) = burst(b, y, &mut |b| b.copy(y, x))?;
        rate = (2 * calls * rows * WIDTH * size_of::<f32>()) as f64 / time.as_secs_f64();
        if time / calls as u32 >= ENOUGH {
            break;
        }
    }
    Ok(rate)
}

/// Operations a second of a product with weights of `dtype`.
fn product(b: &mut dyn Backend, dtype: DType) -> Result<f64> {
    let mut rate = 0.0;
    for (side, rows) in PRODUCTS {
        let values: Vec<f32> = (0..256 * side).map(|i| ((i * 37 % 255) as f32 - 127.0) / 127.0).collect();
        let mut some = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
        quant::quantize(dtype, 256, &values, &mut some, None);
        let w = b.load(Bytes::new(some.repeat(side / 256)), side, side, dtype)?;
        let (x, y) = (b.alloc(rows, side, DType::F32)?, b.alloc(rows, side, DType::F32)?);
        b.write(x, bytemuck::cast_slice(&values.repeat(rows.div_ceil(256))[..rows * side]));
        let (time, calls) = burst(b, y, &mut |b| b.matmul(y, x, w, None))?;
        rate = (2 * calls * side * side * rows) as f64 / time.as_secs_f64();
        if time / calls as u32 >= ENOUGH {
            break;
        }
    }
    Ok(rate)
}

/// The fastest burst of calls of `op`, which writes `y`: its time, and how many calls it had.
fn burst(b: &mut dyn Backend, y: Tensor, op: &mut dyn FnMut(&mut dyn Backend)) -> Result<(Duration, usize)> {
    let mut element = vec![0.0; y.cols];
    let mut calls = |n: usize| -> Result<Duration> {
        let start = Instant::now();
        (0..n).for_each(|_| op(b));
        b.read(&mut element, y.rows(0, 1))?;
        Ok(start.elapsed())
    };
    // The first makes what is made once: kernels, room.
    calls(1)?;
    let mut n = 1;
    let mut best = calls(n)?;
    while best < ENOUGH && n < 1 << 10 {
        n *= 2;
        best = calls(n)?;
    }
    for _ in 1..BURSTS {
        best = best.min(calls(n)?);
    }
    Ok((best.max(Duration::from_nanos(1)), n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, CpuOptions, count::Op};

    #[test]
    fn a_processor_as_a_device() {
        let mut b = crate::Count::new(Cpu::new(CpuOptions { threads: 1, isa: None }));
        let rates = device_rates(&mut b).unwrap();
        let DeviceRates { copy, int8, f16, f32 } = rates;
        // From the slowest board to a server; a rate of another unit would be out of it.
        assert!((1e8..1e13).contains(&copy), "{rates:?}");
        assert!([int8, f16, f32].iter().all(|rate| (1e8..1e14).contains(rate)), "{rates:?}");
        // What was counted is what the rates are of: a gigabyte a second at the least, for some bursts of 20 ms.
        assert!(b.of(Op::Copy).calls > 4 && b.of(Op::Matmul).calls > 12);
    }
}
