//! The probes on a tiny frozen model and pictures of a few colours.

use super::*;
use crate::cli::{Cli, Command};
use crate::model_folder::test_model;
use crate::test_folder;
use crate::test_support::TestFolder;
use clap::Parser;
use engine::cpu::Isa;
use engine::{CpuQueue, DType, Queue, Workspace};
use model::encoder::ImageEncoder;
use std::path::{Path, PathBuf};

/// Colours that the pictures are of.
const COLOURS: [(&str, [u8; 3]); 3] = [("red", [220, 30, 40]), ("green", [30, 200, 60]), ("blue", [20, 50, 230])];

/// A folder with a model and tables of pictures: `train.csv` of 36, `test.csv` of 12.
fn prepared(name: &str) -> TestFolder {
    let folder = test_folder(name);
    test_model(&folder.join("model"), 3);
    for (set, count) in [("train", 36), ("test", 12)] {
        let mut table = "filepath,title,label\n".to_owned();
        for index in 0..count {
            let (label, colour) = COLOURS[index % COLOURS.len()];
            let path = format!("{set}-{index}.png");
            picture(&folder.join(&path), colour, index);
            table += &format!("{path},a picture,{label}\n");
        }
        std::fs::write(folder.join(set).with_extension("csv"), table).unwrap();
    }
    folder
}

/// A picture of 16 x 16 pixels around a colour.
fn picture(path: &Path, colour: [u8; 3], variant: usize) {
    let shade = |at: usize| ((at * 7 + variant * 13) % 24) as u8;
    let pixels: Vec<u8> = (0..16 * 16).flat_map(|at| colour.map(|value| value - 12u8.min(value) + shade(at))).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 16, 16);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    std::fs::write(path, file).unwrap();
}

fn args(folder: &Path, more: &str) -> ProbeArgs {
    let of = |name: &str| folder.join(name).display().to_string();
    let line = format!(
        "coca probe --model {} --data {} --test {} --cache {} --batch-size 12 --epochs 20 --learning-rate 3e-3 {more}",
        of("model"),
        of("train.csv"),
        of("test.csv"),
        of("cache")
    );
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Some(Command::Probe(args)) => args,
        other => panic!("{other:?}"),
    }
}

fn error(args: &ProbeArgs) -> String {
    probe(args).unwrap_err().to_string()
}

fn queue(threads: usize) -> Queue {
    Queue::Cpu(CpuQueue::new(Isa::from_env().unwrap(), threads).unwrap())
}

fn bits(model: &model::Coca) -> Vec<u8> {
    let weights = model.parameters().master();
    weights.read(0, weights.bytes()).unwrap()
}

fn cache_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn train_set(folder: &Path) -> EvalSet {
    open_sets(&args(folder, "")).unwrap().remove(0)
}

#[test]
fn every_probe_tells_colours_apart_with_the_same_bits_for_any_number_of_threads() {
    let folder = prepared("probe");
    let json = folder.join("probe.json");
    let outputs = [1, 2].map(|threads| {
        let out = folder.join(format!("heads-{threads}"));
        let args = args(&folder, &format!("--json {} --out {}", json.display(), out.display()));
        let opened = ModelFolder { queue: queue(threads), ..ModelFolder::open(&args.model, DType::F32).unwrap() };
        let before = bits(&opened.model);
        let text = run(&args, &opened).unwrap();
        assert_eq!(before, bits(&opened.model), "the frozen model changed");
        (text, ["pooler", "linear"].map(|name| std::fs::read(out.join(format!("{name}.safetensors"))).unwrap()))
    });
    assert!(outputs[0].1 == outputs[1].1, "1 and 2 threads give different heads");
    let text = &outputs[0].0;
    let row = |start: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in\n{text}")).split_whitespace().rev().map(str::to_owned).collect()
    };
    // Pixels tell them apart as well: every test picture has the pattern of a training picture.
    for probe in ["attentional pooler", "linear  ", "nearest neighbours", "pixels alone"] {
        assert_eq!(row(probe)[..3], ["100.00", "100.00", "100.00"], "{text}");
    }
    assert_eq!(row("majority class")[..3], ["33.33", "100.00", "33.33"]);
    assert_eq!(row("chance")[..3], ["33.33", "100.00", "33.33"]);
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(figures["classes"], json!(["blue", "green", "red"]));
    assert_eq!((&figures["sets"][0]["count"], &figures["sets"][0]["left_out"]), (&json!(12), &json!(0)));
    assert_eq!(figures["sets"][0]["scores"][0]["top1"], 1.0);
    assert_eq!((&figures["pooler"]["steps"], &figures["labels"]), (&json!(60), &json!("name")));
    let (head, classes) = Head::open(&folder.join("heads-1/pooler.safetensors"), DType::F32, false).unwrap();
    assert_eq!((head.config().classes, classes), (3, ["blue", "green", "red"].map(str::to_owned).to_vec()));
}

#[test]
fn cached_features_are_the_fresh_ones_bit_for_bit() {
    let folder = prepared("probe-fresh");
    for dtype in [DType::F32, DType::BF16] {
        let ModelFolder { model, queue, .. } = ModelFolder::open(&folder.join("model"), dtype).unwrap();
        let mut set = train_set(&folder);
        let mut images = Vec::new();
        set.read(model.config(), 64, |batch| {
            images.extend(batch.into_iter().flat_map(|labelled| labelled.sample.image));
            Ok(())
        })
        .unwrap();
        let mut encoder = ImageEncoder::new(&model, 32, &Workspace::new()).unwrap();
        let (tokens, features) =
            (encoder.encoded(&queue, &images).unwrap(), encoder.features(&queue, &images).unwrap());
        let width = tokens.len() / 36;
        for word in ["written to", "read from"] {
            let cached = Features::open(&mut train_set(&folder), &model, &queue, &folder.join("cache")).unwrap();
            assert!(cached.note.contains(word), "{}", cached.note);
            assert_eq!(cached.rows(), model.config().vision.rows());
            assert!(cached.features().unwrap() == features, "{dtype} features");
            assert!(cached.tokens(&(0..36).collect::<Vec<_>>()).unwrap() == tokens, "{dtype} tokens");
            let some = cached.tokens(&[35, 2]).unwrap();
            assert!(some == [&tokens[35 * width..], &tokens[2 * width..3 * width]].concat());
            assert_eq!((cached.samples()[4].class.as_deref(), cached.samples().len()), (Some("green"), 36));
        }
    }
    assert_eq!(cache_files(&folder).len(), 2);
}

/// Clips of five frames that go from one of two colours to the other, `a/` in one direction and `b/` in the other: the same
/// frames in another order, with the same one in the middle.
fn clips(folder: &Path, set: &str, count: usize) {
    for (class, index) in ["a", "b"].into_iter().flat_map(|class| (0..count).map(move |index| (class, index))) {
        let clip = folder.join(set).join(class).join(index.to_string());
        std::fs::create_dir_all(&clip).unwrap();
        for frame in 0..5 {
            let share = (if class == "a" { frame } else { 4 - frame }) * 45;
            picture(
                &clip.join(format!("{frame}.png")),
                [30 + share as u8, 200 - share as u8, 90],
                index * 5 + share / 45,
            );
        }
    }
}

#[test]
fn cached_clips_are_the_fresh_frames_and_their_mean_feature() {
    let folder = prepared("probe-clips");
    clips(&folder, "clips", 3);
    let ModelFolder { model, queue, .. } = ModelFolder::open(&folder.join("model"), DType::F32).unwrap();
    let data = |frames| crate::config::Data { frames, ..Default::default() };
    let set = |frames| EvalSet::open(&[(folder.join("clips").display().to_string(), data(frames))]).unwrap().remove(0);
    let mut images = Vec::new();
    set(2)
        .read(model.config(), 64, |batch| {
            images.extend(batch.into_iter().flat_map(|labelled| labelled.sample.image));
            Ok(())
        })
        .unwrap();
    let mut encoder = ImageEncoder::new(&model, 32, &Workspace::new()).unwrap();
    let (tokens, features) = encoder.encoded_and_features(&queue, &images).unwrap();
    let means = crate::evaluate::unit_means(features, 2, model.config().embed_dim);
    for word in ["written to", "read from"] {
        let cached = Features::open(&mut set(2), &model, &queue, &folder.join("cache")).unwrap();
        assert!(cached.note.contains(word), "{}", cached.note);
        assert_eq!((cached.images(), cached.rows()), (2, 2 * model.config().vision.rows()));
        assert_eq!((cached.samples().len(), cached.samples()[5].class.as_deref()), (6, Some("b")));
        assert!(cached.features().unwrap() == means && cached.tokens(&[0, 1, 2, 3, 4, 5]).unwrap() == tokens);
        let seen = |frames, time| Rows { features: &cached, frames, time };
        let frame = tokens.len() / 12;
        let second = seen(Frames::Middle, None);
        assert!(second.read(&[1]).unwrap() == tokens[3 * frame..4 * frame] && second.count() * 2 == cached.rows());
        let mut halves: Vec<f32> = seen(Frames::Shuffled(1), None).read(&[4]).unwrap();
        if halves[..frame] != tokens[8 * frame..9 * frame] {
            halves.rotate_left(frame);
        }
        assert!(halves == tokens[8 * frame..10 * frame]);
        let timed = seen(Frames::All, Some(Time { amplitude: 2.0 })).read(&[0]).unwrap();
        // The first value of the first frame's time is the sine of 0, of the second one's that of 1.
        assert_eq!((timed[0], timed[frame]), (tokens[0], tokens[frame] + 2.0 * 1f64.sin() as f32));
    }
    let other = Features::open(&mut set(3), &model, &queue, &folder.join("cache")).unwrap();
    assert!(other.note.contains("written to") && other.images() == 3, "{}", other.note);
}

#[test]
fn the_order_of_frames_is_seen_with_their_times_alone() {
    let folder = prepared("probe-order");
    clips(&folder, "train.csv.d", 12);
    clips(&folder, "test.csv.d", 6);
    let shares = |more: &str| {
        let mut args = args(&folder, &format!("--video --frames 5 --kind pooler {more}"));
        args.pooler.epochs = 60.try_into().unwrap();
        args.data += ".d";
        args.test[0] += ".d";
        let text = probe(&args).unwrap();
        ["attentional pooler", "single frame", "shuffled frames"].map(|start| {
            let line = text.lines().find(|line| line.trim_start().starts_with(start));
            let cell = line.and_then(|line| line.split_whitespace().rev().nth(2)).map(str::parse::<f64>);
            cell.unwrap_or_else(|| panic!("no {start} in\n{text}")).unwrap()
        })
    };
    let [pooler, single, shuffled] = shares("--time-embedding");
    assert!(pooler == 100.0 && single <= 60.0 && shuffled <= 75.0, "{pooler} {single} {shuffled}");
    let [pooler, _, shuffled] = shares("");
    assert!(pooler <= 60.0 && shuffled <= 60.0, "{pooler} {shuffled}");
    let error = error(&args(&folder, "--video --time-embedding --kind linear"));
    assert!(error.contains("--time-embedding is of the pooler"), "{error}");
}

#[test]
fn other_weights_or_samples_have_features_of_their_own() {
    let folder = prepared("probe-other");
    let open = || {
        let ModelFolder { model, queue, .. } = ModelFolder::open(&folder.join("model"), DType::F32).unwrap();
        Features::open(&mut train_set(&folder), &model, &queue, &folder.join("cache")).unwrap().note
    };
    assert!(open().contains("written to") && open().contains("read from"));
    test_model(&folder.join("model"), 4);
    assert!(open().contains("written to") && open().contains("read from"));
    picture(&folder.join("train-7.png"), [9, 9, 9], 0);
    assert!(open().contains("written to") && open().contains("read from"));
    let table = std::fs::read_to_string(folder.join("train.csv")).unwrap();
    std::fs::write(folder.join("train.csv"), table.replacen("red", "pink", 1)).unwrap();
    assert!(open().contains("written to"));
    assert_eq!(cache_files(&folder).len(), 4);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let folder = prepared("probe-damaged");
    let ModelFolder { model, queue, .. } = ModelFolder::open(&folder.join("model"), DType::F32).unwrap();
    let open = || Features::open(&mut train_set(&folder), &model, &queue, &folder.join("cache")).unwrap();
    let whole = open().features().unwrap();
    let [path] = &cache_files(&folder)[..] else { panic!("one file") };
    let bytes = std::fs::read(path).unwrap();
    let mut flipped = bytes.clone();
    flipped[1000] ^= 1;
    let mut shorter = bytes.clone();
    shorter.drain(..64);
    for (damaged, reason) in [
        (bytes[..bytes.len() - 5].to_vec(), "cut short"),
        (bytes[..9].to_vec(), "cut short"),
        (shorter, "cut short"),
        (flipped, "do not have their checksum"),
    ] {
        std::fs::write(path, damaged).unwrap();
        let again = open();
        assert!(again.note.contains(" again: ") && again.note.contains(reason), "{}", again.note);
        assert!(again.features().unwrap() == whole && std::fs::read(path).unwrap() == bytes);
    }
}

#[test]
fn another_program_makes_its_own_features_in_the_same_file() {
    let folder = prepared("probe-program");
    let ModelFolder { model, queue, .. } = ModelFolder::open(&folder.join("model"), DType::F32).unwrap();
    let open = || Features::open(&mut train_set(&folder), &model, &queue, &folder.join("cache")).unwrap().note;
    assert!(open().contains("written to") && open().contains("read from"));
    let [path] = &cache_files(&folder)[..] else { panic!("one file") };
    let whole = std::fs::read(path).unwrap();
    // The program's checksum, by one of another in as many digits.
    let program = crc32fast::hash(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).to_string();
    let wanted = format!("\"program\":{program},");
    let place = whole.windows(wanted.len()).position(|part| part == wanted.as_bytes()).unwrap();
    let mut others = whole.clone();
    others[place + wanted.len() - 2] ^= 1;
    std::fs::write(path, others).unwrap();
    assert!(open().contains("again: it was made by another build"));
    assert!(cache_files(&folder).len() == 1 && std::fs::read(path).unwrap() == whole);
}

#[test]
fn wrong_labels_and_sets_are_named() {
    let folder = prepared("probe-wrong");
    let replaced = |from: &str, to: &str| {
        let table = std::fs::read_to_string(folder.join("train.csv")).unwrap();
        std::fs::write(folder.join("train.csv"), table.replace(from, to)).unwrap();
    };
    assert!(error(&args(&folder, "--labels group")).contains("bundled emoji have groups and subgroups"));
    assert!(error(&args(&folder, "--kind knn --out x")).contains("--kind knn trains nothing"));
    let fails = error(&args(&folder, "--label-smoothing 1.5 --kind pooler"));
    assert!(fails.contains("label smoothing must be at least 0 and below 1, not 1.5"), "{fails}");

    let table = "filepath,title,label\ntest-0.png,x,red\ntest-1.png,x,violet\n";
    std::fs::write(folder.join("test.csv"), table).unwrap();
    let text = probe(&args(&folder, "--kind knn")).unwrap();
    assert!(text.contains("test.csv: 1 images of classes that training has not left out"), "{text}");
    std::fs::write(folder.join("test.csv"), table.replace("red", "pink")).unwrap();
    let fails = error(&args(&folder, ""));
    assert!(fails.contains("no sample is of a class of the training set (its first is of 'pink')"), "{fails}");
    std::fs::write(folder.join("test.csv"), table.replace("violet", "")).unwrap();
    assert!(error(&args(&folder, "")).contains("test-1.png: no label"));
    std::fs::write(folder.join("test.csv"), "filepath,title,label\n").unwrap();
    assert!(error(&args(&folder, "")).contains("test.csv: no lines under the header"));
    std::fs::write(folder.join("test.csv"), "filepath,title,label\ngone.png,x,red\n").unwrap();
    assert!(error(&args(&folder, "")).contains("1 of 1 samples are faulty"), "{}", error(&args(&folder, "")));

    std::fs::write(folder.join("test.csv"), table).unwrap();
    replaced("green", "red");
    replaced("blue", "red");
    let fails = error(&args(&folder, ""));
    assert!(
        fails.contains("every sample is of the class 'red': a classifier tells at least two classes apart"),
        "{fails}"
    );
    // Without labels the captions are the classes.
    replaced(",label", ",other");
    assert!(error(&args(&folder, "")).contains("every sample is of the class 'a picture'"));
}

#[test]
fn emoji_have_groups_and_subgroups() {
    let folder = prepared("probe-emoji");
    let model = folder.join("model").display().to_string();
    let line = |more: &str| {
        let cache = folder.join("cache").display().to_string();
        let line = format!("coca probe --model {model} --cache {cache} --kind knn {more}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Some(Command::Probe(args)) => probe(&args).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let classes = |text: &str| text.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().to_owned();
    let data = "--data emoji:fxemoji --test emoji:fresh-fxemoji";
    let [group, subgroup, name] = ["group", "subgroup", "name"].map(|kind| line(&format!("{data} --labels {kind}")));
    let count = |text: &str| classes(text).parse::<usize>().unwrap();
    assert!((5..=10).contains(&count(&group)), "{group}");
    assert!((30..=100).contains(&count(&subgroup)), "{subgroup}");
    assert_eq!(count(&name), 467, "{name}");
    // Each picture is its own nearest neighbour.
    assert!(name.lines().nth(2).unwrap().contains("100.00"), "{name}");
    assert!(!name.contains("left out"), "{name}");
}
