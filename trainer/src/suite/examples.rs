//! Pictures for the page: what the model names right and wrong and where it looks, what it finds, what it writes.

use crate::Result;
use crate::data::emoji::{EmojiSet, Split, Vendor};
use crate::evaluate::{Evaluator, TestSet, captions, evenly};
use crate::model_folder::ModelFolder;
use crate::report::{CaptionExample, Picture, QueryExample};
use engine::Workspace;
use model::attention_map::pooled_attention;
use model::encoder::{ImageEncoder, nearest};
use std::sync::Arc;

/// The style whose pictures are shown: no model of this program trains on it.
const STYLE: Split = Split::Style(Vendor::NotoV1);
/// Pictures of each kind that are shown.
const SHOWN: usize = 12;
/// Names that stand below a picture.
const NAMES: usize = 3;
/// Pictures in a pass.
const PASS: usize = 64;

/// A picture, where the pooled feature looks, and the names that it is nearest to.
#[derive(Debug)]
pub struct Look {
    /// The picture.
    pub picture: Picture,
    /// Attention over the patches, rows from the top, `[side, side]`; empty without a pooler.
    pub attention: Vec<f32>,
    /// Its true name.
    pub truth: String,
    /// The nearest names and their similarity, the nearest first.
    pub names: Vec<(String, f32)>,
}

impl Look {
    /// Whether the nearest name is the true one.
    pub fn is_right(&self) -> bool {
        self.names.first().is_some_and(|(name, _)| *name == self.truth)
    }
}

/// What the page shows.
#[derive(Debug)]
pub struct Examples {
    /// As many right as wrong ones, as far as there are.
    pub looks: Vec<Look>,
    /// Texts with the pictures found for them, and the other way round.
    pub queries: Vec<QueryExample>,
    /// Pictures with what was written about them.
    pub captions: Vec<CaptionExample>,
}

/// Examples from a style of the bundled set.
///
/// # Errors
/// An op refuses, or memory runs out.
pub fn examples(folder: &ModelFolder) -> Result<Examples> {
    let ModelFolder { model, tokenizer, queue } = folder;
    let (bundled, workspace) = (Arc::new(EmojiSet::bundled()?), Workspace::new());
    let mut evaluator = Evaluator::new(model, tokenizer, queue, &workspace, PASS)?;
    let set = TestSet::emoji(&evaluator, &bundled, STYLE, "")?;
    let names: Vec<&str> = bundled.concepts().iter().map(|concept| concept.name.as_str()).collect();
    let (images, names_features) = (evaluator.image_features(&set.samples)?, evaluator.text_features(&names)?);
    let (width, size) = (evaluator.width(), model.config().vision.image_size);
    let found = nearest(&images, &names_features, width, NAMES);

    let mut encoder = ImageEncoder::new(model, 1, &workspace)?;
    let mut looks = Vec::with_capacity(SHOWN);
    let is_right = |sample: usize| found[sample].first().is_some_and(|&(name, _)| name == set.classes[sample]);
    for right in [true, false] {
        let samples: Vec<usize> = (0..set.samples.len()).filter(|&sample| is_right(sample) == right).collect();
        for place in evenly(samples.len(), SHOWN / 2) {
            let sample = samples[place];
            let encoded = encoder.encoded(queue, &set.samples[sample].image)?;
            looks.push(Look {
                picture: set.picture(sample, size)?,
                // A model without a pooler has no such map.
                attention: pooled_attention(model, &encoded).unwrap_or_default(),
                truth: names[set.classes[sample]].to_owned(),
                names: found[sample].iter().map(|&(name, score)| (names[name].to_owned(), score)).collect(),
            });
        }
    }
    let shown = evenly(set.samples.len(), SHOWN);
    let samples: Vec<_> = shown.iter().map(|&sample| set.samples[sample].clone()).collect();
    let captions = captions(&evaluator, &samples)?;
    let captions = shown.iter().zip(captions).map(|(&sample, caption)| {
        Ok(CaptionExample {
            picture: set.picture(sample, size)?,
            generated: caption.text,
            truth: names[set.classes[sample]].to_owned(),
            set: set.name.clone(),
            right: caption.right,
        })
    });
    let captions = captions.collect::<Result<Vec<_>>>()?;
    let texts = set.text_features(&names_features, width);
    let queries = set.query_examples(&images, &texts, width, size)?;
    Ok(Examples { looks, queries, captions })
}
