//! A world on disk: pictures and LLaVA JSON, for any trainer.
//!
//! ```text
//! images/000/000000.png …   the pictures, a thousand to a folder
//! captions.json             stage 1: a brief question, a caption
//! instruct.json             stage 2: conversations
//! text.json                 the language model's pre-training: conversations on scenes told in words, general questions
//! scenes.jsonl              one scene a line: symbols, captions and boxes, for the contrast and for judging
//! world.json                what it was made with
//! tokenizer.model, tokenizer_config.json
//! ```
//! The bytes are a function of the options. Rows are streamed, so a world of any size takes little memory.

use super::describe;
use super::glyphs::{Glyphs, find};
use super::kinds::{KINDS, Kind};
use super::rows::{Row, picture};
use super::scene::{Scene, Split};
use super::{World, draw::Painter, vocabulary};
use crate::{Error, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Name of the file that tells a world's options.
const SETTINGS: &str = "world.json";

/// What to generate.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Number of pictures, and of rows of each sort.
    pub pictures: u64,
    /// Decides everything.
    pub seed: u64,
    /// Which sets of kinds.
    pub split: Split,
    /// Picture side in pixels.
    pub size: usize,
    /// Questions on one picture.
    pub turns: usize,
    /// Pieces of the vocabulary.
    pub vocabulary: usize,
    /// The font; none: the system's.
    pub font: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pictures: 10_000,
            seed: 1,
            split: Split::Train,
            size: 112,
            turns: 8,
            vocabulary: vocabulary::PIECES,
            font: None,
        }
    }
}

/// A line of `scenes.jsonl`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: u64,
    image: &'a str,
    scene: &'a Scene,
    captions: [String; 5],
    context: String,
}

/// Makes `dir` ready for a world: new or empty, or begun with the same options. `force` takes any, where another world's pictures are removed first.
///
/// # Errors
/// Something else is there; the message says what differs.
pub fn prepare(dir: &Path, options: &Options, force: bool) -> Result<()> {
    let path = dir.join(SETTINGS);
    let ours = json!(options);
    let theirs: Option<Value> = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).ok(),
        Err(_) => None,
    };
    let empty = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == ErrorKind::NotFound => true,
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            return Err(Error::Config(format!("{}: a file; give the name of a folder", dir.display())));
        }
        Err(e) => return Err(Error::io(dir)(e)),
    };
    if !empty && theirs.as_ref() != Some(&ours) {
        if !force {
            let what = theirs.map_or_else(|| "no world of these settings".into(), |t| differences(&t, &ours));
            return Err(Error::Config(format!(
                "{} is not empty and {what}: give another folder, or --force to write over what is there",
                dir.display()
            )));
        }
        let images = dir.join("images");
        if theirs.is_some() && images.is_dir() {
            std::fs::remove_dir_all(&images).map_err(Error::io(&images))?;
        }
    }
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    std::fs::write(&path, format!("{ours:#}\n")).map_err(Error::io(&path))
}

/// In what a world's settings differ from ours.
fn differences(theirs: &Value, ours: &Value) -> String {
    let all = ours.as_object().into_iter().flatten();
    let other = all.filter(|(name, value)| theirs[name.as_str()] != **value);
    let other: Vec<String> =
        other.map(|(name, value)| format!("{name} {} there, {value} now", theirs[name.as_str()])).collect();
    format!("holds another world ({})", other.join("; "))
}

/// Writes a world into `dir`; `progress` hears the number of pictures done.
///
/// # Errors
/// The font is not found, or a file cannot be written.
pub fn generate(dir: &Path, options: &Options, mut progress: impl FnMut(u64)) -> Result<()> {
    let glyphs = Glyphs::load(&find(options.font.as_deref())?)?;
    let painter = Painter::new(&glyphs, options.size);
    let world = World::new(options.seed, options.split);
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let mut captions = Array::create(dir.join("captions.json"))?;
    let mut instruct = Array::create(dir.join("instruct.json"))?;
    let mut text = Array::create(dir.join("text.json"))?;
    let scenes = dir.join("scenes.jsonl");
    let mut lines = BufWriter::new(File::create(&scenes).map_err(Error::io(&scenes))?);
    for index in 0..options.pictures {
        let scene = world.scene(index);
        let image = picture(index);
        write_picture(&dir.join("images").join(&image), &painter, &scene)?;
        captions.push(&world.caption_row(index, &scene))?;
        instruct.push(&world.instruct_row(index, &scene, options.turns))?;
        text.push(&world.text_row(index, &scene, options.turns))?;
        if index % 20 == 0 {
            text.push(&world.general_row(index, (index / 20 % KINDS.len() as u64) as Kind))?;
        }
        let line = Line {
            id: index,
            image: &image,
            scene: &scene,
            captions: describe::captions(&scene),
            context: describe::context(&scene, &glyphs),
        };
        serde_json::to_writer(&mut lines, &line).map_err(|e| Error::io(&scenes)(e.into()))?;
        lines.write_all(b"\n").map_err(Error::io(&scenes))?;
        progress(index + 1);
    }
    lines.flush().map_err(Error::io(&scenes))?;
    for array in [captions, instruct, text] {
        array.close()?;
    }
    vocabulary::train(options.vocabulary)?.write(dir)
}

fn write_picture(path: &Path, painter: &Painter, scene: &Scene) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Sub);
    painter
        .draw(scene)
        .write_with_encoder(encoder)
        .map_err(|e| Error::Data(format!("{}: the picture cannot be encoded: {e}", path.display())))?;
    std::fs::write(path, bytes).map_err(Error::io(path))
}

/// A JSON array written row by row.
struct Array {
    path: PathBuf,
    out: BufWriter<File>,
    empty: bool,
}

impl Array {
    fn create(path: PathBuf) -> Result<Self> {
        let out = BufWriter::new(File::create(&path).map_err(Error::io(&path))?);
        Ok(Self { path, out, empty: true })
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        let before: &[u8] = if self.empty { b"[\n" } else { b",\n" };
        self.empty = false;
        self.out.write_all(before).map_err(Error::io(&self.path))?;
        serde_json::to_writer(&mut self.out, row).map_err(|e| Error::io(&self.path)(e.into()))
    }

    fn close(mut self) -> Result<()> {
        let end: &[u8] = if self.empty { b"[]\n" } else { b"\n]\n" };
        self.out.write_all(end).and_then(|()| self.out.flush()).map_err(Error::io(&self.path))
    }
}
