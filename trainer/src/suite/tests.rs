use super::plan::Planner;
use super::row::{self, Figures};
use super::*;
use crate::data::scenes::{Recipe, make};
use crate::model_folder::test_model;
use crate::test_folder;
use serde_json::json;

fn figures(own: Value, stem: &str, others: &dyn Fn(&str) -> Option<Value>, rows: plan::Rows) -> Vec<Row> {
    rows(&Figures { own: &own, stem, others })
}

fn no_others(_: &str) -> Option<Value> {
    None
}

#[test]
fn rows_are_held_against_pixels_or_chance() {
    let own = json!({"sets": [
        {"set": "a", "count": 10, "classes": 4, "top1": 0.5, "top5": 0.9, "floor": [0.6, 0.8]},
        {"set": "scene-pairs:/x/scenes/pairs-test-{00000..00002}.tar", "count": 10, "classes": 4, "top1": 0.5, "top5": 0.9},
        {"set": "sets/icons/test-00000.tar", "count": 10, "classes": 4, "top1": 0.5, "top5": 0.9},
    ]});
    let rows = figures(own, "", &no_others, row::zero_shot);
    assert_eq!(rows[0].control, Some(("pixels alone".to_owned(), 0.6)));
    assert_eq!(rows[1].control, Some(("chance".to_owned(), 0.25)));
    assert_eq!(rows.iter().map(Row::is_above).collect::<Vec<_>>(), [Some(false), Some(true), Some(true)]);
    assert_eq!((rows[1].set.as_str(), rows[2].set.as_str()), ("scene-pairs of scenes/pairs-test", "icons/test"));
    assert_eq!((rows[0].set.as_str(), rows[0].count, rows[0].value), ("a", 10, 0.5));

    let recall = |first: f64| json!({"at_1": first, "at_5": 0.5, "at_10": 0.75});
    let own = json!({"sets": [{"set": "a", "images": 10, "texts": 20, "image_to_text": recall(0.2),
        "text_to_image": recall(0.3), "floor": null, "chance": 0.1}]});
    let rows = figures(own, "", &no_others, row::retrieval);
    let values: Vec<_> = rows.iter().map(|row| (row.value, row.control.clone().unwrap().1)).collect();
    assert_eq!(values, [(0.2, 0.1), (0.3, 0.1)]);
}

#[test]
fn captions_are_held_against_the_nearest_drawing() {
    let own = json!({"sets": [
        {"set": "a", "domain": null, "count": 3, "exact": 0.5, "BLEU-4": 0.1, "ROUGE-L": 0.2, "CIDEr-D": 0.3},
        {"set": "a", "domain": "near", "count": 2, "exact": 0.5},
    ]});
    let others = |stem: &str| (stem == "zero-shot-emoji").then(|| json!({"sets": [{"set": "a", "floor": [0.4, 0.6]}]}));
    let rows = figures(own, "", &others, row::captions);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].control, Some(("pixels alone".to_owned(), 0.4)));
    assert_eq!(rows[0].beside[2], ("CIDEr-D".to_owned(), 0.3));

    let scored =
        |rouge: f64| json!({"sets": [{"set": "s", "domain": null, "count": 3, "exact": 0.5, "ROUGE-L": rouge}]});
    let others = |stem: &str| (stem == "captions-scenes-before").then(|| scored(0.1));
    let rows = figures(scored(0.9), "captions-scenes", &others, row::captions_after);
    assert_eq!((rows[0].value, rows[0].control.clone()), (0.9, Some(("before fine-tuning".to_owned(), 0.1))));
    assert_eq!(rows[0].beside[0], ("exactly right".to_owned(), 0.5));
}

#[test]
fn rows_are_held_against_their_best_control() {
    let score = |probe: &str, top1: f64| json!({"probe": probe, "top1": top1});
    let scores = [
        score("attentional pooler", 0.6),
        score("  single frame", 0.2),
        score("  shuffled frames", 0.3),
        score("majority class", 0.1),
    ];
    let own = json!({"classes": ["x", "y"], "sets": [{"set": "m", "count": 5, "scores": scores}]});
    let rows = figures(own, "", &no_others, row::video);
    assert_eq!((rows[0].value, rows[0].control.clone()), (0.6, Some(("shuffled frames".to_owned(), 0.3))));
    assert_eq!(rows[0].measure, "top-1 of 2, attentional pooler");

    // Without a model: the better of the majority and pixels, for a probe and for fine-tuning on the same classes.
    let ways = [score("attentional pooler", 0.6), score("nearest neighbours", 0.3)];
    let scores = [&ways[..], &[score("pixels alone", 0.5), score("majority class", 0.4)]].concat();
    let own = json!({"classes": ["x", "y"], "sets": [{"set": "s", "count": 5, "scores": scores}]});
    let pixels = Some(("pixels alone".to_owned(), 0.5));
    let rows = figures(own.clone(), "probe-group", &no_others, row::probe);
    assert_eq!(rows.iter().map(Row::is_above).collect::<Vec<_>>(), [Some(true), Some(false)]);
    assert_eq!((rows[0].control.clone(), rows[1].value), (pixels.clone(), 0.3));
    assert_eq!(figures(own.clone(), "beside/x/probe", &no_others, row::beside_probe).len(), 1);
    let others = |stem: &str| (stem == "probe-group").then(|| own.clone());
    let tuned = json!({"classes": [{"set": "s", "count": 8, "classes": 3, "top1": 0.7, "top5": 1.0, "majority": 0.4}]});
    assert_eq!(figures(tuned.clone(), "finetune-group", &others, row::classes)[0].control, pixels);
    let majority = Some(("majority class".to_owned(), 0.4));
    assert_eq!(figures(tuned, "finetune-subgroup", &others, row::classes)[0].control, majority);

    let run = |top1: f64| json!({"classes": [{"set": "s", "count": 8, "classes": 3, "top1": top1, "top5": 1.0, "majority": 0.4, "floor": 0.45}]});
    let others = |stem: &str| (stem == "vqa-blank").then(|| run(0.5));
    let rows = figures(run(0.7), "vqa", &others, row::understanding);
    assert_eq!(rows[0].control, Some(("without image".to_owned(), 0.5)));
    assert_eq!(rows[0].beside, [("best guess from the text".to_owned(), 0.45), ("majority class".to_owned(), 0.4)]);
    assert!(figures(run(0.5), "vqa-blank", &others, row::none).is_empty());
}

#[test]
fn every_command_is_one_of_this_program() {
    let folder = test_folder("suite-plan");
    let none = Sets::open(&folder).unwrap();
    make(&folder.join("scenes"), Recipe { count: 10, side: 24, seed: 1 }).unwrap();
    let sets = Sets::open(&folder).unwrap();
    let beside = [("dual encoder".to_owned(), PathBuf::from("other"))];
    let planner = |sets| Planner {
        model: Path::new("model"),
        image_size: 16,
        sets,
        out: Path::new("out"),
        steps: 3,
        beside: &beside,
        sections: Section::value_variants(),
    };
    let (without, with) = (planner(&none).plan(), planner(&sets).plan());
    assert!(without.missing.contains(&"scenes") && !with.missing.contains(&"scenes"));
    assert!(with.measurements.len() > without.measurements.len());
    let mut stems: Vec<&str> = with.measurements.iter().map(|measurement| measurement.stem.as_str()).collect();
    for measurement in &with.measurements {
        let words = words(measurement, &folder);
        let parsed = Cli::try_parse_from(std::iter::once("coca").chain(words.iter().map(String::as_str)));
        assert!(parsed.is_ok(), "{words:?}: {}", parsed.unwrap_err());
    }
    let blank = stems.iter().position(|stem| *stem == "vqa-blank").unwrap();
    assert!(blank < stems.iter().position(|stem| *stem == "vqa").unwrap(), "a control is measured first");
    stems.sort_unstable();
    stems.dedup();
    assert_eq!(stems.len(), with.measurements.len());
    assert_eq!(sets.command("scenes"), format!("coca data make scenes --out {}", folder.join("scenes").display()));
}

#[test]
fn a_suite_measures_goes_on_and_shows_what_it_found() {
    let folder = test_folder("suite");
    let model = folder.join("model");
    test_model(&model, 1);
    let args = |only: &[Section], again: bool| SuiteArgs {
        model: model.clone(),
        sets: folder.join("none"),
        out: folder.join("out"),
        only: only.to_vec(),
        steps: std::num::NonZeroU64::MIN,
        beside: Vec::new(),
        again,
    };
    let text = suite(&args(&[Section::ZeroShot], false)).unwrap();
    assert!(text.contains("emoji:noto-v1") && text.contains("pixels alone"), "{text}");
    assert!(text.contains("not measured, its set is not here: coca data fetch tuxstamps"), "{text}");
    let page = std::fs::read_to_string(folder.join("out/suite.html")).unwrap();
    assert!(page.contains("Zero-shot classification") && page.contains("class=\"map\"") && !page.contains("http"));
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("out/suite.json")).unwrap()).unwrap();
    assert_eq!(json["measured"][0]["rows"].as_array().unwrap().len(), 4);

    // What is measured stays, until it is asked for again.
    let figures = folder.join("out/zero-shot-emoji.json");
    std::fs::write(&figures, r#"{"sets": [{"set": "kept", "count": 1, "classes": 2, "top1": 1.0, "top5": 1.0}]}"#)
        .unwrap();
    assert!(suite(&args(&[Section::ZeroShot], false)).unwrap().contains("kept"));
    assert!(!suite(&args(&[Section::ZeroShot], true)).unwrap().contains("kept"));
    // Figures of other weights are not this model's.
    std::fs::write(&figures, r#"{"sets": [{"set": "kept"}]}"#).unwrap();
    test_model(&model, 2);
    assert!(!suite(&args(&[Section::ZeroShot], false)).unwrap().contains("kept"));
    std::fs::write(&figures, "{").unwrap();
    assert!(suite(&args(&[Section::ZeroShot], false)).unwrap_err().to_string().contains("--again"));
}

#[test]
fn a_run_goes_on_only_with_the_same_command_and_weights() {
    let folder = test_folder("suite-origin");
    let (model, out) = (folder.join("model"), folder.join("out"));
    test_model(&model, 1);
    let sets = Sets::open(&folder).unwrap();
    let training = |steps: u64| {
        let (model, sections, sets) = (model.as_path(), &[Section::Finetune][..], &sets);
        let planner = Planner { model, image_size: 16, sets, out: &out, steps, beside: &[], sections };
        planner.plan().measurements.remove(0)
    };
    let checkpoints = out.join("finetune-group/checkpoints");
    // Settles on a run with a checkpoint: how many folders there are then, and whether the checkpoint stayed.
    let settled = |measurement: &Measurement| {
        std::fs::create_dir_all(&checkpoints).unwrap();
        Origin::of(measurement, &Models::default()).unwrap().settle(measurement, &out).unwrap();
        let folders = std::fs::read_dir(&out).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        (folders.count(), checkpoints.exists())
    };
    assert_eq!(settled(&training(3)), (1, false));
    assert_eq!(settled(&training(3)), (2, true));
    assert_eq!(settled(&training(4)), (2, false));
    test_model(&model, 2);
    assert_eq!(settled(&training(4)), (3, false));
    assert_eq!(settled(&training(4)), (4, true));
    origin::forget(&training(4), &out).unwrap();
    assert_eq!(settled(&training(4)), (4, false));
    assert!(out.join("finetune-group-previous-4/checkpoints").exists());

    let fails = |again: bool| own(&out.join("finetune-group/report.json"), again).unwrap_err().to_string();
    assert!(fails(false).ends_with("stopped; the same command goes on"));
    assert!(fails(true).ends_with("stopped; the same command without --again goes on"));
}

#[test]
fn controls_are_what_the_folder_has_of_this_model() {
    let folder = test_folder("suite-controls");
    let (model, out) = (folder.join("model"), folder.join("out"));
    test_model(&model, 1);
    let args = |only: &[Section]| SuiteArgs {
        model: model.clone(),
        sets: folder.join("none"),
        out: out.clone(),
        only: only.to_vec(),
        steps: std::num::NonZeroU64::MIN,
        beside: Vec::new(),
        again: false,
    };
    let (sets, sections) = (Sets::open(&folder).unwrap(), &[Section::ZeroShot, Section::Captions][..]);
    let planner = Planner { model: &model, image_size: 16, sets: &sets, out: &out, steps: 1, beside: &[], sections };
    let figures = [
        json!({"sets": [{"set": "a", "count": 1, "classes": 2, "top1": 1.0, "top5": 1.0, "floor": [0.375, 0.5]}]}),
        json!({"sets": [{"set": "a", "domain": null, "count": 1, "exact": 0.5}]}),
    ];
    let plan = planner.plan().measurements;
    for (measurement, figures) in plan.iter().zip(&figures) {
        Origin::of(measurement, &Models::default()).unwrap().settle(measurement, &out).unwrap();
        std::fs::write(figures_of(measurement, &out), figures.to_string()).unwrap();
    }
    let lines = |only: &[Section]| -> Vec<(bool, bool)> {
        let text = suite(&args(only)).unwrap();
        let rows = text.lines().filter(|line| line.contains("top-1") || line.contains("exactly right"));
        rows.map(|line| (line.contains("exactly right"), line.contains("37.5"))).collect()
    };
    // Measured first whatever comes first in --only; a control whether it is in --only or not.
    assert_eq!(lines(&[Section::Captions, Section::ZeroShot]), [(false, true), (true, true)]);
    assert_eq!(lines(&[Section::Captions]), [(true, true)]);
    origin::forget(&plan[0], &out).unwrap();
    assert_eq!(lines(&[Section::Captions]), [(true, false)]);
}

#[test]
fn names_to_compare_by_have_folders_of_their_own() {
    let beside = |names: &[&str]| {
        let beside: Vec<_> = names.iter().map(|name| (name.to_string(), PathBuf::from("x"))).collect();
        refuse_twins(&beside).map_err(|error| error.to_string())
    };
    assert!(beside(&["a b", "a c"]).is_ok());
    let error = beside(&["a b", "c", "a-b"]).unwrap_err();
    assert!(error.contains("--beside 'a-b' and 'a b' would both have their figures in beside/a-b"), "{error}");
    assert!(beside(&["c", "c"]).is_err() && beside(&["this model"]).is_err());
}
