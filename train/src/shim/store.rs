//! `c10d::TCPStore`, the meeting point of a run's processes: keys and bytes, served by one of them over TCP.
//!
//! It is the store that torchrun's own rendezvous uses, so one port and one address serve both, and libtorch keeps the protocol.

use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

#[repr(C)]
struct Raw([u8; 0]);

unsafe extern "C" {
    fn pumice_ranks_error() -> *const c_char;
    fn pumice_free(p: *mut u8);
    fn pumice_store_new(
        host: *const c_char,
        port: u16,
        server: c_int,
        timeout: i64,
        out: *mut *mut Raw,
        bound: *mut u16,
    ) -> c_int;
    fn pumice_store_drop(s: *mut Raw);
    fn pumice_store_set(s: *mut Raw, key: *const c_char, data: *const u8, n: usize) -> c_int;
    fn pumice_store_wait(s: *mut Raw, key: *const c_char, timeout: i64) -> c_int;
    fn pumice_store_get(s: *mut Raw, key: *const c_char, out: *mut *mut u8, n: *mut usize) -> c_int;
    fn pumice_store_add(s: *mut Raw, key: *const c_char, by: i64, out: *mut i64) -> c_int;
    fn pumice_store_delete(s: *mut Raw, key: *const c_char, stood: *mut c_int) -> c_int;
}

/// Why a call to another process came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answered in time.
    #[error("no answer in time ({0})")]
    Late(String),
    /// The connection or the library failed.
    #[error("{0}")]
    Broken(String),
}

/// The result of a C function of `shim_ranks.cpp`.
pub(super) fn check(code: c_int) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: pumice_ranks_error returns a NUL-terminated string that lives until this thread's next error.
    let text = unsafe { CStr::from_ptr(pumice_ranks_error()) }.to_string_lossy().trim().to_string();
    Err(if code == 2 { Failure::Late(text) } else { Failure::Broken(text) })
}

/// Milliseconds for c10d, where 0 would mean "forever".
fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).clamp(1, i64::from(i32::MAX))
}

fn text(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::Broken(format!("{text:?} holds a NUL")))
}

/// A connection to the store; on one process, the server too (it ends with the value).
#[derive(Debug)]
pub struct Store {
    raw: *mut Raw,
    port: u16,
}

// SAFETY: a TCPStore may be used from any thread; it locks its connection for the length of each call.
unsafe impl Send for Store {}

impl Store {
    /// Serves at `port` (0: one that the system chooses) where `server`, and connects to `host:port`, trying for `timeout`.
    ///
    /// # Errors
    /// The port is taken, or nobody serves at `host:port` within `timeout`.
    pub fn new(host: &str, port: u16, server: bool, timeout: Duration) -> Result<Self, Failure> {
        let host = text(host)?;
        let (mut raw, mut bound) = (std::ptr::null_mut(), 0);
        // SAFETY: the string and both places live for the call; on success `raw` is ours until pumice_store_drop.
        check(unsafe {
            pumice_store_new(host.as_ptr(), port, server.into(), ms(timeout), &raw mut raw, &raw mut bound)
        })?;
        Ok(Self { raw, port: bound })
    }

    /// The port served or connected to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Puts `value` (at most 8 MiB: the server refuses more) under `key`.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        let key = text(key)?;
        // SAFETY: key and value live for the call, which copies them.
        check(unsafe { pumice_store_set(self.raw, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Waits until `key` stands.
    ///
    /// # Errors
    /// [`Failure::Late`] after `timeout`, [`Failure::Broken`] once the server is gone.
    pub fn wait(&self, key: &str, timeout: Duration) -> Result<(), Failure> {
        let key = text(key)?;
        // SAFETY: the key lives for the call.
        check(unsafe { pumice_store_wait(self.raw, key.as_ptr(), ms(timeout)) })
    }

    /// Waits for `key` as [`wait`](Self::wait) does, and returns its value.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, Failure> {
        self.wait(key, timeout)?;
        let key = text(key)?;
        let (mut data, mut n) = (std::ptr::null_mut(), 0);
        // SAFETY: key and both places live for the call; on success `data` holds `n` bytes that are ours to free.
        check(unsafe { pumice_store_get(self.raw, key.as_ptr(), &raw mut data, &raw mut n) })?;
        // SAFETY: as above; `data` is not null even for n = 0, and is read before it is freed.
        let value = unsafe { std::slice::from_raw_parts(data, n) }.to_vec();
        // SAFETY: `data` came from malloc and is not used again.
        unsafe { pumice_free(data) };
        Ok(value)
    }

    /// Adds `by` to the number under `key` (0 at first) and returns the sum.
    pub fn add(&self, key: &str, by: i64) -> Result<i64, Failure> {
        let key = text(key)?;
        let mut sum = 0;
        // SAFETY: the key and the place live for the call.
        check(unsafe { pumice_store_add(self.raw, key.as_ptr(), by, &raw mut sum) })?;
        Ok(sum)
    }

    /// Takes `key` away; whether it stood.
    pub fn delete(&self, key: &str) -> Result<bool, Failure> {
        let key = text(key)?;
        let mut stood = 0;
        // SAFETY: the key and the place live for the call.
        check(unsafe { pumice_store_delete(self.raw, key.as_ptr(), &raw mut stood) })?;
        Ok(stood != 0)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: `raw` came from pumice_store_new and is not used again.
        unsafe { pumice_store_drop(self.raw) }
    }
}
