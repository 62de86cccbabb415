//! A procedural set: scenes of shapes with captions, questions and statements; pairs of scenes with a statement on both;
//! clips of moving shapes. Every sample is a function of the seed, its split and its number; the splits `fresh` show
//! combinations of colour and shape that training never does.

mod figure;
mod motion;
mod pairs;
pub(crate) mod questions;
mod scene;

use super::shard_writer::{Index, Limits, Origin, ShardWriter};
use crate::{Error, Result, png_file};
use engine::rng::Philox;
use figure::Canvas;
use motion::{Clip, Motion};
use pairs::Pair;
use questions::Balance;
use scene::{Combinations, Scene};
use serde_json::{Value, json};
use std::path::Path;

/// Keeps these random numbers apart from those of other uses of a seed.
const PURPOSE: u64 = 0x7363_656e_6573;
/// Sides of pictures that are drawn, in pixels: shapes can be told apart from the first on.
const SIDES: std::ops::RangeInclusive<usize> = 24..=1024;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Scenes, pairs and clips for training, this many of each; there are a tenth as many in each split for tests.
    pub count: u64,
    /// Width and height of a picture, in pixels.
    pub side: usize,
    /// Seed of all that is random.
    pub seed: u64,
}

/// A split: its name, what it shows, and its share of the count.
const SPLITS: [(&str, Combinations, u64); 3] =
    [("train", Combinations::Known, 1), ("test", Combinations::Known, 10), ("fresh", Combinations::Fresh, 10)];

/// Writes the set into a folder: splits `train`, `test` and `fresh` of scenes, and the same of `pairs-` and `motion-`.
///
/// # Errors
/// The recipe asks for nothing or for pictures of an unsuitable size, or the folder cannot be written.
pub fn make(folder: &Path, recipe: Recipe) -> Result<Index> {
    let Recipe { count, side, seed } = recipe;
    if count == 0 {
        return Err(Error::invalid("no scenes are asked for: give --count 1 or more"));
    }
    if !SIDES.contains(&side) {
        let (least, most) = (SIDES.start(), SIDES.end());
        return Err(Error::invalid(format!("pictures of {side} pixels: give --size between {least} and {most}")));
    }
    let name = format!("coca data make scenes --count {count} --size {side} --seed {seed}");
    let origin = Origin { name, version: env!("CARGO_PKG_VERSION").into(), checksum: String::new() };
    let mut shards = ShardWriter::create(folder, "scenes", "MIT", vec![origin], Limits::default())?;
    for (number, (split, combinations, part)) in SPLITS.into_iter().enumerate() {
        let count = count.div_ceil(part);
        // Three kinds of sample, each with generators of its own.
        let random = |kind: usize, index: u64| {
            let split = Philox::new(seed ^ PURPOSE, (number * 3 + kind) as u64).next_u64();
            Philox::new(split, index)
        };
        let mut part = Part { shards: &mut shards, split, combinations, side };
        part.scenes((0..count).map(|index| random(0, index)))?;
        part.pairs((0..count).map(|index| random(1, index)))?;
        part.clips((0..count).map(|index| random(2, index)))?;
    }
    shards.finish()
}

fn png(canvas: &Canvas) -> Result<Vec<u8>> {
    png_file::encode_rgb(canvas.side as u32, canvas.side as u32, &canvas.rgb)
}

/// A split that is being written, with a generator for each of its samples.
struct Part<'a> {
    shards: &'a mut ShardWriter,
    split: &'a str,
    combinations: Combinations,
    side: usize,
}

impl Part<'_> {
    fn scenes(&mut self, randoms: impl Iterator<Item = Philox>) -> Result<()> {
        let (mut asked, mut said) = (Balance::default(), Balance::default());
        for (index, mut random) in randoms.enumerate() {
            let scene = Scene::random(self.combinations, &mut random);
            let mut json = scene.json();
            json["questions"] = json!(questions::questions(&scene, self.combinations, &mut asked, &mut random));
            json["statements"] = json!(questions::statements(&scene, self.combinations, &mut said, &mut random));
            let image = png(&scene.draw(self.side))?;
            let (json, caption) = (json.to_string(), scene.caption());
            let members = [("png", &image[..]), ("txt", caption.as_bytes()), ("json", json.as_bytes())];
            self.shards.add(self.split, &format!("scene-{index:07}"), &members)?;
        }
        Ok(())
    }

    fn pairs(&mut self, randoms: impl Iterator<Item = Philox>) -> Result<()> {
        let mut balance = Balance::default();
        for (index, mut random) in randoms.enumerate() {
            let Pair { scenes, statement, truth } = pairs::random(self.combinations, &mut balance, &mut random);
            let [left, right] = scenes.each_ref().map(|scene| png(&scene.draw(self.side)));
            let [left_scene, right_scene] = scenes.each_ref().map(Scene::json);
            let json =
                json!({"statement": statement, "label": truth, "left": left_scene, "right": right_scene}).to_string();
            let members = [("left.png", &left?[..]), ("right.png", &right?[..]), ("json", json.as_bytes())];
            self.shards.add(&format!("pairs-{}", self.split), &format!("pair-{index:07}"), &members)?;
        }
        Ok(())
    }

    fn clips(&mut self, randoms: impl Iterator<Item = Philox>) -> Result<()> {
        for (index, mut random) in randoms.enumerate() {
            // Every class in its turn: all are equally frequent.
            let clip = Clip::random(Motion::ALL[index % Motion::ALL.len()], self.combinations, self.side, &mut random);
            let frames = clip.frames.iter().map(png).collect::<Result<Vec<_>>>()?;
            let names: Vec<String> = (0..frames.len()).map(|frame| format!("{frame:03}.png")).collect();
            let (colour, shape) = clip.combination;
            let json: Value = json!({
                "class": clip.motion.words(), "needs_order": clip.motion.needs_order(), "colour": colour.name(),
                "shape": shape.name(), "frames": frames.len(),
            });
            let (json, caption) = (json.to_string(), clip.caption());
            let frames = names.iter().zip(&frames).map(|(name, frame)| (name.as_str(), &frame[..]));
            let members: Vec<_> = frames.chain([("txt", caption.as_bytes()), ("json", json.as_bytes())]).collect();
            self.shards.add(&format!("motion-{}", self.split), &format!("clip-{index:07}"), &members)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Data;
    use crate::data::{RawImage, open};
    use crate::test_folder;
    use model::preprocess::decode;
    use std::io::Read;

    const SMALL: Recipe = Recipe { count: 20, side: 32, seed: 1 };

    /// The members of a shard by name.
    fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        let member = |member: std::io::Result<tar::Entry<'_, std::fs::File>>| {
            let mut member = member.unwrap();
            let mut content = Vec::new();
            member.read_to_end(&mut content).unwrap();
            (member.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(member).collect()
    }

    #[test]
    fn a_seed_makes_the_same_set_again_and_another_seed_another_one() {
        let folders = ["scenes-a", "scenes-b", "scenes-c"].map(test_folder);
        let seeds = [1, 1, 2];
        let [first, again, other] =
            [0, 1, 2].map(|index| make(&folders[index], Recipe { seed: seeds[index], ..SMALL }).unwrap().splits);
        assert_eq!(first, again);
        let names: Vec<&String> = first.keys().collect();
        assert_eq!(names.len(), 9, "{names:?}");
        for (name, split) in &first {
            assert_eq!(split.samples, if name.ends_with("train") { 20 } else { 2 }, "{name}");
            assert_ne!(split.shards[0].sha256, other[name].shards[0].sha256, "{name}");
        }
        // Splits of one kind share no sample either.
        let test = members(&folders[0].join("test-00000.tar"));
        assert!(members(&folders[0].join("train-00000.tar")).iter().all(|member| !test.contains(member)));
    }

    #[test]
    fn scenes_are_data_to_train_on_and_the_rest_is_complete() {
        let folder = test_folder("scenes-read");
        make(&folder, SMALL).unwrap();
        let path = |name: &str| folder.join(name);
        let source = open(&path("train-00000.tar").display().to_string(), &Data::default()).unwrap();
        let part = source.part(0).unwrap();
        assert_eq!(part.len(), 20);
        for index in 0..part.len() {
            let raw = part.sample(index).unwrap();
            let [RawImage::Encoded(image)] = &raw.images[..] else { panic!("{:?}", raw.images) };
            let image = decode(image, 1 << 20).unwrap();
            assert_eq!((image.width, image.height), (32, 32));
            assert!(raw.captions[0].starts_with('a'), "{:?}", raw.captions);
        }
        let json = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
        let of = |name: &str, ending: &str| -> Vec<(String, Vec<u8>)> {
            members(&path(name)).into_iter().filter(|(name, _)| name.ends_with(ending)).collect()
        };
        let scenes = of("train-00000.tar", ".json");
        assert!(scenes.iter().all(|(_, scene)| !json(scene)["objects"].as_array().unwrap().is_empty()));
        let questions = scenes.iter().map(|(_, scene)| json(scene)["questions"].as_array().unwrap().len());
        assert!(questions.sum::<usize>() > scenes.len());
        assert!(scenes.iter().all(|(_, scene)| !json(scene)["statements"].as_array().unwrap().is_empty()));
        for side in ["left", "right"] {
            assert_eq!(of("pairs-train-00000.tar", &format!(".{side}.png")).len(), 20);
            assert!(
                of("pairs-train-00000.tar", ".json").iter().all(|(_, pair)| json(pair)[side]["objects"].is_array())
            );
        }
        assert!(of("pairs-train-00000.tar", ".json").iter().all(|(_, pair)| json(pair)["label"].is_boolean()));
        assert_eq!(of("motion-train-00000.tar", ".png").len(), 20 * motion::FRAMES);
        let clips = of("motion-train-00000.tar", ".json");
        let classes: std::collections::BTreeSet<String> =
            clips.iter().map(|(_, clip)| json(clip)["class"].to_string()).collect();
        assert_eq!(classes.len(), Motion::ALL.len());
    }

    #[test]
    fn recipes_that_cannot_be_made_are_refused() {
        let folder = test_folder("scenes-refused");
        for (recipe, flag) in [(Recipe { count: 0, ..SMALL }, "--count"), (Recipe { side: 8, ..SMALL }, "--size")] {
            let error = make(&folder, recipe).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
