//! What makes a text model and a vision tower a LLaVA: the feature, the projector, the prompt.

use super::Json;
use crate::Result;

/// LLaVA's own settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Llava {
    /// The hidden state that is the feature, as an index into the list of them: −2 is the output of the last block but one.
    pub select_layer: i64,
    /// "patch" or "cls_patch".
    pub select_feature: &'static str,
    /// `mm_projector_type`, where it is said.
    pub projector: Option<String>,
    /// `mm_vision_tower`: a model's name or a path.
    pub tower: Option<String>,
    /// "pad" or "square", where it is said.
    pub aspect: Option<&'static str>,
    /// Whether `<im_start>` and `<im_end>` stand around a picture.
    pub im_start_end: bool,
    /// Whether the file is one of Hugging Face's port.
    pub ported: bool,
    /// The model's name as the file knows it.
    pub name: Option<String>,
    /// `pumice_template`: the conversations it was trained on, where `pumice-train` wrote the file.
    pub template: Option<String>,
}

impl Llava {
    /// Reads `config.json`, of the authors' layout (`mm_*`) or of Hugging Face's port; `None` where it is no LLaVA.
    ///
    /// # Errors
    /// A newer LLaVA that cuts pictures into tiles, or a value that makes no sense.
    pub fn read(json: Json<'_>) -> Result<Option<Self>> {
        let name = json.text("_name_or_path")?.filter(|n| !n.is_empty()).map(str::to_owned);
        match json.text("model_type")?.unwrap_or_default() {
            "llava_next" | "llava_onevision" | "llava_next_video" => Err(json.error(
                "model_type",
                "is LLaVA 1.6 or later, which cuts pictures into tiles; Pumice reads LLaVA 1 and 1.5",
            )),
            "llava" if json.get("text_config").is_some() || json.get("vision_config").is_some() => {
                Self::read_port(json, name).map(Some)
            }
            "llava" | "llava_llama" | "llava_mistral" => Self::read_authors(json, name).map(Some),
            _ if json.get("mm_vision_tower").is_some() => Self::read_authors(json, name).map(Some),
            _ => Ok(None),
        }
    }

    /// The settings of the first release, for a projector that comes without any.
    pub fn unsaid() -> Self {
        Self {
            select_layer: -2,
            select_feature: "patch",
            projector: None,
            tower: None,
            aspect: None,
            im_start_end: false,
            ported: false,
            name: None,
            template: None,
        }
    }

    fn read_authors(json: Json<'_>, name: Option<String>) -> Result<Self> {
        let select_feature = match json.text("mm_vision_select_feature")? {
            None | Some("patch") => "patch",
            Some("cls_patch") => "cls_patch",
            Some(other) => {
                return Err(
                    json.error("mm_vision_select_feature", format!("{other} is neither patch nor cls_patch"))
                );
            }
        };
        Ok(Self {
            // The published recipes all pass −2, and the first release, whose files lack the key, did so in its code.
            select_layer: json
                .get("mm_vision_select_layer")
                .map_or(Ok(-2), |v| layer(json, "mm_vision_select_layer", v))?,
            select_feature,
            projector: json.text("mm_projector_type")?.map(str::to_owned),
            tower: json.text("mm_vision_tower")?.map(str::to_owned),
            aspect: aspect(json)?,
            im_start_end: json.flag("mm_use_im_start_end", false)?,
            ported: false,
            name,
            template: trained(json)?,
        })
    }

    fn read_port(json: Json<'_>, name: Option<String>) -> Result<Self> {
        if let Some(act) = json.text("projector_hidden_act")?.filter(|act| *act != "gelu") {
            return Err(json.error("projector_hidden_act", format!("{act} is not LLaVA's gelu")));
        }
        let select_feature = match json.text("vision_feature_select_strategy")? {
            None | Some("default") => "patch",
            Some("full") => "cls_patch",
            Some(other) => {
                return Err(json.error(
                    "vision_feature_select_strategy",
                    format!("{other} is neither default nor full"),
                ));
            }
        };
        Ok(Self {
            select_layer: json
                .get("vision_feature_layer")
                .map_or(Ok(-2), |v| layer(json, "vision_feature_layer", v))?,
            select_feature,
            // Hugging Face's own files never say; those of `pumice-train` do.
            aspect: aspect(json)?,
            ported: true,
            name,
            template: trained(json)?,
            ..Self::unsaid()
        })
    }

    /// How many of `blocks` blocks run before the feature is taken.
    pub fn blocks_to_run(&self, json: Json<'_>, blocks: usize) -> Result<usize> {
        // The list has blocks + 1 entries: the input of the first block, then the output of each.
        let index =
            if self.select_layer < 0 { self.select_layer + blocks as i64 + 1 } else { self.select_layer };
        usize::try_from(index).ok().filter(|run| *run <= blocks).ok_or_else(|| {
            let key = if self.ported { "vision_feature_layer" } else { "mm_vision_select_layer" };
            json.error(
                key,
                format!("{} is beyond the {blocks} blocks of the vision tower", self.select_layer),
            )
        })
    }
}

/// `image_aspect_ratio`, where it is said.
///
/// # Errors
/// It is LLaVA 1.6's.
fn aspect(json: Json<'_>) -> Result<Option<&'static str>> {
    match json.text("image_aspect_ratio")? {
        None => Ok(None),
        Some("square") => Ok(Some("square")),
        Some("pad") => Ok(Some("pad")),
        Some(other) => {
            let problem = format!("{other} is LLaVA 1.6's cutting into tiles; Pumice reads LLaVA 1 and 1.5");
            Err(json.error("image_aspect_ratio", problem))
        }
    }
}

/// The template that `pumice-train` noted.
///
/// # Errors
/// It is none that the runtime writes.
fn trained(json: Json<'_>) -> Result<Option<String>> {
    let Some(name) = json.text("pumice_template")? else { return Ok(None) };
    if !crate::TEMPLATES.contains(&name) {
        let known = crate::TEMPLATES.join(", ");
        return Err(json.error("pumice_template", format!("{name} is no template; known are {known}")));
    }
    Ok(Some(name.to_owned()))
}

/// One layer's number; a list of one counts as it.
fn layer(json: Json<'_>, key: &str, value: &serde_json::Value) -> Result<i64> {
    let one = value.as_i64().or_else(|| match value.as_array()?.as_slice() {
        [one] => one.as_i64(),
        _ => None,
    });
    one.filter(|n| n.unsigned_abs() < 1 << 20)
        .ok_or_else(|| json.error(key, format!("{value} is not one layer's number")))
}
