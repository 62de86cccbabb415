//! Captions that the model generates, and how they compare with the true ones.

use super::Evaluator;
use super::metrics::{scores, tokenize};
use crate::Result;
use crate::cli::GenerationArgs;
use crate::data::Sample;
use crate::report::CaptionRow;
use model::generate::{Generator, Method, Settings};

/// A sample's generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Captioned {
    /// What was generated.
    pub text: String,
    /// Whether it equals a true caption, case and punctuation aside.
    pub right: bool,
}

/// One caption for each sample, by the default of this program.
///
/// # Errors
/// An op refuses, or memory runs out.
pub fn captions(evaluator: &Evaluator<'_>, samples: &[Sample]) -> Result<Vec<Captioned>> {
    captions_by(&GenerationArgs::default(), evaluator, samples)
}

/// One caption for each sample, made as the arguments say.
///
/// # Errors
/// As [`captions`]; a setting is out of range, or the prompt leaves no room for a caption.
pub fn captions_by(args: &GenerationArgs, evaluator: &Evaluator<'_>, samples: &[Sample]) -> Result<Vec<Captioned>> {
    let Evaluator { model, tokenizer, queue, workspace, batch, .. } = evaluator;
    let mut generator = Generator::new(model, *batch, &settings(args, evaluator)?, workspace)?;
    let mut prompt = tokenizer.encode(&args.prompt);
    prompt.pop(); // the end
    let mut all = Vec::with_capacity(samples.len());
    for part in samples.chunks(*batch) {
        let pixels: Vec<u8> = part.iter().flat_map(|sample| &sample.image).copied().collect();
        // The generator counts the images of a call: without the sum the draws of every part would be the same.
        let seed = args.seed.unwrap_or(0).wrapping_add(all.len() as u64);
        for (sample, generated) in part.iter().zip(generator.generate(queue, &pixels, &prompt, seed)?) {
            let text = tokenizer.decode(&generated.ids);
            let words = tokenize(&text);
            let right = sample.captions.iter().any(|truth| tokenize(truth) == words);
            all.push(Captioned { text, right });
        }
    }
    Ok(all)
}

/// The preset with the method that was named, in the words of the model's tokenizer.
fn settings(args: &GenerationArgs, evaluator: &Evaluator<'_>) -> Result<Settings> {
    let mut settings = Settings::preset(args.preset.as_deref().unwrap_or("ours"))?;
    let temperature = args.temperature.unwrap_or(1.0);
    match (args.top_k, args.top_p, args.beams, &mut settings.method) {
        (Some(count), ..) => settings.method = Method::TopK { count, temperature },
        (_, Some(mass), ..) => settings.method = Method::TopP { mass, temperature },
        (_, _, Some(1), _) => settings.method = Method::Greedy,
        (_, _, Some(beams), Method::Beams { count, groups, .. }) => (*count, *groups) = (beams, 1),
        _ => {}
    }
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
    let scores = scores(&generated, &truths)?;
    Ok(CaptionRow { set: set.to_owned(), count: samples.len(), exact: scores.exact_match, scores: scores.named() })
}
