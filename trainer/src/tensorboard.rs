//! TensorBoard event files, written without TensorFlow: protobuf messages in checksummed records.
//!
//! Record: u64 length, u32 masked crc32c of the length, data, u32 masked crc32c of the data; little endian. The data is
//! an `Event` message (tensorflow/core/util/event.proto) with the few fields that scalars need.

use crate::metrics::StepRecord;
use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An open event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Creates `events.out.tfevents.*` in `folder`, which is created as well. `next_step` is the step that comes next: when
    /// a run resumes, TensorBoard then drops later points of earlier files.
    ///
    /// # Errors
    /// Folder or file cannot be written.
    pub fn create(folder: &Path, next_step: u64) -> Result<EventWriter> {
        std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))?;
        let now = since_epoch();
        // The name orders files by time; the process id keeps two runs of one second apart.
        let name = format!("events.out.tfevents.{:010}.{:09}.{}.coca", now.0, now.1, std::process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|source| Error::io(&path, source))?;
        let mut writer = EventWriter { path, file };
        writer.event(0, |event| bytes_field(event, 3, b"brain.Event:2"))?;
        if next_step > 0 {
            // SessionLog { status: START }: the reader purges what it has seen from this step on.
            writer.event(next_step, |event| bytes_field(event, 7, &[0x08, 0x01]))?;
        }
        Ok(writer)
    }

    /// Writes scalars of one step; TensorBoard groups tags by what stands before the slash.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | FIXED32);
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        self.event(step, |event| bytes_field(event, 5, &summary))
    }

    /// Writes the scalars of one training step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step(&mut self, record: &StepRecord) -> Result<()> {
        let losses = record.losses().map(|(name, loss)| (format!("loss/{name}"), loss));
        let has = |(_, loss): &&(String, f64)| *loss != 0.0;
        let mut values: Vec<(&str, f64)> =
            losses.iter().filter(has).map(|(name, loss)| (name.as_str(), *loss)).collect();
        values.extend([
            ("loss/total", record.loss),
            ("optimizer/learning_rate", record.learning_rate),
            ("optimizer/grad_norm", record.grad_norm),
            ("optimizer/logit_scale", record.logit_scale),
            ("speed/images_per_second", record.images_per_second),
            ("speed/tokens_per_second", record.tokens_per_second),
            ("speed/gflops", record.gflops),
            ("speed/data_wait_seconds", record.data_wait_seconds),
        ]);
        self.scalars(record.step, &values)
    }

    /// Writes an event: wall time, step, and what `content` adds.
    fn event(&mut self, step: u64, content: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let (seconds, nanoseconds) = since_epoch();
        let mut event = vec![1 << 3 | FIXED64];
        event.extend((seconds as f64 + f64::from(nanoseconds) * 1e-9).to_le_bytes());
        event.push(2 << 3 | VARINT);
        varint(&mut event, step);
        content(&mut event);
        self.file.write_all(&record(&event)).map_err(|source| Error::io(&self.path, source))
    }
}

/// Seconds and nanoseconds since 1970.
fn since_epoch() -> (u64, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs(), now.subsec_nanos())
}

/// Protobuf wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// Appends a number in groups of seven bits, lowest first.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of bytes: a string or a message.
fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | LENGTH);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Frames the bytes of one event.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// The checksum as it is stored: rotated and shifted, so that a checksum of data with checksums stays strong.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78, bytewise by table (RFC 3720, appendix B.4).
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, &byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_folder;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // The check value of CRC-32C, and the vectors of RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    /// Reads a varint at `at` and moves on.
    fn read_varint(data: &[u8], at: &mut usize) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = data[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        unreachable!()
    }

    /// Field number and content (little-endian bytes of numbers) of each field of a message.
    fn fields(data: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < data.len() {
            let key = read_varint(data, &mut at);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, read_varint(data, &mut at).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => read_varint(data, &mut at) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, data[at..at + length].to_vec()));
            at += length;
        }
        found
    }

    #[test]
    fn events_can_be_decoded_again() {
        let folder = test_folder("tensorboard");
        let mut writer = EventWriter::create(&folder, 300).unwrap();
        writer.scalars(300, &[("loss/total", 1.5), ("x", f64::NAN)]).unwrap();
        let bytes = std::fs::read(&writer.path).unwrap();
        let (mut rest, mut events) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let (data, after) = rest[12..].split_at(length);
            assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
            assert_eq!(after[..4], masked_crc(data).to_le_bytes());
            events.push(fields(data));
            rest = &after[4..];
        }
        assert_eq!(events.len(), 3);
        assert_eq!(events[0][2], (3, b"brain.Event:2".to_vec()));
        assert_eq!(events[1][1..], [(2, 300u64.to_le_bytes().to_vec()), (7, vec![8, 1])]);
        let values: Vec<_> = fields(&events[2][2].1).iter().map(|(_, value)| fields(value)).collect();
        assert_eq!(values[0], [(1, b"loss/total".to_vec()), (2, 1.5f32.to_le_bytes().to_vec())]);
        assert_eq!(values[1], [(1, b"x".to_vec()), (2, f32::NAN.to_le_bytes().to_vec())]);
    }

    /// A run of 20 steps that was killed at 15 and resumed at 10: what TensorBoard itself is shown.
    #[test]
    #[ignore = "writes files for tests/check_tensorboard.py into $COCA_TEST_ROOT"]
    fn write_a_resumed_run() {
        use crate::metrics::MetricsLog;
        let root = PathBuf::from(std::env::var("COCA_TEST_ROOT").unwrap());
        for (start, end) in [(0, 15), (10, 20)] {
            let (mut log, _) = MetricsLog::open(&root.join("metrics.jsonl"), start).unwrap();
            let mut writer = EventWriter::create(&root.join("tensorboard"), start).unwrap();
            for step in start..end {
                let loss = 5.0 / (step + start + 1) as f64;
                let record =
                    StepRecord { step, loss, caption_loss: loss / 3.0, grad_norm: 1e9 * loss, ..Default::default() };
                log.append(&record).unwrap();
                writer.step(&record).unwrap();
            }
        }
    }
}
