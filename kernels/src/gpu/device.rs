//! A device of an adapter: its queue, its failures, and how memory is asked of it.
//!
//! A graphics interface reports failures late and elsewhere: through callbacks, at any later call. The first of them is
//! kept here; ops after it do nothing, and the calls of the backend that can fail return it.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use wgpu::{
    Buffer, BufferDescriptor, BufferUsages, DeviceDescriptor, ErrorFilter, Features, MemoryHints, PollType,
    SubmissionIndex,
};

use super::{AdapterInfo, GpuOptions, adapter, planes::ALIGN};
use crate::{DType, Error, Result};

/// What of a device the kernels choose by.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Whether lanes of a subgroup can exchange numbers.
    pub subgroups: bool,
    /// Lanes of a subgroup at most; 0 where they cannot be used.
    pub subgroup_lanes: u32,
    /// Shapes m×n×k of f16 matrix products with f32 sums.
    pub cooperative_matrix: Vec<(u32, u32, u32)>,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Bytes of a buffer at most, so that all of it can be bound.
    pub segment_bytes: u64,
}

/// A device and its queue.
pub(super) struct Device {
    pub info: AdapterInfo,
    pub facts: Facts,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// Whether ops are timed.
    pub times: bool,
    /// The first failure.
    failure: Arc<Mutex<Option<Failure>>>,
    /// Bytes of buffers so far, and how many they may be.
    taken: u64,
    memory: Option<u64>,
}

/// Why a device computes no more.
#[derive(Debug, Clone)]
enum Failure {
    Lost(String),
    Memory { bytes: usize, rows: usize, cols: usize, dtype: DType },
}

impl Device {
    /// Opens the adapter that `options` choose.
    pub fn open(options: &GpuOptions) -> Result<Self> {
        let (adapter, info) = adapter::choose(options.adapter)?;
        let allow = &options.allow;
        let facts = Facts {
            // Of four lanes at least, as `subgroup.wgsl` asks.
            subgroups: allow.subgroups && info.subgroup.is_some_and(|(least, _)| least >= 4),
            subgroup_lanes: info.subgroup.filter(|_| allow.subgroups).map_or(0, |(_, most)| most),
            cooperative_matrix: match allow.cooperative_matrix && allow.subgroups {
                // Its tiles are f16.
                true if info.f16 => info.cooperative_matrix.clone(),
                _ => Vec::new(),
            },
            workgroup_bytes: info.workgroup_bytes.min(allow.workgroup_bytes.unwrap_or(u32::MAX)),
            // Buffers are rounded up to whole vectors, which some limits (2^32 − 1) are not.
            segment_bytes: info.binding_bytes.min(info.buffer_bytes).min(allow.binding.unwrap_or(u64::MAX))
                / ALIGN
                * ALIGN,
        };
        let mut features = Features::empty();
        for (wanted, feature) in [
            (facts.subgroups, Features::SUBGROUP),
            (!facts.cooperative_matrix.is_empty(), Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            (!facts.cooperative_matrix.is_empty(), Features::SHADER_F16),
            (options.times && info.timestamps, Features::TIMESTAMP_QUERY),
            (options.pipeline_cache.is_some() && info.pipeline_cache, Features::PIPELINE_CACHE),
        ] {
            features.set(feature, wanted);
        }
        let descriptor = DeviceDescriptor {
            label: Some("pumice"),
            required_features: features,
            required_limits: adapter.limits(),
            experimental_features: experimental(&facts),
            // Blocks of memory no larger than needed: what a block has to spare is missing elsewhere.
            memory_hints: MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| {
            let what = format!("{} could not be opened: {error}", info.name);
            Error::NoAdapter { what }
        })?;
        let failure = Arc::new(Mutex::new(None));
        let (lost, uncaptured) = (Arc::clone(&failure), Arc::clone(&failure));
        device.set_device_lost_callback(move |_, why| keep(&lost, Failure::Lost(why)));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            keep(&uncaptured, Failure::Lost(error.to_string()));
        }));
        let times = features.contains(Features::TIMESTAMP_QUERY);
        Ok(Self { info, facts, device, queue, times, failure, taken: 0, memory: options.memory })
    }

    /// `NVIDIA GeForce RTX 4070 (vulkan)`.
    pub fn name(&self) -> String {
        format!("{} ({})", self.info.name, self.info.backend)
    }

    /// The first failure, if there was one.
    pub fn check(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        Err(match &*failure {
            None => return Ok(()),
            Some(Failure::Lost(what)) => Error::DeviceLost { device: self.name(), what: what.clone() },
            &Some(Failure::Memory { bytes, rows, cols, dtype }) => {
                Error::OutOfMemory { device: self.name(), bytes, rows, cols, dtype }
            }
        })
    }

    /// Whether it computes no more.
    pub fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Keeps `what` as the reason why nothing goes on, where there is none yet.
    pub fn lose(&self, what: String) {
        keep(&self.failure, Failure::Lost(what));
    }

    /// Keeps that memory ran out over a tensor, for the next call that can fail.
    pub fn starve(&self, bytes: usize, rows: usize, cols: usize, dtype: DType) {
        keep(&self.failure, Failure::Memory { bytes, rows, cols, dtype });
    }

    /// A zeroed buffer of `bytes`; `None` where there is no memory for it.
    pub fn buffer(&mut self, label: &str, bytes: u64, usage: BufferUsages) -> Option<Buffer> {
        let bytes = bytes.next_multiple_of(16).max(16);
        let taken = self.taken.saturating_add(bytes);
        if self.memory.is_some_and(|most| taken > most) || bytes > self.info.buffer_bytes {
            return None;
        }
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let descriptor =
            BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        if pollster::block_on(memory.pop()).is_some() {
            return None;
        }
        self.taken = taken;
        Some(buffer)
    }

    /// Gives `buffer` back.
    pub fn free(&mut self, buffer: &Buffer) {
        self.taken -= buffer.size();
        buffer.destroy();
    }

    /// Whether `bytes` more would be granted: asks for them in pieces and lets them go.
    pub fn fits(&mut self, bytes: u64) -> bool {
        // No larger than layers are, and small enough for any limit.
        const PIECE: u64 = 128 << 20;
        let (piece, mut left) = (PIECE.min(self.facts.segment_bytes), bytes);
        let mut pieces = Vec::new();
        while left > 0 {
            let take = left.min(piece);
            let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
            match self.buffer("a question", take, usage) {
                Some(buffer) => pieces.push(buffer),
                None => break,
            }
            left -= take;
        }
        pieces.iter().for_each(|buffer| self.free(buffer));
        drop(pieces);
        // The memory of a buffer is free when the device has seen that nobody uses it.
        self.wait();
        left == 0 && !self.failed()
    }

    /// Waits until the device has done all that was submitted.
    pub fn wait(&self) {
        self.wait_for(None);
    }

    /// Waits until the device has done the submission `index` and all before it.
    pub fn wait_for(&self, index: Option<SubmissionIndex>) {
        let wait = || self.device.poll(PollType::Wait { submission_index: index, timeout: None });
        if let Some(what) = fault(wait) {
            self.lose(what);
        }
    }
}

/// What went wrong in `call`, if anything did.
///
/// A driver that is reset while wgpu waits for it makes wgpu 30 panic, after its callback was told and its locks were let go: for whoever
/// computes that is a lost device like any other, and no reason to end.
fn fault<T, E: Display>(call: impl FnOnce() -> std::result::Result<T, E>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.err().map(|error| error.to_string()),
        Err(said) => {
            let said = said.downcast_ref::<String>().map_or("the driver failed", String::as_str);
            Some(said.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

fn keep(failure: &Mutex<Option<Failure>>, what: Failure) {
    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
}

/// Cooperative matrices are experimental in wgpu, which has to be said.
fn experimental(facts: &Facts) -> wgpu::ExperimentalFeatures {
    if facts.cooperative_matrix.is_empty() {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: of wgpu's experimental features only cooperative matrices are asked for, in shapes that the adapter lists, with
    // all lanes of a subgroup taking part in each product.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn a_panic_of_the_driver_s_is_a_fault() {
        assert_eq!(fault(|| Ok::<_, String>(1)), None);
        assert_eq!(fault(|| Err::<(), _>("too late")), Some("too late".into()));
        let lost =
            |why: &str| -> Result<(), String> { panic!("Error in Device::poll: {why}\n\n  it is a test") };
        assert_eq!(fault(|| lost("reset")), Some("Error in Device::poll: reset it is a test".into()));
    }
}
