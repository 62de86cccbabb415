//! The program itself: what it prints, what it writes, and how it refuses.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn coca(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coca"))
        .args(arguments)
        .env_remove("COCA_ISA")
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What a command prints; it must succeed.
fn succeed(arguments: &[&str]) -> String {
    let output = coca(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// What a command says on stderr; it must fail as a command does, not by a panic.
fn fail(arguments: &[&str]) -> String {
    let output = coca(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stdout(&output));
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("coca-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_printed_configuration_is_a_configuration() {
    let folder = Folder::new("program");
    let file = folder.path("run.toml");
    let sets = ["--set", "optimizer.kind=adafactor", "--set", "model.overrides.vision.layers=2"];
    let documented = succeed(&[&["config"], &sets[..]].concat());
    std::fs::write(&file, documented).unwrap();
    let again = succeed(&["config", &file, "--plain"]);
    assert_eq!(again, succeed(&[&["config", "--plain"], &sets[..]].concat()));
    assert!(again.contains("kind = \"adafactor\"\n"));
}

#[test]
fn errors_are_one_line_on_stderr_with_a_status() {
    let cases: [(&[&str], &str); 3] = [
        (
            &["config", "--set", "optimizer.betta1=0.5"],
            "error: --set optimizer.betta1=0.5: there is no key 'optimizer.betta1'; did you mean optimizer.beta1?\n",
        ),
        (&["config", "nowhere.toml"], "error: nowhere.toml: No such file or directory (os error 2)\n"),
        (&["inspect", "nowhere"], "error: nowhere: No such file or directory (os error 2)\n"),
    ];
    for (arguments, message) in cases {
        let output = coca(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stderr), message);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn doctor_names_what_it_uses() {
    let output = Command::new(env!("CARGO_BIN_EXE_coca"))
        .arg("doctor")
        .envs([("COCA_ISA", "scalar"), ("COCA_THREADS", "1")])
        .output()
        .unwrap();
    let text = stdout(&output);
    assert!(text.contains("(used: scalar, set by COCA_ISA)") && text.contains("\nthreads       1 of "), "{text}");
    assert!(text.contains("\nGPU") && text.contains("\nmeasured peak "), "{text}");
}

/// A stand-in for NVIDIA's driver library, from the engine's tests; its folder.
fn stub_driver(folder: &Folder) -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/stub/libcuda.rs");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    for name in ["libcuda.so.1", "libcuda.so"] {
        let arguments = ["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "cuda", "-A", "warnings", "-o"];
        let status =
            Command::new(&compiler).args(arguments).arg(folder.path(name)).arg(source).status().expect("rustc");
        assert!(status.success(), "the stub compiles");
    }
    folder.0.display().to_string()
}

#[test]
fn doctor_and_training_say_the_same_of_a_gpu_that_cannot_be_used() {
    let folder = Folder::new("stub");
    let library = stub_driver(&folder);
    let run = |arguments: &[&str], settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coca"));
        let output = command.args(arguments).env("LD_LIBRARY_PATH", &library).envs(settings.iter().copied()).output();
        let output = output.expect("the program starts");
        (stdout(&output), String::from_utf8(output.stderr).expect("UTF-8"), output.status.code())
    };
    let out = folder.path("run");
    let train = ["train", "--device", "cuda", "--set", "batch.size=2", "--out", &out];
    let (settings, sentence) = ([("STUB_INIT", "100")], "the NVIDIA driver is installed but sees no GPU.");
    let (text, ..) = run(&["doctor"], &settings);
    assert!(text.contains(&format!("\nGPU           none: {sentence}\n")), "{text}");
    let (_, error, code) = run(&train, &settings);
    let refusal = "With \"auto\" or \"cpu\" it runs on the processor.";
    assert_eq!((code, error), (Some(1), format!("error: compute.device = \"cuda\": {sentence} {refusal}\n")));
    let (_, error, code) = run(&["compare-devices", "--steps", "1"], &settings);
    assert_eq!((code, error), (Some(1), format!("error: {sentence}\n")));
    if let Some(compiler) =
        engine::cuda::compiler_or_skip("doctor_and_training_say_the_same_of_a_gpu_that_cannot_be_used")
    {
        let path = compiler.nvrtc().path().display().to_string();
        let (text, ..) = run(&["doctor"], &[("STUB_VERSION", "13000"), ("COCA_NVRTC", &path)]);
        assert!(
            text.contains("\nGPU driver    CUDA 13.0\nGPU           Stub GPU, compute capability 9.0, 8.0 GiB\n"),
            "{text}"
        );
        assert!(text.contains(&path), "{text}");
        // A compiler that is newer than the driver makes code that it does not run.
        let (text, ..) = run(&["doctor"], &[("STUB_VERSION", "12040"), ("COCA_NVRTC", &path)]);
        assert!(
            compiler.nvrtc().version().0 == 12 || text.contains("the GPU's driver runs code of CUDA 12.4"),
            "{text}"
        );
    }
}

/// The tiny model for few captions.
const TINY: &str = concat!(
    include_str!("tiny.toml"),
    r#"
vocabulary_size = 520
[batch]
size = 4
[schedule]
steps = 5
warmup_steps = 1
[checkpoint]
every = 2
"#
);

/// Twelve pictures in one colour each, as a folder with captions; every caption stands under two of them.
fn pictures(folder: &Path) -> Vec<(String, String)> {
    std::fs::create_dir_all(folder).unwrap();
    let names = ["a red square", "a green square", "a blue square", "a red wall", "a green wall", "a blue wall"];
    let picture = |index: usize| {
        let path = folder.join(format!("{index:02}.png"));
        let mut colour = [40 * (index / 6) as u8; 3];
        colour[index % 3] = 250 - 10 * (index % 6) as u8;
        let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), 30, 26);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&colour.repeat(30 * 26)).unwrap();
        std::fs::write(path.with_extension("txt"), names[index % 6]).unwrap();
        (path.display().to_string(), names[index % 6].to_owned())
    };
    (0..12).map(picture).collect()
}

/// The header of a safetensors file: name to dtype, shape and place.
fn header(path: &str) -> Map<String, Value> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut tensors: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    tensors.remove("__metadata__");
    tensors
}

fn shape(tensors: &Map<String, Value>, name: &str) -> Vec<u64> {
    assert_eq!(tensors[name]["dtype"], "F32", "{name}");
    tensors[name]["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).collect()
}

#[test]
fn a_model_is_trained_and_used() {
    let folder = Folder::new("whole");
    let (data, run, file) = (folder.path("pictures"), folder.path("run"), folder.path("tiny.toml"));
    let pairs = pictures(Path::new(&data));
    // Pictures of one's own to be tested on, one of which is none.
    let held_out = folder.path("held out");
    pictures(Path::new(&held_out));
    for (name, text) in [("hole.png", "no picture"), ("hole.txt", "a hole")] {
        std::fs::write(Path::new(&held_out).join(name), text).unwrap();
    }
    let sources = format!("[data]\ntrain = {data:?}\nmax_bad_share = 0.5\n[evaluation]\ndata = {held_out:?}\n");
    std::fs::write(&file, format!("{TINY}{sources}")).unwrap();

    let plan = succeed(&["plan", &file, "--memory", "1GiB"]);
    assert!(plan.contains("parameters"), "{plan}");
    succeed(&["train", &file, "--out", &run]);
    assert_eq!(std::fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap().lines().count(), 5);
    let page = std::fs::read_to_string(format!("{run}/report.html")).unwrap();
    assert!(
        page.contains("<h2>Learning</h2>") && page.contains("<h2>Retrieval</h2>") && page.contains("<img src=\"data:")
    );
    assert!(page.contains("Data of your own") && page.contains("Pairs of the training data"));
    assert!(page.contains("held out are faulty and left out: 1 corrupt_image."));
    for outside in ["http:", "https:", "<script", "<link", "@import", "href=", "src=\"/"] {
        assert!(!page.contains(outside), "the page refers to something outside: {outside}");
    }
    // A run that is over is not trained again, only written out.
    succeed(&["train", &file, "--out", &run]);
    assert_eq!(std::fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap().lines().count(), 5);

    let model = format!("{run}/model");
    let weights = header(&format!("{model}/open_clip_model.safetensors"));
    assert_eq!(shape(&weights, "logit_scale"), [0; 0]);
    assert_eq!(shape(&weights, "text.token_embedding.weight"), [520, 32]);
    let inspected = succeed(&["inspect", &model]);
    assert!(inspected.contains("token_embedding"), "{inspected}");

    let json = folder.path("figures.json");
    let evaluate = |task: &str, more: &[&str]| -> (String, Value) {
        let text = succeed(&[&["eval", task, "--model", &model, "--data", &data, "--json", &json], more].concat());
        (text, serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap())
    };
    let (text, figures) = evaluate("zero-shot", &[]);
    let set = &figures["sets"][0];
    assert!(text.starts_with("zero-shot") && text.lines().count() == 2, "{text}");
    assert_eq!((&figures["task"], &set["count"], &set["classes"]), (&"zero-shot".into(), &12.into(), &6.into()));
    let shares = ["top1", "top5", "mean_per_class"].map(|name| set[name].as_f64().unwrap());
    assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)) && shares[0] == shares[2], "{figures}");
    let (text, figures) = evaluate("retrieval", &["--batch-size", "5"]);
    let set = &figures["sets"][0];
    assert!(text.starts_with("retrieval") && set["images"] == 12 && set["texts"] == 12, "{text}");
    let (text, figures) = evaluate("caption", &[]);
    let names = ["exact %", "BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D"];
    assert!(names.iter().all(|name| text.lines().next().unwrap().contains(name)), "{text}");
    let set = &figures["sets"][0];
    assert!(set["count"] == 12 && set["BLEU-2"].is_number() && set["domain"].is_null(), "{figures}");

    // A table with its own columns, and a picture that cannot be read: counted, and shown by kind.
    let table = folder.path("table.csv");
    let rows: String = pairs.iter().map(|(image, text)| format!("{text};{image}\n")).collect();
    std::fs::write(&table, format!("text;picture\n{rows}a hole;{table}\n")).unwrap();
    let columns =
        ["--set", "data.separator=;", "--set", "data.image_column=picture", "--set", "data.caption_column=text"];
    let allowed = [&columns[..], &["--set", "data.max_bad_share=0.5", "--data", &table]].concat();
    let task = ["eval", "retrieval", "--model", &model, "--json", &json];
    let text = succeed(&[&task[..], &allowed].concat());
    assert!(text.ends_with("table.csv: skipped 1 of 13 samples: 1 corrupt_image\n"), "{text}");
    let figures: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let set = &figures["sets"][0];
    assert_eq!((&set["images"], &set["skipped"]["corrupt_image"]), (&12.into(), &1.into()));
    let refused = fail(&[&task[..], &columns, &["--data", &table]].concat());
    assert!(refused.contains("1 of 13 samples are faulty (1 corrupt_image)"), "{refused}");

    let checked = coca(&[&["data", "check", &table], &columns[..]].concat());
    assert!(checked.status.code() == Some(1) && stdout(&checked).ends_with("a run would stop\n"), "{checked:?}");
    assert!(succeed(&["data", "check", &data]).ends_with("a run would go on\n"));

    let images: Vec<&str> = pairs.iter().map(|(image, _)| image.as_str()).collect();
    let (texts, features) = (folder.path("texts.txt"), folder.path("features.safetensors"));
    std::fs::write(&texts, pairs.iter().map(|(_, text)| format!("{text}\n")).collect::<String>()).unwrap();
    let embed = ["embed", "--model", &model, "--texts", &texts, "--pairs", "--out", &features, "--images"];
    succeed(&[&embed, &images[..]].concat());
    let tensors = header(&features);
    assert_eq!(tensors.len(), 5, "{tensors:?}");
    assert_eq!((shape(&tensors, "image_features"), shape(&tensors, "text_features")), (vec![12, 32], vec![12, 32]));
    assert_eq!((shape(&tensors, "contrastive_loss"), shape(&tensors, "caption_loss")), (vec![], vec![]));
    let logits = shape(&tensors, "logits");
    assert!(logits.len() == 3 && logits[0] == 12 && (4..16).contains(&logits[1]) && logits[2] == 520, "{logits:?}");

    let captions = succeed(&[&["caption", "--model", &model], &images[..2]].concat());
    let lines: Vec<&str> = captions.lines().collect();
    assert_eq!(lines.len(), 2, "{captions}");
    assert!(lines.iter().zip(&images).all(|(line, image)| line.starts_with(&format!("{image}\t"))), "{captions}");
    let caption = |flags: &[&str]| succeed(&[&["caption", "--model", &model, images[0]], flags].concat());
    for flags in [&["--preset", "openclip-3"][..], &["--beams", "1"], &["--preset", "openclip-4", "--beams", "3"]] {
        assert_eq!(caption(flags).lines().count(), 1, "{flags:?}");
    }
    let drawn = ["--prompt", "a red", "--top-k", "40", "--temperature", "3", "--seed"];
    let [one, again, other] = ["1", "1", "2"].map(|seed| caption(&[&drawn[..], &[seed]].concat()));
    assert!(one.starts_with(&format!("{}\ta red", images[0])) && one == again && one != other, "{one}{other}");
    let refused = fail(&["caption", "--model", &model, images[0], "--top-p", "1.5"]);
    assert!(refused.contains("top-p needs a mass in (0, 1]"), "{refused}");
    let refused = fail(&["eval", "retrieval", "--model", &model, "--data", &data, "--beams", "2"]);
    assert!(refused.contains("no captions are generated for this task"), "{refused}");
    assert!(fail(&["caption", "--model", &model, &texts]).contains("texts.txt: the image is no PNG"));
}

/// The bytes that a figure such as `1.5 MiB` stands for.
#[cfg(target_os = "linux")]
fn in_bytes(figure: &str, unit: &str) -> f64 {
    let power = ["B", "KiB", "MiB", "GiB"].iter().position(|&known| known == unit).expect("a unit");
    figure.parse::<f64>().expect("a number") * 1024f64.powi(power as i32)
}

/// One run that generates captions of many images at once, one that trains in parts and in bf16.
#[test]
#[cfg(target_os = "linux")]
fn the_planned_peak_is_that_of_the_whole_run() {
    let folder = Folder::new("peak");
    let data = folder.path("pictures");
    pictures(Path::new(&data));
    let captions = ["batch.size=32", "ema.decay=0.9", "evaluation.batch_size=96"];
    let parts = [
        "batch.size=96",
        "batch.accumulation=2",
        "compute.dtype=bf16",
        "optimizer.kind=adafactor",
        "evaluation.batch_size=4",
    ];
    for (name, sets) in [("captions", &captions[..]), ("parts", &parts)] {
        let train = format!("data.train={data}");
        let always = [&train, "schedule.steps=2", "schedule.warmup_steps=1"];
        let sets: Vec<&str> = always.iter().chain(sets).flat_map(|set| ["--set", set]).collect();
        let plan = succeed(&[&["plan", "--memory", "1GiB"], &sets[..]].concat());
        let together = plan.lines().find(|line| line.starts_with("together")).expect("a sum");
        let [_, figure, unit, ..] = together.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{together}") };
        let out = folder.path(name);
        succeed(&[&["train", "--out", &out], &sets[..]].concat());
        let report = std::fs::read(format!("{out}/report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        let held = report["facts"]["peak_memory"].as_f64().unwrap();
        let ratio = held / in_bytes(figure, unit);
        println!("{name}: planned {figure} {unit}, held {held:.0} bytes, ratio {ratio:.3}");
        assert!((0.9..1.1).contains(&ratio), "{name}: {held} bytes are held, {ratio:.3} of what is planned:\n{plan}");
    }
}

#[test]
fn a_pinned_run_follows_open_clips_trainer() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/pinned");
    let folder = Folder::new("pinned");
    let (model, pairs, out) = (
        fixture.join("model").display().to_string(),
        fixture.join("pairs.csv").display().to_string(),
        folder.path("run"),
    );
    // One batch, as it is: what the learning rate, decay and clipping of the fixture's README say.
    let mut arguments = vec!["train".to_owned(), "--init".into(), model, "--out".into(), out.clone()];
    for set in [
        &format!("data.train={pairs}"),
        "data.shuffle=false",
        "augmentation.kind=none",
        "batch.size=6",
        "optimizer.learning_rate=0.001",
        "optimizer.beta2=0.98",
        "optimizer.epsilon=0.000001",
        "optimizer.weight_decay=0.2",
        "optimizer.clip_norm=1",
        "schedule.kind=constant",
        "schedule.warmup_steps=0",
        "schedule.steps=10",
        "logging.report=false",
    ] {
        arguments.extend(["--set".to_owned(), set.to_owned()]);
    }
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let lines = |path: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (ours, theirs) = (lines(&Path::new(&out).join("metrics.jsonl")), lines(&fixture.join("steps.jsonl")));
    assert_eq!((ours.len(), theirs.len()), (10, 10));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // Both are f32; rounding grows from step to step.
        for key in ["step", "loss", "contrastive_loss", "caption_loss", "grad_norm", "logit_scale"] {
            let [a, b] = [ours, theirs].map(|line| line[key].as_f64().unwrap());
            assert!(
                (a - b).abs() <= 1e-4 * b.abs().max(1.0),
                "{key}: {a} here, {b} in open_clip, step {}",
                ours["step"]
            );
        }
    }
}
