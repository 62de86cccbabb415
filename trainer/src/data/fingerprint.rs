//! What a source holds, in three numbers: two readings that agree in them were of the same samples in the same order.

use super::read::for_each;
use super::{Raw, RawImage, Source};
use crate::Result;
use serde::{Deserialize, Serialize};

/// A source's samples as they are stored: keys, images, captions and labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Samples, faulty ones included.
    samples: u64,
    /// Bytes of the images.
    bytes: u64,
    /// CRC-32 over everything.
    crc32: u32,
}

impl Fingerprint {
    /// Reads every sample once, on all cores; nothing is decoded. A faulty sample counts with its key.
    ///
    /// # Errors
    /// None of its own: what cannot be read is faulty.
    pub fn of(source: &dyn Source) -> Result<Fingerprint> {
        let each = |raw: Raw| {
            let mut checksum = crc32fast::Hasher::new();
            let mut bytes = 0;
            // Each part behind its length, so that none can end in another.
            let mut add = |part: &[u8]| {
                checksum.update(&(part.len() as u64).to_le_bytes());
                checksum.update(part);
            };
            add(raw.key.as_bytes());
            raw.captions.iter().for_each(|caption| add(caption.as_bytes()));
            add(raw.labels.class.unwrap_or_default().as_bytes());
            raw.labels.answers.iter().for_each(|answer| add(answer.as_bytes()));
            for image in &raw.images {
                match image {
                    RawImage::Encoded(file) => {
                        bytes += file.len();
                        add(file);
                    }
                    // The file counts once, with the first of its frames.
                    RawImage::Frame(frame) if frame.index() == 0 => {
                        let (length, sum) = frame.checksum()?;
                        bytes += length;
                        add(&sum.to_le_bytes());
                    }
                    RawImage::Frame(_) => add(&[]),
                    RawImage::Drawing { rgb, transparent, .. } => {
                        bytes += rgb.len();
                        add(rgb);
                        add(&transparent.iter().copied().map(u8::from).collect::<Vec<_>>());
                    }
                }
            }
            Ok((bytes as u64, checksum.finalize()))
        };
        let (mut found, mut checksum) = (Fingerprint::default(), crc32fast::Hasher::new());
        for_each(source, each, |sample| {
            let (bytes, sum) = sample.unwrap_or_else(|fault| (0, crc32fast::hash(fault.key.as_bytes())));
            found.samples += 1;
            found.bytes += bytes;
            checksum.update(&sum.to_le_bytes());
            Ok(())
        })?;
        Ok(Fingerprint { crc32: checksum.finalize(), ..found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::FaultKind;
    use crate::data::test_source::{Kind, TestSource};

    #[test]
    fn it_tells_samples_and_their_order_apart() {
        let of = |parts: Vec<Option<Vec<Kind>>>| Fingerprint::of(&TestSource::new(parts)).unwrap();
        let [good, drawing, bad] = [Kind::Good, Kind::Drawing, Kind::Bad(FaultKind::MissingFile)];
        let some = of(vec![Some(vec![good, drawing, bad]), None]);
        assert_eq!(some, of(vec![Some(vec![good, drawing, bad]), None]));
        assert_eq!(some.samples, 4);
        for other in [
            vec![Some(vec![drawing, good, bad]), None],
            vec![Some(vec![good, drawing, Kind::Corrupt]), None],
            vec![Some(vec![good, drawing, bad])],
            vec![Some(vec![good, drawing]), Some(vec![bad])],
            vec![Some(vec![good, Kind::Two, bad]), None],
        ] {
            assert_ne!(some, of(other));
        }
    }
}
