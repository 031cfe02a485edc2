//! A text model in llama.cpp, through its C interface (`llama.h`): loaded as llama-bench loads it.
#![allow(unsafe_code, reason = "calls into C")]

use std::{ffi::CString, path::Path};

use llama_cpp_sys_2 as sys;

/// A model, its cache, and its threads.
pub struct Llama {
    model: *mut sys::llama_model,
    context: *mut sys::llama_context,
    threads: *mut sys::ggml_threadpool,
    /// Positions in the cache.
    length: usize,
    vocab: usize,
}

impl Llama {
    /// The model at `path`, with a cache of `length` positions; its weights repacked where llama.cpp does so, or as they lie in the file.
    ///
    /// # Panics
    /// llama.cpp does not load it, or has no memory for it.
    pub fn open(path: &Path, length: usize, threads: usize, repack: bool) -> Self {
        let name = CString::new(path.to_str().expect("a path in UTF-8")).expect("no zeros in a path");
        let count = i32::try_from(threads).expect("a number of threads");
        // SAFETY: the path ends in zero and outlives the call; parameters are llama.cpp's defaults with numbers changed; what it returns is checked.
        // The threads outlive the context that is told of them.
        unsafe {
            sys::llama_backend_init();
            let model = {
                let mut params = sys::llama_model_default_params();
                params.use_extra_bufts = repack;
                sys::llama_model_load_from_file(name.as_ptr(), params)
            };
            assert!(
                !model.is_null(),
                "{}: llama.cpp does not load it; it takes text models without a tower",
                path.display()
            );
            let mut params = sys::llama_context_default_params();
            params.n_ctx = u32::try_from(length).expect("a length");
            params.n_batch = params.n_ctx;
            (params.n_threads, params.n_threads_batch) = (count, count);
            let context = sys::llama_init_from_model(model, params);
            let mut params = sys::ggml_threadpool_params_default(count);
            let threads = sys::ggml_threadpool_new(&raw mut params);
            assert!(
                !context.is_null() && !threads.is_null(),
                "{}: llama.cpp has no memory for it",
                path.display()
            );
            sys::llama_attach_threadpool(context, threads, threads);
            let vocab = sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(model));
            Self { model, context, threads, length, vocab: vocab as usize }
        }
    }

    /// Computes `tokens` at positions `first` and on; what stood there is forgotten. Logits are those of the last.
    pub fn forward(&mut self, tokens: &[u32], first: usize) {
        assert!(
            first + tokens.len() <= self.length && tokens.iter().all(|t| (*t as usize) < self.vocab),
            "tokens that fit"
        );
        let mut tokens: Vec<sys::llama_token> = tokens.iter().map(|t| *t as sys::llama_token).collect();
        // SAFETY: the context lives; the batch points to `tokens`, which outlive the call, and goes on where the cache ends.
        let status = unsafe {
            sys::llama_memory_seq_rm(sys::llama_get_memory(self.context), 0, first as i32, -1);
            sys::llama_decode(
                self.context,
                sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32),
            )
        };
        assert_eq!(status, 0, "llama.cpp failed at a batch");
    }

    /// The logits of the last token.
    pub fn logits(&self) -> Vec<f32> {
        // SAFETY: after a batch there is a row as long as the vocabulary, which stays until the next.
        unsafe {
            let row = sys::llama_get_logits_ith(self.context, -1);
            assert!(!row.is_null(), "logits after a batch");
            std::slice::from_raw_parts(row, self.vocab).to_vec()
        }
    }

    /// Puts the threads to sleep; the next batch wakes them.
    pub fn rest(&mut self) {
        // SAFETY: the threads are this model's and have nothing to do.
        unsafe { sys::ggml_threadpool_pause(self.threads) };
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // SAFETY: each is this model's and goes once, the context before what it uses.
        unsafe {
            sys::llama_free(self.context);
            sys::llama_model_free(self.model);
            sys::ggml_threadpool_free(self.threads);
        }
    }
}
