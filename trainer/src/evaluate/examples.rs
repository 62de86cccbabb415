//! Examples of what a model finds in a set.

use super::TestSet;
use crate::Result;
use crate::data::spread;
use crate::report::{Hit, Item, QueryExample};

/// Queries of each kind, and results of each.
const QUERIES: usize = 3;
const HITS: usize = 5;

/// At most `most` indices spread evenly over `count`.
pub fn evenly(count: usize, most: usize) -> Vec<usize> {
    spread(count, most.min(count))
}

impl TestSet {
    /// The features `[samples, width]` of every sample's text: those of the name of its class, of `names` `[classes, width]`.
    pub fn text_features(&self, names: &[f32], width: usize) -> Vec<f32> {
        self.classes.iter().flat_map(|&class| &names[class * width..(class + 1) * width]).copied().collect()
    }

    /// Some texts with the images found for them, and some images with the texts, given both features `[samples, width]`. The
    /// model sees images of `size` pixels.
    ///
    /// # Errors
    /// The samples' images have another size.
    pub fn query_examples(
        &self,
        images: &[f32],
        texts: &[f32],
        width: usize,
        size: usize,
    ) -> Result<Vec<QueryExample>> {
        let caption = |index: usize| self.samples[index].captions.first().cloned().unwrap_or_default();
        let shown = |index: usize| -> Result<Item> { Ok(Item::Picture(self.picture(index, size)?, caption(index))) };
        let mut queries = Vec::new();
        for (number, index) in evenly(self.samples.len(), 2 * QUERIES).into_iter().enumerate() {
            let by_text = number % 2 == 0;
            let (from, to) = if by_text { (texts, images) } else { (images, texts) };
            let query = &from[index * width..(index + 1) * width];
            let mut best = Vec::new();
            for (item, score) in model::encoder::nearest(query, to, width, HITS).into_iter().flatten() {
                let right = self.classes[item] == self.classes[index];
                let item = if by_text { shown(item)? } else { Item::Text(caption(item)) };
                best.push(Hit { item, score: f64::from(score), right });
            }
            let query = if by_text { Item::Text(caption(index)) } else { shown(index)? };
            queries.push(QueryExample { query, hits: best });
        }
        Ok(queries)
    }
}
