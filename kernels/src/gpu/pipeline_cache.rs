//! Compiled shaders on disk, so that the next start does not compile them again.
//!
//! Only Vulkan has such a cache to be kept; elsewhere the driver keeps its own. A file that cannot be read or written is no
//! error: the shaders are compiled as the first time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wgpu::{PipelineCache, PipelineCacheDescriptor};

use super::device::Device;

/// The cache of a device and the file that it is kept in.
pub(super) struct OnDisk {
    pub cache: PipelineCache,
    path: PathBuf,
    /// Whether there is something in it that the file does not have.
    pub new: bool,
}

impl OnDisk {
    /// The cache of `device` in `folder`, filled from its file; `None` where the device has none.
    pub fn open(device: &Device, folder: &Path) -> Option<Self> {
        if !device.info.pipeline_cache {
            return None;
        }
        // The key names the card; the driver says with the data itself whether they are of its version.
        let key = wgpu::util::pipeline_cache_key(&device.device.adapter_info())?;
        let path = folder.join(key);
        let data = fs::read(&path).ok().and_then(whole);
        let descriptor = PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
        // SAFETY: the data are what `get_data` gave to `save`, as their sum shows: what was cut short or changed on disk is left out.
        // Whether they are of this device and this version of its driver wgpu checks, and begins an empty cache where not.
        let cache = unsafe { device.device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, path, new: false })
    }

    /// Writes what is new to the file.
    pub fn save(&mut self) {
        if !std::mem::take(&mut self.new) {
            return;
        }
        let Some(data) = self.cache.get_data() else { return };
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        let folder = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = folder
            .and_then(|()| fs::write(&part, with_sum(&data)))
            .and_then(|()| fs::rename(&part, &self.path));
        if written.is_err() {
            // Half a file helps nobody; where this fails too, there was none.
            let _ = fs::remove_file(&part);
        }
    }
}

/// What a file is made of: the sum of `data`, and they.
fn with_sum(data: &[u8]) -> Vec<u8> {
    [&sum(data).to_le_bytes(), data].concat()
}

/// What a file holds behind its sum, where that is right.
fn whole(mut file: Vec<u8>) -> Option<Vec<u8>> {
    let data = file.split_off(size_of::<u64>().min(file.len()));
    let known = u64::from_le_bytes(file.try_into().ok()?);
    (known == sum(&data)).then_some(data)
}

/// FNV-1a (Fowler, Noll, Vo) of 64 bits: against accidents, not against malice, which could as well change the program.
fn sum(data: &[u8]) -> u64 {
    data.iter()
        .fold(0xCBF2_9CE4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::{whole, with_sum};

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let data: Vec<u8> = (0..100).collect();
        let file = with_sum(&data);
        assert_eq!(whole(file.clone()), Some(data));
        for cut in 0..file.len() {
            assert_eq!(whole(file[..cut].to_vec()), None, "cut to {cut} bytes");
            let mut changed = file.clone();
            changed[cut] ^= 1;
            assert_eq!(whole(changed), None, "byte {cut} changed");
        }
    }
}
