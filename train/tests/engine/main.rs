//! The engine against plain autograd, against transformers' loss curve, over ranks, and through kills.

mod curve;
mod gradients;
mod ranks;
mod resume;
mod small;
mod speed;
mod watch;
