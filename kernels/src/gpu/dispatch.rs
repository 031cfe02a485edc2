//! From dispatches to a submission: parameters, bind groups, one command buffer.
//!
//! Bind groups are made once for a kernel's shape and the buffers it meets; parameters differ from one dispatch to the
//! next and lie in one uniform buffer, each at an offset of its own. So a token costs one small upload, one command
//! buffer and one submission.

use std::collections::HashMap;

use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, Buffer, BufferBinding, BufferUsages, CommandEncoder,
    ComputePassDescriptor, ComputePassTimestampWrites, SubmissionIndex,
};

use super::{
    buffers::Slots,
    device::Device,
    pipeline_cache::OnDisk,
    shader::{Kernel, PARAMS_BYTES, Pipelines},
    times::Times,
};
use crate::count::Op;

/// Dispatches in a submission at most: a token of a 13B model before any fusing, and a uniform buffer of 256 kB.
pub(super) const MOST_DISPATCHES: usize = 1024;

/// A kernel to be run.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    /// The op whose work it does, for the table of times.
    pub op: Op,
    pub kernel: Kernel,
    /// The fields of the shader's `Params`, in order; floats by their bits.
    pub params: Vec<u32>,
    /// The buffers of its storage bindings, in order.
    pub buffers: Vec<u32>,
    /// Workgroups, x, y and z.
    pub groups: [u32; 3],
}

/// What submissions have in common.
pub(super) struct Encoder {
    pipelines: Pipelines,
    cache: Option<OnDisk>,
    bind_groups: HashMap<(u32, u32, Vec<u32>), BindGroup>,
    uniforms: Buffer,
    times: Option<Times>,
}

impl Encoder {
    /// `None` where there is no memory for the parameters.
    pub fn new(device: &mut Device, cache: Option<OnDisk>) -> Option<Self> {
        let bytes = MOST_DISPATCHES as u64 * PARAMS_BYTES;
        let uniforms = device.buffer("parameters", bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        let times = device.times.then(|| Times::new(device)).flatten();
        Some(Self { pipelines: Pipelines::default(), cache, bind_groups: HashMap::new(), uniforms, times })
    }

    /// The times measured, where ops are timed.
    pub fn times(&mut self) -> Option<&mut Times> {
        self.times.as_mut()
    }

    /// Forgets bind groups that hold `buffer`, which is going.
    pub fn forget(&mut self, buffer: u32) {
        self.bind_groups.retain(|(_, _, buffers), _| !buffers.contains(&buffer));
    }

    /// Runs `dispatches`, at most [`MOST_DISPATCHES`], then what `tail` adds.
    pub fn submit(
        &mut self,
        device: &Device,
        slots: &Slots,
        dispatches: &[Dispatch],
        tail: impl FnOnce(&mut CommandEncoder),
    ) -> SubmissionIndex {
        assert!(dispatches.len() <= MOST_DISPATCHES, "{} dispatches at once", dispatches.len());
        let mut params = vec![0u8; dispatches.len() * PARAMS_BYTES as usize];
        for (dispatch, block) in dispatches.iter().zip(params.chunks_exact_mut(PARAMS_BYTES as usize)) {
            let bytes: &[u8] = bytemuck::cast_slice(&dispatch.params);
            block[..bytes.len()].copy_from_slice(bytes);
        }
        if !params.is_empty() {
            device.queue.write_buffer(&self.uniforms, 0, &params);
        }
        let mut encoder = device.device.create_command_encoder(&Default::default());
        if self.times.is_some() {
            for (i, dispatch) in dispatches.iter().enumerate() {
                self.pass(device, slots, &mut encoder, std::slice::from_ref(dispatch), i);
            }
        } else if !dispatches.is_empty() {
            self.pass(device, slots, &mut encoder, dispatches, 0);
        }
        if let Some(times) = &mut self.times {
            times.resolve(&mut encoder, dispatches.iter().map(|d| d.op));
        }
        tail(&mut encoder);
        let index = device.queue.submit([encoder.finish()]);
        if let Some(on_disk) = &mut self.cache {
            on_disk.save();
        }
        if let Some(times) = &mut self.times {
            times.collect(device);
        }
        index
    }

    /// A compute pass of `dispatches`, the first of which is the `first`-th of the submission.
    fn pass(
        &mut self,
        device: &Device,
        slots: &Slots,
        encoder: &mut CommandEncoder,
        dispatches: &[Dispatch],
        first: usize,
    ) {
        let ready: Vec<_> = dispatches.iter().map(|d| self.prepare(device, slots, d)).collect();
        let writes = self.times.as_ref().map(|times| times.writes(first));
        let descriptor = ComputePassDescriptor { label: None, timestamp_writes: writes };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        for (i, (dispatch, (pipeline, group))) in dispatches.iter().zip(&ready).enumerate() {
            let [x, y, z] = dispatch.groups;
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, group, &[((first + i) as u64 * PARAMS_BYTES) as u32]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// The pipeline and the bind group of `dispatch`.
    fn prepare(
        &mut self,
        device: &Device,
        slots: &Slots,
        dispatch: &Dispatch,
    ) -> (wgpu::ComputePipeline, BindGroup) {
        let spec = dispatch.kernel.main.spec();
        assert_eq!(
            dispatch.buffers.len(),
            (spec.reads + spec.writes) as usize,
            "buffers of {:?}",
            dispatch.kernel
        );
        let cache = self.cache.as_ref().map(|on_disk| &on_disk.cache);
        let (pipeline, made) = self.pipelines.get(device, &dispatch.kernel, cache);
        if let Some(on_disk) = &mut self.cache {
            on_disk.new |= made;
        }
        let key = (spec.reads, spec.writes, dispatch.buffers.clone());
        if let Some(group) = self.bind_groups.get(&key) {
            return (pipeline, group.clone());
        }
        let layout = self.pipelines.layout(device, spec.reads, spec.writes);
        let params = BufferBinding {
            buffer: &self.uniforms,
            offset: 0,
            size: std::num::NonZeroU64::new(PARAMS_BYTES),
        };
        let mut entries =
            vec![BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
        entries.extend(dispatch.buffers.iter().zip(1..).map(|(&number, binding)| BindGroupEntry {
            binding,
            resource: slots.get(number).as_entire_binding(),
        }));
        let descriptor = BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
        let group = device.device.create_bind_group(&descriptor);
        self.bind_groups.insert(key, group.clone());
        (pipeline, group)
    }
}

/// The pass's first and last moment, written to `query_set`.
pub(super) type Moments<'a> = ComputePassTimestampWrites<'a>;
