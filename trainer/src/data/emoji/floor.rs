//! The floor that a trained model has to clear: guessing a held-out drawing's concept by the nearest training drawing,
//! pixel by pixel, in grey at 24 x 24.

use super::{Drawing, EmojiSet, SIDE, Split};

/// Side of the thumbnails that are compared.
const THUMBNAIL: usize = 24;

/// Share of drawings whose concept is found by comparing pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// The nearest concept is the right one.
    pub top1: f64,
    /// The right one is among the five nearest concepts.
    pub top5: f64,
    /// Drawings asked about.
    pub drawings: usize,
}

/// A drawing on white in grey (Rec. 601 luma), cut to the square around what is drawn and averaged down to 24 x 24;
/// scaled to mean 0 and norm 1, so that the nearest is the best correlated. Raw greys, or uncut, find fewer.
fn thumbnail(set: &EmojiSet, drawing: usize) -> Vec<f32> {
    let rgb = set.rgb(drawing, [255; 3]);
    let luma = |pixel: &[u8]| 0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2]);
    let grey: Vec<f32> = rgb.chunks_exact(3).map(luma).collect();
    let transparent = set.transparent(drawing);
    let drawn = || (0..SIDE * SIDE).filter(|&at| !transparent[at]);
    // First and last drawn column or row.
    let extent = |axis: fn(usize) -> usize| {
        drawn().map(axis).fold((SIDE - 1, 0), |(first, last), at| (first.min(at), last.max(at)))
    };
    let (columns, rows) = (extent(|at| at % SIDE), extent(|at| at / SIDE));
    let side = |(first, last): (usize, usize)| (last + 1).saturating_sub(first).max(1) as f32;
    let scale = side(columns).max(side(rows)) / THUMBNAIL as f32;
    // Source pixels under one thumbnail pixel along an axis, with their weights; what lies outside is white.
    let cover = |at: usize, (first, last): (usize, usize)| {
        let start = ((first + last + 1) as f32 - scale * THUMBNAIL as f32) / 2.0;
        let (from, to) = (start + at as f32 * scale, start + (at + 1) as f32 * scale);
        (from.floor() as isize..to.ceil() as isize)
            .map(move |source| (source, (to.min(source as f32 + 1.0) - from.max(source as f32)) / scale))
    };
    let inside = |at: isize| usize::try_from(at).ok().filter(|&at| at < SIDE);
    let source = |y: isize, x: isize| inside(y).zip(inside(x)).map_or(255.0, |(y, x)| grey[y * SIDE + x]);
    let across: Vec<Vec<(isize, f32)>> = (0..THUMBNAIL).map(|x| cover(x, columns).collect()).collect();
    let mut pixels = Vec::with_capacity(THUMBNAIL * THUMBNAIL);
    for y in 0..THUMBNAIL {
        for across in &across {
            let line = |v: isize| across.iter().map(|&(u, weight)| weight * source(v, u)).sum::<f32>();
            pixels.push(cover(y, rows).map(|(v, weight)| weight * line(v)).sum::<f32>());
        }
    }
    let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
    let norm = pixels.iter().map(|value| (value - mean).powi(2)).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    pixels.iter().map(|value| (value - mean) / norm).collect()
}

/// Bytes that [`floor`] holds of `drawings` drawings, asked about or known.
pub fn floor_bytes(drawings: usize) -> usize {
    drawings * THUMBNAIL * THUMBNAIL * size_of::<f32>()
}

/// The floor of one split against the drawings of [`Split::Train`] and, if `with_fresh`, of [`Split::Fresh`]: without
/// them a fresh concept cannot be guessed. Ties go to the concept that comes first.
pub fn floor(set: &EmojiSet, asked: Split, with_fresh: bool) -> Floor {
    let mut known = set.split(Split::Train);
    if with_fresh {
        known.extend(set.split(Split::Fresh));
    }
    let load = |drawings: Vec<usize>| -> Vec<(Drawing, Vec<f32>)> {
        drawings.into_iter().map(|index| (set.drawings()[index], thumbnail(set, index))).collect()
    };
    let (known, asked) = (load(known), load(set.split(asked)));
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    // How many concepts lie nearer than the right one.
    let rank = |(drawing, pixels): &(Drawing, Vec<f32>)| {
        let mut nearest = vec![f32::INFINITY; set.concepts().len()];
        for (other, others) in &known {
            let near = &mut nearest[other.concept];
            *near = near.min(distance(pixels, others));
        }
        let right = nearest[drawing.concept];
        let nearer = |(concept, &near): (usize, &f32)| near < right || (near == right && concept < drawing.concept);
        if right.is_finite() { nearest.iter().enumerate().filter(|&each| nearer(each)).count() } else { usize::MAX }
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let chunk = asked.len().div_ceil(threads).max(1);
    let ranks: Vec<usize> = std::thread::scope(|scope| {
        let part = |part| scope.spawn(move || Vec::from_iter(<[_]>::iter(part).map(rank)));
        let threads: Vec<_> = asked.chunks(chunk).map(part).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let share = |limit: usize| ranks.iter().filter(|&&rank| rank < limit).count() as f64 / ranks.len().max(1) as f64;
    Floor { top1: share(1), top5: share(5), drawings: asked.len() }
}
