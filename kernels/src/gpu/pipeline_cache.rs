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
        let data = fs::read(&path).ok();
        let descriptor = PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
        // SAFETY: the data are what `get_data` gave to `save`, which renames whole files only; wgpu checks a header of its own
        // with device, driver version and length before the driver sees them, and begins an empty cache where it does not fit.
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
        let written =
            folder.and_then(|()| fs::write(&part, data)).and_then(|()| fs::rename(&part, &self.path));
        if written.is_err() {
            // Half a file helps nobody; where this fails too, there was none.
            let _ = fs::remove_file(&part);
        }
    }
}
