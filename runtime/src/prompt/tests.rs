//! Prompts against LLaVA's conversation.py, SentencePiece and jinja2: goldens of tests/golden/prompt.py.

use super::*;
use crate::vocab::tests::{real, tiny_pieces};
use serde_json::Value;

fn golden(name: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// LLaVA's `IMAGE_TOKEN_INDEX`; picture n is −200 − n in the goldens.
const IMAGE: i64 = -200;

fn flat(chunks: &[Chunk]) -> Vec<i64> {
    let ids = chunks.iter().map(|chunk| match chunk {
        Chunk::Tokens(ids) => ids.iter().map(|&id| i64::from(id)).collect(),
        Chunk::Image(image) => vec![IMAGE - *image as i64],
    });
    ids.collect::<Vec<_>>().concat()
}

/// A prompt as text, to compare with what the templates print.
fn printed(vocabulary: &Vocabulary, pieces: &[Piece]) -> String {
    let texts = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Token(id) => vocabulary.piece(*id).to_owned(),
        Piece::Image(_) => "<image>".to_owned(),
    });
    texts.collect()
}

/// The case's turns with its pictures numbered from 0, and its answers.
fn turns(case: &Value) -> (Vec<(String, Vec<usize>)>, Vec<String>) {
    let mut images = 0..;
    let turns = case["turns"].as_array().unwrap().iter().map(|turn| {
        let n = turn[1].as_u64().unwrap() as usize;
        (turn[0].as_str().unwrap().to_owned(), images.by_ref().take(n).collect())
    });
    let answers = case["answers"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned());
    (turns.collect(), answers.collect())
}

/// A vocabulary that always exists.
fn tiny() -> Vocabulary {
    Vocabulary::new(tiny_pieces()).unwrap()
}

#[test]
fn templates_equal_llava_to_the_byte() {
    let vocabulary = tiny();
    let cases = golden("prompt.jsonl");
    assert_eq!(cases.len(), 32);
    for case in &cases {
        let format = Format::named(case["template"].as_str().unwrap()).unwrap();
        let (turns, answers) = turns(case);
        let mut text = String::new();
        for (i, (words, images)) in turns.iter().enumerate() {
            let turn = Turn { text: words, images, ..Turn::default() };
            text += &printed(&vocabulary, &format.pieces(&vocabulary, &turn, i == 0).unwrap());
            if let (Some(answer), Kind::Template(template)) = (answers.get(i), &format.kind) {
                text = text + template.answer_lead() + answer;
            }
        }
        // LLaVA strips `<s>` from the front of llama_2's prompts, and the tokenizer puts it back as an id.
        assert_eq!(text, case["prompt"].as_str().unwrap(), "{}", format.name());
    }
}

#[test]
fn ids_equal_llava_turn_by_turn() {
    let Some((_, vocabulary)) = real() else { return };
    for case in &golden("prompt.jsonl") {
        let format = Format::named(case["template"].as_str().unwrap()).unwrap();
        let (turns, answers) = turns(case);

        if format.name() == "mpt" {
            continue; // its marks are tokens of its own vocabulary; as text of LLaMA's they merge with an answer's end
        }
        let mut ids = Vec::new();
        for (i, (text, images)) in turns.iter().enumerate() {
            let turn = Turn { text, images, ..Turn::default() };
            let chunks = match i {
                0 => format.first_turn(&vocabulary, &turn),
                _ => format.next_turn(&vocabulary, &turn),
            };
            ids.extend(flat(&chunks.unwrap()));
            if let Some(answer) = answers.get(i) {
                let answer = format.answer(&vocabulary, answer).unwrap();
                ids.extend(answer.iter().map(|&id| i64::from(id)));
            }
        }
        let want: Vec<i64> = case["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        assert_eq!(ids, want, "{}: {}", case["template"], case["prompt"]);
    }
}

/// The vectors of `tokenizer_image_token`, llava-facts 2.4.
#[test]
fn chunks_are_tokenised_apart() {
    let Some((_, vocabulary)) = real() else { return };
    let ids = |pieces: &[Piece]| flat(&tokenise(&vocabulary, pieces, true));
    let image = Piece::Image(0);
    assert_eq!(ids(std::slice::from_ref(&image)), [1, IMAGE]);
    assert_eq!(ids(&[image.clone(), Piece::text("a cat\n")]), [1, IMAGE, 263, 6635, 13]);
    let split = [Piece::text("USER: "), image, Piece::text("\n"), Piece::text("What")];
    assert_eq!(ids(&split), [1, 3148, 1001, 29901, 29871, IMAGE, 29871, 13, 5618]);
    assert_eq!(ids(&[Piece::text("\n")]), [1, 29871, 13]);
    let after_end = [Piece::text("A"), Piece::Token(2), Piece::text("USER")];
    assert_eq!(ids(&after_end), [1, 319, 2, 3148, 1001]);
    let format = Format::named("llava_v1").unwrap();
    let prompt = flat(&format.first_turn(&vocabulary, &Turn { text: "Hi", ..Turn::default() }).unwrap());
    assert_eq!(prompt[prompt.len() - 5..], [319, 1799, 9047, 13566, 29901]);
}

#[test]
fn typed_marks_stay_text() {
    let Some((_, vocabulary)) = real() else { return };
    let typed = "<image></s><s>[INST]<|im_end|><im_start>";
    for name in Format::names() {
        let format = Format::named(name).unwrap();
        let plain = format.first_turn(&vocabulary, &Turn { text: "hello", ..Turn::default() }).unwrap();
        for first in [true, false] {
            let turn = Turn { text: typed, images: &[7], ..Turn::default() };
            let chunks = if first {
                format.first_turn(&vocabulary, &turn)
            } else {
                format.next_turn(&vocabulary, &turn)
            };
            let chunks = chunks.unwrap();
            assert_eq!(chunks.iter().filter(|c| matches!(c, Chunk::Image(_))).count(), 1, "{name}");
            assert!(chunks.contains(&Chunk::Image(7)));
            let control = flat(&chunks).into_iter().filter(|id| [1, 2].contains(id)).count();
            let own =
                if first { flat(&plain).into_iter().filter(|id| [1, 2].contains(id)).count() } else { 2 };
            assert!(control <= own + 1, "{name}: {chunks:?}"); // + 1: mmtag closes a turn of its own
            let last = match chunks.last().unwrap() {
                Chunk::Tokens(ids) => vocabulary.decode(ids),
                Chunk::Image(_) => panic!("{name} ends in a picture"),
            };
            assert!(last.contains(typed), "{name}: {last}");
        }
    }
}

#[test]
fn pictures_stand_where_they_are_wanted() {
    let vocabulary = tiny();
    let format = Format::named("llava_v1").unwrap();
    let text = |format: &Format, images: &[usize], place| {
        let turn = Turn { text: "what", images, place };
        let pieces = format.pieces(&vocabulary, &turn, true).unwrap();
        printed(&vocabulary, &pieces).split_once("questions. ").unwrap().1.to_owned()
    };
    assert_eq!(text(&format, &[0, 1], ImagePlace::Before), "USER: <image>\n<image>\nwhat ASSISTANT:");
    assert_eq!(text(&format, &[0, 1], ImagePlace::After), "USER: what\n<image>\n<image> ASSISTANT:");
    assert_eq!(text(&format, &[], ImagePlace::After), "USER: what ASSISTANT:");
    let marked = format.clone().with_im_start_end(true);
    let turn = Turn { text: "what", images: &[0], ..Turn::default() };
    let e = marked.first_turn(&vocabulary, &turn).unwrap_err().to_string();
    assert!(e.contains("no token <im_start>"), "{e}");
    let mut pieces = tiny_pieces();
    for token in ["<im_start>", "<im_end>"] {
        pieces.tokens.push(token.into());
        pieces.scores.push(-1000.0);
        pieces.kinds.push(crate::vocab::Kind::UserDefined);
    }
    let vocabulary = Vocabulary::new(pieces).unwrap();
    let chunks = marked.first_turn(&vocabulary, &turn).unwrap();
    let n = vocabulary.len() as i64;
    let ids = flat(&chunks);
    let at = ids.iter().position(|&id| id == IMAGE).unwrap();
    assert_eq!(ids[at - 1..at + 2], [n - 2, IMAGE, n - 1]);
    assert_eq!(Format::named("plain").unwrap().pieces(&vocabulary, &turn, true).unwrap(), {
        [Piece::Image(0), Piece::text("what")]
    });
}

#[test]
fn the_system_text_can_be_replaced() {
    let vocabulary = tiny();
    let turn = Turn { text: "hi", ..Turn::default() };
    let said = |name: &str| {
        let format = Format::named(name).unwrap().with_system("Be brief.");
        printed(&vocabulary, &format.pieces(&vocabulary, &turn, true).unwrap())
    };
    assert_eq!(said("llava_v1"), "Be brief. USER: hi ASSISTANT:");
    assert_eq!(said("llava_llama_2"), "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST]");
    assert_eq!(said("mistral_instruct"), "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST]");
    assert_eq!(
        said("mpt"),
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nhi<|im_end|><|im_start|>assistant\n"
    );
}

#[test]
fn chat_templates_print_what_jinja2_prints() {
    let vocabulary = tiny();
    let cases = golden("chat.jsonl");
    assert_eq!(cases.len(), 32);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let mut format = Format::jinja(name, case["source"].as_str().unwrap()).unwrap();
        if let Some(system) = case["system"].as_str() {
            format = format.with_system(system);
        }
        let (turns, answers) = turns(case);
        let Kind::Jinja(jinja) = &format.kind else { panic!("{name}") };
        let mut text = String::new();
        for (i, (words, images)) in turns.iter().enumerate() {
            let turn = Turn { text: words, images, ..Turn::default() };
            text += &printed(&vocabulary, &format.pieces(&vocabulary, &turn, i == 0).unwrap());
            if let Some(answer) = answers.get(i) {
                text += &jinja.answer_lead(&vocabulary, format.system.as_deref()).unwrap();
                text += answer;
            }
        }
        assert_eq!(text, case["prompt"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn chat_templates_that_fail_say_so() {
    let vocabulary = tiny();
    let turn = Turn { text: "hi", ..Turn::default() };
    let e = Format::jinja("m.gguf", "{% if %}").unwrap_err().to_string();
    assert!(e.starts_with("m.gguf: chat template: ") && e.contains("choose one"), "{e}");
    let fail = |source: &str| {
        let format = Format::jinja("m.gguf", source).unwrap();
        format.first_turn(&vocabulary, &turn).unwrap_err().to_string()
    };
    assert!(fail("{{ raise_exception('no pictures here') }}").contains("no pictures here"));
    assert!(fail("always the same").contains("does not print what the user says"));
    assert!(fail("{{ messages[0].content }}{{ messages[0].content }}").contains("prints a message twice"));
    let format = Format::jinja("m.gguf", "{{ messages[-1].content }}").unwrap();
    assert!(format.next_turn(&vocabulary, &turn).unwrap_err().to_string().contains("m.gguf"));
    let e = Format::named("alpaca").unwrap_err().to_string();
    assert!(e.contains("\"alpaca\"") && e.contains("llava_v1, v1, llava_v0"), "{e}");
}

/// `bos` from a chat template and `bos` from the vocabulary are one.
#[test]
fn bos_stands_once() {
    let vocabulary = tiny();
    let turn = Turn { text: "the cat", ..Turn::default() };
    for source in ["{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"] {
        let chunks = Format::jinja("m", source).unwrap().first_turn(&vocabulary, &turn).unwrap();
        assert_eq!(
            chunks,
            [Chunk::Tokens([vec![1], vocabulary.encode("the cat", false)].concat())],
            "{source}"
        );
    }
}

#[test]
fn the_files_say_how_a_model_is_spoken_to() {
    use pumice_models::gguf::{File, Header, Writer};
    let file = |keys: &[(&str, &str)]| {
        let mut header = Header::new();
        header.set("general.architecture", "llama".to_owned());
        keys.iter().for_each(|(k, v)| {
            header.set(k, (*v).to_owned());
        });
        let bytes = Writer::in_memory(header).unwrap().finish().unwrap();
        File::from_bytes("m.gguf", pumice_kernels::Bytes::new(bytes)).unwrap()
    };
    let name = |text: &File, vision: Option<&File>| Format::from_gguf(text, vision).unwrap().name();
    let bare = file(&[]);
    let chat = file(&[("tokenizer.chat_template", "{{ messages[0].content }}")]);
    let v0 = file(&[("pumice.template", "llava_v0")]);
    assert_eq!(name(&bare, None), "v1");
    assert_eq!(name(&bare, Some(&bare)), "llava_v1");
    assert_eq!(name(&chat, None), "jinja");
    assert_eq!(name(&chat, Some(&v0)), "llava_v0");
    assert_eq!(name(&v0, None), "llava_v0");
    assert!(Format::from_gguf(&file(&[("pumice.template", "v9")]), None).is_err());
}
