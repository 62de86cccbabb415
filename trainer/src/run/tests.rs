use super::*;
use crate::{test_child, test_folder};
use engine::rng::Philox;
use std::process::Stdio;

/// A model of a few thousand weights on the bundled emoji; a step takes milliseconds.
const TINY: &str = r#"
[model]
preset = "emoji"
[model.overrides]
embed_dim = 32
vision = { image_size = 24, layers = 1, width = 32, heads = 2, mlp_width = 64 }
pooler = { layout = "open_clip", queries = 4, heads = 2 }
text = { layers = 1, width = 32, heads = 2, mlp_width = 64, vocabulary_size = 600, context_length = 16 }
decoder = { layers = 1, width = 32, heads = 2, mlp_width = 64 }
[batch]
size = 8
[schedule]
steps = 10
warmup_steps = 2
[checkpoint]
every = 3
[ema]
decay = 0.9
[logging]
report = false
tensorboard = false
"#;

fn config(folder: &Path, sets: &[&str]) -> Config {
    let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    sets.push(format!("run.out={:?}", folder.display().to_string()));
    Config::parse(TINY, "tiny", &sets).unwrap()
}

fn open(folder: &Path, sets: &[&str]) -> Run {
    Run::open(config(folder, sets), &Resume::Auto).unwrap()
}

/// Every file of the newest checkpoint but the one with the time in it.
fn saved(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let checkpoint = Checkpoints::latest(&folder.join(CHECKPOINT_FOLDER), |_| ()).unwrap().unwrap();
    assert!(checkpoint.files().count() >= 6);
    let names = checkpoint.files().map(|(name, _)| name.to_owned()).filter(|name| name != "progress.json");
    names.map(|name| (name.clone(), checkpoint.read(&name).unwrap())).collect()
}

/// Step and losses of every line of the metrics.
fn losses(folder: &Path) -> Vec<(u64, u64, u64, u64)> {
    let records = crate::metrics::read(&folder.join(METRICS_FILE)).unwrap();
    let bits = |record: &StepRecord| {
        (record.step, record.loss.to_bits(), record.grad_norm.to_bits(), record.logit_scale.to_bits())
    };
    records.iter().map(bits).collect()
}

#[test]
fn resuming_at_step_5_equals_running_through_bit_for_bit() {
    let choices: [&[&str]; 3] = [
        &["compute.dtype=f32"],
        &["compute.dtype=bf16", "optimizer.kind=adafactor", "data.workers=3"],
        &["batch.accumulation=2", "compute.threads=1"],
    ];
    for sets in choices {
        let (through, resumed) = (test_folder("run-through"), test_folder("run-resumed"));
        assert_eq!(open(&through, sets).train(&Stop::default()).unwrap(), Ended::Steps);
        assert_eq!(open(&resumed, sets).train_to(5, &Stop::default()).unwrap(), Ended::Steps);
        let mut run = open(&resumed, &[sets, &["compute.threads=2", "data.workers=1"]].concat());
        assert_eq!(run.state.progress.step, 5);
        run.train(&Stop::default()).unwrap();
        assert_eq!(losses(&through).len(), 10);
        assert_eq!(losses(&through), losses(&resumed), "{sets:?}");
        assert!(saved(&through) == saved(&resumed), "{sets:?}");
    }
}

#[test]
fn a_batch_in_parts_has_the_gradient_of_the_whole() {
    let folder = test_folder("run-parts");
    let gradients = |sets: &[&str]| {
        let mut run = open(&folder, &[sets, &["augmentation.kind=none", "data.shuffle=false"]].concat());
        run.train_to(1, &Stop::default()).unwrap();
        let gradient = run.state.model.parameters().gradient().unwrap();
        let values = gradient.read::<f32>(0, gradient.bytes() / 4).unwrap();
        let record = run.history.pop().unwrap();
        drop(run);
        std::fs::remove_dir_all(&*folder).unwrap();
        (values, record)
    };
    let (whole, record) = gradients(&["batch.size=12"]);
    let (parts, record_of_parts) = gradients(&["batch.size=4", "batch.accumulation=3"]);
    let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let difference: Vec<f32> = whole.iter().zip(&parts).map(|(a, b)| a - b).collect();
    assert!(norm(&difference) < 1e-5 * norm(&whole), "{} of {}", norm(&difference), norm(&whole));
    assert!((record.contrastive_loss - record_of_parts.contrastive_loss).abs() < 1e-5);
    assert!((record.caption_loss - record_of_parts.caption_loss).abs() < 1e-5);
}

#[test]
fn sixty_four_pairs_are_learned_by_heart() {
    let folder = test_folder("run-overfit");
    let sets = [
        "batch.size=64",
        "data.train=emoji:fxemoji",
        "data.shuffle=false",
        "augmentation.kind=none",
        "schedule.steps=250",
        "optimizer.learning_rate=4e-3",
        "optimizer.weight_decay=0",
        "ema.decay=0",
        "checkpoint.every=0",
    ];
    let mut run = open(&folder, &sets);
    let model = run.state.model.config().clone();
    let ledger = Ledger::new(0.0);
    let tokenizer = Arc::new(run.state.tokenizer.clone());
    let mut stream =
        Stream::start(run.source.clone(), tokenizer, &model, &run.config, ledger, data::Position::default()).unwrap();
    let batch = [stream.next().unwrap()];
    let mut last = Gradient::default();
    for step in 0..250 {
        last = run.stepper.run(&run.queue, &run.state.model, &batch, &mut []).unwrap();
        let norm = reduce::gradient_norm(&run.queue, run.state.model.parameters()).unwrap();
        let rate = schedule::learning_rate(&run.config.schedule, 4e-3, step);
        run.state.update(&run.queue, &run.config, rate, norm).unwrap();
        run.state.progress.step += 1;
    }
    // ln 64 = 4.2 and ln 600 = 6.4 at the start.
    assert!(last.losses.contrastive < 0.1 && last.losses.caption < 0.1, "{last:?}");
}

#[test]
fn steps_that_are_not_finite_change_nothing_and_end_the_run_if_they_go_on() {
    let folder = test_folder("run-not-finite");
    let mut run = open(&folder, &["schedule.steps=100"]);
    let name = "visual.proj";
    let mut values = run.state.model.parameters().read(name).unwrap();
    values[0] = f32::NAN;
    run.state.model.parameters().write(name, &values).unwrap();
    let others = run.state.model.parameters().read("visual.conv1.weight").unwrap();
    let error = run.train(&Stop::default()).unwrap_err().to_string();
    assert!(error.starts_with("20 steps in a row up to step 19 were not finite"), "{error}");
    assert_eq!(run.state.model.parameters().read("visual.conv1.weight").unwrap(), others);
    assert!(run.history.iter().all(|record| record.skipped));
}

#[test]
fn a_run_of_another_model_is_not_resumed() {
    let folder = test_folder("run-other");
    open(&folder, &["schedule.steps=1"]).train(&Stop::default()).unwrap();
    let other = config(&folder, &["model.overrides.vision.layers=2"]);
    let error = Run::open(other, &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("weights.f32 has") && error.contains("--resume none"), "{error}");
}

#[test]
fn a_signal_finishes_the_step_and_saves() {
    let folder = test_folder("run-signal");
    let stop = Stop::default();
    let mut run = open(&folder, &[]);
    run.train_to(2, &stop).unwrap();
    stop.request();
    assert_eq!(run.train(&stop).unwrap(), Ended::Signal);
    drop(run);
    assert_eq!(open(&folder, &[]).state.progress.step, 2);
}

const CHILD_FOLDER: &str = "COCA_TEST_RUN_FOLDER";
const CHILD_STEPS: &str = "schedule.steps=120";

/// The process that the next test kills.
#[test]
#[ignore = "run as a child process by the other tests"]
fn child() {
    let folder = PathBuf::from(std::env::var(CHILD_FOLDER).unwrap());
    open(&folder, &[CHILD_STEPS]).train(&Stop::default()).unwrap();
}

#[test]
fn killing_a_run_twenty_times_ends_in_the_same_weights() {
    let (through, killed) = (test_folder("run-unkilled"), test_folder("run-killed"));
    open(&through, &[CHILD_STEPS]).train(&Stop::default()).unwrap();
    let steps = || crate::metrics::read(&killed.join(METRICS_FILE)).map_or(0, |records| records.len());
    let mut random = Philox::new(std::process::id().into(), 0);
    let start = || {
        let mut command = test_child("run::tests::child");
        command.env(CHILD_FOLDER, &*killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    for kill in 0..20 {
        let mut child = start();
        // Wait until it has trained beyond where the last one came to, then a moment longer.
        let goal = (kill + 1) * 5;
        while steps() < goal && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(random.below(30_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(steps() >= 100);
    assert!(start().wait().unwrap().success());
    assert_eq!(losses(&through), losses(&killed));
    assert!(saved(&through) == saved(&killed));
}
