//! What several tests need: a folder that goes away, and this test program again as a child process.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An empty folder for one test, removed when the test is over.
pub struct TestFolder(PathBuf);

impl Deref for TestFolder {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A new [`TestFolder`]; the name is unique among the tests.
pub fn test_folder(name: &str) -> TestFolder {
    let folder = std::env::temp_dir().join(format!("coca-test-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the temporary directory can be written");
    TestFolder(folder)
}

/// A command that runs the ignored test of this name, alone, with its output shown.
pub fn test_child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}
