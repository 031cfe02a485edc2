//! Any bytes as a pickle: no panic, no memory beyond a small multiple of the input.

#![no_main]

use std::path::Path;

use pumice_models::checkpoint::pickle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(tensors) = pickle::tensors(Path::new("fuzz.pkl"), 0, data) else { return };
    for (_, stored) in tensors {
        let _ = stored.contiguous();
    }
});
