//! Which devices are here: what a run computes on, and what its estimate is for.

use std::process::Command;

use pumice_train::{
    Error, Result,
    engine::ranks::place::Place,
    recipe::{DeviceChoice, Kind, estimate::Machine},
};
use tch::{Cuda, Device, utils};

/// The device of this rank.
///
/// # Errors
/// The device that was asked for is not here.
pub fn choose(choice: DeviceChoice, place: &Place) -> Result<Device> {
    let gpus = Cuda::device_count();
    let no =
        |what: &str| Err(Error::Config(format!("--device {what}; leave --device out to take what is here")));
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Mps if !utils::has_mps() => {
            no("mps: this machine has no MPS, or this libtorch has none")
        }
        DeviceChoice::Cuda if gpus == 0 => no(
            "cuda: libtorch sees no CUDA device (is it the CPU's libtorch? train/get-libtorch.sh --python takes the torch of python3)",
        ),
        DeviceChoice::Mps => Ok(Device::Mps),
        DeviceChoice::Auto if gpus == 0 && place.size == 1 && utils::has_mps() => Ok(Device::Mps),
        DeviceChoice::Auto if gpus == 0 => Ok(Device::Cpu),
        DeviceChoice::Auto | DeviceChoice::Cuda if place.local_rank as i64 >= gpus => {
            Err(Error::Config(format!(
                "LOCAL_RANK={}, but this machine shows {gpus} GPU(s): start at most {gpus} ranks on it, or see CUDA_VISIBLE_DEVICES",
                place.local_rank
            )))
        }
        DeviceChoice::Auto | DeviceChoice::Cuda => Ok(Device::Cuda(place.local_rank)),
    }
}

/// The devices of a run of `ranks` ranks like `device`; their rate is the data sheet's where the driver's name is known, else measured.
///
/// # Errors
/// The measurement fails.
pub fn found(device: Device, kind: Kind, ranks: u64) -> Result<Machine> {
    match device {
        Device::Cuda(_) => {
            let (name, memory) = driver().unwrap_or_else(|| ("CUDA device".into(), u64::MAX));
            match Machine::driver(&name, ranks, memory) {
                Some(machine) if kind == Kind::Bf16 => Ok(machine),
                _ => Machine::measure(&name, device, kind, ranks, memory),
            }
        }
        Device::Mps => Machine::measure("MPS", device, kind, ranks, free()),
        _ => Machine::measure("CPU", device, kind, 1, free()).map(|machine| Machine {
            // Ranks on one CPU share its cores and its memory.
            peak: machine.peak / ranks as f64,
            memory: machine.memory / ranks,
            count: ranks,
            ..machine
        }),
    }
}

/// Bytes that a process may still take.
fn free() -> u64 {
    pumice_models::plan::free_memory().unwrap_or(u64::MAX)
}

/// Name and memory of the first GPU, as the driver's tool tells them.
fn driver() -> Option<(String, u64)> {
    let query = ["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (name, mib) = text.lines().next()?.rsplit_once(',')?;
    Some((name.trim().into(), mib.trim().parse::<u64>().ok()? << 20))
}

/// Most bytes of memory that this process ever held, where the system tells.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
