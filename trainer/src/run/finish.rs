//! The end of a run: the model folder, the evaluation on what training never saw, the report.

use super::{MODEL_FOLDER, Run, dtype};
use crate::data::emoji::{EmojiSet, Split};
use crate::data::{Ledger, Position, Sample, Source, Stream};
use crate::evaluate::{Captioned, EMOJI_SETS, Evaluator, TestSet, caption_row, captions};
use crate::machine::{Machine, peak_memory};
use crate::report::{self, CaptionExample, Hit, Item, Picture, ProfileRow, QueryExample, ReportData, RunFacts};
use crate::{Error, Result};
use engine::Queue;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Pairs of the training data that are looked at where nothing is held out.
pub(crate) const TRAINING_PAIRS: usize = 256;
/// Queries of each kind shown, and results of each.
const QUERIES: usize = 3;
const HITS: usize = 5;

/// The tables and examples of an evaluation, to go into the report.
#[derive(Debug, Default)]
struct Findings {
    zero_shot: Vec<report::ZeroShotRow>,
    retrieval: Vec<report::RetrievalRow>,
    caption_scores: Vec<report::CaptionRow>,
    captions: Vec<CaptionExample>,
    queries: Vec<QueryExample>,
}

impl Run {
    /// Writes the model folder, evaluates it, and writes the report if one is wanted.
    ///
    /// # Errors
    /// The evaluation fails or a file cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        let folder = self.folder().to_owned();
        let target = folder.join(MODEL_FOLDER);
        self.state.model.save(&target, self.state.average()?.as_deref())?;
        self.state.tokenizer.save(target.join("tokenizer.json"))?;
        self.say(&format!("model written to {}", target.display()));
        if !self.config.logging.report {
            return Ok(());
        }
        let begin = Instant::now();
        let averaged = self.state.averaged_model()?;
        let model = averaged.as_ref().unwrap_or(&self.state.model);
        let (tokenizer, batch) = (&self.state.tokenizer, self.config.evaluation.batch_size);
        let mut evaluator = Evaluator::new(model, tokenizer, &self.queue, self.stepper.workspace(), batch)?;
        let findings = match self.holds_out_emoji() {
            true => self.emoji(&mut evaluator)?,
            false => self.training_pairs(&mut evaluator)?,
        };
        for row in &findings.zero_shot {
            let floor = row.floor.map_or(String::new(), |floor| format!(" (pixels alone {:.1} %)", 100.0 * floor.0));
            self.say(&format!("zero-shot {:<22} top-1 {:5.1} %{floor}", row.set, 100.0 * row.top1));
        }
        for row in &findings.retrieval {
            let (there, back) = (100.0 * row.image_to_text.at_1, 100.0 * row.text_to_image.at_1);
            self.say(&format!("retrieval {:<22} image to text {there:.1} %, text to image {back:.1} %", row.set));
        }
        for row in &findings.caption_scores {
            self.say(&format!("captions  {:<22} exactly right {:.1} %", row.set, 100.0 * row.exact));
        }
        let data = self.report_data(findings, begin.elapsed().as_secs_f64())?;
        let page = report::write(&folder, &data)?;
        self.say(&format!("report written to {}", page.display()));
        Ok(())
    }

    /// Top-1 of the style sets of the bundled data, or R@1 on training pairs, of the weights as they are now.
    pub(super) fn evaluate_now(&self) -> Result<Vec<(String, f64)>> {
        let averaged = self.state.averaged_model()?;
        let model = averaged.as_ref().unwrap_or(&self.state.model);
        let (tokenizer, batch) = (&self.state.tokenizer, self.config.evaluation.batch_size);
        let mut evaluator = Evaluator::new(model, tokenizer, &self.queue, self.stepper.workspace(), batch)?;
        if !self.holds_out_emoji() {
            let (set, _) = self.sample_of_training(&evaluator)?;
            let (images, texts) = features(&mut evaluator, &set)?;
            let row = set.retrieval(&images, &texts, evaluator.width());
            return Ok(vec![("retrieval of training pairs".into(), row.image_to_text.at_1)]);
        }
        let set = Arc::new(EmojiSet::bundled()?);
        let names = evaluator.text_features(&concept_names(&set))?;
        let mut found = Vec::new();
        for (split, about) in EMOJI_SETS.into_iter().take(4) {
            let test = TestSet::emoji(&evaluator, &set, split, about)?;
            let images = evaluator.image_features(&test.samples)?;
            found.push((test.name.clone(), test.zero_shot(&images, &names, evaluator.width()).top1));
        }
        Ok(found)
    }

    /// Whether it trains on the bundled set's training split, all of it and nothing else: only then are the other splits
    /// styles and names that it never saw.
    pub(super) fn holds_out_emoji(&self) -> bool {
        self.source.name() == format!("emoji:{}", Split::Train.name())
    }

    fn emoji(&self, evaluator: &mut Evaluator<'_>) -> Result<Findings> {
        let set = Arc::new(EmojiSet::bundled()?);
        let width = evaluator.width();
        let names = evaluator.text_features(&concept_names(&set))?;
        let mut findings = Findings::default();
        for (split, about) in EMOJI_SETS {
            let test = TestSet::emoji(evaluator, &set, split, about)?;
            let images = evaluator.image_features(&test.samples)?;
            let mut row = test.zero_shot(&images, &names, width);
            row.floor = test.pixel_floor(&set);
            findings.zero_shot.push(row);
            if !matches!(split, Split::Style(_)) {
                continue;
            }
            let texts: Vec<f32> =
                test.classes.iter().flat_map(|&class| &names[class * width..(class + 1) * width]).copied().collect();
            findings.retrieval.push(test.retrieval(&images, &texts, width));
            if findings.queries.is_empty() {
                findings.queries = self.queries(&test, &images, &texts, width)?;
            }
            if self.config.evaluation.captions > 0 {
                let (rows, examples) = self.captioned(evaluator, &test, self.config.evaluation.captions.div_ceil(3))?;
                findings.caption_scores.push(rows);
                findings.captions.extend(examples);
            }
        }
        Ok(findings)
    }

    /// What can be said where no data is held out: how well the pairs of training are told apart.
    fn training_pairs(&self, evaluator: &mut Evaluator<'_>) -> Result<Findings> {
        let (set, names) = self.sample_of_training(evaluator)?;
        let (images, texts) = features(evaluator, &set)?;
        let width = evaluator.width();
        let mut findings = Findings {
            retrieval: vec![set.retrieval(&images, &texts, width)],
            queries: self.queries(&set, &images, &texts, width)?,
            ..Findings::default()
        };
        if names.len() < set.samples.len() {
            findings.zero_shot.push(set.zero_shot(&images, &evaluator.text_features(&names)?, width));
        }
        if self.config.evaluation.captions > 0 {
            let (row, examples) = self.captioned(evaluator, &set, self.config.evaluation.captions)?;
            findings.caption_scores.push(row);
            findings.captions = examples;
        }
        Ok(findings)
    }

    /// Pairs of the training data, preprocessed as for evaluation.
    fn sample_of_training(&self, evaluator: &Evaluator<'_>) -> Result<(TestSet, Vec<String>)> {
        let mut config = self.config.clone();
        config.augmentation.kind = crate::config::AugmentKind::None;
        let pairs = pairs(self.source.as_ref())?;
        (config.batch.size, config.data.prefetch) = (pairs.clamp(1, TRAINING_PAIRS), 1);
        let tokenizer = Arc::new(evaluator.tokenizer.clone());
        let ledger = Ledger::new(1.0);
        let start = Position::default();
        let mut stream =
            Stream::start(self.source.clone(), tokenizer, evaluator.model.config(), &config, ledger, start)?;
        let batch = stream.next()?;
        let size = evaluator.model.config().vision.image_size;
        let samples = (batch.images.chunks_exact(size * size * 3).zip(&batch.texts).zip(batch.keys))
            .map(|((image, ids), key)| Sample {
                key,
                image: image.to_vec(),
                captions: vec![evaluator.tokenizer.decode(ids)],
            })
            .collect();
        Ok(TestSet::of_samples("training pairs".into(), samples))
    }

    /// The scores of a set's captions, and `shown` of them spread over the set.
    fn captioned(
        &self,
        evaluator: &Evaluator<'_>,
        set: &TestSet,
        shown: usize,
    ) -> Result<(report::CaptionRow, Vec<CaptionExample>)> {
        let generated = captions(evaluator, &set.samples)?;
        let row = caption_row(&set.name, &set.samples, &generated)?;
        let size = evaluator.model.config().vision.image_size;
        let examples = spread(set.samples.len(), shown)
            .map(|index| {
                let (sample, Captioned { text, right }) = (&set.samples[index], &generated[index]);
                Ok(CaptionExample {
                    picture: picture(size, &sample.image)?,
                    generated: text.clone(),
                    truth: sample.captions.first().cloned().unwrap_or_default(),
                    set: set.name.clone(),
                    right: *right,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok((row, examples))
    }

    /// Some texts with the images found for them, and some images with the texts.
    fn queries(&self, set: &TestSet, images: &[f32], texts: &[f32], width: usize) -> Result<Vec<QueryExample>> {
        let size = self.state.model.config().vision.image_size;
        let caption = |index: usize| set.samples[index].captions.first().cloned().unwrap_or_default();
        let shown = |index: usize| -> Result<Item> {
            Ok(Item::Picture(picture(size, &set.samples[index].image)?, caption(index)))
        };
        let mut queries = Vec::new();
        for (number, index) in spread(set.samples.len(), 2 * QUERIES).enumerate() {
            let by_text = number % 2 == 0;
            let (from, to) = if by_text { (texts, images) } else { (images, texts) };
            let query = &from[index * width..(index + 1) * width];
            let mut best = Vec::new();
            for (item, score) in model::encoder::nearest(query, to, width, HITS).into_iter().flatten() {
                let right = set.classes[item] == set.classes[index];
                let item = if by_text { shown(item)? } else { Item::Text(caption(item)) };
                best.push(Hit { item, score: f64::from(score), right });
            }
            let query = if by_text { Item::Text(caption(index)) } else { shown(index)? };
            queries.push(QueryExample { query, hits: best });
        }
        Ok(queries)
    }

    fn report_data(&self, findings: Findings, evaluation_seconds: f64) -> Result<ReportData> {
        let config = &self.config;
        let parameters = self.state.model.parameters();
        let mut memory = vec![("weights".to_owned(), parameters.master().bytes() as u64)];
        let mut add = |name: &str, bytes: Option<usize>| {
            memory.extend(bytes.map(|bytes| (name.to_owned(), bytes as u64)));
        };
        add("weights in bf16", parameters.bf16().map(|buffer| buffer.bytes()));
        add("gradients", parameters.gradient().map(|buffer| buffer.bytes()));
        add("optimiser state", Some(self.state.optimizer_bytes()));
        add("activations", self.stepper.pass().map(|pass| pass.program().plan().peak_bytes));
        let mut notes = self.notes.clone();
        if self.state.progress.skipped > 0 {
            notes.push(format!("{} steps were not finite and changed nothing.", self.state.progress.skipped));
        }
        let Queue::Cpu(cpu) = &self.queue;
        Ok(ReportData {
            title: format!("CoCa on {}", config.data.train),
            facts: RunFacts {
                config: config.to_toml(false),
                machine: Machine::detect(),
                isa: cpu.isa().name().to_owned(),
                threads: cpu.threads(),
                dtype: dtype(config).to_string(),
                parameters: self.state.model.parameter_count() as u64,
                pairs: pairs(self.source.as_ref())? as u64,
                pairs_per_step: config.pairs_per_step() as u64,
                training_seconds: self.state.progress.training_seconds,
                evaluation_seconds,
                peak_memory: peak_memory(),
                peak_gflops: Some(self.peak_gflops),
            },
            steps: self.history.clone(),
            zero_shot: findings.zero_shot,
            retrieval: findings.retrieval,
            caption_scores: findings.caption_scores,
            captions: findings.captions,
            queries: findings.queries,
            memory,
            profile: self.profile_rows(),
            notes,
        })
    }

    fn profile_rows(&self) -> Vec<ProfileRow> {
        let Some(profiler) = &self.profile else { return Vec::new() };
        let runs = self.config.logging.profile_steps.max(1) as f64 * self.config.batch.accumulation as f64;
        // Calls, microseconds, and work, traffic and percent weighted by time.
        let mut groups: BTreeMap<String, [f64; 5]> = BTreeMap::new();
        for event in profiler.events() {
            let group = groups.entry(format!("{} {}", event.phase, event.op)).or_default();
            let time = event.duration_us;
            let values = [1.0, time, event.gflops * time, event.gbytes * time, event.roofline_percent * time];
            group.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        let total: f64 = groups.values().map(|group| group[1]).sum();
        let mut rows: Vec<ProfileRow> = (groups.into_iter())
            .map(|(name, [calls, time, work, traffic, percent])| ProfileRow {
                name,
                calls: (calls / runs).round() as usize,
                milliseconds: time / runs / 1e3,
                share: time / total,
                gflops: work / time,
                gbytes: traffic / time,
                roofline_percent: percent / time,
            })
            .collect();
        rows.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        rows
    }
}

/// Both features of a set: images, and each sample's first caption.
fn features(evaluator: &mut Evaluator<'_>, set: &TestSet) -> Result<(Vec<f32>, Vec<f32>)> {
    let texts: Vec<&str> =
        set.samples.iter().map(|sample| sample.captions.first().map_or("", String::as_str)).collect();
    Ok((evaluator.image_features(&set.samples)?, evaluator.text_features(&texts)?))
}

fn concept_names(set: &EmojiSet) -> Vec<String> {
    set.concepts().iter().map(|concept| concept.name.clone()).collect()
}

/// Number of samples, faulty ones included; parts that cannot be opened count nothing.
fn pairs(source: &dyn Source) -> Result<usize> {
    Ok((0..source.parts()).filter_map(|part| source.part(part).ok()).map(|part| part.len()).sum())
}

/// `count` indices spread evenly over `length`.
fn spread(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(length);
    (0..count).map(move |index| (2 * index + 1) * length / (2 * count.max(1)))
}

fn picture(size: usize, rgb: &[u8]) -> Result<Picture> {
    let side = u32::try_from(size).map_err(|_| Error::invalid(format!("a picture of {size} pixels a side")))?;
    Picture::from_rgb(side, side, rgb)
}
