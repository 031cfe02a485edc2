//! How many threads are worth starting: the physical cores that this process may use.
//!
//! A second thread on a core shares its multipliers and its cache ports, which is all that a product needs, and an
//! efficiency core that gets an equal share makes the others wait. So: one thread per core, performance cores only, never
//! more than the scheduler lets us have (affinity, cgroup quota).

use std::{collections::BTreeSet, fs, path::Path};

/// Cores to use on this machine: physical ones, the fast ones of a hybrid chip, as many as affinity and the cgroup's
/// quota allow. At least 1. Where the topology is not to be read (other systems than Linux): all logical processors.
pub fn physical_cores() -> usize {
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = fs::read_to_string("/proc/self/status").ok().and_then(|s| allowed(&s));
    match allowed.and_then(|allowed| fast_cores(Path::new("/sys/devices"), &allowed)) {
        Some(cores) => cores.clamp(1, quota),
        None => quota,
    }
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
    // Arm's tell each core's capacity, the fastest being 1024. Middle cores are worth having, little ones are not:
    // half is between the two on every big.LITTLE chip whose device tree was looked at.
    let capacity =
        |cpu: &usize| read(format!("system/cpu/cpu{cpu}/cpu_capacity"))?.trim().parse::<u32>().ok();
    if let Some(best) = cpus.iter().filter_map(capacity).max() {
        cpus.retain(|cpu| capacity(cpu).is_none_or(|c| 2 * c >= best));
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
        assert_eq!(fast_cores(Path::new("/nonexistent"), &all), None);
        for root in [smt, hybrid, arm] {
            fs::remove_dir_all(root).unwrap();
        }
    }

    #[test]
    fn this_machine_has_one() {
        assert!(physical_cores() >= 1);
    }
}
