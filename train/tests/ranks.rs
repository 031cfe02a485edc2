//! Ranks as real processes on the CPU: exact collectives, and an end with a reason where a rank is missing, killed, gone or set up otherwise.
//!
//! Each rank is this test binary again, told to run one of the ignored `rank_…` tests with torchrun's variables set. Expected values are derived
//! by hand; those of sums are exact in f32.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pumice_train::engine::ranks::{Ranks, launch, place::Place, place::World};
use pumice_train::shim::nccl;
use tch::{Device, Kind, Tensor};

/// Name of an ignored test below, as arguments of the test binary.
fn arguments(case: &str) -> [&str; 4] {
    ["--exact", case, "--ignored", "--nocapture"]
}

fn start(case: &str, rank: usize, size: usize, port: u16) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(arguments(case))
        .envs([
            ("RANK", rank.to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("WORLD_SIZE", size.to_string()),
        ])
        .envs([("MASTER_ADDR", "127.0.0.1".to_string()), ("MASTER_PORT", port.to_string())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs `ranks` of a run of `size`; whether each succeeded, and what it wrote.
fn run(case: &str, ranks: impl IntoIterator<Item = usize>, size: usize) -> Vec<(bool, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let children: Vec<_> = ranks.into_iter().map(|rank| start(case, rank, size, port)).collect();
    let ends = children.into_iter().map(|child| child.wait_with_output().unwrap());
    ends.map(|o| {
        let text = [o.stdout, o.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        assert!(text.contains("running 1 test\n"), "no test is named {case}: {text}");
        (o.status.success(), text)
    })
    .collect()
}

fn all_succeed(ends: &[(bool, String)]) {
    for (rank, (well, text)) in ends.iter().enumerate() {
        assert!(well, "rank {rank}: {text}");
    }
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// In a rank's process: its place; elsewhere (someone runs all ignored tests) none.
fn place(timeout: u64) -> Option<Place> {
    let place = Place::read(|name| std::env::var(name).ok()).unwrap();
    (place.size > 1).then_some(Place { timeout: Duration::from_secs(timeout), ..place })
}

fn join(timeout: u64) -> Option<(Box<dyn Ranks>, usize, usize)> {
    let place = place(timeout)?;
    let world = World::on(&place, Device::Cpu).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((world.ranks.rank(), world.ranks.size()), (place.rank, place.size));
    Some((world.ranks, place.rank, place.size))
}

fn floats(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t.to_kind(Kind::Float)).unwrap()
}

#[test]
fn collectives_of_two() {
    all_succeed(&run("rank_collectives", 0..2, 2));
}

#[test]
fn collectives_of_four() {
    all_succeed(&run("rank_collectives", 0..4, 4));
}

#[test]
#[ignore = "a rank's process"]
fn rank_collectives() {
    let Some((ranks, rank, size)) = join(60) else { return };
    let (r, s) = (rank as f32, size as f32);
    // Rank r holds r, r+1, r+2, …: element i sums to size·i + size(size-1)/2.
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        let whole =
            (Tensor::arange(3 * size as i64, (Kind::Float, Device::Cpu)) + f64::from(r)).to_kind(kind);
        let shard = ranks.reduce_scatter(&whole).unwrap();
        assert_eq!(shard.kind(), kind);
        let want: Vec<f32> = (0..3).map(|i| s * (3.0 * r + i as f32) + s * (s - 1.0) / 2.0).collect();
        assert_eq!(floats(&shard), want);
        let mut all = Tensor::zeros([3 * size as i64], (kind, Device::Cpu));
        ranks.all_gather(&shard, &mut all).unwrap();
        let want: Vec<f32> = (0..3 * size).map(|i| s * i as f32 + s * (s - 1.0) / 2.0).collect();
        assert_eq!(floats(&all), want);
    }
    if size == 4 {
        // In rank order: ((1e8 + 1) - 1e8) + 1 = 1 in f32, since 1e8 + 1 rounds to 1e8; other orders give 0 or 2.
        let mine = [1e8f32, 1.0, -1e8, 1.0][rank];
        assert_eq!(floats(&ranks.reduce_scatter(&Tensor::from_slice(&[mine; 4])).unwrap()), [1.0]);
    }
    let mut numbers = [f64::from(r), 0.5, -1.0];
    ranks.sum(&mut numbers).unwrap();
    let s = f64::from(s);
    assert_eq!(numbers, [s * (s - 1.0) / 2.0, s * 0.5, -s]);
    let since = Instant::now();
    if rank == 1 {
        std::thread::sleep(Duration::from_millis(300));
    }
    ranks.barrier().unwrap();
    assert!(since.elapsed() > Duration::from_millis(200), "the barrier waited {:?}", since.elapsed());
}

#[test]
fn more_than_one_message_holds() {
    all_succeed(&run("rank_large", 0..2, 2));
}

#[test]
#[ignore = "a rank's process"]
fn rank_large() {
    let Some((ranks, rank, size)) = join(60) else { return };
    // 12 MB a segment: the store takes 8 MiB at once.
    let n = 3_000_001;
    let count = Tensor::arange(n * size as i64, (Kind::Float, Device::Cpu)).remainder(1000.0);
    let shard = ranks.reduce_scatter(&(&count * (rank as f64 + 1.0))).unwrap();
    assert!(shard.equal(&(count.narrow(0, rank as i64 * n, n) * 3.0)));
    let mut all = count.zeros_like();
    ranks.all_gather(&shard, &mut all).unwrap();
    assert!(all.equal(&(count * 3.0)));
}

#[test]
fn a_missing_rank_is_named() {
    let ends = run("rank_alone", [0], 3);
    assert_says(&ends[0].1, &["rank 0 waited 2 s", "rank 1, 2 of 3", "timeout", "WORLD_SIZE", "MASTER_ADDR"]);
    let ends = run("rank_alone", [1], 3);
    assert_says(
        &ends[0].1,
        &["rank 1 got no answer from rank 0 at 127.0.0.1:", "Check that rank 0 runs", "MASTER_PORT"],
    );
}

#[test]
#[ignore = "a rank's process"]
fn rank_alone() {
    let Some(place) = place(2) else { return };
    println!("{}", World::on(&place, Device::Cpu).unwrap_err());
}

#[test]
fn a_killed_rank_stops_the_others_after_the_timeout() {
    let since = Instant::now();
    let ends = run("rank_killed", 0..3, 3);
    assert!(!ends[1].0, "rank 1 was to be killed");
    for rank in [0, 2] {
        let end = &ends[rank];
        assert!(end.0, "rank {rank}: {}", end.1);
        assert_says(&end.1, &["timeout", &format!("rank {rank} waited 3 s for rank 1"), "reduce_scatter"]);
    }
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

#[test]
#[ignore = "a rank's process"]
fn rank_killed() {
    let Some((ranks, rank, _)) = join(3) else { return };
    ranks.barrier().unwrap();
    if rank == 1 {
        std::process::abort();
    }
    println!("{}", ranks.reduce_scatter(&Tensor::from_slice(&[1f32; 3])).unwrap_err());
}

#[test]
fn a_rank_that_ends_stops_the_others_at_once() {
    let since = Instant::now();
    let ends = run("rank_leaves", 0..3, 3);
    all_succeed(&ends);
    assert_says(&ends[0].1, &["rank 1 ended while rank 0 waited for it"]);
    assert_says(&ends[2].1, &["rank 1 ended while rank 2 waited for it"]);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

#[test]
#[ignore = "a rank's process"]
fn rank_leaves() {
    let Some((ranks, rank, _)) = join(60) else { return };
    ranks.barrier().unwrap();
    if rank != 1 {
        println!("{}", ranks.reduce_scatter(&Tensor::from_slice(&[1f32; 3])).unwrap_err());
    }
}

#[test]
fn without_rank_0_the_others_stop() {
    let ends = run("rank_0_killed", 0..2, 2);
    assert!(!ends[0].0, "rank 0 was to be killed");
    assert_says(
        &ends[1].1,
        &["rank 1 lost the connection to rank 0 at 127.0.0.1:", "look at what rank 0 wrote"],
    );
}

#[test]
#[ignore = "a rank's process"]
fn rank_0_killed() {
    let Some((ranks, rank, _)) = join(60) else { return };
    ranks.barrier().unwrap();
    if rank == 0 {
        std::process::abort();
    }
    println!("{}", ranks.sum(&mut [1.0]).unwrap_err());
}

#[test]
fn ranks_with_other_settings_are_told() {
    let ends = run("rank_differs", 0..2, 2);
    all_succeed(&ends);
    assert_says(&ends[0].1, &["rank 1 sent 8 bytes where rank 0 expects 4", "same settings"]);
    assert_says(&ends[1].1, &["rank 0 sent 4 bytes where rank 1 expects 8"]);
}

#[test]
#[ignore = "a rank's process"]
fn rank_differs() {
    let Some((ranks, rank, _)) = join(60) else { return };
    let whole = Tensor::zeros([2 * (1 + rank as i64)], (Kind::Float, Device::Cpu));
    println!("{}", ranks.reduce_scatter(&whole).unwrap_err());
}

#[test]
fn launch_waits_for_all() {
    let program = std::env::current_exe().unwrap();
    let go = AtomicBool::new(false);
    launch::run(3, program.as_os_str(), &arguments("rank_greets"), &[], &go).unwrap();
    let error = launch::run(1, "no-such-program".as_ref(), &[""; 0], &[], &go).unwrap_err().to_string();
    assert_says(&error, &["rank 0 does not start", "no-such-program"]);
}

#[test]
#[ignore = "a rank's process"]
fn rank_greets() {
    let Some((ranks, rank, size)) = join(60) else { return };
    let mut sum = [rank as f64];
    ranks.sum(&mut sum).unwrap();
    assert_eq!((size, sum), (3, [3.0]));
}

#[test]
fn launch_ends_the_others_when_one_fails() {
    let since = Instant::now();
    let program = std::env::current_exe().unwrap();
    let failed = launch::run(3, program.as_os_str(), &arguments("rank_fails"), &[], &AtomicBool::new(false));
    assert_says(&failed.unwrap_err().to_string(), &["rank 1 of 3 failed", "exit status: 7"]);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

#[test]
#[ignore = "a rank's process"]
fn rank_fails() {
    let Some(place) = place(60) else { return };
    if place.rank == 1 {
        std::process::exit(7);
    }
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[cfg(unix)]
fn launch_passes_an_interrupt_on() {
    let since = Instant::now();
    let program = std::env::current_exe().unwrap();
    let stop = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
        });
        launch::run(2, program.as_os_str(), &arguments("rank_sleeps"), &[], &stop)
    });
    assert_eq!(ended.unwrap(), launch::Ended::Stopped);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

#[test]
#[ignore = "a rank's process"]
fn rank_sleeps() {
    if place(60).is_some() {
        // As the program does: where the tests run behind a shell's `&`, an interrupt is ignored by whoever does not ask for it.
        ctrlc::set_handler(|| std::process::exit(130)).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Without a GPU only the library's opening can be tried (`LD_LIBRARY_PATH` to NVIDIA's package nvidia-nccl-cu13); without the library, the message.
#[test]
fn nccl_opens_or_is_named() {
    match nccl::version() {
        Ok(version) => {
            assert!(version >= 21000, "bfloat16 came with NCCL 2.10, this is {version}");
            assert_ne!(nccl::Id::new().unwrap(), nccl::Id::new().unwrap());
        }
        Err(e) => assert_says(&e.to_string(), &["libnccl.so.2"]),
    }
}

#[test]
fn places_are_read_from_torchruns_variables() {
    let read = |set: &[(&str, &str)]| {
        Place::read(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string()))
    };
    assert_eq!(read(&[]).unwrap(), Place::default());
    let full = [
        ("RANK", "9"),
        ("WORLD_SIZE", "16"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "29400"),
    ];
    let want = Place { rank: 9, size: 16, local_rank: 1, addr: "a".into(), port: 29400, ..Place::default() };
    assert_eq!(read(&full).unwrap(), want);
    let agent = [&full[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
    assert_eq!(read(&agent).unwrap(), Place { served: true, ..want });
    assert_says(&read(&full[..4]).unwrap_err().to_string(), &["MASTER_PORT is not set"]);
    let with = |name, value| read(&full.map(|(n, v)| (n, if n == name { value } else { v })));
    assert_says(&with("MASTER_PORT", "70000").unwrap_err().to_string(), &["MASTER_PORT=\"70000\""]);
    assert_says(&with("RANK", "16").unwrap_err().to_string(), &["RANK=16 with WORLD_SIZE=16"]);
}
