//! The program itself: what it prints, and how it refuses.

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

#[test]
fn the_printed_configuration_is_a_configuration() {
    let folder = std::env::temp_dir().join(format!("coca-test-{}-program", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("run.toml");
    let sets = ["--set", "optimizer.kind=adafactor", "--set", "model.overrides.vision.layers=2"];
    let documented = coca(&[&["config"], &sets[..]].concat());
    assert!(documented.status.success());
    std::fs::write(&file, &documented.stdout).unwrap();
    let again = coca(&["config", file.to_str().unwrap(), "--plain"]);
    assert_eq!(stdout(&again), stdout(&coca(&[&["config", "--plain"], &sets[..]].concat())));
    assert!(stdout(&again).contains("kind = \"adafactor\"\n"));
    std::fs::remove_dir_all(&folder).unwrap();
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
