//! The sets that a model is evaluated on, and its rows of the tables.

use super::{Evaluator, ranks, recall, share_within};
use crate::Result;
use crate::config::Data;
use crate::data::emoji::{EmojiSet, Floor, SIDE, Split, Vendor, floor};
use crate::data::source::EmojiSource;
use crate::data::{Ledger, Sample, Source, read_all};
use crate::report::{Picture, Recall, RetrievalRow, Seen, ZeroShotRow};
use std::collections::HashMap;
use std::sync::Arc;

/// Samples with the class of each.
#[derive(Clone, Debug)]
pub struct TestSet {
    /// Its name.
    pub name: String,
    /// What is special about it, in a few words.
    pub about: String,
    /// The samples, preprocessed as for evaluation.
    pub samples: Vec<Sample>,
    /// Index into the class names of each sample.
    pub classes: Vec<usize>,
    /// The bundled set and the split of it that this is, if it is one.
    pub bundled: Option<(Arc<EmojiSet>, Split)>,
    /// What training saw of it.
    pub seen: Seen,
}

/// What comparing pixels alone reaches on a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelFloor {
    /// Top-1 and top-5 of zero-shot classification.
    pub zero_shot: (f64, f64),
    /// Image to text and text to image.
    pub retrieval: (Recall, Recall),
}

impl PixelFloor {
    /// For a style of the bundled set.
    pub fn of(bundled: Option<&(Arc<EmojiSet>, Split)>) -> Option<PixelFloor> {
        let (set, split @ Split::Style(_)) = bundled? else { return None };
        let Floor { zero_shot, image_to_text, text_to_image } = floor(set, *split);
        Some(PixelFloor {
            zero_shot: (share_within(&zero_shot, 1), share_within(&zero_shot, 5)),
            retrieval: (recall(&image_to_text), recall(&text_to_image)),
        })
    }
}

/// A training run's view of the bundled set: what its evaluation reports, in this order.
pub const EMOJI_SETS: [(Split, &str); 6] = [
    (Split::Style(Vendor::NotoV1), "a drawing style never seen"),
    (Split::Style(Vendor::Fxemoji), "a drawing style never seen"),
    (Split::Style(Vendor::EmojioneMonotone), "black outlines, a style never seen"),
    (Split::Fresh, "names never seen, in the training styles"),
    (Split::FreshStyle(Vendor::NotoV1), "names and style never seen"),
    (Split::FreshStyle(Vendor::Fxemoji), "names and style never seen"),
];

/// What training on the bundled set's training split saw of another.
pub fn seen(split: Split) -> Seen {
    match split {
        Split::Train => Seen::Pairs,
        Split::Style(_) => Seen::Concepts,
        Split::Fresh | Split::FreshStyle(_) => Seen::Nothing,
        _ => Seen::Unknown,
    }
}

impl TestSet {
    /// One split of the bundled set; classes are its concepts.
    ///
    /// # Errors
    /// As [`read_all`].
    pub fn emoji(evaluator: &Evaluator<'_>, set: &Arc<EmojiSet>, split: Split, about: &str) -> Result<TestSet> {
        let source = EmojiSource::new(set.clone(), split);
        let samples = read_all(&source, evaluator.model.config(), &Data::default(), &mut Ledger::new(0.0))?;
        let name = if split == Split::All { "emoji".into() } else { split.name() };
        let bundled = Some((set.clone(), split));
        Ok(TestSet { name, about: about.into(), samples, classes: source.concepts(), bundled, seen: seen(split) })
    }

    /// Any source; classes are its distinct first captions, in order of appearance, which are returned as well.
    ///
    /// # Errors
    /// As [`read_all`].
    pub fn of_source(
        evaluator: &Evaluator<'_>,
        source: &dyn Source,
        data: &Data,
        ledger: &mut Ledger,
    ) -> Result<(TestSet, Vec<String>)> {
        let samples = read_all(source, evaluator.model.config(), data, ledger)?;
        let (set, names) = TestSet::of_samples(source.name(), samples);
        Ok((TestSet { seen: Seen::Unknown, ..set }, names))
    }

    /// As [`TestSet::of_source`], of samples that a model was trained on.
    pub fn of_samples(name: String, samples: Vec<Sample>) -> (TestSet, Vec<String>) {
        let (mut names, mut known) = (Vec::new(), HashMap::new());
        let class = |sample: &Sample| {
            let caption = sample.captions.first().cloned().unwrap_or_default();
            *known.entry(caption.clone()).or_insert_with(|| {
                names.push(caption);
                names.len() - 1
            })
        };
        let classes = samples.iter().map(class).collect();
        (TestSet { name, about: String::new(), samples, classes, bundled: None, seen: Seen::Pairs }, names)
    }

    /// A picture to show of a sample: of a drawing of the bundled set the drawing, else what a model of images of `size`
    /// pixels sees, of several images the first.
    ///
    /// # Errors
    /// The sample's image has another size.
    pub fn picture(&self, sample: usize, size: usize) -> Result<Picture> {
        let picture = |side: usize, rgb: &[u8]| Picture::from_rgb(side as u32, side as u32, rgb);
        match &self.bundled {
            Some((set, split)) => picture(SIDE, &set.rgb(set.split(*split)[sample], [255; 3])),
            None => picture(size, self.samples[sample].image.get(..size * size * 3).unwrap_or_default()),
        }
    }

    /// Zero-shot classification among `classes` names with these text features, given the images' features.
    pub fn zero_shot(&self, images: &[f32], names: &[f32], width: usize) -> ZeroShotRow {
        let ranks = ranks(images, names, width, |image| std::slice::from_ref(&self.classes[image]));
        ZeroShotRow {
            set: self.name.clone(),
            about: self.about.clone(),
            count: self.samples.len(),
            classes: names.len() / width.max(1),
            top1: share_within(&ranks, 1),
            top5: share_within(&ranks, 5),
            floor: None,
            seen: self.seen,
        }
    }

    /// Retrieval among the samples of this set, given both features (`[samples, width]`). A text's right images are all
    /// those of its class, and the other way round.
    pub fn retrieval(&self, images: &[f32], texts: &[f32], width: usize) -> RetrievalRow {
        let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
        for (sample, &class) in self.classes.iter().enumerate() {
            members.entry(class).or_default().push(sample);
        }
        let right = |sample: usize| members[&self.classes[sample]].as_slice();
        RetrievalRow {
            set: self.name.clone(),
            count: self.samples.len(),
            image_to_text: recall(&ranks(images, texts, width, right)),
            text_to_image: recall(&ranks(texts, images, width, right)),
            floor: None,
            seen: self.seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_caption_are_one_class_and_each_others_answer() {
        let sample = |caption: &str| Sample { key: caption.into(), image: vec![], captions: vec![caption.into()] };
        let (set, names) = TestSet::of_samples("s".into(), vec![sample("a"), sample("b"), sample("a")]);
        assert_eq!((names, set.classes.clone()), (vec!["a".to_owned(), "b".into()], vec![0, 1, 0]));
        // The third image is nearest to the text of the first: right, they share a caption.
        let texts = [1.0, 0.0, 0.0, 1.0, 0.8, 0.6];
        let images = [1.0, 0.0, 0.6, 0.8, 1.0, 0.0];
        let row = set.retrieval(&images, &texts, 2);
        assert_eq!((row.image_to_text.at_1, row.count), (2.0 / 3.0, 3));
        let row = set.zero_shot(&images, &[1.0, 0.0, 0.0, 1.0], 2);
        // Of a clip the first frame is shown.
        let clip = Sample { image: [[7; 12], [9; 12]].concat(), ..sample("c") };
        let picture = |samples| TestSet::of_samples("s".into(), samples).0.picture(0, 2);
        let first = Sample { image: vec![7; 12], ..sample("c") };
        assert_eq!(picture(vec![clip]).unwrap(), picture(vec![first]).unwrap());
        assert!(picture(vec![sample("none")]).is_err());
        assert_eq!((row.top1, row.classes, row.seen), (1.0, 2, Seen::Pairs));
    }
}
