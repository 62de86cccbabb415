//! The profiler: every node once a run, sums that agree with the program, output that parses.

use crate::ops::{Add, Product, Scale, Total, f32s, push, queue};
use engine::{Compile, Profiler, Program, Roofline, Tape, Workspace};
use serde_json::Value;

const RUNS: usize = 3;

fn profile() -> (Program, Profiler) {
    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([64, 64])).expect("variable");
    let y = tape.span("tower", |tape| {
        let scaled = tape.span("first", |tape| push(tape, Scale(2.0), &[x]));
        tape.span("second", |tape| push(tape, Product(1.0), &[scaled, x]))
    });
    let sum = push(&mut tape, Add, &[y, x]);
    let loss = tape.span("loss", |tape| push(tape, Total, &[sum]));
    let seed = tape.input("seed", f32s([1])).expect("seed");
    tape.backward(&[(loss, seed)]).expect("backward");
    let mut program = Program::compile(tape, &Workspace::new(), Compile::default()).expect("compile");
    let mut profiler = Profiler::new(Roofline { flops_per_second: 1e9, bytes_per_second: 1e9 });
    for _ in 0..RUNS {
        profiler.start_run();
        program.run_observed(&queue(), false, &mut [&mut profiler]).expect("run");
    }
    (program, profiler)
}

#[test]
fn events_add_up_to_the_work_of_the_program() {
    let (program, profiler) = profile();
    let events = profiler.events();
    assert_eq!(events.len(), RUNS * program.len());
    assert!(events.windows(2).all(|pair| pair[1].start_us >= pair[0].start_us + pair[0].duration_us - 1e-3));
    let cost = program.cost().expect("cost");
    let flops: f64 = events.iter().map(|event| event.gflops * event.duration_us * 1e3).sum();
    let bytes: f64 = events.iter().map(|event| event.gbytes * event.duration_us * 1e3).sum();
    assert!((flops / RUNS as f64 - cost.flops).abs() < 1e-6 * cost.flops, "{flops} {cost:?}");
    assert!((bytes / RUNS as f64 - cost.bytes).abs() < 1e-6 * cost.bytes, "{bytes} {cost:?}");
    // Both ceilings are 1e9, and every op here moves four bytes an operation: memory is the limit.
    assert!(events.iter().all(|event| (event.roofline_percent - 100.0 * event.gbytes).abs() < 1e-6));
}

#[test]
fn the_table_accounts_for_all_time_by_op_and_by_span() {
    let (program, profiler) = profile();
    let table = profiler.table(1);
    let header = table.lines().next().expect("a line");
    assert!(header.starts_with("3 runs, ") && header.ends_with(&format!("{} nodes", program.len())), "{header}");
    let sections: Vec<&str> = table.split("\n\n").collect();
    assert_eq!(sections.len(), 3, "{table}");
    for section in &sections[1..] {
        let rows: Vec<Vec<&str>> = section.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let column = |from_end: usize| -> f64 {
            rows.iter().map(|row| row[row.len() - from_end].parse::<f64>().expect("a number")).sum()
        };
        assert_eq!(column(6) as usize, program.len(), "calls a run in {section}");
        assert!((column(4) - 100.0).abs() <= 0.05 * rows.len() as f64 + 1e-9, "percents in {section}");
    }
    assert!(sections[1].contains("forward product") && sections[1].contains("backward product"), "{table}");
    let spans: Vec<&str> = sections[2].lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(spans.contains(&"tower") && spans.contains(&"loss") && !table.contains("tower.first"), "{table}");
    assert!(profiler.table(2).contains("tower.first"));
}

#[test]
fn the_chrome_trace_and_the_json_lines_parse() {
    let (_, profiler) = profile();
    let trace: Value = serde_json::from_str(&profiler.chrome_trace()).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    assert_eq!(events.len(), profiler.events().len());
    for (event, recorded) in events.iter().zip(profiler.events()) {
        assert_eq!((event["ph"].as_str(), event["name"].as_str()), (Some("X"), Some(recorded.op)));
        assert_eq!(event["cat"].as_str(), Some(recorded.phase));
        // The parser is exact to a unit in the last place.
        for (time, recorded) in [(&event["ts"], recorded.start_us), (&event["dur"], recorded.duration_us)] {
            assert!((time.as_f64().expect("a number") - recorded).abs() <= 1e-12 * recorded, "{time} {recorded}");
        }
        assert_eq!(event["args"]["span"].as_str(), Some(recorded.span.as_str()));
        assert!(event["args"]["place"].as_str().is_some_and(|place| place.contains("profiler.rs:")));
    }
    let lines = profiler.json_lines();
    assert_eq!(lines.lines().count(), events.len());
    let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((first["op"].as_str(), first["span"].as_str()), (Some("scale"), Some("tower.first")));
    assert_eq!(first["inputs"].as_str(), Some("f32[64, 64]"));
}
