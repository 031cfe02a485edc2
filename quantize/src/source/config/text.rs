//! The text model's half of a configuration.

use super::Json;
use crate::Result;

/// How the rotary positions were stretched after pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by the factor.
    Linear(f64),
    /// Llama 3's: slow frequencies divided by `factor`, fast ones kept, a ramp between.
    Llama3 {
        /// Divides the slowest frequencies.
        factor: f64,
        /// Wavelengths above context/`low` are slow.
        low: f64,
        /// Wavelengths below context/`high` are fast.
        high: f64,
        /// Context of pre-training, in tokens.
        context: f64,
    },
}

/// Shape and constants of the text model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Text {
    pub vocab: usize,
    pub hidden: usize,
    pub ff: usize,
    pub blocks: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context: usize,
    pub rms_eps: f64,
    pub rope_base: f64,
    pub scaling: Scaling,
    pub tied: bool,
}

/// Names of `model_type` whose text model computes as LLaMA does. Mistral's differs only in a sliding window, which
/// matters beyond 4096 tokens and which its later versions dropped.
const KNOWN: [&str; 6] = ["llama", "llava", "llava_llama", "llava_mistral", "mistral", "vicuna"];

impl Text {
    /// Reads `json`, a `LlamaConfig`; what is absent takes the defaults of `transformers` (those of LLaMA 7B).
    ///
    /// # Errors
    /// Another architecture, or a value that makes no sense.
    pub fn read(json: Json<'_>) -> Result<Self> {
        let model_type = json.text("model_type")?.unwrap_or("llama");
        if !KNOWN.contains(&model_type) {
            let problem = format!(
                "{model_type} is not supported; Pumice reads the llama family (LLaMA, Vicuna, LLaVA)"
            );
            return Err(json.error("model_type", problem));
        }
        if let Some(act) = json.text("hidden_act")?.filter(|act| *act != "silu") {
            return Err(json.error("hidden_act", format!("{act} is not LLaMA's silu")));
        }
        let hidden = json.count("hidden_size", 4096)?;
        let heads = json.count("num_attention_heads", 32)?;
        let kv_heads = json.count("num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                json.error("num_key_value_heads", format!("{kv_heads} does not divide the {heads} heads"))
            );
        }
        let head_dim = match json.get("head_dim") {
            Some(_) => json.count("head_dim", 0)?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(json
                    .error("num_attention_heads", format!("{heads} does not divide hidden_size {hidden}")));
            }
        };
        if head_dim % 2 != 0 {
            return Err(json.error("head_dim", format!("{head_dim} is odd; rotary positions need pairs")));
        }
        let context = json.count("max_position_embeddings", 2048)?;
        let (rope_base, scaling) = rope(json, context)?;
        Ok(Self {
            vocab: json.count("vocab_size", 32000)?,
            hidden,
            ff: json.count("intermediate_size", 11008)?,
            blocks: json.count("num_hidden_layers", 32)?,
            heads,
            kv_heads,
            head_dim,
            context,
            rms_eps: json.number("rms_norm_eps", 1e-6)?,
            rope_base,
            scaling,
            tied: json.flag("tie_word_embeddings", false)?,
        })
    }

    /// Llama 3's divisors of the `head_dim/2` rotary frequencies, where the model has them.
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        let Scaling::Llama3 { factor, low, high, context } = self.scaling else { return None };
        let factor_of = |i: usize| {
            let frequency = self.rope_base.powf(-(2.0 * i as f64) / self.head_dim as f64);
            let wavelength = std::f64::consts::TAU / frequency;
            if wavelength < context / high {
                return 1.0;
            }
            if wavelength > context / low {
                return factor;
            }
            let fast = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - fast) / factor + fast)
        };
        Some((0..self.head_dim / 2).map(|i| factor_of(i) as f32).collect())
    }
}

/// Base and scaling, from `rope_theta` and `rope_scaling`, or from `rope_parameters`, which transformers 5 made of both.
fn rope(json: Json<'_>, max_context: usize) -> Result<(f64, Scaling)> {
    let key = if json.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let base = json.number("rope_theta", 10000.0)?;
    let Some(value) = json.get(key) else { return Ok((base, Scaling::None)) };
    let at = format!("{}{key}.", json.at);
    let inner = Json { path: json.path, at: &at, value };
    let base = inner.number("rope_theta", base)?;
    let kind = inner.text("rope_type")?.or(inner.text("type")?).unwrap_or("default");
    let scaling = match kind {
        "default" => Scaling::None,
        "linear" => Scaling::Linear(inner.number("factor", 1.0)?),
        "llama3" => Scaling::Llama3 {
            factor: inner.number("factor", 8.0)?,
            low: inner.number("low_freq_factor", 1.0)?,
            high: inner.number("high_freq_factor", 4.0)?,
            context: inner.number("original_max_position_embeddings", max_context as f64)?,
        },
        other => {
            return Err(inner.error(
                "rope_type",
                format!("{other} is not supported; known are default, linear and llama3"),
            ));
        }
    };
    if let Scaling::Llama3 { low, high, .. } = scaling
        && low >= high
    {
        return Err(inner.error("low_freq_factor", format!("{low} must be below high_freq_factor {high}")));
    }
    Ok((base, scaling))
}
