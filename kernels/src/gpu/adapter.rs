//! Which graphics processors there are, and what each can run.
//!
//! An adapter is counted from the best to the least: discrete cards, then processors' own, then virtual ones, then
//! software. Where two interfaces show the same card (Vulkan and DirectX 12 on Windows), the first of them counts.

use std::sync::OnceLock;

use wgpu::{
    Adapter, Backends, CooperativeScalarType, DeviceType, DownlevelFlags, Features, Instance,
    InstanceDescriptor,
};

use crate::{Error, Result};

/// What an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A card with memory of its own.
    Discrete,
    /// A part of the processor, which shares its memory: laptops, Jetson.
    Integrated,
    /// A share of a card, in a virtual machine.
    Virtual,
    /// Something else.
    Other,
    /// Software on the processor (Mesa's lavapipe, Microsoft's WARP): right, and slow.
    Software,
}

impl Kind {
    /// `discrete`, `integrated` …
    pub fn name(self) -> &'static str {
        match self {
            Kind::Discrete => "discrete",
            Kind::Integrated => "integrated",
            Kind::Virtual => "virtual",
            Kind::Other => "other",
            Kind::Software => "software",
        }
    }
}

/// An adapter: what it is and what it can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Its number, what `--device gpu:N` takes.
    pub number: usize,
    /// The name that its driver gives.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The interface: `vulkan`, `metal`, `dx12`.
    pub backend: &'static str,
    /// The driver and its version, as far as it tells.
    pub driver: String,
    /// Bytes that one binding can show a shader: larger tensors are split.
    pub binding_bytes: u64,
    /// Bytes of one buffer.
    pub buffer_bytes: u64,
    /// Bytes of memory that the lanes of a workgroup share.
    pub workgroup_bytes: u32,
    /// Lanes of a subgroup, at least and at most; `None`: none that shaders can use.
    pub subgroup: Option<(u32, u32)>,
    /// Whether shaders can compute in 16-bit floats.
    pub f16: bool,
    /// Shapes m×n×k of the products of small matrices in f16 with sums in f32 that the device does at once.
    pub cooperative_matrix: Vec<(u32, u32, u32)>,
    /// Whether it can tell how long each op took.
    pub timestamps: bool,
    /// Whether compiled shaders can be kept on disk.
    pub pipeline_cache: bool,
}

/// The adapters of this machine, the best first.
pub fn adapters() -> Vec<AdapterInfo> {
    found().iter().enumerate().map(|(number, adapter)| describe(number, adapter)).collect()
}

/// Adapter `number`, or the best.
pub(super) fn choose(number: Option<usize>) -> Result<(Adapter, AdapterInfo)> {
    let mut all = found();
    let count = all.len();
    let n = number.unwrap_or(0);
    if n < count {
        let adapter = all.swap_remove(n);
        let info = describe(n, &adapter);
        return Ok((adapter, info));
    }
    let what = match count {
        0 => "no graphics processor that Vulkan, Metal or DirectX 12 can use".to_owned(),
        1 => format!("there is no adapter {n}: the only one is 0"),
        _ => format!("there is no adapter {n}: they are 0 to {}", count - 1),
    };
    Err(Error::NoAdapter { what })
}

/// wgpu's way to the drivers, opened once: loading them takes a while, and some say something each time.
fn instance() -> &'static Instance {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = InstanceDescriptor::new_without_display_handle();
        descriptor.backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
        // Past this share of what the system grants, an allocation fails instead of pushing others out.
        descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
        Instance::new(descriptor)
    })
}

fn found() -> Vec<Adapter> {
    let mut all = pollster::block_on(instance().enumerate_adapters(Backends::all()));
    all.retain(can_compute);
    all.sort_by_key(|a| kind(a.get_info().device_type));
    let mut seen: Vec<wgpu::AdapterInfo> = Vec::new();
    all.retain(|a| {
        let info = a.get_info();
        // The same card again through another interface; two cards of a kind have the same one.
        let again = seen.iter().any(|other| {
            (other.vendor, other.device) == (info.vendor, info.device) && other.backend != info.backend
        });
        seen.push(info);
        !again
    });
    all
}

/// Whether it has what every kernel takes: WebGPU's own minimum.
fn can_compute(adapter: &Adapter) -> bool {
    let limits = adapter.limits();
    adapter.get_downlevel_capabilities().flags.contains(DownlevelFlags::COMPUTE_SHADERS)
        && limits.max_storage_buffers_per_shader_stage >= 8
        && limits.max_compute_invocations_per_workgroup >= 256
        && limits.max_compute_workgroup_size_x >= 256
        && limits.max_compute_workgroup_storage_size >= 16 << 10
        && limits.max_compute_workgroups_per_dimension >= 65_535
        && limits.min_uniform_buffer_offset_alignment <= 256
}

fn kind(device: DeviceType) -> Kind {
    match device {
        DeviceType::DiscreteGpu => Kind::Discrete,
        DeviceType::IntegratedGpu => Kind::Integrated,
        DeviceType::VirtualGpu => Kind::Virtual,
        DeviceType::Cpu => Kind::Software,
        DeviceType::Other => Kind::Other,
    }
}

fn describe(number: usize, adapter: &Adapter) -> AdapterInfo {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    let subgroup = features.contains(Features::SUBGROUP);
    let driver = [info.driver.as_str(), info.driver_info.as_str()];
    AdapterInfo {
        number,
        name: info.name.clone(),
        kind: kind(info.device_type),
        backend: info.backend.to_str(),
        driver: driver.iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(" "),
        binding_bytes: limits.max_storage_buffer_binding_size,
        buffer_bytes: limits.max_buffer_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        subgroup: subgroup.then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: features.contains(Features::SHADER_F16),
        cooperative_matrix: cooperative(adapter),
        timestamps: features.contains(Features::TIMESTAMP_QUERY),
        pipeline_cache: features.contains(Features::PIPELINE_CACHE),
    }
}

/// Shapes of f16 products with f32 sums.
fn cooperative(adapter: &Adapter) -> Vec<(u32, u32, u32)> {
    if !adapter.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return Vec::new();
    }
    let all = adapter.cooperative_matrix_properties().into_iter();
    all.filter(|p| p.ab_type == CooperativeScalarType::F16 && p.cr_type == CooperativeScalarType::F32)
        .map(|p| (p.m_size, p.n_size, p.k_size))
        .collect()
}
