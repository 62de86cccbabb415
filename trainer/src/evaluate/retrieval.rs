//! Retrieval among the images of a set and all their captions.

use super::eval_set::EvalSet;
use super::table::{percent, table};
use super::{Evaluator, Figures, PixelFloor, ranks, recall};
use crate::Result;
use crate::data::Labelled;
use crate::report::Recall;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::HashMap;

/// Retrieval on one set.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct RetrievalFigures {
    set: String,
    images: usize,
    /// Captions, several an image.
    texts: usize,
    image_to_text: Recall,
    text_to_image: Recall,
    /// What pixels alone reach, image to text and text to image, for styles of the bundled set.
    floor: Option<(Recall, Recall)>,
    /// R@1 of answers by lot, the same both ways.
    chance: f64,
    /// Faulty samples by kind.
    skipped: serde_json::Value,
}

/// Ranks the captions of each set for its images and the images for its captions, of which at most `most` an image are
/// taken. An image's answers are all its captions, the best of which counts. In sets that are no benchmark of retrieval,
/// another image's caption is right too if it is the same, word for word.
///
/// # Errors
/// A set cannot be read, or an op refuses.
pub fn measure_retrieval(most: usize, evaluator: &mut Evaluator<'_>, sets: &mut [EvalSet]) -> Result<Figures> {
    let (mut rows, mut figures, width) = (Vec::new(), Vec::new(), evaluator.width());
    for set in sets {
        let (mut images, mut texts, mut owners, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0);
        set.read(evaluator.model.config(), evaluator.samples_in_pass(set.source.images()), |batch| {
            let samples: Vec<_> = batch.into_iter().map(|Labelled { sample, .. }| sample).collect();
            images.extend(evaluator.image_features(&samples)?);
            for sample in samples {
                for caption in sample.captions.into_iter().take(most) {
                    texts.push(caption);
                    owners.push(count);
                }
                count += 1;
            }
            Ok(())
        })?;
        let features = evaluator.text_features(&texts)?;
        let same = SameCaptions::find(&texts, &owners, set.source.captions_are_exclusive());
        let answers = same.answers(&owners, count);
        let image_to_text = ranks(&images, &features, width, |image| &answers[image]);
        let text_to_image = ranks(&features, &images, width, |text| &same.images[same.of[text]]);
        let row = RetrievalFigures {
            set: set.name.clone(),
            images: count,
            texts: texts.len(),
            image_to_text: recall(&image_to_text),
            text_to_image: recall(&text_to_image),
            floor: PixelFloor::of(set.bundled.as_ref()).map(|floor| floor.retrieval),
            chance: same.chance(count),
            skipped: set.skipped(),
        };
        let shares = |Recall { at_1, at_5, at_10 }| [at_1, at_5, at_10].map(percent);
        let start = [row.set.clone(), row.images.to_string(), row.texts.to_string()];
        rows.push([&start[..], &shares(row.image_to_text), &shares(row.text_to_image)].concat());
        rows.extend(row.floor.map(|(there, back)| {
            let start = ["  pixels alone".to_owned(), String::new(), String::new()];
            [&start[..], &shares(there), &shares(back)].concat()
        }));
        figures.push(row);
    }
    let header =
        ["retrieval", "images", "texts", "to text R@1 %", "R@5 %", "R@10 %", "to image R@1 %", "R@5 %", "R@10 %"];
    Figures::new(table(&header, &rows), &figures)
}

/// Captions that are the same, and their images.
struct SameCaptions {
    /// Which group each caption is in.
    of: Vec<usize>,
    /// The captions of each group.
    texts: Vec<Vec<usize>>,
    /// The images of each group.
    images: Vec<Vec<usize>>,
}

impl SameCaptions {
    /// Groups captions, each of the image `owners[caption]`, by their words; `exclusive` ones are each by itself.
    fn find(texts: &[String], owners: &[usize], exclusive: bool) -> SameCaptions {
        let mut same = SameCaptions { of: Vec::with_capacity(texts.len()), texts: Vec::new(), images: Vec::new() };
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (text, (words, &image)) in texts.iter().zip(owners).enumerate() {
            let next = same.texts.len();
            let group = if exclusive { next } else { *known.entry(words).or_insert(next) };
            if group == next {
                same.texts.push(Vec::new());
                same.images.push(Vec::new());
            }
            same.of.push(group);
            same.texts[group].push(text);
            if same.images[group].last() != Some(&image) {
                same.images[group].push(image);
            }
        }
        same
    }

    /// The captions that are right for each of `count` images.
    fn answers(&self, owners: &[usize], count: usize) -> Vec<Cow<'_, [usize]>> {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (&group, &image) in self.of.iter().zip(owners) {
            if !groups[image].contains(&group) {
                groups[image].push(group);
            }
        }
        let answers = |groups: Vec<usize>| match groups[..] {
            // Of a name that many images share, no copy is made for each.
            [group] => Cow::Borrowed(self.texts[group].as_slice()),
            _ => Cow::Owned(groups.iter().flat_map(|&group| &self.texts[group]).copied().collect()),
        };
        groups.into_iter().map(answers).collect()
    }

    /// The share of all pairs of one of `count` images and a caption that are right: what a first answer by lot reaches, in
    /// either direction. Of no pairs 0.
    fn chance(&self, count: usize) -> f64 {
        let right: usize = self.texts.iter().zip(&self.images).map(|(texts, images)| texts.len() * images.len()).sum();
        right as f64 / (count * self.of.len()).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_caption_answers_for_every_image_that_has_it_unless_captions_are_exclusive() {
        let texts = ["a cat", "a pet", "a cat", "a dog", "a pet", "a pet"].map(str::to_owned);
        let owners = [0, 0, 1, 1, 2, 2];
        let found = |exclusive: bool| {
            let same = SameCaptions::find(&texts, &owners, exclusive);
            let answers: Vec<Vec<usize>> = same.answers(&owners, 3).into_iter().map(Cow::into_owned).collect();
            let images: Vec<Vec<usize>> = same.of.iter().map(|&group| same.images[group].clone()).collect();
            let chance = same.chance(3);
            let share = |right: &[Vec<usize>], of: usize| right.iter().map(Vec::len).sum::<usize>() as f64 / of as f64;
            assert_eq!(
                (chance, chance),
                (share(&answers, 3 * 6), share(&images, 6 * 3)),
                "the mean in both directions"
            );
            (answers, images, chance)
        };
        let (answers, images, chance) = found(false);
        assert_eq!(chance, 11.0 / 18.0);
        assert_eq!(answers, [vec![0, 2, 1, 4, 5], vec![0, 2, 3], vec![1, 4, 5]]);
        assert_eq!(images, [vec![0, 1], vec![0, 2], vec![0, 1], vec![1], vec![0, 2], vec![0, 2]]);
        let (answers, images, chance) = found(true);
        assert_eq!(chance, 1.0 / 3.0);
        assert_eq!(answers, [vec![0, 1], vec![2, 3], vec![4, 5]]);
        assert_eq!(images, [[0], [0], [1], [1], [2], [2]]);
    }
}
