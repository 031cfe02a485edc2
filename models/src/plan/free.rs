//! How much memory is free, as the system says it.

use std::fs;

/// Bytes that can be taken without swapping: Linux' MemAvailable, or less where a container's limit (cgroup v2 or v1) is
/// nearer. `None` where the system has no such figure in a file, as macOS and Windows.
pub fn free_memory() -> Option<u64> {
    let machine = available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let file = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let second = || limit(&file("memory.max")?, &file("memory.current")?, &file("memory.stat")?, "file ");
    let first = || {
        let file = |name: &str| file(&format!("memory/memory.{name}"));
        limit(&file("limit_in_bytes")?, &file("usage_in_bytes")?, &file("stat")?, "total_cache ")
    };
    Some(second().or_else(first).map_or(machine, |c| c.min(machine)))
}

/// MemAvailable of /proc/meminfo, which counts kB of 1024.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What a container has left of `max`, from what it takes now, `current`, and its statistics: `current` counts cached files, in the
/// line that begins with `files`, which give way. `None` without a limit.
fn limit(max: &str, current: &str, stat: &str, files: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let cached: u64 = stat.lines().find_map(|l| l.strip_prefix(files)?.trim().parse().ok())?;
    Some(max.saturating_sub(current.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24576000 kB\nMemFree:          100 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available(text), Some(2048 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_container_may_have_less() {
        assert_eq!(limit("1000\n", "700\n", "anon 300\nfile 400\nkernel 1\n", "file "), Some(700));
        assert_eq!(limit("max\n", "700\n", "file 400\n", "file "), None);
    }
}
