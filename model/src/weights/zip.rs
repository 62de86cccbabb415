//! Members of a zip archive that are stored uncompressed, as PyTorch writes them, with the 64-bit extension.
//! Only the table is read; nothing is decompressed, so an archive cannot grow. Source: PKWARE's APPNOTE 6.3.10.

use engine::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// First bytes of every archive with a member.
pub(super) const MAGIC: &[u8; 4] = b"PK\x03\x04";

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

/// Byte ranges of the members by name. Ranges lie inside the file and do not overlap; names are unique.
pub(super) fn members(file: &[u8]) -> Result<BTreeMap<&str, Range<usize>>> {
    let table = Table::find(file)?;
    let mut members = BTreeMap::new();
    let mut spans = Vec::new();
    let mut at = table.start;
    for _ in 0..table.entries {
        let central = Central::read(file, at)?;
        at = central.next;
        if at > table.end {
            return Err(invalid("the table of members is longer than it claims"));
        }
        let span = central.locate(file, table.start)?;
        spans.push((central.local, span.end));
        if members.insert(central.name, span).is_some() {
            return Err(invalid(format!("two members are called \"{}\"", shorten(central.name))));
        }
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(invalid("members overlap"));
    }
    Ok(members)
}

/// The central directory.
struct Table {
    start: usize,
    end: usize,
    entries: u64,
}

impl Table {
    /// Searches the end record backwards past a comment, and follows it to its 64-bit form where there is one.
    fn find(file: &[u8]) -> Result<Table> {
        const RECORD: usize = 22;
        let last = file.len().checked_sub(RECORD).ok_or_else(|| invalid("too short for a zip archive"))?;
        let first = last.saturating_sub(u16::MAX as usize);
        let is_end = |at: &usize| {
            u32_at(file, *at).ok() == Some(END) && u16_at(file, at + 20).ok().map(usize::from) == Some(last - at)
        };
        let Some(end) = (first..=last).rev().find(is_end) else {
            return Err(invalid("no end record: the file is truncated, or not a zip archive"));
        };
        if u16_at(file, end + 4)? != 0 || u16_at(file, end + 6)? != 0 {
            return Err(invalid("archives in several parts are not supported"));
        }
        let mut entries = u16_at(file, end + 10)? as u64;
        let mut size = u32_at(file, end + 12)? as u64;
        let mut start = u32_at(file, end + 16)? as u64;
        if entries == u16::MAX as u64 || size == u32::MAX as u64 || start == u32::MAX as u64 {
            let locator = end.checked_sub(20).ok_or_else(|| invalid("the 64-bit locator is missing"))?;
            let at = usize::try_from(u64_at(file, locator + 8)?).map_err(|_| invalid("an offset is out of range"))?;
            if u32_at(file, locator)? != END_64_LOCATOR || u32_at(file, at)? != END_64 {
                return Err(invalid("the 64-bit end record is missing"));
            }
            entries = u64_at(file, at.saturating_add(32))?;
            size = u64_at(file, at.saturating_add(40))?;
            start = u64_at(file, at.saturating_add(48))?;
        }
        match start.checked_add(size) {
            Some(stop) if stop <= end as u64 => Ok(Table { start: start as usize, end: stop as usize, entries }),
            _ => Err(invalid("the table of members lies outside the file")),
        }
    }
}

/// One row of the central directory.
struct Central<'a> {
    name: &'a str,
    /// Bytes of the member.
    size: usize,
    /// Position of the local header.
    local: usize,
    /// Position of the next row.
    next: usize,
}

impl Central<'_> {
    fn read(file: &[u8], at: usize) -> Result<Central<'_>> {
        if u32_at(file, at)? != CENTRAL {
            return Err(invalid("a row of the table of members is damaged"));
        }
        let [name_length, extra_length, comment_length] = [28, 30, 32].map(|field| u16_at(file, at + field));
        let name_end = at + 46 + name_length? as usize;
        let extra_end = name_end + extra_length? as usize;
        let name = file.get(at + 46..name_end).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.ok_or_else(|| invalid("the name of a member is damaged"))?;
        let extra = file.get(name_end..extra_end).ok_or_else(|| invalid("the file is truncated"))?;
        let short = |field| u32_at(file, at + field).map(u64::from);
        let (mut compressed, mut size, mut local) = (short(20)?, short(24)?, short(42)?);
        let mut long = Extra64::find(extra);
        for field in [&mut size, &mut compressed, &mut local] {
            if *field == u32::MAX as u64 {
                *field = long.next().ok_or_else(|| invalid("a 64-bit size is missing"))?;
            }
        }
        if u16_at(file, at + 8)? & 1 != 0 || u16_at(file, at + 10)? != 0 || compressed != size {
            return Err(invalid(format!(
                "\"{}\" is compressed or encrypted; PyTorch stores its members plainly",
                shorten(name)
            )));
        }
        if size > file.len() as u64 || local > file.len() as u64 {
            return Err(invalid(format!("\"{}\" lies outside the file", shorten(name))));
        }
        let next = extra_end + comment_length? as usize;
        Ok(Central { name, size: size as usize, local: local as usize, next })
    }

    /// The member's bytes, found through its local header, which may have other extra fields than the table.
    fn locate(&self, file: &[u8], limit: usize) -> Result<Range<usize>> {
        let damaged = || invalid(format!("the header of \"{}\" is damaged", shorten(self.name)));
        let start = self.local + 30;
        let name_end = start + u16_at(file, self.local + 26)? as usize;
        let data = name_end + u16_at(file, self.local + 28)? as usize;
        if u32_at(file, self.local)? != LOCAL || file.get(start..name_end) != Some(self.name.as_bytes()) {
            return Err(damaged());
        }
        let end = data + self.size;
        if end <= limit { Ok(data..end) } else { Err(damaged()) }
    }
}

/// The values of the extra field 0x0001, in order.
struct Extra64<'a>(&'a [u8]);

impl Extra64<'_> {
    fn find(mut extra: &[u8]) -> Extra64<'_> {
        while let (Ok(id), Ok(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
            let Some(body) = extra.get(4..4 + length as usize) else { break };
            if id == 1 {
                return Extra64(body);
            }
            extra = &extra[4 + length as usize..];
        }
        Extra64(&[])
    }

    fn next(&mut self) -> Option<u64> {
        let (value, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*value))
    }
}

fn invalid(detail: impl std::fmt::Display) -> Error {
    Error::invalid(format!("zip: {detail}"))
}

/// At most 80 characters of a name, for a message.
pub(super) fn shorten(name: &str) -> String {
    name.chars().take(80).collect()
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = at.checked_add(N).and_then(|end| file.get(at..end));
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| invalid("the file is truncated"))
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}
