//! The one integration test binary: the house's own rules, LLaVA's truth, and the program as a person runs it.

mod bad_input;
mod bench;
#[cfg(feature = "gpu")]
mod bench_devices;
mod bench_limits;
mod chatting;
mod demo;
mod devices;
mod falling_back;
mod golden;
mod house;
mod inspecting;
mod llama_cpp;
mod perplexity;
mod program;
mod verifying;
