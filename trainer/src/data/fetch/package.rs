//! A package in the folder of a set: got through the user's own `npm` or `apt-get`, verified against the checksum of its
//! registry, kept. A package that is there and whole is not asked for again, so that a second run needs no network.

use crate::base64::base64;
use crate::data::shard_writer::{Origin, hexadecimal};
use crate::data::tools::Tools;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folder of the packages in the folder of a set.
const PACKAGES: &str = "packages";
/// Folder of a download in [`PACKAGES`] while it runs.
const UNFINISHED: &str = "download.part";
/// How to get `npm`.
const NPM_FIX: &str = "install Node.js from https://nodejs.org, which brings it";
/// How to get the tools of Debian's packages.
pub const APT_FIX: &str = "this set comes as a Debian package: use Debian, Ubuntu or a container of them";

/// Where a package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    /// npm's, through `npm`.
    Npm,
    /// The user's Debian archive, through `apt-get`.
    Apt,
}

/// What a registry says of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    version: String,
    /// `sha512-` and base 64 by npm, `sha256-` and hexadecimal digits by apt.
    checksum: String,
    licence: String,
}

/// What is kept beside a package, so that it can be verified later. It is written last.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    registry: Registry,
    name: String,
    file: String,
    #[serde(flatten)]
    entry: Entry,
}

/// A verified package.
#[derive(Clone, Debug)]
pub struct Package {
    /// Where it came from.
    pub registry: Registry,
    /// Its file.
    pub path: PathBuf,
    /// Its licence, where the registry names one.
    pub licence: String,
    /// What it is, for the index of the set.
    pub origin: Origin,
}

impl Package {
    /// The package of this name: the one in `out`, if it is whole, else the registry's newest.
    ///
    /// # Errors
    /// A tool is missing or fails, or what came is not what the registry says.
    pub fn get(registry: Registry, name: &str, out: &Path, tools: &Tools) -> Result<Package> {
        let folder = out.join(PACKAGES);
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        // An npm scope has a slash.
        let receipt_path = folder.join(format!("{}.json", name.trim_start_matches('@').replace('/', "-")));
        if let Some(receipt) = kept(&receipt_path, &folder) {
            tools.say(&format!("{name} {}: there already", receipt.entry.version));
            return Ok(receipt.package(&folder));
        }
        let entry = registry.entry(name, tools)?;
        tools.say(&format!("{name} {}: downloading", entry.version));
        let unfinished = folder.join(UNFINISHED);
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir(&unfinished).map_err(|error| Error::io(&unfinished, error))?;
        let downloaded = registry.download(name, &entry, &unfinished, tools).and_then(|()| only_file(&unfinished));
        let moved = downloaded.and_then(|path| {
            let found = checksum(&path, registry)?;
            if found != entry.checksum {
                let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
                return Err(Error::invalid(format!(
                    "{name} {}: the {bytes} bytes that were downloaded have the checksum {found}, the registry says {}; \
                     run the command again, and if that does not help, ask the registry",
                    entry.version, entry.checksum
                )));
            }
            let file = path.file_name().unwrap_or(OsStr::new("package")).to_string_lossy().into_owned();
            fs::rename(&path, folder.join(&file)).map_err(|error| Error::io(&path, error))?;
            Ok(file)
        });
        let _ = fs::remove_dir_all(&unfinished);
        let receipt = Receipt { registry, name: name.into(), file: moved?, entry };
        let text = serde_json::to_vec_pretty(&receipt).map_err(|error| Error::invalid(error.to_string()))?;
        fs::write(&receipt_path, text).map_err(|error| Error::io(&receipt_path, error))?;
        Ok(receipt.package(&folder))
    }
}

impl Receipt {
    fn package(self, folder: &Path) -> Package {
        let Receipt { registry, name, file, entry: Entry { version, checksum, licence } } = self;
        Package { registry, path: folder.join(file), licence, origin: Origin { name, version, checksum } }
    }
}

/// The receipt of a package that is there and still has its checksum.
fn kept(receipt: &Path, folder: &Path) -> Option<Receipt> {
    let receipt: Receipt = serde_json::from_slice(&fs::read(receipt).ok()?).ok()?;
    let whole = !receipt.file.contains('/')
        && checksum(&folder.join(&receipt.file), receipt.registry).is_ok_and(|found| found == receipt.entry.checksum);
    whole.then_some(receipt)
}

/// The one file in a folder.
fn only_file(folder: &Path) -> Result<PathBuf> {
    let wrong = |error| Error::io(folder, error);
    let paths = fs::read_dir(folder).map_err(wrong)?.map(|entry| Ok(entry.map_err(wrong)?.path()));
    let files: Vec<PathBuf> =
        paths.filter(|path| path.as_ref().map_or(true, |path| path.is_file())).collect::<Result<_>>()?;
    match &files[..] {
        [file] => Ok(file.clone()),
        files => {
            Err(Error::invalid(format!("the download left {} files, not one; run the command again", files.len())))
        }
    }
}

/// The checksum of a file as its registry writes it.
fn checksum(path: &Path, registry: Registry) -> Result<String> {
    let wrong = |error| Error::io(path, error);
    let mut file = File::open(path).map_err(wrong)?;
    let (mut sha256, mut sha512, mut buffer) = (Sha256::default(), Sha512::default(), vec![0; 1 << 18]);
    loop {
        let bytes = match file.read(&mut buffer).map_err(wrong)? {
            0 => break,
            count => &buffer[..count],
        };
        match registry {
            Registry::Npm => sha512.update(bytes),
            Registry::Apt => sha256.update(bytes),
        }
    }
    Ok(match registry {
        Registry::Npm => format!("sha512-{}", base64(&sha512.finalize())),
        Registry::Apt => format!("sha256-{}", hexadecimal(&sha256.finalize())),
    })
}

impl Registry {
    /// What the registry has under this name now.
    fn entry(self, name: &str, tools: &Tools) -> Result<Entry> {
        match self {
            Registry::Npm => {
                let fields = ["version", "license", "dist.integrity"];
                let text =
                    tools.run("npm", NPM_FIX, &[&["view", name, "--json"], &fields[..]].concat(), Path::new("."))?;
                let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
                let field = |field: &str| value.get(field).and_then(|value| value.as_str()).map(str::to_owned);
                let missing = |field: &str| Error::invalid(format!("npm view {name}: it does not tell {field}"));
                // npm lists checksums by more than one algorithm with spaces between.
                let integrity = field("dist.integrity").unwrap_or_default();
                let sha512 = integrity.split_whitespace().find(|checksum| checksum.starts_with("sha512-"));
                Ok(Entry {
                    version: field("version").ok_or_else(|| missing("the version"))?,
                    checksum: sha512.ok_or_else(|| missing("a sha512 checksum"))?.to_owned(),
                    licence: field("license").unwrap_or_default(),
                })
            }
            Registry::Apt => {
                let arguments = ["show", "--no-all-versions", name];
                let text = tools.run("apt-cache", APT_FIX, &arguments, Path::new(".")).map_err(|error| {
                    Error::invalid(format!("{error}; if the package is not known, run apt-get update as root"))
                })?;
                let text = String::from_utf8_lossy(&text).into_owned();
                let field = |field: &str| {
                    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
                    let missing = || Error::invalid(format!("apt-cache show {name}: it has no line {field}"));
                    value.map(|value| value.trim().to_owned()).ok_or_else(missing)
                };
                let checksum = format!("sha256-{}", field("SHA256")?);
                Ok(Entry { version: field("Version")?, checksum, licence: String::new() })
            }
        }
    }

    /// Leaves the package's file in a folder.
    fn download(self, name: &str, entry: &Entry, folder: &Path, tools: &Tools) -> Result<()> {
        match self {
            Registry::Npm => {
                let package = format!("{name}@{}", entry.version);
                tools.run("npm", NPM_FIX, &["pack", "--silent", "--ignore-scripts", &package], folder)?;
            }
            Registry::Apt => {
                let package = format!("{name}={}", entry.version);
                tools.run("apt-get", APT_FIX, &["download", "--quiet", &package], folder)?;
            }
        }
        Ok(())
    }
}
