//! TensorBoard's event file: records of a length, a checksum, a protobuf message and its checksum.
//!
//! Record (TensorFlow, `record_writer.h`): `u64 length, u32 masked(crc(length)), bytes, u32 masked(crc(bytes))`, little-endian, where `crc` is
//! CRC-32C and `masked(c) = rotate_right(c, 15) + 0xa282ead8`. Messages (`event.proto`, `summary.proto`), of which these fields are used:
//! `Event { 1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary }`, `Summary { 1: repeated Value }`,
//! `Value { 1: string tag, 2: float simple_value }`.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Observer, StepReport};
use crate::{Error, Result};

/// An event file that is being written.
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    peak: Option<f64>,
}

impl TensorBoard {
    /// A new event file in `folder`; a resumed run has one of its own, and TensorBoard shows them as one. `peak` is the FLOP/s of all devices.
    ///
    /// # Errors
    /// The folder or file cannot be made.
    pub fn create(folder: &Path, peak: Option<f64>) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let now = seconds();
        let path =
            folder.join(format!("events.out.tfevents.{:010}.pumice.{}", now as u64, std::process::id()));
        let mut file = File::create(&path).map_err(Error::io(&path))?;
        file.write_all(&record(&version(now))).map_err(Error::io(&path))?;
        Ok(Self { path, file, peak })
    }
}

impl Observer for TensorBoard {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        let mut values = vec![
            ("train/loss", report.loss),
            ("train/lr", report.lr),
            ("train/tokens_per_second", report.tokens_per_second()),
            ("train/memory_gb", report.memory as f64 / 1e9),
            ("train/skipped_rows", report.skipped_rows as f64),
        ];
        values.extend(report.grad_norm.map(|norm| ("train/grad_norm", norm)));
        values.extend(report.mfu(self.peak).map(|mfu| ("train/mfu", mfu)));
        let event = scalars(seconds(), report.step, &values);
        self.file.write_all(&record(&event)).map_err(Error::io(&self.path))
    }

    fn note(&mut self, _: &str) {}
}

/// Seconds since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The first event of a file.
pub(super) fn version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    fixed64(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// An event with the scalars of `step`.
pub(super) fn scalars(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        bytes(&mut one, 1, tag.as_bytes());
        varint(&mut one, 2 << 3 | 5);
        one.extend((*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &one);
    }
    let mut event = Vec::new();
    fixed64(&mut event, 1, wall_time);
    varint(&mut event, 2 << 3);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

/// The framing of one message.
pub(super) fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

fn masked(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli; RFC 3720, B.4), bit by bit: a step writes a few hundred bytes.
pub(super) fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

/// Protobuf: seven bits a byte, the lowest first, the top bit set on all but the last.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Protobuf: a double of field `number`.
fn fixed64(out: &mut Vec<u8>, number: u64, value: f64) {
    varint(out, number << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// Protobuf: a string or message of field `number`.
fn bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}
