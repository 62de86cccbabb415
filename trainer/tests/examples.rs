//! The examples of `--help`, run as they stand, in a folder with tiny data of the names that they use.

use clap::CommandFactory;
use engine::cuda::Detected;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Makes any training small enough for a test.
const TINY: &str = " --set model.preset=emoji --set model.tokenizer=captions --set data.train=pictures --set batch.size=4 \
    --set batch.accumulation=1 --set schedule.steps=2 --set schedule.warmup_steps=1 --set logging.report=false \
    --set 'model.overrides={ embed_dim = 32, vision = { image_size = 24, layers = 1, width = 32, heads = 2, mlp_width = 64 }, \
    pooler = { layout = \"open_clip\", queries = 4, heads = 2 }, \
    text = { layers = 1, width = 32, heads = 2, mlp_width = 64, vocabulary_size = 520, context_length = 16 }, \
    decoder = { layers = 1, width = 32, heads = 2, mlp_width = 64 } }'";

/// A folder that goes away.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A picture in one colour, another for each name.
    fn picture(&self, name: &str) {
        let colour = name.bytes().fold([40, 90, 200], |[r, g, b]: [u8; 3], byte| [g, b, r.wrapping_mul(5) ^ byte]);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 26, 24);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&colour.repeat(26 * 24)).unwrap();
        self.write(name, file);
    }

    fn shell(&self, line: &str) -> Command {
        let path = format!("{}:{}", self.0.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.0).env("PATH", path);
        command
    }

    fn run(&self, line: &str) -> Output {
        self.shell(line).output().unwrap()
    }

    /// What a server says until it is open; then it is ended.
    fn served(&self, line: &str) -> String {
        let mut server = self.shell(&format!("exec {line}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        for line in BufReader::new(server.stdout.take().unwrap()).lines().map_while(|line| line.ok()) {
            said += &line;
            if line.starts_with("open ") {
                break;
            }
        }
        server.kill().unwrap();
        server.wait().unwrap();
        said
    }
}

/// The folder with everything that the examples name.
fn prepared() -> Folder {
    let folder = Folder(std::env::temp_dir().join(format!("coca-test-{}-examples", std::process::id())));
    std::fs::create_dir_all(folder.0.join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coca"), folder.0.join("bin/coca")).unwrap();
    folder.write("bin/apt-cache", "#!/bin/sh\necho no network >&2\nexit 1\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.0.join("bin/apt-cache"), executable).unwrap();
    // Where the repository has it: the examples are run from its root.
    let config = "trainer/configs/coca_vit_b32.toml";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    folder.write(config, std::fs::read(root.join(config)).unwrap());
    for name in ["picture.png", "a.png", "b.png"] {
        folder.picture(name);
    }
    folder.write("captions.txt", "a red square\na blue wall\n");
    let mut table = "url,text\n".to_owned();
    for (index, text) in
        ["a red square", "a green square", "a blue wall", "a red wall"].iter().cycle().take(8).enumerate()
    {
        folder.picture(&format!("pictures/{index}.png"));
        folder.write(&format!("pictures/{index}.txt"), text);
        table += &format!("pictures/{index}.png,{text}\n");
    }
    folder.write("pairs.csv", table);
    let picture = std::fs::read(folder.0.join("a.png")).unwrap();
    let shard = |members: &[(String, &[u8])]| {
        let mut shard = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            shard.append_data(&mut header, name, *content).unwrap();
        }
        shard.into_inner().unwrap()
    };
    let pair = shard(&[("a.png".into(), &picture[..]), ("a.txt".into(), b"a red square")]);
    (0..100).for_each(|number| folder.write(&format!("shards/{number:03}.tar"), &pair));

    for frame in 0..5 {
        for clip in ["clips/waving/1", "clips/blinking/2", "videos/video0", "videos/video7"] {
            folder.picture(&format!("{clip}/{frame}.png"));
        }
    }
    let mut clips = Vec::new();
    for (key, class) in [("1", &br#"{"class": "growing"}"#[..]), ("2", br#"{"class": "shrinking"}"#)] {
        clips.extend((0..3).map(|frame| (format!("{key}.{frame:03}.png"), &picture[..])));
        clips.extend([(format!("{key}.txt"), &b"a red circle"[..]), (format!("{key}.json"), class)]);
    }
    for name in ["train-00000", "train-00001", "test-00000"] {
        folder.write(&format!("motion-{name}.tar"), shard(&clips));
    }
    let video = |id: usize| json!({"video_id": format!("video{id}"), "split": "test", "id": id});
    let sentence = |id: usize| json!({"sen_id": id, "video_id": format!("video{}", id % 2 * 7), "caption": "a wall"});
    let (videos, sentences): (Vec<_>, Vec<_>) = ([0, 7].map(video).into(), (0..3).map(sentence).collect());
    folder.write("videodatainfo.json", json!({"videos": videos, "sentences": sentences}).to_string());

    for name in ["imagenet/val/n01/a.png", "imagenet/val/n02/b.png", "imagenet/val/n02/c.png", "imagenet-r/n02/d.png"] {
        folder.picture(name);
    }
    for name in ["n01/e.png", "n01/f.png", "n02/g.png", "n03/h.png"] {
        folder.picture(&format!("imagenet/train/{name}"));
    }
    let labelled = |index: usize| format!("pictures/{index}.png,a square,{}\n", ["red", "green", "blue"][index % 3]);
    folder.write("labelled.csv", "filepath,title,label\n".to_owned() + &(0..8).map(labelled).collect::<String>());
    folder.write("classes.txt", "n01\ttench\nn02\tgoldfish\nn03\tgreat white shark\n");
    folder.write("imagenet-r.txt", "n02\nn03\n");
    folder.write("templates.txt", "a photo of a {}.\na drawing of a {}.\n");
    let karpathy = |split: &str, name: &str| {
        folder.picture(&format!("coco/val2014/{name}"));
        let sentence = |number: usize| json!({"raw": format!("A wall, number {number}."), "sentid": number});
        let sentences: Vec<_> = (0..6).map(sentence).collect();
        json!({"filepath": "val2014", "filename": name, "split": split, "sentences": sentences})
    };
    let images = [karpathy("test", "1.png"), karpathy("train", "2.png"), karpathy("test", "3.png")];
    folder.write("dataset_coco.json", json!({"images": images, "dataset": "coco"}).to_string());
    for (file, images) in [("nocaps_val.json", "nocaps"), ("captions_val2017.json", "val2017")] {
        let image = |id: usize| {
            folder.picture(&format!("{images}/{id}.png"));
            let domain = if id.is_multiple_of(2) { "in-domain" } else { "out-domain" };
            json!({"id": id, "file_name": format!("{id}.png"), "domain": domain})
        };
        let caption = |id: usize| json!({"id": id, "image_id": id % 3, "caption": format!("A wall, number {id}.")});
        let (images, annotations): (Vec<_>, Vec<_>) = ((0..3).map(image).collect(), (0..6).map(caption).collect());
        folder.write(file, json!({"images": images, "annotations": annotations}).to_string());
    }
    folder
}

/// The examples of a command and of those below it, in the order of the help.
fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n", "");
    let own = help.lines().map(str::trim).filter(|line| line.starts_with("coca ") || line.starts_with("COCA_"));
    own.map(str::to_owned).chain(command.get_subcommands().flat_map(examples)).collect()
}

#[test]
fn every_example_of_the_help_runs() {
    let folder = prepared();
    let examples = examples(&trainer::cli::Cli::command());
    let succeed = |line: &str| {
        let output = folder.run(line);
        let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}\n{out}{errors}");
        out.into_owned()
    };
    let absent = match Detected::now() {
        Detected::Absent(reason) => Some(reason),
        Detected::Found { .. } => None,
    };
    let needs_gpu = |line: &str| line.contains("--device cuda") || line.starts_with("coca compare-devices");
    let mut seen = Vec::new();
    for line in &examples {
        if let Some(reason) = absent.as_ref().filter(|_| needs_gpu(line)) {
            let errors = folder.run(line).stderr;
            let errors = String::from_utf8_lossy(&errors);
            assert!(errors.contains(reason), "{line}: {errors}");
        } else if line.starts_with("coca data fetch") {
            // The tool that it needs is there, and has no network.
            let errors = folder.run(line).stderr;
            let errors = String::from_utf8_lossy(&errors);
            assert!(errors.contains("apt-cache show") && errors.contains("no network"), "{line}: {errors}");
        } else if line.starts_with("coca data build") {
            // Its sources are no small files.
            let errors = folder.run(line).stderr;
            assert!(errors.starts_with(b"error: "), "{line}: {}", String::from_utf8_lossy(&errors));
        } else if line.starts_with("coca serve") {
            // On any port, until it says where.
            let said = folder.served(&format!("{} --port 0", line.replace("--port 9000", "")));
            assert!(said.contains("open http://127.0.0.1:"), "{line}: {said}");
        } else if line.starts_with("coca suite") {
            // Everything would take long.
            let output = succeed(&format!("{line} --only zero-shot"));
            assert!(output.contains("emoji:noto-v1") && output.contains("suite.html"), "{output}");
        } else if line.starts_with("coca bench") {
            // Of a configuration or the default a small model, and no more time than an interval needs.
            let small = if line.contains("from=") || line.contains("model") { TINY } else { "" };
            let output = succeed(&format!("{line}{small} --seconds 0.002"));
            assert!(output.contains("roofline") && !output.contains("WRONG"), "{line}: {output}");
        } else if line.starts_with("coca train") || line.starts_with("coca compare-devices") {
            succeed(&format!("{line}{TINY}"));
        } else if cfg!(target_arch = "x86_64") || !line.contains("COCA_ISA=avx2") {
            let output = succeed(line);
            let silent = line.contains('>') || line.contains("--task caption");
            assert!(silent || !output.is_empty(), "{line}: no output");
            seen.push((line.as_str(), output));
        }
    }
    assert!(examples.len() > 20, "{examples:?}");

    // What the evaluations saw of the data.
    let output = |part: &str| {
        let found = seen.iter().find(|(line, _)| line.contains(part));
        found.map(|(_, output)| output.as_str()).unwrap_or_else(|| panic!("no example with {part}"))
    };
    let row = |text: &str, start: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in\n{text}")).split_whitespace().map(str::to_owned).collect()
    };
    let styles = output("--data emoji:fxemoji");
    assert_eq!(row(styles, "emoji:fxemoji")[1..3], ["467", "1914"]);
    assert_eq!((row(styles, "pixels alone").len(), row(styles, "mean").len()), (4, 4));
    let shift = output("coca eval zero-shot --model runs/b32");
    assert_eq!(row(shift, "imagenet:imagenet/val")[1..3], ["3", "3"]);
    assert_eq!(row(shift, "imagenet:imagenet-r")[1..3], ["1", "2"]);
    // Two images of the split, five captions each.
    assert_eq!(row(output("karpathy:"), "karpathy:")[1..3], ["2", "10"]);
    assert_eq!(row(output("coca eval retrieval --model runs/b32 --data pairs.csv"), "pairs.csv")[1..3], ["8", "8"]);
    let groups = output("coca probe --model runs/emoji/model");
    assert_eq!(row(groups, "emoji:noto-v1")[1..3], ["1216", "9"]);
    assert_eq!(row(groups, "chance")[1..], ["11.11", "55.56", "11.11"]);
    assert_eq!(row(output("coca probe --model runs/b32 --data imagenet:"), "imagenet:imagenet/val")[1..3], ["3", "3"]);
    assert!(folder.0.join("heads/pooler.safetensors").exists());
    // A head says the same at the end of its run and from its folder.
    let trained = row(output("--image-size 32"), "emoji:noto-v1");
    assert_eq!(trained[1..3], ["1216", "9"]);
    assert_eq!(row(output("coca eval classify"), "emoji:noto-v1"), trained);
    assert!(output("--task vqa").contains("text alone %") && output("--layer-decay").contains("imagenet:imagenet/val"));
    let probe: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.0.join("probe.json")).unwrap()).unwrap();
    assert_eq!(probe["classes"], json!(["blue", "green", "red"]));
    assert_eq!(row(output("--video --data clips"), "clips")[1..3], ["2", "2"]);
    assert_eq!(row(output("msrvtt:"), "msrvtt:")[1..3], ["2", "3"]);
    let motions = output("--time-embedding");
    assert_eq!(row(motions, "motion-test-00000.tar")[1..3], ["2", "2"]);
    assert_eq!((row(motions, "single frame").len(), row(motions, "shuffled frames").len()), (5, 5));
    let nocaps = output("nocaps:");
    let counts = ["nocaps:", "in-domain", "out-domain"].map(|start| row(nocaps, start)[1].clone());
    assert_eq!(counts, ["3", "2", "1"]);
    let figures: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.0.join("captions.json")).unwrap()).unwrap();
    assert_eq!(figures["sets"][1]["domain"], "in-domain");
    assert_eq!(row(output("coco:"), "coco:")[1], "3");

    // A table's labels are those of a list of classes; without one its captions are the classes.
    folder.write("colours.txt", "red\ngreen\nblue\n");
    for (more, classes) in [("", "1"), (" --classes colours.txt", "3")] {
        let text = succeed(&format!("coca eval zero-shot --model runs/b32 --data labelled.csv{more}"));
        assert_eq!(row(&text, "labelled.csv")[1..3], ["8", classes]);
    }

    // Templates and subsets for the bundled names too.
    folder.write("names.txt", "red apple\nbanana\n");
    let line = "coca eval zero-shot --model runs/emoji/model --data emoji:fxemoji --templates templates.txt \
        --class-subset names.txt --json names.json";
    let text = succeed(line);
    assert_eq!(row(&text, "emoji:fxemoji")[2], "2");
    assert!(text.contains("samples of other classes left out") && !text.contains("pixels alone"), "{text}");
    let figures: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.0.join("names.json")).unwrap()).unwrap();
    assert_eq!(figures["sets"][0]["templates"], 2);
}
