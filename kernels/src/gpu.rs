//! Graphics processors through wgpu: Vulkan, Metal, DirectX 12.
//!
//! An op is checked, as on the CPU, and recorded. What is recorded goes to the device at once: when the host reads, when
//! enough has come together that the device should not wait for more, or when the host writes what recorded ops still
//! have to see. On the way steps are fused (`fuse.rs`) and become dispatches; bind groups and pipelines are made once.
//!
//! Failures of a device surface at `load`, `alloc` and `read`; until then ops do nothing.

mod adapter;
mod attend;
mod backend;
mod buffers;
mod device;
mod dispatch;
mod formats;
mod fuse;
mod host;
mod pipeline_cache;
mod planes;
mod product;
mod rows;
mod shader;
mod step;
mod times;
mod top_k;
mod turns;
mod upload;
mod workspace;

use std::path::PathBuf;

pub use adapter::{AdapterInfo, Kind, adapters};
use buffers::{Buffers, STORAGE, Stored};
use device::Device;
use dispatch::{Dispatch, Encoder, MOST_DISPATCHES};
use fuse::{Layout, Work};
use pipeline_cache::OnDisk;
use product::{Context, Product, Scratch};
use step::Step;
use turns::Turns;
use wgpu::{Buffer, SubmissionIndex};
use workspace::Workspace;

use crate::{DType, Error, Result, Tensor};

/// How a device is opened.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// Which adapter, as [`adapters`] counts them; `None`: the best.
    pub adapter: Option<usize>,
    /// The folder in which compiled shaders are kept; `None`: they are not.
    pub pipeline_cache: Option<PathBuf>,
    /// What of the adapter may be used.
    pub allow: Allow,
    /// Bytes of memory that may be taken; `None`: what the device grants.
    pub memory: Option<u64>,
    /// Whether each op is timed on the device ([`crate::Backend::device_times`]); it then waits after each submission.
    pub times: bool,
}

/// What of an adapter may be used: everything, but for tests and for drivers with faults.
#[derive(Debug, Clone)]
pub struct Allow {
    /// Exchange of numbers within a subgroup.
    pub subgroups: bool,
    /// Products of small matrices in one step.
    pub cooperative_matrix: bool,
    /// Fusing of ops.
    pub fusing: bool,
    /// Bytes of a binding at most.
    pub binding: Option<u64>,
    /// Bytes of workgroup memory at most.
    pub workgroup_bytes: Option<u32>,
}

impl Default for Allow {
    fn default() -> Self {
        Self { subgroups: true, cooperative_matrix: true, fusing: true, binding: None, workgroup_bytes: None }
    }
}

/// Operations after which what is recorded is submitted: a fraction of a second of a slow device of its kind, so that systems do not
/// take it for hung (Windows waits two), and that whoever waits sees progress. A token of a 13B model, 26 billion, is below.
fn submit_flops(kind: Kind) -> u64 {
    match kind {
        Kind::Discrete | Kind::Virtual => 100_000_000_000,
        Kind::Integrated | Kind::Software | Kind::Other => 30_000_000_000,
    }
}

/// Steps after which it is: more than a token of LLaMA-13B has (40 blocks of 17), so that a token goes in one submission and no block
/// is cut where its steps could be fused.
const SUBMIT_STEPS: usize = 1024;

/// What fusing asks about tensors.
struct Arrangement<'a>(&'a Buffers);

impl Layout for Arrangement<'_> {
    fn together(&self, a: Tensor, b: Tensor) -> bool {
        match (self.0.places(a).as_slice(), self.0.places(b).as_slice()) {
            ([one], [other]) => a.dtype == b.dtype && one.buffer == other.buffer,
            _ => false,
        }
    }

    fn possible(&self, product: &Product) -> bool {
        product.possible(self.0)
    }
}

/// A device of an adapter.
pub struct Gpu {
    device: Device,
    buffers: Buffers,
    encoder: Encoder,
    steps: Vec<Step>,
    /// Operations of the steps recorded.
    flops: u64,
    turns: Turns,
    /// Activations in 8 bits, between two dispatches.
    scratch: Scratch,
    /// What other ops leave between two dispatches.
    workspace: Workspace,
    /// What is read passes through it.
    readback: Option<Buffer>,
    fusing: bool,
    /// The last submission.
    submitted: Option<SubmissionIndex>,
    /// Dispatches so far.
    dispatched: u64,
    /// Submissions so far.
    submissions: u64,
}

impl Gpu {
    /// Opens an adapter.
    ///
    /// # Errors
    /// There is none of that number, or its driver refuses.
    pub fn new(options: &GpuOptions) -> Result<Self> {
        let mut device = Device::open(options)?;
        let cache = options.pipeline_cache.as_ref().and_then(|folder| OnDisk::open(&device, folder));
        let encoder = Encoder::new(&mut device, cache)
            .ok_or_else(|| Error::NoAdapter { what: format!("{} has no memory left", device.name()) })?;
        Ok(Self {
            device,
            buffers: Buffers::default(),
            encoder,
            steps: Vec::new(),
            flops: 0,
            turns: Turns::default(),
            scratch: Scratch::default(),
            workspace: Workspace::default(),
            readback: None,
            fusing: options.allow.fusing,
            submitted: None,
            dispatched: 0,
            submissions: 0,
        })
    }

    /// The adapter.
    pub fn info(&self) -> &AdapterInfo {
        &self.device.info
    }

    /// Whether `bytes` more would be granted: asks for them, and lets them go again.
    pub fn fits(&mut self, bytes: u64) -> bool {
        self.device.fits(bytes)
    }

    /// Kernels run so far: what a token costs beside its bytes, some microseconds each.
    pub fn dispatches(&self) -> u64 {
        self.dispatched
    }

    /// Command buffers submitted so far.
    pub fn submissions(&self) -> u64 {
        self.submissions
    }

    /// Ends the device, as a fault or a pulled plug would: for tests of what goes on then.
    pub fn lose(&self) {
        self.device.device.destroy();
        self.device.wait();
    }

    fn out_of_memory(&self, bytes: usize, rows: usize, cols: usize, dtype: DType) -> Error {
        Error::OutOfMemory { device: self.device.name(), bytes, rows, cols, dtype }
    }

    /// Enters a tensor whose parts are known, or will be (weights).
    fn push(&mut self, stored: Stored, rows: usize, cols: usize, dtype: DType) -> Tensor {
        let buffer = self.buffers.tensors.len() as u32;
        self.buffers.tensors.push(stored);
        Tensor { buffer, first: 0, rows, cols, dtype }
    }

    /// Records `step`, which does `flops` operations.
    fn record(&mut self, step: Step) {
        if self.device.failed() {
            return;
        }
        // A copy that the host kept is no longer true.
        let written = step.written();
        self.buffers.tensors[written.buffer as usize].host = None;
        self.flops += step.flops();
        self.steps.push(step);
        if self.flops >= submit_flops(self.device.info.kind) || self.steps.len() >= SUBMIT_STEPS {
            self.flush();
        }
    }

    /// Submits what is recorded.
    fn flush(&mut self) {
        self.flush_then(|_, _| {});
    }

    /// Submits what is recorded and, in the same command buffer, what `tail` adds.
    fn flush_then(&mut self, tail: impl FnOnce(&Buffers, &mut wgpu::CommandEncoder)) {
        self.seal();
        let steps = std::mem::take(&mut self.steps);
        self.flops = 0;
        if self.device.failed() {
            return;
        }
        let mut dispatches = Vec::new();
        // The host may have written since.
        self.scratch.wrote(None);
        let work = match self.fusing {
            true => fuse::fuse(steps, &Arrangement(&self.buffers)),
            false => steps.into_iter().map(Work::Step).collect(),
        };
        for work in work {
            self.plan(&work, &mut dispatches);
            work.written().for_each(|t| self.scratch.wrote(Some(t)));
        }
        self.dispatched += dispatches.len() as u64;
        let mut chunks = dispatches.chunks(MOST_DISPATCHES).peekable();
        let mut tail = Some(tail);
        loop {
            let chunk = chunks.next().unwrap_or(&[]);
            let last = chunks.peek().is_none();
            let tail = if last { tail.take() } else { None };
            let buffers = &self.buffers;
            let index = self.encoder.submit(&self.device, &buffers.slots, chunk, |encoder| {
                if let Some(tail) = tail {
                    tail(buffers, encoder);
                }
            });
            self.submissions += 1;
            // One submission at work and one behind it: the host is never further ahead than what it says of its progress.
            if let Some(before) = self.submitted.replace(index) {
                self.device.wait_for(Some(before));
            }
            if last {
                return;
            }
        }
    }

    /// What `work` is on the device.
    fn plan(&mut self, work: &Work, out: &mut Vec<Dispatch>) {
        let b = &self.buffers;
        let mut c = Context { buffers: b, facts: &self.device.facts, scratch: &mut self.scratch };
        let step = match work {
            Work::Step(step) => *step,
            Work::Product(product) => {
                let done = product.dispatches(&mut c, out);
                assert!(done, "fused what no kernel does: {product:?}");
                return;
            }
        };
        match step {
            Step::Matmul { dst, x, w, bias } => product::matmul(&mut c, out, dst, x, w, bias),
            Step::GetRows { dst, table, ids } => product::get_rows(b, out, dst, table, ids),
            Step::RmsNorm { dst, x, weight, eps } => rows::rms_norm(b, out, dst, x, weight, eps),
            Step::LayerNorm { dst, x, weight, bias, eps } => {
                rows::layer_norm(b, out, dst, x, weight, bias, eps);
            }
            Step::Rope { x, turns, head_dim } => rows::rope(b, out, x, turns, head_dim),
            Step::SwiGlu { gate, up } => rows::swiglu(b, out, gate, up),
            Step::Gelu { x, kind } => rows::gelu(b, out, x, kind),
            Step::Add { dst, x } => rows::add(b, out, dst, x),
            Step::Copy { dst, x } => rows::copy(b, out, dst, x),
            Step::Attention { dst, q, k, v, positions, keys, head_dim } => {
                let a = attend::Attention { dst, q, k, v, positions, keys, head_dim };
                attend::attention(b, self.device.info.kind, || self.workspace.number(), out, &a);
            }
            Step::TopK { dst, x, among } => top_k::top_k(b, self.workspace.number(), out, dst, x, among),
        }
    }

    /// Whether recorded steps have to see `t` as it is.
    fn awaits(&self, t: Tensor) -> bool {
        self.steps.iter().any(|step| step.operands().iter().any(|o| o.buffer == t.buffer))
    }
}
