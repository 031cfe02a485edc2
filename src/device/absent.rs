//! No graphics processors: the program was built without them (feature `gpu`).

use std::convert::Infallible;

use pumice_kernels::{Backend, split::Share};

use super::{Choice, Placing, Reports};
use crate::{Usage, devices::Row};

/// Whether this program can use any.
pub const BUILT: bool = false;

/// None.
pub fn rows() -> Vec<Row> {
    Vec::new()
}

/// There is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter(Infallible);

/// There is none.
pub struct Device(Infallible);

/// No adapter; an error where one is asked for.
pub fn pick(choice: Choice, flag: &str) -> anyhow::Result<Option<Adapter>> {
    match choice {
        Choice::Auto | Choice::Cpu => Ok(None),
        Choice::Gpu(_) => Err(Usage(format!(
            "{flag} gpu: this pumice was built without GPUs (the feature gpu); build it with them, or take --device cpu"
        ))
        .into()),
    }
}

impl Adapter {
    pub fn is_unified(&self) -> bool {
        match self.0 {}
    }

    pub fn is_software(&self) -> bool {
        match self.0 {}
    }

    pub fn name(&self) -> &str {
        match self.0 {}
    }

    pub fn interface(&self) -> &str {
        match self.0 {}
    }

    pub fn open(&self) -> anyhow::Result<Device> {
        match self.0 {}
    }

    pub fn backend(&self, _: bool) -> anyhow::Result<Box<dyn Backend>> {
        match self.0 {}
    }
}

impl Device {
    pub fn name(&self) -> String {
        match self.0 {}
    }

    pub fn fits(&mut self, _: u64) -> bool {
        match self.0 {}
    }

    pub fn alone(self, _: &Placing<'_>, _: &mut Reports) -> Box<dyn Backend> {
        match self.0 {}
    }

    pub fn split(self, _: &Placing<'_>, _: Share, _: &mut Reports) -> Box<dyn Backend> {
        match self.0 {}
    }
}
