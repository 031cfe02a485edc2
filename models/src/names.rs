//! The names of tensors and metadata keys in GGUF files, in one place.
//!
//! They are llama.cpp's (`llama-arch.cpp`, `clip-impl.h`), so that its files load here and ours load there. Readers and
//! the quantizer both spell them through this file, so a name cannot be written one way and looked up another.
//! Dimensions beside a name are a matrix's [rows, columns]; the file stores them columns first.

/// The token embeddings, [vocab, hidden].
pub const TOKEN_EMBD: &str = "token_embd.weight";
/// The last norm before the logits, [1, hidden].
pub const OUTPUT_NORM: &str = "output_norm.weight";
/// The matrix that makes logits, [vocab, hidden]; absent where it is tied to [`TOKEN_EMBD`].
pub const OUTPUT: &str = "output.weight";
/// Llama 3's divisors of the rotary frequencies, [head_dim/2] F32; absent in most models.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// A weight of LLaMA's block `block`: `blk(3, ATTN_Q)` is `blk.3.attn_q.weight`.
pub fn blk(block: usize, part: &str) -> String {
    format!("blk.{block}.{part}.weight")
}

/// A bias of LLaMA's block `block`; only a few models of the architecture have any.
pub fn blk_bias(block: usize, part: &str) -> String {
    format!("blk.{block}.{part}.bias")
}

/// Part of a LLaMA block: the norm before attention, [1, hidden].
pub const ATTN_NORM: &str = "attn_norm";
/// Part of a LLaMA or CLIP block: queries, [heads·head_dim, hidden].
pub const ATTN_Q: &str = "attn_q";
/// Part of a LLaMA or CLIP block: keys, [kv_heads·head_dim, hidden].
pub const ATTN_K: &str = "attn_k";
/// Part of a LLaMA or CLIP block: values, [kv_heads·head_dim, hidden].
pub const ATTN_V: &str = "attn_v";
/// Part of a LLaMA block: what attention gives back to the residual stream, [hidden, heads·head_dim].
pub const ATTN_OUTPUT: &str = "attn_output";
/// Part of a LLaMA block: the norm before the MLP, [1, hidden].
pub const FFN_NORM: &str = "ffn_norm";
/// Part of a LLaMA block: the gate, [ff, hidden].
pub const FFN_GATE: &str = "ffn_gate";
/// Part of a LLaMA or CLIP block: into the MLP (CLIP's fc1), [ff, hidden].
pub const FFN_UP: &str = "ffn_up";
/// Part of a LLaMA or CLIP block: out of the MLP (CLIP's fc2), [hidden, ff].
pub const FFN_DOWN: &str = "ffn_down";

/// All weights of a LLaMA block, in the order in which llama.cpp's converter writes them.
pub const BLK_PARTS: [&str; 9] =
    [ATTN_NORM, ATTN_Q, ATTN_K, ATTN_V, ATTN_OUTPUT, FFN_NORM, FFN_GATE, FFN_UP, FFN_DOWN];

/// CLIP's class embedding, [1, hidden]. It has no suffix in llama.cpp's files.
pub const V_CLASS_EMBD: &str = "v.class_embd";
/// CLIP's patch convolution without bias, [hidden, channels·patch·patch]; four dimensions in the file.
pub const V_PATCH_EMBD: &str = "v.patch_embd.weight";
/// A bias of the patch convolution; CLIP has none, other towers do.
pub const V_PATCH_EMBD_BIAS: &str = "v.patch_embd.bias";
/// CLIP's learned positions, class first, [1 + patches, hidden].
pub const V_POSITION_EMBD: &str = "v.position_embd.weight";
/// The norm before CLIP's first block (Hugging Face: `pre_layrnorm`), [1, hidden].
pub const V_PRE_LN: &str = "v.pre_ln.weight";
/// Its bias, [1, hidden].
pub const V_PRE_LN_BIAS: &str = "v.pre_ln.bias";
/// The norm of CLIP's pooled output. LLaVA never applies it and it must not be written; where a file has it, it is ignored.
pub const V_POST_LN: &str = "v.post_ln.weight";

/// A weight of CLIP's block `block`: `v_blk(3, LN1)` is `v.blk.3.ln1.weight`.
pub fn v_blk(block: usize, part: &str) -> String {
    format!("v.blk.{block}.{part}.weight")
}

/// A bias of CLIP's block `block`.
pub fn v_blk_bias(block: usize, part: &str) -> String {
    format!("v.blk.{block}.{part}.bias")
}

/// Part of a CLIP block: what attention gives back to the residual stream, [hidden, hidden].
pub const ATTN_OUT: &str = "attn_out";
/// Part of a CLIP block: the norm before attention, [1, hidden].
pub const LN1: &str = "ln1";
/// Part of a CLIP block: the norm before the MLP, [1, hidden].
pub const LN2: &str = "ln2";

/// All parts of a CLIP block; each has a weight and a bias.
pub const V_BLK_PARTS: [&str; 8] = [ATTN_Q, ATTN_K, ATTN_V, ATTN_OUT, LN1, LN2, FFN_UP, FFN_DOWN];

/// Weight of the projector's layer at place `index` of the Python `Sequential`: 0, 2, 4 …, since GELUs take the odd places.
pub fn mm(index: usize) -> String {
    format!("mm.{index}.weight")
}

/// Its bias, [1, width out].
pub fn mm_bias(index: usize) -> String {
    format!("mm.{index}.bias")
}

/// The linear projector's weight as the converters of 2023 wrote it.
pub const MM_LINEAR: &str = "mm.weight";
/// Its bias.
pub const MM_LINEAR_BIAS: &str = "mm.bias";

/// Metadata keys.
pub mod keys {
    /// Text: "llama", or "clip" in the mmproj of a pair.
    pub const ARCHITECTURE: &str = "general.architecture";
    /// Text: "model", or "mmproj" in the vision files of today's converters.
    pub const TYPE: &str = "general.type";
    /// Text: a name for people.
    pub const NAME: &str = "general.name";
    /// u32: llama.cpp's number of the recipe (15 is Q4_K_M).
    pub const FILE_TYPE: &str = "general.file_type";
    /// u32: 2 wherever a tensor is quantized.
    pub const QUANTIZATION_VERSION: &str = "general.quantization_version";

    /// u32: blocks.
    pub const BLOCK_COUNT: &str = "llama.block_count";
    /// u32: positions that the model was trained for.
    pub const CONTEXT_LENGTH: &str = "llama.context_length";
    /// u32: width of the residual stream.
    pub const EMBEDDING_LENGTH: &str = "llama.embedding_length";
    /// u32: width of the MLP.
    pub const FEED_FORWARD_LENGTH: &str = "llama.feed_forward_length";
    /// u32: rows of the embedding table.
    pub const VOCAB_SIZE: &str = "llama.vocab_size";
    /// u32: query heads.
    pub const HEAD_COUNT: &str = "llama.attention.head_count";
    /// u32: key and value heads; as many as query heads where absent.
    pub const HEAD_COUNT_KV: &str = "llama.attention.head_count_kv";
    /// u32: width of a key head; hidden/heads where absent.
    pub const KEY_LENGTH: &str = "llama.attention.key_length";
    /// u32: width of a value head; hidden/heads where absent.
    pub const VALUE_LENGTH: &str = "llama.attention.value_length";
    /// f32: epsilon of the norms.
    pub const RMS_EPS: &str = "llama.attention.layer_norm_rms_epsilon";
    /// u32: elements of a head that rotate; all where absent.
    pub const ROPE_DIMS: &str = "llama.rope.dimension_count";
    /// f32: base of the rotary frequencies; 10000 where absent.
    pub const ROPE_BASE: &str = "llama.rope.freq_base";
    /// Text: "none" or "linear"; other scalings are refused.
    pub const ROPE_SCALING_TYPE: &str = "llama.rope.scaling.type";
    /// f32: how far linear scaling stretches positions.
    pub const ROPE_SCALING_FACTOR: &str = "llama.rope.scaling.factor";
    /// f32: the same in files of 2023.
    pub const ROPE_SCALE_LINEAR: &str = "llama.rope.scale_linear";
    /// u32: experts of a mixture, which Pumice does not run.
    pub const EXPERT_COUNT: &str = "llama.expert_count";
    /// Texts: the vocabulary's pieces.
    pub const TOKENS: &str = "tokenizer.ggml.tokens";

    /// bool: whether the file has a vision tower.
    pub const HAS_VISION: &str = "clip.has_vision_encoder";
    /// bool: written by the converters of 2023.
    pub const HAS_LLAVA_PROJECTOR: &str = "clip.has_llava_projector";
    /// Text: "mlp" for LLaVA; absent in files of 2023.
    pub const CLIP_PROJECTOR_TYPE: &str = "clip.projector_type";
    /// Text: the same where a file holds towers of several kinds.
    pub const CLIP_VISION_PROJECTOR_TYPE: &str = "clip.vision.projector_type";
    /// bool: GELU in the tower's MLP; with neither this nor [`USE_SILU`], CLIP's quick GELU.
    pub const USE_GELU: &str = "clip.use_gelu";
    /// bool: SiLU in the tower's MLP.
    pub const USE_SILU: &str = "clip.use_silu";
    /// u32: pixels of the square picture's side.
    pub const IMAGE_SIZE: &str = "clip.vision.image_size";
    /// u32: pixels of a patch's side.
    pub const PATCH_SIZE: &str = "clip.vision.patch_size";
    /// u32: width of the tower's residual stream.
    pub const V_EMBEDDING_LENGTH: &str = "clip.vision.embedding_length";
    /// u32: width of the tower's MLP.
    pub const V_FEED_FORWARD_LENGTH: &str = "clip.vision.feed_forward_length";
    /// u32: what the projection is wide; CLIP's own in old files, the text's in today's. Passed on, never computed with.
    pub const V_PROJECTION_DIM: &str = "clip.vision.projection_dim";
    /// u32: blocks; `config::ClipConfig` says which of them run.
    pub const V_BLOCK_COUNT: &str = "clip.vision.block_count";
    /// u32: heads of the tower.
    pub const V_HEAD_COUNT: &str = "clip.vision.attention.head_count";
    /// f32: epsilon of the tower's norms.
    pub const V_NORM_EPS: &str = "clip.vision.attention.layer_norm_epsilon";
    /// 3 f32: what is subtracted from red, green, blue in 0–1.
    pub const IMAGE_MEAN: &str = "clip.vision.image_mean";
    /// 3 f32: what they are then divided by.
    pub const IMAGE_STD: &str = "clip.vision.image_std";
    /// i32s: the blocks whose output is the feature, 1 the first block's; 0 is the input of the first block.
    pub const FEATURE_LAYER: &str = "clip.vision.feature_layer";

    /// Text: "linear", "mlp2x_gelu", "mlp3x_gelu" …, "identity".
    pub const PROJECTOR_TYPE: &str = "pumice.projector_type";
    /// Text: "patch" (without the class row) or "cls_patch".
    pub const SELECT_FEATURE: &str = "pumice.vision.select_feature";
    /// Text: "pad" or "square".
    pub const IMAGE_ASPECT_RATIO: &str = "pumice.image_aspect_ratio";
    /// Text: the conversation template's name.
    pub const TEMPLATE: &str = "pumice.template";
    /// bool: whether `<im_start>` and `<im_end>` stand around a picture.
    pub const USE_IM_START_END: &str = "pumice.use_im_start_end";
}
