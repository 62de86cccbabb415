//! The end of a run: the model folder, its evaluation, the report.

use super::findings::Findings;
use super::{MODEL_FOLDER, Run, State, dtype};
use crate::Result;
use crate::data::source::samples;
use crate::evaluate::class_table;
use crate::machine::{Machine, peak_memory};
use crate::model_folder;
use crate::report::{self, ProfileRow, ReportData, RunFacts};
use crate::signal::Stop;
use engine::Queue;
use std::collections::BTreeMap;
use std::time::Instant;

impl Run {
    /// Writes the model folder, evaluates it if a report is wanted or there is data to test it on, and writes the report. `stop` ends the evaluation and the
    /// process. Returns the table of a task's test sets, empty without them.
    ///
    /// # Errors
    /// The evaluation fails or a file cannot be written.
    pub fn finish(&mut self, stop: &Stop) -> Result<String> {
        let folder = self.folder().to_owned();
        let target = folder.join(MODEL_FOLDER);
        let State { model, tokenizer, task, .. } = &self.state;
        model_folder::save(&target, model, tokenizer, task.as_deref(), self.state.average()?.as_deref())?;
        self.say(&format!("model written to {}", target.display()));
        if !self.config.logging.report && self.held_out.is_empty() {
            return Ok(String::new());
        }
        let _watch = stop.last_words(format!(
            "stopped during the evaluation; the model is saved: {} evaluates it again, `coca eval --model {}` measures it on \
             any data",
            self.again(),
            target.display()
        ))?;
        let begin = Instant::now();
        let findings = match &self.state.task {
            Some(task) => self.class_findings(task)?,
            None => self.evaluating(|evaluator| self.findings(evaluator))?,
        };
        let table = if findings.classes.is_empty() { String::new() } else { class_table(&findings.classes) };
        findings.notes.iter().for_each(|note| self.say(note));
        let beside =
            |floor: Option<f64>| floor.map_or(String::new(), |share| format!(" (pixels alone {:.1} %)", 100.0 * share));
        for row in &findings.zero_shot {
            let floor = beside(row.floor.map(|(top1, _)| top1));
            self.say(&format!("zero-shot {:<22} top-1 {:5.1} %{floor}", row.set, 100.0 * row.top1));
        }
        for row in &findings.retrieval {
            let (there, back) = (100.0 * row.image_to_text.at_1, 100.0 * row.text_to_image.at_1);
            let (floor_there, floor_back) = row.floor.unzip();
            let [floor_there, floor_back] =
                [floor_there, floor_back].map(|floor| beside(floor.map(|floor| floor.at_1)));
            self.say(&format!(
                "retrieval {:<22} image to text {there:.1} %{floor_there}, text to image {back:.1} %{floor_back}",
                row.set
            ));
        }
        for row in &findings.caption_scores {
            self.say(&format!("captions  {:<22} exactly right {:.1} %", row.set, 100.0 * row.exact));
        }
        if !self.config.logging.report {
            return Ok(table);
        }
        let data = self.report_data(findings, begin.elapsed().as_secs_f64())?;
        let page = report::write(&folder, &data)?;
        self.say(&format!("report written to {}", page.display()));
        Ok(table)
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
        add("activations", self.stepper.program().map(|program| program.plan().peak_bytes));
        let mut notes = self.notes.clone();
        notes.extend(findings.notes);
        if self.state.progress.skipped > 0 {
            notes.push(format!("{} steps were not finite and changed nothing.", self.state.progress.skipped));
        }
        Ok(ReportData {
            title: format!("CoCa on {}", config.data.train),
            facts: RunFacts {
                config: config.to_toml(false),
                machine: Machine::detect(),
                used: used(&self.queue),
                dtype: dtype(config).to_string(),
                parameters: self.state.model.parameter_count() as u64,
                pairs: samples(self.source.as_ref(), usize::MAX) as u64,
                pairs_per_step: config.pairs_per_step() as u64,
                training_seconds: self.state.progress.training_seconds,
                evaluation_seconds,
                peak_memory: peak_memory(),
                peak_gflops: self.peak_gflops,
            },
            steps: self.history.clone(),
            classes: findings.classes,
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

    pub(super) fn profile_rows(&self) -> Vec<ProfileRow> {
        let Some(profiler) = &self.profile else { return Vec::new() };
        let steps = profiler.runs().max(1) as f64;
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
                calls: (calls / steps).round() as usize,
                milliseconds: time / steps / 1e3,
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

/// What of the machine computed.
fn used(queue: &Queue) -> String {
    match queue {
        Queue::Cpu(cpu) => {
            let (threads, isa) = (cpu.threads(), cpu.isa().name());
            format!("{threads} thread{}, {isa} instructions", if threads == 1 { "" } else { "s" })
        }
        Queue::Cuda(cuda) => cuda.device().to_string(),
    }
}
