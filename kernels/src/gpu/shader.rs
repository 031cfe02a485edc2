//! The shaders: which files make one, what it binds, and the pipelines made of them.
//!
//! WGSL has no include. A shader is the text of a few files, one after the other: what lanes do together, what all share
//! (`prelude.wgsl`), the decoder of a weight's format, the kernel. What else varies are override constants.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType,
    ComputePipeline, ComputePipelineDescriptor, PipelineCache, PipelineCompilationOptions,
    PipelineLayoutDescriptor, ShaderModule, ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource,
    ShaderStages,
};

use super::device::Device;
use crate::DType;

/// Bytes of parameters that a dispatch has at most: one step of the uniform buffer's offset on every device.
pub(super) const PARAMS_BYTES: u64 = 256;

/// A kernel's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Main {
    RmsNorm,
    LayerNorm,
    Rope,
    SwiGlu,
    Gelu,
    Add,
    Convert,
    ConvertQ8_0,
    Quantize,
    Decode,
    DecodeFloat,
    Tile,
    TileFloat,
    Halve,
    TileCoop8,
    TileCoop16,
    GetRows,
    Attention,
    AttentionSplit,
    Combine,
    TopK,
}

/// Which decoders a kernel is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    /// None: it reads no weights.
    None,
    /// Those of blocks.
    Quantized,
    /// Those of plain numbers.
    Float,
    /// All.
    Any,
}

impl Decoder {
    /// Whether a kernel is made with the decoder of `format`, or, without one, with none.
    fn takes(self, format: Option<DType>) -> bool {
        match (self, format) {
            (Decoder::None, format) => format.is_none(),
            (_, None | Some(DType::I32)) => false,
            (Decoder::Quantized, Some(format)) => format.is_quantized(),
            (Decoder::Float, Some(format)) => !format.is_quantized(),
            (Decoder::Any, Some(_)) => true,
        }
    }
}

/// What a kernel is made of and binds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    /// Its own text.
    pub source: &'static str,
    /// Storage bindings that are only read; they come first, from binding 1 on.
    pub reads: u32,
    /// Storage bindings that are written.
    pub writes: u32,
    /// Which decoders it takes.
    pub decoder: Decoder,
    /// Whether it sums over lanes (`subgroup.wgsl` or `workgroup.wgsl`).
    pub lanes: bool,
    /// What it begins with, before all else: directives, and types for what the device has.
    pub head: &'static str,
}

impl Main {
    /// All of them.
    #[cfg(test)]
    pub const ALL: [Main; 21] = [
        Main::RmsNorm,
        Main::LayerNorm,
        Main::Rope,
        Main::SwiGlu,
        Main::Gelu,
        Main::Add,
        Main::Convert,
        Main::ConvertQ8_0,
        Main::Quantize,
        Main::Decode,
        Main::DecodeFloat,
        Main::Tile,
        Main::TileFloat,
        Main::Halve,
        Main::TileCoop8,
        Main::TileCoop16,
        Main::GetRows,
        Main::Attention,
        Main::AttentionSplit,
        Main::Combine,
        Main::TopK,
    ];

    pub fn spec(self) -> Spec {
        let plain = |source, reads, writes| Spec {
            source,
            reads,
            writes,
            decoder: Decoder::None,
            lanes: false,
            head: "",
        };
        let coop =
            |head| Spec { decoder: Decoder::Any, head, ..plain(include_str!("wgsl/tile_coop.wgsl"), 5, 1) };
        match self {
            Main::RmsNorm => Spec { lanes: true, ..plain(include_str!("wgsl/rms_norm.wgsl"), 2, 1) },
            Main::LayerNorm => Spec { lanes: true, ..plain(include_str!("wgsl/layer_norm.wgsl"), 3, 1) },
            Main::Rope => plain(include_str!("wgsl/rope.wgsl"), 1, 1),
            Main::SwiGlu => plain(include_str!("wgsl/swiglu.wgsl"), 1, 1),
            Main::Gelu => plain(include_str!("wgsl/gelu.wgsl"), 0, 1),
            Main::Add => plain(include_str!("wgsl/add.wgsl"), 1, 1),
            Main::Convert => plain(include_str!("wgsl/convert.wgsl"), 1, 1),
            Main::ConvertQ8_0 => plain(include_str!("wgsl/convert_q8_0.wgsl"), 1, 1),
            Main::Quantize => Spec {
                lanes: true,
                ..plain(concat!(include_str!("wgsl/act.wgsl"), include_str!("wgsl/quantize.wgsl")), 2, 2)
            },
            Main::Decode => Spec {
                source: concat!(
                    include_str!("wgsl/act.wgsl"),
                    include_str!("wgsl/parts.wgsl"),
                    include_str!("wgsl/decode.wgsl")
                ),
                reads: 5,
                writes: 3,
                decoder: Decoder::Quantized,
                lanes: true,
                head: "",
            },
            Main::DecodeFloat => Spec {
                source: concat!(include_str!("wgsl/parts.wgsl"), include_str!("wgsl/decode_float.wgsl")),
                reads: 5,
                writes: 3,
                decoder: Decoder::Float,
                lanes: true,
                head: "",
            },
            Main::Tile => Spec {
                decoder: Decoder::Quantized,
                ..plain(concat!(include_str!("wgsl/tile.wgsl"), include_str!("wgsl/tile_sums.wgsl")), 5, 1)
            },
            Main::TileFloat => Spec {
                decoder: Decoder::Float,
                ..plain(
                    concat!(include_str!("wgsl/tile_float.wgsl"), include_str!("wgsl/tile_sums.wgsl")),
                    4,
                    1,
                )
            },
            Main::Halve => Spec { lanes: true, ..plain(include_str!("wgsl/halve.wgsl"), 2, 1) },
            Main::TileCoop8 => coop(include_str!("wgsl/coop8.wgsl")),
            Main::TileCoop16 => coop(include_str!("wgsl/coop16.wgsl")),
            Main::GetRows => {
                Spec { decoder: Decoder::Any, ..plain(include_str!("wgsl/get_rows.wgsl"), 3, 1) }
            }
            Main::Attention => {
                plain(concat!(include_str!("wgsl/cache.wgsl"), include_str!("wgsl/attention.wgsl")), 4, 1)
            }
            Main::AttentionSplit => plain(
                concat!(include_str!("wgsl/cache.wgsl"), include_str!("wgsl/attention_split.wgsl")),
                4,
                1,
            ),
            Main::Combine => plain(include_str!("wgsl/combine.wgsl"), 1, 1),
            Main::TopK => plain(include_str!("wgsl/top_k.wgsl"), 1, 2),
        }
    }
}

/// A kernel with what is fixed when it is compiled: the key of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    pub main: Main,
    /// Type of the weights it reads, where it reads any.
    pub format: Option<DType>,
    /// Values of its override constants, where they are not the default.
    pub constants: Vec<(&'static str, u32)>,
}

impl Kernel {
    /// `main` without a format and with its default constants.
    pub fn plain(main: Main) -> Self {
        Self { main, format: None, constants: Vec::new() }
    }
}

/// The text of the shader.
pub(super) fn compose(main: Main, format: Option<DType>, subgroups: bool) -> String {
    let spec = main.spec();
    assert!(spec.decoder.takes(format), "{main:?} of {format:?}");
    let mut parts = vec![spec.head];
    if spec.lanes {
        // The directive that it begins with must come before all else.
        parts.push(match subgroups {
            true => include_str!("wgsl/subgroup.wgsl"),
            false => include_str!("wgsl/workgroup.wgsl"),
        });
    }
    parts.push(include_str!("wgsl/prelude.wgsl"));
    parts.extend(format.map(super::formats::decoder));
    parts.push(spec.source);
    parts.join("\n")
}

/// Pipelines, made when they are first needed.
#[derive(Default)]
pub(super) struct Pipelines {
    pipelines: HashMap<Kernel, ComputePipeline>,
    /// By the storage bindings read and written.
    layouts: HashMap<(u32, u32), BindGroupLayout>,
    modules: HashMap<(Main, Option<DType>), ShaderModule>,
}

impl Pipelines {
    /// The pipeline of `kernel` and whether it had to be made.
    pub fn get(
        &mut self,
        device: &Device,
        kernel: &Kernel,
        cache: Option<&PipelineCache>,
    ) -> (ComputePipeline, bool) {
        if let Some(pipeline) = self.pipelines.get(kernel) {
            return (pipeline.clone(), false);
        }
        let spec = kernel.main.spec();
        let layout = self.layout(device, spec.reads, spec.writes);
        let layout = device.device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = self.modules.entry((kernel.main, kernel.format));
        let module = module.or_insert_with(|| module_of(device, kernel));
        let constants: Vec<_> = kernel.constants.iter().map(|&(name, v)| (name, f64::from(v))).collect();
        let pipeline = device.device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: None,
            layout: Some(&layout),
            module,
            entry_point: Some("main"),
            compilation_options: PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes what it reads there.
                zero_initialize_workgroup_memory: false,
            },
            cache,
        });
        self.pipelines.insert(kernel.clone(), pipeline.clone());
        (pipeline, true)
    }

    /// The layout of bind groups with so many storage buffers read and written.
    pub fn layout(&mut self, device: &Device, reads: u32, writes: u32) -> BindGroupLayout {
        let make = || {
            let entry = |binding, ty, dynamic| BindGroupLayoutEntry {
                binding,
                visibility: ShaderStages::COMPUTE,
                ty: BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
                count: None,
            };
            let mut entries = vec![entry(0, BufferBindingType::Uniform, true)];
            entries.extend((1..=reads + writes).map(|binding| {
                entry(binding, BufferBindingType::Storage { read_only: binding <= reads }, false)
            }));
            let descriptor = BindGroupLayoutDescriptor { label: None, entries: &entries };
            device.device.create_bind_group_layout(&descriptor)
        };
        self.layouts.entry((reads, writes)).or_insert_with(make).clone()
    }
}

fn module_of(device: &Device, kernel: &Kernel) -> ShaderModule {
    let text = compose(kernel.main, kernel.format, device.facts.subgroups);
    let descriptor = ShaderModuleDescriptor { label: None, source: ShaderSource::Wgsl(text.into()) };
    let mut checks = ShaderRuntimeChecks::checked();
    // A counter in every loop, against loops that never end: ours do.
    checks.force_loop_bounding = false;
    checks.bounds_checks = cfg!(debug_assertions);
    // SAFETY: the shaders are this crate's own, and all their loops run to a bound. They index within the bounds of what is bound,
    // since offsets and shapes are checked when an op is recorded; builds with debug assertions, in which tests run, check it.
    unsafe { device.device.create_shader_module_trusted(descriptor, checks) }
}
