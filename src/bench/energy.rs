//! Joules: what the machine's own meters tell, by reading files.
//!
//! Two kinds. RAPL (Intel, AMD) counts the energy of the processor packages, and on servers of their memory, in microjoules;
//! Linux lets only root read it unless told otherwise. The INA3221 chips of Jetson boards tell voltage and current of power
//! rails, which a thread of ours reads twenty times a second and sums up, and whoever asks reads once more, so that a sample
//! shorter than that has its own share and no lump of its neighbours'. Both count the idle machine too.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two readings of a rail: shorter than a token on any board, and of no weight for its processor.
const STEP: Duration = Duration::from_millis(50);

/// Rails that carry everything a Jetson module draws; where one is there, it is read alone.
const WHOLE: [&str; 3] = ["VDD_IN", "POM_5V_IN", "VIN"];

/// Rails that hang from another one which is read too (AGX Orin's memory, from its 5 V).
const WITHIN: [&str; 1] = ["VDDQ_VDD2_1V8AO"];

/// A meter that counts up.
pub enum Meter {
    /// RAPL's counters.
    Rapl(Vec<Counter>),
    /// Power rails, summed up by a thread.
    Rails(Rails),
}

/// What was found on a machine.
pub enum Found {
    /// A meter.
    Meter(Meter),
    /// One that this user may not read: the file.
    Forbidden(PathBuf),
    /// None.
    Nothing,
}

impl Meter {
    /// Looks for a meter on this machine.
    pub fn find() -> Found {
        Self::find_in(Path::new("/sys"))
    }

    fn find_in(sys: &Path) -> Found {
        let zones = zones(&sys.join("class/powercap"));
        let counters: Vec<_> = zones.iter().filter_map(|zone| Counter::open(zone)).collect();
        if let Some(zone) = zones.first() {
            return match counters.is_empty() {
                true => Found::Forbidden(zone.join("energy_uj")),
                false => Found::Meter(Self::Rapl(counters)),
            };
        }
        match rails(&sys.join("class/hwmon")) {
            rails if rails.is_empty() => Found::Nothing,
            rails => Found::Meter(Self::Rails(Rails::watch(rails))),
        }
    }

    /// What it measures, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Rapl(counters) => {
                let names: Vec<_> = counters.iter().map(|c| c.name.as_str()).collect();
                format!("RAPL ({})", names.join(", "))
            }
            Self::Rails(rails) => format!("power rails ({})", rails.names.join(", ")),
        }
    }

    /// Joules since it was found. `None` where it has stopped to tell.
    pub fn joules(&mut self) -> Option<f64> {
        match self {
            Self::Rapl(counters) => {
                let sum: Option<u64> = counters.iter_mut().map(Counter::microjoules).sum();
                Some(sum? as f64 / 1e6)
            }
            Self::Rails(rails) => Some(rails.sum.now()),
        }
    }
}

/// The zones of RAPL under `powercap` that add up to the machine: packages, and memory where it is counted apart.
fn zones(powercap: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(powercap) else { return Vec::new() };
    let mut zones: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    zones.retain(|zone| {
        let named = zone.file_name().is_some_and(|n| n.to_string_lossy().starts_with("intel-rapl:"));
        let what = read(&zone.join("name")).unwrap_or_default();
        // Cores and graphics lie within the package; "psys" is the package and more, on laptops alone.
        named && (what.starts_with("package") || what == "dram")
    });
    zones.sort();
    zones
}

/// A file's text without the line's end.
fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// A counter of RAPL's, which begins anew at its range.
pub struct Counter {
    name: String,
    file: PathBuf,
    range: u64,
    last: u64,
    /// Microjoules since it was opened.
    sum: u64,
}

impl Counter {
    fn open(zone: &Path) -> Option<Self> {
        let file = zone.join("energy_uj");
        let last = read(&file)?.parse().ok()?;
        let range = read(&zone.join("max_energy_range_uj"))?.parse().ok()?;
        Some(Self { name: read(&zone.join("name"))?, file, range, last, sum: 0 })
    }

    /// Since it was opened.
    fn microjoules(&mut self) -> Option<u64> {
        let now: u64 = read(&self.file)?.parse().ok()?;
        self.sum +=
            if now >= self.last { now - self.last } else { now + self.range.saturating_sub(self.last) };
        self.last = now;
        Some(self.sum)
    }
}

/// A rail: files of its millivolts and milliamperes.
struct Rail {
    name: String,
    volts: PathBuf,
    amperes: PathBuf,
}

impl Rail {
    /// Watts now.
    fn power(&self) -> Option<f64> {
        let milli = |path: &Path| read(path)?.parse::<f64>().ok();
        Some(milli(&self.volts)? * milli(&self.amperes)? / 1e6)
    }
}

/// The rails under `hwmon` that add up to the board.
fn rails(hwmon: &Path) -> Vec<Rail> {
    let Ok(entries) = fs::read_dir(hwmon) else { return Vec::new() };
    let mut all = Vec::new();
    for chip in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if !read(&chip.join("name")).is_some_and(|name| name.starts_with("ina3221")) {
            continue;
        }
        for channel in 1..=3 {
            let Some(name) = read(&chip.join(format!("in{channel}_label"))) else { continue };
            let rail = Rail {
                name,
                volts: chip.join(format!("in{channel}_input")),
                amperes: chip.join(format!("curr{channel}_input")),
            };
            if rail.power().is_some() && !WITHIN.contains(&rail.name.as_str()) {
                all.push(rail);
            }
        }
    }
    if let Some(whole) = all.iter().position(|rail| WHOLE.contains(&rail.name.as_str())) {
        return vec![all.swap_remove(whole)];
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Rails and what they came to.
struct Sum {
    rails: Vec<Rail>,
    /// Joules until the last reading, and when that was.
    until: Mutex<(f64, Instant)>,
}

impl Sum {
    /// Joules until now, by the power of now since the last reading.
    fn now(&self) -> f64 {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let watts: f64 = self.rails.iter().filter_map(Rail::power).sum();
        let now = Instant::now();
        until.0 += watts * (now - until.1).as_secs_f64();
        until.1 = now;
        until.0
    }
}

/// Rails that a thread reads, and what they came to.
pub struct Rails {
    names: Vec<String>,
    sum: Arc<Sum>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rails {
    fn watch(rails: Vec<Rail>) -> Self {
        let names = rails.iter().map(|rail| rail.name.clone()).collect();
        let sum = Arc::new(Sum { rails, until: Mutex::new((0.0, Instant::now())) });
        let stop = Arc::new(AtomicBool::new(false));
        let (read, ended) = (Arc::clone(&sum), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                thread::sleep(STEP);
                read.now();
            }
        });
        Self { names, sum, stop, thread: Some(thread) }
    }
}

impl Drop for Rails {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It ends within a step; that it panicked is of no use to anyone now.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn packages_and_memory_are_summed_over_the_end_of_a_counter() {
        let dir = tempfile::tempdir().unwrap();
        let zone = |n: &str, file: &str| format!("class/powercap/intel-rapl:{n}/{file}");
        for (n, name, energy) in [
            ("0", "package-0\n", "900\n"),
            ("0:0", "core\n", "1\n"),
            ("0:1", "dram\n", "5\n"),
            ("1", "psys\n", "7\n"),
        ] {
            put(dir.path(), &[(&zone(n, "name"), name), (&zone(n, "energy_uj"), energy)]);
            put(dir.path(), &[(&zone(n, "max_energy_range_uj"), "1000\n")]);
        }
        put(dir.path(), &[("class/powercap/intel-rapl-mmio:0/name", "package-0\n")]);
        let Found::Meter(mut meter) = Meter::find_in(dir.path()) else { panic!("no meter") };
        assert_eq!(meter.name(), "RAPL (package-0, dram)");
        assert_eq!(meter.joules(), Some(0.0));
        put(dir.path(), &[(&zone("0", "energy_uj"), "200"), (&zone("0:1", "energy_uj"), "25")]);
        // 100 to the end and 200 from the beginning; 20.
        assert_eq!(meter.joules(), Some(320.0 / 1e6));
        fs::remove_file(dir.path().join(zone("0", "energy_uj"))).unwrap();
        assert_eq!(meter.joules(), None);
    }

    #[test]
    fn a_counter_that_may_not_be_read_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Meter::find_in(dir.path()), Found::Nothing));
        put(dir.path(), &[("class/powercap/intel-rapl:0/name", "package-0\n")]);
        assert!(matches!(Meter::find_in(dir.path()), Found::Forbidden(file) if file.ends_with("energy_uj")));
    }

    #[test]
    fn the_rail_that_carries_all_is_read_alone_and_summed_over_time() {
        let dir = tempfile::tempdir().unwrap();
        let chip = |file: &str| format!("class/hwmon/hwmon3/{file}");
        put(dir.path(), &[(&chip("name"), "ina3221\n"), ("class/hwmon/hwmon0/name", "thermal\n")]);
        for (n, label, milliamperes) in
            [(1, "VDD_IN", "2000"), (2, "VDD_CPU_GPU_CV", "900"), (3, "VDD_SOC", "300")]
        {
            put(
                dir.path(),
                &[(&chip(&format!("in{n}_label")), label), (&chip(&format!("in{n}_input")), "5000\n")],
            );
            put(dir.path(), &[(&chip(&format!("curr{n}_input")), milliamperes)]);
        }
        let start = Instant::now();
        let Found::Meter(mut meter) = Meter::find_in(dir.path()) else { panic!("no meter") };
        assert_eq!(meter.name(), "power rails (VDD_IN)");
        thread::sleep(3 * STEP);
        let (joules, most) = (meter.joules().unwrap(), 10.0 * start.elapsed().as_secs_f64());
        // 5 V × 2 A = 10 W.
        assert!(joules > 0.0 && joules <= most, "{joules} of {most}");
        // Far less than a step.
        for pause in [1, 5, 20].map(Duration::from_millis) {
            let (outside, before) = (Instant::now(), meter.joules().unwrap());
            thread::sleep(pause);
            let short = meter.joules().unwrap() - before;
            let (least, most) = (10.0 * pause.as_secs_f64(), 10.0 * outside.elapsed().as_secs_f64());
            assert!(short >= 0.99 * least && short <= most, "{short} is not within {least} and {most}");
        }
        fs::write(dir.path().join(chip("in1_label")), "VDD_GPU_SOC").unwrap();
        let names: Vec<_> = rails(&dir.path().join("class/hwmon")).into_iter().map(|r| r.name).collect();
        assert_eq!(names, ["VDD_CPU_GPU_CV", "VDD_GPU_SOC", "VDD_SOC"]);
    }
}
