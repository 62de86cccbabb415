//! Captions that the model generates, and how they compare with the true ones.

use super::Evaluator;
use crate::Result;
use crate::data::Sample;
use crate::report::CaptionRow;
use crate::scores::{self, Scores};
use model::generate::{Generator, Settings};

/// A sample's generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Captioned {
    /// What was generated.
    pub text: String,
    /// Whether it equals a true caption, case and punctuation aside.
    pub right: bool,
}

/// One caption for each sample.
///
/// # Errors
/// An op refuses, or memory runs out.
pub fn captions(evaluator: &Evaluator<'_>, samples: &[Sample]) -> Result<Vec<Captioned>> {
    let Evaluator { model, tokenizer, queue, workspace, batch, .. } = evaluator;
    let mut generator = Generator::new(model, *batch, &settings(evaluator)?, workspace)?;
    let mut all = Vec::with_capacity(samples.len());
    for part in samples.chunks(*batch) {
        let pixels: Vec<u8> = part.iter().flat_map(|sample| &sample.image).copied().collect();
        for (sample, generated) in part.iter().zip(generator.generate(queue, &pixels, &[tokenizer.start()], 0)?) {
            let text = tokenizer.decode(&generated.ids);
            let right = sample.captions.iter().any(|truth| scores::words(truth) == scores::words(&text));
            all.push(Captioned { text, right });
        }
    }
    Ok(all)
}

/// How captions are made: the default of this program, in the words of the model's tokenizer.
fn settings(evaluator: &Evaluator<'_>) -> Result<Settings> {
    let settings = Settings::preset("ours")?;
    let max_length = settings.max_length.min(evaluator.model.config().text.context_length);
    Ok(Settings { max_length, end: evaluator.tokenizer.end(), ..settings })
}

/// The scores of the captions of one set.
///
/// # Errors
/// A sample has no true caption, or the set is empty.
pub fn caption_row(set: &str, samples: &[Sample], captions: &[Captioned]) -> Result<CaptionRow> {
    let generated: Vec<&str> = captions.iter().map(|caption| caption.text.as_str()).collect();
    let truths: Vec<Vec<String>> = samples.iter().map(|sample| sample.captions.clone()).collect();
    let Scores { bleu4, rouge_l, cider_d, exact_match } = scores::scores(&generated, &truths)?;
    let named = |name: &str, value: f64| (name.to_owned(), value);
    Ok(CaptionRow {
        set: set.to_owned(),
        count: samples.len(),
        exact: exact_match,
        scores: vec![named("BLEU-4", bleu4), named("ROUGE-L", rouge_l), named("CIDEr-D", cider_d)],
    })
}
