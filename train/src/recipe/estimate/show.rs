//! The plan as a table for a person and as JSON for a program.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Layered, Plan};
use crate::recipe::{
    Stage,
    layers::{KEYS, LORA_KEYS},
};

/// Settings, who set each, then the plan.
pub fn text(plan: &Plan, layered: &Layered) -> String {
    let mut out = String::from("Settings\n");
    let all = serde_json::to_value(&layered.recipe).unwrap_or_default();
    for (key, value) in settings(&all) {
        let from = layered.sources.get(&key).map_or("", |source| source.name());
        out.push_str(format!("  {key:<26} {:<28} {from}", plain(&value)).trim_end());
        out.push('\n');
    }
    let p = &plan.parameters;
    let m = &plan.memory;
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "  {name:<26} {text}");
    };
    let counted = if plan.counted { "counted" } else { "as published; give --data to count" };
    row("rows", format!("{} ({counted})", thousands(plan.rows)));
    row(
        "steps",
        format!(
            "{} ({} an epoch, {} of warm-up)",
            thousands(plan.steps),
            thousands(plan.steps_per_epoch),
            plan.warmup_steps
        ),
    );
    row(
        "ranks",
        format!("{} x {}, {} micro-batches a step on each", plan.ranks, plan.machine.name, plan.accumulation),
    );
    row("tokens", format!("{} (image slots counted; of text an estimate)", millions(plan.tokens)));
    row("parameters learned", format!("{} of {}", millions(p.trainable), millions(p.trainable + p.frozen)));
    row(
        "  vision, projector, LLaMA",
        format!("{}, {}, {}", millions(p.vision), millions(p.projector), millions(p.language)),
    );
    if p.adapters > 0 {
        row("  adapters", millions(p.adapters));
    }
    let verdict = if plan.fits { "fits in" } else { "does not fit in" };
    row(
        "memory of a rank",
        format!("{}, {verdict} {}", gigabytes(m.total()), gigabytes(plan.machine.memory)),
    );
    row("  weights", gigabytes(m.weights));
    row("  f32 masters", gigabytes(m.master));
    row("  moments", gigabytes(m.moments));
    row("  gradients", gigabytes(m.gradients));
    row("  activations", gigabytes(m.activations));
    let peak = if plan.machine.measured { "measured" } else { "of the data sheet" };
    row("FLOPs", format!("{:.3e}", plan.flops));
    row(
        "time",
        format!(
            "about {} at {:.0} % of {} FLOP/s {peak} a device",
            hours(plan.hours),
            100.0 * plan.machine.mfu,
            rate(plan.machine.peak)
        ),
    );
    let at = out.find("  rows ").unwrap_or(out.len());
    out.insert_str(at, "\nPlan\n");
    if !plan.fits {
        let adapters = if layered.recipe.stage == Stage::Align { "" } else { ", or learn adapters ([lora])" };
        let _ = writeln!(
            out,
            "\nLower device_batch or max_length, or shard more (zero = 3, more ranks){adapters}."
        );
    }
    out
}

/// The same for a program.
pub fn json(plan: &Plan, layered: &Layered) -> Value {
    let all = serde_json::to_value(&layered.recipe).unwrap_or_default();
    let settings: serde_json::Map<String, Value> = settings(&all)
        .into_iter()
        .map(|(key, value)| {
            let from = layered.sources.get(&key).map(|source| source.name());
            (key, json!({ "value": value, "from": from }))
        })
        .collect();
    let mut plan_value = serde_json::to_value(plan).unwrap_or_default();
    plan_value["memory"]["total"] = plan.memory.total().into();
    json!({ "settings": settings, "plan": plan_value })
}

/// Keys in the recipe's order, those of `lora` with their table's name before them.
fn settings(all: &Value) -> Vec<(String, Value)> {
    let mut out = vec![("stage".to_owned(), all["stage"].clone())];
    for key in KEYS {
        match &all[*key] {
            Value::Object(inner) => {
                out.extend(LORA_KEYS.iter().map(|name| (format!("{key}.{name}"), inner[*name].clone())));
            }
            value => out.push(((*key).to_owned(), value.clone())),
        }
    }
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Number(n) => match n.as_f64() {
            Some(x) if n.is_f64() && x != 0.0 && x.abs() < 1e-2 => format!("{x:e}"),
            _ => n.to_string(),
        },
        value => value.to_string(),
    }
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn millions(n: u64) -> String {
    if n < 10_000_000 { thousands(n) } else { format!("{} M", thousands((n as f64 / 1e6).round() as u64)) }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

fn hours(hours: f64) -> String {
    match hours {
        h if h >= 48.0 => format!("{:.1} days", h / 24.0),
        h if h >= 1.0 => format!("{h:.1} h"),
        h if h * 60.0 >= 1.0 => format!("{:.1} min", h * 60.0),
        h => format!("{:.0} s", h * 3600.0),
    }
}

/// FLOP/s with the unit's prefix: `312 T`, `10.7 G`.
fn rate(flops: f64) -> String {
    if flops >= 1e12 { format!("{:.0} T", flops / 1e12) } else { format!("{:.1} G", flops / 1e9) }
}
