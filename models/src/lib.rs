//! What CLIP, the projector and Vicuna compute, and how a model is stored.

pub mod names;
