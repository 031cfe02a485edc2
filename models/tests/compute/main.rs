//! What LLaMA, CLIP and the projector compute, and what their configs refuse, on tiny random models made in memory.
//!
//! `naive` computes the same functions in f64, from the formulas and in another order; `tiny` makes the models.

mod clip;
mod config;
mod llama;
mod naive;
mod plan;
mod split;
mod tiny;
