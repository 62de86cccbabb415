//! ROUGE-L of one caption, as coco-caption computes it.

use super::{Pair, Text};

/// Weight of recall against precision.
const BETA: f64 = 1.2;

/// `(1 + β²) P R / (R + β² P)` of the longest common subsequence: P its share of the caption, R of the reference, each the
/// best over the references. A text without words counts as one word, the same for all.
pub fn rouge_l(Pair { caption, references }: &Pair) -> f64 {
    let or_blank = |text: &Text| if text.tokens.is_empty() { vec![u32::MAX] } else { text.tokens.clone() };
    let caption = or_blank(caption);
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let reference = or_blank(reference);
        let common = longest_common_subsequence(&caption, &reference) as f64;
        precision = precision.max(common / caption.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

fn longest_common_subsequence(a: &[u32], b: &[u32]) -> usize {
    // Lengths for the words of `a` so far and every start of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (index, other) in b.iter().enumerate() {
            let above = lengths[index + 1];
            lengths[index + 1] = if word == other { diagonal + 1 } else { above.max(lengths[index]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}
