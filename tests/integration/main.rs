//! The one integration test binary: the house's own rules, and the program as a person runs it.

mod bad_input;
mod chatting;
mod house;
mod program;
