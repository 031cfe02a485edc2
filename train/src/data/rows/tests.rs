//! Rows of sound and of damaged files.

use super::*;
use std::io::Write;

fn open(text: &str) -> (Result<Rows>, Report) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let mut report = Report::default();
    let rows = Rows::open(&[file.path().into()], &mut report);
    (rows, report)
}

fn row(id: &str, image: &str) -> String {
    let (image, mark) = if image.is_empty() {
        (String::new(), "")
    } else {
        (format!(r#""image": "{image}", "#), "<image>\\n")
    };
    format!(
        r#"{{"id": "{id}", {image}"conversations": [{{"from": "human", "value": "{mark}What \"{{is}}\" it?"}}, {{"from": "gpt", "value": "A cat."}}]}}"#
    )
}

fn ids(rows: &Rows) -> Vec<String> {
    (0..rows.len()).map(|i| rows.read(i).unwrap().name.split('"').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn arrays_and_lines_are_read_again_by_place() {
    let all = [row("a", "a.jpg"), row("b", ""), row("c", "c/d.png")];
    let array = format!("[{}]", all.join(",\n "));
    let lines = all.join("\n") + "\n\n";
    for text in [array, lines] {
        let (rows, report) = open(&text);
        let rows = rows.unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(ids(&rows), ["a", "b", "c"]);
        assert_eq!(rows.lengths(), [6, -5, 6]);
        assert!(rows.has_image(0) && !rows.has_image(1));
        let first = rows.read(0).unwrap();
        assert_eq!(first.images, ["a.jpg"]);
        assert_eq!(first.turns, [["<image>\nWhat \"{is}\" it?".to_owned(), "A cat.".to_owned()]]);
        assert_eq!(rows.read(2).unwrap().images, ["c/d.png"]);
    }
}

#[test]
fn rows_across_blocks() {
    let long = "word ".repeat(70_000);
    let all: Vec<String> = (0..9).map(|i| row(&i.to_string(), "x.png").replace("A cat.", &long)).collect();
    let (rows, report) = open(&format!("[{}]", all.join(",")));
    assert!(report.is_clean());
    assert_eq!(ids(&rows.unwrap()), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

/// A damaged row costs that row, not the ones after it.
#[test]
fn a_broken_row_takes_no_other_with_it() {
    let good = row("good", "a.jpg");
    let no_brace = good[..good.len() - 1].to_owned();
    let no_quote = good.replace("A cat.\"", "A cat.");
    let no_comma = good.replace("}, {", "} {");
    let half = good[..good.len() / 2].to_owned();
    for bad in [
        no_brace,
        no_quote,
        no_comma,
        half,
        "nonsense".into(),
        r#"{"id": 1, "conversations": "no list"}"#.into(),
    ] {
        let text = format!("[{}, {bad}, {}, {}]", row("a", ""), row("b", "b.png"), row("c", ""));
        let (rows, report) = open(&text);
        assert_eq!(ids(&rows.unwrap()), ["a", "b", "c"], "{bad}");
        assert!(report.count(Reason::BrokenJson) >= 1, "{bad}: {report}");
        assert_eq!(report.skipped(), report.count(Reason::BrokenJson) + report.count(Reason::CutFile));
    }
}

#[test]
fn a_file_cut_in_the_middle() {
    let text = format!("[{}, {}, {}]", row("a", ""), row("b", "b.png"), row("c", ""));
    let ends = text.find(r#"{"id": "c""#).unwrap();
    for cut in [ends + 40, ends - 1, ends + 1, text.len() - 1] {
        let (rows, report) = open(&text[..cut]);
        let kept = if cut == text.len() - 1 { 3 } else { 2 };
        assert_eq!(rows.unwrap().len(), kept, "cut at {cut}");
        assert_eq!(report.count(Reason::CutFile), 1, "cut at {cut}: {report}");
        // From the last row on, or from the ] that is not there.
        let from = if cut == ends + 40 || cut == ends + 1 { ends } else { cut };
        let said = format!("all that follows byte {from} is missing");
        assert!(report.cut()[0].contains(&said), "cut at {cut}: {report}");
    }
    let (rows, report) = open(&format!("{}\n{}", row("a", ""), &row("b", "")[..50]));
    assert_eq!(rows.unwrap().len(), 1);
    assert_eq!(report.count(Reason::BrokenJson), 1);
}

#[test]
fn rows_that_say_nothing_sound_are_named() {
    let turn = |from: &str, value: &str| format!(r#"{{"from": "{from}", "value": "{value}"}}"#);
    let (h, g) = (turn("human", "Why?"), turn("gpt", "So."));
    let cases = [
        (format!(r#"{{"id": 7, "conversations": [{h}, {h}, {g}]}}"#), Reason::Roles),
        (format!(r#"{{"id": 7, "conversations": [{h}, {g}, {g}]}}"#), Reason::Roles),
        (format!(r#"{{"id": 7, "conversations": [{h}, {g}, {h}]}}"#), Reason::Roles),
        (format!(r#"{{"id": 7, "conversations": [{h}, {}]}}"#, turn("system", "x")), Reason::Roles),
        (format!(r#"{{"id": 7, "conversations": [{g}]}}"#), Reason::Roles),
        (format!(r#"{{"id": 7, "conversations": [{h}, {}]}}"#, turn("gpt", " \\n ")), Reason::EmptyText),
        (format!(r#"{{"id": 7, "conversations": [{}, {g}]}}"#, turn("human", "")), Reason::EmptyText),
        (r#"{"id": 7, "image": "a.png"}"#.to_owned(), Reason::NoConversation),
        (r#"{"id": 7, "conversations": []}"#.to_owned(), Reason::NoConversation),
        (format!(r#"{{"id": 7, "image": "a.png", "conversations": [{h}, {g}]}}"#), Reason::ImageMarks),
        (
            format!(r#"{{"id": 7, "conversations": [{}, {g}]}}"#, turn("human", "<image>Why?")),
            Reason::ImageMarks,
        ),
        (
            format!(r#"{{"id": 7, "image": "a.png", "conversations": [{h}, {}]}}"#, turn("gpt", "<image>")),
            Reason::ImageMarks,
        ),
    ];
    for (bad, reason) in cases {
        let (rows, report) = open(&format!("[{}, {bad}]", row("a", "")));
        assert_eq!(rows.unwrap().len(), 1, "{bad}");
        assert_eq!((report.count(reason), report.skipped()), (1, 1), "{bad}: {report}");
        assert!(report.to_string().contains("row 1 (byte"), "{report}");
        assert!(report.to_string().contains(", id \"7\")"), "{report}");
    }
}

#[test]
fn a_field_of_another_type_is_told_what_it_may_be() {
    for (field, may_be) in [("\"image\": 3", "list of names"), ("\"id\": [1]", "whole number")] {
        let bad = row("b", "").replacen('{', &format!("{{{field}, "), 1).replacen("\"id\": \"b\", ", "", 1);
        let (_, report) = open(&format!("[{}, {bad}]", row("a", "")));
        assert!(report.to_string().contains(may_be), "{bad}: {report}");
    }
}

#[test]
fn a_leading_answer_is_dropped_and_told() {
    let text = row("a", "").replace("[{", r#"[{"from": "gpt", "value": "Hello."}, {"#);
    let text = text.replacen('{', r#"{"model": "", "unknown": [{"x": null}], "#, 1);
    let (rows, report) = open(&format!("[{text}]"));
    assert_eq!(rows.unwrap().read(0).unwrap().turns.len(), 1);
    assert_eq!((report.count(Reason::LeadingAnswer), report.skipped()), (1, 0));
}

#[test]
fn files_without_a_good_row_are_refused() {
    for text in ["", "  ", "[]", "null", "[", r#"[{"id": 1}]"#] {
        let (rows, _) = open(text);
        let message = rows.unwrap_err().to_string();
        assert!(message.contains("row"), "{message}");
    }
    let missing = Rows::open(&["no/such.json".into()], &mut Report::default()).unwrap_err();
    assert!(missing.to_string().contains("no/such.json"));
}
