//! CRC-32 of files, read a block at a time.

use crate::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// CRC-32 of a file.
///
/// # Errors
/// It cannot be read.
pub fn of_file(path: &Path) -> Result<u32> {
    let mut file = File::open(path).map_err(|error| Error::io(path, error))?;
    let (mut checksum, mut block) = (crc32fast::Hasher::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block).map_err(|error| Error::io(path, error))? {
            0 => return Ok(checksum.finalize()),
            count => checksum.update(&block[..count]),
        }
    }
}
