//! Blocks of LLaMA, token by token: fused as step by step, in few dispatches, and as the CPU computes them.

use super::*;

const HIDDEN: usize = 512;
const FF: usize = 768;
const HEADS: usize = 8;
const KV: usize = 4;
const D: usize = HIDDEN / HEADS;

/// How many blocks there are and what their caches hold before the first batch: zeros.
#[derive(Clone, Copy)]
struct Past {
    layers: usize,
    positions: usize,
}

struct Block {
    norms: [Tensor; 2],
    /// q, k, v, o, gate, up, down.
    weights: [Tensor; 7],
    cache: [Tensor; 2],
}

/// Blocks with weights of `types` (q, k, v, o, gate, up, down), caches of `ctx` positions.
fn blocks(b: &mut dyn Backend, layers: usize, types: [DType; 7], cache: DType, ctx: usize) -> Vec<Block> {
    let make = |b: &mut dyn Backend, i: usize| {
        b.layer(Some(i));
        let shapes = [
            (HIDDEN, HIDDEN),
            (KV * D, HIDDEN),
            (KV * D, HIDDEN),
            (HIDDEN, HIDDEN),
            (FF, HIDDEN),
            (FF, HIDDEN),
            (HIDDEN, FF),
        ];
        let mut seed = 10 * i as u64;
        let weights = std::array::from_fn(|j| {
            let (m, k) = shapes[j];
            seed += 1;
            let data: Vec<_> = random(seed, m * k).iter().map(|x| 1.6 * x / (k as f32).sqrt()).collect();
            load(b, types[j], m, k, &data)
        });
        let norms = [1, 2].map(|j| {
            let data: Vec<_> = random(seed + j, HIDDEN).iter().map(|x| 1.0 + 0.2 * x).collect();
            load(b, DType::F32, 1, HIDDEN, &data)
        });
        let cache = [0, 1].map(|_| b.alloc(ctx, KV * D, cache).unwrap());
        Block { norms, weights, cache }
    };
    (0..layers).map(|i| make(b, i)).collect()
}

/// Passes `batches` of rows through the blocks, and gives the stream after each.
fn pass(b: &mut dyn Backend, past: Past, types: [DType; 7], cache: DType, batches: &[usize]) -> Vec<f32> {
    let ctx = past.positions + batches.iter().sum::<usize>();
    let blocks = blocks(b, past.layers, types, cache, ctx);
    b.layer(None);
    let most = batches.iter().copied().max().unwrap_or(1);
    let mut alloc = |cols| b.alloc(most, cols, DType::F32).unwrap();
    let (x, h, q, k, v) = (alloc(HIDDEN), alloc(HIDDEN), alloc(HIDDEN), alloc(KV * D), alloc(KV * D));
    let (attn, gate, up) = (alloc(HIDDEN), alloc(FF), alloc(FF));
    let positions = b.alloc(most, 1, DType::I32).unwrap();
    let freqs: Vec<f32> = (0..D / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / D as f32)).collect();
    let freqs = put(b, 1, D / 2, &freqs);
    let (mut out, mut pos) = (Vec::new(), past.positions);
    for &n in batches {
        let [x, h, q, k, v, attn, gate, up, positions] =
            [x, h, q, k, v, attn, gate, up, positions].map(|t| t.rows(0, n));
        b.write(x, bytemuck::cast_slice(&random(1000 + pos as u64, n * HIDDEN)));
        let at: Vec<i32> = (pos..pos + n).map(|p| p as i32).collect();
        b.write(positions, bytemuck::cast_slice(&at));
        for block in &blocks {
            let [wq, wk, wv, wo, wgate, wup, wdown] = block.weights;
            b.rms_norm(h, x, block.norms[0], 1e-5);
            b.matmul(k, h, wk, None);
            b.matmul(v, h, wv, None);
            b.rope(k, positions, freqs, D);
            b.copy(block.cache[0].rows(pos, n), k);
            b.copy(block.cache[1].rows(pos, n), v);
            b.matmul(q, h, wq, None);
            b.rope(q, positions, freqs, D);
            let [keys, values] = block.cache.map(|c| c.rows(0, pos + n));
            b.attention(attn, q, keys, values, Some(positions), D);
            b.matmul(h, attn, wo, None);
            b.add(x, h);
            b.rms_norm(h, x, block.norms[1], 1e-5);
            b.matmul(gate, h, wgate, None);
            b.matmul(up, h, wup, None);
            b.swiglu(gate, up);
            b.matmul(h, gate, wdown, None);
            b.add(x, h);
        }
        out.extend(get(b, x));
        pos += n;
    }
    out
}

/// All of one type but V and the down projection, as in `Q4_K_M`.
fn mixed(most: DType, some: DType) -> [DType; 7] {
    [most, most, some, most, most, most, some]
}

/// Fused and not, on a device that has all and, with `old`, on lesser ones.
fn agree_fused(types: [DType; 7], cache: DType, old: bool) {
    let (batches, past) = ([5, 1, 1, 2], Past { layers: 3, positions: 0 });
    let cpu =
        pass(&mut Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) }), past, types, cache, &batches);
    let step_by_step = Allow { fusing: false, ..Allow::default() };
    let all = allowances();
    let all = if old { &all[..] } else { &all[..1] };
    for (name, allow) in all.iter().cloned().chain([("no fusing", step_by_step)]) {
        let Some(mut gpu) = gpu(allow) else { return };
        let error = nmse(&pass(&mut gpu, past, types, cache, &batches), &cpu);
        // A code of 8 bits that rounds the other way moves what comes after it.
        assert!(error < 5e-4, "{types:?}, cache {cache}, with {name}: {error:.1e}");
    }
}

#[test]
fn blocks_of_q4_k_m_agree() {
    agree_fused(mixed(DType::Q4_K, DType::Q6_K), DType::F16, true);
}

#[test]
fn blocks_of_q4_0_agree() {
    agree_fused(mixed(DType::Q4_0, DType::Q4_0), DType::F16, false);
}

#[test]
fn blocks_of_q8_0_with_such_a_cache_agree() {
    agree_fused(mixed(DType::Q8_0, DType::Q8_0), DType::Q8_0, false);
}

#[test]
fn blocks_of_floats_agree() {
    agree_fused(mixed(DType::F16, DType::F32), DType::F32, false);
}

#[test]
fn a_block_takes_seven_dispatches_at_most() {
    let count = |layers, types| {
        let mut b = gpu(Allow::default())?;
        // So many that the keys are divided.
        pass(&mut b, Past { layers, positions: 2000 }, types, DType::F16, &[1]);
        Some(b.dispatches())
    };
    for (types, most) in [(mixed(DType::Q4_K, DType::Q6_K), 7), (mixed(DType::Q4_K, DType::Q4_K), 6)] {
        let (Some(three), Some(four)) = (count(3, types), count(4, types)) else { return };
        assert_eq!(four - three, most, "dispatches of a block of {types:?}");
    }
}

/// Writes, all ops and the read of a token are one submission, and so are as many ops as blocks of a 13B model have.
#[test]
fn a_token_is_one_submission() {
    let Some(mut b) = gpu(Allow::default()) else { return };
    pass(
        &mut b,
        Past { layers: 3, positions: 0 },
        mixed(DType::Q4_K, DType::Q6_K),
        DType::F16,
        &[1, 1, 1, 1],
    );
    assert_eq!(b.submissions(), 4);
    let (x, y) = (put(&mut b, 1, 64, &random(1, 64)), put(&mut b, 1, 64, &random(2, 64)));
    let before = b.submissions();
    (0..40 * 17).for_each(|_| b.add(x, y));
    get(&mut b, x);
    assert_eq!(b.submissions() - before, 1);
}
