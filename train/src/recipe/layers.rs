//! Laying settings over each other: preset, then TOML file, then flags; each value remembers who set it.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use super::{Preset, Recipe, Stage};
use crate::{Error, Result};

/// Names of a recipe's settings; those of `lora` stand in a table of that name.
pub const KEYS: &[&str] = &[
    "model",
    "vision_tower",
    "projector",
    "data",
    "image_folder",
    "out",
    "template",
    "image_aspect_ratio",
    "image_position",
    "projector_type",
    "select_layer",
    "select_feature",
    "epochs",
    "steps",
    "batch",
    "device_batch",
    "lr",
    "projector_lr",
    "warmup_ratio",
    "schedule",
    "weight_decay",
    "betas",
    "eps",
    "clip",
    "max_length",
    "kind",
    "checkpointing",
    "zero",
    "group_by_modality_length",
    "lora",
    "save_every",
    "keep",
    "seed",
    "workers",
    "device",
];
/// Names in the table `lora`.
pub const LORA_KEYS: &[&str] = &["r", "alpha", "dropout", "targets", "bits"];
/// Whole numbers that a person may write where a fraction is meant (`alpha = 256`).
const FRACTIONS: &[&str] =
    &["lr", "projector_lr", "warmup_ratio", "weight_decay", "betas", "eps", "clip", "alpha", "dropout"];
/// Paths of a file are named from that file's folder.
const PATHS: &[&str] = &["model", "vision_tower", "projector", "data", "image_folder", "out"];

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The published recipe.
    Preset,
    /// The TOML file.
    File,
    /// The command line.
    Flag,
}

impl Source {
    /// One word for a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preset => "preset",
            Self::File => "file",
            Self::Flag => "flag",
        }
    }
}

/// A recipe, and who set each of its values.
#[derive(Clone, Debug)]
pub struct Layered {
    /// The settings.
    pub recipe: Recipe,
    /// By key (`lora.r` for the table's); keys that nobody set are absent.
    pub sources: BTreeMap<String, Source>,
}

impl Layered {
    /// Lays `file` and `flags` over what `preset` says of `stage`. A `[lora]` table or flag begins with the published LoRA recipe.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type or outside what it may be; the message names the key.
    pub fn new(preset: Preset, stage: Stage, file: Option<(&Path, &str)>, flags: &Table) -> Result<Self> {
        let file = match file {
            Some((path, text)) => Some((path, read(path, text)?)),
            None => None,
        };
        let lora =
            flags.contains_key("lora") || file.as_ref().is_some_and(|(_, table)| table.contains_key("lora"));
        let base = if lora { preset.lora_recipe(stage) } else { preset.recipe(stage) };
        let mut all =
            Table::try_from(&base).map_err(|e| Error::Config(format!("preset {}: {e}", preset.name())))?;
        let mut sources = BTreeMap::new();
        mark(&all, Source::Preset, "", &mut sources);
        sources.remove("stage");
        if let Some((path, table)) = &file {
            one(table, &format!("{}: ", path.display()))?;
            mark(table, Source::File, "", &mut sources);
            lay(&mut all, table);
        }
        mark(flags, Source::Flag, "", &mut sources);
        lay(&mut all, flags);
        let recipe: Recipe =
            all.try_into().map_err(|e| Error::Config(format!("settings: {}", e.message())))?;
        recipe.check()?;
        Ok(Self { recipe, sources })
    }
}

/// A TOML file of settings with its keys checked, dashes made underscores and paths made whole.
fn read(path: &Path, text: &str) -> Result<Table> {
    let table: Table =
        text.parse().map_err(|e: toml::de::Error| Error::Config(format!("{}: {e}", path.display())))?;
    let table = checked(table, KEYS, &path.display().to_string(), "")?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(table
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(name) if PATHS.contains(&key.as_str()) => {
                let whole = folder.join(name).to_string_lossy().into_owned();
                (key, Value::String(whole))
            }
            value => (key, value),
        })
        .collect())
}

/// `table` with known keys only, spelt with underscores.
fn checked(table: Table, known: &[&str], file: &str, above: &str) -> Result<Table> {
    let mut out = Table::new();
    for (key, value) in table {
        let name = key.replace('-', "_");
        if !known.contains(&name.as_str()) {
            let nearest = nearest(&name, known).map_or_else(
                || format!("settings are {}", known.join(", ")),
                |near| format!("did you mean `{above}{near}`?"),
            );
            return Err(Error::Config(format!("{file}: there is no setting `{above}{key}`; {nearest}")));
        }
        let value = match value {
            Value::Table(inner) if name == "lora" => Value::Table(checked(inner, LORA_KEYS, file, "lora.")?),
            value => as_fraction(&name, value),
        };
        out.insert(name, value);
    }
    Ok(out)
}

/// Whole numbers as floats where the setting is a fraction.
fn as_fraction(key: &str, value: Value) -> Value {
    match value {
        Value::Integer(n) if FRACTIONS.contains(&key) => Value::Float(n as f64),
        Value::Array(values) if key == "betas" => {
            Value::Array(values.into_iter().map(|v| as_fraction(key, v)).collect())
        }
        value => value,
    }
}

/// Tries each value of `table` by itself, so that a value of the wrong type is reported with its key.
fn one(table: &Table, place: &str) -> Result<()> {
    let stage = Stage::Tune;
    let whole =
        Table::try_from(Preset::V15_7b.lora_recipe(stage)).map_err(|e| Error::Config(e.to_string()))?;
    for (key, value) in table {
        let mut trial = whole.clone();
        lay(&mut trial, &Table::from_iter([(key.clone(), value.clone())]));
        if let Err(error) = trial.try_into::<Recipe>() {
            return Err(Error::Config(format!("{place}{key} = {value}: {}", error.message())));
        }
    }
    Ok(())
}

/// `over` on top of `under`; tables are merged, all else is replaced.
fn lay(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay(below, above),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

fn mark(table: &Table, source: Source, above: &str, sources: &mut BTreeMap<String, Source>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => mark(inner, source, &format!("{above}{key}."), sources),
            _ => {
                sources.insert(format!("{above}{key}"), source);
            }
        }
    }
}

/// The known name that begins with `name`, else the one that takes the fewest changed letters if that is at most half of them.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |(d, k): &(usize, &str)| *d * 2 <= k.len().max(name.len());
    known
        .iter()
        .find(|k| k.starts_with(name))
        .copied()
        .or_else(|| known.iter().map(|k| (distance(name, k), *k)).min().filter(close).map(|(_, k)| k))
}

/// Letters to insert, delete or change (Levenshtein, 1965), row by row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
