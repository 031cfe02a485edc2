//! ScienceQA on four problems written by hand.

use super::*;

const PROBLEMS: &str = r#"{
 "1": {"question": "Which is  hard?", "choices": ["a rock", "a sponge"], "answer": 0, "hint": "", "image": "image.png",
       "grade": "grade2", "subject": "natural science", "topic": "x", "lecture": "Hard things.\nSoft things.", "solution": "A rock is hard."},
 "2": {"question": "Which is a noun?", "choices": ["run", "blue", "cat"], "answer": 2, "hint": "Look:  here.", "image": null,
       "grade": "grade7", "subject": "language science", "lecture": "", "solution": ""},
 "3": {"question": "Where?", "choices": ["here", "there"], "answer": 1, "hint": "", "image": null,
       "grade": "grade12", "subject": "social science", "lecture": "L.", "solution": ""},
 "4": {"question": "Where?", "choices": ["here", "there"], "answer": 5}
}"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("problems.json"), PROBLEMS).unwrap();
    let splits = r#"{"train": ["3", "1"], "test": ["1", "2", "3"], "bad": ["4"], "gone": ["9"]}"#;
    std::fs::write(folder.path().join("pid_splits.json"), splits).unwrap();
    folder
}

#[test]
fn a_split_is_read_in_its_order() {
    let folder = folder();
    let ids: Vec<String> = read(folder.path(), "train").unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["3", "1"]);
    for (split, what) in
        [("no", "it has bad, gone, test, train"), ("bad", "problem 4"), ("gone", "problem 9")]
    {
        let message = read(folder.path(), split).unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    }
}

#[test]
fn forms_to_the_byte() {
    let problems = read(folder().path(), "test").unwrap();
    let [one, two, three] = [&problems[0].1, &problems[1].1, &problems[2].1];
    assert_eq!(one.ask(), "Which is hard?\nContext: N/A\nOptions: (A) a rock (B) a sponge");
    assert_eq!(two.ask(), "Which is a noun?\nContext: Look: here.\nOptions: (A) run (B) blue (C) cat");
    assert_eq!(one.reply(Form::A), "The answer is A.");
    assert_eq!(one.reply(Form::Lea), "Hard things.\nSoft things. A rock is hard. The answer is A.");
    assert_eq!(one.reply(Form::Ale), "The answer is A. BECAUSE: Hard things.\nSoft things. A rock is hard.");
    assert_eq!(
        one.reply(Form::Lepa),
        "LECTURE: Hard things.\nSoft things.\nSOLUTION: A rock is hard.\n###\nANSWER: A."
    );
    assert_eq!(two.reply(Form::Lea), "The answer is C.");
    assert_eq!(two.reply(Form::Ale), "The answer is C.");
    assert_eq!(two.reply(Form::Lepa), "###\nANSWER: C.");
    assert_eq!(three.reply(Form::Lepa), "LECTURE: L.\n###\nANSWER: B.");
    assert_eq!(Form::named("QCM-LEPA").unwrap(), Form::Lepa);
    assert!(Form::named("LEPA").is_err());
}

#[test]
fn rows_can_be_trained_on() {
    let folder = folder();
    let path = folder.path().join("train.json");
    write(&read(folder.path(), "test").unwrap(), Form::Lea, &path).unwrap();
    let mut report = crate::data::Report::default();
    let rows = crate::data::Rows::open(&[path], &mut report).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(rows.len(), 3);
    let first = rows.read(0).unwrap();
    assert_eq!(first.images, ["1/image.png"]);
    assert!(first.turns[0][0].ends_with("(B) a sponge\n<image>"));
    assert!(rows.read(1).unwrap().images.is_empty());
}

#[test]
fn letters_are_found_by_the_rule() {
    let cases = [
        ("A", 2, Some(0)),
        ("B. there", 2, Some(1)),
        ("B.", 2, None),
        ("I think so. The answer is B.", 2, Some(1)),
        ("The answer is C.", 2, None),
        ("C", 2, None),
        ("C. The answer is A.", 2, None),
        ("The answer is A. The answer is B.", 2, None),
        ("The answer is A. The answer is A.", 2, None),
        ("the answer is A.", 2, None),
        ("The answer is A", 2, None),
        ("It is A rock. B", 2, None),
        ("", 2, None),
        ("E", 5, Some(4)),
    ];
    for (answer, choices, want) in cases {
        assert_eq!(extract(answer, choices), want, "{answer:?} of {choices}");
    }
}

#[test]
fn columns_of_the_table() {
    let problems = read(folder().path(), "test").unwrap();
    let answers = [("1", "The answer is A."), ("2", "A"), ("9", "A")];
    let answers = answers.map(|(id, answer)| (id.to_owned(), answer.to_owned())).into();
    let score = score(&problems, &answers);
    let share = |right, of| Share { right, of };
    assert_eq!((score.nat, score.soc, score.lan), (share(1, 1), share(0, 1), share(0, 1)));
    assert_eq!((score.txt, score.img, score.no), (share(0, 1), share(1, 1), share(0, 1)));
    assert_eq!((score.g1_6, score.g7_12), (share(1, 1), share(0, 2)));
    assert_eq!((score.all, score.failed), (share(1, 3), 1));
    assert!((score.all.percent() - 33.333).abs() < 0.001);
    assert_eq!(Share::default().percent(), 0.0);
}
