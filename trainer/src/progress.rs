//! Progress of a run on stderr: a bar on a terminal, a plain line every few seconds where there is none.

use crate::metrics::StepRecord;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Seconds between two plain lines.
const LINE_SECONDS: u64 = 10;

/// The progress display of one run.
#[derive(Debug)]
pub struct Progress {
    /// None where stderr is not a terminal.
    bar: Option<ProgressBar>,
    steps: u64,
    /// Best rate of this machine in GFLOP/s, if measured.
    peak_gflops: Option<f64>,
    deadline: Option<Instant>,
    /// Mean seconds of a step, later steps weighing more.
    step_seconds: f64,
    /// Steps shown so far.
    shown: u64,
    last_line: Option<Instant>,
}

impl Progress {
    /// A display for `steps` steps of which `done` are done; the run also ends after `limit` if one is given.
    pub fn new(steps: u64, done: u64, limit: Option<Duration>, peak_gflops: Option<f64>) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr()).with_position(done);
            let style = ProgressStyle::with_template("{bar:16} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸ "));
            bar
        });
        let deadline = limit.map(|limit| Instant::now() + limit);
        Progress { bar, steps, peak_gflops, deadline, step_seconds: 0.0, shown: 0, last_line: None }
    }

    /// Shows one finished step.
    pub fn step(&mut self, record: &StepRecord) {
        // The first step plans and warms up: it is replaced by the second, not averaged with it.
        let fresh = if self.shown < 2 { 1.0 } else { 0.1 };
        self.shown += 1;
        self.step_seconds += fresh * (record.step_seconds - self.step_seconds);
        let done = record.step + 1;
        let message = describe(record, self.steps, self.peak_gflops, self.time_left(done));
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message);
            }
            None => {
                let now = Instant::now();
                let due = self.last_line.is_none_or(|last| (now - last).as_secs() >= LINE_SECONDS);
                if due || done == self.steps {
                    self.last_line = Some(now);
                    // A closed stderr is no reason to stop training.
                    let _ = writeln!(std::io::stderr(), "{message}");
                }
            }
        }
    }

    /// Prints a line that stays, above the bar.
    pub fn message(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Ends the display; the last state stays on the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn time_left(&self, done: u64) -> Duration {
        let by_steps =
            Duration::from_secs_f64((self.steps.saturating_sub(done) as f64 * self.step_seconds).clamp(0.0, 1e9));
        let by_time = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        by_time.map_or(by_steps, |by_time| by_time.min(by_steps))
    }
}

/// One line about a step.
fn describe(record: &StepRecord, steps: u64, peak_gflops: Option<f64>, left: Duration) -> String {
    let share = match peak_gflops {
        Some(peak) if peak > 0.0 => format!(" ({:.0} % of peak)", 100.0 * record.gflops / peak),
        _ => String::new(),
    };
    let has = |(_, loss): &(&str, f64)| *loss != 0.0;
    let losses = record.losses().into_iter().filter(has).map(|(name, loss)| format!("{name} {loss:.4}"));
    let losses: Vec<String> = losses.collect();
    let mark = match (record.skipped, record.outlier) {
        (true, _) => " [skipped: not finite]",
        (false, true) => " [outlier]",
        _ => "",
    };
    format!(
        "{}/{steps}  {} left  loss {:.4} ({})  {:.0} images/s  {:.0} GFLOP/s{share}{mark}",
        record.step + 1,
        clock(left),
        record.loss,
        losses.join(", "),
        record.images_per_second,
        record.gflops,
    )
}

/// `1:02:03`, or `2:03` below an hour.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_it_all() {
        let record = StepRecord {
            step: 41,
            loss: 5.25,
            contrastive_loss: 1.25,
            caption_loss: 2.0,
            images_per_second: 812.4,
            gflops: 93.0,
            outlier: true,
            ..Default::default()
        };
        assert_eq!(
            describe(&record, 1000, Some(150.0), Duration::from_secs(3723)),
            "42/1000  1:02:03 left  loss 5.2500 (contrastive 1.2500, caption 2.0000)  812 images/s  93 GFLOP/s (62 % of peak) [outlier]"
        );
        let record = StepRecord { contrastive_loss: 0.0, class_loss: 0.5, ..record };
        let line = describe(&record, 1000, None, Duration::ZERO);
        assert!(line.contains("loss 5.2500 (caption 2.0000, class 0.5000)  812"), "{line}");
        assert!(describe(&record, 1000, None, Duration::from_secs(59)).contains("42/1000  0:59 left  loss"));
    }

    #[test]
    fn the_time_left_follows_steps_and_limit() {
        let record = |step, step_seconds| StepRecord { step, step_seconds, ..Default::default() };
        let mut progress = Progress::new(100, 0, None, None);
        progress.step(&record(0, 60.0));
        progress.step(&record(1, 2.0));
        assert_eq!(progress.time_left(2), Duration::from_secs(196));
        let mut limited = Progress::new(100, 0, Some(Duration::from_secs(30)), None);
        limited.step(&record(0, 60.0));
        assert!(limited.time_left(1) <= Duration::from_secs(30));
        assert_eq!(limited.time_left(100), Duration::ZERO);
    }
}
