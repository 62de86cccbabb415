//! Peers that are scripts: they read the list of cases from the first line of stdin, say which they have in which ways, and then
//! run what they are asked for. Each way of a script is a peer of its own.

use super::{Peer, PeerCase, process::Process};
use crate::lab::measure::Contestant;
use crate::lab::say;
use crate::{Error, Result};
use engine::{Queue, cpu};
use kernels::case::Array;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;

/// PyTorch's ops.
pub const TORCH: &str = include_str!("../../../../benches/peers/torch_ops.py");

/// A way in which a script that runs computes.
pub struct Script {
    name: String,
    way: usize,
    process: Rc<RefCell<Process>>,
    /// Whether it has the case at each place.
    has: Vec<bool>,
}

/// Starts a script and tells it the cases; the ways that it has.
///
/// # Errors
/// A sentence that says why it does not take part.
pub fn open(
    name: &str,
    script: &str,
    python: &Path,
    queue: &Queue,
    cases: &[Option<PeerCase>],
) -> std::result::Result<Vec<Script>, String> {
    let absent = |why: &dyn std::fmt::Display| {
        format!("{name} is not there: {}: {why}; --python names an interpreter that has it", python.display())
    };
    let (device, threads) = match queue {
        Queue::Cpu(cpu) => ("cpu", cpu.threads()),
        Queue::Cuda(_) => ("cuda", cpu::threads_from_env().map_err(|error| absent(&error))?),
    };
    let mut command = Command::new(python);
    command.args(["-c", script]).stderr(Stdio::null());
    // Pages stay with the process, in huge pages, as ours do: by default glibc gives every large result back.
    command.env("MALLOC_MMAP_MAX_", "0").env("MALLOC_TRIM_THRESHOLD_", "-1");
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    let mut process = Process::start(command).map_err(|error| absent(&error))?;
    let list = json!({"threads": threads, "device": device, "cases": cases}).to_string();
    let answer = process.ask(&list).map_err(|error| absent(&error))?;
    let (Some(name), Some(ways), Some(has)) =
        (answer["name"].as_str(), answer["ways"].as_array(), answer["has"].as_array())
    else {
        return Err(absent(&answer["error"].as_str().unwrap_or("it does not say what it has")));
    };
    let process = Rc::new(RefCell::new(process));
    let of_way = |(way, suffix): (usize, &Value)| Script {
        name: format!("{name} {}", suffix.as_str().unwrap_or_default()).trim_end().to_owned(),
        way,
        process: process.clone(),
        has: has.iter().map(|ways| ways[way] == Value::Bool(true)).collect(),
    };
    Ok(ways.iter().enumerate().map(of_way).collect())
}

impl Script {
    /// Asks for so many runs of the case at this place.
    fn ask(&self, place: usize, count: usize) -> Result<Value> {
        let line = json!({"case": place, "way": self.way, "count": count}).to_string();
        let answer = self.process.borrow_mut().ask(&line);
        answer.map_err(|error| Error::invalid(format!("{}, case {place}: {error}", self.name)))
    }
}

impl Peer for Script {
    fn name(&self) -> &str {
        &self.name
    }

    fn contestant<'a>(&'a mut self, place: usize, _values: &[Array]) -> Result<Option<Box<dyn Contestant + 'a>>> {
        if self.has.get(place) != Some(&true) {
            return Ok(None);
        }
        if let Some(reason) = self.ask(place, 0)?["absent"].as_str() {
            say(&format!("{} does not take part: {reason}", self.name));
            return Ok(None);
        }
        Ok(Some(Box::new(Turns { script: self, place })))
    }
}

/// The turns of a script in one case.
struct Turns<'a> {
    script: &'a Script,
    place: usize,
}

impl Contestant for Turns<'_> {
    fn run(&mut self, count: usize) -> Result<f64> {
        let answer = self.script.ask(self.place, count)?;
        let wrong = || Error::invalid(format!("{}, case {}: {answer}", self.script.name, self.place));
        answer["seconds"].as_f64().ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cases::products;
    use engine::CpuQueue;
    use engine::cpu::Isa;

    /// A peer without arithmetic, in the shell instead of Python.
    fn shell(body: &str) -> std::result::Result<Vec<Script>, String> {
        let queue = Queue::Cpu(CpuQueue::new(Isa::Scalar, 1).unwrap());
        let cases: Vec<_> = products((4, 4, 4)).iter().map(PeerCase::of).collect();
        open("mock", body, Path::new("sh"), &queue, &cases)
    }

    #[test]
    fn scripts_take_turns() {
        let body = r#"read list; case "$list" in *'"device":"cpu"'*'"threads":1'*) ;; *) exit 1;; esac
            echo '{"name": "mock 1.0", "ways": ["", "fast"], "has": [[true, true], [false, true]]}'
            while read line; do case "$line" in
                *'"case":1'*) echo '{"absent": "too small"}';;
                *'"way":1}') echo '{"seconds": 0.125}';;
                *) echo '{"seconds": 0.25}';;
            esac; done"#;
        let mut ways = shell(body).unwrap();
        assert_eq!(ways.iter().map(|way| way.name().to_owned()).collect::<Vec<_>>(), ["mock 1.0", "mock 1.0 fast"]);
        let (fast, plain) = (ways.pop().unwrap(), ways.pop().unwrap());
        let [mut plain, mut fast] = [plain, fast];
        // Not there, unknown, refused.
        assert!(plain.contestant(1, &[]).unwrap().is_none() && plain.contestant(9, &[]).unwrap().is_none());
        assert!(fast.contestant(1, &[]).unwrap().is_none());
        let (mut one, mut other) =
            (plain.contestant(0, &[]).unwrap().unwrap(), fast.contestant(0, &[]).unwrap().unwrap());
        assert_eq!([one.run(3).unwrap(), other.run(3).unwrap(), one.run(1).unwrap()], [0.25, 0.125, 0.25]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = shell("exit 3").err().unwrap();
        assert!(error.starts_with("mock is not there: sh: ") && error.contains("--python"), "{error}");
        let error = shell(r#"read list; echo '{"error": "no such module"}'"#).err().unwrap();
        assert!(error.contains("no such module"), "{error}");
        let body =
            r#"read list; echo '{"name": "mock", "ways": [""], "has": [[true]]}'; read line; echo '{}'; read line"#;
        let mut script = shell(body).unwrap().remove(0);
        let error = script.contestant(0, &[]).unwrap().unwrap().run(1).unwrap_err().to_string();
        assert!(error.contains("mock, case 0: the peer ended"), "{error}");
    }
}
