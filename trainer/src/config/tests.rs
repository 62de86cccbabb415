use super::resume::FREE;
use super::*;

fn parse(text: &str, sets: &[&str]) -> Result<Config> {
    Config::parse(text, "run.toml", &sets.iter().map(|set| set.to_string()).collect::<Vec<_>>())
}

fn error(text: &str, sets: &[&str]) -> String {
    parse(text, sets).expect_err("this configuration is wrong").to_string()
}

#[test]
fn later_layers_win() {
    let config = parse("[optimizer]\nlearning_rate = 1\nbeta1 = 0.5", &["optimizer.learning_rate=3e-4"]).unwrap();
    assert_eq!(config.optimizer.learning_rate, 3e-4);
    assert_eq!(config.optimizer.beta1, 0.5);
    assert_eq!(config.optimizer.beta2, Optimizer::default().beta2);
}

#[test]
fn set_takes_words_paths_and_nested_tables() {
    let sets = ["optimizer.kind=adafactor", "data.train=7", "model.overrides.vision.layers=6", "data.shuffle = false"];
    let config = parse("[model]\noverrides = { vision = { width = 64 }, embed_dim = 32 }", &sets).unwrap();
    assert_eq!(config.optimizer.kind, OptimizerKind::Adafactor);
    assert_eq!(config.data.train, "7");
    assert!(!config.data.shuffle);
    let wanted: toml::Table = toml::from_str("embed_dim = 32\nvision = { width = 64, layers = 6 }").unwrap();
    assert_eq!(config.model.overrides, wanted);
}

#[test]
fn the_written_configuration_loads_back() {
    let sets =
        ["run.seed=18446744073709551", "model.overrides.text.layers=3", "compute.dtype=bf16", "data.separator=\"\\t\""];
    let config = parse(DEFAULT_FILE, &sets).unwrap();
    for documented in [false, true] {
        assert_eq!(parse(&config.to_toml(documented), &[]).unwrap(), config);
    }
}

#[test]
fn another_run_is_told_from_the_same_one() {
    let saved = parse("", &["schedule.steps=50", "schedule.warmup_steps=5", "optimizer.scales.visual=0"]).unwrap();
    let table: toml::Table = toml::from_str(&saved.to_toml(true)).unwrap();
    assert_eq!(saved.changes_since(&table), [""; 0]);
    let changes = |sets: &[&str]| {
        let own = ["schedule.steps=50", "schedule.warmup_steps=5", "optimizer.scales.visual=0"];
        parse("", &[&own, sets].concat()).unwrap().changes_since(&table)
    };
    let free = ["run.out=x", "compute.threads=3", "checkpoint.every=7", "evaluation.data=x", "logging.report=false"];
    assert_eq!(changes(&free), [""; 0]);
    // A longer run may have a longer warm-up.
    assert_eq!(changes(&["schedule.steps=100", "schedule.warmup_steps=10"]), [""; 0]);
    assert_eq!(changes(&["schedule.warmup_steps=10"]), ["schedule.warmup_steps: 5 -> 10"]);
    let other = ["run.seed=1", "data.train=x", "optimizer.scales.visual=1", "ema.decay=0.5", "compute.dtype=bf16"];
    let expected = [
        "run.seed: 0 -> 1",
        "data.train: \"emoji\" -> \"x\"",
        "optimizer.scales: { visual = 0 } -> { visual = 1 }",
        "ema.decay: 0.0 -> 0.5",
        "compute.dtype: \"f32\" -> \"bf16\"",
    ];
    assert_eq!(changes(&other), expected);
    // An earlier version had neither the key nor any other value.
    assert_eq!(Config::default().changes_since(&toml::Table::new()), [""; 0]);
    assert!(FREE.iter().all(|free| {
        let (section, key) = free.split_once('.').unwrap_or((free, ""));
        let section = SECTIONS.iter().find(|known| known.name == section).unwrap();
        key.is_empty() || section.keys.iter().any(|known| known.name == key)
    }));
}

#[test]
fn every_key_is_documented_and_written() {
    let table = layers::to_table(&Config::default());
    assert_eq!(table.len(), SECTIONS.len());
    for section in SECTIONS {
        assert_eq!(table[section.name].as_table().map(|keys| keys.len()), Some(section.keys.len()));
        for key in section.keys {
            assert!(key.about.trim().ends_with('.'), "{}.{} wants a sentence", section.name, key.name);
        }
    }
    let text = Config::default().to_toml(true);
    assert!(text.contains("#   adafactor: factored second moments"));
}

#[test]
fn the_shipped_files_load() {
    Config::load(None, &[]).unwrap();
    parse(include_str!("../../configs/coca_vit_b32.toml"), &[]).unwrap();
    parse(include_str!("../../configs/larger.toml"), &[]).unwrap();
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let text = "[run]\nseed = 1\n\n[optimizer]\nlearning_rat = 1.0\n";
    assert_eq!(
        error(text, &[]),
        "run.toml:5: there is no key 'optimizer.learning_rat'; did you mean optimizer.learning_rate?"
    );
    assert_eq!(error("[optimiser]\n", &[]), "run.toml:1: there is no section 'optimiser'; did you mean optimizer?");
    assert_eq!(
        error("", &["optimizer.steps=1"]),
        "--set optimizer.steps=1: there is no key 'optimizer.steps'; did you mean schedule.steps?"
    );
    assert_eq!(
        error("warmup_steps = 3", &[]),
        "run.toml:1: there is no section 'warmup_steps'; 'warmup_steps' is a key of [schedule]"
    );
    assert!(error("[run]\nzzzzzzzzzz = 1", &[]).ends_with("there are run.out, run.seed"));
    assert_eq!(
        error("[model]\n\noverrides = { vision = { layer = 2 } }", &[]),
        "run.toml:3: there is no key 'model.overrides.vision.layer'; did you mean layers?"
    );
    assert_eq!(
        error("", &["model.overrides.txt.layers=2"]),
        "--set model.overrides.txt.layers=2: there is no key 'model.overrides.txt'; did you mean text?"
    );
    assert!(error("", &["compute.dtype=fp32"]).ends_with("expected `f32` or `bf16`; did you mean f32?"));
}

#[test]
fn wrong_values_name_place_key_and_rule() {
    assert_eq!(
        error("[optimizer]\nlearning_rate = \"fast\"", &[]),
        "run.toml:2: optimizer.learning_rate: invalid type: string \"fast\", expected f64"
    );
    assert!(error("", &["optimizer.kind=sgd"]).contains("unknown variant `sgd`, expected `adamw` or `adafactor`"));
    assert_eq!(error("[batch]\n\nsize = 0", &[]), "run.toml:3: batch.size must be at least 1");
    assert!(error("", &["batch.size=-3"]).contains("batch.size: invalid value: integer `-3`"));
    assert!(error("", &["optimizer.beta1=nan"]).contains("optimizer.beta1 must be at least 0 and below 1"));
    assert!(error("", &["loss.caption_weight=0", "loss.contrastive_weight=0"]).contains("nothing would be trained"));
    assert!(error("", &["run.seed.x=1"]).contains("run.seed holds one value"));
    assert!(error("", &["seed"]).contains("write section.key=value"));
    assert!(error("[run\n", &[]).starts_with("run.toml:1: "));
    assert!(error("run = 3", &[]).contains("write [run] above its keys"));
}

#[test]
fn names_are_one_or_a_list() {
    let names = |set: &str| parse("", &[set]).unwrap().evaluation.data.0;
    assert_eq!(names("evaluation.data="), [""; 0]);
    assert_eq!(names("evaluation.data=nowhere.csv"), ["nowhere.csv"]);
    assert_eq!(names("evaluation.data=[\"a\", \"b:c\"]"), ["a", "b:c"]);
    assert!(error("[evaluation]\ndata = 3", &[]).contains("a name or a list of names"));
    let config = parse("", &["evaluation.data=[\"a\", \"b\"]", "data.split=val", "task.kind=vqa"]).unwrap();
    assert_eq!(parse(&config.to_toml(true), &[]).unwrap(), config);
    assert_eq!((config.evaluation_data().split.as_str(), config.data.split.as_str()), ("test", "val"));
}

#[test]
fn a_task_and_a_decay_by_layers_have_their_ranges() {
    assert!(
        error("", &["task.blank_images=true"]).contains("task.blank_images is a control of tasks: set task.kind too")
    );
    assert!(error("", &["task.kind=pair", "task.label_smoothing=1"]).contains("must be at least 0 and below 1"));
    assert!(error("", &["task.answers=1"]).contains("task.answers must be at least 2"));
    for factor in ["0", "1.5"] {
        let set = format!("optimizer.layer_decay={factor}");
        assert!(error("", &[&set]).contains("optimizer.layer_decay must be above 0 and at most 1"));
    }
    assert!(error("", &["task.kind=clases"]).ends_with("did you mean classes?"));
    parse("", &["task.kind=classes", "loss.contrastive_weight=0", "loss.caption_weight=0"]).unwrap();
}

#[test]
fn the_architecture_is_a_preset_or_a_file_with_overrides() {
    let config =
        parse(DEFAULT_FILE, &["model.overrides.vision.layers=2", "model.overrides.text.vocabulary_size=1000"]).unwrap();
    let mut wanted = CocaConfig::preset("emoji").unwrap();
    wanted.vision.layers = 2;
    wanted.text.vocabulary_size = 1000;
    assert_eq!(config.architecture().unwrap(), wanted);

    let folder = crate::test_folder("architecture");
    std::fs::write(folder.join("open_clip_config.json"), wanted.to_open_clip()).unwrap();
    let mut config = Config::default();
    config.model.preset = folder.display().to_string();
    assert_eq!(config.architecture().unwrap(), wanted);

    let refused = |set: &str| parse("", &[set]).unwrap().architecture().unwrap_err().to_string();
    assert!(refused("model.preset=emojy").starts_with("model.preset: no model preset is called \"emojy\""));
    assert!(refused("model.preset=emojy").ends_with("; did you mean emoji?"));
    assert!(refused("model.overrides.pooler.query=2").starts_with("model.overrides: unknown field `query`"));
    assert!(refused("model.overrides.vision.patch_size=7").contains("patch_size"));
}
