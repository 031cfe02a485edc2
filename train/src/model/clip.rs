//! CLIP's vision tower (Radford et al., 2021): pixels to features.
//!
//! A picture is cut into patches by a convolution without bias; a learned class row goes in front, learned positions are added, a norm
//! (spelt `pre_layrnorm` in every checkpoint) follows, then blocks x += attn(ln1(x)); x += fc2(act(fc1(ln2(x)))). The forward pass takes a
//! unit, frozen for LLaVA or trainable for contrastive pre-training. Letters: `n` pictures, `p` patches, `c` width, `s` side in pixels.

use tch::{Device, Kind, Tensor};

use super::config::ClipConfig;
use crate::unit::Unit;

/// Prefix of all names.
const PREFIX: &str = "vision_model";

/// Names and shapes of all parameters, the first `blocks` blocks and (`whole`) the last norm.
pub fn slots(cfg: &ClipConfig, blocks: i64, whole: bool) -> Vec<(String, Vec<i64>)> {
    let (c, ff) = (cfg.hidden, cfg.ff);
    let mut slots = vec![
        ("embeddings.class_embedding".into(), vec![c]),
        ("embeddings.patch_embedding.weight".into(), vec![c, 3, cfg.patch, cfg.patch]),
        ("embeddings.position_embedding.weight".into(), vec![1 + cfg.patches(), c]),
        ("pre_layrnorm.weight".into(), vec![c]),
        ("pre_layrnorm.bias".into(), vec![c]),
    ];
    let parts = [
        ("self_attn.q_proj", vec![c, c]),
        ("self_attn.k_proj", vec![c, c]),
        ("self_attn.v_proj", vec![c, c]),
        ("self_attn.out_proj", vec![c, c]),
        ("mlp.fc1", vec![ff, c]),
        ("mlp.fc2", vec![c, ff]),
        ("layer_norm1", vec![c]),
        ("layer_norm2", vec![c]),
    ];
    for block in 0..blocks {
        for (part, shape) in &parts {
            slots.push((format!("encoder.layers.{block}.{part}.weight"), shape.clone()));
            slots.push((format!("encoder.layers.{block}.{part}.bias"), shape[..1].to_vec()));
        }
    }
    if whole {
        slots.push(("post_layernorm.weight".into(), vec![c]));
        slots.push(("post_layernorm.bias".into(), vec![c]));
    }
    slots.into_iter().map(|(name, shape): (String, _)| (format!("{PREFIX}.{name}"), shape)).collect()
}

/// A whole tower drawn as `transformers` draws it: norms 1 and 0, biases 0, class row and patches normal with deviations c^−½ and 0.02,
/// attention's inputs (2·layers·c)^−½, its output c^−½, the MLP's first matrix (2c)^−½ and second (2·layers·c)^−½.
pub fn init(cfg: &ClipConfig, kind: Kind, device: Device) -> Unit {
    let c = cfg.hidden as f64;
    let deep = (2.0 * cfg.layers as f64 * c).sqrt().recip();
    let deviation = |name: &str| match name {
        n if n.ends_with("bias") => 0.0,
        n if n.ends_with("class_embedding") || n.contains("out_proj") => c.sqrt().recip(),
        n if n.contains("_embedding") => 0.02,
        n if n.contains("fc1") => (2.0 * c).sqrt().recip(),
        _ => deep,
    };
    let draw = |(name, shape): (String, Vec<i64>)| {
        let tensor = if name.contains("norm") && name.ends_with("weight") {
            Tensor::ones(&shape, (kind, device))
        } else {
            (Tensor::randn(&shape, (Kind::Float, device)) * deviation(&name)).to_kind(kind)
        };
        (name, tensor)
    };
    Unit::frozen("clip", slots(cfg, cfg.layers, true).into_iter().map(draw).collect())
}

/// What the whole tower says of pictures.
#[derive(Debug)]
pub struct Output {
    /// `[n, c]` the class row after the last norm.
    pub pooled: Tensor,
    /// `[n, p, c]` the patches as the last block leaves them.
    pub patches: Tensor,
}

/// Hidden state after `blocks` blocks, `[n, 1 + p, c]`, of pictures `[n, 3, s, s]` in the unit's kind.
pub fn hidden(unit: &Unit, cfg: &ClipConfig, images: &Tensor, blocks: i64) -> Tensor {
    let (n, c) = (images.size()[0], cfg.hidden);
    let patches = images.conv2d(
        unit.get("patch_embedding.weight"),
        None::<&Tensor>,
        [cfg.patch, cfg.patch],
        [0, 0],
        [1, 1],
        1,
    );
    let class = unit.get("class_embedding").expand([n, 1, c], false);
    let x = Tensor::cat(&[class, patches.flatten(2, 3).transpose(1, 2)], 1);
    let x = x + unit.get("position_embedding.weight");
    let mut x = norm(unit, cfg, "pre_layrnorm", &x);
    for block in 0..blocks {
        x = self::block(unit, cfg, &format!("encoder.layers.{block}"), &x, false);
    }
    x
}

/// LLaVA's features `[n, p, c]` (with the class row first, `[n, 1 + p, c]`, where `keep_class`) after `blocks` blocks.
pub fn features(unit: &Unit, cfg: &ClipConfig, images: &Tensor, blocks: i64, keep_class: bool) -> Tensor {
    let x = hidden(unit, cfg, images, blocks);
    if keep_class { x } else { x.narrow(1, 1, cfg.patches()) }
}

/// The whole tower over pictures `[n, 3, s, s]`.
pub fn forward(unit: &Unit, cfg: &ClipConfig, images: &Tensor) -> Output {
    let x = hidden(unit, cfg, images, cfg.layers);
    let pooled = norm(unit, cfg, "post_layernorm", &x.select(1, 0));
    Output { pooled, patches: x.narrow(1, 1, cfg.patches()) }
}

pub(crate) fn norm(unit: &Unit, cfg: &ClipConfig, name: &str, x: &Tensor) -> Tensor {
    let (w, b) = (unit.get(&format!("{name}.weight")), unit.get(&format!("{name}.bias")));
    x.layer_norm([cfg.hidden], Some(w), Some(b), cfg.eps, true)
}

/// One block over `x [n, 1 + p, c]`; `causal` for text towers, whose words see only what came before.
pub(crate) fn block(unit: &Unit, cfg: &ClipConfig, name: &str, x: &Tensor, causal: bool) -> Tensor {
    let size = x.size();
    let (n, t, c) = (size[0], size[1], cfg.hidden);
    let linear = |part: &str, x: &Tensor| {
        let (w, b) = (unit.get(&format!("{name}.{part}.weight")), unit.get(&format!("{name}.{part}.bias")));
        x.linear(w, Some(b))
    };
    let y = norm(unit, cfg, &format!("{name}.layer_norm1"), x);
    let heads = |part: &str| linear(part, &y).view([n, t, cfg.heads, c / cfg.heads]).transpose(1, 2);
    let (q, k, v) = (heads("self_attn.q_proj"), heads("self_attn.k_proj"), heads("self_attn.v_proj"));
    let a = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, causal, None, false);
    let x = x + linear("self_attn.out_proj", &a.transpose(1, 2).reshape([n, t, c]));
    let y = linear("mlp.fc1", &norm(unit, cfg, &format!("{name}.layer_norm2"), &x));
    let y = if cfg.gelu { y.gelu("none") } else { (&y * 1.702).sigmoid() * &y };
    x + linear("mlp.fc2", &y)
}
