//! Every shader in every combination: naga reads it, finds it valid, and can tell it to Vulkan, Metal and DirectX 12.

use naga::{
    back::{self, pipeline_constants::process_overrides},
    valid::{Capabilities, ValidationFlags, Validator},
};

use super::*;
use crate::gpu::product::few;

/// All that shaders may ask of a device beside wgpu's own: what `unpack2x16float`, subgroups and matrix units need.
fn capabilities(main: Main, subgroups: bool) -> Capabilities {
    let mut all = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    all.set(Capabilities::SUBGROUP, subgroups);
    all.set(Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16, cooperative(main));
    all
}

/// Whether it multiplies matrices in one step, which takes subgroups, and Vulkan or Metal.
fn cooperative(main: Main) -> bool {
    matches!(main, Main::TileCoop8 | Main::TileCoop16)
}

/// Those of attention: heads of widths that are eights and not, caches of all types.
fn attention(more: &[(&'static str, u32)]) -> Vec<Vec<(&'static str, u32)>> {
    let kinds = [(64, 0, 0, 0), (20, 1, 1, 1), (128, 1, 1, 0), (256, 2, 1, 1), (3, 0, 1, 0)];
    let own = kinds.map(|(head, cache, causal, partial)| {
        vec![("HEAD", head), ("CACHE", cache), ("CAUSAL", causal), ("PARTIAL", partial)]
    });
    own.into_iter().map(|own| own.into_iter().chain(more.iter().copied()).collect()).collect()
}

fn formats(decoder: Decoder) -> Vec<Option<DType>> {
    let all = DType::ALL.into_iter().map(Some).chain([None]);
    all.filter(|format| decoder.takes(*format)).collect()
}

/// The override constants that a kernel is used with.
fn constants(main: Main) -> Vec<Vec<(&'static str, u32)>> {
    match main {
        Main::Gelu => (0..3).map(|kind| vec![("KIND", kind)]).collect(),
        Main::Convert => vec![vec![], vec![("TO_F16", 1)]],
        Main::Quantize => vec![vec![], vec![("NORM", 1)]],
        Main::Decode => {
            let few = (1..=4).flat_map(|n| {
                [
                    vec![("N", n), ("GROUPS", 128 * n)],
                    vec![("N", n), ("BOTH", 1), ("GROUPS", 128 * n), ("NORM", 1)],
                    vec![("N", n), ("PLANES", 1)],
                    vec![("N", n), ("BOTH", 1), ("PLANES", 1), ("PAIRS", 2)],
                ]
            });
            few.collect()
        }
        Main::DecodeFloat => (1..=4)
            .flat_map(|n| [vec![("N", n)], vec![("N", n), ("BOTH", 1), ("NORM", 1), ("PAIRS", 2)]])
            .collect(),
        Main::Tile | Main::TileFloat => {
            [1, 2, 4].map(|cols| vec![("COLS", cols), ("BIAS", 1), ("ADD", cols / 4)]).to_vec()
        }
        Main::Halve => vec![vec![], vec![("NORM", 1)]],
        Main::TileCoop8 | Main::TileCoop16 => [(32, 0), (128, 1), (256, 0)]
            .map(|(lanes, add)| vec![("LANES", lanes), ("BIAS", 1), ("ADD", add)])
            .to_vec(),
        Main::Attention => [16, 32].into_iter().flat_map(|row| attention(&[("ROW", row)])).collect(),
        Main::AttentionSplit => {
            let kinds = [(1, 4), (2, 8), (4, 16), (1, 32)].into_iter();
            kinds.flat_map(|(queries, lanes)| attention(&[("QUERIES", queries), ("LANES", lanes)])).collect()
        }
        Main::Combine => vec![vec![("HEAD", 3)], vec![("HEAD", 128)]],
        Main::TopK => {
            let kinds = [(1, 1, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1)];
            kinds.map(|(first, last, one)| vec![("FIRST", first), ("LAST", last), ("ONE", one)]).to_vec()
        }
        _ => vec![vec![]],
    }
}

#[test]
fn every_combination_is_valid_everywhere() {
    for main in Main::ALL {
        for format in formats(main.spec().decoder) {
            for subgroups in [true, false].into_iter().filter(|on| *on || !cooperative(main)) {
                let text = compose(main, format, subgroups);
                let what = format!("{main:?} of {format:?}, subgroups {subgroups}");
                let module = naga::front::wgsl::parse_str(&text)
                    .unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&text)));
                let mut validator = Validator::new(ValidationFlags::all(), capabilities(main, subgroups));
                let info = validator
                    .validate(&module)
                    .unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&text)));
                for constants in constants(main) {
                    let values = constants.iter().map(|&(name, v)| (name.to_owned(), f64::from(v))).collect();
                    let (module, info) = process_overrides(&module, &info, None, &values)
                        .unwrap_or_else(|e| panic!("{what} with {constants:?}: {e}"));
                    let what = format!("{what} with {constants:?}");
                    translate(&what, main, subgroups, &module, &info);
                    let groups = constants.iter().find(|(name, _)| *name == "GROUPS").map_or(1, |(_, v)| *v);
                    let most = match main {
                        Main::Decode => few::workgroup_bytes(groups as usize, subgroups),
                        // It is taken where the device has so much.
                        Main::TileCoop16 => 32 << 10,
                        // What every device has.
                        _ => 16 << 10,
                    };
                    let bytes = workgroup_bytes(&module);
                    assert!(bytes <= most, "{what}: {bytes} bytes of workgroup memory, there may be {most}");
                }
            }
        }
    }
}

/// Memory that the lanes of a workgroup share, in bytes.
fn workgroup_bytes(module: &naga::Module) -> usize {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).expect("a valid module");
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    shared.map(|(_, v)| layouter[v.ty].size as usize).sum()
}

/// To what Vulkan, Metal and DirectX 12 take.
fn translate(what: &str, main: Main, subgroups: bool, module: &naga::Module, info: &naga::valid::ModuleInfo) {
    let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = back::spv::write_vec(module, info, &options, None);
    assert!(words.is_ok_and(|w| !w.is_empty()), "{what}: Vulkan");
    let options =
        back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let text = back::msl::write_string(module, info, &options, &Default::default());
    assert!(text.is_ok_and(|(t, _)| !t.is_empty()), "{what}: Metal");
    if cooperative(main) {
        return;
    }
    let options = back::hlsl::Options {
        // Without subgroups also by the compiler that every Windows has, whose language ends with 5.1.
        shader_model: if subgroups { back::hlsl::ShaderModel::V6_4 } else { back::hlsl::ShaderModel::V5_1 },
        fake_missing_bindings: true,
        ..Default::default()
    };
    let pipeline = Default::default();
    let mut text = String::new();
    let mut writer = back::hlsl::Writer::new(&mut text, &options, &pipeline);
    writer.write(module, info, None).unwrap_or_else(|e| panic!("{what}: DirectX 12: {e}"));
}

/// Bindings that a kernel declares are those that its bind group has.
#[test]
fn kernels_declare_what_they_bind() {
    for main in Main::ALL {
        let spec = main.spec();
        let format = formats(spec.decoder)[0];
        let text = compose(main, format, true);
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{main:?}: {e}"));
        let mut bound: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, v)| {
                let writes = match v.space {
                    naga::AddressSpace::Storage { access } => access.contains(naga::StorageAccess::STORE),
                    _ => return None,
                };
                v.binding.map(|b| (b.binding, writes))
            })
            .collect();
        bound.sort_unstable();
        let expected: Vec<_> = (1..=spec.reads + spec.writes).map(|b| (b, b > spec.reads)).collect();
        assert_eq!(bound, expected, "{main:?}");
        assert!(bound.len() <= 8, "{main:?} binds {} buffers, devices have 8", bound.len());
    }
}
