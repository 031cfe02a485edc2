//! The plot holds what it was given, at the lengths that its numbers have.

use super::*;

fn row(machine: &str, test: &str, rate: Option<f64>, ns: u64) -> Record {
    Record {
        run_id: machine.into(),
        cpu_info: machine.into(),
        build_commit: "abc".into(),
        isa: "neon".into(),
        n_threads: 4,
        model_type: "llava 7B Q4_K_M".into(),
        test: test.into(),
        median_ts: rate,
        median_ns: ns,
        ..Record::default()
    }
}

fn with_limit(row: Record, limit: &str, ns: u64) -> Record {
    Record {
        limit: Some(limit.into()),
        limit_ns: Some(ns),
        limit_share: Some(ns as f64 / row.median_ns as f64),
        flops: Some(6_000_000_000_000),
        bytes_read: Some(4_000_000_000),
        read_rate: Some(30e9),
        int8_rate: Some(1e12),
        f32_rate: Some(300e9),
        ..row
    }
}

/// Widths of the rectangles of `colour` and opacity 1.
fn bars(svg: &str, colour: &str) -> Vec<f64> {
    let end = format!("fill=\"{colour}\" fill-opacity=\"1\"/>");
    let lines = svg.lines().filter(|line| line.ends_with(&end));
    let width = |line: &str| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok();
    lines.filter_map(width).collect()
}

#[test]
fn every_series_and_test_is_there_and_lengths_are_those_of_the_numbers() {
    let rows = [
        row("Board & Co <1>", "pp512", Some(20.0), 1),
        row("Laptop", "pp512", Some(50.0), 1),
        row("Laptop", "image", None, 1_500_000_000),
        Record { peak_memory: Some(9), ..row("Laptop", "memory", None, 0) },
    ];
    let svg = draw(&rows);
    for text in [
        "Board &amp; Co &lt;1&gt;, neon, 4 threads, abc",
        "Laptop, neon, 4 threads, abc",
        ">pp512, llava 7B Q4_K_M: tokens per second<",
        ">image, llava 7B Q4_K_M: seconds, less is better<",
        ">20.0<",
        ">1.50<",
    ] {
        assert!(svg.contains(text), "no {text:?} in {svg}");
    }
    assert!(!svg.contains("memory,") && !svg.contains("Roofline"), "{svg}");
    // The first rectangle of a colour is the legend's.
    let (board, laptop) = (bars(&svg, COLOURS[0]), bars(&svg, COLOURS[1]));
    assert_eq!((board, laptop), (vec![12.0, 224.0], vec![12.0, 560.0, 560.0]));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    let open = svg.matches("<text").count();
    assert!(open > 5 && open == svg.matches("</text>").count());
}

#[test]
fn limits_are_drawn_behind_the_bars_and_as_a_roof() {
    let rows = [with_limit(row("Laptop", "pp512", Some(40.0), 10_000_000_000), "int8", 5_000_000_000)];
    let svg = draw(&rows);
    assert!(svg.contains(">40.0  (50 % of int8)<"), "{svg}");
    // The limit is twice as far.
    assert!(svg.contains("width=\"560.0\" height=\"18.0\" fill=\"#0072B2\" fill-opacity=\"0.25\""), "{svg}");
    assert!(svg.contains("width=\"280.0\" height=\"18.0\" fill=\"#0072B2\" fill-opacity=\"1\""), "{svg}");
    // 6 TOP in 10 s, 1500 operations a byte: a dot under a flat roof.
    let (dot, roof) = (svg.find("<circle").unwrap(), svg.matches("<polyline").count());
    assert!(svg[dot..].contains(">pp512<") && roof > 2, "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn odd_rows_do_no_harm() {
    assert!(draw(&[]).ends_with("</svg>\n"));
    let strange = Record { read_rate: Some(0.0), median_ts: Some(f64::NAN), ..row("x", "tg1", None, 1) };
    let svg = draw(&[strange, with_limit(row("y", "tg1", None, 1), "memory", 0)]);
    assert!(svg.contains("tg1"), "{svg}");
}

#[test]
fn a_plot_is_an_svg() {
    assert!(check(Path::new("b.SVG")).is_ok() && check(&std::env::temp_dir().join("b.svg")).is_ok());
    assert!(check(Path::new("no-such-folder/b.svg")).unwrap_err().to_string().contains("no folder"));
    assert!(check(Path::new("b.png")).unwrap_err().to_string().contains("runs.svg"));
}
