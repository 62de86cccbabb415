//! Moving emoji, as Microsoft's Fluent set draws them: animated WebP files named for their code points, in four packages of
//! npm's `@lobehub/fluent-emoji-anim`. Their names are those of the bundled set.

use super::archive::for_each_file;
use super::package::Package;
use super::{key, picture};
use crate::Result;
use crate::data::clips::spread;
use crate::data::emoji::EmojiSet;
use crate::data::shard_writer::ShardWriter;
use crate::data::tools::Tools;
use model::preprocess::decode_frames;
use rayon::prelude::*;
use serde_json::json;
use std::collections::HashMap;

/// The packages.
pub const PACKAGES: [&str; 4] = [
    "@lobehub/fluent-emoji-anim-1",
    "@lobehub/fluent-emoji-anim-2",
    "@lobehub/fluent-emoji-anim-3",
    "@lobehub/fluent-emoji-anim-4",
];
/// Where the files lie.
const FOLDER: &str = "package/assets/";
/// Frames of a clip that are kept, evenly spread.
const FRAMES: usize = 16;
/// Longest side of a frame, in pixels.
const LONGEST: usize = 128;
/// Code points of the five tones of skin, and the one that is kept for tests.
const TONES: [&str; 5] = ["1f3fb", "1f3fc", TEST_TONE, "1f3fe", "1f3ff"];
const TEST_TONE: &str = "1f3fd";
/// Files that are decoded at a time.
const BATCH: usize = 64;

/// What a file is called, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    /// As the bundled set has it: no tone, no variation selector, four digits at least.
    hexcode: String,
    tested: bool,
}

fn named(stem: &str) -> Named {
    let parts = stem.split('-').filter(|part| *part != "fe0f" && !TONES.contains(part));
    let parts: Vec<String> = parts.map(|part| format!("{part:0>4}")).collect();
    Named { hexcode: parts.join("-"), tested: stem.split('-').any(|part| part == TEST_TONE) }
}

/// Writes three splits of what moves: `fresh`, concepts that the bundled training data leaves out; of the others `test`, one
/// tone of skin, and `train`, the rest.
pub fn write(packages: &[Package], tools: &Tools, shards: &mut ShardWriter) -> Result<()> {
    let bundle = EmojiSet::bundled()?;
    let concepts: HashMap<&str, _> =
        bundle.concepts().iter().map(|concept| (concept.hexcode.as_str(), concept)).collect();
    let (mut unnamed, mut left_out) = (0u64, 0u64);
    for package in packages {
        let mut add = |files: &mut Vec<(String, Vec<u8>)>| -> Result<()> {
            let clips: Vec<Option<Vec<Vec<u8>>>> = files.par_iter().map(|(_, file)| frames(file)).collect();
            for ((stem, _), frames) in files.drain(..).zip(clips) {
                let Named { hexcode, tested } = named(&stem);
                let Some(concept) = concepts.get(hexcode.as_str()) else {
                    unnamed += 1;
                    continue;
                };
                let Some(frames) = frames else {
                    left_out += 1;
                    continue;
                };
                let json = json!({
                    "class": concept.name, "keywords": concept.keywords, "group": concept.group,
                    "subgroup": concept.subgroup, "hexcode": hexcode, "frames": frames.len(),
                })
                .to_string();
                let names: Vec<String> = (0..frames.len()).map(|frame| format!("{frame:03}.png")).collect();
                let frames = names.iter().zip(&frames).map(|(name, frame)| (name.as_str(), &frame[..]));
                let texts = [("txt", concept.name.as_bytes()), ("json", json.as_bytes())];
                let split = if concept.fresh {
                    "fresh"
                } else if tested {
                    "test"
                } else {
                    "train"
                };
                shards.add(split, &key(&stem), &frames.chain(texts).collect::<Vec<_>>())?;
            }
            Ok(())
        };
        let mut files = Vec::new();
        let wanted = |name: &str| name.starts_with(FOLDER) && name.ends_with(".webp");
        for_each_file(package, tools, wanted, |name, content| {
            files.push((name[FOLDER.len()..name.len() - ".webp".len()].to_owned(), content));
            if files.len() == BATCH { add(&mut files) } else { Ok(()) }
        })?;
        add(&mut files)?;
    }
    tools.say(&format!("left out: {unnamed} that have no name in the bundled set, {left_out} still or damaged"));
    Ok(())
}

/// Frames of an animation as small PNG files, on white; none of one that does not move or cannot be decoded.
fn frames(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    let images = decode_frames(file, picture::MOST_PIXELS, |count| spread(count, FRAMES.min(count))).ok()?;
    let moves = images.iter().any(|image| image.pixels != images[0].pixels);
    moves.then(|| images.into_iter().map(|image| picture::small(image, LONGEST).ok()).collect())?
}

#[cfg(test)]
mod tests {
    use super::super::package::Registry;
    use super::*;
    use crate::config::Data;
    use crate::data::shard_writer::{Limits, Origin};
    use crate::data::source::tar_of;
    use crate::data::test_source::gif;
    use crate::test_folder;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    #[test]
    fn file_names_lead_to_concepts() {
        for (stem, hexcode, tested) in [
            ("1f44b", "1f44b", false),
            ("1f44b-1f3fd", "1f44b", true),
            ("1f9ce-1f3fc-200d-2640-fe0f", "1f9ce-200d-2640", false),
            ("35-fe0f-20e3", "0035-20e3", false),
        ] {
            assert_eq!(named(stem), Named { hexcode: hexcode.into(), tested });
        }
    }

    #[test]
    fn clips_are_written_with_their_names_and_frames() {
        let folder = test_folder("fetch-animated");
        let path = folder.join("package.tgz");
        let moving = gif(&[[250, 0, 0], [0, 250, 0], [0, 0, 250]]);
        let still = gif(&[[250, 0, 0], [250, 0, 0]]);
        let members: [(&str, &[u8]); 7] = [
            ("package/assets/1f44b.webp", &moving),
            ("package/assets/1f44b-1f3fd.webp", &moving),
            ("package/assets/1f604.webp", &moving),
            ("package/assets/1f603.webp", &still),
            ("package/assets/1f600.webp", b"damaged"),
            ("package/assets/ffff.webp", &moving),
            ("package/README.md", b"not of the set"),
        ];
        let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
        encoder.write_all(&tar_of(&members)).unwrap();
        encoder.finish().unwrap();
        let origin = Origin { name: PACKAGES[0].into(), version: "1".into(), checksum: String::new() };
        let package = Package { registry: Registry::Npm, path, licence: String::new(), origin };
        let mut shards = ShardWriter::create(&folder, "animated-emoji", "MIT", Vec::new(), Limits::default()).unwrap();
        write(&[package], &Tools::on_path(""), &mut shards).unwrap();
        let index = shards.finish().unwrap();
        let counts = index.splits.iter().map(|(name, split)| (name.as_str(), split.samples));
        assert_eq!(counts.collect::<Vec<_>>(), [("fresh", 1), ("test", 1), ("train", 1)]);
        let pattern = folder.join("test-00000.tar").display().to_string();
        let source = crate::data::open(&pattern, &Data { frames: 3, ..Data::default() }).unwrap();
        let raw = source.part(0).unwrap().sample(0).unwrap();
        assert!(raw.key.ends_with(": 1f44b-1f3fd"), "{}", raw.key);
        assert_eq!((raw.labels.class.as_deref(), raw.captions), (Some("waving hand"), vec!["waving hand".into()]));
        let colour = |image: &crate::data::RawImage| match image {
            crate::data::RawImage::Encoded(file) => model::preprocess::decode(file, 1).unwrap().to_rgb(),
            other => panic!("{other:?}"),
        };
        assert!(raw.images.iter().map(colour).eq([[250, 0, 0], [0, 250, 0], [0, 0, 250]].map(Vec::from)));
    }
}
