//! What `pumice quantize` shows: the plan and the report, as tables for people and JSON for programs.

use std::{
    io::{self, Write},
    time::Duration,
};

use pumice_quantize::{Plan, Planned, Report};

use crate::terminal;

/// The plan of a dry run.
pub fn show_plan(plan: &Plan, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let tensors: Vec<_> = plan.tensors.iter().map(tensor_json).collect();
        let object = serde_json::json!({
            "files": plan.files,
            "bytes": plan.bytes(),
            "source_bytes": plan.source_bytes(),
            "bits_per_weight": plan.bits_per_weight(),
            "tensors": tensors,
        });
        return writeln!(out, "{object}");
    }
    writeln!(
        out,
        "{:<32} {:>18} {:>6} -> {:<7} {:>10} {:>6}",
        "tensor", "shape", "from", "to", "size", "bits"
    )?;
    for t in &plan.tensors {
        writeln!(
            out,
            "{:<32} {:>18} {:>6} -> {:<7} {:>10} {:>6.2}{}",
            t.name,
            shape(t),
            t.from,
            t.to.name(),
            terminal::size(t.bytes),
            t.bits_per_weight(),
            t.instead_of
                .map_or(String::new(), |w| format!("  (instead of {w}: rows are no multiple of its blocks)")),
        )?;
    }
    writeln!(out, "{}", total_line(plan))
}

/// What was written, and each tensor's error where it was measured.
pub fn show_report(plan: &Plan, report: &Report, time: Duration, errors: bool, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let tensors: Vec<_> = report
            .tensors
            .iter()
            .map(|t| {
                let mut object = tensor_json(&t.planned);
                if let Some(e) = &t.error {
                    object["rmse"] = e.rmse().into();
                    object["max_error"] = e.max.into();
                    object["snr_db"] = e.snr_db().into();
                }
                object
            })
            .collect();
        let object = serde_json::json!({
            "files": report.files,
            "bytes": report.bytes,
            "bits_per_weight": plan.bits_per_weight(),
            "seconds": time.as_secs_f64(),
            "tensors": tensors,
        });
        return writeln!(out, "{object}");
    }
    if errors {
        writeln!(
            out,
            "{:<32} {:>18} {:<7} {:>11} {:>11} {:>8}",
            "tensor", "shape", "type", "rmse", "max", "SNR dB"
        )?;
        for t in &report.tensors {
            let numbers = match &t.error {
                Some(e) => format!("{:>11.3e} {:>11.3e} {:>8.1}", e.rmse(), e.max, e.snr_db()),
                None => format!("{:>11}", "exact"),
            };
            writeln!(
                out,
                "{:<32} {:>18} {:<7} {numbers}",
                t.planned.name,
                shape(&t.planned),
                t.planned.to.name()
            )?;
        }
    }
    for file in &report.files {
        writeln!(out, "wrote {}", file.display())?;
    }
    let rate = plan.source_bytes() as f64 / time.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "{} in {}, {}/s of source",
        total_line(plan),
        terminal::seconds(time.as_secs_f64()),
        terminal::size(rate as u64)
    )
}

fn total_line(plan: &Plan) -> String {
    format!(
        "{} tensors, {} -> {}, {:.2} bits per weight",
        plan.tensors.len(),
        terminal::size(plan.source_bytes()),
        terminal::size(plan.bytes()),
        plan.bits_per_weight()
    )
}

/// Dimensions, fastest first: `4096 x 11008`.
fn shape(t: &Planned) -> String {
    t.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
}

fn tensor_json(t: &Planned) -> serde_json::Value {
    serde_json::json!({
        "name": t.name,
        "dims": t.dims,
        "from": t.from,
        "to": t.to.name(),
        "bytes": t.bytes,
        "bits_per_weight": t.bits_per_weight(),
        "instead_of": t.instead_of.map(|d| d.name()),
    })
}
