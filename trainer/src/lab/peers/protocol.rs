//! Peers in processes of their own: they read the list of cases from the first line of stdin, say which they have in
//! which ways, and then run what they are asked for, as `benches/peers/torch_ops.py` tells. Each way is a peer.

use super::process::{Process, shortened};
use super::{Peer, PeerCase};
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
const TORCH: &str = include_str!("../../../../benches/peers/torch_ops.py");

/// A way in which a running program computes.
pub struct Way {
    name: String,
    way: usize,
    process: Rc<RefCell<Process>>,
    /// Whether it has the case at each place.
    has: Vec<bool>,
}

/// The ways of PyTorch.
///
/// # Errors
/// A sentence that says why it does not take part.
pub fn torch(python: &Path, queue: &Queue, cases: &[Option<PeerCase>]) -> std::result::Result<Vec<Way>, String> {
    let mut command = Command::new(python);
    command.args(["-c", TORCH]).stderr(Stdio::null());
    let fix = "--python names an interpreter that has it";
    open(command, queue, cases).map_err(|why| format!("torch is not there: {}: {why}; {fix}", python.display()))
}

/// The ways of a program.
///
/// # Errors
/// A sentence that says why it does not take part.
pub fn program(program: &Path, queue: &Queue, cases: &[Option<PeerCase>]) -> std::result::Result<Vec<Way>, String> {
    let absent = |why| format!("--peer {} does not take part: {why}", program.display());
    open(Command::new(program), queue, cases).map_err(absent)
}

/// Starts a program and tells it the cases; its ways, or why there are none.
fn open(mut command: Command, queue: &Queue, cases: &[Option<PeerCase>]) -> std::result::Result<Vec<Way>, String> {
    let why = |error: &dyn std::fmt::Display| error.to_string();
    let (device, threads) = match queue {
        Queue::Cpu(cpu) => ("cpu", cpu.threads()),
        Queue::Cuda(_) => ("cuda", cpu::threads_from_env().map_err(|error| why(&error))?),
    };
    // Pages stay with the process, in huge pages, as ours do: by default glibc gives every large result back.
    command.env("MALLOC_MMAP_MAX_", "0").env("MALLOC_TRIM_THRESHOLD_", "-1");
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1").env("RAYON_NUM_THREADS", threads.to_string());
    let mut process = Process::start(command).map_err(|error| why(&error))?;
    let list = json!({"threads": threads, "device": device, "cases": cases}).to_string();
    let answer = process.ask(&list).map_err(|error| why(&error))?;
    if let Some(error) = answer["error"].as_str() {
        return Err(error.to_owned());
    }
    let unclear =
        || format!("it does not say what it has of {} cases, but {}", cases.len(), shortened(&answer.to_string()));
    let (name, ways, has) = parts(&answer).filter(|(_, _, has)| has.len() == cases.len()).ok_or_else(unclear)?;
    let process = Rc::new(RefCell::new(process));
    let of_way = |(way, suffix): (usize, &str)| Way {
        name: format!("{name} {suffix}").trim_end().to_owned(),
        way,
        process: process.clone(),
        has: has.iter().map(|ways| ways[way]).collect(),
    };
    Ok(ways.into_iter().enumerate().map(of_way).collect())
}

/// Name, ways, and which of these each case has, of the answer to a list of cases; none if it is another.
fn parts(answer: &Value) -> Option<(&str, Vec<&str>, Vec<Vec<bool>>)> {
    let name = answer["name"].as_str().filter(|name| !name.trim().is_empty())?;
    let ways: Vec<&str> = answer["ways"].as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let case = |has: &Value| has.as_array()?.iter().map(Value::as_bool).collect::<Option<Vec<bool>>>();
    let has: Vec<Vec<bool>> = answer["has"].as_array()?.iter().map(case).collect::<Option<_>>()?;
    (!ways.is_empty() && has.iter().all(|has| has.len() == ways.len())).then_some((name, ways, has))
}

impl Way {
    /// Gives it a name that is none of these.
    pub fn make_distinct(&mut self, names: &[&str]) {
        let plain = self.name.clone();
        let mut number = 1;
        while names.contains(&self.name.as_str()) {
            number += 1;
            self.name = format!("{plain} #{number}");
        }
    }

    /// Asks for so many runs of the case at this place: the seconds of all of them, or why it cannot run it.
    fn ask(&self, place: usize, count: usize) -> Result<std::result::Result<f64, String>> {
        let line = json!({"case": place, "way": self.way, "count": count}).to_string();
        let answer = self.process.borrow_mut().ask(&line).map_err(|error| Error::invalid(error.to_string()))?;
        if let Some(reason) = answer["absent"].as_str() {
            return Ok(Err(reason.to_owned()));
        }
        let seconds = answer["seconds"].as_f64().filter(|&seconds| seconds >= 0.0);
        let unclear =
            || Error::invalid(format!("it does not say how long it took, but {}", shortened(&answer.to_string())));
        seconds.map(Ok).ok_or_else(unclear)
    }
}

impl Peer for Way {
    fn name(&self) -> &str {
        &self.name
    }

    fn contestant<'a>(&'a mut self, place: usize, _values: &[Array]) -> Result<Option<Box<dyn Contestant + 'a>>> {
        if self.has.get(place) != Some(&true) {
            return Ok(None);
        }
        if let Err(reason) = self.ask(place, 0)? {
            say(&format!("{} does not take part: {reason}", self.name));
            return Ok(None);
        }
        Ok(Some(Box::new(Turns { way: self, place })))
    }
}

/// The turns of a way in one case.
struct Turns<'a> {
    way: &'a Way,
    place: usize,
}

impl Contestant for Turns<'_> {
    fn run(&mut self, count: usize) -> Result<f64> {
        self.way.ask(self.place, count)?.map_err(Error::invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cases::products;
    use engine::CpuQueue;
    use engine::cpu::Isa;
    use std::os::unix::fs::symlink;

    fn queue() -> Queue {
        Queue::Cpu(CpuQueue::new(Isa::Scalar, 1).unwrap())
    }

    /// Two cases.
    fn cases() -> Vec<Option<PeerCase>> {
        products((4, 4, 4)).iter().take(2).map(PeerCase::of).collect()
    }

    /// A peer without arithmetic, in the shell instead of Python.
    fn shell(body: &str) -> std::result::Result<Vec<Way>, String> {
        let mut command = Command::new("sh");
        command.args(["-c", body]);
        open(command, &queue(), &cases())
    }

    #[test]
    fn programs_take_turns() {
        let body = r#"read list
            case "$list $RAYON_NUM_THREADS" in *'"device":"cpu"'*'"threads":1}'*' 1') ;; *) exit 1;; esac
            echo '{"name": "mock 1.0", "ways": ["", "fast"], "has": [[true, true], [false, true]]}'
            while read line; do case "$line" in
                *'"case":1'*) echo '{"absent": "too small"}';;
                *'"way":1}') echo '{"seconds": 0.125}';;
                *) echo '{"seconds": 0.25}';;
            esac; done"#;
        let mut ways = shell(body).unwrap();
        assert_eq!(ways.iter().map(|way| way.name().to_owned()).collect::<Vec<_>>(), ["mock 1.0", "mock 1.0 fast"]);
        let (mut fast, mut plain) = (ways.pop().unwrap(), ways.pop().unwrap());
        // Not there, unknown, refused.
        assert!(plain.contestant(1, &[]).unwrap().is_none() && plain.contestant(9, &[]).unwrap().is_none());
        assert!(fast.contestant(1, &[]).unwrap().is_none());
        let (mut one, mut other) =
            (plain.contestant(0, &[]).unwrap().unwrap(), fast.contestant(0, &[]).unwrap().unwrap());
        assert_eq!([one.run(3).unwrap(), other.run(3).unwrap(), one.run(1).unwrap()], [0.25, 0.125, 0.25]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = crate::test_folder("peer-programs");
        let absent = |file: &Path| program(file, &queue(), &cases()).err().unwrap();
        let missing = folder.join("none");
        let named = |file: &Path| format!("--peer {} does not take part: ", file.display());
        assert!(absent(&missing).starts_with(&(named(&missing) + "No such file")), "{}", absent(&missing));
        assert!(absent(&folder).starts_with(&(named(&folder) + "Permission denied")), "{}", absent(&folder));
        // One that ends at once, one that says what it was told.
        for (tool, why) in
            [("true", "the peer ended"), ("cat", "it does not say what it has of 2 cases, but {\"cases\"")]
        {
            let link = folder.join(format!("my-{tool}"));
            let found = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(tool));
            symlink(found.iter().find(|path| path.exists()).unwrap(), &link).unwrap();
            assert!(absent(&link).starts_with(&(named(&link) + why)), "{}", absent(&link));
        }
        let error = torch(&missing, &queue(), &cases()).err().unwrap();
        assert!(error.starts_with("torch is not there: ") && error.contains("--python"), "{error}");
    }

    #[test]
    fn answers_that_are_none_are_told() {
        let answered = |answer: &str| shell(&format!("read list; echo '{answer}'; read line")).err().unwrap();
        assert_eq!(answered(r#"{"error": "no such module"}"#), "no such module");
        assert_eq!(answered("ready"), "its answer is no JSON: ready");
        for answer in [
            r#"{"ways": [""], "has": [[true], [true]]}"#,
            r#"{"name": "", "ways": [""], "has": [[true], [true]]}"#,
            r#"{"name": "mock", "ways": [], "has": [[], []]}"#,
            r#"{"name": "mock", "ways": [1], "has": [[true], [true]]}"#,
            r#"{"name": "mock", "ways": [""], "has": [[true]]}"#,
            r#"{"name": "mock", "ways": [""], "has": [true, true]}"#,
            r#"{"name": "mock", "ways": [""], "has": [[true], []]}"#,
            "3",
        ] {
            assert!(
                answered(answer).starts_with("it does not say what it has of 2 cases, but "),
                "{}",
                answered(answer)
            );
        }
        // An answer that comes before the question.
        assert_eq!(shell(r#"echo '{"error": "busy"}'; exec <&-"#).err().unwrap(), "busy");

        let later = |answers: &str| {
            let ready = r#"{"name": "mock", "ways": [""], "has": [[true], [true]]}"#;
            let mut way = shell(&format!("read list; echo '{ready}'; {answers}")).unwrap().remove(0);
            let mut contestant = match way.contestant(0, &[]) {
                Ok(contestant) => contestant.unwrap(),
                Err(error) => return error.to_string(),
            };
            contestant.run(1).unwrap_err().to_string()
        };
        assert_eq!(later("exit 3"), "the peer ended");
        assert_eq!(later("read line; echo '{}'"), "it does not say how long it took, but {}");
        let prepared = r#"read line; echo '{"seconds": 0}'; read line; "#;
        assert_eq!(later(prepared), "the peer ended");
        assert_eq!(later(&format!("{prepared} echo soon")), "its answer is no JSON: soon");
        let backwards = later(&format!(r#"{prepared} echo '{{"seconds": -1}}'"#));
        assert_eq!(backwards, r#"it does not say how long it took, but {"seconds":-1}"#);
        assert_eq!(later(&format!(r#"{prepared} echo '{{"absent": "no memory"}}'"#)), "no memory");
    }
}
