//! Runs of a task: that they learn what the samples hold, and nothing where the images are blank; that they resume, freeze and
//! are measured again.

use super::*;
use crate::classes::Classes;
use crate::data::{Fault, Labels, Part, Raw, RawImage};
use crate::evaluate::{Classifier, EvalSet};
use crate::model_folder::{HEAD_FILE, ModelFolder};
use crate::report::ClassRow;
use crate::task::Task;
use engine::Workspace;

const RED: [u8; 3] = [220, 30, 40];
const BLUE: [u8; 3] = [20, 50, 230];
const VARIANTS: usize = 4;

/// Samples in memory.
#[derive(Clone, Debug)]
struct Toy {
    samples: Vec<Raw>,
    images: usize,
}

impl Source for Toy {
    fn name(&self) -> String {
        "toy".into()
    }

    fn parts(&self) -> usize {
        1
    }

    fn images(&self) -> usize {
        self.images
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }
}

impl Part for Toy {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        Ok(self.samples[index].clone())
    }
}

/// A drawing around a colour.
fn drawing(colour: [u8; 3], variant: usize) -> RawImage {
    let shade = |at: usize| ((at * 7 + variant * 13) % 24) as u8;
    let rgb = (0..24 * 24).flat_map(|at| colour.map(|value| value - 12u8.min(value) + shade(at))).collect();
    RawImage::Drawing { side: 24, rgb, transparent: vec![false; 24 * 24] }
}

/// Colours of a sample's images, its text, its label.
type Case = (&'static [[u8; 3]], &'static str, &'static str);

/// Samples of these cases; of every case all variants.
fn toy(images: usize, cases: &[Case]) -> Arc<Toy> {
    let mut samples = Vec::new();
    for (index, &(colours, text, label)) in cases.iter().enumerate() {
        samples.extend((0..VARIANTS).map(|variant| Raw {
            key: format!("{index}/{variant}"),
            images: colours.iter().map(|&colour| drawing(colour, variant)).collect(),
            captions: vec![text.to_owned()],
            keywords: Vec::new(),
            labels: Labels { class: Some(label.to_owned()), ..Labels::default() },
        }));
    }
    Arc::new(Toy { samples, images })
}

/// Each task with samples, the share of them that the most frequent class has, and the share that the texts alone tell.
fn tasks() -> [(&'static str, Arc<Toy>, f64, f64); 5] {
    let [dark_red, dark_blue] = [&[[110, 15, 20]], &[[10, 25, 115]]];
    let questions: [Case; 8] = [
        (&[RED], "which colour?", "red"),
        (dark_red, "which colour?", "red"),
        (&[BLUE], "which colour?", "blue"),
        (dark_blue, "which colour?", "blue"),
        (&[RED], "how bright?", "light"),
        (dark_red, "how bright?", "dark"),
        (&[BLUE], "how bright?", "light"),
        (dark_blue, "how bright?", "dark"),
    ];
    let hypotheses: [Case; 4] = [
        (&[RED], "it is red", "entailment"),
        (&[BLUE], "it is red", "contradiction"),
        (&[RED], "it is old", "neutral"),
        (&[BLUE], "it is old", "neutral"),
    ];
    let pairs: [Case; 6] = [
        (&[RED, RED], "both are red", "true"),
        (&[RED, RED], "both are red", "true"),
        (&[RED, RED], "both are red", "true"),
        (&[RED, BLUE], "both are red", "false"),
        (&[BLUE, RED], "both are red", "false"),
        (&[BLUE, BLUE], "both are red", "false"),
    ];
    [
        ("classes", toy(1, &[(&[RED], "a picture", "red"), (&[BLUE], "a picture", "blue")]), 0.5, 0.5),
        ("vqa", toy(1, &questions), 0.25, 0.5),
        ("entailment", toy(1, &hypotheses), 0.5, 0.75),
        ("pair", toy(2, &pairs), 0.5, 0.5),
        // Clips of two frames, one pooler over both.
        ("classes", toy(2, &[(&[RED, RED], "a clip", "red"), (&[BLUE, BLUE], "a clip", "blue")]), 0.5, 0.5),
    ]
}

fn open_task(folder: &Path, kind: &str, source: &Arc<Toy>, sets: &[&str]) -> Run {
    let kind = format!("task.kind={kind}");
    let sets = [&[kind.as_str(), "augmentation.kind=none"], sets].concat();
    Run::open_on(source.clone(), None, config(folder, &sets), &Resume::Auto).unwrap()
}

fn measure(run: &Run, source: &Arc<Toy>) -> ClassRow {
    let mut sets = [EvalSet::of(source.clone(), run.config.data.clone())];
    let task = run.state.task.clone().unwrap();
    let floor = task.floor(source.as_ref(), 0.0).unwrap();
    run.class_rows(&task, &mut sets, floor.as_ref(), &Stop::default()).unwrap().remove(0)
}

#[test]
fn a_few_samples_are_learned_by_heart_unless_their_images_are_blank() {
    let sets = ["batch.size=16", "schedule.steps=150", "optimizer.learning_rate=4e-3", "checkpoint.every=0"];
    for (kind, source, majority, told) in tasks() {
        for blank in [false, true] {
            let folder = test_folder("task-learned");
            let blanks = format!("task.blank_images={blank}");
            let mut run = open_task(&folder, kind, &source, &[&sets[..], &[&blanks]].concat());
            run.train(&Stop::default()).unwrap();
            let last = &run.history[149];
            assert_eq!(last.contrastive_loss, 0.0, "{kind}");
            assert_eq!(last.caption_loss > 0.0, kind == "vqa", "{kind}");
            let row = measure(&run, &source);
            assert_eq!((row.count, row.known, row.majority), (source.samples.len(), row.count, majority), "{kind}");
            assert_eq!(row.floor, (kind != "classes").then_some(told), "{kind}");
            assert_eq!(row.top1, if blank { told } else { 1.0 }, "{kind} {blank}: {last:?}");
        }
    }
}

#[test]
fn resuming_a_task_equals_running_through_bit_for_bit() {
    let tasks = tasks();
    let choices: [(usize, &[&str]); 3] = [
        (0, &["compute.dtype=bf16", "optimizer.kind=adafactor", "task.label_smoothing=0.2"]),
        (1, &["batch.accumulation=2", "optimizer.layer_decay=0.7", "task.answers=2"]),
        (3, &["data.workers=2"]),
    ];
    for (task, sets) in choices {
        let (kind, source, ..) = &tasks[task];
        let (through, resumed) = (test_folder("task-through"), test_folder("task-resumed"));
        open_task(&through, kind, source, sets).train(&Stop::default()).unwrap();
        open_task(&resumed, kind, source, sets).train_to(5, &Stop::default()).unwrap();
        let mut run = open_task(&resumed, kind, source, sets);
        assert_eq!(run.state.progress.step, 5);
        run.train(&Stop::default()).unwrap();
        assert_eq!(losses(&through), losses(&resumed), "{kind}");
        assert!(saved(&through) == saved(&resumed), "{kind}");
        assert!(saved(&through).iter().any(|(name, _)| name == "task.json"));
    }
}

#[test]
fn a_batch_in_parts_has_the_gradient_of_the_whole() {
    let (kind, source, ..) = &tasks()[1];
    // Some answers are none of the classes, more of them in the first part than in the second.
    let mut source = Toy::clone(source);
    [0, 1, 2, 7].iter().for_each(|&index| source.samples[index].labels.class = Some(format!("maybe {index}")));
    let source = Arc::new(source);
    let gradient = |sets: &[&str]| {
        let folder = test_folder("task-parts");
        let sets = [sets, &["data.shuffle=false", "task.answers=4", "ema.decay=0"]].concat();
        let mut run = open_task(&folder, kind, &source, &sets);
        assert_eq!(run.state.task.as_ref().unwrap().classes.labels, ["blue", "dark", "light", "red"]);
        run.train_to(1, &Stop::default()).unwrap();
        (gradient_of(&run), run.history.pop().unwrap())
    };
    let (whole, record) = gradient(&["batch.size=15"]);
    let (parts, record_of_parts) = gradient(&["batch.size=5", "batch.accumulation=3"]);
    same_gradient(&whole, &parts);
    assert!((record.class_loss - record_of_parts.class_loss).abs() < 1e-5);
    assert!((record.caption_loss - record_of_parts.caption_loss).abs() < 1e-5);
    assert!((record.loss - record.class_loss - 2.0 * record.caption_loss).abs() < 1e-6);
    assert_eq!(record.tokens_per_second > 0.0, record.images_per_second > 0.0);
}

#[test]
fn what_a_task_does_not_reach_or_is_held_fast_stays_bit_for_bit() {
    let frozen: [(usize, &[&str]); 3] = [
        (0, &["text.", "text_decoder.", "logit_scale", "visual.proj", "visual.attn_pool."]),
        (2, &["text_decoder.text_projection", "logit_scale", "text.text_projection", "visual.proj"]),
        (3, &["visual."]),
    ];
    let tasks = tasks();
    for (task, starts) in frozen {
        let (kind, source, ..) = &tasks[task];
        let folder = test_folder("task-frozen");
        let held = if *kind == "pair" { "optimizer.scales={ visual = 0 }" } else { "optimizer.scales={}" };
        let mut run = open_task(&folder, kind, source, &["optimizer.weight_decay=0.5", "checkpoint.every=0", held]);
        let weights = |run: &Run| -> Vec<(String, Vec<f32>)> {
            let parameters = run.state.model.parameters();
            let entries = parameters.entries().iter();
            entries.map(|entry| (entry.name.clone(), parameters.read(&entry.name).unwrap())).collect()
        };
        let before = weights(&run);
        run.train_to(3, &Stop::default()).unwrap();
        for ((name, before), (_, after)) in before.iter().zip(weights(&run)) {
            let stays = starts.iter().any(|start| name.starts_with(start));
            if stays || name.starts_with("head.") || name.ends_with("mlp.c_fc.weight") {
                assert_eq!(*before == after, stays, "{kind} {name}");
            }
        }
        assert!(run.notes[0].starts_with("No loss reaches "), "{:?}", run.notes);
    }
}

#[test]
fn a_model_is_fine_tuned_at_another_size_and_measured_again_from_its_folder() {
    let (kind, source, ..) = &tasks()[2];
    let (folder, model) = (test_folder("task-folder"), test_folder("task-model"));
    test_model(&model, 3);
    let init = format!("model.init={:?}", model.display().to_string());
    let sets =
        format!("task.kind={kind}\n{init}\nmodel.overrides.vision.image_size=32\nbatch.size=8\nschedule.steps=20");
    let sets = [&sets, "schedule.warmup_steps=2\nema.decay=0.9\nlogging.tensorboard=false\naugmentation.kind=none"];
    let mut sets: Vec<String> = sets.join("\n").lines().map(str::to_owned).collect();
    sets.push(format!("run.out={:?}", folder.display().to_string()));
    let config = Config::load(None, &sets).unwrap();
    let mut run = Run::open_on(source.clone(), None, config.clone(), &Resume::None).unwrap();
    let start = Coca::open(&model, DType::F32, false).unwrap();
    let name = "visual.conv1.weight";
    assert_eq!(run.state.model.parameters().read(name).unwrap(), start.parameters().read(name).unwrap());
    assert_eq!(run.state.model.config().vision.image_size, 32);
    run.train(&Stop::default()).unwrap();
    let row = measure(&run, source);
    // Without a test set there is no table.
    assert_eq!(run.finish(&Stop::default()).unwrap(), "");
    assert!(folder.join("report.html").exists());

    let (opened, task) = ModelFolder::open_with_head(&folder, DType::F32).unwrap();
    let ModelFolder { model, tokenizer, queue } = &opened;
    let mut classifier = Classifier::new((model, tokenizer), queue, &Workspace::new(), &task, 5, false).unwrap();
    let again = classifier.measure(&mut EvalSet::of(source.clone(), config.data.clone()), None).unwrap();
    assert_eq!(ClassRow { floor: row.floor, ..again }, row);
    // Its head is beside an ordinary model.
    assert!(ModelFolder::open(&folder, DType::F32).is_ok());
    let text = crate::inspect::describe(&folder.join(MODEL_FOLDER)).unwrap();
    assert!(text.contains("head of the task entailment: 3 classes, contradiction, entailment, neutral"), "{text}");
    let error = classifier.measure(&mut EvalSet::of(tasks()[3].1.clone(), config.data.clone()), None).unwrap_err();
    assert!(error.to_string().contains("toy: a sample has 2 images, the head was trained on 1"), "{error}");
    std::fs::remove_file(folder.join(MODEL_FOLDER).join(HEAD_FILE)).unwrap();
    let error = ModelFolder::open_with_head(&folder, DType::F32).unwrap_err().to_string();
    assert!(error.contains("no head (head.safetensors): `coca finetune` trains one"), "{error}");
}

#[test]
fn answers_outside_the_classes_are_wrong_and_other_tasks_are_refused() {
    let (_, source, ..) = &tasks()[1];
    let folder = test_folder("task-other");
    let mut run = open_task(&folder, "vqa", source, &["schedule.steps=4"]);
    run.train(&Stop::default()).unwrap();
    let mut test = Toy::clone(source);
    for (index, raw) in test.samples.iter_mut().enumerate() {
        if index.is_multiple_of(2) {
            raw.labels.class = Some("maybe".into());
        }
        // All annotators say all that can be said.
        raw.labels.answers =
            ["blue", "dark", "light", "red"].into_iter().flat_map(|answer| [answer; 4]).map(str::to_owned).collect();
    }
    let row = measure(&run, &Arc::new(test));
    assert_eq!((row.count, row.known), (32, 16));
    assert!(row.top1 <= 0.5 && row.top5 == 0.5 && row.majority <= 0.5, "{row:?}");
    assert_eq!(row.accuracy, Some(1.0));
    drop(run);

    let elsewhere = test_folder("task-elsewhere");
    let fails_in = |folder: &Path, kind: &str, source: &Arc<Toy>, resume: &Resume| {
        let sets = [format!("task.kind={kind}")];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        Run::open_on(source.clone(), None, config(folder, &sets), resume).unwrap_err().to_string()
    };
    let fails = |kind: &str, source: &Arc<Toy>, resume: &Resume| fails_in(&folder, kind, source, resume);
    let error = fails("entailment", source, &Resume::Auto);
    assert!(error.contains("task.kind: \"vqa\" -> \"entailment\""), "{error}");
    let error = fails_in(&elsewhere, "entailment", source, &Resume::From(folder.to_path_buf()));
    assert!(error.starts_with("the checkpoint is of the task vqa on 1 images a sample"), "{error}");
    let error = fails("vqa", &tasks()[3].1, &Resume::None);
    assert!(error.contains("toy: a sample has 2 images, and task.kind = \"vqa\" reads 1"), "{error}");
    let error = fails("pretrain", &tasks()[3].1, &Resume::None);
    assert!(error.contains("task.kind = \"pretrain\" reads 1"), "{error}");
    let mut unlabelled = Toy::clone(source);
    unlabelled.samples.iter_mut().for_each(|raw| raw.labels.class = None);
    let error = fails("vqa", &Arc::new(unlabelled), &Resume::None);
    assert!(error.contains("no sample has a class, which the task vqa is about"), "{error}");
}

#[test]
fn the_paradigms_report_what_they_can_do() {
    use crate::config::Paradigm;
    for (paradigm, losses, tables) in [
        (Paradigm::SingleEncoder, [false, false, true], [true, false, false]),
        (Paradigm::DualEncoder, [true, false, false], [false, true, false]),
        (Paradigm::EncoderDecoder, [false, true, false], [false, false, true]),
        (Paradigm::Coca, [true, true, false], [false, true, true]),
    ] {
        let folder = test_folder("run-paradigm");
        let own = [
            "data.train=emoji:fxemoji",
            "schedule.steps=3",
            "logging.report=true",
            "evaluation.data=emoji:fresh-fxemoji",
        ];
        let mut run = open(&folder, &[paradigm.sets(), &own[..], &["evaluation.captions=1"]].concat());
        run.train(&Stop::default()).unwrap();
        assert_eq!(run.history[0].losses().map(|(_, loss)| loss != 0.0), losses, "{paradigm:?}");
        let now = run.evaluate_now(&Stop::default()).unwrap();
        assert!(now[0].0.ends_with("fresh-fxemoji"), "{now:?}");
        let table = run.finish(&Stop::default()).unwrap();
        assert_eq!(table.contains("emoji:fresh-fxemoji"), tables[0], "{paradigm:?} {table}");
        let report = std::fs::read(folder.join("report.json")).unwrap();
        let report: crate::report::ReportData = serde_json::from_slice(&report).unwrap();
        let found = [!report.classes.is_empty(), !report.retrieval.is_empty(), !report.captions.is_empty()];
        assert_eq!(found, tables, "{paradigm:?}");
        assert_eq!(report.classes.iter().map(|row| row.classes).max().unwrap_or(467), 467, "{paradigm:?}");
    }
}

#[test]
fn a_single_encoder_is_tested_on_the_styles_that_training_never_saw() {
    let folder = test_folder("task-styles");
    let mut run = open(&folder, &["task.kind=classes", "task.labels=group", "schedule.steps=2", "checkpoint.every=0"]);
    run.train(&Stop::default()).unwrap();
    let task = run.state.task.clone().unwrap();
    let Classes { labels, counts } = &task.classes;
    assert_eq!((labels.len(), counts.iter().sum::<usize>()), (9, 5945));
    let findings = run.class_findings(&task).unwrap();
    let names: Vec<&str> = findings.classes.iter().map(|row| row.set.as_str()).collect();
    assert_eq!(names, ["noto-v1", "fxemoji", "emojione-monotone", "fresh", "fresh-noto-v1", "fresh-fxemoji"]);
    let row = &findings.classes[1];
    assert_eq!((row.count, row.known, row.classes, row.seen), (467, 467, 9, crate::report::Seen::Concepts));
    assert_eq!(row.about, "a drawing style never seen");
    // What was kept is what is resumed.
    let json = serde_json::to_string(task.as_ref()).unwrap();
    let kept: Task = serde_json::from_str(&json).unwrap();
    assert_eq!(kept.resume(&run.config, run.source.as_ref()).unwrap(), *task);
}
