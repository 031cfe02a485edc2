//! The program itself, from a language model's folder to a model that answers; and what it says to bad input, kills and full disks.
//!
//! The checkpoint is the tiny one of the repository's golden files, with pictures made here. Each run is a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use pumice_kernels::{Bytes, Cpu, CpuOptions};
use pumice_models::{checkpoint::Folder, gguf};
use pumice_quantize::{FileType, Options, Recipe, Source, SourceOptions, run_in_memory};
use pumice_runtime::{SamplerOptions, chat};
use pumice_train::shim::process::{Signal, tell};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Settings that all runs share: small, on the CPU, in full precision.
const SMALL: &str = "--batch 4 --device-batch 1 --kind f32 --device cpu --workers 1 --max-length 512";

/// A folder with a language model, a tower, pictures and rows.
struct Yard(TempDir);

impl Yard {
    fn new() -> Self {
        let yard = Self(tempfile::tempdir().expect("a folder"));
        let hf = golden("hf");
        yard.run(&format!("export {} lm --layout llama --kind f32", hf.display()), 0);
        fs::create_dir(yard.path("images")).expect("a folder");
        for i in 0..6_u8 {
            let colour = |x: u32, y: u32| image::Rgb([40 * i, (x * 9) as u8, (y * 12) as u8]);
            let picture = image::RgbImage::from_fn(20 + u32::from(i), 20, colour);
            picture.save(yard.path(&format!("images/{i}.png"))).expect("a picture");
        }
        yard.write("data.json", &Value::from((0..8).map(row).collect::<Vec<_>>()).to_string());
        yard
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// The program with `args`, in this folder, on one thread.
    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pumice-train"));
        command.args(args.split_whitespace()).current_dir(self.0.path()).env("OMP_NUM_THREADS", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, which must be `code`, and gives what it said.
    fn run(&self, args: &str, code: i32) -> String {
        said(args, self.command(args).output().expect("the program"), code)
    }

    /// The losses of `out`'s log by step, and that each step stands there once.
    fn losses(&self, out: &str) -> Vec<f64> {
        let lines = self.log(out);
        for (i, line) in lines.iter().enumerate() {
            assert_eq!(line["step"], i as u64 + 1, "{out}");
        }
        lines.iter().map(|line| line["loss"].as_f64().expect("a loss")).collect()
    }

    fn log(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("log.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until `out`'s log has so many steps.
    fn wait(&self, child: &mut Child, out: &str, steps: usize) {
        let end = Instant::now() + Duration::from_secs(120);
        while self.log(out).len() < steps {
            assert!(child.try_wait().expect("a child").is_none(), "ended before step {steps}");
            assert!(Instant::now() < end, "no step {steps}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Names in `out` that begin with `step-`.
    fn checkpoints(&self, out: &str) -> Vec<String> {
        let names = fs::read_dir(self.path(out)).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("step-")).collect();
        names.sort();
        names
    }

    /// A tensor's numbers.
    fn numbers(&self, folder: &str, name: &str) -> Vec<f32> {
        let folder = Folder::open(&self.path(folder)).expect("a checkpoint");
        let tensor = folder.need_tensor(name).expect("a tensor");
        let mut out = vec![0.0; tensor.elements()];
        tensor.to_f32(0, &mut out).expect("floats");
        out
    }
}

fn golden(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/mlp336").join(part)
}

/// What a run printed, after its exit code was found right.
fn said(args: &str, output: Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args}\n{text}");
    text
}

/// A good row; every fourth is text alone.
fn row(i: usize) -> Value {
    let (ask, answer) = (format!("what is number {i}?"), format!("number {i} is a fox."));
    let talk = |ask: String| json!([{"from": "human", "value": ask}, {"from": "gpt", "value": answer}]);
    match i % 4 {
        3 => json!({"id": i.to_string(), "conversations": talk(ask)}),
        _ => {
            json!({"id": i.to_string(), "image": format!("{}.png", i % 6), "conversations": talk(format!("<image>\n{ask}"))})
        }
    }
}

/// `tune` of the language model into `out`.
fn tune(out: &str, more: &str) -> String {
    let clip = golden("clip");
    let clip = clip.display();
    format!(
        "tune --model lm --vision-tower {clip} --data data.json --image-folder images --out {out} {SMALL} {more}"
    )
}

#[test]
fn a_language_model_learns_to_see_and_answers() {
    let yard = Yard::new();
    let stage1 = tune("one", "--template plain --steps 3").replacen("tune", "align", 1);
    assert!(yard.run(&stage1, 0).contains("wrote one/mm_projector.safetensors"));
    let said = yard.run(&tune("two", "--steps 3 --projector one/mm_projector.safetensors"), 0);
    assert!(said.contains("3 steps of 4 rows") && said.contains("wrote two/llava"), "{said}");
    assert!(yard.losses("one").iter().chain(&yard.losses("two")).all(|loss| loss.is_finite()));
    // The language model learned, the tower did not.
    let layer = "layers.1.mlp.up_proj.weight";
    let (before, after) = (yard.numbers("lm", &format!("model.{layer}")), text_of(&yard, "two/llava", layer));
    assert!(before.iter().zip(&after).any(|(a, b)| a != b));
    assert_eq!(yard.checkpoints("two"), ["step-00000003"]);

    let source = Source::open(&yard.path("two/llava"), &SourceOptions::default()).expect("a checkpoint");
    let run = Options { threads: 1, ..Options::new(Recipe::new(FileType::Q8_0)) };
    let bytes = Bytes::new(run_in_memory(&source, &run, &()).expect("a GGUF"));
    let file = gguf::File::from_bytes("tuned", bytes).expect("our own GGUF");
    let cpu = Cpu::new(CpuOptions { threads: 1, isa: None });
    let options =
        chat::Options { predict: Some(4), sampling: SamplerOptions::greedy(), ..chat::Options::default() };
    let mut chat = chat::Chat::from_files(&file, None, Box::new(cpu), options).expect("a chat");
    let picture = pumice_runtime::Picture::open(&yard.path("images/2.png")).expect("a picture");
    let seen = chat.see_picture(&picture).expect("features");
    let answer = chat.ask("what is number 2?", &[seen]).expect("an answer");
    let pieces: Vec<_> = answer.map(|piece| piece.expect("a piece")).collect();
    assert!(!pieces.is_empty());
}

/// A text tensor of a llava-hf folder, whichever prefix this layout has.
fn text_of(yard: &Yard, folder: &str, name: &str) -> Vec<f32> {
    let open = Folder::open(&yard.path(folder)).expect("a checkpoint");
    let full = open.tensors().iter().find(|t| t.name.ends_with(name) && t.name.contains("language_model"));
    let full = full.expect("a tensor").name.clone();
    yard.numbers(folder, &full)
}

#[test]
fn adapters_of_a_base_in_4_bits_go_into_the_base_itself() {
    let yard = Yard::new();
    let settings =
        "--steps 2 --lora-r 2 --lora-alpha 6 --lora-dropout 0.1 --lora-targets q_proj,down_proj --lr 1e-2";
    let said = yard.run(&tune("out", &format!("{settings} --lora-bits 4")), 0);
    assert!(said.contains("wrote out/adapter") && said.contains("wrote out/llava"), "{said}");
    let peft: Value =
        serde_json::from_slice(&fs::read(yard.path("out/adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&peft["r"], &peft["lora_alpha"], &peft["target_modules"]),
        (&json!(2), &json!(6.0), &json!(["q_proj", "down_proj"]))
    );
    // W + alpha/r · B·A, by hand from the files.
    for (name, inner, adapted) in
        [("self_attn.q_proj", 64, true), ("mlp.down_proj", 160, true), ("self_attn.v_proj", 64, false)]
    {
        let name = format!("layers.2.{name}");
        let mut want = yard.numbers("lm", &format!("model.{name}.weight"));
        if adapted {
            let half = |which| {
                yard.numbers("out/adapter", &format!("base_model.model.model.{name}.lora_{which}.weight"))
            };
            let (a, b) = (half("A"), half("B"));
            assert!(b.iter().any(|v| *v != 0.0), "{name} learned");
            for (i, w) in want.iter_mut().enumerate() {
                let (row, column) = (i / inner, i % inner);
                *w += 3.0 * (0..2).map(|r| b[row * 2 + r] * a[r * inner + column]).sum::<f32>();
            }
        }
        let off = want
            .iter()
            .zip(text_of(&yard, "out/llava", &format!("{name}.weight")))
            .map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f32::max) < 1e-6, "{name}");
    }
    // On the whole base too, where nothing is rounded.
    yard.run(&tune("plain", settings), 0);
    assert!(yard.path("plain/llava/model.safetensors").exists());
}

#[test]
fn two_ranks_lose_what_one_loses() {
    let yard = Yard::new();
    yard.run(&tune("one", "--steps 3 --lr 1e-3"), 0);
    // Batch 4 is four micro-batches alone, two on each of two ranks; the preset shards the weights too.
    yard.run(&format!("launch 2 -- {}", tune("two", "--steps 3 --lr 1e-3")), 0);
    let (one, two) = (yard.losses("one"), yard.losses("two"));
    assert!(one.len() == 3 && one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-5), "{one:?} {two:?}");
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_was() {
    let yard = Yard::new();
    let run = |out| tune(out, "--steps 60 --lr 1e-3 --save-every 3");
    let mut child = yard.command(&run("killed")).spawn().expect("the program");
    yard.wait(&mut child, "killed", 5);
    child.kill().expect("a running child");
    child.wait().expect("its end");
    assert!(!yard.path("killed/llava").exists(), "killed in time");
    let said = yard.run(&run("killed"), 0);
    assert!(said.contains("goes on after step "), "{said}");
    yard.run(&run("whole"), 0);
    assert_eq!(yard.losses("killed"), yard.losses("whole"), "bit for bit");
    assert_eq!(yard.losses("whole").len(), 60);
}

#[test]
fn ctrl_c_saves_and_ends() {
    let yard = Yard::new();
    let args = tune("out", "--steps 100000 --save-every 0");
    let mut child = yard.command(&args).spawn().expect("the program");
    yard.wait(&mut child, "out", 2);
    tell(&mut child, Signal::Interrupt);
    let said = said(&args, child.wait_with_output().expect("its end"), 130);
    assert!(said.contains("stopping after this step"), "{said}");
    let last = yard.losses("out").len();
    assert_eq!(yard.checkpoints("out"), [format!("step-{last:08}")]);
}

#[test]
fn ranks_that_are_stopped_did_not_fail_and_a_wrong_setting_is_said_once() {
    let yard = Yard::new();
    let args = format!("launch 2 -- {}", tune("out", "--steps 100000 --save-every 0"));
    let mut child = yard.command(&args).spawn().expect("the program");
    yard.wait(&mut child, "out", 2);
    tell(&mut child, Signal::Interrupt);
    let said = said(&args, child.wait_with_output().expect("its end"), 130);
    assert!(!said.contains("failed") && !said.contains("socket.cpp"), "{said}");
    assert_eq!(yard.checkpoints("out").len(), 1);

    let said = yard.run(&format!("launch 2 -- {}", tune("other", "--steps 1 --lr 0")), 2);
    assert_eq!(said.matches("lr = 0").count(), 1, "{said}");
}

#[test]
fn rows_that_cannot_be_learned_are_named_and_left_out() {
    let yard = Yard::new();
    let mut rows: Vec<Value> = (0..8).map(row).collect();
    rows[0]["image"] = "nowhere.png".into();
    rows[1]["image"] = "broken.png".into();
    rows[2]["conversations"][1]["from"] = "human".into();
    rows[4]["conversations"][1]["value"] = " ".into();
    let whole = fs::read(yard.path("images/1.png")).expect("a picture");
    fs::write(yard.path("images/broken.png"), &whole[..whole.len() / 2]).expect("a file");
    let text = Value::from(rows).to_string();
    yard.write("data.json", &text[..text.len() - 20]);
    let said = yard.run(&tune("out", "--steps 2"), 0);
    for part in [
        "data.json: 3 rows left out",
        "1 row: picture missing",
        "nowhere.png",
        "1 row: picture broken",
        "1 row: speakers out of turn",
        "1 row: empty text",
        "1 row: cut off: the file ends inside its array",
        "id \"4\"",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!(yard.log("out")[1]["skipped_rows"], 5);
    let warned = said.matches("warning: data.json row 7").count();
    assert_eq!(
        (warned, said.contains("all that follows byte")),
        (2, true),
        "at the start and at the end\n{said}"
    );
}

#[test]
fn other_settings_are_told_and_another_order_of_the_data_is_refused() {
    let yard = Yard::new();
    yard.run(&tune("out", "--steps 2 --lr 1e-3"), 0);
    let said = yard.run(&tune("out", "--steps 4 --lr 1e-4 --seed 7"), 2);
    assert!(said.contains("seed 42 then, 7 now") && said.contains("--out"), "{said}");
    yard.write("other.json", &Value::from((0..9).map(row).collect::<Vec<_>>()).to_string());
    let said = yard.run(&tune("out", "--steps 4").replace("data.json", "other.json"), 2);
    assert!(said.contains("data_bytes"), "{said}");
    assert_eq!(yard.losses("out").len(), 2);
    // The same rows under another name are the same.
    fs::rename(yard.path("data.json"), yard.path("moved.json")).expect("a file");
    let said = yard.run(&tune("out", "--steps 4 --lr 1e-4").replace("data.json", "moved.json"), 0);
    for part in
        ["lr 0.001 then, 0.0001 now", "steps 2 then, 4 now", "moved.json", "goes on after step 2 of 4"]
    {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn what_cannot_run_says_why() {
    let yard = Yard::new();
    let copy = |from: &Path, to: &str, key: &str, value: i64| {
        fs::create_dir(yard.path(to)).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), yard.path(to).join(entry.file_name())).expect("a copy");
        }
        let path = yard.path(to).join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let place = if to == "tower" { &mut config["vision_config"] } else { &mut config };
        place[key] = value.into();
        fs::write(&path, config.to_string()).expect("a file");
    };
    copy(&yard.path("lm"), "wide", "hidden_size", 128);
    copy(&golden("clip"), "tower", "image_size", 112);
    let narrow = tch::Tensor::zeros([32, 64], (tch::Kind::Float, tch::Device::Cpu));
    let bias = tch::Tensor::zeros([32], (tch::Kind::Float, tch::Device::Cpu));
    let projector =
        vec![("model.mm_projector.weight".into(), narrow), ("model.mm_projector.bias".into(), bias)];
    let file = yard.path("narrow.safetensors");
    pumice_train::model::checkpoint::write_tensors(&file, projector, tch::Kind::Float).expect("a file");
    let float = (tch::Kind::Float, tch::Device::Cpu);
    let linear = vec![
        ("model.mm_projector.weight".into(), tch::Tensor::zeros([64, 64], float)),
        ("model.mm_projector.bias".into(), tch::Tensor::zeros([64], float)),
    ];
    let file = yard.path("linear.safetensors");
    pumice_train::model::checkpoint::write_tensors(&file, linear, tch::Kind::Float).expect("a file");
    yard.write("typo.toml", "learning_rate = 1e-5\n");
    yard.write("empty.json", "[]");
    // No row of text, which would take the place of one whose picture is missing.
    yard.write("pictures.json", &Value::from((0..3).map(row).collect::<Vec<_>>()).to_string());

    let args = tune("out", "--steps 1");
    let clip = golden("clip").display().to_string();
    for (args, code, parts) in [
        (args.replace("--model lm", "--model wide"), 1, ["q_proj", "[64, 64]", "[64, 128]"]),
        (args.replace(&clip, "tower"), 1, ["position_embedding", "[37, 64]", "[65, 64]"]),
        (
            format!("{args} --projector-type mlp2x_gelu --projector narrow.safetensors"),
            1,
            ["mm_projector", "[32, 64]", "[64, 64]"],
        ),
        (
            format!("{args} --projector-type mlp2x_gelu --projector linear.safetensors"),
            2,
            ["--projector-type mlp2x_gelu", "linear.safetensors", "is linear"],
        ),
        (
            args.replace("--model lm", &format!("--model {clip}")),
            1,
            ["this is a CLIP", "--model", "--vision-tower"],
        ),
        (args.replace("--out out", "--out data.json"), 2, ["--out", "data.json", "a file"]),
        (args.replace("data.json", "images"), 2, ["--data", "images", "a folder"]),
        ("export lm other --layout authors".into(), 2, ["--vision-tower", "no vision tower", ""]),
        (format!("{args} --projector narrow.safetensors"), 1, ["mm_projector", "[32, 64]", "[64, 64]"]),
        (format!("{args} --config typo.toml"), 2, ["typo.toml", "learning_rate", "setting"]),
        (args.replace("--model lm", ""), 2, ["model", "--model", "--config"]),
        (args.replace("--data data.json", "--data gone.json"), 1, ["gone.json", "o such file", ""]),
        (args.replace("--data data.json", "--data empty.json"), 1, ["empty.json", "no row", "conversations"]),
        (
            args.replace("data.json --image-folder images", "pictures.json --image-folder lm"),
            1,
            ["lm", "folder of the images", "0.png"],
        ),
        (
            args.replace("--batch 4", "--batch 3 --device-batch 2").replace("--device-batch 1", ""),
            2,
            ["batch 3", "2", "4"],
        ),
    ] {
        let said = yard.run(&args, code);
        assert!(parts.iter().all(|part| said.contains(part)) && !said.contains("panicked"), "{args}\n{said}");
    }
    let mut rank = yard.command(&format!("{args} --checkpointing=false"));
    rank.envs([
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "1"),
    ]);
    let said = said(&args, rank.output().expect("the program"), 2);
    assert!(said.contains("--checkpointing") && said.contains("--zero 2"), "{said}");
}

#[test]
fn a_full_disk_costs_a_checkpoint_and_nothing_else() {
    let yard = Yard::new();
    yard.run(&tune("out", "--steps 2"), 0);
    // Files may grow to 1000 blocks of 512 or 1024 bytes; a checkpoint has 2 MB. Ignored, the signal becomes an error of the write.
    let line = format!(
        "trap '' XFSZ; ulimit -f 1000; exec {} {}",
        env!("CARGO_BIN_EXE_pumice-train"),
        tune("out", "--steps 6 --save-every 2")
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).current_dir(yard.0.path()).env("OMP_NUM_THREADS", "1");
    let said = said(&line, shell.output().expect("a shell"), 1);
    for part in
        ["step 4 could not be saved, the last checkpoint stays", "step 6 could not be saved", "too large"]
    {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!((yard.losses("out").len(), yard.checkpoints("out")), (6, vec!["step-00000002".to_owned()]));
}

#[test]
fn scienceqa_is_learned_and_scored() {
    let yard = Yard::new();
    let problem = |answer: usize, subject: &str, image: Value| {
        json!({"question": "Which is a fox?", "choices": ["this", "that"], "answer": answer, "hint": "", "image": image,
            "lecture": "A fox is red.", "solution": "It is red.", "grade": "grade3", "subject": subject})
    };
    let problems = json!({
        "1": problem(0, "natural science", "image.png".into()), "2": problem(1, "social science", Value::Null),
        "3": problem(1, "natural science", Value::Null), "4": problem(0, "language science", "image.png".into()),
    });
    fs::create_dir_all(yard.path("sqa/images/train/1")).expect("a folder");
    fs::copy(yard.path("images/1.png"), yard.path("sqa/images/train/1/image.png")).expect("a copy");
    yard.write("sqa/problems.json", &problems.to_string());
    yard.write("sqa/pid_splits.json", &json!({"train": ["1", "2"], "test": ["3", "4"]}).to_string());
    let train = tune("out", "--steps 1")
        .replacen("tune", "sqa", 1)
        .replace("--data data.json --image-folder images", "--data sqa");
    assert!(yard.run(&train, 0).contains("wrote out/llava"));
    let rows: Value =
        serde_json::from_slice(&fs::read(yard.path("out/scienceqa-train.json")).unwrap()).unwrap();
    assert_eq!((&rows[0]["image"], rows.as_array().map(Vec::len)), (&json!("1/image.png"), Some(2)));
    assert_eq!(rows[1]["conversations"][1]["value"], "A fox is red. It is red. The answer is B.");
    assert_eq!(yard.log("out")[0]["skipped_rows"], 0);

    yard.write("answers.jsonl", "{\"question_id\": 3, \"text\": \"It is red. The answer is B.\"}\n{\"id\": \"4\", \"text\": \"the fox\"}\n");
    let said = yard.run("sqa --data sqa --score answers.jsonl", 0);
    for part in [
        "natural science   100.00 %  1 of 1",
        "language science    0.00 %  0 of 1",
        "social science         -",
        "all                50.00 %  1 of 2",
        "1 answers are missing",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    yard.write("answers.jsonl", "{\"question_id\": 3}\n");
    assert!(
        yard.run("sqa --data sqa --score answers.jsonl", 1)
            .contains("answers.jsonl line 1: missing field `text`")
    );
}
