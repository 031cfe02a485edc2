//! The config of a projector: none, one matrix, or matrices with GELUs between them.
//!
//! Files of 2023 do not name their projector, and llama.cpp has one name for all of LLaVA's ("mlp"), so the layers are
//! found by the tensors that are there; where Pumice wrote the file its name must agree with them.

use crate::{
    Error, Result,
    gguf::File,
    names::{self, keys},
};

/// A projector's layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// Names of weight and bias of each layer; none for `identity`.
    pub layers: Vec<(String, String)>,
    /// Widths between the layers: `widths[i]` columns go into layer i, `widths[i + 1]` come out.
    pub widths: Vec<usize>,
}

impl ProjectorConfig {
    /// Reads the config of the projector behind a tower of `width` columns.
    ///
    /// # Errors
    /// The projector is of a kind that LLaVA does not have, its layers do not fit each other or the tower, or there is none.
    pub fn read(file: &File, width: usize) -> Result<Self> {
        let layers = find_layers(file)?;
        let mut widths = vec![width];
        for (weight, _) in &layers {
            let t = file.need_tensor(weight)?;
            let last = widths[widths.len() - 1];
            if t.cols() != last || t.dims.len() != 2 {
                return Err(Error::tensor(
                    file.path(),
                    weight,
                    format!(
                        "has dimensions {:?} (fastest first) but gets rows of {last}; the file was made wrongly",
                        t.dims
                    ),
                ));
            }
            widths.push(t.rows());
        }
        Ok(Self { layers, widths })
    }

    /// The authors' name of this kind: `identity`, `linear`, `mlp2x_gelu` …
    pub fn name(&self) -> String {
        match self.layers.len() {
            0 => "identity".into(),
            1 => "linear".into(),
            n => format!("mlp{n}x_gelu"),
        }
    }

    /// Columns of the rows that come out.
    pub fn width_out(&self) -> usize {
        self.widths[self.widths.len() - 1]
    }
}

/// The layers by the tensors that are there, checked against the names that the file gives its projector.
fn find_layers(file: &File) -> Result<Vec<(String, String)>> {
    let mut layers: Vec<_> = (0..)
        .map(|i| (names::mm(2 * i), names::mm_bias(2 * i)))
        .take_while(|(weight, _)| file.tensor(weight).is_some())
        .collect();
    if layers.is_empty() && file.tensor(names::MM_LINEAR).is_some() {
        layers.push((names::MM_LINEAR.into(), names::MM_LINEAR_BIAS.into()));
    }
    if let Some(kind) = file.str(keys::PROJECTOR_TYPE)? {
        return match layers_of(kind) {
            Some(n) if n == layers.len() => Ok(layers),
            Some(n) => Err(Error::key(
                file.path(),
                keys::PROJECTOR_TYPE,
                format!(
                    "{kind:?} has {n} layers (mm.0, mm.2, …) but the file holds {}; make the file anew",
                    layers.len()
                ),
            )),
            None => Err(unknown(file, keys::PROJECTOR_TYPE, kind)),
        };
    }
    for key in [keys::CLIP_PROJECTOR_TYPE, keys::CLIP_VISION_PROJECTOR_TYPE] {
        if let Some(kind) = file.str(key)?.filter(|&k| k != "mlp") {
            return Err(unknown(file, key, kind));
        }
    }
    if layers.is_empty() {
        return Err(Error::missing(
            file.path(),
            "no projector: neither mm.0.weight nor mm.weight is there; give the mmproj file of a LLaVA, not a bare CLIP",
        ));
    }
    Ok(layers)
}

/// How many layers a kind has, by the authors' name.
fn layers_of(kind: &str) -> Option<usize> {
    match kind {
        "identity" => Some(0),
        "linear" => Some(1),
        _ => kind.strip_prefix("mlp")?.strip_suffix("x_gelu")?.parse().ok().filter(|&n| n > 0),
    }
}

fn unknown(file: &File, key: &str, kind: &str) -> Error {
    Error::key(
        file.path(),
        key,
        format!(
            "is {kind:?}; Pumice runs the projectors of LLaVA 1 and 1.5: linear, mlp2x_gelu (llama.cpp: mlp), identity"
        ),
    )
}
