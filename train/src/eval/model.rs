//! A model to be examined: a checkpoint's folder at a given type, or a GGUF file, in the runtime's chat.
//!
//! It is asked exactly as `pumice chat` asks: the same preprocessing, prompt and cache, the likeliest token always. A
//! scene's picture is encoded once; the cache keeps its rows in front of each of its questions.

use std::path::{Path, PathBuf};

use pumice_kernels::{Bytes, Cpu, CpuOptions, DType};
use pumice_models::{config, gguf::File};
use pumice_quantize::{FileType, Recipe, Source, SourceOptions, run_in_memory};
use pumice_runtime::{
    Picture, SamplerOptions, Vocabulary,
    chat::{Chat, Finish, Options},
};

use super::{Exam, Reply};
use crate::{
    Error, Result,
    world::{Question, Scene, draw::Painter, kinds::KINDS},
};

/// What to know about a model beyond its path.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// The vision half of a GGUF pair.
    pub mmproj: Option<PathBuf>,
    /// The vision tower's folder, where a checkpoint does not hold it.
    pub vision_tower: Option<PathBuf>,
    /// A projector's file or folder, where the path is a text model or its own is not meant.
    pub projector: Option<PathBuf>,
    /// The type to convert to; `None`: a GGUF file as it is, a checkpoint to F32.
    pub file_type: Option<FileType>,
    /// The conversation template, where the model names none or a wrong one.
    pub template: Option<String>,
    /// Tokens of an answer at most.
    pub predict: usize,
}

/// A model that is open.
#[derive(Debug)]
pub struct Model {
    text: File,
    mmproj: Option<File>,
    template: Option<String>,
    predict: usize,
    /// Its name and type, for people.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// What to know of it, a sentence each.
    pub notes: Vec<String>,
    side: usize,
}

impl Model {
    /// Opens the model at `path`.
    ///
    /// # Errors
    /// There is none, it is damaged, or it cannot see; the message says which and what to do.
    pub fn open(path: &Path, opening: &Opening) -> Result<Self> {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
        let mut notes = Vec::new();
        let convert = match opening.file_type {
            None if path.is_dir() => Some(FileType::F32),
            given => given,
        };
        let (name, bytes, text, mmproj) = match convert {
            Some(file_type) => {
                let options = SourceOptions {
                    mmproj: opening.mmproj.clone(),
                    vision_tower: opening.vision_tower.clone(),
                    projector: opening.projector.clone(),
                    template: opening.template.clone(),
                    ..SourceOptions::default()
                };
                let source = Source::open(path, &options)?;
                notes.extend(source.notes().iter().cloned());
                if !source.has_vision() {
                    return Err(blind(path));
                }
                let mut recipe = Recipe::new(file_type);
                if file_type == FileType::F32 {
                    recipe.vision_type = DType::F32;
                }
                let bytes = run_in_memory(&source, &pumice_quantize::Options::new(recipe), &())?;
                let size = bytes.len() as u64;
                let name = format!("{name} {}", file_type.name());
                (name, size, File::from_bytes(&path.to_string_lossy(), Bytes::new(bytes))?, None)
            }
            None => {
                let text = File::open(path)?;
                let mmproj = opening.mmproj.as_deref().map(File::open).transpose()?;
                let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
                let bytes = size(path) + opening.mmproj.as_deref().map_or(0, size);
                (name, bytes, text, mmproj)
            }
        };
        let vision = mmproj.as_ref().unwrap_or(&text);
        if mmproj.is_none() && !config::has_vision(vision)? {
            return Err(blind(path));
        }
        let side = config::ClipConfig::read(vision)?.image_size;
        notes.extend(stranger(&Vocabulary::from_gguf(&text)?));
        let (template, predict) = (opening.template.clone(), opening.predict);
        Ok(Self { text, mmproj, template, predict, name, bytes, notes, side })
    }

    /// Side in pixels of the pictures that it sees.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Somebody who answers with it, computing with `threads` threads; several may share one model.
    ///
    /// # Errors
    /// The model has no template or needs more memory than there is.
    pub fn student<'p>(&self, painter: &'p Painter, threads: usize, exam: &Exam) -> Result<Student<'p>> {
        let options = Options {
            predict: Some(self.predict),
            sampling: SamplerOptions::greedy(),
            template: self.template.clone(),
            ..Options::default()
        };
        let cpu = Cpu::new(CpuOptions { threads, isa: None });
        let chat = Chat::from_files(&self.text, self.mmproj.as_ref(), Box::new(cpu), options)?;
        Ok(Student { chat, painter, together: exam.turns.is_some() })
    }
}

fn blind(path: &Path) -> Error {
    Error::Config(format!(
        "{}: has no vision part, and questions are about pictures; name a LLaVA, or the other half of a pair with --mmproj",
        path.display()
    ))
}

/// What to say of a vocabulary that was not made for the world: its model was hardly trained on it.
fn stranger(vocabulary: &Vocabulary) -> Option<String> {
    let known = KINDS.iter().filter(|e| vocabulary.encode(e.name, false).len() == 1).count();
    (known < KINDS.len()).then(|| {
        format!(
            "this is not a model of the demo world: its vocabulary has {known} of the {} names; expect it to guess",
            KINDS.len()
        )
    })
}

/// A model in an examination.
pub struct Student<'p> {
    chat: Chat,
    painter: &'p Painter,
    together: bool,
}

impl Student<'_> {
    /// Looks at the scene and answers, each question in a fresh conversation or all in one.
    ///
    /// # Errors
    /// The model computes what is no number, or the conversation does not fit in the context.
    pub fn answer(&mut self, scene: &Scene, questions: &[Question]) -> Result<Vec<Reply>> {
        let side = self.painter.side() as u32;
        let picture = Picture::from_rgb("a scene", side, side, self.painter.draw(scene).into_raw())?;
        let seen = self.chat.see_picture(&picture)?;
        self.chat.clear();
        let mut replies = Vec::with_capacity(questions.len());
        for question in questions {
            if !self.together {
                self.chat.clear();
            }
            let first = replies.is_empty() || !self.together;
            let pictures = [seen];
            let mut answer = self.chat.ask(&question.text, &pictures[..usize::from(first)])?;
            let mut text = String::new();
            for piece in answer.by_ref() {
                text += &piece?;
            }
            let cut = answer.finish() != Some(Finish::Stop);
            replies.push(Reply { text, cut });
        }
        Ok(replies)
    }
}
