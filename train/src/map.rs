//! Tensors of a checkpoint as libtorch's, over the mapped file.
//!
//! A checkpoint of 13 GB opens at once and costs no memory until it is read; what stays frozen is paged in and out by the system. libtorch
//! gets the bytes together with their owner, so that the map lives as long as any tensor or view of it.

use std::ffi::c_void;

use pumice_kernels::Bytes;
use pumice_models::{
    Error,
    checkpoint::{self, Element},
};
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn pumice_borrow(
        data: *mut c_void,
        sizes: *const i64,
        dims: i32,
        kind: i32,
        owner: *mut c_void,
        drop: extern "C" fn(*mut c_void),
    ) -> *mut C_tensor;
}

/// Lets go of the owner that [`borrow`] handed to libtorch.
extern "C" fn let_go(owner: *mut c_void) {
    // SAFETY: `owner` came from Box::into_raw of a Box<Bytes> in `borrow`, and libtorch calls this once, for the last user of the memory.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// c10's number of a kind of floats.
fn scalar_type(kind: Kind) -> Option<i32> {
    match kind {
        Kind::Half => Some(5),
        Kind::Float => Some(6),
        Kind::Double => Some(7),
        Kind::BFloat16 => Some(15),
        _ => None,
    }
}

/// A tensor over `bytes`, which hold `shape` elements of `kind`; `None` where they are too few, not aligned, or libtorch refuses.
///
/// The memory may be a read-only map: a tensor made here must not be written in place (units that are trained copy theirs).
fn borrow(bytes: &Bytes, shape: &[i64], kind: Kind) -> Option<Tensor> {
    let (size, count) = (kind.elt_size_in_bytes(), shape.iter().product::<i64>());
    let data = bytes.as_ptr();
    if usize::try_from(count).ok()?.checked_mul(size)? != bytes.len() || data.align_offset(size) != 0 {
        return None;
    }
    let kind = scalar_type(kind)?;
    let owner = Box::into_raw(Box::new(bytes.clone())).cast::<c_void>();
    // SAFETY: `data` points to shape·size bytes, aligned, which `owner` keeps in place (a Bytes never moves what it owns) until libtorch
    // calls `let_go`; any bit pattern is a number of `kind`.
    let tensor = unsafe {
        pumice_borrow(data.cast_mut().cast(), shape.as_ptr(), shape.len() as i32, kind, owner, let_go)
    };
    if tensor.is_null() {
        // libtorch took no ownership where it threw.
        let_go(owner);
        return None;
    }
    // SAFETY: a fresh at::Tensor from the shim, whose ownership passes to the wrapper.
    Some(unsafe { Tensor::from_ptr(tensor) })
}

/// `tensor` as libtorch's, in its own kind (f32, f16, bf16, f64) on the CPU: over the mapped bytes where they are aligned, else copied.
/// It must only be read.
///
/// # Errors
/// Its elements are no floats.
pub fn tensor(tensor: &checkpoint::Tensor) -> Result<Tensor, Error> {
    let kind = match tensor.element {
        Element::F64 => Kind::Double,
        Element::F32 => Kind::Float,
        Element::F16 => Kind::Half,
        Element::BF16 => Kind::BFloat16,
        other => {
            let what = format!(
                "has elements of type {other}; training starts from floats, so take the checkpoint before it was quantized"
            );
            return Err(Error::tensor(&tensor.file, &tensor.name, what));
        }
    };
    let shape: Vec<i64> = tensor.shape.iter().map(|&n| n as i64).collect();
    match borrow(&tensor.bytes, &shape, kind) {
        Some(tensor) => Ok(tensor),
        None => Tensor::f_from_data_size(&tensor.bytes, &shape, kind).map_err(|e| {
            Error::tensor(&tensor.file, &tensor.name, format!("cannot be read ({e}); fetch it again"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// Sixteen bytes that tell when they are dropped.
    struct Watched([u64; 2], Arc<AtomicBool>);

    impl AsRef<[u8]> for Watched {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }

    impl pumice_kernels::bytes::Owner for Watched {}

    impl Drop for Watched {
        fn drop(&mut self) {
            self.1.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_bytes_live_as_long_as_a_view_and_are_not_copied() {
        let gone = Arc::new(AtomicBool::new(false));
        let words = [1.5_f32.to_bits(), 2.5_f32.to_bits(), 0, 7.0_f32.to_bits()];
        let pairs = [words[0] as u64 | (words[1] as u64) << 32, words[2] as u64 | (words[3] as u64) << 32];
        let bytes = Bytes::new(Watched(pairs, Arc::clone(&gone)));
        let at = bytes.as_ptr() as usize;
        let tensor = borrow(&bytes, &[2, 2], Kind::Float).expect("aligned bytes");
        drop(bytes);
        assert_eq!(tensor.data_ptr() as usize, at, "zero copy");
        let view = tensor.select(0, 1);
        drop(tensor);
        assert!(!gone.load(Ordering::SeqCst), "a view still reads");
        assert_eq!(Vec::<f32>::try_from(&view).expect("floats"), [0.0, 7.0]);
        drop(view);
        assert!(gone.load(Ordering::SeqCst), "nothing reads any more");
    }

    #[test]
    fn bytes_that_do_not_fit_are_not_borrowed() {
        let bytes = Bytes::new(vec![0u8; 16]);
        assert!(borrow(&bytes, &[5], Kind::Float).is_none(), "too few");
        let odd = bytes.slice(1..5).expect("inside");
        assert!(borrow(&odd, &[1], Kind::Float).is_none(), "not aligned");
    }
}
