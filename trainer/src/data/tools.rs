//! The user's own programs: found on a search path, run, and their failures told.

use crate::{Error, Result};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines of a failing program that are shown.
const LINES: usize = 6;

/// Where programs are found, and where it is said what is done.
#[derive(Clone, Debug)]
pub struct Tools {
    path: OsString,
    quiet: bool,
}

impl Tools {
    /// The programs on `PATH`; what is done is said on stderr.
    pub fn of_user() -> Tools {
        Tools { path: std::env::var_os("PATH").unwrap_or_default(), quiet: false }
    }

    /// The programs in these folders, as `PATH` lists them, without a word.
    #[cfg(test)]
    pub fn on_path(path: impl Into<OsString>) -> Tools {
        Tools { path: path.into(), quiet: true }
    }

    /// Says what is done.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            // A closed stderr is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    fn find(&self, program: &str, fix: &str) -> Result<PathBuf> {
        let mut places = std::env::split_paths(&self.path).map(|folder| folder.join(program));
        let missing = || Error::invalid(format!("{program} is not on PATH: {fix}, and run the command again"));
        let found = places.find(|path| path.is_file()).ok_or_else(missing)?;
        std::path::absolute(&found).map_err(|error| Error::io(&found, error))
    }

    /// A program with its arguments; `fix` says how to get it.
    ///
    /// # Errors
    /// It is not on the path.
    pub fn command(&self, program: &str, fix: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.find(program, fix)?);
        command.args(arguments).env("PATH", &self.path).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a program in a folder; returns what it writes to stdout.
    ///
    /// # Errors
    /// It is not on the path, or fails; the text has its last words.
    pub fn run(&self, program: &str, fix: &str, arguments: &[&str], folder: &Path) -> Result<Vec<u8>> {
        let mut command = self.command(program, fix, arguments)?;
        let output = command.current_dir(folder).output().map_err(|error| Error::io(program, error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(failure(&format!("{program} {}", arguments.join(" ")), output.status, &output.stderr))
    }
}

/// The error of a program that failed.
pub fn failure(line: &str, status: std::process::ExitStatus, errors: &[u8]) -> Error {
    let errors = String::from_utf8_lossy(errors);
    let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).take(LINES).collect();
    Error::invalid(format!("{line} failed ({status}): {}", lines.join("\n  ")))
}
