//! The config of a CLIP vision tower, of today's files and of those of 2023.
//!
//! Which block's output is the feature is where readers differ. LLaVA takes the output of block 23 of 24 (its
//! `mm_vision_select_layer` -2), so the converters of 2023 stored 23 blocks, said `block_count` 23, and meant: run them
//! all. Today's store the full count and run one less. A `feature_layer` key, which Pumice writes, ends the doubt.

use pumice_kernels::Gelu;

use super::{epsilon, head_width, positive};
use crate::{
    Error, Result,
    gguf::File,
    names::{self, keys},
};

/// What CLIP subtracts from red, green and blue in 0–1 (openai/clip-vit-large-patch14); also where a file does not say.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// What CLIP then divides them by.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Longest side of a picture in pixels. A longer one is a damaged key; below it, products of sides cannot overflow.
const MAX_IMAGE_SIZE: usize = 1 << 14;
/// Red, green, blue.
pub(crate) const CHANNELS: usize = 3;

/// A vision tower's widths, counts and choices.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Side of the square picture, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels; divides `image_size`.
    pub patch_size: usize,
    /// Width of the residual stream, and of the features.
    pub hidden: usize,
    /// Width of the MLP.
    pub ff: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Blocks to run: the feature is the output of the last of them, or their input where it is 0. The file may hold more.
    pub blocks: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// The MLP's activation.
    pub activation: Gelu,
    /// Whether the class row is part of the feature (`cls_patch`); LLaVA drops it (`patch`, also where the file does not say).
    pub keep_class: bool,
    /// What is subtracted from red, green and blue in 0–1.
    pub mean: [f32; 3],
    /// What they are then divided by.
    pub std: [f32; 3],
    /// Whether the file swaps the names of the MLP's two matrices, as the converters of 2023 did.
    pub mlp_swapped: bool,
}

impl ClipConfig {
    /// Reads the tower's config.
    ///
    /// # Errors
    /// The keys contradict each other, or ask for something that Pumice does not compute.
    pub fn read(file: &File) -> Result<Self> {
        let (image_size, patch_size) = (positive(file, keys::IMAGE_SIZE)?, positive(file, keys::PATCH_SIZE)?);
        if !image_size.is_multiple_of(patch_size) {
            return Err(Error::key(
                file.path(),
                keys::PATCH_SIZE,
                format!(
                    "patches of {patch_size} do not divide pictures of {image_size}; the file was made wrongly"
                ),
            ));
        }
        if image_size > MAX_IMAGE_SIZE {
            return Err(Error::key(
                file.path(),
                keys::IMAGE_SIZE,
                format!(
                    "is {image_size} pixels, must be at most {MAX_IMAGE_SIZE}; the file was made wrongly"
                ),
            ));
        }
        let hidden = positive(file, keys::V_EMBEDDING_LENGTH)?;
        let heads = positive(file, keys::V_HEAD_COUNT)?;
        head_width(file, keys::V_EMBEDDING_LENGTH, hidden, keys::V_HEAD_COUNT, heads)?;
        let ff = positive(file, keys::V_FEED_FORWARD_LENGTH)?;
        let blocks = feature_layer(file)?;
        Ok(Self {
            image_size,
            patch_size,
            hidden,
            ff,
            heads,
            blocks,
            eps: epsilon(file, keys::V_NORM_EPS)?,
            activation: activation(file)?,
            keep_class: keep_class(file)?,
            mean: colour(file, keys::IMAGE_MEAN, |c| (0.0..=1.0).contains(&c))?.unwrap_or(CLIP_MEAN),
            std: colour(file, keys::IMAGE_STD, |c| c > 0.0 && c.is_finite())?.unwrap_or(CLIP_STD),
            mlp_swapped: mlp_swapped(file, hidden, ff),
        })
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Numbers in a patch: channels·patch·patch.
    pub fn patch_len(&self) -> usize {
        CHANNELS * self.patch_size * self.patch_size
    }

    /// Numbers in a picture, channel by channel: channels·image·image.
    pub fn pixels(&self) -> usize {
        CHANNELS * self.image_size * self.image_size
    }

    /// Rows of the feature.
    pub fn feature_rows(&self) -> usize {
        self.patches() + usize::from(self.keep_class)
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// How many blocks to run; see the file's first paragraph.
fn feature_layer(file: &File) -> Result<usize> {
    let count = positive(file, keys::V_BLOCK_COUNT)?;
    match file.integers(keys::FEATURE_LAYER)?.as_deref() {
        None | Some([]) if file.str(keys::TYPE)? == Some("mmproj") => Ok(count - 1),
        None | Some([]) => Ok(count),
        Some(&[layer]) => usize::try_from(layer).ok().filter(|&l| l <= count).ok_or_else(|| {
            Error::key(
                file.path(),
                keys::FEATURE_LAYER,
                format!(
                    "is {layer}, must be from 0 to {} {count}; the file was made wrongly",
                    keys::V_BLOCK_COUNT
                ),
            )
        }),
        Some(many) => Err(Error::key(
            file.path(),
            keys::FEATURE_LAYER,
            format!("asks for {many:?}; Pumice takes features of one layer, as LLaVA 1 and 1.5 do"),
        )),
    }
}

/// CLIP's own activation unless the file names another.
fn activation(file: &File) -> Result<Gelu> {
    if file.bool(keys::USE_SILU)?.unwrap_or(false) {
        return Err(Error::key(
            file.path(),
            keys::USE_SILU,
            "is true: a tower with SiLU, which Pumice does not run; LLaVA's CLIP has quick GELU",
        ));
    }
    Ok(if file.bool(keys::USE_GELU)?.unwrap_or(false) { Gelu::Erf } else { Gelu::Quick })
}

/// Whether the class row stays.
fn keep_class(file: &File) -> Result<bool> {
    match file.str(keys::SELECT_FEATURE)? {
        None | Some("patch") => Ok(false),
        Some("cls_patch") => Ok(true),
        Some(other) => Err(Error::key(
            file.path(),
            keys::SELECT_FEATURE,
            format!("is {other:?}, must be \"patch\" or \"cls_patch\""),
        )),
    }
}

/// Three numbers, of red, green and blue, each of which `makes_sense`.
fn colour(file: &File, key: &str, makes_sense: impl Fn(f32) -> bool) -> Result<Option<[f32; 3]>> {
    let Some(list) = file.floats(key)? else { return Ok(None) };
    match <[f32; 3]>::try_from(list.as_slice()) {
        Ok(rgb) if rgb.into_iter().all(makes_sense) => Ok(Some(rgb)),
        _ => Err(Error::key(
            file.path(),
            key,
            format!(
                "is {list:?}, must be three numbers, means from 0 to 1, deviations above 0; the file was made wrongly"
            ),
        )),
    }
}

/// Whether `ffn_down` is as wide as the residual stream, which only a matrix into the MLP is. Where stream and MLP are
/// equally wide the shapes do not tell, and the names are believed.
fn mlp_swapped(file: &File, hidden: usize, ff: usize) -> bool {
    let down = file.tensor(&names::v_blk(0, names::FFN_DOWN));
    hidden != ff && down.is_some_and(|t| t.cols() == hidden)
}
