//! SIGINT and SIGTERM ask the run to finish its step and save; a second one ends the process at once.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a process ended by the second signal: 128 + SIGINT, as shells have it.
const EXIT_CODE: i32 = 130;

/// Tells whether the process was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The system refuses them.
    pub fn install() -> Result<Stop> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: at the first signal the exit still sees the flag down, at the second it sees it up.
            signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE, stop.0.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.0.clone()))
                .map_err(|error| Error::invalid(format!("cannot handle signal {signal}: {error}")))?;
        }
        Ok(stop)
    }

    /// True once a signal has come.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
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
    use std::time::Duration;

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
