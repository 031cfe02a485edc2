//! Recipes against llama.cpp's own: the table that `tests/golden/recipes.py` made with its `llama-quantize`.

use super::*;

const TABLE: &str = include_str!("../../tests/golden/recipes.tsv");

/// The models of the table: blocks, hidden, ff, heads, heads of keys, tied.
fn model(name: &str) -> (usize, usize, usize, usize, usize, bool) {
    match name {
        "plain" => (32, 256, 512, 4, 4, false),
        "shared-tied" => (20, 256, 512, 4, 1, true),
        "ragged" => (8, 96, 160, 2, 2, false),
        "odd" => (3, 40, 72, 1, 1, false),
        other => panic!("{other}"),
    }
}

#[test]
fn mixes_are_llama_cpps() {
    let mut checked = 0;
    for line in TABLE.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, file_type, part, types] = columns[..] else { panic!("{line}") };
        let (blocks, hidden, ff, heads, kv_heads, tied) = model(name);
        let facts = ModelFacts { blocks, heads, kv_heads, tied };
        let recipe = Recipe::new(file_type.parse().unwrap());
        let cols = if part == "ffn_down.weight" { ff } else { hidden };
        let dims: &[usize] = if part.contains("_norm") { &[hidden] } else { &[cols, 32] };
        let expected = types.split(' ').flat_map(|run| {
            let (dtype, count) = run.split_once('*').unwrap();
            std::iter::repeat_n(DType::from_name(dtype).unwrap(), count.parse().unwrap())
        });
        let of_block =
            matches!(part.split('.').next(), Some(p) if p.starts_with("attn_") || p.starts_with("ffn_"));
        for (block, expected) in expected.enumerate() {
            let tensor = if of_block { format!("blk.{block}.{part}") } else { part.to_owned() };
            let choice = recipe.choose(&tensor, dims, &facts).unwrap();
            assert_eq!(choice.dtype, expected, "{name} {file_type} {tensor}");
            checked += 1;
        }
    }
    assert_eq!(checked, 8092, "the table has lost lines");
}

#[test]
fn numbers_and_names_are_llama_cpps() {
    for (name, number) in [
        ("F32", 0),
        ("f16", 1),
        ("Q4_0", 2),
        ("Q8_0", 7),
        ("q4_k_m", 15),
        ("Q6_K", 18),
        ("IQ4_XS", 30),
        ("BF16", 32),
    ] {
        assert_eq!(name.parse::<FileType>().unwrap() as u32, number, "{name}");
    }
    assert_eq!("Q5_K".parse::<FileType>().unwrap(), FileType::Q5_K_M);
    let error = "Q2_K".parse::<FileType>().unwrap_err().to_string();
    assert!(error.contains("Q2_K") && error.contains("Q4_K_M"), "{error}");
    for file_type in FileType::ALL {
        assert_eq!(file_type.name().parse::<FileType>().unwrap(), file_type);
    }
}

const FACTS: ModelFacts = ModelFacts { blocks: 32, heads: 32, kv_heads: 32, tied: false };

#[test]
fn vision_has_its_own_type_and_small_tensors_stay_exact() {
    let mut recipe = Recipe::new(FileType::Q4_K_M);
    let of = |recipe: &Recipe, name: &str, dims: &[usize]| recipe.choose(name, dims, &FACTS).unwrap().dtype;
    assert_eq!(of(&recipe, "v.blk.0.ffn_up.weight", &[1024, 4096]), DType::F16);
    assert_eq!(of(&recipe, "mm.2.weight", &[4096, 4096]), DType::F16);
    recipe.vision_type = DType::Q8_0;
    assert_eq!(of(&recipe, "v.blk.0.ffn_up.weight", &[1024, 4096]), DType::Q8_0);
    assert_eq!(of(&recipe, "mm.0.weight", &[1024, 4096]), DType::Q8_0);
    assert_eq!(of(&recipe, "v.patch_embd.weight", &[14, 14, 3, 1024]), DType::F16);
    for (name, dims) in [
        ("v.position_embd.weight", &[1024, 577][..]),
        ("v.class_embd", &[1024]),
        ("v.blk.0.ln1.weight", &[1024]),
        ("v.blk.0.attn_q.bias", &[1024]),
        ("blk.0.attn_norm.weight", &[4096]),
        ("rope_freqs.weight", &[64]),
    ] {
        assert_eq!(of(&recipe, name, dims), DType::F32, "{name}");
    }
    recipe.vision_type = DType::F32;
    assert_eq!(of(&recipe, "v.patch_embd.weight", &[14, 14, 3, 1024]), DType::F32);
}

#[test]
fn pure_means_one_type() {
    let recipe = Recipe { pure: true, ..Recipe::new(FileType::Q4_K_M) };
    for name in ["output.weight", "token_embd.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"] {
        assert_eq!(recipe.choose(name, &[4096, 32000], &FACTS).unwrap().dtype, DType::Q4_K, "{name}");
    }
}

#[test]
fn the_first_pattern_that_matches_decides() {
    let mut recipe = Recipe::new(FileType::Q4_0);
    recipe.overrides = vec![r"blk\.(0|1)\..*down=F16".parse().unwrap(), "ffn_down=q6_k".parse().unwrap()];
    let of = |name: &str| recipe.choose(name, &[4096, 4096], &FACTS).unwrap();
    assert_eq!(
        (of("blk.1.ffn_down.weight").dtype, of("blk.1.ffn_down.weight").by_override),
        (DType::F16, Some(0))
    );
    assert_eq!(
        (of("blk.2.ffn_down.weight").dtype, of("blk.2.ffn_down.weight").by_override),
        (DType::Q6_K, Some(1))
    );
    assert_eq!(of("blk.2.ffn_up.weight").by_override, None);
    let error = recipe.choose("blk.2.ffn_down.weight", &[96, 4], &FACTS).unwrap_err();
    assert!(matches!(error, Error::Ragged { cols: 96, dtype: DType::Q6_K, .. }));
    for bad in ["ffn_down", "ffn_down=Q9", "(=F16", "x=I32"] {
        assert!(matches!(bad.parse::<Override>(), Err(Error::Pattern { .. })), "{bad}");
    }
}
