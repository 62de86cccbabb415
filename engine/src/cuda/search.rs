//! Where NVRTC may be: a folder that the user names, the loader's path, the CUDA toolkit, the packages of Python.

use crate::{Error, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder with one major version of NVRTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Major and minor version, by the names of the files.
    pub version: (u32, u32),
    /// `libnvrtc.so.MAJOR`.
    pub library: PathBuf,
    /// `libnvrtc-builtins.so.MAJOR.*` in the same folder, newest first.
    pub builtins: Vec<PathBuf>,
}

/// What is found on this machine, newest first. `COCA_NVRTC` alone counts if it is set; an error if it names nothing. Python's
/// packages are looked at if nothing else fits.
pub(super) fn candidates(fits: impl Fn(&Candidate) -> bool) -> Result<Vec<Candidate>> {
    if let Some(named) = env::var_os("COCA_NVRTC").filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        let folder = if named.is_dir() { named.as_path() } else { named.parent().unwrap_or(Path::new("")) };
        let mut found = in_folder(folder);
        if let (false, Ok(file)) = (named.is_dir(), named.canonicalize()) {
            found.retain(|candidate| candidate.library.canonicalize().is_ok_and(|library| library == file));
        }
        if !named.exists() || found.is_empty() {
            return Err(Error::invalid(format!(
                "COCA_NVRTC: {} is neither libnvrtc.so.MAJOR beside libnvrtc-builtins.so.* nor a folder with both",
                named.display()
            )));
        }
        return Ok(newest_first(found));
    }
    let mut found: Vec<Candidate> = system_folders().iter().flat_map(|folder| in_folder(folder)).collect();
    // Python is started only then: it takes a while.
    if !found.iter().any(fits) {
        found.extend(python_folders().iter().flat_map(|folder| in_folder(folder)));
    }
    Ok(newest_first(found))
}

fn newest_first(mut found: Vec<Candidate>) -> Vec<Candidate> {
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.version));
    found
}

/// Folders of the loader and of the CUDA toolkit.
fn system_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("LD_LIBRARY_PATH").unwrap_or_default()).collect();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(env::var_os(variable).map(|home| Path::new(&home).join("lib64")));
    }
    let local = fs::read_dir("/usr/local").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_cuda = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"));
    folders.extend(local.filter(is_cuda).map(|path| path.join("lib64")));
    folders.extend(
        ["/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"].map(PathBuf::from),
    );
    folders
}

/// Folders of NVIDIA's packages in the module path of `python3`, if there is one.
fn python_folders() -> Vec<PathBuf> {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print('\\n'.join(sys.path))"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = asked else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let packages = text.lines().filter(|line| !line.is_empty()).map(PathBuf::from);
    packages.flat_map(|path| ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"].map(|inner| path.join(inner))).collect()
}

/// The versions in one folder: each major version of which both files are there.
fn in_folder(folder: &Path) -> Vec<Candidate> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut builtins: Vec<((u32, u32), PathBuf)> = names
        .filter_map(|name| {
            let mut numbers = name.to_str()?.strip_prefix("libnvrtc-builtins.so.")?.split('.').map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(major)), Some(Ok(minor)), None) => Some(((major, minor), folder.join(name))),
                _ => None,
            }
        })
        .collect();
    builtins.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let mut found: Vec<Candidate> = Vec::new();
    for (version, path) in builtins {
        match found.last_mut() {
            Some(candidate) if candidate.version.0 == version.0 => candidate.builtins.push(path),
            _ => {
                let library = folder.join(format!("libnvrtc.so.{}", version.0));
                if library.exists() {
                    found.push(Candidate { version, library, builtins: vec![path] });
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_searched_for_complete_versions() {
        let folder = env::temp_dir().join(format!("coca-nvrtc-search-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = [
            "libnvrtc.so.12",
            "libnvrtc.so.13",
            "libnvrtc.alt.so.13",
            "libnvrtc-builtins.so.12.4",
            "libnvrtc-builtins.so.12.8",
            "libnvrtc-builtins.so.12.8.93",
            "libnvrtc-builtins.so.13.0",
            "libnvrtc-builtins.alt.so.13.0",
            "libnvrtc-builtins.so.14.1",
        ];
        for file in files {
            fs::write(folder.join(file), "").unwrap();
        }
        let found = in_folder(&folder);
        let real = folder.canonicalize().unwrap();
        let files = |names: &[&str]| names.iter().map(|name| real.join(name)).collect::<Vec<_>>();
        let expected = [
            Candidate {
                version: (13, 0),
                library: real.join("libnvrtc.so.13"),
                builtins: files(&["libnvrtc-builtins.so.13.0"]),
            },
            Candidate {
                version: (12, 8),
                library: real.join("libnvrtc.so.12"),
                builtins: files(&["libnvrtc-builtins.so.12.8", "libnvrtc-builtins.so.12.4"]),
            },
        ];
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, expected);
        assert_eq!(in_folder(&folder), []);
    }
}
