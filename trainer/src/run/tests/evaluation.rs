//! The end of a run: which sets it is tested on, what is shown of each, and how a signal ends it.

use super::*;
use crate::evaluate::Evaluator;
use crate::report::Seen;
use crate::run::findings::Findings;
use std::io::{BufRead, BufReader};

fn evaluator(run: &Run) -> Evaluator<'_> {
    Evaluator::new(&run.state.model, &run.state.tokenizer, &run.queue, run.stepper.workspace(), 64).unwrap()
}

#[test]
fn styles_and_fresh_concepts_are_measured_alike() {
    let folder = test_folder("run-findings");
    let run = open(&folder, &["evaluation.data=emoji:fresh-fxemoji"]);
    let mut evaluator = evaluator(&run);
    let sets = run.test_sets(&mut evaluator).unwrap().sets;
    let own = "emoji:fresh-fxemoji";
    let names: Vec<&str> = sets.iter().map(|(set, _)| set.name.as_str()).collect();
    assert_eq!(names, ["noto-v1", "fxemoji", "emojione-monotone", "fresh", "fresh-noto-v1", "fresh-fxemoji", own]);
    let mut findings = Findings::default();
    for (set, names) in sets.iter().filter(|(set, _)| set.name.ends_with("fxemoji")) {
        run.measure(&mut evaluator, set, names, 2, &mut findings).unwrap();
    }
    let wanted = [("fxemoji", Seen::Concepts), ("fresh-fxemoji", Seen::Nothing), (own, Seen::Unknown)];
    let zero_shot = findings.zero_shot.iter().map(|row| (row.set.as_str(), row.seen));
    assert!(zero_shot.eq(wanted[..2].iter().copied()), "every picture of the third has a name of its own");
    assert!(findings.retrieval.iter().map(|row| (row.set.as_str(), row.seen)).eq(wanted));
    assert!(findings.caption_scores.iter().map(|row| (row.set.as_str(), row.seen)).eq(wanted));
    assert_eq!((findings.captions.len(), findings.queries.len()), (6, 6));
    // Pixels have nothing to go by where a concept was never drawn, and choose among fewer in retrieval.
    let (top1, _) = findings.zero_shot[0].floor.unwrap();
    let (there, back) = findings.retrieval[0].floor.unwrap();
    assert!(there.at_1 > top1 && back.at_10 > there.at_1, "{top1} {there:?} {back:?}");
    assert!(findings.zero_shot[1].floor.is_none() && findings.retrieval[1..].iter().all(|row| row.floor.is_none()));
}

#[test]
fn data_of_ones_own_is_measured_beside_pairs_of_training() {
    let folder = test_folder("run-held-out");
    let sets = ["data.train=emoji:fxemoji", "evaluation.data=emoji:fresh-fxemoji", "data.max_bad_share=0.5"];
    let mut run = open(&folder, &sets);
    let stop = Stop::default();
    let now: Vec<String> = run.evaluate_now(&stop).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(now, ["retrieval of emoji:fresh-fxemoji", "retrieval of training pairs"]);
    stop.request();
    assert_eq!(run.evaluate_now(&stop).unwrap(), []);
    run.held_out = vec![Arc::new(TestSource::new(vec![Some(vec![Kind::Good, Kind::Corrupt, Kind::Good])]))];
    let findings = run.findings(&mut evaluator(&run)).unwrap();
    assert_eq!(findings.notes, ["1 of 3 samples of test are faulty and left out: 1 corrupt_image."]);
    let rows: Vec<_> = findings.retrieval.iter().map(|row| (row.set.as_str(), row.count, row.seen)).collect();
    assert_eq!(rows, [("test", 2, Seen::Unknown), ("training pairs", 256, Seen::Pairs)]);
    drop(run);
    // A name that is wrong is found before anything is trained.
    let error = Run::open(config(&folder, &["evaluation.data=nowhere.csv"]), &Resume::None).unwrap_err().to_string();
    assert!(error.starts_with("evaluation.data: nowhere.csv: "), "{error}");
}

#[test]
fn an_evaluation_that_fails_while_training_is_a_note() {
    let folder = test_folder("run-evaluation-fails");
    let mut run = open(&folder, &["data.train=emoji:fxemoji", "evaluation.every=1", "schedule.steps=3"]);
    run.held_out = vec![Arc::new(TestSource::new(vec![Some(vec![Kind::Corrupt])]))];
    assert_eq!(run.train(&Stop::default()).unwrap(), Ended::Steps);
    assert_eq!((run.history.len(), run.notes.len()), (3, 1));
    assert!(run.notes[0].starts_with("An evaluation while training failed: "), "{:?}", run.notes);
}

#[test]
fn test_sets_are_measured_without_a_report_too() {
    let folder = test_folder("run-unreported");
    let own = ["data.train=emoji:fxemoji", "schedule.steps=1", "schedule.warmup_steps=0", "task.kind=classes"];
    let mut run = open(&folder, &[&own[..], &["evaluation.data=emoji:fresh-fxemoji"]].concat());
    run.train(&Stop::default()).unwrap();
    let table = run.finish(&Stop::default()).unwrap();
    assert!(table.contains("emoji:fresh-fxemoji") && !folder.join("report.html").exists(), "{table}");
}

/// Two steps, and an evaluation that goes on until a signal comes.
const EVALUATED: [&str; 4] =
    ["data.train=emoji:fxemoji", "schedule.steps=2", "logging.report=true", "evaluation.data=emoji:all"];

/// `coca train` in the process that the next test signals.
#[test]
#[ignore = "run as a child process by the other tests"]
fn evaluated_command() {
    run_command(&EVALUATED);
}

#[test]
fn a_signal_during_the_evaluation_ends_it_and_it_can_be_had_again() {
    let folder = test_folder("run-evaluated");
    let mut command = test_child("run::tests::evaluation::evaluated_command");
    let command = command.env(CHILD_FOLDER, &*folder).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(|line| line.ok());
    assert!(lines.any(|line| line.starts_with("model written to ")));
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let last = lines.last().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(last.starts_with("stopped during the evaluation; the model is saved: `coca train "), "{last}");
    assert!(last.contains("`coca eval --model ") && !folder.join("report.html").exists(), "{last}");
    let again = [&EVALUATED[..3], &["evaluation.captions=0"]].concat();
    let mut run = open(&folder, &again);
    assert_eq!((run.state.progress.step, run.train(&Stop::default()).unwrap()), (2, Ended::Steps));
    run.finish(&Stop::default()).unwrap();
    assert!(folder.join("report.html").exists());
}
