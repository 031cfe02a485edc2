//! `pumice inspect`: what a GGUF file holds and what memory it needs, without loading it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args as ClapArgs;
use pumice_models::{
    config::has_vision,
    gguf::{Array, File, TensorInfo, Value},
    llama::LlamaOptions,
    names::keys,
    plan::Plan,
};

use crate::terminal;

/// Arguments of `pumice inspect`.
#[derive(ClapArgs)]
pub struct Args {
    /// A GGUF file; of a model in parts, any of them.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The vision half of llama.cpp's pair, counted into the memory.
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Context that the memory is told for (0: as much as the model was trained for).
    #[arg(short = 'c', long = "ctx-size", value_name = "N", default_value_t = 2048)]
    context: usize,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// One JSON object instead of text; lists of the metadata are whole in it.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let file = File::open(&args.file)?;
    let mmproj = args.mmproj.as_deref().map(File::open).transpose()?;
    let types = types(&file);
    let memory = memory(&file, mmproj.as_ref(), args.context);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json(&file, &types, &memory, args.tensors))?;
    } else {
        text(&mut out, &file, &types, &memory, args.tensors)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tensors, elements and bytes of one element type.
#[derive(Default)]
struct Sum {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, tensors: usize, elements: u64, bytes: u64) {
        self.tensors += tensors;
        self.elements = self.elements.saturating_add(elements);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elements.max(1) as f64
    }
}

/// The element types of `file` by name.
fn types(file: &File) -> BTreeMap<String, Sum> {
    let mut types = BTreeMap::<String, Sum>::new();
    for t in file.tensors() {
        types.entry(type_of(t)).or_default().add(1, t.elements() as u64, t.bytes as u64);
    }
    types
}

fn total(types: &BTreeMap<String, Sum>) -> Sum {
    let mut all = Sum::default();
    for s in types.values() {
        all.add(s.tensors, s.elements, s.bytes);
    }
    all
}

fn type_of(t: &TensorInfo) -> String {
    t.dtype.map_or_else(|| t.type_name(), |dtype| dtype.name().to_owned())
}

/// The memory that the model needs with `ctx` positions, or why that is not known.
fn memory(file: &File, mmproj: Option<&File>, ctx: usize) -> Result<Plan, String> {
    let plan = || {
        if mmproj.is_none() && file.str(keys::ARCHITECTURE)? == Some("clip") {
            return Ok(Err("a vision half alone: inspect the text model with --mmproj".to_owned()));
        }
        let vision = match mmproj {
            Some(half) => Some(half),
            None => has_vision(file)?.then_some(file),
        };
        Plan::new(file, vision, &LlamaOptions { ctx, ..LlamaOptions::default() }).map(Ok)
    };
    plan().unwrap_or_else(|error| Err(error.to_string()))
}

fn text(
    out: &mut impl Write,
    file: &File,
    types: &BTreeMap<String, Sum>,
    memory: &Result<Plan, String>,
    tensors: bool,
) -> io::Result<()> {
    for path in file.paths() {
        writeln!(out, "{}", path.display())?;
    }
    writeln!(out)?;
    for (key, value) in file.keys() {
        writeln!(out, "{:<42} {:<9} {}", escaped(key), value.type_name(), shown(value))?;
    }
    writeln!(out)?;
    if tensors {
        for t in file.tensors() {
            let dims: Vec<String> = t.dims.iter().map(ToString::to_string).collect();
            let size = terminal::size(t.bytes as u64);
            writeln!(out, "{:<32} {:>18} {:<7} {size:>10}", escaped(&t.name), dims.join(" x "), type_of(t))?;
        }
        writeln!(out)?;
    }
    for (name, s) in types {
        writeln!(out, "{name:<7} {:>5} tensors {:>10}", s.tensors, terminal::size(s.bytes))?;
    }
    let all = total(types);
    writeln!(
        out,
        "{} tensors, {:.2} million weights, {}, {:.2} bits per weight",
        all.tensors,
        all.elements as f64 / 1e6,
        terminal::size(all.bytes),
        all.bits_per_weight()
    )?;
    match memory {
        Ok(p) => writeln!(
            out,
            "memory with a context of {}: {} (weights {}, vision {}, cache {}, scratch {})",
            p.ctx,
            terminal::size(p.total()),
            terminal::size(p.text_weights),
            terminal::size(p.vision_weights.saturating_add(p.vision_scratch)),
            terminal::size(p.cache),
            terminal::size(p.scratch)
        ),
        Err(why) => writeln!(out, "memory: not known: {why}"),
    }
}

/// Characters of a text, and elements of a list, that are shown.
const SHOWN: (usize, usize) = (60, 6);

/// A name without what a terminal would obey.
fn escaped(name: &str) -> String {
    name.escape_debug().to_string()
}

/// A value on one line, with its beginning only where it is long; texts in quotes and escaped.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => {
            let begin: String = s.chars().take(SHOWN.0).collect();
            let rest = if begin.len() < s.len() { " …" } else { "" };
            format!("{begin:?}{rest}")
        }
        Value::Array(array) => {
            let begin: Vec<String> =
                elements(array).iter().take(SHOWN.1).map(serde_json::Value::to_string).collect();
            let rest = if array.len() > SHOWN.1 { ", …" } else { "" };
            format!("{} of [{}{rest}]", array.len(), begin.join(", "))
        }
        other => plain(other).to_string(),
    }
}

/// A value as JSON.
fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::Array(array) => elements(array).into(),
        Value::String(s) => s.as_str().into(),
        Value::Bool(b) => (*b).into(),
        Value::F32(v) => number(*v),
        Value::F64(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        other => other.as_integer().and_then(|n| i64::try_from(n).ok()).into(),
    }
}

/// An f32 with its own digits: 1e-5 and not the f64 next to it, 0.000009999999747378752.
fn number(v: f32) -> serde_json::Value {
    v.to_string().parse::<f64>().unwrap_or(v.into()).into()
}

fn elements(array: &Array) -> Vec<serde_json::Value> {
    match array {
        Array::String(v) => v.iter().map(|s| s.as_str().into()).collect(),
        Array::Bool(v) => v.iter().map(|&b| b.into()).collect(),
        Array::F32(v) => v.iter().map(|&x| number(x)).collect(),
        Array::F64(v) => v.iter().map(|&x| x.into()).collect(),
        Array::U64(v) => v.iter().map(|&x| x.into()).collect(),
        Array::Array(v) => v.iter().map(|a| elements(a).into()).collect(),
        integers => integers.integers().unwrap_or_default().into_iter().map(Into::into).collect(),
    }
}

fn json(
    file: &File,
    types: &BTreeMap<String, Sum>,
    memory: &Result<Plan, String>,
    tensors: bool,
) -> serde_json::Value {
    let all = total(types);
    let metadata: serde_json::Map<_, _> = file.keys().map(|(k, v)| (k.to_owned(), plain(v))).collect();
    let by_type: serde_json::Map<_, _> = types
        .iter()
        .map(|(name, s)| (name.clone(), serde_json::json!({ "tensors": s.tensors, "bytes": s.bytes })))
        .collect();
    let mut object = serde_json::json!({
        "files": file.paths().collect::<Vec<_>>(),
        "metadata": metadata,
        "types": by_type,
        "weights": all.elements,
        "bytes": all.bytes,
        "bits_per_weight": all.bits_per_weight(),
        "memory": match memory {
            Ok(p) => serde_json::json!({
                "context": p.ctx,
                "bytes": p.total(),
                "text_weights": p.text_weights,
                "vision_weights": p.vision_weights,
                "cache": p.cache,
                "scratch": p.scratch,
                "vision_scratch": p.vision_scratch,
            }),
            Err(why) => serde_json::json!({ "unknown": why }),
        },
    });
    if tensors {
        let list: Vec<_> = file
            .tensors()
            .iter()
            .map(|t| {
                serde_json::json!({ "name": t.name, "dims": t.dims, "type": type_of(t), "bytes": t.bytes })
            })
            .collect();
        object["tensors"] = list.into();
    }
    object
}
