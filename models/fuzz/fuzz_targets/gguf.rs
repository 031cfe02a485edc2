//! Any bytes as a GGUF file: no panic, no more memory than the bytes justify; tensors lie where they say.

#![no_main]

use pumice_kernels::Bytes;
use pumice_models::gguf::File;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(file) = File::from_bytes("fuzz.gguf", Bytes::new(data.to_vec())) else { return };
    for t in file.tensors() {
        assert_eq!(file.bytes(t).len(), t.bytes);
        assert_eq!(file.tensor(&t.name), Some(t));
        let _ = (file.need_tensor(&t.name), t.elements());
    }
    for (key, value) in file.keys() {
        assert!(file.get(key).is_some_and(|v| std::ptr::eq(v, value)));
        let _ = (file.u32(key), file.f32(key), file.str(key), file.bool(key));
        let _ = (file.strings(key), file.floats(key), file.integers(key));
    }
});
