//! A source in memory for tests of everything that reads one.

use super::{Fault, FaultKind, Part, Raw, RawImage, Source};
use model::config::CocaConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A small model's configuration with images of this side.
pub fn model(side: usize) -> CocaConfig {
    let mut model = CocaConfig::preset("emoji").unwrap();
    model.vision.image_size = side;
    model
}

/// A PNG file with a gradient.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = (0..width * height * 3).map(|value| (value * 7 % 251) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

/// One sample of a [`TestSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sound image of 12 x 9 pixels.
    Good,
    /// A drawing of side 8.
    Drawing,
    /// Faulty when it is read.
    Bad(FaultKind),
    /// The image does not decode.
    Corrupt,
    /// A small file whose header claims 2^31 pixels.
    Bomb,
}

/// Parts of samples; sample i of part p has the key `p/i`. A part that is none cannot be opened.
#[derive(Clone, Debug)]
pub struct TestSource {
    parts: Vec<Option<Arc<TestPart>>>,
    /// How often a part was opened.
    pub opened: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
struct TestPart {
    number: usize,
    kinds: Vec<Kind>,
    image: Vec<u8>,
}

impl TestSource {
    pub fn new(parts: Vec<Option<Vec<Kind>>>) -> TestSource {
        let image = png(12, 9);
        let part = |(number, kinds)| Arc::new(TestPart { number, kinds, image: image.clone() });
        let parts = parts.into_iter().enumerate().map(|(number, kinds)| Some(part((number, kinds?)))).collect();
        TestSource { parts, opened: Arc::default() }
    }

    pub fn all_good(lengths: &[usize]) -> TestSource {
        TestSource::new(lengths.iter().map(|&length| Some(vec![Kind::Good; length])).collect())
    }
}

impl Source for TestSource {
    fn name(&self) -> String {
        "test".into()
    }

    fn parts(&self) -> usize {
        self.parts.len()
    }

    fn part(&self, part: usize) -> Result<Arc<dyn Part>, Fault> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        match &self.parts[part] {
            Some(open) => Ok(open.clone()),
            None => Err(Fault::new(FaultKind::BrokenArchive, part.to_string(), "not open")),
        }
    }
}

impl Part for TestPart {
    fn len(&self) -> usize {
        self.kinds.len()
    }

    fn sample(&self, index: usize) -> Result<Raw, Fault> {
        let key = format!("{}/{index}", self.number);
        let image = match self.kinds[index] {
            Kind::Bad(kind) => return Err(Fault::new(kind, key, "bad")),
            Kind::Good => RawImage::Encoded(self.image.clone()),
            Kind::Drawing => {
                RawImage::Drawing { side: 8, rgb: vec![9; 192], transparent: vec![index.is_multiple_of(2); 64] }
            }
            Kind::Corrupt => RawImage::Encoded(self.image[..self.image.len() / 2].to_vec()),
            Kind::Bomb => {
                let mut image = self.image.clone();
                image[16..20].copy_from_slice(&0xffffu32.to_be_bytes());
                image[20..24].copy_from_slice(&0x7fffu32.to_be_bytes());
                // The header's checksum is that of the lie.
                let sum = crc32fast::hash(&image[12..29]);
                image[29..33].copy_from_slice(&sum.to_be_bytes());
                RawImage::Encoded(image)
            }
        };
        let captions = vec![format!("caption of {key}"), format!("another of {key}")];
        let keywords = if index.is_multiple_of(3) { vec!["one".into(), "two".into()] } else { Vec::new() };
        Ok(Raw { key, image, captions, keywords })
    }
}
