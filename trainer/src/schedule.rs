//! What changes with the number of the step. The learning rate: linear warm-up, then half a cosine, a line or a constant, by
//! open_clip's formulas; and how much of the average of the weights is kept.

use crate::config::{Schedule, ScheduleKind};

/// The learning rate of `step` (from 0) with peak `learning_rate`.
///
/// Warm-up: `peak * (step + 1) / warmup`. After it, with `t = (step - warmup) / (steps - warmup)`:
/// `peak * (1 + cos(pi * t)) / 2`, `peak * (1 - t)` or `peak`. Past the last step `t` stays 1.
pub fn learning_rate(schedule: &Schedule, peak: f64, step: u64) -> f64 {
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let span = schedule.steps.saturating_sub(warmup).max(1);
    let t = ((step - warmup) as f64 / span as f64).min(1.0);
    match schedule.kind {
        ScheduleKind::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
        ScheduleKind::Linear => peak * (1.0 - t),
        ScheduleKind::Constant => peak,
    }
}

/// What a step (from 0) keeps of the average of the weights: `decay`, but less at first, or the start would still weigh at the
/// end of a short training. As TensorFlow's `ExponentialMovingAverage` with `num_updates`.
pub fn average_decay(decay: f64, step: u64) -> f64 {
    decay.min((1 + step) as f64 / (10 + step) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup_steps: u64, steps: u64) -> Schedule {
        Schedule { kind, warmup_steps, steps, minutes: 0.0 }
    }

    #[test]
    fn warms_up_then_falls() {
        let cosine = schedule(ScheduleKind::Cosine, 10, 110);
        assert_eq!(learning_rate(&cosine, 2.0, 0), 0.2);
        assert_eq!(learning_rate(&cosine, 2.0, 9), 2.0);
        assert_eq!(learning_rate(&cosine, 2.0, 10), 2.0);
        assert!((learning_rate(&cosine, 2.0, 60) - 1.0).abs() < 1e-15);
        // cos(pi / 4) = 1 / sqrt(2) at a quarter of the way.
        let quarter = 1.0 + std::f64::consts::FRAC_1_SQRT_2;
        assert!((learning_rate(&cosine, 2.0, 35) - quarter).abs() < 1e-15);
        assert_eq!(learning_rate(&cosine, 2.0, 110), 0.0);
        assert_eq!(learning_rate(&cosine, 2.0, 1000), 0.0);

        let linear = schedule(ScheduleKind::Linear, 10, 110);
        assert_eq!(learning_rate(&linear, 2.0, 10), 2.0);
        assert_eq!(learning_rate(&linear, 2.0, 60), 1.0);
        assert_eq!(learning_rate(&linear, 2.0, 110), 0.0);

        let constant = schedule(ScheduleKind::Constant, 0, 1);
        assert_eq!(learning_rate(&constant, 2.0, 0), 2.0);
        assert_eq!(learning_rate(&constant, 2.0, 5000), 2.0);
    }

    #[test]
    fn a_run_that_is_all_warm_up_ends_at_its_peak() {
        let all = schedule(ScheduleKind::Cosine, 5, 5);
        assert_eq!(learning_rate(&all, 1.0, 4), 1.0);
        assert!(learning_rate(&all, 1.0, 5).is_finite());
    }

    #[test]
    fn an_average_forgets_its_start() {
        // What is left of the start after all steps.
        let left = |decay: f64, steps: u64| (0..steps).map(|step| average_decay(decay, step)).product::<f64>();
        assert!(left(0.9999, 100) < 1e-9);
        assert_eq!(average_decay(0.9999, 1_000_000), 0.9999);
        assert_eq!(average_decay(0.0, 0), 0.0);
    }
}
