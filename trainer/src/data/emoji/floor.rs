//! The floor that a trained model has to clear: guessing a held-out drawing's concept by the nearest drawing in the
//! training styles, pixel by pixel, in grey at 24 x 24.

use super::{EmojiSet, SIDE, Split, extents};
use crate::dot::dot;
use rayon::prelude::*;
use std::ops::Range;

/// Side of the thumbnails that are compared, and their pixels.
const THUMBNAIL: usize = 24;
const PIXELS: usize = THUMBNAIL * THUMBNAIL;
/// Drawings that are compared with a known one before the next: together they fit in a core's cache.
const BLOCK: usize = 16;

/// Greys with mean 0 and norm 1.
pub(super) type Thumbnail = [f32; PIXELS];

/// A drawing on white in grey (Rec. 601 luma), cut to the square around what is drawn and averaged down to 24 x 24;
/// scaled to mean 0 and norm 1, so that the nearest is the best correlated. Raw greys, or uncut, find fewer.
fn thumbnail(set: &EmojiSet, drawing: usize) -> Thumbnail {
    let rgb = set.rgb(drawing, [255; 3]);
    let luma = |pixel: &[u8]| 0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2]);
    let grey: Vec<f32> = rgb.chunks_exact(3).map(luma).collect();
    let transparent = set.transparent(drawing);
    let [columns, rows] = extents(SIDE, |at| !transparent[at]).unwrap_or([0..SIDE, 0..SIDE]);
    let scale = columns.len().max(rows.len()) as f32 / THUMBNAIL as f32;
    // Source pixels under one thumbnail pixel along an axis, with their weights; what lies outside is white.
    let cover = |at: usize, drawn: &Range<usize>| {
        let start = ((drawn.start + drawn.end) as f32 - scale * THUMBNAIL as f32) / 2.0;
        let (from, to) = (start + at as f32 * scale, start + (at + 1) as f32 * scale);
        (from.floor() as isize..to.ceil() as isize)
            .map(move |source| (source, (to.min(source as f32 + 1.0) - from.max(source as f32)) / scale))
    };
    let inside = |at: isize| usize::try_from(at).ok().filter(|&at| at < SIDE);
    let source = |y: isize, x: isize| inside(y).zip(inside(x)).map_or(255.0, |(y, x)| grey[y * SIDE + x]);
    let across: Vec<Vec<(isize, f32)>> = (0..THUMBNAIL).map(|x| cover(x, &columns).collect()).collect();
    let pixel = |at: usize| {
        let line = |v: isize| across[at % THUMBNAIL].iter().map(|&(u, weight)| weight * source(v, u)).sum::<f32>();
        cover(at / THUMBNAIL, &rows).map(|(v, weight)| weight * line(v)).sum::<f32>()
    };
    let pixels: Thumbnail = std::array::from_fn(pixel);
    let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
    let norm = pixels.iter().map(|value| (value - mean).powi(2)).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    pixels.map(|value| (value - mean) / norm)
}

/// How many wrong answers a comparison of pixels puts before the right one, for each drawing of a split in its order;
/// `usize::MAX` where no known drawing shows the concept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Among all concepts of the set.
    pub zero_shot: Vec<usize>,
    /// Among the names of the split's own drawings.
    pub image_to_text: Vec<usize>,
    /// Among the split's own drawings, for the name of each.
    pub text_to_image: Vec<usize>,
}

/// The floor of one split. A concept is as near as the most similar of its drawings in [`Split::Train`] and
/// [`Split::Fresh`]: without those, nothing could be said of a fresh concept. Ties go to the concept that comes first.
pub fn floor(set: &EmojiSet, asked: Split) -> Floor {
    let load = |drawings: &[usize]| -> Vec<(usize, Thumbnail)> {
        drawings.par_iter().map(|&index| (set.drawings()[index].concept, thumbnail(set, index))).collect()
    };
    let known = set.known.get_or_init(|| load(&[set.split(Split::Train), set.split(Split::Fresh)].concat()));
    let asked = load(&set.split(asked));
    // The similarity of each drawing with each concept, [drawings, concepts]. A block of drawings stays in the cache
    // while all the known ones pass by.
    let block = |block: &[(usize, Thumbnail)]| {
        let mut rows = vec![vec![f32::NEG_INFINITY; set.concepts().len()]; block.len()];
        for (concept, pixels) in known {
            for (row, (_, asked)) in rows.iter_mut().zip(block) {
                row[*concept] = row[*concept].max(dot(asked, pixels));
            }
        }
        rows
    };
    let similar: Vec<Vec<f32>> = asked.par_chunks(BLOCK).flat_map_iter(block).collect();
    let concepts: Vec<usize> = asked.iter().map(|&(concept, _)| concept).collect();
    let each = |rank: &dyn Fn(usize, usize) -> usize| {
        concepts.iter().enumerate().map(|(drawing, &concept)| rank(drawing, concept)).collect()
    };
    Floor {
        zero_shot: each(&|drawing, concept| rank(concept, similar[drawing].iter().copied().enumerate())),
        image_to_text: each(&|drawing, concept| {
            rank(concept, concepts.iter().map(|&other| (other, similar[drawing][other])))
        }),
        text_to_image: each(&|_, concept| {
            rank(concept, concepts.iter().zip(&similar).map(|(&other, row)| (other, row[concept])))
        }),
    }
}

/// Bytes that [`floor`] holds of a split, and that a set keeps for the next one.
pub fn floor_bytes(set: &EmojiSet, asked: Split) -> usize {
    let count = |split| set.split(split).len();
    let (known, asked) = (count(Split::Train) + count(Split::Fresh), count(asked));
    (known + asked) * size_of::<(usize, Thumbnail)>() + asked * set.concepts().len() * size_of::<f32>()
}

/// How many answers of other concepts come before the best of the right one, given the concept and score of all.
fn rank(concept: usize, answers: impl Iterator<Item = (usize, f32)> + Clone) -> usize {
    let right = answers.clone().filter(|&(other, _)| other == concept).map(|(_, score)| score);
    let right = right.fold(f32::NEG_INFINITY, f32::max);
    if right == f32::NEG_INFINITY {
        return usize::MAX;
    }
    answers.filter(|&(other, score)| score > right || (score == right && other < concept)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_the_answers_of_other_concepts_that_come_first() {
        let answers = |scores: &'static [(usize, f32)]| scores.iter().copied();
        // The better of the right two counts; of equals the first concept wins.
        let scores = &[(3, 0.5), (7, 0.9), (3, 0.8), (1, 0.8), (4, 0.8), (5, 0.1)];
        assert_eq!([3, 7, 1, 4, 5].map(|concept| rank(concept, answers(scores))), [2, 0, 1, 3, 5]);
        assert_eq!(rank(2, answers(scores)), usize::MAX);
        assert_eq!(rank(3, answers(&[(3, f32::NEG_INFINITY), (4, 0.2)])), usize::MAX);
    }
}
