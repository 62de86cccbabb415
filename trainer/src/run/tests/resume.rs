//! Where a run goes on, and what of earlier ones stays: nothing that was trained is lost.

use super::*;

#[test]
fn starting_anew_sets_the_old_run_aside() {
    let folder = test_folder("run-anew");
    let anew = |sets: &[&str]| Run::open(config(&folder, sets), &Resume::None).unwrap();
    let mut run = anew(&["logging.tensorboard=true"]);
    run.train_to(4, &Stop::default()).unwrap();
    run.finish(&Stop::default()).unwrap();
    drop(run);
    let (old, checkpoint, place) = (losses(&folder), saved(&folder), folder.join("previous-1"));
    assert!(!place.exists());
    // It dies before its first checkpoint.
    let run = anew(&["run.seed=1"]);
    assert_eq!((run.state.progress.step, run.history.len()), (0, 0));
    drop(run);
    assert_eq!(losses(&place), old);
    assert!(saved(&place) == checkpoint);
    for name in [EVENT_FOLDER, MODEL_FOLDER] {
        assert!(place.join(name).exists() && !folder.join(name).exists(), "{name}");
    }
    assert!(std::fs::read_to_string(place.join(CONFIG_FILE)).unwrap().contains("\nseed = 0\n"));
    assert_eq!(open(&folder, &["run.seed=1"]).state.progress.step, 0);
}

#[test]
fn a_folder_whose_checkpoints_are_all_damaged_keeps_them() {
    let folder = test_folder("run-damaged");
    open(&folder, &[]).train_to(6, &Stop::default()).unwrap();
    let root = folder.join(CHECKPOINT_FOLDER);
    let damage = |step: &str| std::fs::write(root.join(step).join("weights.f32"), b"").unwrap();
    // The newest alone gives way, and is kept.
    damage("step-00000006");
    let mut run = open(&folder, &[]);
    assert_eq!((run.state.progress.step, run.history.len(), run.notes.len()), (3, 3, 2));
    assert!(run.notes[1].ends_with("aside-1-step-00000006"), "{:?}", run.notes);
    run.train(&Stop::default()).unwrap();
    drop(run);
    assert!(root.join("aside-1-step-00000006").exists());

    ["step-00000009", "step-00000010"].into_iter().for_each(damage);
    let lines = losses(&folder);
    let error = Run::open(config(&folder, &[]), &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("none of the 2 checkpoints is whole") && error.contains("--resume none"), "{error}");
    assert_eq!((losses(&folder), lines.len()), (lines.clone(), 10));
    drop(Run::open(config(&folder, &[]), &Resume::None).unwrap());
    assert!(folder.join("previous-1/checkpoints/step-00000010").exists());
    assert_eq!(losses(&folder.join("previous-1")), lines);
}

#[test]
fn going_back_in_a_run_leaves_no_later_checkpoint_to_find() {
    let (folder, through) = (test_folder("run-back"), test_folder("run-back-through"));
    open(&folder, &[]).train_to(6, &Stop::default()).unwrap();
    let root = folder.join(CHECKPOINT_FOLDER);
    let back = Resume::From(root.join("step-00000003"));
    let mut run = Run::open(config(&folder, &[]), &back).unwrap();
    run.config.checkpoint.every = 0;
    let ended = run.train_to(4, &Stop::default());
    assert!(ended.is_ok() && root.join("aside-1-step-00000006").exists());
    drop(run);
    // As if it had been killed before it saved.
    std::fs::remove_dir_all(root.join("step-00000004")).unwrap();
    let mut run = open(&folder, &[]);
    assert_eq!(run.state.progress.step, 3);
    run.train(&Stop::default()).unwrap();
    open(&through, &[]).train(&Stop::default()).unwrap();
    assert!(losses(&folder) == losses(&through) && saved(&folder) == saved(&through));
}

#[test]
fn a_folder_goes_on_with_its_own_configuration_alone() {
    let (folder, to) = (test_folder("run-config"), test_folder("run-config-to"));
    open(&folder, &["ema.decay=0"]).train_to(3, &Stop::default()).unwrap();
    let written = std::fs::read(folder.join(CONFIG_FILE)).unwrap();
    let error = |sets: &[&str], resume: &Resume| Run::open(config(&folder, sets), resume).unwrap_err().to_string();
    let text = error(&["optimizer.learning_rate=0.5"], &Resume::Auto);
    assert!(text.contains("(optimizer.learning_rate: 0.001 -> 0.5, ema.decay: 0.0 -> 0.9): "), "{text}");
    assert!(text.contains("--out") && text.ends_with("start anew with --resume none"), "{text}");
    let own = Resume::From(folder.to_path_buf());
    assert!(error(&["ema.decay=0", "run.seed=1"], &own).contains("(run.seed: 0 -> 1)"));
    assert_eq!(std::fs::read(folder.join(CONFIG_FILE)).unwrap(), written);
    // Of a checkpoint that does not hold it, the folder's is asked.
    let manifest = folder.join(CHECKPOINT_FOLDER).join("step-00000003").join("manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    json["files"].as_object_mut().unwrap().remove(CONFIG_FILE).unwrap();
    std::fs::write(&manifest, json.to_string()).unwrap();
    assert!(error(&["ema.decay=0", "run.seed=1"], &Resume::Auto).contains("(run.seed: 0 -> 1)"));

    // Elsewhere it is another run, but an average has to begin with it.
    let text = Run::open(config(&to, &["run.seed=1"]), &own).unwrap_err().to_string();
    assert!(text.contains("set ema.decay=0"), "{text}");
    assert_eq!(Run::open(config(&to, &["ema.decay=0", "run.seed=1"]), &own).unwrap().state.progress.step, 3);
    // More steps, and other evaluations, are no other run.
    let mut run = open(&folder, &["ema.decay=0", "schedule.steps=12", "evaluation.captions=0", "compute.threads=1"]);
    assert_eq!(run.train(&Stop::default()).unwrap(), Ended::Steps);
    assert_eq!(losses(&folder).len(), 12);
}

#[test]
fn a_run_goes_on_from_any_folder_that_holds_a_checkpoint() {
    let (from, to) = (test_folder("run-from"), test_folder("run-to"));
    open(&from, &[]).train_to(5, &Stop::default()).unwrap();
    let root = from.join(CHECKPOINT_FOLDER);
    let resume = |folder: PathBuf| Run::open(config(&to, &[]), &Resume::From(folder));
    for (folder, step) in
        [(from.to_path_buf(), 5), (root.clone(), 5), (root.join("step-00000005"), 5), (root.join("step-00000003"), 3)]
    {
        assert_eq!(resume(folder).unwrap().state.progress.step, step);
    }
    // What is in the way there is another run, and is kept.
    resume(from.to_path_buf()).unwrap().train_to(6, &Stop::default()).unwrap();
    resume(root.join("step-00000003")).unwrap().train(&Stop::default()).unwrap();
    assert_eq!(losses(&to.join("previous-5")).len(), 1);
    let through = test_folder("run-from-through");
    open(&through, &[]).train(&Stop::default()).unwrap();
    assert!(saved(&through) == saved(&to));
    let error = |folder: PathBuf| resume(folder).unwrap_err().to_string();
    let empty = test_folder("run-from-empty");
    assert!(error(empty.to_path_buf()).contains("neither a checkpoint (manifest.json) nor a run"));
    assert!(error(empty.join("nowhere")).contains("nowhere"));
}
