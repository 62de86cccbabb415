//! A peer in a process of its own that takes one step whenever it is asked, so that ours and theirs alternate.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The script that runs open_clip's training step.
pub const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/open_clip_step.py");

/// A running peer. It ends when it is dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the script and waits until its model stands.
    ///
    /// # Errors
    /// The interpreter does not start, or the script ends before it is ready.
    pub fn start(python: &Path, arguments: &[String], tuned: bool) -> io::Result<Peer> {
        let mut command = Command::new(python);
        command.arg(SCRIPT).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        if tuned {
            // Pages stay with the process, in huge pages: by default glibc gives every large activation back.
            command
                .env("MALLOC_MMAP_MAX_", "0")
                .env("MALLOC_TRIM_THRESHOLD_", "-1")
                .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        }
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the peer has no pipes"));
        };
        let mut peer = Peer { child, stdin, stdout: BufReader::new(stdout) };
        peer.answer()?;
        Ok(peer)
    }

    /// One step; its seconds.
    ///
    /// # Errors
    /// The peer ended.
    pub fn step(&mut self) -> io::Result<f64> {
        self.ask("step")?["seconds"].as_f64().ok_or_else(|| io::Error::other("the peer gave no seconds"))
    }

    /// Most memory that it has held, in bytes.
    ///
    /// # Errors
    /// The peer ended.
    pub fn peak_bytes(&mut self) -> io::Result<u64> {
        self.ask("memory")?["bytes"].as_u64().ok_or_else(|| io::Error::other("the peer gave no bytes"))
    }

    fn ask(&mut self, word: &str) -> io::Result<Value> {
        writeln!(self.stdin, "{word}")?;
        self.stdin.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the peer ended; its message stands above"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
