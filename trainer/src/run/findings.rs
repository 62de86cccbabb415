//! What a run's model is found to be worth: the sets that it is tested on, and the tables and examples of each.

use super::Run;
use crate::Result;
use crate::data::emoji::{EmojiSet, Split};
use crate::data::source::samples;
use crate::data::{Ledger, Position, Sample, Stream};
use crate::evaluate::{
    Captioned, Classifier, EMOJI_SETS, EvalSet, Evaluator, PixelFloor, QuestionFloor, TestSet, caption_row, captions,
    evenly, seen,
};
use crate::report::{self, CaptionExample, QueryExample};
use crate::signal::Stop;
use crate::task::Task;
use std::sync::Arc;

/// Pairs of the training data that are looked at where nothing is held out.
pub(crate) const TRAINING_PAIRS: usize = 256;

/// The tables and examples of an evaluation, to go into the report.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub classes: Vec<report::ClassRow>,
    pub zero_shot: Vec<report::ZeroShotRow>,
    pub retrieval: Vec<report::RetrievalRow>,
    pub caption_scores: Vec<report::CaptionRow>,
    pub captions: Vec<CaptionExample>,
    pub queries: Vec<QueryExample>,
    pub notes: Vec<String>,
}

/// The sets of a run, each with the features `[classes, width]` of the names of its classes, and what was wrong with them.
pub(super) struct TestSets {
    pub sets: Vec<(TestSet, Arc<Vec<f32>>)>,
    pub notes: Vec<String>,
}

impl Run {
    /// Does something with an evaluator of the weights as they are now, or of their average if one is kept.
    pub(super) fn evaluating<T>(&self, work: impl FnOnce(&mut Evaluator<'_>) -> Result<T>) -> Result<T> {
        let averaged = self.state.averaged_model()?;
        let model = averaged.as_ref().unwrap_or(&self.state.model);
        let (tokenizer, batch) = (&self.state.tokenizer, self.config.evaluation.batch_size);
        work(&mut Evaluator::new(model, tokenizer, &self.queue, self.stepper.workspace(), batch)?)
    }

    /// Tests everything that can be tested after this run.
    pub(super) fn findings(&self, evaluator: &mut Evaluator<'_>) -> Result<Findings> {
        let TestSets { sets, notes } = self.test_sets(evaluator)?;
        let mut findings = Findings { notes, ..Findings::default() };
        let shown = self.config.evaluation.captions.div_ceil(sets.len());
        sets.iter().try_for_each(|(set, names)| self.measure(evaluator, set, names, shown, &mut findings))?;
        Ok(findings)
    }

    /// The main figure of each set, of the weights as they are now: top-1 of a head, zero-shot top-1 on the bundled data, or R@1
    /// from image to text; without the contrastive loss the share of captions that are exactly right. Once a stop is asked
    /// for, the sets that are left are left out.
    pub(super) fn evaluate_now(&self, stop: &Stop) -> Result<Vec<(String, f64)>> {
        if let Some(task) = &self.state.task {
            let rows = self.class_rows(task, &mut self.class_sets()?, None, stop)?;
            return Ok(rows.into_iter().map(|row| (row.set, row.top1)).collect());
        }
        self.evaluating(|evaluator| {
            let width = evaluator.width();
            let mut found = Vec::new();
            for (set, names) in self.test_sets(evaluator)?.sets.iter().take_while(|_| !stop.requested()) {
                // A part of a set that is there already.
                if let Some((_, Split::FreshStyle(_))) = &set.bundled {
                    continue;
                }
                if !self.compares() {
                    let right = captions(evaluator, &set.samples)?.iter().filter(|caption| caption.right).count();
                    found.push((format!("captions of {}", set.name), right as f64 / set.samples.len().max(1) as f64));
                    continue;
                }
                let images = evaluator.image_features(&set.samples)?;
                found.push(match &set.bundled {
                    Some(_) => (set.name.clone(), set.zero_shot(&images, names, width).top1),
                    None => {
                        let row = set.retrieval(&images, &set.text_features(names, width), width);
                        (format!("retrieval of {}", set.name), row.image_to_text.at_1)
                    }
                });
            }
            Ok(found)
        })
    }

    /// Whether its features of images and texts are brought together, so that one finds the other.
    fn compares(&self) -> bool {
        self.config.loss.contrastive_weight > 0.0
    }

    /// Tests the head on all test sets.
    pub(super) fn class_findings(&self, task: &Task) -> Result<Findings> {
        let mut sets = self.class_sets()?;
        let floor = match sets.is_empty() {
            true => None,
            false => task.floor(self.source.as_ref(), self.config.data.max_bad_share)?,
        };
        let classes = self.class_rows(task, &mut sets, floor.as_ref(), &Stop::default())?;
        let notes = sets.iter().map(|set| set.skipped_text().trim_end().to_owned());
        let notes = notes.filter(|note| !note.is_empty()).collect();
        Ok(Findings { classes, notes, ..Findings::default() })
    }

    /// The test sets of a head: `evaluation.data` or, after training on the bundled data without it, its other styles and names.
    fn class_sets(&self) -> Result<Vec<EvalSet>> {
        let named = |name: &String| (name.clone(), self.config.evaluation_data());
        let sets = EvalSet::open(&self.config.evaluation.data.0.iter().map(named).collect::<Vec<_>>())?;
        if !sets.is_empty() || !self.holds_out_emoji() {
            return Ok(sets);
        }
        let bundled = EMOJI_SETS.map(|(split, _)| (format!("emoji:{}", split.name()), self.config.data.clone()));
        let mut sets = EvalSet::open(&bundled)?;
        sets.iter_mut().zip(EMOJI_SETS).for_each(|(set, (split, _))| set.name = split.name());
        Ok(sets)
    }

    /// The rows of these sets, of the weights as they are now. Once a stop is asked for, the sets that are left are left out.
    pub(super) fn class_rows(
        &self,
        task: &Task,
        sets: &mut [EvalSet],
        floor: Option<&QuestionFloor>,
        stop: &Stop,
    ) -> Result<Vec<report::ClassRow>> {
        let averaged = self.state.averaged_model()?;
        let model = (averaged.as_ref().unwrap_or(&self.state.model), &self.state.tokenizer);
        let (batch, blank) = (self.config.evaluation.batch_size, self.config.task.blank_images);
        let mut classifier = Classifier::new(model, &self.queue, self.stepper.workspace(), task, batch, blank)?;
        let mut rows = Vec::new();
        for set in sets.iter_mut().take_while(|_| !stop.requested()) {
            let mut row = classifier.measure(set, floor)?;
            if let Some((_, split)) = set.bundled.as_ref().filter(|_| self.holds_out_emoji()) {
                let special = EMOJI_SETS.iter().find(|(special, _)| special == split);
                row.about = special.map_or(String::new(), |(_, about)| (*about).to_owned());
                row.seen = seen(*split);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Whether it trains on the bundled set's training split, all of it and nothing else: only then are the other splits
    /// styles and names that it never saw.
    pub(super) fn holds_out_emoji(&self) -> bool {
        self.source.name() == format!("emoji:{}", Split::Train.name())
    }

    /// The rest of the bundled data after training on its training split, `evaluation.data`, and pairs of the training data
    /// where that has no rest.
    pub(super) fn test_sets(&self, evaluator: &mut Evaluator<'_>) -> Result<TestSets> {
        let mut found = TestSets { sets: Vec::new(), notes: Vec::new() };
        if self.holds_out_emoji() {
            let bundled = Arc::new(EmojiSet::bundled()?);
            let names: Vec<&str> = bundled.concepts().iter().map(|concept| concept.name.as_str()).collect();
            let names = Arc::new(evaluator.text_features(&names)?);
            for (split, about) in EMOJI_SETS {
                found.sets.push((TestSet::emoji(evaluator, &bundled, split, about)?, names.clone()));
            }
        }
        for source in &self.held_out {
            let mut ledger = Ledger::new(self.config.data.max_bad_share);
            let (set, names) = TestSet::of_source(evaluator, source.as_ref(), &self.config.data, &mut ledger)?;
            if ledger.faults() > 0 {
                let (bad, seen, kinds) = (ledger.faults(), ledger.seen(), ledger.summary());
                found.notes.push(format!("{bad} of {seen} samples of {} are faulty and left out: {kinds}.", set.name));
            }
            found.sets.push((set, Arc::new(evaluator.text_features(&names)?)));
        }
        if !self.holds_out_emoji() {
            let (set, names) = self.sample_of_training(evaluator)?;
            found.sets.push((set, Arc::new(evaluator.text_features(&names)?)));
        }
        Ok(found)
    }

    /// Pairs of the training data, preprocessed as for evaluation.
    fn sample_of_training(&self, evaluator: &Evaluator<'_>) -> Result<(TestSet, Vec<String>)> {
        let mut config = self.config.clone();
        config.augmentation.kind = crate::config::AugmentKind::None;
        // One batch is taken.
        (config.batch.size, config.data.prefetch) = (samples(self.source.as_ref(), TRAINING_PAIRS).max(1), 1);
        let tokenizer = Arc::new(evaluator.tokenizer.clone());
        let ledger = Ledger::new(1.0);
        let start = Position::default();
        let mut stream =
            Stream::start(self.source.clone(), tokenizer, None, evaluator.model.config(), &config, ledger, start)?;
        let batch = stream.next()?;
        let size = evaluator.model.config().vision.image_size;
        let samples =
            (batch.images.chunks_exact(self.source.images() * size * size * 3).zip(&batch.texts).zip(batch.keys))
                .map(|((image, ids), key)| Sample {
                    key,
                    image: image.to_vec(),
                    captions: vec![evaluator.tokenizer.decode(ids)],
                })
                .collect();
        Ok(TestSet::of_samples("training pairs".into(), samples))
    }

    /// Adds the rows and examples of one set, and `shown` of its captions.
    pub(super) fn measure(
        &self,
        evaluator: &mut Evaluator<'_>,
        set: &TestSet,
        names: &[f32],
        shown: usize,
        findings: &mut Findings,
    ) -> Result<()> {
        if self.compares() {
            self.compare(evaluator, set, names, findings)?;
        }
        if shown > 0 && self.config.loss.caption_weight > 0.0 {
            let generated = captions(evaluator, &set.samples)?;
            findings.caption_scores.push(caption_row(set, &generated)?);
            let size = evaluator.model.config().vision.image_size;
            for index in evenly(set.samples.len(), shown) {
                let Captioned { text, right } = &generated[index];
                findings.captions.push(CaptionExample {
                    picture: set.picture(index, size)?,
                    generated: text.clone(),
                    truth: set.samples[index].captions.first().cloned().unwrap_or_default(),
                    set: set.name.clone(),
                    right: *right,
                });
            }
        }
        Ok(())
    }

    /// Adds the rows and examples of one set that come from comparing features.
    fn compare(
        &self,
        evaluator: &mut Evaluator<'_>,
        set: &TestSet,
        names: &[f32],
        findings: &mut Findings,
    ) -> Result<()> {
        let width = evaluator.width();
        let (images, texts) = (evaluator.image_features(&set.samples)?, set.text_features(names, width));
        let floor = PixelFloor::of(set.bundled.as_ref());
        // With a name for every picture of its own this would be retrieval.
        if names.len() != images.len() {
            let row = set.zero_shot(&images, names, width);
            findings.zero_shot.push(report::ZeroShotRow { floor: floor.map(|floor| floor.zero_shot), ..row });
        }
        let row = set.retrieval(&images, &texts, width);
        findings.retrieval.push(report::RetrievalRow { floor: floor.map(|floor| floor.retrieval), ..row });
        if findings.queries.is_empty() {
            let size = evaluator.model.config().vision.image_size;
            findings.queries = set.query_examples(&images, &texts, width, size)?;
        }
        Ok(())
    }
}
