//! BLEU of a corpus, with the nearest reference length, as coco-caption computes it.

use super::{Counts, LONGEST, Pair, counts};

/// Added to a number of n-grams or words that divides.
const SMALL: f64 = 1e-9;
/// Added to a number of n-grams or words that is divided.
const TINY: f64 = 1e-15;

/// For n = 1 to 4 `BP · (Π p_k)^(1/n)` over k up to n: p_k is the share of all captions' k-grams that occur in a reference,
/// each counted at most as often as in one of them; `BP = exp(1 - r / c)` if the captions' words c are fewer than r, those
/// of the references nearest in length (the shorter of two).
pub fn bleu(pairs: &[Pair]) -> [f64; LONGEST] {
    let (mut found, mut all) = ([0.0; LONGEST], [0.0; LONGEST]);
    let (mut length, mut wanted) = (0, 0);
    for Pair { caption, references } in pairs {
        let words = caption.words.len();
        length += words;
        wanted += (references.iter().map(|reference| reference.words.len()))
            .min_by_key(|&reference| (reference.abs_diff(words), reference))
            .unwrap_or(0);
        for n in 1..=LONGEST {
            let known: Vec<Counts> = references.iter().map(|reference| counts(&reference.words, n)).collect();
            for (gram, count) in counts(&caption.words, n) {
                let most = known.iter().filter_map(|counts| counts.get(gram)).copied().fold(0.0, f64::max);
                found[n - 1] += count.min(most);
                all[n - 1] += count;
            }
        }
    }
    let ratio = (length as f64 + TINY) / (wanted as f64 + SMALL);
    let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|k| {
        product *= (found[k] + TINY) / (all[k] + SMALL);
        f64::powf(product, 1.0 / (k + 1) as f64) * brevity
    })
}
