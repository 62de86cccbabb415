//! Files that are either whole or absent: written beside their place, forced to disk, then renamed into it.

use engine::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes the file at `path` through `write`. A reader, and a machine that loses power, sees the old file or the new one,
/// never a part. The folder must exist. On an error the old file stays and the temporary one is removed.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(Error::invalid(format!("{}: not the name of a file", path.display())));
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{}.{}.{count}.tmp", name.to_string_lossy(), std::process::id()));
    let result = write_and_sync(&temporary, write).and_then(|()| fs::rename(&temporary, path)).and_then(|()| {
        // The rename itself is durable once the folder is.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    });
    result.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io(path, error)
    })
}

fn write_and_sync(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut file)?;
    file.into_inner()?.sync_all()
}
