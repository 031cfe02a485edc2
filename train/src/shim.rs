//! The few functions of libtorch that tch does not bind, through `shim.cpp`. With `shim/` and `map.rs`, the only unsafe code of the crate.

pub mod nccl;
pub mod process;
pub mod store;

use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn pumice_error() -> *const std::ffi::c_char;
    fn pumice_adamw(
        p: *const *mut C_tensor,
        g: *const *mut C_tensor,
        m: *const *mut C_tensor,
        v: *const *mut C_tensor,
        t: *const *mut C_tensor,
        n: i32,
        lr: f64,
        b1: f64,
        b2: f64,
        decay: f64,
        eps: f64,
    ) -> i32;
    fn pumice_peak_memory(device: i32) -> i64;
    fn pumice_tf32(on: i32) -> i32;
}

/// What libtorch said of the last call that failed on this thread.
#[derive(Debug, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct TorchError(pub String);

fn check(code: i32) -> Result<(), TorchError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: pumice_error returns a NUL-terminated string that lives until the thread's next error.
    let text = unsafe { std::ffi::CStr::from_ptr(pumice_error()) };
    Err(TorchError(text.to_string_lossy().into_owned()))
}

/// Settings of [`adamw`]: `lr` per step; `betas`, `eps` and `decay` as in torch.optim.AdamW (Loshchilov & Hutter, 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub decay: f64,
}

/// One AdamW step in place over equally long lists: parameters, gradients, both moments (same shape, dtype and device, contiguous) and step counts (one f32 each).
pub fn adamw(
    p: &[&Tensor],
    g: &[&Tensor],
    m: &[&Tensor],
    v: &[&Tensor],
    t: &[&Tensor],
    with: &AdamW,
) -> Result<(), TorchError> {
    assert!(
        [g.len(), m.len(), v.len(), t.len()].iter().all(|n| *n == p.len()),
        "adamw: lists of unequal length"
    );
    // libtorch's CPU kernel walks all four by the parameter's length, whatever theirs is.
    for (i, p) in p.iter().enumerate() {
        let alike = |t: &Tensor| {
            t.size() == p.size() && t.kind() == p.kind() && t.device() == p.device() && t.is_contiguous()
        };
        assert!([p, g[i], m[i], v[i]].iter().all(|t| alike(t)), "adamw: tensors {i} are not alike");
        assert!(t[i].numel() == 1 && t[i].kind() == tch::Kind::Float, "adamw: count {i} is not one f32");
    }
    let raw = |list: &[&Tensor]| list.iter().map(|t| t.as_ptr().cast_mut()).collect::<Vec<_>>();
    let (p, g, m, v, t) = (raw(p), raw(g), raw(m), raw(v), raw(t));
    // SAFETY: each list holds p.len() live tensors for the length of the call, alike as checked above; the shim keeps none of them.
    check(unsafe {
        pumice_adamw(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            t.as_ptr(),
            p.len() as i32,
            with.lr,
            with.betas.0,
            with.betas.1,
            with.decay,
            with.eps,
        )
    })
}

/// Most bytes that were ever allocated on accelerator `device`; `None` where it does not tell (the CPU).
pub fn peak_memory(device: usize) -> Option<u64> {
    // SAFETY: takes a number, returns a number, catches every exception.
    u64::try_from(unsafe { pumice_peak_memory(device as i32) }).ok()
}

/// Lets CUDA multiply f32 matrices with TF32 (LLaVA's recipe has it on).
pub fn set_tf32(on: bool) -> Result<(), TorchError> {
    // SAFETY: takes a number; exceptions are caught.
    check(unsafe { pumice_tf32(on.into()) })
}

/// Opens libtorch's CUDA half, which the linker leaves out of the binary; whether it is there. To be called first in `main`: libtorch asks once
/// which devices it has, and remembers.
pub fn load_cuda() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    // SAFETY: a NUL-terminated name; the library's constructors register its kernels and it is never closed.
    !unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null()
}
