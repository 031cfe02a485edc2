//! The ways to compute that are measured: devices, instruction sets, threads; and backends that compute so.

use std::fmt;

use anyhow::bail;
use pumice_kernels::{Backend, Cpu, CpuOptions, Isa, Share, Split};
use pumice_models::{
    gguf::File,
    llama::LlamaOptions,
    plan::{Host, Plan, free_memory},
};

use pumice_runtime::chat::Devices;

use super::{Args, model::Model};
use crate::{
    Usage,
    device::{self, Adapter, Choice},
    terminal,
};

/// A way to compute on the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnCpu {
    /// Instructions.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
}

impl OnCpu {
    /// A backend like this.
    pub fn cpu(self) -> Cpu {
        Cpu::new(CpuOptions { threads: self.threads, isa: Some(self.isa) })
    }
}

/// A graphics processor, and how much of the text model lies on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnGpu {
    /// Which.
    pub adapter: Adapter,
    /// Its layers of the text model; none before [`place`] was asked.
    pub share: Share,
}

/// A way to compute that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// On the processor: all, or the layers that are not on `gpu`.
    pub cpu: OnCpu,
    /// On a graphics processor.
    pub gpu: Option<OnGpu>,
}

impl Setting {
    /// A backend for the text model; with `times` one that can tell how long each op took there.
    pub fn text(&self, times: bool) -> anyhow::Result<Box<dyn Backend>> {
        let Some(gpu) = &self.gpu else { return Ok(Box::new(self.cpu.cpu())) };
        Ok(Box::new(Split::new(gpu.adapter.backend(times)?, self.cpu.cpu(), gpu.share)))
    }

    /// A backend for tower and projector, or for anything that has no layers.
    pub fn vision(&self, times: bool) -> anyhow::Result<Box<dyn Backend>> {
        match &self.gpu {
            Some(gpu) => gpu.adapter.backend(times),
            None => Ok(Box::new(self.cpu.cpu())),
        }
    }

    /// Devices for a whole model, as a chat has them.
    pub fn devices(&self) -> anyhow::Result<Devices> {
        // Where the last layer is on the processor, so is what is loaded after it.
        let apart = self.gpu.as_ref().is_some_and(|gpu| !gpu.is_whole());
        let vision = apart.then(|| self.vision(false)).transpose()?;
        Ok(Devices { text: self.text(false)?, vision, fallback: None })
    }
}

impl OnGpu {
    /// Whether all layers are on it, so that the processor computes nothing.
    pub fn is_whole(&self) -> bool {
        self.share.layers >= self.share.of
    }

    /// Layers on it.
    pub fn layers(&self) -> usize {
        self.share.layers.min(self.share.of)
    }

    /// The most layers for which it has memory.
    fn room(&self, plan: &Plan) -> anyhow::Result<usize> {
        let mut device = self.adapter.open()?;
        let host = Host { free: free_memory(), unified: self.adapter.is_unified() };
        Ok(plan.layers_that_fit(plan.vision_weights > 0, host, &mut |bytes| device.fits(bytes)))
    }
}

impl fmt::Display for OnCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", terminal::threads(self.threads), self.isa)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.gpu {
            None => write!(f, "{}", self.cpu),
            Some(gpu) if gpu.is_whole() => f.write_str(gpu.adapter.name()),
            Some(gpu) => {
                let (name, layers) = (gpu.adapter.name(), gpu.layers());
                write!(f, "{name}, {layers} of {} layers, {}", gpu.share.of, self.cpu)
            }
        }
    }
}

/// The devices that `names` say, each once; `None` stands for the processor.
pub fn devices(names: &[String]) -> anyhow::Result<Vec<Option<OnGpu>>> {
    let mut devices: Vec<Option<OnGpu>> = Vec::new();
    for name in names {
        let choice: Choice = name.parse().map_err(|known| Usage(format!("--device {name}: {known}")))?;
        let adapter = device::pick(choice, "--device")?;
        if let Some(adapter) = adapter.as_ref().filter(|adapter| adapter.is_software()) {
            let what = "is software: its figures say nothing of a graphics processor";
            terminal::note(&format!("{} {what}", adapter.name()));
        }
        let share = Share { layers: 0, of: 0, tied: false };
        let device = adapter.map(|adapter| OnGpu { adapter, share });
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    Ok(devices)
}

/// Says of every setting with a graphics processor how many layers of `model` lie there: as `args` say, else as many as fit with
/// `options`, tower and projector beside them.
pub fn place(
    settings: &mut Vec<Setting>,
    args: &Args,
    model: &Model,
    options: &LlamaOptions,
) -> anyhow::Result<()> {
    if settings.iter().all(|setting| setting.gpu.is_none()) {
        return Ok(());
    }
    let text = File::open(&model.text)?;
    let half = model.mmproj.as_deref().map(File::open).transpose()?;
    let eyes = half.as_ref().or(model.image_tokens.map(|_| &text));
    let plan = Plan::new(&text, eyes, options)?;
    for gpu in settings.iter_mut().filter_map(|setting| setting.gpu.as_mut()) {
        let layers = match args.gpu_layers {
            Some(layers) => layers.min(plan.layers.len()),
            None => gpu.room(&plan)?,
        };
        gpu.share = plan.share(layers);
        if let Some(free) = free_memory().filter(|_| !args.force) {
            let placed = plan.placed(layers, plan.vision_weights > 0);
            let needed = placed.host + if gpu.adapter.is_unified() { placed.device } else { 0 };
            if needed > free {
                bail!(
                    "{}, {layers} of {} layers: needs {} of the processor's memory, {} free; make the context smaller (-p, -n, -d), or \
                     take --force",
                    gpu.adapter.name(),
                    plan.layers.len(),
                    terminal::size(needed),
                    terminal::size(free)
                );
            }
        }
    }
    // Where the processor computes nothing its instruction sets and threads make no difference.
    let mut seen: Vec<Adapter> = Vec::new();
    settings.retain(|setting| {
        let whole = setting.gpu.as_ref().filter(|gpu| gpu.is_whole()).map(|gpu| gpu.adapter.clone());
        let again = whole.as_ref().is_some_and(|adapter| seen.contains(adapter));
        seen.extend(whole);
        !again
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        assert_eq!(devices(&["cpu".into(), "cpu".into()]).unwrap(), [None]);
        for bad in ["npu", "gpu:", "gpu:x", "cpu:0", "gpu:99"] {
            let error = devices(&[bad.into()]).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().starts_with("--device "), "{bad}: {error}");
        }
    }
}
