use super::*;
use crate::{test_child, test_folder};
use std::time::Duration;

/// Content that depends on the step, so that a mixture of two checkpoints could not pass for one.
fn content(step: u64, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u64 * 31 + step * 7) as u8).collect()
}

fn save(checkpoints: &Checkpoints, step: u64) -> Result<PathBuf> {
    checkpoints.save(step, |files| {
        files.add_bytes("weights", &content(step, 200_000))?;
        files.add("state", |out| {
            write!(out, "step ")?;
            write!(out, "{step}")
        })
    })
}

/// The newest checkpoint's step after a check of its content, and what was passed over.
fn latest(root: &Path) -> (Option<u64>, Vec<String>) {
    let mut messages = Vec::new();
    let found = Checkpoints::latest(root, |message| messages.push(message.to_owned())).unwrap();
    let step = found.map(|checkpoint| {
        assert_eq!(checkpoint.read("weights").unwrap(), content(checkpoint.step(), 200_000));
        assert_eq!(checkpoint.read("state").unwrap(), format!("step {}", checkpoint.step()).as_bytes());
        checkpoint.step()
    });
    (step, messages)
}

fn folders(root: &Path) -> Vec<String> {
    let mut names: Vec<_> = names(root).unwrap().into_iter().filter(|name| name != ".lock").collect();
    names.sort();
    names
}

#[test]
fn the_newest_two_stay() {
    let root = test_folder("checkpoint-keep");
    assert_eq!(latest(&root.join("nowhere")).0, None);
    let checkpoints = Checkpoints::open(&root, 2).unwrap();
    for step in [5, 10, 15, 123_456_789] {
        save(&checkpoints, step).unwrap();
    }
    assert_eq!(folders(&root), ["step-00000015", "step-123456789"]);
    assert_eq!(latest(&root), (Some(123_456_789), vec![]));
    // The same step again, as when the last step is also a regular one.
    save(&checkpoints, 123_456_789).unwrap();
    assert_eq!(folders(&root), ["step-00000015", "step-123456789"]);
    // A run that went back leaves nothing newer for a later resume to find.
    save(&checkpoints, 20).unwrap();
    assert_eq!(folders(&root), ["aside-1-step-123456789", "step-00000015", "step-00000020"]);
    assert_eq!(latest(&root).0, Some(20));
    let error = Checkpoint::open(&root.join("step-00000020")).unwrap().read("wieghts").unwrap_err().to_string();
    assert!(error.ends_with("no file 'wieghts', only state, weights"), "{error}");
}

#[test]
fn every_tear_is_passed_over_with_its_reason() {
    let damages: [(&str, fn(&Path) -> io::Result<()>); 7] = [
        ("weights: 199999 bytes instead of 200000", |at| {
            File::options().write(true).open(at.join("weights"))?.set_len(199_999)
        }),
        ("weights: 0 bytes instead of 200000", |at| fs::write(at.join("weights"), b"")),
        ("weights: checksum", |at| {
            let mut bytes = fs::read(at.join("weights"))?;
            bytes[123_456] ^= 1;
            fs::write(at.join("weights"), bytes)
        }),
        ("state: No such file", |at| fs::remove_file(at.join("state"))),
        ("manifest.json: No such file", |at| fs::remove_file(at.join(MANIFEST))),
        ("not a manifest", |at| fs::write(at.join(MANIFEST), b"{\"step\": 10, \"fil")),
        ("not a manifest", |at| fs::write(at.join(MANIFEST), [0; 64])),
    ];
    for (reason, damage) in damages {
        let root = test_folder("checkpoint-tear");
        let checkpoints = Checkpoints::open(&root, 2).unwrap();
        save(&checkpoints, 5).unwrap();
        let newest = save(&checkpoints, 10).unwrap();
        damage(&newest).unwrap();
        let (step, messages) = latest(&root);
        assert_eq!(step, Some(5), "{reason}");
        assert_eq!(messages.len(), 1);
        assert!(messages[0].contains(reason), "{}", messages[0]);
        // The run goes on from 5 and reaches 10 again: the damaged folder gives way.
        save(&checkpoints, 10).unwrap();
        assert_eq!(latest(&root), (Some(10), vec![]));
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_damaged() {
    let root = test_folder("checkpoint-unreadable");
    let checkpoints = Checkpoints::open(&root, 2).unwrap();
    save(&checkpoints, 5).unwrap();
    let weights = save(&checkpoints, 10).unwrap().join("weights");
    // A folder opens as a file does, and then gives an error to whoever reads it, also to root.
    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    let error = Checkpoints::latest(&root, |_| ()).unwrap_err().to_string();
    assert!(error.contains("step-00000010/weights: Is a directory"), "{error}");
}

#[test]
fn later_checkpoints_are_set_aside_and_stay() {
    let root = test_folder("checkpoint-aside");
    let checkpoints = Checkpoints::open(&root, 3).unwrap();
    [5, 10, 15].into_iter().for_each(|step| drop(save(&checkpoints, step).unwrap()));
    fs::remove_file(root.join("step-00000015").join(MANIFEST)).unwrap();
    let mut told = Vec::new();
    checkpoints.set_later_aside(5, |text| told.push(text.to_owned())).unwrap();
    assert!(told.len() == 2 && told[1].ends_with("/aside-1-step-00000010"), "{told:?}");
    // A second time around and some saves later all are still there.
    save(&checkpoints, 10).unwrap();
    checkpoints.set_later_aside(5, |_| ()).unwrap();
    drop(checkpoints);
    let checkpoints = Checkpoints::open(&root, 1).unwrap();
    [6, 7].into_iter().for_each(|step| drop(save(&checkpoints, step).unwrap()));
    let expected = ["aside-1-step-00000010", "aside-1-step-00000015", "aside-2-step-00000010", "step-00000007"];
    assert_eq!(folders(&root), expected);
    assert!(Checkpoint::open(&root.join("aside-1-step-00000010")).is_ok());
}

#[test]
fn a_kill_while_a_step_is_saved_again_loses_neither() {
    let root = test_folder("checkpoint-again");
    let target = save(&Checkpoints::open(&root, 2).unwrap(), 5).unwrap();
    let old = root.join(".old-step-00000005");
    // Killed before the new one had the name, and after.
    fs::rename(&target, &old).unwrap();
    fs::create_dir(root.join(".tmp-step-00000005")).unwrap();
    drop(Checkpoints::open(&root, 2).unwrap());
    assert_eq!((folders(&root), latest(&root)), (vec!["step-00000005".to_owned()], (Some(5), vec![])));
    fs::create_dir(&old).unwrap();
    let checkpoints = Checkpoints::open(&root, 2).unwrap();
    assert_eq!((folders(&root), latest(&root)), (vec!["step-00000005".to_owned()], (Some(5), vec![])));
    // With other content, as of another time.
    checkpoints.save(5, |files| files.add_bytes("weights", b"new")).unwrap();
    assert_eq!(Checkpoint::open(&target).unwrap().read("weights").unwrap(), b"new");
    assert_eq!(folders(&root), ["step-00000005"]);
}

#[test]
fn a_failed_write_loses_nothing() {
    let root = test_folder("checkpoint-full");
    let checkpoints = Checkpoints::open(&root, 1).unwrap();
    save(&checkpoints, 5).unwrap();
    let error = checkpoints
        .save(6, |files| {
            files.add_bytes("weights", &content(6, 1000))?;
            files.add("state", |_| Err(io::ErrorKind::StorageFull.into()))
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("step 6 was not written") && error.contains("no storage space"), "{error}");
    assert!(error.contains("the newest is still"), "{error}");
    assert_eq!(folders(&root), ["step-00000005"]);
    assert_eq!(latest(&root).0, Some(5));
    assert!(checkpoints.save(7, |files| files.add_bytes("../weights", b"")).is_err());
    assert_eq!(folders(&root), ["step-00000005"]);
}

/// Saves one checkpoint; its parent has limited the size of files.
#[test]
#[ignore = "run as a child process by a_full_disk_keeps_the_old_checkpoint"]
fn save_once() {
    let root = PathBuf::from(std::env::var("COCA_TEST_ROOT").unwrap());
    println!("RESULT {}", save(&Checkpoints::open(&root, 1).unwrap(), 6).unwrap_err());
}

#[test]
fn a_full_disk_keeps_the_old_checkpoint() {
    let root = test_folder("checkpoint-limit");
    save(&Checkpoints::open(&root, 1).unwrap(), 5).unwrap();
    // A limit of 64 blocks of 512 or 1024 bytes on each file, with its signal ignored: write(2) fails in the middle of
    // `weights`, as it does when the disk is full.
    let child = test_child("checkpoint::tests::save_once");
    let mut shell = std::process::Command::new("sh");
    shell
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"")
        .arg(child.get_program())
        .args(child.get_args());
    let output = shell.env("COCA_TEST_ROOT", &*root).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("step 6 was not written") && text.contains("weights: File too large"), "{text}");
    assert_eq!(folders(&root), ["step-00000005"]);
    assert_eq!(latest(&root), (Some(5), vec![]));
}

#[test]
fn folders_that_cannot_be_used_are_refused() {
    let root = test_folder("checkpoint-refuse");
    fs::write(root.join("file"), b"").unwrap();
    let error = Checkpoints::open(&root.join("file"), 2).unwrap_err().to_string();
    assert!(error.contains("/file: File exists"), "{error}");
    let first = Checkpoints::open(&root, 2).unwrap();
    let error = Checkpoints::open(&root, 2).unwrap_err().to_string();
    assert!(error.contains("another run writes here"), "{error}");
    drop(first);
    Checkpoints::open(&root, 2).unwrap();
}

/// Saves checkpoints without end, from the newest on.
#[test]
#[ignore = "run as a child process by twenty_kills_leave_a_whole_checkpoint"]
fn save_forever() {
    let root = PathBuf::from(std::env::var("COCA_TEST_ROOT").unwrap());
    let checkpoints = Checkpoints::open(&root, 2).unwrap();
    let start = latest(&root).0.unwrap_or(0);
    for step in start + 1.. {
        save(&checkpoints, step).unwrap();
    }
}

#[test]
fn twenty_kills_leave_a_whole_checkpoint() {
    let root = test_folder("checkpoint-kill");
    save(&Checkpoints::open(&root, 2).unwrap(), 1).unwrap();
    let (mut newest, mut leftovers, mut grown) = (1, 0, 0);
    for round in 0..20u64 {
        let mut child = test_child("checkpoint::tests::save_forever")
            .env("COCA_TEST_ROOT", &*root)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Wait for its first save, so that the kill falls among saves and not in the start of the process; then a time
        // that spreads over several saves.
        while latest_folder(&root) == newest && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 20 * 977));
        child.kill().unwrap();
        child.wait().unwrap();
        leftovers += folders(&root).iter().filter(|name| name.starts_with(TEMPORARY)).count();
        let (step, messages) = latest(&root);
        assert_eq!(messages, Vec::<String>::new(), "nothing torn is ever visible");
        let step = step.unwrap();
        assert!(step >= newest);
        grown += u64::from(step > newest);
        newest = step;
    }
    assert!(grown == 20 && leftovers > 0, "kills must fall among saves: {grown} rounds grew, {leftovers} leftovers");
    Checkpoints::open(&root, 2).unwrap();
    assert!(folders(&root).iter().all(|name| name.starts_with("step-")), "leftovers go at the start");
}

fn latest_folder(root: &Path) -> u64 {
    list(root).unwrap().first().map_or(0, |(step, _)| *step)
}
