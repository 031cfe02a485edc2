//! The same tower in ggml: the ops that llama.cpp's vision graph has, on the file's own tensors.

use pumice_kernels::{Bytes, DType};
use pumice_models::{config::ClipConfig, gguf::File, names};

use super::{Ggml, Node, Session, floats, heads_of};
use crate::duel::Side;

/// Patches, norm and the one block of `file`'s tower, for `pixels` [3, size, size].
pub fn clip_block(threads: usize, file: &File, pixels: &[f32]) -> Vec<Box<dyn Side>> {
    let config = ClipConfig::read(file).expect("a sound tower");
    let mut tower = Tower { session: Session::new(threads), file, config };
    let out = tower.features(pixels);
    let mut session = tower.session;
    session.ready(&[out]);
    vec![Box::new(Ggml { session, out, how: ", flash attention" })]
}

struct Tower<'a> {
    session: Session,
    file: &'a File,
    config: ClipConfig,
}

impl Tower<'_> {
    /// Features of all rows but the class's, [p, hidden].
    fn features(&mut self, pixels: &[f32]) -> Node {
        let (size, hidden, patches) = (self.config.image_size, self.config.hidden, self.config.patches());
        let image = self.session.leaf(DType::F32, &[size, size, 3], floats(pixels));
        let kernel = self.tensor(names::V_PATCH_EMBD);
        let x = self.session.conv_2d(kernel, image, self.config.patch_size);
        let x = self.session.reshape(x, &[patches, hidden]);
        let x = self.session.transpose(x);
        let class = self.tensor(names::V_CLASS_EMBD);
        let x = self.session.concat_rows(class, x);
        let positions = self.tensor(names::V_POSITION_EMBD);
        let x = self.session.add(x, positions);
        let x = self.norm(x, names::V_PRE_LN, names::V_PRE_LN_BIAS);
        let x = self.block(x);
        self.session.rows_from(x, 1)
    }

    fn block(&mut self, x: Node) -> Node {
        let c = &self.config;
        let (n, heads, d) = (1 + c.patches(), c.heads, c.head_dim());
        let h = self.norm(x, &names::v_blk(0, names::LN1), &names::v_blk_bias(0, names::LN1));
        let qkv = [names::ATTN_Q, names::ATTN_K, names::ATTN_V].map(|part| self.layer(h, part));
        let h = heads_of(&mut self.session, (qkv[0], qkv[1], qkv[2]), None, (n, n, heads, d));
        let h = self.layer(h, names::ATTN_OUT);
        let x = self.session.add(h, x);
        let h = self.norm(x, &names::v_blk(0, names::LN2), &names::v_blk_bias(0, names::LN2));
        let h = self.layer(h, names::FFN_UP);
        let h = self.session.gelu_quick(h);
        let h = self.layer(h, names::FFN_DOWN);
        self.session.add(x, h)
    }

    /// w·x + b.
    fn layer(&mut self, x: Node, part: &str) -> Node {
        let (w, b) = (self.tensor(&names::v_blk(0, part)), self.tensor(&names::v_blk_bias(0, part)));
        let x = self.session.mul_mat(w, x);
        self.session.add(x, b)
    }

    fn norm(&mut self, x: Node, weight: &str, bias: &str) -> Node {
        let (weight, bias) = (self.tensor(weight), self.tensor(bias));
        let x = self.session.norm(x, self.config.eps);
        let x = self.session.mul(x, weight);
        self.session.add(x, bias)
    }

    /// The file's tensor `name`.
    fn tensor(&mut self, name: &str) -> Node {
        let t = self.file.need_tensor(name).expect("the bench wrote it");
        let dtype = t.dtype.expect("a type of ours");
        let bytes: Bytes = self.file.bytes(t);
        self.session.leaf(dtype, &t.dims, bytes)
    }
}
