//! `--device`, `-ngl` and `--vision-device`: where a model computes, as the subcommands that run one take it.
//!
//! By itself the program takes a graphics processor that is one, as many of the model's layers as fit, and goes on on the processor
//! when the device fails. What a person asks for by name is done or refused.

#[cfg(not(feature = "gpu"))]
#[path = "device/absent.rs"]
mod gpu;
#[cfg(feature = "gpu")]
mod gpu;

use std::{
    process::ExitCode,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use pumice_kernels::{Backend, Cpu, CpuOptions, Error, checked::Report};
use pumice_models::plan::{Host, Plan};
use pumice_runtime::chat::{Devices, Failure, Fallback};

use crate::{Usage, terminal};
use gpu::Device;
pub use gpu::{Adapter, BUILT, pick, rows};

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The best graphics processor, if there is one; else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// A graphics processor: the best of all, or by number.
    Gpu(Option<usize>),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().ok().map(|n| Choice::Gpu(Some(n)));
        let choice = match text.to_ascii_lowercase().as_str() {
            "auto" => Some(Choice::Auto),
            "cpu" => Some(Choice::Cpu),
            "gpu" => Some(Choice::Gpu(None)),
            other => other.strip_prefix("gpu:").and_then(number),
        };
        choice.ok_or_else(|| "auto, cpu, gpu or gpu:N (`pumice devices` lists them)".into())
    }
}

/// Options of these names; -ngl is llama.cpp's.
#[derive(Debug, Args, Clone, Copy)]
pub struct DeviceArgs {
    /// Where to compute: auto (a GPU if there is one, else the CPU; when the GPU fails, the CPU goes on), cpu, gpu (the best), or
    /// gpu:N as `pumice devices` counts them.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Choice,
    /// Layers of the text model on the GPU, the first ones; the rest stays on the CPU. By default as many as fit. llama.cpp's -ngl is
    /// understood too.
    #[arg(long = "n-gpu-layers", alias = "gpu-layers", value_name = "N")]
    layers: Option<usize>,
    /// Where pictures are looked at: auto (with the text model), cpu, gpu or gpu:N.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    vision_device: Choice,
}

/// How devices are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Grain {
    /// After every op.
    Ops,
    /// Where the model reads: the device may fuse ops.
    Passes,
}

/// What comparing devices has found so far; one for each pair.
pub type Reports = Vec<Arc<Mutex<Report>>>;

/// Devices to open a chat on.
pub struct Placed {
    /// The devices.
    pub devices: Devices,
    /// Bytes that the model may take on all devices together; `None`: no limit.
    pub memory: Option<u64>,
    /// What was compared, where that was asked for.
    pub reports: Reports,
}

/// Where the vision part goes.
#[derive(PartialEq, Eq)]
enum Sight {
    /// There is none.
    None,
    /// To the processor.
    Host,
    /// To the text model's adapter.
    Text,
    /// To another.
    Own(Adapter),
}

/// What devices are chosen and made with.
pub struct Placing<'a> {
    /// How the processor computes.
    pub cpu: CpuOptions,
    /// The model.
    pub plan: &'a Plan,
    /// Bytes of the host's memory that may be taken; `None`: no limit.
    pub free: Option<u64>,
    /// Whether what a graphics processor computes is compared with the processor.
    pub check: Option<Grain>,
}

impl DeviceArgs {
    /// Chooses devices for a model, makes them, and tells them on stderr.
    pub fn place(&self, placing: &Placing<'_>) -> anyhow::Result<Placed> {
        let plan = placing.plan;
        let adapter = gpu::pick(self.device, "--device")?;
        let sees = plan.vision_weights > 0;
        let mut sight = match self.vision_device {
            _ if !sees => Sight::None,
            Choice::Auto if adapter.is_some() => Sight::Text,
            Choice::Auto => Sight::Host,
            choice => match gpu::pick(choice, "--vision-device")? {
                None => Sight::Host,
                own if own == adapter => Sight::Text,
                Some(own) => Sight::Own(own),
            },
        };
        let mut device = match &adapter {
            Some(adapter) => self.open(adapter)?,
            None => None,
        };
        if device.is_none() && sight == Sight::Text {
            sight = Sight::Host;
        }
        let layers = match (&mut device, &adapter) {
            (Some(device), Some(adapter)) => self.layers(placing, device, adapter, &mut sight)?,
            _ => 0,
        };
        if let (Some(asked), None) = (self.layers, &device) {
            let why = if self.device == Choice::Auto {
                "no GPU was found (software is taken by name only: --device gpu)"
            } else {
                "the CPU computes"
            };
            terminal::note(&format!("-ngl {asked}: {why}, so all layers are on the CPU"));
        }
        placing.build(self, device, adapter.as_ref(), layers, sight)
    }

    /// Opens an adapter. Where nobody asked for it by name, one that does not work is let be.
    fn open(&self, adapter: &Adapter) -> anyhow::Result<Option<Device>> {
        match adapter.open() {
            Err(error) if self.device == Choice::Auto => {
                terminal::note(&format!("device: {error:#}; the CPU computes"));
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// How many layers go to `device`; the vision part goes to the host where it was free to go anywhere and has no room.
    fn layers(
        &self,
        placing: &Placing<'_>,
        device: &mut Device,
        adapter: &Adapter,
        sight: &mut Sight,
    ) -> anyhow::Result<usize> {
        let plan = placing.plan;
        if *sight == Sight::Text
            && self.vision_device == Choice::Auto
            && !device.fits(plan.placed(0, true).device)
        {
            *sight = Sight::Host;
        }
        if let Some(asked) = self.layers {
            return Ok(asked.min(plan.layers.len()));
        }
        let host = Host { free: placing.free, unified: adapter.is_unified() };
        let layers = plan.layers_that_fit(*sight == Sight::Text, host, &mut |bytes| device.fits(bytes));
        if layers == 0 && *sight != Sight::Text {
            let needs = terminal::size(plan.placed(1, false).device);
            let what = format!("{} has no room for a single layer of this model ({needs})", device.name());
            if self.device != Choice::Auto {
                bail!("{what}; make the context smaller (-c), or compute on the CPU (--device cpu)");
            }
            terminal::note(&format!("device: {what}; the CPU computes"));
        }
        Ok(layers)
    }
}

impl Placing<'_> {
    /// The processor.
    fn host(&self) -> Cpu {
        Cpu::new(self.cpu)
    }

    /// Makes the devices of a chat: of the text model `layers` on `device`, which is of `adapter`.
    fn build(
        &self,
        args: &DeviceArgs,
        mut device: Option<Device>,
        adapter: Option<&Adapter>,
        layers: usize,
        sight: Sight,
    ) -> anyhow::Result<Placed> {
        let all = self.plan.layers.len();
        let (mut told, mut reports) = (Vec::new(), Reports::new());
        let mut memory = 0;
        let mut own = |adapter: Option<&Adapter>, bytes: u64| {
            memory += if adapter.is_some_and(Adapter::is_unified) { 0 } else { bytes };
        };
        let text: Box<dyn Backend> = match device.take_if(|_| layers > 0) {
            Some(device) => {
                let seen = if sight == Sight::Text { ", vision" } else { "" };
                told.push(format!("{}, {layers} of {all} layers{seen}", device.name()));
                own(adapter, self.plan.placed(layers, false).device);
                device.split(self, self.plan.share(layers), &mut reports)
            }
            None => Box::new(self.host()),
        };
        // What shares the text model's device lies where the text model's output does, and its activations, were it on two, on both.
        let vision: Option<Box<dyn Backend>> = match (&sight, adapter) {
            (Sight::None, _) => None,
            (Sight::Host, _) => (layers > 0).then(|| Box::new(self.host()) as Box<dyn Backend>),
            (Sight::Text, _) if layers == all => None,
            (Sight::Text, None) => None,
            (Sight::Text, Some(own)) | (Sight::Own(own), _) => {
                let device = match device.take_if(|_| sight == Sight::Text) {
                    Some(device) => device,
                    None => own.open()?,
                };
                if layers == 0 || sight != Sight::Text {
                    told.push(format!("{}, vision", device.name()));
                }
                Some(device.alone(self, &mut reports))
            }
        };
        match &sight {
            Sight::Text => own(adapter, self.plan.placed(0, true).device),
            Sight::Own(other) => own(Some(other), self.plan.placed(0, true).device),
            Sight::None | Sight::Host => {}
        }
        if reports.is_empty() && self.check.is_some() {
            let what = "--check compares a GPU with the CPU, and no GPU is used here; name one: --device gpu";
            return Err(Usage(what.into()).into());
        }
        if !told.is_empty() {
            terminal::note(&format!("device: {}", told.join("; ")));
        }
        let goes_on = args.device == Choice::Auto && self.check.is_none() && !told.is_empty();
        let fallback = goes_on.then(|| fallback(self.cpu));
        let memory = self.free.map(|free| free.saturating_add(memory));
        Ok(Placed { devices: Devices { text, vision, fallback }, memory, reports })
    }
}

/// The processor to go on with, and what a person is told then.
fn fallback(cpu: CpuOptions) -> Fallback {
    Fallback {
        make: Box::new(move || Ok(Box::new(Cpu::new(cpu)))),
        told: Box::new(|Failure { from, why, to }| {
            let what = match why {
                Error::DeviceLost { what, .. } => format!("was lost ({what})"),
                Error::OutOfMemory { .. } => "has not enough memory".into(),
                other => other.to_string(),
            };
            terminal::note(&format!("device: {from} {what}; going on on {to}, what was said is kept"));
        }),
    }
}

/// Tells on stderr what comparing devices found; an exit code where they differ.
pub fn tell(reports: &Reports) -> Option<ExitCode> {
    let mut differ = false;
    for report in reports {
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        terminal::note(report.to_string().trim_end());
        differ |= report.first().is_some();
    }
    differ.then_some(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("cpu".parse(), Ok(Choice::Cpu));
        assert_eq!("gpu".parse(), Ok(Choice::Gpu(None)));
        assert_eq!("gpu:3".parse(), Ok(Choice::Gpu(Some(3))));
        assert_eq!("GPU:3".parse(), Ok(Choice::Gpu(Some(3))));
        for wrong in ["", "gpu:", "gpu:-1", "gpu:one", "cuda", "cpu:0"] {
            let told = wrong.parse::<Choice>().unwrap_err();
            assert!(told.contains("gpu:N") && told.contains("pumice devices"), "{wrong}: {told}");
        }
    }
}
