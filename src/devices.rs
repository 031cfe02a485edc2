//! `pumice devices`: what can compute here, its limits, what it can run, and which of it `--device auto` takes.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use pumice_kernels::{Cpu, CpuOptions};
use serde::Serialize;

use crate::{
    device::{BUILT, rows},
    terminal,
};

/// Arguments of `pumice devices`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pumice devices
  pumice chat --device gpu:0
  pumice chat --device gpu:0 --check")]
pub struct Args {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// A graphics processor.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What `--device` takes: `gpu:0`.
    pub device: String,
    /// Its driver's name for it.
    pub name: String,
    /// `discrete`, `integrated`, `software` …
    pub kind: &'static str,
    /// `vulkan`, `metal`, `dx12`.
    pub interface: &'static str,
    /// Its driver.
    pub driver: String,
    /// Bytes of a binding at most.
    pub binding_bytes: u64,
    /// Bytes of a buffer at most.
    pub buffer_bytes: u64,
    /// Bytes that the lanes of a workgroup share.
    pub workgroup_bytes: u32,
    /// Lanes of a subgroup, at least and at most.
    pub subgroup_lanes: Option<[u32; 2]>,
    /// Whether it computes in 16-bit floats.
    pub f16: bool,
    /// Shapes [m, n, k] of matrix products in one step: f16, summed in f32.
    pub cooperative_matrices: Vec<[u32; 3]>,
    /// Whether it tells how long an op takes.
    pub timestamps: bool,
    /// Whether its compiled shaders are kept on disk.
    pub pipeline_cache: bool,
    /// Whether `--device auto` takes it.
    pub auto: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (rows, cpu) = (rows(), pumice_kernels::Backend::name(&Cpu::new(CpuOptions::default())));
    let auto = rows.iter().find(|row| row.auto).map_or("cpu", |row| &row.device);
    let mut out = io::stdout().lock();
    if args.json {
        let object = serde_json::json!({ "devices": rows, "cpu": cpu, "auto": auto });
        writeln!(out, "{object:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    for row in &rows {
        writeln!(out, "{}  {} ({}, {})", row.device, row.name, row.kind, row.interface)?;
        writeln!(out, "       driver:  {}", row.driver)?;
        writeln!(out, "       limits:  {}", limits(row))?;
        writeln!(out, "       can run: {}", abilities(row))?;
    }
    writeln!(out, "cpu    {}", cpu.strip_prefix("cpu ").unwrap_or(&cpu).trim_matches(['(', ')']))?;
    writeln!(out, "--device auto takes {auto}")?;
    drop(out);
    if !BUILT {
        terminal::note("this pumice was built without GPUs (the feature gpu)");
    } else if rows.is_empty() {
        terminal::note(
            "no GPU: none that Vulkan, Metal or DirectX 12 can use; on Linux `vulkaninfo --summary` tells what the system knows",
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn limits(row: &Row) -> String {
    let size = terminal::size;
    let (binding, buffer) = (size(row.binding_bytes), size(row.buffer_bytes));
    format!("{binding} a binding, {buffer} a buffer, {} a workgroup", size(row.workgroup_bytes.into()))
}

fn abilities(row: &Row) -> String {
    let mut all = vec!["every op and weight type".to_owned()];
    all.push(match row.subgroup_lanes {
        Some([least, most]) if least == most => format!("sums over subgroups of {least}"),
        Some([least, most]) => format!("sums over subgroups of {least} to {most}"),
        None => "sums over workgroups (no subgroups)".into(),
    });
    if row.f16 {
        all.push("f16".into());
    }
    let shapes: Vec<_> = row.cooperative_matrices.iter().map(|[m, n, k]| format!("{m}x{n}x{k}")).collect();
    if !shapes.is_empty() {
        all.push(format!("matrices of {} at once", shapes.join(", ")));
    }
    if row.timestamps {
        all.push("time by op".into());
    }
    all.join(", ")
}
