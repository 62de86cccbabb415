//! CRC-32 of files, read a block at a time.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// Bytes of a file and their CRC-32.
///
/// # Errors
/// It cannot be read.
pub fn of_file(path: &Path) -> io::Result<(u64, u32)> {
    of(File::open(path)?)
}

/// Bytes up to the end and their CRC-32.
///
/// # Errors
/// They cannot be read.
pub fn of(mut from: impl Read) -> io::Result<(u64, u32)> {
    let (mut size, mut checksum, mut block) = (0, crc32fast::Hasher::new(), vec![0; BLOCK]);
    loop {
        match from.read(&mut block)? {
            0 => return Ok((size, checksum.finalize())),
            count => {
                size += count as u64;
                checksum.update(&block[..count]);
            }
        }
    }
}
