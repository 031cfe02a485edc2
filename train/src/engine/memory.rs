//! A full device, told as an error: tch turns what libtorch throws into panics.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use crate::{Error, Result};

/// What libtorch's allocators say where there is no more memory: of CUDA and MPS, of the CPU on Windows, of the CPU elsewhere.
const FULL: [&str; 3] = ["out of memory", "not enough memory", "can't allocate memory"];

/// Runs `work`; a panic that says the device's memory is full becomes the error `full`, any other goes on.
///
/// # Errors
/// `full`, and those of `work`.
pub fn or_full<T>(full: Error, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let says = text(&*panic).is_some_and(|text| FULL.iter().any(|full| text.contains(full)));
        if says { Err(full) } else { resume_unwind(panic) }
    })
}

/// A panic's message.
fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_names_what_did_not_fit_and_what_to_lower() {
        // As tch reports torch.OutOfMemoryError: the exception's text inside a panic's message.
        let full = |text: &str| -> Result<()> {
            or_full(Error::Memory { rows: 16, tokens: 9216 }, || {
                panic!("called `Result::unwrap()` on an `Err` value: Torch(\"{text}\")")
            })
        };
        for text in ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you tried"] {
            let said = full(text).expect_err("a full device").to_string();
            assert!(
                said.contains("a batch of 16 rows (9216 positions") && said.contains("lower the batch size"),
                "{said}"
            );
        }
        let model: Result<()> = or_full(Error::ModelMemory, || panic!("CUDA out of memory"));
        assert!(model.expect_err("a full device").to_string().contains("--zero 3"));
        assert!(catch_unwind(|| full("a bug")).is_err(), "other panics go on");
        assert_eq!(or_full(Error::ModelMemory, || Ok(3)).expect("room"), 3);
    }
}
