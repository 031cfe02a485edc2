//! How long each op took on the device: two timestamps around every dispatch.

use std::time::Duration;

use wgpu::{
    Buffer, BufferUsages, CommandEncoder, MapMode, QUERY_SIZE, QuerySet, QuerySetDescriptor, QueryType,
};

use super::{
    device::Device,
    dispatch::{MOST_DISPATCHES, Moments},
};
use crate::count::Op;

/// Timestamps of a submission, and the sums of those before it.
pub(super) struct Times {
    queries: QuerySet,
    resolved: Buffer,
    read: Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// The ops of the submission under way.
    ops: Vec<Op>,
    spent: [Duration; Op::ALL.len()],
}

impl Times {
    /// `None` where there is no memory.
    pub fn new(device: &mut Device) -> Option<Self> {
        let count = 2 * MOST_DISPATCHES as u32;
        let bytes = u64::from(count * QUERY_SIZE);
        let descriptor = QuerySetDescriptor { label: None, ty: QueryType::Timestamp, count };
        Some(Self {
            resolved: device.buffer("times", bytes, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC)?,
            read: device.buffer("times read", bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?,
            queries: device.device.create_query_set(&descriptor),
            period: f64::from(device.queue.get_timestamp_period()),
            ops: Vec::new(),
            spent: Default::default(),
        })
    }

    /// Where the pass of the `i`-th dispatch writes its moments.
    pub fn writes(&self, i: usize) -> Moments<'_> {
        Moments {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * i as u32),
            end_of_pass_write_index: Some(2 * i as u32 + 1),
        }
    }

    /// Ends the submission of `ops`.
    pub fn resolve(&mut self, encoder: &mut CommandEncoder, ops: impl Iterator<Item = Op>) {
        self.ops = ops.collect();
        let count = 2 * self.ops.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
            let bytes = u64::from(count * QUERY_SIZE);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, bytes);
        }
    }

    /// Waits for the submission and adds up its times.
    pub fn collect(&mut self, device: &Device) {
        if self.ops.is_empty() {
            return;
        }
        let slice = self.read.slice(..2 * self.ops.len() as u64 * u64::from(QUERY_SIZE));
        slice.map_async(MapMode::Read, |_| {});
        device.wait();
        if let Ok(view) = slice.get_mapped_range() {
            let ticks: Vec<u64> =
                view.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default())).collect();
            for (op, moments) in self.ops.iter().zip(ticks.chunks_exact(2)) {
                let ticks = moments[1].saturating_sub(moments[0]);
                self.spent[*op as usize] += Duration::from_nanos((ticks as f64 * self.period) as u64);
            }
        }
        self.read.unmap();
    }

    /// The times so far, which begin anew.
    pub fn take(&mut self) -> Vec<(Op, Duration)> {
        let spent = std::mem::take(&mut self.spent);
        Op::ALL.into_iter().zip(spent).collect()
    }
}
