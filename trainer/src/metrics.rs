//! `metrics.jsonl`: one JSON line a step in full precision, cut back to the checkpoint on resume; and a robust test that
//! calls a loss or gradient norm an outlier.

use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What one optimiser step did. A value that is not finite is written as `null` and read back as NaN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 0.
    pub step: u64,
    /// Weighted sum of the losses.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Contrastive loss, unweighted: mean of both directions; 0 in a run without it.
    #[serde(deserialize_with = "null_is_nan")]
    pub contrastive_loss: f64,
    /// Caption loss, unweighted: mean over tokens; 0 in a run without it.
    #[serde(deserialize_with = "null_is_nan")]
    pub caption_loss: f64,
    /// Loss of a task's classes: mean over the samples whose class counts; 0 in a run without it.
    #[serde(default, deserialize_with = "null_is_nan")]
    pub class_loss: f64,
    /// Learning rate of this step.
    #[serde(deserialize_with = "null_is_nan")]
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// The temperature parameter: logarithm of the factor on the similarities.
    #[serde(deserialize_with = "null_is_nan")]
    pub logit_scale: f64,
    /// Pairs trained per second.
    #[serde(deserialize_with = "null_is_nan")]
    pub images_per_second: f64,
    /// Text tokens per second that are not padding.
    #[serde(deserialize_with = "null_is_nan")]
    pub tokens_per_second: f64,
    /// Floating-point work per second, in units of 1e9.
    #[serde(deserialize_with = "null_is_nan")]
    pub gflops: f64,
    /// Seconds of the whole step.
    #[serde(deserialize_with = "null_is_nan")]
    pub step_seconds: f64,
    /// Seconds of the step spent waiting for data.
    #[serde(deserialize_with = "null_is_nan")]
    pub data_wait_seconds: f64,
    /// True if loss or gradient was not finite and the weights were left alone.
    pub skipped: bool,
    /// True if loss or gradient norm stands far above the recent steps.
    pub outlier: bool,
}

impl StepRecord {
    /// Every loss that a step can have, by name.
    pub fn losses(&self) -> [(&'static str, f64); 3] {
        [("contrastive", self.contrastive_loss), ("caption", self.caption_loss), ("class", self.class_loss)]
    }
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The open `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens or creates the file and cuts it before the first line of step `next_step` or later, so that a resumed run
    /// writes no line twice. A line torn by a crash is cut with all that follow. Returns the steps that stay.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn open(path: &Path, next_step: u64) -> Result<(MetricsLog, Vec<StepRecord>)> {
        let fail = |source| Error::io(path, source);
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        let text = std::fs::read(path).map_err(fail)?;
        let (mut history, bad) = parse_lines(&text);
        let kept = history.iter().take_while(|(record, _)| record.step < next_step).count();
        if kept < history.len() || bad.is_some() {
            let end = if kept == 0 { 0 } else { history[kept - 1].1 };
            file.set_len(end as u64).and_then(|()| file.sync_all()).map_err(fail)?;
        }
        history.truncate(kept);
        let history = history.into_iter().map(|(record, _)| record).collect();
        Ok((MetricsLog { path: path.to_owned(), file }, history))
    }

    /// Appends one line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, record: &StepRecord) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|error| Error::io(&self.path, error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| Error::io(&self.path, source))
    }

    /// Forces the lines to the disk; call it before a checkpoint, which must not know more steps than this file.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|source| Error::io(&self.path, source))
    }
}

/// All steps of a `metrics.jsonl`. An unfinished last line, as a running or killed process leaves it, is not an error.
///
/// # Errors
/// The file cannot be read, or a line within it is not a step; the text has its number.
pub fn read(path: &Path) -> Result<Vec<StepRecord>> {
    let text = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let (records, bad) = parse_lines(&text);
    match bad {
        Some(bad) if text[bad.start..].contains(&b'\n') => {
            let line = records.len() + 1;
            Err(Error::invalid(format!("{}:{line}: not a step record: {}", path.display(), bad.reason)))
        }
        _ => Ok(records.into_iter().map(|(record, _)| record).collect()),
    }
}

/// Where the first line stands that is not a whole record, and why.
struct BadLine {
    start: usize,
    reason: String,
}

/// The records up to the first bad line, each with the offset of its end.
fn parse_lines(text: &[u8]) -> (Vec<(StepRecord, usize)>, Option<BadLine>) {
    let mut records = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let parsed = match line.last() {
            Some(b'\n') => serde_json::from_slice(line).map_err(|error| error.to_string()),
            _ => Err("the line does not end".into()),
        };
        match parsed {
            Ok(record) => records.push((record, start + line.len())),
            Err(reason) => return (records, Some(BadLine { start, reason })),
        }
        start += line.len();
    }
    (records, None)
}

/// Robust z-score of each new value against the last ones: `(value - median) / (1.4826 * MAD)`, where the factor makes
/// the median absolute deviation (MAD) of a normal distribution its standard deviation.
#[derive(Clone, Debug)]
pub struct OutlierDetector {
    window: VecDeque<f64>,
    capacity: usize,
    threshold: f64,
}

impl OutlierDetector {
    /// Fewest values that say what is usual.
    const FEWEST: usize = 16;

    /// Compares with the last `window` values; a score above `threshold` is an outlier.
    pub fn new(window: usize, threshold: f64) -> OutlierDetector {
        OutlierDetector { window: VecDeque::with_capacity(window), capacity: window.max(Self::FEWEST), threshold }
    }

    /// The score of a value; 0 before there are enough values to compare with, infinite for one that is not finite.
    pub fn score(&self, value: f64) -> f64 {
        if !value.is_finite() {
            return f64::INFINITY;
        }
        if self.window.len() < Self::FEWEST {
            return 0.0;
        }
        let middle = median(self.window.iter().copied().collect());
        let deviation = median(self.window.iter().map(|value| (value - middle).abs()).collect());
        // At least 1 % of the median: a window without noise would call every rounding difference an outlier.
        let sigma = (1.4826 * deviation).max(0.01 * middle.abs()).max(f64::MIN_POSITIVE);
        (value - middle) / sigma
    }

    /// True if the value stands far above the last ones (falling fast is what training does). It then joins them, so
    /// that a new level becomes usual; a value that is not finite does not.
    pub fn observe(&mut self, value: f64) -> bool {
        let outlier = self.score(value) > self.threshold;
        if value.is_finite() {
            if self.window.len() == self.capacity {
                self.window.pop_front();
            }
            self.window.push_back(value);
        }
        outlier
    }
}

/// The middle value, the upper one of two; the list is not empty.
fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_folder;

    fn record(step: u64) -> StepRecord {
        // Values without a short decimal form: only an exact round trip returns them.
        let loss = (step as f64 + 0.1).sqrt().exp();
        StepRecord {
            step,
            loss,
            caption_loss: f64::from((step as f32 + 0.3).ln()),
            grad_norm: 1e-310 * loss,
            ..Default::default()
        }
    }

    #[test]
    fn lines_come_back_to_the_bit() {
        let folder = test_folder("metrics-bits");
        let path = folder.join("metrics.jsonl");
        let (mut log, history) = MetricsLog::open(&path, 0).unwrap();
        assert!(history.is_empty());
        let written: Vec<_> = (0..50).map(record).collect();
        written.iter().for_each(|record| log.append(record).unwrap());
        assert_eq!(read(&path).unwrap(), written);
        let broken = StepRecord { step: 50, loss: f64::INFINITY, skipped: true, ..Default::default() };
        log.append(&broken).unwrap();
        let last = read(&path).unwrap().pop().unwrap();
        assert!(last.loss.is_nan() && last.skipped && last.step == 50);
    }

    #[test]
    fn resume_leaves_every_step_once() {
        let folder = test_folder("metrics-resume");
        let path = folder.join("metrics.jsonl");
        let (mut log, _) = MetricsLog::open(&path, 0).unwrap();
        (0..10).for_each(|step| log.append(&record(step)).unwrap());
        log.file.write_all(b"{\"step\":10,\"lo").unwrap();
        assert_eq!(read(&path).unwrap().len(), 10, "a torn last line is no error while the run may be going on");
        drop(log);
        let (mut log, history) = MetricsLog::open(&path, 6).unwrap();
        assert_eq!(history.len(), 6);
        (6..12).for_each(|step| log.append(&record(step)).unwrap());
        assert_eq!(read(&path).unwrap(), (0..12).map(record).collect::<Vec<_>>());
        drop(log);
        let (_, history) = MetricsLog::open(&path, u64::MAX).unwrap();
        assert_eq!(history.len(), 12);
        let (_, history) = MetricsLog::open(&path, 0).unwrap();
        assert!(history.is_empty() && std::fs::read(&path).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = test_folder("metrics-damaged");
        let path = folder.join("metrics.jsonl");
        let (mut log, _) = MetricsLog::open(&path, 0).unwrap();
        log.append(&record(0)).unwrap();
        log.file.write_all(b"\0\0\0\n").unwrap();
        log.append(&record(1)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("metrics.jsonl:2: not a step record"));
        let (_, history) = MetricsLog::open(&path, 5).unwrap();
        assert_eq!(history, [record(0)]);
    }

    #[test]
    fn spikes_are_outliers_and_new_levels_become_usual() {
        let mut detector = OutlierDetector::new(32, 8.0);
        let noisy = |step: usize| 5.0 - 0.01 * step as f64 + 0.1 * ((step * 7919 % 13) as f64 / 13.0 - 0.5);
        for step in 0..100 {
            assert!(!detector.observe(noisy(step)), "step {step}");
        }
        assert!(detector.observe(9.0));
        assert!(detector.observe(f64::NAN));
        assert!(!detector.observe(noisy(100)), "one spike does not move the median");
        let flagged = (0..40).filter(|_| detector.observe(9.0)).count();
        assert!((1..=17).contains(&flagged), "half a window of 9.0 makes it usual, {flagged} were flagged");
        assert!(!OutlierDetector::new(32, 8.0).observe(1e9), "nothing to compare with yet");
    }
}
