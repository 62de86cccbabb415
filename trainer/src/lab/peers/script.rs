//! Peers that are scripts: they read the list of cases from the first line of stdin, say which they have, and then run what
//! they are asked for.

use super::{Peer, PeerCase, process::Process};
use crate::lab::measure::Contestant;
use crate::{Error, Result};
use engine::Queue;
use kernels::case::Array;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// PyTorch's ops.
pub const TORCH: &str = include_str!("../../../../benches/peers/torch_ops.py");

/// A script that runs.
pub struct Script {
    name: String,
    process: Process,
    /// Whether it has the case at each place.
    has: Vec<bool>,
}

/// Starts a script and tells it the cases.
///
/// # Errors
/// A sentence that says why it does not take part.
pub fn open(
    name: &str,
    script: &str,
    python: &Path,
    queue: &Queue,
    cases: &[Option<PeerCase>],
) -> std::result::Result<Script, String> {
    let absent = |why: &dyn std::fmt::Display| {
        format!("{name} is not there: {}: {why}; --python names an interpreter that has it", python.display())
    };
    let cpu = queue.cpu(name).map_err(|error| absent(&error))?;
    let mut command = Command::new(python);
    command.args(["-c", script]).stderr(Stdio::null());
    // Pages stay with the process, in huge pages, as ours do: by default glibc gives every large result back.
    command.env("MALLOC_MMAP_MAX_", "0").env("MALLOC_TRIM_THRESHOLD_", "-1");
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    let mut process = Process::start(command).map_err(|error| absent(&error))?;
    let list = json!({"threads": cpu.threads(), "cases": cases}).to_string();
    let answer = process.ask(&list).map_err(|error| absent(&error))?;
    let (Some(name), Some(has)) = (answer["name"].as_str(), answer["has"].as_array()) else {
        return Err(absent(&answer["error"].as_str().unwrap_or("it does not say what it has")));
    };
    Ok(Script { name: name.to_owned(), has: has.iter().map(|has| has == &Value::Bool(true)).collect(), process })
}

impl Peer for Script {
    fn name(&self) -> &str {
        &self.name
    }

    fn contestant<'a>(&'a mut self, place: usize, _values: &[Array]) -> Result<Option<Box<dyn Contestant + 'a>>> {
        if self.has.get(place) != Some(&true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Turns { script: self, place })))
    }
}

/// The turns of a script in one case.
struct Turns<'a> {
    script: &'a mut Script,
    place: usize,
}

impl Contestant for Turns<'_> {
    fn run(&mut self, count: usize) -> Result<f64> {
        let name = self.script.name.clone();
        let line = json!({"case": self.place, "count": count}).to_string();
        let answer = self.script.process.ask(&line);
        let answer = answer.map_err(|error| Error::invalid(format!("{name}, case {}: {error}", self.place)))?;
        answer["seconds"].as_f64().ok_or_else(|| Error::invalid(format!("{name}, case {}: {answer}", self.place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cases::products;
    use engine::CpuQueue;
    use engine::cpu::Isa;

    /// A peer without arithmetic, in the shell instead of Python.
    fn shell(body: &str) -> std::result::Result<Script, String> {
        let queue = Queue::Cpu(CpuQueue::new(Isa::Scalar, 1).unwrap());
        let cases: Vec<_> = products((4, 4, 4)).iter().map(PeerCase::of).collect();
        open("mock", body, Path::new("sh"), &queue, &cases)
    }

    #[test]
    fn scripts_take_turns() {
        let body = r#"read list; case "$list" in *'"threads":1'*) ;; *) exit 1;; esac
            echo '{"name": "mock 1.0", "has": [true, false]}'
            while read line; do echo '{"seconds": 0.25}'; done"#;
        let mut script = shell(body).unwrap();
        assert_eq!(script.name(), "mock 1.0");
        assert!(script.contestant(1, &[]).unwrap().is_none() && script.contestant(9, &[]).unwrap().is_none());
        assert_eq!(script.contestant(0, &[]).unwrap().unwrap().run(3).unwrap(), 0.25);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = shell("exit 3").err().unwrap();
        assert!(error.starts_with("mock is not there: sh: ") && error.contains("--python"), "{error}");
        let error = shell(r#"read list; echo '{"error": "no such module"}'"#).err().unwrap();
        assert!(error.contains("no such module"), "{error}");
        let mut script = shell(r#"read list; echo '{"name": "mock", "has": [true]}'; read line"#).unwrap();
        let error = script.contestant(0, &[]).unwrap().unwrap().run(1).unwrap_err().to_string();
        assert!(error.contains("mock, case 0: the peer ended"), "{error}");
    }
}
