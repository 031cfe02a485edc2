//! What a run will write: every tensor's type and size, before a byte is converted.

use std::path::{Path, PathBuf};

use pumice_kernels::DType;
use pumice_models::{gguf::Header, names::keys};

use crate::{Error, FileType, Recipe, Result, Source};

/// One tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its GGUF name.
    pub name: String,
    /// Its dimensions, fastest first.
    pub dims: Vec<usize>,
    /// The type of the source's numbers: "BF16".
    pub from: String,
    /// Bytes in the source.
    pub from_bytes: u64,
    /// The type it gets.
    pub to: DType,
    /// Bytes that it gets.
    pub bytes: u64,
    /// The type that the recipe wanted, where the rows are no multiple of its blocks.
    pub instead_of: Option<DType>,
    /// Which of the output files it goes to.
    pub(crate) file: usize,
}

impl Planned {
    /// Elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).product()
    }

    /// Bits per element.
    pub fn bits_per_weight(&self) -> f64 {
        bits(self.bytes, self.elements())
    }
}

/// Whether vision and text share a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One file holds all.
    #[default]
    OneFile,
    /// llama.cpp's pair: the text model, and the vision half in `mmproj-…gguf` beside it.
    Pair,
}

/// What will be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// All tensors, in the order of writing.
    pub tensors: Vec<Planned>,
    /// The files, the text model's first.
    pub files: Vec<PathBuf>,
}

impl Plan {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Bytes that the source's tensors take.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.from_bytes).sum()
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(Planned::elements).sum()
    }

    /// Bits per element over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        bits(self.bytes(), self.elements())
    }
}

fn bits(bytes: u64, elements: u64) -> f64 {
    bytes as f64 * 8.0 / elements.max(1) as f64
}

/// Plans the conversion of `source` to `out` by `recipe`.
///
/// # Errors
/// An override fits no tensor, or not its rows; the output would replace its own source.
pub fn plan(source: &Source, out: &Path, recipe: &Recipe, layout: Layout) -> Result<Plan> {
    let pair = layout == Layout::Pair && source.has_text() && source.has_vision();
    let mut files = vec![out.to_path_buf()];
    if pair {
        files.push(mmproj_path(out));
    }
    for file in &files {
        check_not_source(source, file)?;
    }
    let mut used = vec![false; recipe.overrides.len()];
    let mut tensors = Vec::with_capacity(source.tensors.len());
    for tensor in &source.tensors {
        let choice = recipe.choose(&tensor.name, &tensor.dims, &source.facts)?;
        if let Some(index) = choice.by_override {
            used[index] = true;
        }
        // A quantized type's rows are whole blocks (`choose` saw to it); a plain type's size is that of its elements.
        let elements = tensor.elements();
        let bytes = elements / choice.dtype.block_len() * choice.dtype.block_bytes();
        let vision = tensor.name.starts_with("v.") || tensor.name.starts_with("mm.");
        tensors.push(Planned {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            from: tensor.source_type(),
            from_bytes: tensor.source_bytes(),
            to: choice.dtype,
            bytes: bytes as u64,
            instead_of: (choice.wanted != choice.dtype).then_some(choice.wanted),
            file: usize::from(pair && vision),
        });
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        let text = format!("{}={}", recipe.overrides[unused].pattern, recipe.overrides[unused].dtype);
        let problem =
            "matches no matrix of the model, or an earlier pattern takes them all; --dry-run lists the names"
                .into();
        return Err(Error::Pattern { text, problem });
    }
    Ok(Plan { tensors, files })
}

/// `mmproj-NAME.gguf` beside `NAME.gguf`, the name by which llama.cpp's programs know a vision half.
fn mmproj_path(out: &Path) -> PathBuf {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!("mmproj-{name}"))
}

/// The source is mapped while the output is written; replacing it under the map would be the end of both.
fn check_not_source(source: &Source, out: &Path) -> Result<()> {
    let Ok(out_path) = out.canonicalize() else { return Ok(()) };
    match source.paths.iter().any(|p| p.canonicalize().is_ok_and(|p| p == out_path)) {
        true => Err(Error::OverSource { path: out.into() }),
        false => Ok(()),
    }
}

/// The headers of the plan's files, in their order.
pub(crate) fn headers(source: &Source, recipe: &Recipe, plan: &Plan) -> Vec<Header> {
    let pair = plan.files.len() > 1;
    let mut headers = Vec::new();
    for file in 0..plan.files.len() {
        let text = source.has_text() && file == 0;
        let vision = source.has_vision() && (file == 1 || !pair);
        let mut header = Header::new();
        header.set(keys::ARCHITECTURE, if text { "llama" } else { "clip" });
        if text {
            header.set(keys::TYPE, "model");
        }
        header.set(keys::NAME, source.name.as_str());
        if !text {
            header.set("general.description", "image encoder for LLaVA");
        }
        let vision_type = FileType::of(recipe.vision_type).unwrap_or(FileType::F16);
        header.set(keys::FILE_TYPE, if text { recipe.file_type } else { vision_type } as u32);
        let tensors: Vec<&Planned> = plan.tensors.iter().filter(|t| t.file == file).collect();
        if tensors.iter().any(|t| t.to.is_quantized()) {
            header.set(keys::QUANTIZATION_VERSION, 2u32);
        }
        for (key, value) in
            text.then_some(&source.text).into_iter().chain(vision.then_some(&source.vision)).flatten()
        {
            header.set(key, value.clone());
        }
        for tensor in tensors {
            header.tensor(&tensor.name, &tensor.dims, tensor.to);
        }
        headers.push(header);
    }
    headers
}
