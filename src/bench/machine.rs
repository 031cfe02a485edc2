//! What a figure was measured on: processor, memory, system, commit; and what the system tells of this process.

use std::{fs, process::Command};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The commit that this program was built from (build.rs).
pub const COMMIT: &str = env!("PUMICE_COMMIT");

/// The processor's name; on boards that do not tell it, the board's: `NVIDIA Jetson Orin Nano Developer Kit`.
pub fn name() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let board = || fs::read_to_string("/proc/device-tree/model").ok();
    model_name(&cpuinfo)
        .or_else(|| Some(board()?.trim_matches(['\0', '\n', ' ']).to_owned()))
        .or_else(|| sysctl("machdep.cpu.brand_string"))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// The line `model name` of /proc/cpuinfo, which x86 has; runs of spaces become one.
fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

/// The machine's memory in bytes; 0 where the system does not tell.
pub fn memory() -> u64 {
    let kib = |text: &str| field(text, "MemTotal:");
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kib(&text))
        .or_else(|| sysctl("hw.memsize")?.parse().ok())
        .unwrap_or(0)
}

/// A line `NAME  123 kB` of a file of /proc, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What macOS tells of itself.
fn sysctl(name: &str) -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let out = Command::new("sysctl").args(["-n", name]).output().ok()?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}

/// Operating system and architecture: `linux x86_64`.
pub fn system() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The time now, UTC, to the second: `2026-11-20T16:40:12Z`.
pub fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// How many processes wanted a processor in the last minute, on the average; `None` where the system does not tell.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Counts the peak of this process's memory from now on. False where the system cannot: the peak is then since the start.
pub fn reset_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Bytes that this process had in memory at most, pages of mapped files included.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok();
    status.and_then(|text| field(&text, "VmHWM:")).or_else(max_rss)
}

/// The same as getrusage tells it, in kB of 1024 but for Apple's bytes.
#[cfg(unix)]
fn max_rss() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    let rss = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
    u64::try_from(rss).ok()?.checked_mul(unit)
}

#[cfg(not(unix))]
fn max_rss() -> Option<u64> {
    None
}

/// Bytes that this process had the system fetch from storage so far, page faults included; `None` where it does not tell.
pub fn bytes_fetched() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("read_bytes:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_as_linux_writes_them() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R)  CPU @ 2.00GHz\n\nprocessor\t: 1\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("Intel(R) Xeon(R) CPU @ 2.00GHz"));
        assert_eq!(model_name("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
        assert_eq!(field("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\n", "VmHWM:"), Some(2048 * 1024));
        assert_eq!(field("VmHWM:\t 2048\n", "VmHWM:"), None);
    }

    #[test]
    fn this_machine_and_this_process() {
        assert!(!name().is_empty() && !COMMIT.is_empty());
        assert_eq!((now().len(), now().ends_with('Z')), ("2026-11-20T16:40:12Z".len(), true));
        if cfg!(target_os = "linux") {
            assert!(memory() > 1 << 28, "{}", memory());
            let (hwm, rss) = (peak().unwrap(), max_rss().unwrap());
            assert!(hwm > 1 << 20 && rss > 1 << 20, "{hwm} {rss}");
        }
    }

    #[test]
    fn the_peak_is_that_since_the_reset() {
        if !reset_peak() {
            return; // no such file on this system
        }
        // The process's other tests take and give back memory meanwhile: one of many tries is undisturbed.
        let undisturbed = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            a_peak_shows_and_is_forgotten()
        });
        assert!(undisturbed);
    }

    fn a_peak_shows_and_is_forgotten() -> bool {
        assert!(reset_peak());
        let before = peak().unwrap();
        // 64 MB, every page of it written.
        let big = std::hint::black_box(vec![1u8; 64 << 20]);
        let with = peak().unwrap();
        drop(big);
        let after = peak().unwrap();
        assert!(reset_peak());
        let reset = peak().unwrap();
        // The kernel sums up per processor, so a reading may differ by some pages.
        with >= before + (60 << 20) && after + (4 << 20) >= with && reset + (32 << 20) < with
    }
}
