//! Which part of a plan lies on a graphics processor when the first layers do, and how many layers fit.
//!
//! The rules are those of [`pumice_kernels::Split`]: the embedding table stays with the host, the output goes where the last layer
//! is, activations are on both. A test lets a `Split` of two tallies load the same model and compares.

use pumice_kernels::Share;

use super::Plan;

/// Room that a device needs beside tensors: pieces of the file on their way, activations rounded to 8 bits, partial sums of attention,
/// compiled kernels. In bytes.
const BESIDE: u64 = 64 << 20;
/// The same for what grows with the tensors, as a share of them: their alignment and that of their planes.
const ALIGNMENT: u64 = 32;

/// Bytes on a device and on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// On the device.
    pub device: u64,
    /// In the host's memory, mapped weights included.
    pub host: u64,
}

/// The memory beside a device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Host {
    /// Bytes that are free; `None` where the system does not tell.
    pub free: Option<u64>,
    /// Whether the device takes its memory from the same (an integrated GPU, a Jetson): what is free then counts for both.
    pub unified: bool,
}

impl Plan {
    /// What a [`pumice_kernels::Split`] with the first `layers` on a device must know of the model.
    pub fn share(&self, layers: usize) -> Share {
        Share { layers, of: self.layers.len(), tied: self.config.tied }
    }

    /// Where the bytes are with the first `layers` of the text model on a device, and tower and projector with them or not.
    ///
    /// Without any layer the text model is wholly on the host.
    pub fn placed(&self, layers: usize, vision: bool) -> Placed {
        let layers = layers.min(self.layers.len());
        let all = layers > 0 && layers == self.layers.len();
        let cache = self.cache / (self.layers.len() as u64).max(1);
        let mut device = self.layers[..layers].iter().map(|weights| weights + cache).sum::<u64>();
        if all {
            device += self.output + if self.config.tied { self.table } else { 0 };
        }
        // What is neither: activations, and the few weights that are computed.
        let shared =
            self.scratch + self.text_weights - self.layers.iter().sum::<u64>() - self.table - self.output;
        let sight = self.vision_weights + self.vision_scratch;
        let text = self.text_weights + self.cache + self.scratch;
        let host = text - device + if vision { 0 } else { sight };
        device += if layers > 0 { shared } else { 0 } + if vision { sight } else { 0 };
        Placed { device, host }
    }

    /// The most layers that a device has room for, tower and projector with them or not: 0 up to all. `fits` says whether so many
    /// bytes can be had there; it is asked for what the device needs beside its tensors too, a few times.
    ///
    /// Where host and device share their memory, none, if what the two need together is not free.
    pub fn layers_that_fit(&self, vision: bool, host: Host, fits: &mut dyn FnMut(u64) -> bool) -> usize {
        let all = self.layers.len();
        let mut fits = |layers: usize| {
            let placed = self.placed(layers, vision);
            let together = placed.device.saturating_add(placed.host);
            let shared = host.unified && host.free.is_some_and(|free| together > free);
            !shared && fits(placed.device + placed.device / ALIGNMENT + BESIDE)
        };
        if fits(all) {
            return all;
        }
        // More layers never take less memory, so the border is found by halving.
        let (mut good, mut end) = (0, all);
        while end - good > 1 {
            let middle = good + (end - good) / 2;
            if fits(middle) {
                good = middle;
            } else {
                end = middle;
            }
        }
        good
    }
}
