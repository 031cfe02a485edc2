//! Opens GGUF files as sources: one file, a pair, or either half of one.
//!
//! Vision halves come in the naming of 2023 (MLP matrices swapped, no projector type, blocks already cut) and of today;
//! they leave in one form, with the feature's layer said in full. Quantized tensors can be quantized again, which adds
//! the new rounding to the old; a note says so.

use std::path::Path;

use pumice_kernels::Gelu;
use pumice_models::{
    config::{ClipConfig, LlamaConfig, ProjectorConfig, VisionConfig, has_vision},
    gguf::File,
    names::{self, keys},
};

use super::{
    Source, SourceOptions,
    config::{Llava, Vision},
    file_name, metadata,
    metadata::Keys,
    tensor::{Data, Order, SourceTensor},
};
use crate::{Error, ModelFacts, Result};

/// Opens the GGUF at `path` and the vision half that `options` names.
pub(super) fn open(path: &Path, options: &SourceOptions) -> Result<Source> {
    let file = File::open(path)?;
    let mmproj = options.mmproj.as_deref().map(File::open).transpose()?;
    let vision_half = match &mmproj {
        Some(half) => Some(half),
        None => has_vision(&file)?.then_some(&file),
    };
    let mut source = Source {
        name: file.str(keys::NAME)?.map_or_else(|| stem(path), str::to_owned),
        paths: file.paths().chain(mmproj.iter().flat_map(File::paths)).map(Path::to_path_buf).collect(),
        notes: Vec::new(),
        text: Vec::new(),
        vision: Vec::new(),
        tensors: Vec::new(),
        facts: ModelFacts { blocks: 0, heads: 1, kv_heads: 1, tied: false },
    };
    match file.need_str(keys::ARCHITECTURE)? {
        "llama" => text(&file, &mut source)?,
        // A vision half alone can be made smaller too.
        "clip" if mmproj.is_none() && vision_half.is_some() => {}
        other => {
            let problem =
                format!("architecture {other:?} is not supported; Pumice reads llama and, as mmproj, clip");
            return Err(Error::NotASource { path: path.into(), problem });
        }
    }
    if let Some(half) = vision_half {
        vision(half, &mut source)?;
        check_width(half, &file, &source)?;
    }
    let quantized = source.tensors.iter().filter(|t| t.is_quantized()).count();
    if quantized > 0 {
        source.notes.push(format!(
            "{quantized} tensors are quantized already: quantizing them again adds new errors to theirs; \
             the original checkpoint gives a better file"
        ));
    }
    Ok(source)
}

/// Keys and tensors of the text model.
fn text(file: &File, source: &mut Source) -> Result<()> {
    let llama = LlamaConfig::read(file)?;
    source.facts =
        ModelFacts { blocks: llama.blocks, heads: llama.heads, kv_heads: llama.kv_heads, tied: llama.tied };
    let kept = file.keys().filter(|(key, _)| ["llama.", "tokenizer."].iter().any(|p| key.starts_with(p)));
    source.text = kept.map(|(key, value)| (key.to_owned(), value.clone())).collect();
    for tensor in file.tensors().iter().filter(|t| !is_vision(&t.name)) {
        source.tensors.push(take(file, &tensor.name, tensor.name.clone())?);
    }
    Ok(())
}

/// Keys and tensors of the vision half, in today's naming.
fn vision(file: &File, source: &mut Source) -> Result<()> {
    let clip = ClipConfig::read(file)?;
    let projector = ProjectorConfig::read(file, clip.hidden)?;
    source.vision = vision_keys(file, &clip, &projector, source)?;
    for name in [
        names::V_CLASS_EMBD,
        names::V_PATCH_EMBD,
        names::V_POSITION_EMBD,
        names::V_PRE_LN,
        names::V_PRE_LN_BIAS,
    ] {
        source.tensors.push(take(file, name, name.to_owned())?);
    }
    for block in 0..clip.blocks {
        for part in names::V_BLK_PARTS {
            let stored = match part {
                names::FFN_UP if clip.mlp_swapped => names::FFN_DOWN,
                names::FFN_DOWN if clip.mlp_swapped => names::FFN_UP,
                part => part,
            };
            source.tensors.push(take(file, &names::v_blk(block, stored), names::v_blk(block, part))?);
            source.tensors.push(take(
                file,
                &names::v_blk_bias(block, stored),
                names::v_blk_bias(block, part),
            )?);
        }
    }
    for (layer, (weight, bias)) in projector.layers.iter().enumerate() {
        source.tensors.push(take(file, weight, names::mm(2 * layer))?);
        source.tensors.push(take(file, bias, names::mm_bias(2 * layer))?);
    }
    Ok(())
}

/// The vision half's keys, written anew; `pumice.*` ones are kept where the file has them.
fn vision_keys(
    file: &File,
    clip: &ClipConfig,
    projector: &ProjectorConfig,
    source: &mut Source,
) -> Result<Keys> {
    let vision = Vision {
        width: clip.hidden,
        ff: clip.ff,
        blocks: clip.blocks,
        heads: clip.heads,
        image: clip.image_size,
        patch: clip.patch_size,
        projection: file.usize(keys::V_PROJECTION_DIM)?.unwrap_or(clip.hidden),
        eps: clip.eps.into(),
        gelu: clip.activation == Gelu::Erf,
        mean: clip.mean,
        std: clip.std,
    };
    let mut llava = Llava::unsaid();
    llava.select_feature = if clip.keep_class { "cls_patch" } else { "patch" };
    let kind = projector.name();
    // LLaVA-1.5 pads; it is known by its MLP.
    llava.aspect = kind.starts_with("mlp").then_some("pad");
    let said = [keys::IMAGE_ASPECT_RATIO, keys::TEMPLATE, keys::USE_IM_START_END];
    let mut out = metadata::vision_keys(&vision, clip.blocks, &llava, &kind, &source.name);
    let mut missing = false;
    for (key, value) in &mut out {
        if !said.contains(&key.as_str()) {
            continue;
        }
        match file.get(key) {
            Some(own) => *value = own.clone(),
            None => missing = true,
        }
    }
    if missing {
        let get =
            |key: &str| out.iter().find(|(k, _)| k == key).and_then(|(_, v)| v.as_str()).unwrap_or_default();
        source.notes.push(format!(
            "{} does not say how LLaVA prepares pictures and prompts; taken from its projector and name: {} and {}",
            file.path().display(),
            get(keys::IMAGE_ASPECT_RATIO),
            get(keys::TEMPLATE)
        ));
    }
    Ok(out)
}

/// The projector's rows must be as wide as the text model's.
fn check_width(half: &File, text: &File, source: &Source) -> Result<()> {
    if !source.has_text() {
        return Ok(());
    }
    Ok(VisionConfig::read(half)?.check_fits(half, text, &LlamaConfig::read(text)?)?)
}

/// Tensor `stored` of `file` as `name`.
fn take(file: &File, stored: &str, name: String) -> Result<SourceTensor> {
    let info = file.need_tensor(stored)?;
    let dtype = file.dtype(info)?;
    let data = Data::Gguf(file.bytes(info), dtype);
    Ok(SourceTensor { name, dims: info.dims.clone(), data, order: Order::Same, delta: None })
}

fn is_vision(name: &str) -> bool {
    ["v.", "mm."].iter().any(|p| name.starts_with(p))
}

/// The file's name without its ending.
fn stem(path: &Path) -> String {
    let name = file_name(path);
    name.strip_suffix(".gguf").map_or(name.clone(), str::to_owned)
}
