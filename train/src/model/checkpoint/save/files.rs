//! The files of a saved folder beside its weights, and the folder's way from a temporary name to its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Error, Result};

/// A folder in the making.
pub(crate) struct Place {
    /// Where it is made; removed where it is not finished.
    temporary: TempDir,
    /// Where it goes.
    folder: PathBuf,
}

impl Place {
    /// Begins `folder`, whose parents are made.
    pub fn new(folder: &Path) -> Result<Self> {
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let temporary =
            tempfile::Builder::new().prefix(".saving-").tempdir_in(parent).map_err(Error::io(parent))?;
        Ok(Self { temporary, folder: folder.into() })
    }

    /// Where the file `name` is written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Puts the folder in its place. One that stands there is moved aside first and removed last.
    pub fn finish(self) -> Result<()> {
        // Renamed while the temporary still owns it: it is removed where any step fails.
        let made = self.temporary.path();
        for entry in fs::read_dir(made).map_err(Error::io(made))? {
            sync(&entry.map_err(Error::io(made))?.path())?;
        }
        sync(made)?;
        let set = |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::io(to));
        open_to_all(made)?;
        let parent = made.parent().unwrap_or(Path::new("."));
        if !self.folder.exists() {
            set(made, &self.folder)?;
            return sync(parent);
        }
        let mut old = made.as_os_str().to_owned();
        old.push("-old");
        set(&self.folder, Path::new(&old))?;
        set(made, &self.folder)?;
        sync(parent)?;
        fs::remove_dir_all(&old).map_err(Error::io(old))
    }
}

/// Waits until the disk has the file, or the folder's list of names, at `path`.
pub(crate) fn sync(path: &Path) -> Result<()> {
    // Only Unix flushes what was opened for reading; elsewhere it is as durable as the system makes it.
    if cfg!(unix) { fs::File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path)) } else { Ok(()) }
}

/// Gives the folder the rights that a plain one has; temporary ones are for their owner only.
fn open_to_all(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(Error::io(folder))?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Writes `value` to `path`, readable.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is text");
    text.push('\n');
    fs::write(path, text).map_err(Error::io(path))
}

/// What a tokenizer's folder may hold.
const TOKENIZER: [&str; 7] = [
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Copies the tokenizer of folder `from`, and makes the `added` words (with their ids) known to it where they are not yet.
pub(crate) fn tokenizer(from: Option<&Path>, place: &Place, added: &[(&str, i64)]) -> Result<()> {
    let Some(from) = from else { return Ok(()) };
    for name in TOKENIZER {
        let (source, target) = (from.join(name), place.path(name));
        if source.is_file() {
            // Not with its rights, as fs::copy would: what is read-only there is edited here.
            fs::read(&source).and_then(|bytes| fs::write(&target, bytes)).map_err(Error::io(source))?;
        }
    }
    if added.is_empty() {
        return Ok(());
    }
    let edit = |name: &str, change: &dyn Fn(&mut Value)| {
        let path = place.path(name);
        let mut value = if path.is_file() { pumice_models::checkpoint::json(&path)? } else { json!({}) };
        change(&mut value);
        write_json(&path, &value)
    };
    edit("tokenizer_config.json", &|value| {
        for (text, id) in added {
            value["added_tokens_decoder"][id.to_string()] = token(text);
        }
        value["pad_token"] = json!(added[added.len() - 1].0);
        value["image_token"] = json!(added[0].0);
        value["processor_class"] = json!("LlavaProcessor");
    })?;
    edit("added_tokens.json", &|value| {
        for (text, id) in added {
            value[*text] = json!(id);
        }
    })?;
    if !place.path("tokenizer.json").is_file() {
        return Ok(());
    }
    edit("tokenizer.json", &|value| {
        let Some(list) = value["added_tokens"].as_array_mut() else { return };
        for (text, id) in added {
            if !list.iter().any(|t| t["content"] == json!(text)) {
                let mut entry = token(text);
                entry["id"] = json!(id);
                list.push(entry);
            }
        }
    })
}

/// An added word, as `transformers` describes one.
fn token(text: &str) -> Value {
    json!({"content": text, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true})
}
