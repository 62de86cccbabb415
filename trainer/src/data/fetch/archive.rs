//! The members of a package, read one after the other. Nothing is unpacked to the disk, wherever a member's name points.

use super::package::{APT_FIX, Package, Registry};
use crate::data::source::MAX_IMAGE_BYTES;
use crate::data::tools::{Tools, failure};
use crate::{Error, Result};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::process::Stdio;

/// Hands the files of a package over whose names (without `./` at their start) are wanted, in the order of the archive.
///
/// # Errors
/// The archive is damaged, a wanted file is larger than any picture may be, `dpkg-deb` is missing, or `each` errs.
pub fn for_each_file(
    package: &Package,
    tools: &Tools,
    wanted: impl Fn(&str) -> bool,
    each: impl FnMut(&str, Vec<u8>) -> Result<()>,
) -> Result<()> {
    match package.registry {
        Registry::Npm => {
            let file = File::open(&package.path).map_err(|error| Error::io(&package.path, error))?;
            read(package, GzDecoder::new(BufReader::new(file)), wanted, each)
        }
        Registry::Apt => {
            let path = package.path.display().to_string();
            let arguments = ["--fsys-tarfile", path.as_str()];
            let mut command = tools.command("dpkg-deb", APT_FIX, &arguments)?;
            let mut child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| Error::io("dpkg-deb", error))?;
            let done = match child.stdout.take() {
                Some(stdout) => read(package, BufReader::new(stdout), wanted, each),
                None => Ok(()),
            };
            // The reader is closed: a writer with more to say is told so and ends.
            let output = child.wait_with_output().map_err(|error| Error::io("dpkg-deb", error))?;
            if done.is_ok() && !output.status.success() {
                return Err(failure(&format!("dpkg-deb {}", arguments.join(" ")), output.status, &output.stderr));
            }
            done
        }
    }
}

fn read(
    package: &Package,
    archive: impl Read,
    wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(&str, Vec<u8>) -> Result<()>,
) -> Result<()> {
    let broken = |error: std::io::Error| Error::io(&package.path, error);
    let mut archive = tar::Archive::new(archive);
    for member in archive.entries().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        if !member.header().entry_type().is_file() || !wanted(name) {
            continue;
        }
        if member.size() > MAX_IMAGE_BYTES {
            let (path, bytes) = (package.path.display(), member.size());
            return Err(Error::invalid(format!("{path}: {name} has {bytes} bytes, more than {MAX_IMAGE_BYTES}")));
        }
        let mut content = Vec::with_capacity(member.size() as usize);
        member.read_to_end(&mut content).map_err(broken)?;
        each(name, content)?;
    }
    // What follows the end of the archive, so that a program that writes it is not cut short.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(broken)?;
    Ok(())
}
