//! From a sample as stored to what the model is trained on: square RGB bytes and one caption, both by chance in
//! training and by rule in evaluation.

use super::colours::Colours;
use super::drawing::random_view;
use super::fault::guarded;
use super::{Fault, FaultKind, Raw, RawImage, clips};
use crate::config::{AugmentKind, Augmentation, Config, Data};
use engine::rng::Philox;
use model::config::{CocaConfig, ResizeMode};
use model::preprocess::{self, Image, Mode};
use std::borrow::Cow;

/// Most keywords after a name.
const MOST_KEYWORDS: usize = 3;

/// Makes model inputs of stored samples. What is random depends on the generator alone.
#[derive(Clone, Debug)]
pub struct Augmenter {
    size: usize,
    resize: ResizeMode,
    fill: u8,
    max_pixels: u64,
    /// None: the preprocessing of evaluation.
    random: Option<Augmentation>,
}

impl Augmenter {
    /// What the configuration says for training: `augmentation.kind = "none"` is the same as [`Augmenter::evaluation`].
    pub fn training(model: &CocaConfig, config: &Config) -> Augmenter {
        let random = (config.augmentation.kind == AugmentKind::Crop).then(|| config.augmentation.clone());
        Augmenter { random, ..Augmenter::evaluation(model, &config.data) }
    }

    /// Resizing as in evaluation, drawings on white, and the first caption.
    pub fn evaluation(model: &CocaConfig, data: &Data) -> Augmenter {
        Augmenter {
            size: model.vision.image_size,
            resize: model.image.resize_mode,
            fill: model.image.fill_color,
            max_pixels: data.max_pixels,
            random: None,
        }
    }

    /// The model's input, u8 `[images, size, size, 3]`, from the images of a sample. What is random is the same for each of
    /// them, so that what moves in a clip moves as it did.
    ///
    /// # Errors
    /// They are not `count` images, a decoder panics over one, or as [`Augmenter::image`].
    pub fn images(&self, raw: &Raw, count: usize, random: &mut Philox) -> Result<Vec<u8>, Fault> {
        if raw.images.len() != count {
            let detail = format!("{} images where every sample has {count}", raw.images.len());
            return Err(Fault::new(FaultKind::WrongImageCount, &raw.key, detail));
        }
        let start = random.clone();
        let mut pixels = Vec::with_capacity(count * self.size * self.size * 3);
        for image in &raw.images {
            *random = start.clone();
            pixels.extend(guarded(&raw.key, || self.image(&raw.key, image, random))?);
        }
        Ok(pixels)
    }

    /// The model's input, u8 `[size, size, 3]`, from one image of the sample `key`.
    ///
    /// # Errors
    /// The image cannot be decoded, or it has too many pixels before or after resizing.
    pub fn image(&self, key: &str, image: &RawImage, random: &mut Philox) -> Result<Vec<u8>, Fault> {
        match image {
            RawImage::Encoded(bytes) => {
                let image = preprocess::decode(bytes, self.max_pixels).map_err(|error| clips::fault(key, error))?;
                self.picture(key, &image, random)
            }
            RawImage::Frame(frame) => self.picture(key, frame.image()?, random),
            RawImage::Drawing { side, rgb, transparent } => {
                let side = *side;
                if side == 0 || rgb.len() != side * side * 3 || transparent.len() != side * side {
                    return Err(Fault::new(FaultKind::CorruptImage, key, "a drawing without all its pixels"));
                }
                match &self.random {
                    Some(augmentation) => Ok(random_view(side, rgb, transparent, self.size, augmentation, random)),
                    None => {
                        self.evaluate(key, &Image { width: side, height: side, mode: Mode::Rgb, pixels: rgb.clone() })
                    }
                }
            }
        }
    }

    /// The model's input from a decoded file.
    fn picture(&self, key: &str, image: &Image, random: &mut Philox) -> Result<Vec<u8>, Fault> {
        let Some(Augmentation { scale_min, scale_max, ratio, jittered, grey, .. }) = self.random else {
            return self.evaluate(key, image);
        };
        let (sides, scale) = ((image.width, image.height), (scale_min, scale_max));
        let part = preprocess::random_crop(sides, scale, ratio, &mut || random.uniform());
        let mut pixels = preprocess::resize(image, self.size, self.size, Some(part)).to_rgb();
        Colours::random(jittered, grey, random).change(&mut pixels);
        Ok(pixels)
    }

    /// The evaluation preprocessing of a picture that does not blow up: a line of pixels, resized by its short side,
    /// would take more memory than any limit on the file's own pixels foresees.
    fn evaluate(&self, key: &str, image: &Image) -> Result<Vec<u8>, Fault> {
        let (width, height, size) = (image.width as u64, image.height as u64, self.size as u64);
        let new_width = match self.resize {
            ResizeMode::Longest => 1,
            ResizeMode::Squash => size,
            ResizeMode::Shortest => (size * width / height).max(size),
        };
        // The picture is resized along its rows first.
        let pixels = new_width * height.max(size);
        let high = if self.resize == ResizeMode::Shortest { size * (size * height / width) } else { 0 };
        if pixels.max(high) > self.max_pixels.max(4 * size * size) {
            let detail = format!("{width} x {height} pixels are too narrow to be resized to {size} x {size}");
            return Err(Fault::new(FaultKind::Oversized, key, detail));
        }
        Ok(preprocess::evaluate(image, self.size, self.resize, self.fill))
    }

    /// The caption to train on: in evaluation the first; else any, and with keywords often some of them after it.
    pub fn caption<'a>(&self, raw: &'a Raw, random: &mut Philox) -> Cow<'a, str> {
        let chosen = if self.random.is_some() { random.below(raw.captions.len()) } else { 0 };
        let Some(name) = raw.captions.get(chosen) else { return Cow::Borrowed("") };
        let share = self.random.as_ref().map_or(0.0, |augmentation| augmentation.keywords);
        if raw.keywords.is_empty() || random.uniform() >= share {
            return Cow::Borrowed(name);
        }
        let mut keywords = new_words(name, &raw.keywords);
        random.shuffle(&mut keywords);
        keywords.truncate(1 + random.below(MOST_KEYWORDS));
        with_keywords(name, &keywords)
    }
}

/// The keywords that do not stand in the name.
pub(super) fn new_words<'a>(name: &str, keywords: &'a [String]) -> Vec<&'a str> {
    keywords.iter().map(String::as_str).filter(|word| !name.contains(word)).collect()
}

/// `name (one, two)`; the name alone without keywords. Names have colons and commas of their own, as in "flag: Chad".
pub(super) fn with_keywords<'a>(name: &'a str, keywords: &[&str]) -> Cow<'a, str> {
    if keywords.is_empty() { Cow::Borrowed(name) } else { Cow::Owned(format!("{name} ({})", keywords.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Labels;
    use crate::data::test_source::{model, png};

    fn config(kind: AugmentKind) -> Config {
        let mut config = Config::default();
        config.augmentation.kind = kind;
        config.data.max_pixels = 10_000;
        config
    }

    #[test]
    fn files_are_cropped_or_evaluated() {
        let model = model(16);
        let image = RawImage::Encoded(png(20, 30));
        let random = Augmenter::training(&model, &config(AugmentKind::Crop));
        let fixed = Augmenter::training(&model, &config(AugmentKind::None));
        let make = |augmenter: &Augmenter, seed| augmenter.image("k", &image, &mut Philox::new(seed, 0)).unwrap();
        assert_eq!(make(&random, 1), make(&random, 1));
        assert_ne!(make(&random, 1), make(&random, 2));
        let RawImage::Encoded(bytes) = &image else { unreachable!() };
        let decoded = preprocess::decode(bytes, 10_000).unwrap();
        assert_eq!(make(&fixed, 1), preprocess::evaluate(&decoded, 16, ResizeMode::Shortest, 0));
        // A drawing of the right size is itself.
        let rgb: Vec<u8> = (0..16 * 16 * 3).map(|value| value as u8).collect();
        let drawing = RawImage::Drawing { side: 16, rgb: rgb.clone(), transparent: vec![false; 256] };
        assert_eq!(fixed.image("k", &drawing, &mut Philox::new(0, 0)).unwrap(), rgb);
        assert_ne!(random.image("k", &drawing, &mut Philox::new(0, 0)).unwrap(), rgb);
    }

    #[test]
    fn images_of_a_sample_get_one_view() {
        let raw = |sides: &[u32]| Raw {
            key: "k".into(),
            images: sides.iter().map(|&side| RawImage::Encoded(png(side, side))).collect(),
            captions: Vec::new(),
            keywords: Vec::new(),
            labels: Labels::default(),
        };
        let random = Augmenter::training(&model(16), &config(AugmentKind::Crop));
        let make = |sides: &[u32], count| random.images(&raw(sides), count, &mut Philox::new(3, 0));
        let (one, other) = (make(&[20], 1).unwrap(), make(&[33], 1).unwrap());
        assert_eq!(make(&[20, 33, 20], 3).unwrap(), [one.clone(), other, one].concat());
        let fault = make(&[20, 20], 3).unwrap_err();
        assert_eq!((fault.kind, fault.key.as_str()), (FaultKind::WrongImageCount, "k"));
        assert_eq!(fault.detail, "2 images where every sample has 3");
    }

    #[test]
    fn bad_images_are_faults() {
        let kind = |resize, image: RawImage| {
            let mut model = model(16);
            model.image.resize_mode = resize;
            let augmenter = Augmenter::evaluation(&model, &config(AugmentKind::None).data);
            augmenter.image("k", &image, &mut Philox::new(0, 0)).map(|image| image.len()).map_err(|fault| fault.kind)
        };
        let file = |width, height| RawImage::Encoded(png(width, height));
        let (shortest, oversized) = (ResizeMode::Shortest, Err(FaultKind::Oversized));
        assert_eq!(kind(shortest, file(100, 100)), Ok(768));
        assert_eq!(kind(shortest, file(100, 101)), oversized);
        assert_eq!(kind(shortest, RawImage::Encoded(b"text".to_vec())), Err(FaultKind::CorruptImage));
        let cut = png(9, 9);
        assert_eq!(kind(shortest, RawImage::Encoded(cut[..cut.len() / 2].into())), Err(FaultKind::CorruptImage));
        for (mode, high) in [(shortest, oversized), (ResizeMode::Squash, oversized), (ResizeMode::Longest, Ok(768))] {
            assert_eq!(kind(mode, file(1, 9000)), high, "{mode:?}");
        }
        assert_eq!(kind(shortest, file(9000, 1)), oversized);
        let short = RawImage::Drawing { side: 2, rgb: vec![0; 12], transparent: vec![true; 3] };
        assert_eq!(kind(shortest, short), Err(FaultKind::CorruptImage));
    }

    #[test]
    fn captions_by_chance_and_by_rule() {
        let owned = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let mut raw = Raw {
            key: "k".into(),
            images: Vec::new(),
            captions: owned(&["red apple"]),
            keywords: owned(&["fruit", "red apple", "apple", "food", "tree"]),
            labels: Labels::default(),
        };
        let random = Augmenter::training(&model(16), &config(AugmentKind::Crop));
        let fixed = Augmenter::evaluation(&model(16), &Data::default());
        let all = |augmenter: &Augmenter, raw: &Raw| -> Vec<String> {
            (0..500).map(|seed| augmenter.caption(raw, &mut Philox::new(seed, 0)).into_owned()).collect()
        };
        let made = all(&random, &raw);
        let alone = made.iter().filter(|caption| *caption == "red apple").count();
        // Within four standard deviations of what the default says.
        let share = 1.0 - Augmentation::default().keywords;
        let off = (alone as f64 - 500.0 * share).abs();
        assert!(off < 4.0 * (500.0 * share * (1.0 - share)).sqrt(), "{alone}");
        let words = |caption: &String| caption.strip_prefix("red apple (").map(|rest| rest.split(", ").count());
        let counts: Vec<usize> = made.iter().filter_map(words).collect();
        assert_eq!(counts.len() + alone, 500);
        assert_eq!((counts.iter().min(), counts.iter().max()), (Some(&1), Some(&3)));
        assert!(!made.iter().any(|caption| caption[3..].matches("apple").count() != 1));
        assert!(all(&fixed, &raw).iter().all(|caption| caption == "red apple"));
        raw.keywords = owned(&["red apple"]);
        assert!(all(&random, &raw).iter().all(|caption| caption == "red apple"));
        (raw.captions, raw.keywords) = (owned(&["a", "b"]), Vec::new());
        assert!(["a", "b"].iter().all(|one| all(&random, &raw).iter().filter(|c| c == one).count() > 200));
        assert!(all(&fixed, &raw).iter().all(|caption| caption == "a"));
    }
}
