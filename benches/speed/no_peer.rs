//! In the place of `peer` where the feature is off: nobody to compare with.

use std::path::Path;

use pumice_kernels::{Bytes, DType};
use pumice_models::gguf::File;

use crate::{
    attention,
    duel::{Bench, Side},
};

/// Who it is.
pub fn about() -> Option<String> {
    None
}

pub fn products(_: usize, _: DType, _: (usize, usize), _: &[Bytes], _: &[f32]) -> Vec<Box<dyn Side>> {
    Vec::new()
}

pub fn attention(_: usize, _: attention::Shape, _: &[f32], _: &[u8], _: &[u8]) -> Vec<Box<dyn Side>> {
    Vec::new()
}

pub fn clip_block(_: usize, _: &File, _: &[f32]) -> Vec<Box<dyn Side>> {
    Vec::new()
}

pub fn open(_: &Path) -> Vec<Box<dyn Side>> {
    Vec::new()
}

pub fn whole_model(_: &mut Bench) {}
