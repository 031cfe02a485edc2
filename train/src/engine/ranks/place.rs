//! Which rank this process is, and the world that follows from it: its collectives and its device.
//!
//! The names are torchrun's (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`), so that any launcher made for PyTorch serves. The
//! program reads the environment; the library takes what it read.

use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use tch::Device;

use crate::{Error, Result};

use super::{Alone, Ranks, nccl::NcclRanks, store::StoreRanks};

/// How long a rank is waited for unless told otherwise: PyTorch's default for NCCL.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// A process's place in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This process, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub size: usize,
    /// Number of this process on its machine: its GPU.
    pub local_rank: usize,
    /// Name or address of rank 0's machine.
    pub addr: String,
    /// TCP port at which rank 0 serves.
    pub port: u16,
    /// Whether the launcher serves there already, so that rank 0 connects as the others do: torchrun's agent says so by
    /// `TORCHELASTIC_USE_AGENT_STORE=True`.
    pub served: bool,
    /// How long another rank is waited for.
    pub timeout: Duration,
}

impl Default for Place {
    /// One process.
    fn default() -> Self {
        Self {
            rank: 0,
            size: 1,
            local_rank: 0,
            addr: "127.0.0.1".into(),
            port: 29500,
            served: false,
            timeout: TIMEOUT,
        }
    }
}

impl Place {
    /// From torchrun's variables, which `get` looks up (`|name| std::env::var(name).ok()`); one process where `RANK` and `WORLD_SIZE` are not set.
    ///
    /// # Errors
    /// [`Error::Config`] names the variable that is missing or makes no sense.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if get("RANK").is_none() && get("WORLD_SIZE").is_none() {
            return Ok(Self::default());
        }
        let need = |name: &str| {
            get(name).ok_or_else(|| {
                Error::Config(format!("{name} is not set, but RANK or WORLD_SIZE is: a launcher such as torchrun sets all of them"))
            })
        };
        let place = Self {
            rank: number("RANK", &need("RANK")?)?,
            size: number("WORLD_SIZE", &need("WORLD_SIZE")?)?,
            local_rank: number("LOCAL_RANK", &need("LOCAL_RANK")?)?,
            addr: need("MASTER_ADDR")?,
            port: number("MASTER_PORT", &need("MASTER_PORT")?)?,
            served: get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|yes| yes == "True"),
            timeout: TIMEOUT,
        };
        if place.rank >= place.size {
            return Err(Error::Config(format!(
                "RANK={} with WORLD_SIZE={}: ranks count from 0 to WORLD_SIZE - 1",
                place.rank, place.size
            )));
        }
        Ok(place)
    }
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T> {
    text.trim().parse().map_err(|_| Error::Config(format!("{name}={text:?} is not a number in range")))
}

/// The collectives and the device of one process.
pub struct World {
    /// The other ranks.
    pub ranks: Box<dyn Ranks>,
    /// Where this rank computes.
    pub device: Device,
}

impl Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} on {:?}", self.ranks.rank(), self.ranks.size(), self.device)
    }
}

impl World {
    /// Joins the other ranks on a device of one's own choice, the same kind on all ranks.
    ///
    /// # Errors
    /// [`Error::Ranks`] when others are missing or run on another kind of device.
    pub fn on(place: &Place, device: Device) -> Result<Self> {
        let ranks: Box<dyn Ranks> = match device {
            _ if place.size == 1 => Box::new(Alone),
            Device::Cuda(gpu) => Box::new(NcclRanks::new(place, gpu)?),
            _ => Box::new(StoreRanks::new(place)?),
        };
        Ok(Self { ranks, device })
    }
}
