//! Captions that the model generates, and how they compare with the true ones.

use super::eval_set::{EvalSet, pixels};
use super::metrics::{scores, tokenize};
use super::table::{percent, table};
use super::{Evaluator, Figures, TestSet};
use crate::cli::GenerationArgs;
use crate::data::{Labelled, Sample};
use crate::report::CaptionRow;
use crate::{Error, Result};
use model::generate::{Generator, Method, Settings};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A sample's generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Captioned {
    /// What was generated.
    pub text: String,
    /// Whether it equals a true caption, case and punctuation aside.
    pub right: bool,
}

/// Captions images, all by the same settings.
#[derive(Debug)]
struct Captioner<'e> {
    evaluator: &'e Evaluator<'e>,
    generator: Generator,
    prompt: Vec<i32>,
    seed: u64,
}

impl<'e> Captioner<'e> {
    fn new(args: &GenerationArgs, evaluator: &'e Evaluator<'e>) -> Result<Captioner<'e>> {
        let Evaluator { model, tokenizer, workspace, batch, .. } = evaluator;
        let generator = Generator::new(model, *batch, &settings(args, evaluator)?, workspace)?;
        let mut prompt = tokenizer.encode(&args.prompt);
        prompt.pop(); // the end
        Ok(Captioner { evaluator, generator, prompt, seed: args.seed.unwrap_or(0) })
    }

    /// One caption for each of u8 images `[count, size, size, 3]`.
    fn captions(&mut self, images: &[u8]) -> Result<Vec<String>> {
        let Evaluator { tokenizer, queue, .. } = self.evaluator;
        let generated = self.generator.generate(queue, images, &self.prompt, self.seed)?;
        // The generator counts the images of a call: without the sum the draws of every call would be the same.
        self.seed = self.seed.wrapping_add(generated.len() as u64);
        Ok(generated.iter().map(|caption| tokenizer.decode(&caption.ids)).collect())
    }
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
    let mut captioner = Captioner::new(args, evaluator)?;
    let mut all = Vec::with_capacity(samples.len());
    for part in samples.chunks(evaluator.batch) {
        for (sample, text) in part.iter().zip(captioner.captions(&pixels(part))?) {
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
    Ok(settings.within(evaluator.model.config().text.context_length, evaluator.tokenizer.end()))
}

/// The scores of the captions of one set.
///
/// # Errors
/// A sample has no true caption, or the set is empty.
pub fn caption_row(set: &TestSet, captions: &[Captioned]) -> Result<CaptionRow> {
    let generated: Vec<&str> = captions.iter().map(|caption| caption.text.as_str()).collect();
    let truths: Vec<Vec<String>> = set.samples.iter().map(|sample| sample.captions.clone()).collect();
    let scores = scores(&generated, &truths)?;
    Ok(CaptionRow {
        set: set.name.clone(),
        count: set.samples.len(),
        exact: scores.exact_match,
        scores: scores.named(),
        seen: set.seen,
    })
}

/// Scores of the captions of a set, or of a domain of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct CaptionFigures {
    set: String,
    /// None: the whole set.
    domain: Option<String>,
    /// Images.
    count: usize,
    /// Share of captions equal to a true one.
    exact: f64,
    #[serde(flatten)]
    scores: BTreeMap<String, f64>,
    /// Faulty samples by kind.
    skipped: serde_json::Value,
}

/// Captions every image of the sets: a row of scores for each set, and for each of its domains if it has some.
///
/// # Errors
/// As [`captions_by`]; a set cannot be read.
pub fn measure_captions(args: &GenerationArgs, evaluator: &Evaluator<'_>, sets: &mut [EvalSet]) -> Result<Figures> {
    let (mut rows, mut figures, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for set in sets {
        if set.data.frames > 0 {
            return Err(Error::invalid(format!("{}: captions are of pictures: leave data.frames out", set.name)));
        }
        let mut captioner = Captioner::new(args, evaluator)?;
        let (mut generated, mut truths, mut domains) = (Vec::new(), Vec::new(), Vec::new());
        set.read(evaluator.model.config(), evaluator.batch, |batch| {
            let parts = |Labelled { sample, labels }| (sample, labels.domain);
            let (samples, found): (Vec<Sample>, Vec<Option<String>>) = batch.into_iter().map(parts).unzip();
            generated.extend(captioner.captions(&pixels(&samples))?);
            truths.extend(samples.into_iter().map(|sample| sample.captions));
            domains.extend(found);
            Ok(())
        })?;
        let parts: BTreeSet<&String> = domains.iter().flatten().collect();
        for domain in std::iter::once(None).chain(parts.into_iter().map(Some)) {
            let held = |&place: &usize| domain.is_none() || domains[place].as_ref() == domain;
            let places: Vec<usize> = (0..generated.len()).filter(held).collect();
            let captions: Vec<&str> = places.iter().map(|&place| generated[place].as_str()).collect();
            let truths: Vec<&[String]> = places.iter().map(|&place| truths[place].as_slice()).collect();
            let scores = scores(&captions, &truths)?;
            let label = domain.map_or(set.name.clone(), |domain| format!("  {domain}"));
            let values = scores.named().into_iter().map(|(_, value)| format!("{value:.4}"));
            let start = [label, places.len().to_string(), percent(scores.exact_match)];
            rows.push(start.into_iter().chain(values).collect());
            names = scores.named().into_iter().map(|(name, _)| name).collect();
            figures.push(CaptionFigures {
                set: set.name.clone(),
                domain: domain.cloned(),
                count: places.len(),
                exact: scores.exact_match,
                scores: scores.named().into_iter().collect(),
                skipped: set.skipped(),
            });
        }
    }
    let header: Vec<&str> =
        ["captions", "images", "exact %"].into_iter().chain(names.iter().map(String::as_str)).collect();
    Figures::new(table(&header, &rows), &figures)
}
