//! Scores of generated captions against true ones, over words: corpus BLEU-4 (Papineni et al. 2002), ROUGE-L (Lin 2004),
//! CIDEr-D (Vedantam et al. 2015) and exact matches. Conventions where papers leave a choice are those of coco-caption.

use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Longest n-gram of BLEU and CIDEr-D.
const LONGEST: usize = 4;
/// Weight of recall against precision in ROUGE-L.
const BETA: f64 = 1.2;
/// Standard deviation, in words, of CIDEr-D's penalty on length.
const SIGMA: f64 = 6.0;

/// Scores of a set of captions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// BLEU-4 of the corpus, 0 to 1, without smoothing: 0 if no four words in a row are right anywhere.
    pub bleu4: f64,
    /// Mean ROUGE-L, 0 to 1.
    pub rouge_l: f64,
    /// Mean CIDEr-D, 0 to 10. Words that are in every image's references count nothing, so one image alone scores 0.
    pub cider_d: f64,
    /// Share of captions whose words are those of one of their references.
    pub exact_match: f64,
}

/// Scores caption i against the references i, of which there may be several.
///
/// # Errors
/// There are no captions, not as many captions as sets of references, or a set is empty.
pub fn scores<C: AsRef<str>, R: AsRef<str>>(captions: &[C], references: &[Vec<R>]) -> Result<Scores> {
    if captions.is_empty() || captions.len() != references.len() {
        let (captions, references) = (captions.len(), references.len());
        return Err(Error::invalid(format!(
            "scores need a set of references for each of at least one caption: {captions} captions, {references} sets"
        )));
    }
    if let Some(index) = references.iter().position(Vec::is_empty) {
        return Err(Error::invalid(format!("caption {index} has no reference to score it against")));
    }
    let pairs: Vec<Pair> = (captions.iter().zip(references))
        .map(|(caption, references)| Pair {
            caption: words(caption.as_ref()),
            references: references.iter().map(|reference| words(reference.as_ref())).collect(),
        })
        .collect();
    let mean = |score: fn(&Pair) -> f64| pairs.iter().map(score).sum::<f64>() / pairs.len() as f64;
    Ok(Scores {
        bleu4: bleu4(&pairs),
        rouge_l: mean(rouge_l),
        cider_d: cider_d(&pairs),
        exact_match: mean(|pair| f64::from(u8::from(pair.references.contains(&pair.caption)))),
    })
}

/// The words of a text: lower-case runs of letters and digits, with the hyphens and apostrophes inside them.
pub fn words(text: &str) -> Vec<String> {
    let inner = |letter: char| matches!(letter, '-' | '\'' | '\u{2019}');
    text.to_lowercase()
        .split(|letter: char| !letter.is_alphanumeric() && !inner(letter))
        .map(|word| word.trim_matches(inner))
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('\u{2019}', "'"))
        .collect()
}

#[derive(Debug)]
struct Pair {
    caption: Vec<String>,
    references: Vec<Vec<String>>,
}

/// How often each n-gram occurs. In order, so that sums over it are the same on every run.
type Counts<'a> = BTreeMap<&'a [String], f64>;

fn counts(words: &[String], n: usize) -> Counts<'_> {
    let mut counts = Counts::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1.0);
    counts
}

/// `BP · exp(Σ ln p_n / 4)`: p_n is the share of all captions' n-grams that occur in a reference, each counted at most as
/// often as in one of them; `BP = exp(1 - r / c)` if the captions' words c are fewer than r, those of the references
/// nearest in length (the shorter of two).
fn bleu4(pairs: &[Pair]) -> f64 {
    let (mut found, mut all) = ([0.0; LONGEST], [0.0; LONGEST]);
    let (mut length, mut wanted) = (0, 0);
    for Pair { caption, references } in pairs {
        length += caption.len();
        wanted += (references.iter().map(Vec::len))
            .min_by_key(|&reference| (reference.abs_diff(caption.len()), reference))
            .unwrap_or(0);
        for n in 1..=LONGEST {
            let known: Vec<Counts> = references.iter().map(|reference| counts(reference, n)).collect();
            for (gram, count) in counts(caption, n) {
                let most = known.iter().filter_map(|counts| counts.get(gram)).copied().fold(0.0, f64::max);
                found[n - 1] += count.min(most);
                all[n - 1] += count;
            }
        }
    }
    if found.contains(&0.0) {
        return 0.0;
    }
    let logarithm: f64 = found.iter().zip(all).map(|(found, all)| (found / all).ln()).sum();
    let brevity = (1.0 - wanted as f64 / length as f64).min(0.0);
    (brevity + logarithm / LONGEST as f64).exp()
}

/// `(1 + β²) P R / (R + β² P)` of the longest common subsequence: P its share of the caption, R of the reference, each the
/// best over the references.
fn rouge_l(Pair { caption, references }: &Pair) -> f64 {
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references.iter().filter(|reference| !reference.is_empty() && !caption.is_empty()) {
        let common = longest_common_subsequence(caption, reference) as f64;
        precision = precision.max(common / caption.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
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

/// The mean over n = 1 to 4, references and captions of `10 · exp(-(l_c - l_r)² / 2σ²) · Σ min(g_c, g_r) g_r / |g_c| |g_r|`,
/// where g weighs the count of an n-gram with `ln(images / images that have it in a reference)`.
fn cider_d(pairs: &[Pair]) -> f64 {
    let mut sum = 0.0;
    for n in 1..=LONGEST {
        let mut images: Counts = Counts::new();
        for pair in pairs {
            let grams: BTreeSet<&[String]> = pair.references.iter().flat_map(|words| words.windows(n)).collect();
            grams.into_iter().for_each(|gram| *images.entry(gram).or_default() += 1.0);
        }
        let norm = |weights: &Counts| weights.values().map(|weight| weight * weight).sum::<f64>().sqrt();
        for Pair { caption, references } in pairs {
            let ours = weigh(counts(caption, n), &images, pairs.len());
            for reference in references {
                let theirs = weigh(counts(reference, n), &images, pairs.len());
                let common = |(gram, &weight): (&&[String], &f64)| {
                    let other = theirs.get(gram).copied().unwrap_or(0.0);
                    weight.min(other) * other
                };
                let norms = norm(&ours) * norm(&theirs);
                if norms > 0.0 {
                    let difference = caption.len() as f64 - reference.len() as f64;
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
        *weight *= (all as f64 / images.get(gram).copied().unwrap_or(1.0)).ln();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(captions: &[&str], references: &[&[&str]]) -> Scores {
        scores(captions, &references.iter().map(|set| set.to_vec()).collect::<Vec<_>>()).unwrap()
    }

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-12, "{found} is not {wanted}");
    }

    #[test]
    fn words_are_lower_case_and_without_punctuation() {
        assert_eq!(
            words("A man's flag: (light-skinned), \u{201c}42\u{201d} -- don\u{2019}t!"),
            ["a", "man's", "flag", "light-skinned", "42", "don't"]
        );
        assert_eq!(words("cat,dog\tÉcole"), ["cat", "dog", "école"]);
        assert!(words(" ... ' - 😀").is_empty());
    }

    #[test]
    fn bleu_is_papinenis() {
        // Precisions 6/7, 5/6, 4/5, 3/4: their product is 3/7. No penalty: 7 words against 6.
        near(score(&["The cat sat on the mat today."], &[&["the cat sat on the mat"]]).bleu4, (3f64 / 7.0).powf(0.25));
        // Clipped: 4/6, 3/5, 2/4, 1/3, whose product is 1/15.
        near(score(&["a b a b a b"], &[&["a b a b"]]).bleu4, (1f64 / 15.0).powf(0.25));
        // The best count in one reference, not their sum: 4/6 again, though two references hold eight.
        near(score(&["a b a b a b"], &[&["a b a b", "a b a b"]]).bleu4, (1f64 / 15.0).powf(0.25));
        // Short: 4 words against 6.
        near(score(&["the cat sat on"], &[&["the cat sat on the mat"]]).bleu4, (1f64 - 6.0 / 4.0).exp());
        // The nearest length, the shorter of 4 - 1 and 4 + 1 words: no penalty.
        near(score(&["the cat sat on"], &[&["the cat sat on it", "cat sat on"]]).bleu4, 1.0);
        // Counts are summed over the corpus before they are divided: 9/11, 7/9, 5/7, 3/5 and 11 words against 12.
        let two = score(
            &["x cat sat on the mat y", "the cat sat on"],
            &[&["the cat sat on the mat"], &["the cat sat on the mat"]],
        );
        near(two.bleu4, (9f64 / 11.0 * 7.0 / 9.0 * 5.0 / 7.0 * 3.0 / 5.0).powf(0.25) * (1f64 - 12.0 / 11.0).exp());
        // No four words in a row.
        assert_eq!(score(&["the cat"], &[&["the cat"]]).bleu4, 0.0);
    }

    #[test]
    fn rouge_is_lins() {
        let rouge = |caption: &str, references: &[&str]| score(&[caption], &[references]).rouge_l;
        // The examples of Lin 2004, section 3.1: 3 and 2 of 4 words in order.
        near(rouge("police kill the gunman", &["police killed the gunman"]), 0.75);
        near(rouge("the gunman kill police", &["police killed the gunman"]), 0.5);
        // P = 1, R = 3/4.
        near(rouge("police the gunman", &["police killed the gunman"]), 2.44 * 0.75 / (0.75 + 1.44));
        // P = 2/2 of the first reference, R = 1/1 of the second.
        near(rouge("red cat", &["a red big cat", "cat"]), 1.0);
        assert_eq!(rouge("", &["cat"]), 0.0);
        assert_eq!(rouge("dog", &["cat"]), 0.0);
    }

    #[test]
    fn cider_is_vedantams() {
        // "a" is everywhere and weighs nothing; "cat" and "a cat" weigh ln 2 and match wholly: two of four orders.
        near(score(&["a cat", "a cat"], &[&["a cat"], &["a dog"]]).cider_d, (10.0 * 2.0 / 4.0 + 0.0) / 2.0);
        // All four orders match.
        let captions = ["a cat sat down", "one dog ran off"];
        near(score(&captions, &[&[captions[0]], &[captions[1]]]).cider_d, 10.0);
        // One word more; "cat" is counted once: min(2 L, L) L / (2 L · L) = 1/2. Of the pairs "cat cat" and "cat a", which
        // no reference has, none matches.
        let long = score(&["cat cat a", ""], &[&["a cat"], &["a dog"]]).cider_d;
        near(long, 10.0 * 0.5 * (-1f64 / 72.0).exp() / 4.0 / 2.0);
        // The mean over references: the first gives 2 of 4 orders, the second none.
        near(score(&["a cat", ""], &[&["a cat", "one bird"], &["a dog"]]).cider_d, 10.0 * (2.0 / 4.0) / 2.0 / 2.0);
        // An n-gram counts once an image, however many references have it: "cat" still weighs ln(2 / 1).
        near(score(&["a cat", ""], &[&["a cat", "a cat"], &["a dog"]]).cider_d, 10.0 * (2.0 / 4.0) / 2.0);
        assert_eq!(score(&["a cat"], &[&["a cat"]]).cider_d, 0.0);
    }

    #[test]
    fn exact_matches_are_of_words() {
        let found = score(&["A cat!", "a dog", "dog"], &[&["bird", "a cat"], &["dog a"], &["dog."]]);
        near(found.exact_match, 2.0 / 3.0);
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let none: [&str; 0] = [];
        let refused =
            |captions: &[&str], references: &[Vec<&str>]| scores(captions, references).unwrap_err().to_string();
        assert!(refused(&none, &[]).contains("0 captions, 0 sets"));
        assert!(refused(&["a"], &[]).contains("1 captions, 0 sets"));
        assert!(refused(&["a", "b"], &[vec!["a"], vec![]]).contains("caption 1 has no reference"));
    }
}
