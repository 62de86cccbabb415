//! Scores of generated captions against true ones: BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004), CIDEr-D (Vedantam et
//! al. 2015) and exact matches. Words, and conventions where papers leave a choice, are those of coco-caption
//! (pycocoevalcap), so that numbers compare with published ones. And VQA's accuracy
//! of an answer.

mod bleu;
mod cider;
mod rouge;
mod tokenize;
mod vqa;

pub use tokenize::tokenize;
pub use vqa::vqa_accuracy;

use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Longest n-gram of BLEU and CIDEr-D.
const LONGEST: usize = 4;

/// Scores of a set of captions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// BLEU-1 to BLEU-4 of the corpus, 0 to 1, without smoothing: next to 0 if no n words in a row are
    /// right anywhere.
    pub bleu: [f64; LONGEST],
    /// Mean ROUGE-L, 0 to 1.
    pub rouge_l: f64,
    /// Mean CIDEr-D, 0 to 10. Words that are in every image's references count nothing, so one image alone scores 0.
    pub cider_d: f64,
    /// Share of captions whose words are those of one of their references.
    pub exact_match: f64,
}

impl Scores {
    /// The scores with their names, exact matches aside.
    pub fn named(&self) -> Vec<(String, f64)> {
        let bleu = self.bleu.iter().enumerate().map(|(n, &value)| (format!("BLEU-{}", n + 1), value));
        bleu.chain([("ROUGE-L".to_owned(), self.rouge_l), ("CIDEr-D".to_owned(), self.cider_d)]).collect()
    }
}

/// Scores caption i against the references i, of which there may be several.
///
/// # Errors
/// There are no captions, not as many captions as sets of references, or a set is empty.
pub fn scores<C: AsRef<str> + Sync, R: AsRef<[T]> + Sync, T: AsRef<str> + Sync>(
    captions: &[C],
    references: &[R],
) -> Result<Scores> {
    if captions.is_empty() || captions.len() != references.len() {
        let (captions, references) = (captions.len(), references.len());
        return Err(Error::invalid(format!(
            "scores need a set of references for each of at least one caption: {captions} captions, {references} sets"
        )));
    }
    if let Some(index) = references.iter().position(|references| references.as_ref().is_empty()) {
        return Err(Error::invalid(format!("caption {index} has no reference to score it against")));
    }
    let pairs = pairs(captions, references);
    let mean = |score: fn(&Pair) -> f64| pairs.iter().map(score).sum::<f64>() / pairs.len() as f64;
    Ok(Scores {
        bleu: bleu::bleu(&pairs),
        rouge_l: mean(rouge::rouge_l),
        cider_d: cider::cider_d(&pairs),
        exact_match: mean(|pair| f64::from(u8::from(pair.references.contains(&pair.caption)))),
    })
}

/// A caption and its references.
#[derive(Debug)]
struct Pair {
    caption: Text,
    references: Vec<Text>,
}

/// A text, words by number.
#[derive(Debug, PartialEq)]
struct Text {
    /// As ROUGE sees them: the tokenizer's.
    tokens: Vec<u32>,
    /// As BLEU and CIDEr see them: a mixed fraction is two.
    words: Vec<u32>,
}

fn pairs<C: AsRef<str> + Sync, R: AsRef<[T]> + Sync, T: AsRef<str> + Sync>(
    captions: &[C],
    references: &[R],
) -> Vec<Pair> {
    let tokens: Vec<Vec<Vec<String>>> = (captions.par_iter().zip(references))
        .map(|(caption, references)| {
            let references = references.as_ref().iter().map(AsRef::as_ref);
            std::iter::once(caption.as_ref()).chain(references).map(tokenize).collect()
        })
        .collect();
    let mut known: HashMap<String, u32> = HashMap::new();
    let mut number = |word: &str| -> u32 {
        let next = known.len() as u32;
        *known.entry(word.to_owned()).or_insert(next)
    };
    let mut text = |tokens: &Vec<String>| Text {
        tokens: tokens.iter().map(|token| number(token)).collect(),
        words: tokens.iter().flat_map(|token| token.split('\u{a0}')).map(&mut number).collect(),
    };
    (tokens.iter())
        .map(|texts| Pair { caption: text(&texts[0]), references: texts[1..].iter().map(&mut text).collect() })
        .collect()
}

/// How often each n-gram occurs. In order, so that sums over it are the same on every run.
type Counts<'a> = BTreeMap<&'a [u32], f64>;

fn counts(words: &[u32], n: usize) -> Counts<'_> {
    let mut counts = Counts::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1.0);
    counts
}

#[cfg(test)]
mod tests;
