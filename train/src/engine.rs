//! A training step: forward and backward layer by layer, accumulation, clipping, AdamW on this rank's shards, the learning rate, resumable state.

pub mod ranks;
