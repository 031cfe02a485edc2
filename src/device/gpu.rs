//! Graphics processors, where the program is built with them.

use std::{env, path::PathBuf};

use pumice_kernels::{
    Backend, Checked, Split,
    gpu::{AdapterInfo, Gpu, GpuOptions, Kind, adapters},
    split::Share,
};

use super::{Choice, Grain, Placing, Reports};
use crate::{Usage, devices::Row};

/// Whether this program can use any.
pub const BUILT: bool = true;

/// The adapters of this machine, the best first.
pub fn rows() -> Vec<Row> {
    let all = adapters();
    let best = best(&all).map(|info| info.number);
    let row = |info: &AdapterInfo| Row {
        device: format!("gpu:{}", info.number),
        name: info.name.clone(),
        kind: info.kind.name(),
        interface: info.backend,
        driver: info.driver.clone(),
        binding_bytes: info.binding_bytes,
        buffer_bytes: info.buffer_bytes,
        workgroup_bytes: info.workgroup_bytes,
        subgroup_lanes: info.subgroup.map(|(least, most)| [least, most]),
        f16: info.f16,
        cooperative_matrices: info.cooperative_matrix.iter().map(|&(m, n, k)| [m, n, k]).collect(),
        timestamps: info.timestamps,
        pipeline_cache: info.pipeline_cache,
        auto: best == Some(info.number),
    };
    all.iter().map(row).collect()
}

/// An adapter that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter(AdapterInfo);

/// An adapter that was opened.
pub struct Device(Gpu);

/// The adapter that `choice`, the value of `flag`, means; `None`: the processor.
pub fn pick(choice: Choice, flag: &str) -> anyhow::Result<Option<Adapter>> {
    if choice == Choice::Cpu {
        return Ok(None);
    }
    let mut all = adapters();
    let found = match choice {
        Choice::Cpu => None,
        Choice::Auto => best(&all).map(|info| info.number),
        Choice::Gpu(asked) => {
            let number = asked.unwrap_or(0);
            if number >= all.len() {
                let asked = asked.map_or_else(String::new, |n| format!(":{n}"));
                return Err(Usage(format!("{flag} gpu{asked}: {}", there_are(&all))).into());
            }
            Some(number)
        }
    };
    Ok(found.map(|number| Adapter(all.swap_remove(number))))
}

/// The adapter that `auto` takes: a card or a part of the processor. Never software, which the processor's own kernels are faster
/// than, nor what only a person can know to be worth it (a share of a card, what tells no kind).
pub fn best(all: &[AdapterInfo]) -> Option<&AdapterInfo> {
    all.iter().find(|info| matches!(info.kind, Kind::Discrete | Kind::Integrated))
}

/// What to say where somebody asks for another.
fn there_are(all: &[AdapterInfo]) -> String {
    let names: Vec<_> = all.iter().map(|info| format!("gpu:{} ({})", info.number, info.name)).collect();
    match names.as_slice() {
        [] => "this machine has no GPU that Vulkan, Metal or DirectX 12 can use; --device cpu computes on the processor".into(),
        some => format!("this machine has {}", some.join(", ")),
    }
}

impl Adapter {
    /// Whether its memory is the processor's.
    pub fn is_unified(&self) -> bool {
        matches!(self.0.kind, Kind::Integrated | Kind::Software)
    }

    /// Whether it is software on the processor.
    pub fn is_software(&self) -> bool {
        self.0.kind == Kind::Software
    }

    /// The name that its driver gives.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The interface: `vulkan`.
    pub fn interface(&self) -> &str {
        self.0.backend
    }

    /// Opens it.
    pub fn open(&self) -> anyhow::Result<Device> {
        Ok(Device(self.gpu(false)?))
    }

    /// The device as it is; with `times` one that can tell how long each op took, and is slower for it.
    pub fn backend(&self, times: bool) -> anyhow::Result<Box<dyn Backend>> {
        Ok(Box::new(self.gpu(times)?))
    }

    fn gpu(&self, times: bool) -> anyhow::Result<Gpu> {
        let options = GpuOptions {
            adapter: Some(self.0.number),
            pipeline_cache: cache_folder(),
            times,
            ..GpuOptions::default()
        };
        Ok(Gpu::new(&options)?)
    }
}

impl Device {
    /// `NVIDIA GeForce RTX 4090 (vulkan)`.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// Whether `bytes` more can be had.
    pub fn fits(&mut self, bytes: u64) -> bool {
        self.0.fits(bytes)
    }

    /// The device for all that it is given.
    pub fn alone(self, placing: &Placing<'_>, reports: &mut Reports) -> Box<dyn Backend> {
        watched(self.0, placing, reports)
    }

    /// The device for its share of the layers, the processor for the rest.
    pub fn split(self, placing: &Placing<'_>, share: Share, reports: &mut Reports) -> Box<dyn Backend> {
        watched(Split::new(self.0, placing.host(), share), placing, reports)
    }
}

/// `device`, beside the processor where it is to be compared.
fn watched<B: Backend + 'static>(
    device: B,
    placing: &Placing<'_>,
    reports: &mut Reports,
) -> Box<dyn Backend> {
    let checked = match placing.check {
        None => return Box::new(device),
        Some(Grain::Ops) => Checked::new(placing.host(), device),
        Some(Grain::Passes) => Checked::fused(placing.host(), device),
    };
    reports.push(checked.report());
    Box::new(checked)
}

/// The folder for compiled shaders, below the system's folder for what can be made anew; `None` where there is none.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        set("HOME").map(|home| home.join("Library/Caches"))
    } else {
        // https://specifications.freedesktop.org/basedir-spec: a relative path does not count.
        set("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
    };
    // What is missing above it is somebody else's to make.
    let there = |folder: &PathBuf| folder.is_dir() || folder.parent().is_some_and(std::path::Path::is_dir);
    folder.filter(there).map(|folder| folder.join("pumice"))
}
