mod device;
mod evaluation;
mod resume;
mod task;

use super::*;
use crate::config::CheckKind;
use crate::data::test_source::{Kind, TestSource};
use crate::model_folder::test_model;
use crate::{test_child, test_folder};
use engine::DType;
use engine::rng::Philox;
use model::config::{ClsMask, CocaConfig};
use model::{Coca, LOGIT_SCALE};
use std::path::PathBuf;
use std::process::Stdio;

/// The tiny model on the bundled emoji.
const TINY: &str = concat!(
    include_str!("../../../tests/tiny.toml"),
    r#"
vocabulary_size = 600
[batch]
size = 8
[schedule]
steps = 10
warmup_steps = 2
[checkpoint]
every = 3
[logging]
report = false
tensorboard = false
[compute]
device = "cpu"
"#
);

fn config(folder: &Path, sets: &[&str]) -> Config {
    let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    sets.push(format!("run.out={:?}", folder.display().to_string()));
    Config::parse(TINY, "tiny", &sets).unwrap()
}

fn open(folder: &Path, sets: &[&str]) -> Run {
    Run::open(config(folder, sets), &Resume::Auto).unwrap()
}

/// Every file of the newest checkpoint but those with the time and the folder in them.
fn saved(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let checkpoint = Checkpoints::latest(&folder.join(CHECKPOINT_FOLDER), |_| ()).unwrap().unwrap();
    assert!(checkpoint.files().count() >= 6);
    let names = checkpoint
        .files()
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "progress.json" && name != CONFIG_FILE);
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

/// The gradient of the last step.
fn gradient_of(run: &Run) -> Vec<f32> {
    let gradient = run.state.model.parameters().gradient().unwrap();
    gradient.read(0, gradient.bytes() / 4).unwrap()
}

/// Gradients that differ by rounding alone.
fn same_gradient(whole: &[f32], parts: &[f32]) {
    let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let difference: Vec<f32> = whole.iter().zip(parts).map(|(a, b)| a - b).collect();
    assert!(norm(&difference) < 1e-5 * norm(whole), "{} of {}", norm(&difference), norm(whole));
}

#[test]
fn a_batch_in_parts_has_the_gradient_of_the_whole() {
    let folder = test_folder("run-parts");
    let gradients = |sets: &[&str]| {
        let mut run = open(&folder, &[sets, &["augmentation.kind=none", "data.shuffle=false"]].concat());
        run.train_to(1, &Stop::default()).unwrap();
        let values = gradient_of(&run);
        let record = run.history.pop().unwrap();
        drop(run);
        std::fs::remove_dir_all(&*folder).unwrap();
        (values, record)
    };
    let (whole, record) = gradients(&["batch.size=12"]);
    let (parts, record_of_parts) = gradients(&["batch.size=4", "batch.accumulation=3"]);
    same_gradient(&whole, &parts);
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
        Stream::start(run.source.clone(), tokenizer, None, &model, &run.config, ledger, data::Position::default())
            .unwrap();
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
fn weights_that_no_loss_reaches_stay_as_they_are() {
    let contrastive_only = ["loss.caption_weight=0", "optimizer.weight_decay=0.5", "checkpoint.every=0"];
    let caption_only = ["loss.contrastive_weight=0", "optimizer.weight_decay=0.5", "checkpoint.every=0"];
    let factored = [&contrastive_only[..], &["batch.accumulation=2", "optimizer.kind=adafactor"]].concat();
    let text_head = "text.ln_final.*, text.text_projection (";
    let cases: [(&[&str], &str, &str); 3] = [
        (&contrastive_only, "text_decoder.* (", "text_decoder."),
        (&factored, "text_decoder.* (", "text_decoder."),
        (&caption_only, &format!("logit_scale, visual.proj, {text_head}"), "text.text_projection"),
    ];
    for (sets, named, idle) in cases {
        let folder = test_folder("run-unreached");
        let mut run = open(&folder, sets);
        assert!(run.notes[0].starts_with(&format!("No loss reaches {named}")), "{:?}", run.notes);
        let weights = |run: &Run| -> Vec<(String, Vec<f32>)> {
            let parameters = run.state.model.parameters();
            let entries = parameters.entries().iter();
            entries.map(|entry| (entry.name.clone(), parameters.read(&entry.name).unwrap())).collect()
        };
        let before = weights(&run);
        run.train_to(3, &Stop::default()).unwrap();
        let mut same = 0;
        for ((name, before), (_, after)) in before.iter().zip(weights(&run)) {
            let frozen = !run.state.model.parameters().find(name).unwrap().trainable;
            // What the caption loss has to say of the text's class row is zero, which is a gradient.
            assert!((*before == after) == frozen || name == "text.cls_emb", "{name} {sets:?}");
            same += usize::from(frozen && name.starts_with(idle));
        }
        assert!(same > 0, "{idle} {sets:?}");
    }
    let folder = test_folder("run-reached");
    assert_eq!(open(&folder, &[]).notes, [""; 0]);
}

#[test]
fn checks_and_profiles_see_every_pass() {
    for (accumulation, image_passes) in [(1, 1), (2, 4)] {
        let folder = test_folder("run-checks");
        let passes = format!("batch.accumulation={accumulation}");
        let mut run = open(&folder, &["batch.size=4", "logging.profile_steps=1", &passes]);
        let train_with = |run: &mut Run, kind: CheckKind, steps: u64| {
            run.config.compute.check = kind;
            run.stepper = Stepper::new(&run.config, None).unwrap();
            run.train_to(run.state.progress.step + steps, &Stop::default())
        };
        for kind in [CheckKind::Nan, CheckKind::Poison, CheckKind::Cpu] {
            train_with(&mut run, kind, 1).unwrap();
        }
        train_with(&mut run, CheckKind::None, 3).unwrap();
        let rows = run.profile_rows();
        let calls = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.calls);
        assert_eq!(calls("forward patchify"), Some(image_passes));
        assert_eq!(calls("forward contrastive"), Some(1));
        // With accumulation no pass but that of the contrastive loss alone reads the temperature.
        run.state.model.parameters().write(LOGIT_SCALE, &[f32::NAN]).unwrap();
        let error = train_with(&mut run, CheckKind::Nan, 1).unwrap_err().to_string();
        assert!(error.starts_with("contrastive: ") && error.contains("holds NaN"), "{error}");
    }
}

#[test]
fn a_run_of_another_model_is_not_resumed() {
    let folder = test_folder("run-other");
    open(&folder, &["schedule.steps=2"]).train(&Stop::default()).unwrap();
    let other = config(&folder, &["model.overrides.vision.layers=2"]);
    let error = Run::open(other, &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("vision.layers 1 instead of 2") && error.contains("--resume none"), "{error}");
}

#[test]
fn a_signal_finishes_the_step_and_saves() {
    let folder = test_folder("run-signal");
    let stop = Stop::default();
    let mut run = open(&folder, &[]);
    run.train_to(2, &stop).unwrap();
    // Step 2 is saved already, and not once more.
    let progress = || std::fs::read(folder.join("checkpoints/step-00000002/progress.json")).unwrap();
    let before = progress();
    stop.request();
    assert_eq!(run.train(&stop).unwrap(), Ended::Signal);
    assert_eq!(progress(), before);
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

#[test]
fn a_fault_among_a_few_samples_ends_no_run() {
    let folder = test_folder("run-fault");
    let sets = ["data.shuffle=false"];
    let mut run = open(&folder, &sets);
    let mut kinds = vec![Kind::Good; 30];
    kinds[3] = Kind::Corrupt;
    run.source = Arc::new(TestSource::new(vec![Some(kinds)]));
    run.train_to(2, &Stop::default()).unwrap();
    let notes = ["Faulty samples were skipped: 1 corrupt_image; faults.jsonl names them."];
    assert_eq!(run.notes, notes);
    drop(run);
    // A process that has nothing left to train knows of it too.
    let mut run = open(&folder, &sets);
    run.train_to(2, &Stop::default()).unwrap();
    assert_eq!(run.notes, notes);
}

#[test]
fn too_many_faults_end_a_run_that_is_saved() {
    let folder = test_folder("run-faults");
    let sets = ["data.shuffle=false", "data.max_bad_share=0.2"];
    let mut run = open(&folder, &sets);
    let mut kinds = vec![Kind::Good; 100];
    kinds[..20].fill(Kind::Corrupt);
    run.source = Arc::new(TestSource::new(vec![Some(kinds)]));
    // After 40 sound samples 20 of 60 are faulty.
    let error = run.train_to(5, &Stop::default()).unwrap_err().to_string();
    assert!(error.contains("20 of 60 samples are faulty"), "{error}");
    drop(run);
    assert_eq!(open(&folder, &sets).state.progress.step, 5);
}

#[test]
fn the_time_limit_ends_a_run_and_holds_over_resumes() {
    let folder = test_folder("run-minutes");
    let sets = ["schedule.minutes=0.002", "schedule.steps=1000000", "checkpoint.every=0"];
    let mut run = open(&folder, &sets);
    assert_eq!(run.train(&Stop::default()).unwrap(), Ended::Time);
    let step = run.state.progress.step;
    assert!(step > 0 && run.state.progress.training_seconds >= 0.12);
    assert_eq!(run.notes, [format!("Stopped by schedule.minutes after {step} steps.")]);
    drop(run);
    let mut run = open(&folder, &sets);
    assert_eq!((run.state.progress.step, run.train(&Stop::default()).unwrap()), (step, Ended::Time));
    assert_eq!(run.state.progress.step, step);
}

/// Changes to the default configuration for a run from the weights in a folder.
fn init_sets<'a>(init: &'a str, more: &[&'a str]) -> Vec<String> {
    let sets = ["batch.size=4", "schedule.steps=4", "schedule.warmup_steps=0", "logging.report=false"];
    [&sets, more].concat().into_iter().map(str::to_owned).chain([format!("model.init={init:?}")]).collect()
}

#[test]
fn weights_to_start_from_bring_architecture_and_tokenizer() {
    let (root, folder) = (test_folder("run-init"), test_folder("run-init-out"));
    let (init, other) = (root.join("init"), root.join("other"));
    let text = init.display().to_string();
    let made = test_model(&init, 3);
    let mut architecture = made.config().clone();
    (architecture.quick_gelu, architecture.image.mean) = (true, [0.5; 3]);
    architecture.text.cls_mask = ClsMask::Correct;
    let made = Coca::new(architecture.clone(), DType::F32, false).unwrap();
    made.initialize(3).unwrap();
    made.save(&init, None).unwrap();
    let open = |sets: &[&str]| {
        let out = format!("run.out={:?}", folder.display().to_string());
        Run::open(Config::load(None, &init_sets(&text, &[sets, &[out.as_str()]].concat()))?, &Resume::Auto)
    };
    // A preset of other means, by name or by folder, is refused, and overrides are not.
    std::fs::create_dir(&other).unwrap();
    let changed = CocaConfig { image: Default::default(), ..architecture.clone() };
    std::fs::write(other.join("open_clip_config.json"), changed.to_open_clip()).unwrap();
    let error = open(&[&format!("model.preset={:?}", other.display().to_string())]).unwrap_err().to_string();
    assert!(error.contains("image.mean [0.5,0.5,0.5] instead of [0.48145466,"), "{error}");
    assert!(error.ends_with("set model.preset to that folder") && !error.contains("quick_gelu"), "{error}");
    assert!(open(&["model.overrides.quick_gelu=false"]).unwrap().state.model.config() != &architecture);

    let mut run = open(&[]).unwrap();
    assert_eq!(run.state.model.config(), &architecture);
    let name = "text_decoder.text_projection";
    assert_eq!(run.state.model.parameters().read(name).unwrap(), made.parameters().read(name).unwrap());
    let tokenizer = Tokenizer::load(init.join("tokenizer.json")).unwrap();
    assert_eq!(run.state.tokenizer.encode("a red cat"), tokenizer.encode("a red cat"));
    run.train_to(2, &Stop::default()).unwrap();
    drop(run);
    // The checkpoint needs neither; only its own word is left.
    std::fs::remove_dir_all(&init).unwrap();
    let mut run = open(&[]).unwrap();
    assert_eq!((run.state.progress.step, run.state.model.config()), (2, &architecture));
    run.train(&Stop::default()).unwrap();
}

#[test]
fn weights_to_start_from_without_a_tokenizer_want_clips() {
    let (init, folder) = (test_folder("run-init-untold"), test_folder("run-init-untold-out"));
    test_model(&init, 3);
    std::fs::remove_file(init.join("tokenizer.json")).unwrap();
    let out = format!("run.out={:?}", folder.display().to_string());
    let config = Config::load(None, &init_sets(&init.display().to_string(), &[&out])).unwrap();
    let error = Run::open(config, &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json is missing, and a vocabulary of"), "{error}");
}

#[test]
fn only_the_training_split_leaves_something_unseen() {
    let folder = test_folder("run-unseen");
    for (train, held_out) in [("emoji", true), ("emoji:train", true), ("emoji:noto-v1", false), ("emoji:all", false)] {
        let run = open(&folder, &[&format!("data.train={train}")]);
        assert_eq!(run.holds_out_emoji(), held_out, "{train}");
    }
}

const COMMAND_SETS: [&str; 2] = ["schedule.steps=120", "checkpoint.every=0"];

/// `coca train` in the process that the next test signals.
#[test]
#[ignore = "run as a child process by the other tests"]
fn command() {
    run_command(&COMMAND_SETS);
}

/// `coca train` with the tiny model, in the folder that the test names.
fn run_command(sets: &[&str]) {
    let folder = PathBuf::from(std::env::var(CHILD_FOLDER).unwrap());
    let file = folder.join("tiny.toml");
    std::fs::write(&file, TINY).unwrap();
    let sets = sets.iter().map(|&set| set.to_owned()).collect();
    let config = crate::cli::ConfigSource { file: Some(file), sets, ..Default::default() };
    let args = crate::cli::TrainArgs { config, out: Some(folder), ..Default::default() };
    super::train(args.load().unwrap(), &args.resume).unwrap();
}

#[test]
fn a_signal_to_the_program_saves_and_the_rest_is_bit_for_bit() {
    let through = test_folder("run-unsignalled");
    open(&through, &COMMAND_SETS).train(&Stop::default()).unwrap();
    for signal in ["-INT", "-TERM"] {
        let folder = test_folder(&format!("run-signalled{signal}"));
        let steps = || crate::metrics::read(&folder.join(METRICS_FILE)).map_or(0, |records| records.len());
        let mut command = test_child("run::tests::command");
        let command = command.env(CHILD_FOLDER, &*folder).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while steps() < 3 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let sent = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success() && child.wait().unwrap().success(), "{signal}");
        let checkpoint = Checkpoints::latest(&folder.join(CHECKPOINT_FOLDER), |_| ()).unwrap().unwrap();
        let (last, ..) = *losses(&folder).last().unwrap();
        assert!(checkpoint.step() == last + 1 && last + 1 < 120, "{signal}: {} after {last}", checkpoint.step());
        open(&folder, &COMMAND_SETS).train(&Stop::default()).unwrap();
        assert_eq!(losses(&through), losses(&folder), "{signal}");
        assert!(saved(&through) == saved(&folder), "{signal}");
    }
}
