//! For tests of kernels: the compiler where there is one, and a loud skip where there is none; the share that a process has of
//! their cases.

use super::Compiler;
use std::env;
use std::io::Write;

/// NVRTC for a test, whatever version is found. Without one the test is skipped by name on the standard error, past the
/// capture of the test harness; with `CI=true` that is a failure.
///
/// What is compiled is kept in `COCA_CACHE` if that is set, else in the system's temporary folder.
///
/// # Panics
/// There is no NVRTC and `CI` is `true`.
pub fn compiler_or_skip(test: &str) -> Option<Compiler> {
    match Compiler::find(None) {
        Ok(compiler) if env::var_os("COCA_CACHE").is_some() => Some(compiler),
        Ok(compiler) => Some(compiler.with_cache(Some(&env::temp_dir().join("coca-test-kernels")))),
        Err(error) if env::var_os("CI").is_some_and(|ci| ci == "true") => panic!("{test} needs NVRTC: {error}"),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: {test}: {error}");
            None
        }
    }
}

/// The part of a test's cases that is this process's: `(I, N)` of `COCA_SHARD=I/N`, every Nth case from I on; without it `(0, 1)`,
/// all of them. So processes can share the cases, and one that makes a device unusable keeps few others from running.
///
/// # Panics
/// The variable holds something else.
pub fn shard() -> (usize, usize) {
    let Ok(text) = env::var("COCA_SHARD") else { return (0, 1) };
    let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    parts.filter(|(part, of)| part < of).unwrap_or_else(|| panic!("COCA_SHARD={text}: I/N with I below N is wanted"))
}
