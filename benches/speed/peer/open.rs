//! ggml's reading of a GGUF header.
#![allow(unsafe_code, reason = "calls into C")]

use std::{
    ffi::{CString, c_char},
    path::Path,
    ptr,
};

use llama_cpp_sys_2 as sys;

use crate::duel::Side;

/// The file at `path`, opened as llama.cpp opens it.
pub fn open(path: &Path) -> Vec<Box<dyn Side>> {
    let path = CString::new(path.to_str().expect("a folder of UTF-8 name")).expect("no zeros in a path");
    vec![Box::new(Open { path, found: [0.0; 3] })]
}

struct Open {
    path: CString,
    /// Keys, tensors, words.
    found: [f32; 3],
}

impl Side for Open {
    fn name(&self) -> String {
        "ggml".into()
    }

    fn run(&mut self) {
        const WORDS: *const c_char = c"tokenizer.ggml.tokens".as_ptr();
        let params = sys::gguf_init_params { no_alloc: true, ctx: ptr::null_mut() };
        // SAFETY: both strings end in zero; the context is checked, used before it is freed, and freed once; the key's number is one of
        // its own, and of an array (the bench wrote the file).
        self.found = unsafe {
            let file = sys::gguf_init_from_file(self.path.as_ptr(), params);
            assert!(!file.is_null(), "ggml does not open {:?}", self.path);
            let words = sys::gguf_find_key(file, WORDS);
            assert!(words >= 0, "ggml does not find the words of {:?}", self.path);
            let words = sys::gguf_get_arr_n(file, words);
            let found = [sys::gguf_get_n_kv(file) as f32, sys::gguf_get_n_tensors(file) as f32, words as f32];
            sys::gguf_free(file);
            found
        };
    }

    fn result(&mut self) -> Vec<f32> {
        self.found.to_vec()
    }
}
