//! How many threads are worth starting: the physical cores that this process may use.
//!
//! A second thread on a core shares its multipliers and its cache ports, which is all that a product needs, and an
//! efficiency core that gets an equal share makes the others wait. So: one thread per core, performance cores only, never
//! more than the scheduler lets us have (affinity, cgroup quota).

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Cores to use on this machine: physical ones, the fast ones of a hybrid chip, as many as affinity and the cgroup's
/// quota allow. At least 1. macOS tells its performance cores; Windows its physical ones, efficiency cores among them;
/// where nothing is told: all logical processors.
pub fn physical_cores() -> usize {
    // Affinity and, on Linux, the quota of all cgroups above (cpu.max, cpu.cfs_quota_us), rounded down.
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    let told = of_linux().or_else(of_macos).or_else(of_windows);
    told.map_or(quota, |cores| cores.clamp(1, quota))
}

fn of_linux() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    fast_cores(Path::new("/sys/devices"), &allowed(&status)?)
}

/// Asked of the system's own program: there is no file of it, and a call would be unsafe code for one number.
fn of_macos() -> Option<usize> {
    let ask = |name| {
        let out = Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok().filter(|n| *n > 0)
    };
    if !cfg!(target_vendor = "apple") {
        return None;
    }
    // Level 0 is the fastest; chips before Apple's own have no levels.
    ask("hw.perflevel0.physicalcpu").or_else(|| ask("hw.physicalcpu"))
}

#[cfg(windows)]
fn of_windows() -> Option<usize> {
    Some(num_cpus::get_physical())
}

#[cfg(not(windows))]
fn of_windows() -> Option<usize> {
    None
}

/// The processors of the line `Cpus_allowed_list` of /proc/self/status.
fn allowed(status: &str) -> Option<BTreeSet<usize>> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).and_then(list)
}

/// A list of the kernel's: `0-3,8,10-11`.
fn list(text: &str) -> Option<BTreeSet<usize>> {
    let mut all = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // No machine has more; a wild number shall not fill the memory.
        if last > 1 << 16 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Fast physical cores among the processors `allowed`, by the files under `devices` (/sys/devices).
fn fast_cores(devices: &Path, allowed: &BTreeSet<usize>) -> Option<usize> {
    let read = |path: String| fs::read_to_string(devices.join(path)).ok();
    let mut cpus = allowed.clone();
    // Intel's hybrids list their performance cores; a process pinned to efficiency cores keeps those.
    if let Some(fast) = read("cpu_core/cpus".into()).as_deref().and_then(list)
        && !fast.is_disjoint(&cpus)
    {
        cpus.retain(|cpu| fast.contains(cpu));
    }
    // Arm's tell each core's capacity, the fastest being 1024. Middle cores (A78, A720: 700 and more) are worth having,
    // little ones (A53, A55, A510: 500 at most; Apple's M2: 756 · 2424/3504 MHz = 523) are not.
    let capacity =
        |cpu: &usize| read(format!("system/cpu/cpu{cpu}/cpu_capacity"))?.trim().parse::<u32>().ok();
    if let Some(best) = cpus.iter().filter_map(capacity).max() {
        cpus.retain(|cpu| capacity(cpu).is_none_or(|c| 8 * c >= 5 * best));
    }
    // A core is the set of its threads.
    let siblings = |cpu: &usize| {
        let topology = format!("system/cpu/cpu{cpu}/topology");
        read(format!("{topology}/core_cpus_list"))
            .or_else(|| read(format!("{topology}/thread_siblings_list")))
    };
    let cores: Option<BTreeSet<String>> = cpus.iter().map(siblings).collect();
    cores.map(|cores| cores.len()).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(list("0-2,5\n"), Some([0, 1, 2, 5].into()));
        assert_eq!(list("x"), None);
        assert_eq!(list("0-4000000000"), None);
        assert_eq!(allowed("Name:\tx\nCpus_allowed_list:\t1,3\n"), Some([1, 3].into()));
    }

    /// Writes a /sys/devices of `(siblings, capacity)` per processor and, on Intel's hybrids, the fast ones.
    fn devices(name: &str, cpus: &[(&str, Option<u32>)], fast: Option<&str>) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("pumice-cores-{}-{name}", std::process::id()));
        for (cpu, (siblings, capacity)) in cpus.iter().enumerate() {
            let cpu = root.join(format!("system/cpu/cpu{cpu}"));
            fs::create_dir_all(cpu.join("topology")).unwrap();
            fs::write(cpu.join("topology/thread_siblings_list"), siblings).unwrap();
            if let Some(capacity) = capacity {
                fs::write(cpu.join("cpu_capacity"), format!("{capacity}\n")).unwrap();
            }
        }
        if let Some(fast) = fast {
            fs::create_dir_all(root.join("cpu_core")).unwrap();
            fs::write(root.join("cpu_core/cpus"), fast).unwrap();
        }
        root
    }

    #[test]
    fn hyperthreads_hybrids_and_little_cores() {
        let all: BTreeSet<usize> = (0..4).collect();
        let smt = devices("smt", &[("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)], None);
        assert_eq!(fast_cores(&smt, &all), Some(2));
        assert_eq!(fast_cores(&smt, &[0, 2].into()), Some(1), "affinity");
        let hybrid =
            devices("hybrid", &[("0-1", None), ("0-1", None), ("2", None), ("3", None)], Some("0-1"));
        assert_eq!(fast_cores(&hybrid, &all), Some(1));
        assert_eq!(fast_cores(&hybrid, &[2, 3].into()), Some(2), "pinned to efficiency cores");
        let arm =
            devices("arm", &[("0", Some(400)), ("1", Some(760)), ("2", Some(1024)), ("3", Some(1024))], None);
        assert_eq!(fast_cores(&arm, &all), Some(3));
        let m2 =
            devices("m2", &[("0", Some(523)), ("1", Some(523)), ("2", Some(1024)), ("3", Some(1024))], None);
        assert_eq!(fast_cores(&m2, &all), Some(2));
        assert_eq!(fast_cores(&m2, &[0, 1].into()), Some(2), "pinned to little cores");
        assert_eq!(fast_cores(Path::new("/nonexistent"), &all), None);
        for root in [smt, hybrid, arm, m2] {
            fs::remove_dir_all(root).unwrap();
        }
    }

    /// Two performance cores of two threads, four efficiency cores, two more of those on the chip's other die: Meteor Lake.
    #[test]
    fn efficiency_cores_have_numbers_of_their_own() {
        let one = |cpu: &'static str| (cpu, None);
        let cpus = [one("0-1"), one("0-1"), one("2-3"), one("2-3"), one("4"), one("5"), one("6"), one("7")];
        let root = devices("meteor", &cpus, Some("0-3\n"));
        assert_eq!(fast_cores(&root, &(0..8).collect()), Some(2));
        assert_eq!(fast_cores(&root, &[1, 3, 6].into()), Some(2), "affinity over both kinds");
        fs::remove_dir_all(root).unwrap();
    }

    /// An offline or hidden processor has no topology; guessing would be wrong either way.
    #[test]
    fn a_processor_without_topology_is_not_guessed() {
        let root = devices("hidden", &[("0", None), ("1", None)], None);
        assert_eq!(fast_cores(&root, &(0..3).collect()), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn this_machine_has_one_and_not_more_than_this_process_may_use() {
        let most = std::thread::available_parallelism().unwrap().get();
        assert!((1..=most).contains(&physical_cores()));
    }
}
