//! SIGINT and SIGTERM ask the run to finish its step and save; a second one ends the process at once. Where nothing is
//! left to save, the first one does.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Exit code of a process ended by the second signal: 128 + SIGINT, as shells have it.
const EXIT_CODE: i32 = 130;

/// Time between two looks at whether a signal has come.
const WATCH_PERIOD: Duration = Duration::from_millis(20);

/// A signal ends the process while this lives; see [`Stop::last_words`].
#[derive(Debug)]
pub struct Watch {
    /// Its end tells the thread that it is over.
    _over: Sender<()>,
}

/// Tells whether the process was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Installs the handlers, once in a process: whoever comes later gets the same.
    ///
    /// # Errors
    /// The system refuses them.
    pub fn install() -> Result<Stop> {
        static INSTALLED: Mutex<Option<Stop>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = &*installed {
            return Ok(stop.clone());
        }
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: at the first signal the exit still sees the flag down, at the second it sees it up.
            signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE, stop.0.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.0.clone()))
                .map_err(|error| Error::invalid(format!("cannot handle signal {signal}: {error}")))?;
        }
        Ok(installed.insert(stop).clone())
    }

    /// True once a signal has come.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// From now until the watch is dropped a signal, also one that has come before, ends the process with these words on
    /// stderr and a status of success, as a run that was stopped in training has.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn last_words(&self, words: String) -> Result<Watch> {
        let (over, watched) = channel();
        let stop = self.clone();
        let watch = move || {
            while watched.recv_timeout(WATCH_PERIOD) == Err(RecvTimeoutError::Timeout) {
                if stop.requested() {
                    // A closed stderr is no reason to stay.
                    let _ = writeln!(std::io::stderr(), "{words}");
                    std::process::exit(0);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(watch);
        thread.map_err(|error| Error::io("the thread that waits for a signal", error))?;
        Ok(Watch { _over: over })
    }

    /// Asks for a stop, as a signal would.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// The process that the tests signal: says `ready`, and `stopping` once asked, then goes on until it is killed.
    #[test]
    #[ignore = "run as a child process by the other tests"]
    fn child() {
        let stop = Stop::install().unwrap();
        println!("ready");
        while !stop.requested() {
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("stopping");
        std::thread::sleep(Duration::from_secs(60));
    }

    /// As [`child`], with nothing to save.
    #[test]
    #[ignore = "run as a child process by the other tests"]
    fn watched_child() {
        let stop = Stop::install().unwrap();
        drop(stop.last_words("words of a watch that is over".into()).unwrap());
        let _watch = stop.last_words("all is saved".into()).unwrap();
        println!("ready");
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn where_nothing_is_to_be_saved_the_first_signal_ends() {
        for signal in ["-INT", "-TERM"] {
            let mut command = crate::test_child("signal::tests::watched_child");
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|line| line.ok());
            assert!(lines.any(|line| line.ends_with("ready")));
            send(&child, signal);
            let output = child.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "all is saved\n");
            assert!(output.status.success(), "{signal}");
        }
    }

    fn send(child: &Child, signal: &str) {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        for (first, second) in [("-INT", "-INT"), ("-TERM", "-INT")] {
            let mut child = crate::test_child("signal::tests::child").stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|line| line.ok());
            // The test harness prints its own words before ours on the same line.
            assert!(lines.any(|line| line.ends_with("ready")));
            send(&child, first);
            assert!(lines.any(|line| line.ends_with("stopping")));
            assert!(child.try_wait().unwrap().is_none(), "one signal does not end it");
            send(&child, second);
            assert_eq!(child.wait().unwrap().code(), Some(EXIT_CODE));
        }
    }
}
