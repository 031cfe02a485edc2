//! A row of results: what was measured, on which model, machine and commit; as it stands in JSON, CSV and saved files.
//!
//! The names are llama-bench's where they mean the same (`model_type`, `n_threads`, `avg_ts`, `samples_ns` …), so that what
//! reads its output reads ours. A row is flat and whole in itself: rows of many runs, machines and commits can be put into
//! one file, sorted and compared.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::terminal;

/// One test of one model with one setting: all its samples and what they come to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Tells runs apart: all rows of one run have the same.
    pub run_id: String,
    /// The source's commit, with `-dirty` where files differed from it; `unknown` where it was built without git.
    pub build_commit: String,
    /// Pumice's version.
    pub build_version: String,
    /// The processor, and on boards the board: the machine's name.
    pub cpu_info: String,
    /// Operating system and architecture: `linux x86_64`.
    pub os: String,
    /// The machine's memory, bytes.
    pub memory_size: u64,
    /// What computes: `CPU`, or the interface to a graphics processor: `vulkan`.
    pub backends: String,
    /// The graphics processor's name; empty where none computes.
    pub gpu_info: String,
    /// Layers of the text model on it.
    pub n_gpu_layers: usize,
    /// Layers of the text model.
    pub n_layers: usize,
    /// Instruction set in use: `avx512-vnni`.
    pub isa: String,
    /// Threads that computed.
    pub n_threads: usize,
    /// The model's file.
    pub model_filename: String,
    /// What it is, for people: `llava 7B Q4_K_M`, with `random` behind it where the weights are.
    pub model_type: String,
    /// Bytes of the text model's tensors, as llama-bench counts them.
    pub model_size: u64,
    /// Elements of the text model's tensors.
    pub model_n_params: u64,
    /// Bytes of the vision tower's and the projector's tensors; 0 without them.
    pub mmproj_size: u64,
    /// Type of the cached keys (and values): `f16`.
    pub type_k: String,
    /// Whether the weights were read into memory of their own (`--no-mmap`).
    pub no_mmap: bool,
    /// Whether they were locked there (`--mlock`).
    pub mlock: bool,
    /// Rows computed at once in a prompt.
    pub n_batch: usize,
    /// The test's name: `pp512`, `tg128 @ d600`, `photo`, `load warm` …
    pub test: String,
    /// Positions of the prompt; of `photo` and `second` as many as were computed.
    pub n_prompt: usize,
    /// Tokens generated.
    pub n_gen: usize,
    /// Positions in the cache before the test began.
    pub n_depth: usize,
    /// Pictures of the question.
    pub n_image: usize,
    /// When the test began, UTC: `2026-11-20T16:40:12Z`.
    pub test_time: String,
    /// The samples, in the order of measuring, nanoseconds each; empty for `memory`.
    pub samples_ns: Vec<u64>,
    /// Their mean.
    pub avg_ns: u64,
    /// Their standard deviation (of the sample: n − 1); 0 for a single one.
    pub stddev_ns: u64,
    /// Their median.
    pub median_ns: u64,
    /// Tokens per second of each sample; empty where a test is no matter of tokens.
    pub samples_ts: Vec<f64>,
    /// Their mean.
    pub avg_ts: Option<f64>,
    /// Their standard deviation.
    pub stddev_ts: Option<f64>,
    /// Their median.
    pub median_ts: Option<f64>,
    /// Bytes resident at most, mapped weights included; of the test `memory`.
    pub peak_memory: Option<u64>,
    /// Bytes that it may be: the files, the KV cache and 300 MB.
    pub memory_limit: Option<u64>,
    /// Energy of a sample, joules, where the machine tells: all that its meters see, idle draw included.
    pub joules: Option<f64>,
    /// Energy of a token, joules.
    pub joules_per_token: Option<f64>,
    /// Arithmetic operations of a sample, counted from shapes; a multiplication and an addition are two.
    pub flops: Option<u64>,
    /// Bytes that a sample moves if nothing stays in a cache: each operand of each op once.
    pub bytes: Option<u64>,
    /// Of them those that no cache can keep, so that they come from memory: weights, keys and values.
    pub bytes_read: Option<u64>,
    /// What bounds the test on this machine: `int8`, `int16` (half of `int8`'s rate), `f32` (arithmetic) or `memory`.
    pub limit: Option<String>,
    /// The least time of a sample by that, nanoseconds.
    pub limit_ns: Option<u64>,
    /// The share of that limit which was reached, 0 to 1.
    pub limit_share: Option<f64>,
    /// Bytes per second that the machine's memory gave to as many threads, measured.
    pub read_rate: Option<f64>,
    /// Operations per second on bytes, measured.
    pub int8_rate: Option<f64>,
    /// Operations per second on f32, measured.
    pub f32_rate: Option<f64>,
    /// Time of each op in one more pass, the slowest first (`--ops`).
    pub ops: Vec<OpTime>,
}

/// The time that an op took within a test.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OpTime {
    /// The op's name: `matmul`.
    pub op: String,
    /// Calls.
    pub calls: u64,
    /// Time of all calls, nanoseconds.
    pub ns: u64,
    /// Arithmetic operations.
    pub flops: u64,
    /// Bytes of the operands.
    pub bytes: u64,
}

impl Record {
    /// What computed, in words: `neon, 6 threads`, `vulkan, NVIDIA Tegra Orin`,
    /// `vulkan, Radeon 780M, 20 of 32 layers, avx2, 8 threads`.
    pub fn device(&self) -> String {
        let cpu = format!("{}, {}", self.isa, terminal::threads(self.n_threads));
        match self.gpu_info.as_str() {
            "" => cpu,
            gpu if self.is_on_two() => {
                let (layers, of) = (self.n_gpu_layers, self.n_layers);
                format!("{}, {gpu}, {layers} of {of} layers, {cpu}", self.backends)
            }
            gpu => format!("{}, {gpu}", self.backends),
        }
    }

    /// Whether processor and graphics processor share the layers.
    pub fn is_on_two(&self) -> bool {
        !self.gpu_info.is_empty() && self.n_gpu_layers < self.n_layers
    }

    /// How fast it went, for ratios: tokens per second, or how often per second it could be done (medians both). `None` for
    /// what is no matter of time.
    pub fn speed(&self) -> Option<f64> {
        self.median_ts.or_else(|| (self.median_ns > 0).then(|| 1e9 / self.median_ns as f64))
    }
}

/// Reads the rows of a file that `--save` or `-o jsonl` or `-o json` wrote.
pub fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(&text)
            .with_context(|| format!("{name}: holds no results of pumice bench"));
    }
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Record = serde_json::from_str(line)
            .with_context(|| format!("{name}:{}: is no result of pumice bench (jsonl)", number + 1))?;
        rows.push(row);
    }
    if rows.is_empty() {
        bail!("{name}: holds no results; pumice bench --save {name} appends some");
    }
    Ok(rows)
}

/// Appends rows to the file at `path`, a line of JSON each. A file that holds something else is left as it is.
pub fn append(path: &Path, rows: &[Record]) -> anyhow::Result<()> {
    let what = || format!("{}: results cannot be appended", path.display());
    let mut text = String::new();
    if is_torn(path).with_context(what)? && !rows.is_empty() {
        text.push('\n');
    }
    for row in rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(what)?;
    // In one write, so that two runs which save to one file at once do not mix their lines.
    file.write_all(text.as_bytes()).with_context(what)
}

/// Whether the last line of the results at `path` has no end: a disk was full, a program killed.
///
/// # Errors
/// The file does not begin with a result, so nothing may be appended to it: it is a model, perhaps, or JSON of another form.
fn is_torn(path: &Path) -> anyhow::Result<bool> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() > 0 => {}
        _ => return Ok(false), // absent, empty, a pipe
    }
    let mut file = BufReader::new(fs::File::open(path)?);
    let mut first = Vec::new();
    file.by_ref().take(1 << 20).read_until(b'\n', &mut first)?; // a row has a few kB; a model's first line may have all of it
    if serde_json::from_slice::<Record>(&first).is_err() {
        bail!("its first line is no result of pumice bench (jsonl); name another file");
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Record {
        Record {
            run_id: "2026-11-20T16:40:12Z-7".into(),
            test: "tg128 @ d600".into(),
            samples_ns: vec![2_000_000_000, 1_000_000_000],
            median_ns: 1_500_000_000,
            samples_ts: vec![64.0, 128.0],
            avg_ts: Some(96.0),
            median_ts: Some(96.0),
            joules: Some(0.1 + 0.2),
            ops: vec![OpTime { op: "matmul".into(), calls: 225, ns: 7, flops: 1, bytes: u64::MAX }],
            ..Record::default()
        }
    }

    #[test]
    fn rows_come_back_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.jsonl");
        let load = Record { test: "load warm".into(), median_ns: 20_000_000, ..Record::default() };
        append(&path, &[some()]).unwrap();
        append(&path, &[load.clone(), some()]).unwrap();
        assert_eq!(read(&path).unwrap(), [some(), load.clone(), some()]);
        fs::write(&path, serde_json::to_string_pretty(&[some()]).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), [some()], "the form of -o json");
        assert_eq!((some().speed(), load.speed()), (Some(96.0), Some(50.0)));
    }

    #[test]
    fn a_row_of_another_version_lacks_some_fields_and_has_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.jsonl");
        fs::write(&path, "{\"test\": \"pp512\", \"avg_ts\": 18.5, \"n_gpu_layers\": 0}\n\n").unwrap();
        let rows = read(&path).unwrap();
        assert_eq!((rows.len(), rows[0].avg_ts, rows[0].test.as_str()), (1, Some(18.5), "pp512"));
    }

    #[test]
    fn a_torn_line_spoils_no_other_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.jsonl");
        append(&path, &[some()]).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..50]].concat()).unwrap();
        append(&path, &[some()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [&whole[..], &whole[..50], b"\n", &whole[..]].concat());
        for other in [&b"GGUF\x03\0\xff"[..], b"[\n{}\n]\n", b"{\n}\n", b"\n"] {
            fs::write(&path, other).unwrap();
            for rows in [&[some()][..], &[]] {
                let message = format!("{:#}", append(&path, rows).unwrap_err());
                assert!(message.contains("runs.jsonl") && message.contains("another file"), "{message}");
                assert_eq!(fs::read(&path).unwrap(), other);
            }
        }
    }

    #[test]
    fn what_is_no_result_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.jsonl");
        for (text, words) in
            [("{}\nnonsense\n", "bad.jsonl:2"), ("\n", "holds no results"), ("[1]", "bad.jsonl")]
        {
            fs::write(&path, text).unwrap();
            let message = format!("{:#}", read(&path).unwrap_err());
            assert!(message.contains(words), "no {words:?} in: {message}");
        }
        assert!(format!("{:#}", read(&dir.path().join("absent")).unwrap_err()).contains("absent"));
    }
}
