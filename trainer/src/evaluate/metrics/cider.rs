//! CIDEr-D, as coco-caption computes it (there named CIDEr), with document frequencies of the references given.

use super::{Counts, LONGEST, Pair, Text, counts};
use std::collections::BTreeSet;

/// Standard deviation, in words, of the penalty on length.
const SIGMA: f64 = 6.0;

/// The mean over n = 1 to 4, references and captions of `10 · exp(-(l_c - l_r)² / 2σ²) · Σ min(g_c, g_r) g_r / |g_c| |g_r|`,
/// where g weighs the count of an n-gram with `ln(images / images that have it in a reference)` and l is a number of pairs of
/// words.
pub fn cider_d(pairs: &[Pair]) -> f64 {
    let length = |text: &Text| text.words.len().saturating_sub(1) as f64;
    let norm = |weights: &Counts| weights.values().map(|weight| weight * weight).sum::<f64>().sqrt();
    let mut sum = 0.0;
    for n in 1..=LONGEST {
        let mut images: Counts = Counts::new();
        for pair in pairs {
            let grams: BTreeSet<&[u32]> = pair.references.iter().flat_map(|text| text.words.windows(n)).collect();
            grams.into_iter().for_each(|gram| *images.entry(gram).or_default() += 1.0);
        }
        for Pair { caption, references } in pairs {
            let ours = weigh(counts(&caption.words, n), &images, pairs.len());
            let our_norm = norm(&ours);
            for reference in references {
                let theirs = weigh(counts(&reference.words, n), &images, pairs.len());
                let common = |(gram, &weight): (&&[u32], &f64)| {
                    let other = theirs.get(gram).copied().unwrap_or(0.0);
                    weight.min(other) * other
                };
                let norms = our_norm * norm(&theirs);
                if norms > 0.0 {
                    let difference = length(caption) - length(reference);
                    let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
                    let similarity = ours.iter().map(common).sum::<f64>() / norms;
                    sum += penalty * similarity / references.len() as f64;
                }
            }
        }
    }
    10.0 * sum / (LONGEST * pairs.len()) as f64
}

/// Counts times the logarithm of the inverse share of `all` images that have the n-gram; one that none has is as rare as
/// one that one has.
fn weigh<'a>(mut counts: Counts<'a>, images: &Counts, all: usize) -> Counts<'a> {
    for (gram, weight) in &mut counts {
        *weight *= (all as f64).ln() - images.get(gram).copied().unwrap_or(1.0).ln();
    }
    counts
}
