//! Any bytes as a file of weights (safetensors, zip with a pickle): no panic; tensors convert within their bounds.

#![no_main]

use std::path::Path;

use pumice_kernels::Bytes;
use pumice_models::checkpoint::read;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(tensors) = read(Path::new("fuzz.bin"), Bytes::new(data.to_vec())) else { return };
    for t in tensors {
        if let Some(size) = t.element.bytes() {
            assert_eq!(t.elements() * size, t.bytes.len(), "{t:?}");
        }
        assert_eq!(t.rows() * t.cols(), t.elements());
        let mut out = vec![0.0; t.elements().min(5000)];
        let _ = t.to_f32(0, &mut out);
    }
});
