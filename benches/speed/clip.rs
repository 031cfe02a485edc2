//! CLIP ViT-L/336 with one block, from pixels to features: the patches, the norm before, the block.

use criterion::Throughput;
use pumice_kernels::{Backend, Bytes, Cpu, DType, quant};
use pumice_models::{
    clip::Clip,
    gguf::{File, Header, Value, Writer},
    names::{self, keys},
};

use crate::{
    duel::{Bench, Item, Side},
    machine::{Machine, numbers},
    peer,
};

/// Weights and activations are rounded to 16 bits here or there, and in places the whole of attention: far below the 8-bit products' bound.
const DIFFER: f64 = 1e-4;
/// Width of the tower, and of its MLP.
const WIDTH: usize = 1024;
const FF: usize = 4096;
/// Side of a patch, pixels.
const PATCH: usize = 14;

/// One block, F16 weights.
pub fn block(bench: &mut Bench) {
    let machine = bench.machine;
    let side = if machine.timed { 336 } else { 56 };
    let file = std::cell::OnceCell::new();
    let file = || file.get_or_init(|| tower(side));
    let pixels = numbers(3 * side * side, 5);
    let rows = 1 + (side / PATCH).pow(2);
    let weights = (4 * WIDTH + 2 * FF) * WIDTH;
    let patches = (rows - 1) * 3 * PATCH * PATCH * WIDTH;
    bench.item(Item {
        name: "clip/block".into(),
        work: Throughput::Elements(2 * (rows * weights + patches + 2 * rows * rows * WIDTH) as u64),
        differ: DIFFER,
        ours: Box::new(|| Box::new(Tower::new(&machine, file(), &pixels))),
        theirs: Box::new(|| peer::clip_block(machine.threads, file(), &pixels)),
    });
}

/// A file with a tower of one block for pictures of side `side`.
fn tower(side: usize) -> File {
    let mut header = Header::new();
    let sizes = [
        (keys::IMAGE_SIZE, side),
        (keys::PATCH_SIZE, PATCH),
        (keys::V_EMBEDDING_LENGTH, WIDTH),
        (keys::V_FEED_FORWARD_LENGTH, FF),
        (keys::V_HEAD_COUNT, 16),
        (keys::V_BLOCK_COUNT, 1),
    ];
    for (key, value) in sizes {
        header.set(key, Value::U32(value as u32));
    }
    header.set(keys::V_NORM_EPS, Value::F32(1e-5));
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        (names::V_CLASS_EMBD.into(), vec![WIDTH]),
        (names::V_PATCH_EMBD.into(), vec![PATCH, PATCH, 3, WIDTH]),
        (names::V_POSITION_EMBD.into(), vec![WIDTH, 1 + (side / PATCH).pow(2)]),
        (names::V_PRE_LN.into(), vec![WIDTH]),
        (names::V_PRE_LN_BIAS.into(), vec![WIDTH]),
    ];
    for part in names::V_BLK_PARTS {
        let (k, m) = match part {
            names::FFN_UP => (WIDTH, FF),
            names::FFN_DOWN => (FF, WIDTH),
            _ => (WIDTH, WIDTH),
        };
        let norm = part == names::LN1 || part == names::LN2;
        tensors.push((names::v_blk(0, part), if norm { vec![m] } else { vec![k, m] }));
        tensors.push((names::v_blk_bias(0, part), vec![m]));
    }
    // Matrices that multiply are F16, as in every published tower; the table of positions is only added.
    let dtype = |name: &str, dims: &[usize]| match dims.len() {
        2.. if name != names::V_POSITION_EMBD => DType::F16,
        _ => DType::F32,
    };
    for (name, dims) in &tensors {
        header.tensor(name, dims, dtype(name, dims));
    }
    let mut writer = Writer::in_memory(header).expect("a sound header");
    for (seed, (name, dims)) in tensors.iter().enumerate() {
        // Rows keep the size of what they are given.
        let spread = if dims.len() > 1 {
            (3.0 * dims[dims.len() - 1] as f32 / dims.iter().product::<usize>() as f32).sqrt()
        } else {
            0.2
        };
        let centre = f32::from(u8::from(name.contains("ln") && name.ends_with("weight")));
        let mut values = numbers(dims.iter().product(), seed as u64);
        values.iter_mut().for_each(|v| *v = *v * spread + centre);
        let dtype = dtype(name, dims);
        let mut bytes = vec![0; dtype.row_bytes(values.len()).expect("plain numbers")];
        quant::quantize(dtype, values.len(), &values, &mut bytes, None);
        writer.write(name, &bytes).expect("memory takes all");
    }
    let bytes = writer.finish().expect("all tensors");
    File::from_bytes("tower.gguf", Bytes::new(bytes)).expect("a sound file")
}

/// Pumice's side.
struct Tower {
    cpu: Cpu,
    clip: Clip,
    pixels: Vec<f32>,
    features: Vec<f32>,
}

impl Tower {
    fn new(machine: &Machine, file: &File, pixels: &[f32]) -> Self {
        let mut cpu = machine.cpu();
        let clip = Clip::load(file, &mut cpu).expect("a sound tower");
        Self { cpu, clip, pixels: pixels.to_vec(), features: Vec::new() }
    }
}

impl Side for Tower {
    fn name(&self) -> String {
        self.cpu.name()
    }

    fn run(&mut self) {
        let features = self.clip.encode(&mut self.cpu, &self.pixels);
        self.features.resize(features.rows * features.cols, 0.0);
        self.cpu.read(&mut self.features, features).expect("the CPU is not lost");
    }

    fn result(&mut self) -> Vec<f32> {
        self.features.clone()
    }
}
