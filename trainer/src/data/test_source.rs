//! A source in memory for tests of everything that reads one, and pictures from an enemy.

#[path = "../../../model/tests/counting/mod.rs"]
mod counting;

use super::{Augmenter, Fault, FaultKind, Labels, Part, Raw, RawImage, Source};
use crate::config::Data;
use engine::rng::Philox;
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

/// An animated GIF of one pixel: up to four frames of these colours.
pub fn gif(colours: &[[u8; 3]]) -> Vec<u8> {
    let mut palette = colours.to_vec();
    palette.resize(4, [0; 3]);
    let frame = |index: usize| {
        // Codes of three bits, the lowest first: clear, the colour, end.
        let codes = (0b100 | index << 3 | 0b101 << 6) as u16;
        [&b",\0\0\0\0\x01\0\x01\0\0"[..], &[2, 2], &codes.to_le_bytes(), &[0]].concat()
    };
    let frames: Vec<u8> = (0..colours.len()).flat_map(frame).collect();
    [&b"GIF89a\x01\0\x01\0\x81\0\0"[..], palette.as_flattened(), &frames, b";"].concat()
}

/// One sample of a [`TestSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sound image of 12 x 9 pixels.
    Good,
    /// A drawing of side 8.
    Drawing,
    /// Two drawings of side 8, each of one colour.
    Two,
    /// Faulty when it is read.
    Bad(FaultKind),
    /// The image does not decode.
    Corrupt,
    /// A drawing of more pixels than can be counted, over which the test panics that looks at it.
    Panics,
    /// A small file whose header claims 2^31 pixels.
    Bomb,
}

/// Parts of samples; sample i of part p has the key `p/i`. A part that is none cannot be opened.
#[derive(Clone, Debug)]
pub struct TestSource {
    parts: Vec<Option<Arc<TestPart>>>,
    /// What it says of the images of a sample.
    pub images: usize,
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
        TestSource { parts, images: 1, opened: Arc::default() }
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

    fn images(&self) -> usize {
        self.images
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
        let drawing = |value, transparent| RawImage::Drawing {
            side: 8,
            rgb: vec![value; 192],
            transparent: vec![transparent; 64],
        };
        let images = match self.kinds[index] {
            Kind::Bad(kind) => return Err(Fault::new(kind, key, "bad")),
            Kind::Good => vec![RawImage::Encoded(self.image.clone())],
            Kind::Drawing => vec![drawing(9, index.is_multiple_of(2))],
            Kind::Two => vec![drawing(9, false), drawing(7, false)],
            Kind::Corrupt => vec![RawImage::Encoded(self.image[..self.image.len() / 2].to_vec())],
            Kind::Panics => vec![RawImage::Drawing { side: usize::MAX, rgb: Vec::new(), transparent: Vec::new() }],
            Kind::Bomb => {
                let mut image = self.image.clone();
                image[16..20].copy_from_slice(&0xffffu32.to_be_bytes());
                image[20..24].copy_from_slice(&0x7fffu32.to_be_bytes());
                // The header's checksum is that of the lie.
                let sum = crc32fast::hash(&image[12..29]);
                image[29..33].copy_from_slice(&sum.to_be_bytes());
                vec![RawImage::Encoded(image)]
            }
        };
        let captions = vec![format!("caption of {key}"), format!("another of {key}")];
        let keywords = if index.is_multiple_of(3) { vec!["one".into(), "two".into()] } else { Vec::new() };
        Ok(Raw { key, images, captions, keywords, labels: Labels::default() })
    }
}

/// A WebP file of one chunk.
fn webp(kind: &[u8; 4], chunk: &[u8]) -> Vec<u8> {
    let size = |bytes: usize| (bytes as u32).to_le_bytes();
    [&b"RIFF"[..], &size(chunk.len() + 12), b"WEBP", kind, &size(chunk.len()), chunk].concat()
}

/// Small files whose headers claim more than 10^8 pixels.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let source = TestSource::new(vec![Some(vec![Kind::Bomb])]);
    let images = source.part(0).unwrap().sample(0).unwrap().images;
    let [RawImage::Encoded(png)] = &images[..] else { unreachable!() };
    // A frame of 65535 x 65535 pixels in three channels, then a scan without data.
    let frame = [8, 255, 255, 255, 255, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
    let scan = [3, 1, 0, 2, 0, 3, 0, 0, 63, 0];
    let jpeg =
        |marker| [&[255, 0xd8, 255, marker, 0, 17][..], &frame, &[255, 0xda, 0, 12], &scan, &[255, 0xd9]].concat();
    // 16383 x 16383, the most that these can say.
    let lossy = [&[0x10, 0, 0, 0x9d, 1, 0x2a, 0xff, 0x3f, 0xff, 0x3f][..], &[0; 20]].concat();
    let lossless = [&[0x2f, 0xfe, 0xbf, 0xff, 0x0f][..], &[0; 21]].concat();
    vec![
        ("PNG", png.clone()),
        ("JPEG", jpeg(0xc0)),
        ("progressive JPEG", jpeg(0xc2)),
        ("lossy WebP", webp(b"VP8 ", &lossy)),
        ("lossless WebP", webp(b"VP8L", &lossless)),
        ("GIF", [&b"GIF89a\xff\xff\xff\xff\0\0\0"[..], b",\0\0\0\0\xff\xff\xff\xff\0\x02\x01\0\0;"].concat()),
    ]
}

#[test]
fn a_header_that_lies_takes_no_memory() {
    let augmenter = Augmenter::evaluation(&model(8), &Data::default());
    for (name, bytes) in bombs() {
        let image = RawImage::Encoded(bytes);
        let (fault, taken) = counting::peak(|| augmenter.image("bomb", &image, &mut Philox::new(0, 0)).unwrap_err());
        assert_eq!(fault.kind, FaultKind::Oversized, "{name}: {}", fault.detail);
        assert!(taken < 1 << 18, "{name}: {taken} bytes");
    }
}
