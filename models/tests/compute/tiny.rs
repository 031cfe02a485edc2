//! Tiny random models as GGUF files in memory.
//!
//! Matrices are drawn with a spread of 1.6/√k and norms from 0.6–1.4, so that activations stay near 1 through the
//! blocks and every weight matters to the result.

use half::f16;
use pumice_kernels::{Bytes, DType, quant};
use pumice_models::{
    gguf::{File, Header, Value, Writer},
    names::{self, keys},
};

/// Numbers from a seed (SplitMix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// From 0 up to 1.
    pub fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    }

    /// `n` numbers of mean 0 and standard deviation `spread`, near enough to normal.
    pub fn normal(&mut self, n: usize, spread: f32) -> Vec<f32> {
        (0..n).map(|_| ((0..12).map(|_| self.uniform()).sum::<f32>() - 6.0) * spread).collect()
    }

    /// `n` numbers from 0.6 to 1.4.
    pub fn norm(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| 0.6 + 0.8 * self.uniform()).collect()
    }
}

/// A tensor to be.
#[derive(Clone)]
pub struct Weight {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<usize>,
    pub data: Vec<f32>,
    pub dtype: DType,
}

/// A file to be.
#[derive(Clone, Default)]
pub struct Model {
    pub keys: Vec<(String, Value)>,
    pub weights: Vec<Weight>,
}

impl Model {
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.unset(key);
        self.keys.push((key.into(), value.into()));
        self
    }

    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(k, _)| k != key);
        self
    }

    pub fn add(&mut self, name: &str, dims: &[usize], data: Vec<f32>) -> &mut Self {
        assert_eq!(dims.iter().product::<usize>(), data.len());
        self.weights.push(Weight { name: name.into(), dims: dims.into(), data, dtype: DType::F32 });
        self
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.weights.retain(|w| w.name != name);
        self
    }

    pub fn rename(&mut self, from: &str, to: &str) -> &mut Self {
        self.weight_mut(from).name = to.into();
        self
    }

    /// Stores tensor `name` as `dtype`, which rounds it.
    pub fn store(&mut self, name: &str, dtype: DType) -> &mut Self {
        let w = self.weight_mut(name);
        w.dtype = dtype;
        let bytes = w.bytes();
        quant::dequantize(dtype, &bytes, &mut w.data);
        self
    }

    pub fn find(&self, name: &str) -> Option<&Weight> {
        self.weights.iter().find(|w| w.name == name)
    }

    pub fn weight(&self, name: &str) -> &Weight {
        self.find(name).unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn weight_mut(&mut self, name: &str) -> &mut Weight {
        self.weights.iter_mut().find(|w| w.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The file, opened.
    pub fn file(&self, name: &str) -> File {
        let mut header = Header::new();
        for (key, value) in &self.keys {
            header.set(key, value.clone());
        }
        for w in &self.weights {
            header.tensor(&w.name, &w.dims, w.dtype);
        }
        let mut writer = Writer::in_memory(header).unwrap();
        for w in &self.weights {
            writer.write(&w.name, &w.bytes()).unwrap();
        }
        File::from_bytes(name, Bytes::new(writer.finish().unwrap())).unwrap()
    }
}

impl Weight {
    fn bytes(&self) -> Vec<u8> {
        match self.dtype {
            DType::F32 => self.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::F16 => self.data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            other => panic!("{other}: no test needs it"),
        }
    }
}

/// A text model's shape.
#[derive(Clone, Copy)]
pub struct Text {
    pub vocab: usize,
    pub hidden: usize,
    pub ff: usize,
    pub blocks: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub seed: u64,
}

impl Default for Text {
    fn default() -> Self {
        Self { vocab: 40, hidden: 32, ff: 48, blocks: 3, heads: 4, kv_heads: 4, head_dim: 8, seed: 1 }
    }
}

impl Text {
    pub fn model(&self) -> Model {
        let mut r = Random(self.seed);
        let mut m = Model::default();
        m.set(keys::ARCHITECTURE, "llama")
            .set(keys::BLOCK_COUNT, self.blocks as u32)
            .set(keys::CONTEXT_LENGTH, 64u32)
            .set(keys::EMBEDDING_LENGTH, self.hidden as u32)
            .set(keys::FEED_FORWARD_LENGTH, self.ff as u32)
            .set(keys::HEAD_COUNT, self.heads as u32)
            .set(keys::HEAD_COUNT_KV, self.kv_heads as u32)
            .set(keys::RMS_EPS, 1e-5f32)
            .set(keys::ROPE_DIMS, self.head_dim as u32);
        if self.head_dim * self.heads != self.hidden {
            m.set(keys::KEY_LENGTH, self.head_dim as u32).set(keys::VALUE_LENGTH, self.head_dim as u32);
        }
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        m.add(names::TOKEN_EMBD, &[self.hidden, self.vocab], r.normal(self.hidden * self.vocab, 1.0));
        for i in 0..self.blocks {
            for (part, out, input) in [
                (names::ATTN_Q, q, self.hidden),
                (names::ATTN_K, kv, self.hidden),
                (names::ATTN_V, kv, self.hidden),
                (names::ATTN_OUTPUT, self.hidden, q),
                (names::FFN_GATE, self.ff, self.hidden),
                (names::FFN_UP, self.ff, self.hidden),
                (names::FFN_DOWN, self.hidden, self.ff),
            ] {
                m.add(&names::blk(i, part), &[input, out], matrix(&mut r, out, input));
            }
            for part in [names::ATTN_NORM, names::FFN_NORM] {
                m.add(&names::blk(i, part), &[self.hidden], r.norm(self.hidden));
            }
        }
        m.add(names::OUTPUT_NORM, &[self.hidden], r.norm(self.hidden));
        m.add(names::OUTPUT, &[self.hidden, self.vocab], matrix(&mut r, self.vocab, self.hidden));
        m
    }
}

/// A vision half's shape.
#[derive(Clone, Copy)]
pub struct Sight {
    pub image: usize,
    pub patch: usize,
    pub hidden: usize,
    pub ff: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Layers of the projector.
    pub layers: usize,
    pub width_out: usize,
    pub seed: u64,
}

impl Default for Sight {
    fn default() -> Self {
        Self {
            image: 12,
            patch: 4,
            hidden: 16,
            ff: 24,
            blocks: 3,
            heads: 2,
            layers: 2,
            width_out: 32,
            seed: 7,
        }
    }
}

impl Sight {
    /// A mmproj as Pumice writes it: all blocks stored are run, and a key says so.
    pub fn model(&self) -> Model {
        let mut r = Random(self.seed);
        let mut m = Model::default();
        m.set(keys::ARCHITECTURE, "clip")
            .set(keys::TYPE, "mmproj")
            .set(keys::HAS_VISION, true)
            .set(keys::CLIP_PROJECTOR_TYPE, "mlp")
            .set(keys::IMAGE_SIZE, self.image as u32)
            .set(keys::PATCH_SIZE, self.patch as u32)
            .set(keys::V_EMBEDDING_LENGTH, self.hidden as u32)
            .set(keys::V_FEED_FORWARD_LENGTH, self.ff as u32)
            .set(keys::V_BLOCK_COUNT, self.blocks as u32)
            .set(keys::V_HEAD_COUNT, self.heads as u32)
            .set(keys::V_NORM_EPS, 1e-5f32)
            .set(keys::FEATURE_LAYER, vec![self.blocks as i32])
            .set(keys::USE_GELU, false);
        let (h, p) = (self.hidden, self.patch);
        let positions = 1 + (self.image / p).pow(2);
        m.add(names::V_CLASS_EMBD, &[h], r.normal(h, 1.0));
        m.add(names::V_PATCH_EMBD, &[p, p, 3, h], matrix(&mut r, h, 3 * p * p));
        m.add(names::V_POSITION_EMBD, &[h, positions], r.normal(h * positions, 1.0));
        norm(&mut m, &mut r, (names::V_PRE_LN, names::V_PRE_LN_BIAS), h);
        for i in 0..self.blocks {
            let name = |part| (names::v_blk(i, part), names::v_blk_bias(i, part));
            for part in [names::ATTN_Q, names::ATTN_K, names::ATTN_V, names::ATTN_OUT] {
                layer(&mut m, &mut r, name(part), h, h);
            }
            layer(&mut m, &mut r, name(names::FFN_UP), self.ff, h);
            layer(&mut m, &mut r, name(names::FFN_DOWN), h, self.ff);
            for part in [names::LN1, names::LN2] {
                let (weight, bias) = name(part);
                norm(&mut m, &mut r, (&weight, &bias), h);
            }
        }
        for i in 0..self.layers {
            let input = if i == 0 { h } else { self.width_out };
            layer(&mut m, &mut r, (names::mm(2 * i), names::mm_bias(2 * i)), self.width_out, input);
        }
        m
    }

    /// Pixels of a picture, about normalised.
    pub fn picture(&self) -> Vec<f32> {
        Random(self.seed + 100).normal(3 * self.image * self.image, 1.0)
    }
}

fn matrix(r: &mut Random, out: usize, input: usize) -> Vec<f32> {
    r.normal(out * input, 1.6 / (input as f32).sqrt())
}

fn layer(m: &mut Model, r: &mut Random, (weight, bias): (String, String), out: usize, input: usize) {
    m.add(&weight, &[input, out], matrix(r, out, input));
    m.add(&bias, &[out], r.normal(out, 0.5));
}

fn norm(m: &mut Model, r: &mut Random, (weight, bias): (&str, &str), width: usize) {
    m.add(weight, &[width], r.norm(width));
    m.add(bias, &[width], r.normal(width, 0.2));
}
