//! Checkpoints of a training run: all that the next step depends on, written whole or not at all, readable by another number of ranks.
//!
//! A checkpoint is a folder `step-00000120` with one `rank-00000.safetensors` per rank (`<unit>/master`, `/m`, `/v`, f32 `[n]`: that rank's share) and one
//! `state.json`. It is written as `….partial`, flushed to the disk and renamed, so a name without that ending is complete. Random numbers
//! need no state: the engine seeds them from the step. The ranks must see the same folder.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::{Engine, Stack, ranks::Ranks, shard::Shard};
use crate::{Error, Result, model::checkpoint::sync};

/// What is common to all ranks.
#[derive(Serialize, Deserialize)]
struct Common {
    format: u32,
    step: u64,
    ranks: usize,
    units: Vec<(String, i64)>,
    /// Whatever the caller needs to go on, such as its position in the data.
    caller: Value,
}

/// Raised when the layout changes.
const FORMAT: u32 = 1;
/// The file of what is common.
const STATE: &str = "state.json";
/// Elements on their way between tensor and file: 16 MiB, enough for a disk and nothing beside a model.
const PIECE: i64 = 1 << 22;

impl Common {
    fn read(checkpoint: &Path) -> Result<Self> {
        let path = checkpoint.join(STATE);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map_err(|e| broken(&path, &format!("not a training state: {e}")))
    }
}

/// What the caller had saved with the newest complete checkpoint in `folder`, without loading it; `None` where there is none.
///
/// # Errors
/// Its `state.json` is damaged.
pub fn newest(folder: &Path) -> Result<Option<Value>> {
    let Some((_, path)) = checkpoints(folder)?.pop() else { return Ok(None) };
    Ok(Some(Common::read(&path).map_err(|e| damaged(folder, e))?.caller))
}

/// `error` of the newest checkpoint in `folder`, with what to do about it.
fn damaged(folder: &Path, error: Error) -> Error {
    let mut all = checkpoints(folder).unwrap_or_default();
    let newest = all.pop().map_or_else(|| folder.to_owned(), |(_, path)| path);
    let then = match all.pop() {
        Some((_, path)) => format!("goes on from {}", path.display()),
        None => "begins anew".into(),
    };
    let (path, what) = match error {
        Error::Io { path, source } => (path, source.to_string()),
        Error::Checkpoint { path, reason } => (path, reason),
        // Of the device, or of another rank: no fault of the file's.
        other => return other,
    };
    let reason =
        format!("{what}; the checkpoint is damaged: delete {}, and the run then {then}", newest.display());
    Error::Checkpoint { path, reason }
}

impl<S: Stack> Engine<S> {
    /// Writes a checkpoint into `folder` and removes all but the newest `keep` (0 keeps all). All ranks together; it fails on all of them or on none.
    ///
    /// # Errors
    /// A file that cannot be written, or that another rank could not write. What was saved before stays.
    pub fn save(&self, folder: &Path, keep: usize, caller: &Value) -> Result<PathBuf> {
        let whole = folder.join(format!("step-{:08}", self.step));
        let partial = whole.with_extension("partial");
        let chief = self.ranks.rank() == 0;
        let attempt = (|| {
            agree(&*self.ranks, if chief { prepare(folder, &partial) } else { Ok(()) })?;
            let own = partial.join(rank_file(self.ranks.rank()));
            agree(&*self.ranks, write_shards(&own, &self.shards))?;
            let finish = || self.finish(&partial, &whole, caller).and_then(|()| prune(folder, keep));
            agree(&*self.ranks, if chief { finish() } else { Ok(()) })
        })();
        if chief && attempt.is_err() {
            // Only to give the disk back; the error that counts is the first.
            let _ = fs::remove_dir_all(&partial);
        }
        attempt.map(|()| whole)
    }

    /// Continues from the newest complete checkpoint in `folder` and gives back what the caller had saved; `None` where there is none.
    ///
    /// # Errors
    /// A checkpoint that is of another model, or damaged: the message names the one before it.
    pub fn resume(&mut self, folder: &Path) -> Result<Option<Value>> {
        let Some((_, path)) = checkpoints(folder)?.pop() else { return Ok(None) };
        let common = Common::read(&path).map_err(|e| damaged(folder, e))?;
        self.fits(&common, &path)?;
        self.fill(&common, &path).map_err(|e| damaged(folder, e))?;
        Ok(Some(common.caller))
    }

    /// As [`resume`](Self::resume), from that very checkpoint.
    pub fn load(&mut self, checkpoint: &Path) -> Result<Value> {
        let common = Common::read(checkpoint)?;
        self.fits(&common, checkpoint)?;
        self.fill(&common, checkpoint)?;
        Ok(common.caller)
    }

    /// Refuses what this engine cannot take.
    fn fits(&self, common: &Common, checkpoint: &Path) -> Result<()> {
        let path = checkpoint.join(STATE);
        if common.format != FORMAT {
            return Err(broken(
                &path,
                &format!("written by another version (format {}, not {FORMAT})", common.format),
            ));
        }
        let ours: Vec<_> = self.shards.iter().map(|s| (s.name.clone(), s.numel)).collect();
        if common.units != ours {
            let (theirs, ours) = first_difference(&common.units, &ours);
            return Err(broken(
                &path,
                &format!(
                    "of another model or stage: it trains {theirs}, this run {ours}; give the matching model or another output folder"
                ),
            ));
        }
        Ok(())
    }

    /// Takes weights, moments and step.
    fn fill(&mut self, common: &Common, checkpoint: &Path) -> Result<()> {
        let mut files = Vec::new();
        for rank in 0..common.ranks {
            files.push(ShardFile::open(&checkpoint.join(rank_file(rank)))?);
        }
        for shard in &mut self.shards {
            let (first, numel) = (shard.first, shard.numel);
            for (part, tensor) in [("master", &mut shard.master), ("m", &mut shard.m), ("v", &mut shard.v)] {
                read(&mut files, &format!("{}/{part}", shard.name), first, numel, tensor)?;
            }
        }
        self.step = common.step;
        self.losses.clear();
        self.publish()
    }

    /// Writes what is common and gives the folder its name.
    fn finish(&self, partial: &Path, whole: &Path, caller: &Value) -> Result<()> {
        let common = Common {
            format: FORMAT,
            step: self.step,
            ranks: self.ranks.size(),
            units: self.shards.iter().map(|s| (s.name.clone(), s.numel)).collect(),
            caller: caller.clone(),
        };
        let path = partial.join(STATE);
        let mut file = File::create(&path).map_err(Error::io(&path))?;
        serde_json::to_writer(&mut file, &common).map_err(|e| Error::io(&path)(e.into()))?;
        file.sync_all().map_err(Error::io(&path))?;
        sync(partial)?;
        if whole.exists() {
            // The same step again, after going back to an older one: the old one makes room under a name that nobody reads.
            let old = whole.with_extension("partial-old");
            fs::rename(whole, &old).map_err(Error::io(whole))?;
            fs::rename(partial, whole).map_err(Error::io(whole))?;
            fs::remove_dir_all(&old).map_err(Error::io(&old))?;
        } else {
            fs::rename(partial, whole).map_err(Error::io(whole))?;
        }
        sync(whole.parent().unwrap_or(Path::new(".")))
    }
}

/// The complete checkpoints in `folder` with their steps, oldest first; none where the folder is not there.
pub fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut list = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(list),
        Err(e) => return Err(Error::io(folder)(e)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|n| n.parse().ok())
            && path.join(STATE).is_file()
        {
            list.push((step, path));
        }
    }
    list.sort();
    Ok(list)
}

fn rank_file(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

fn broken(path: &Path, reason: &str) -> Error {
    Error::Checkpoint { path: path.into(), reason: reason.into() }
}

/// The first unit in which two lists differ, as text.
fn first_difference(a: &[(String, i64)], b: &[(String, i64)]) -> (String, String) {
    let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let say = |list: &[(String, i64)]| match list.get(at) {
        Some((name, numel)) => format!("{name} with {numel} weights"),
        None => "nothing more".into(),
    };
    (say(a), say(b))
}

/// Makes a rank's failure everyone's, so that all go the same way.
fn agree(ranks: &dyn Ranks, own: Result<()>) -> Result<()> {
    let mut failures = [f64::from(u8::from(own.is_err()))];
    ranks.sum(&mut failures)?;
    own?;
    if failures[0] > 0.0 {
        return Err(Error::Config(
            "another rank could not write its part of the checkpoint; its log says why".into(),
        ));
    }
    Ok(())
}

/// Clears what an interrupted save left and makes the folder.
fn prepare(folder: &Path, partial: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("step-") && name.contains(".partial") {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    fs::create_dir(partial).map_err(Error::io(partial))
}

/// Removes all but the newest `keep` checkpoints (0 keeps all). Each loses its name first: what is half removed is no checkpoint.
fn prune(folder: &Path, keep: usize) -> Result<()> {
    let all = checkpoints(folder)?;
    let surplus = if keep == 0 { 0 } else { all.len().saturating_sub(keep) };
    for (_, old) in &all[..surplus] {
        let nameless = old.with_extension("partial-old");
        fs::rename(old, &nameless).map_err(Error::io(old))?;
        fs::remove_dir_all(&nameless).map_err(Error::io(&nameless))?;
    }
    Ok(())
}

/// Writes a rank's shards as safetensors: length of the header (u64 LE), header (JSON), then the numbers, little endian.
fn write_shards(path: &Path, shards: &[Shard]) -> Result<()> {
    let parts = |s: &Shard| {
        [("master", s.master.shallow_clone()), ("m", s.m.shallow_clone()), ("v", s.v.shallow_clone())]
    };
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for shard in shards {
        for (part, tensor) in parts(shard) {
            let (begin, n) = (end, tensor.size()[0]);
            end += n * 4;
            let entry = json!({"dtype": "F32", "shape": [n], "data_offsets": [begin, end]});
            header.insert(format!("{}/{part}", shard.name), entry);
        }
    }
    let header = Value::Object(header).to_string();
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut bytes = vec![0; PIECE as usize * 4];
        for shard in shards {
            for (_, tensor) in parts(shard) {
                let n = tensor.size()[0];
                for first in (0..n).step_by(PIECE as usize) {
                    let len = PIECE.min(n - first);
                    let piece = tensor.narrow(0, first, len).to_device(Device::Cpu);
                    piece.copy_data_u8(&mut bytes, len as usize);
                    file.write_all(&bytes[..len as usize * 4])?;
                }
            }
        }
        file.into_inner()?.sync_all()
    };
    write().map_err(Error::io(path))
}

/// A rank's file, opened: where each tensor lies.
struct ShardFile {
    path: PathBuf,
    file: File,
    /// Per tensor its first byte and its elements.
    places: HashMap<String, (u64, i64)>,
}

impl ShardFile {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let mut word = [0; 8];
        file.read_exact(&mut word).map_err(Error::io(path))?;
        let head = u64::from_le_bytes(word);
        if head > size.saturating_sub(8) {
            return Err(broken(path, "its header is longer than the file"));
        }
        let mut text = vec![0; head as usize];
        file.read_exact(&mut text).map_err(Error::io(path))?;
        let header: HashMap<String, Value> = serde_json::from_slice(&text)
            .map_err(|e| broken(path, &format!("its header is not JSON: {e}")))?;
        let mut places = HashMap::new();
        for (name, entry) in header {
            let offset = |i: usize| entry["data_offsets"][i].as_u64();
            let (Some(begin), Some(end)) = (offset(0), offset(1)) else {
                return Err(broken(path, &format!("{name} has no place in the file")));
            };
            if begin > end || end > size - 8 - head {
                return Err(broken(path, &format!("cut short: {name} ends at byte {end} of its data")));
            }
            places.insert(name, (8 + head + begin, ((end - begin) / 4) as i64));
        }
        Ok(Self { path: path.into(), file, places })
    }
}

/// Fills `tensor` with elements `first..` of the whole tensor `name`, which lies in equal shares over `files`; what lies beyond `numel` (padding) becomes 0.
fn read(files: &mut [ShardFile], name: &str, first: i64, numel: i64, tensor: &mut Tensor) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let end = (first + tensor.size()[0]).min(numel);
    let _ = tensor.zero_();
    let mut bytes = vec![0; PIECE as usize * 4];
    let mut begin = 0;
    for ShardFile { path, file, places } in files.iter_mut() {
        let Some(&(offset, share)) = places.get(name) else {
            return Err(broken(path, &format!("it lacks {name}")));
        };
        let (mut from, to) = (first.max(begin), end.min(begin + share));
        while from < to {
            let len = PIECE.min(to - from);
            let part = &mut bytes[..len as usize * 4];
            file.seek(SeekFrom::Start(offset + (from - begin) as u64 * 4)).map_err(Error::io(&*path))?;
            file.read_exact(part).map_err(Error::io(&*path))?;
            tensor.narrow(0, from - first, len).copy_(&Tensor::from_data_size(part, &[len], Kind::Float));
            from += len;
        }
        begin += share;
    }
    if begin < numel {
        let path = files.last().map_or(Path::new(""), |file| &file.path);
        return Err(broken(
            path,
            &format!("with it the checkpoint holds {begin} of the {numel} numbers of {name}"),
        ));
    }
    Ok(())
}
