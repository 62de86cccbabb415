//! A peer in a process of its own that answers one line of JSON whenever it is asked, so that ours and theirs alternate.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running peer. It ends when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a command; what it writes to stderr goes where that of this program goes, unless the command says otherwise.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(mut command: Command) -> io::Result<Process> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the peer has no pipes"));
        };
        Ok(Process { child, stdin, stdout: BufReader::new(stdout) })
    }

    /// Writes a line and waits for the answer.
    ///
    /// # Errors
    /// The peer ended, or its answer is no JSON.
    pub fn ask(&mut self, line: &str) -> io::Result<Value> {
        match writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()) {
            // It may have said why it listens no longer.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => self.answer(),
        }
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// The peer ended, or its answer is no JSON.
    pub fn answer(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the peer ended"));
        }
        let other = |_| io::Error::other(format!("its answer is no JSON: {}", shortened(line.trim_end())));
        serde_json::from_str(&line).map_err(other)
    }
}

/// The beginning of an answer, for a message.
pub fn shortened(answer: &str) -> String {
    const MOST: usize = 80;
    match answer.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &answer[..end]),
        None => answer.to_owned(),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
