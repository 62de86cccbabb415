//! Contestants take turns: in every round each has one turn, in an order drawn anew, so that what the machine does to one
//! it does to all. A turn is a batch of runs timed together, after one that is not.

use super::statistics::Estimate;
use crate::{Error, Result};
use engine::Queue;
use engine::rng::Philox;
use std::time::Instant;

/// Rounds for what is fast; what is slow gets fewer.
const MOST_ROUNDS: usize = 40;
/// Fewer cannot give an interval of 95 %.
const LEAST_ROUNDS: usize = 6;
/// Runs of a turn at most, against clocks that stand still.
const MOST_RUNS: usize = 1 << 20;

/// Something that runs as often as it is asked to.
pub trait Contestant {
    /// Runs `count` times; the seconds of all runs together.
    ///
    /// # Errors
    /// It cannot run.
    fn run(&mut self, count: usize) -> Result<f64>;
}

/// Runs a closure on a worker of a queue's pool, where a training step runs its ops too: handing each run over to the pool
/// would take longer than a small op.
#[derive(Debug)]
pub struct Runs<F> {
    /// Whose pool it is.
    pub queue: Queue,
    /// One run.
    pub run: F,
}

impl<F: FnMut() -> Result<()> + Send> Contestant for Runs<F> {
    fn run(&mut self, count: usize) -> Result<f64> {
        let Runs { queue, run } = self;
        queue.enter(|| {
            let start = Instant::now();
            for _ in 0..count {
                run()?;
            }
            Ok(start.elapsed().as_secs_f64())
        })
    }
}

/// Seconds of a run for every contestant, one sample a round. `seconds` is about what each gets in all; `between` is
/// called once a round, in a place of the order that is drawn as theirs are.
///
/// # Errors
/// One of them cannot run.
pub fn take_turns(
    contestants: &mut [&mut dyn Contestant],
    seconds: f64,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<f64>>> {
    let turn = seconds / MOST_ROUNDS as f64;
    let mut counts = Vec::new();
    let mut longest = turn;
    for contestant in contestants.iter_mut() {
        contestant.run(1)?;
        let mut count = 1;
        let mut taken = contestant.run(count)?;
        // A first guess from one run is coarse for what takes microseconds.
        while taken < 0.5 * turn && count < MOST_RUNS {
            let more = (turn / taken.max(1e-9)).clamp(2.0, 100.0);
            count = ((count as f64 * more) as usize).min(MOST_RUNS);
            taken = contestant.run(count)?;
        }
        counts.push(count);
        longest = longest.max(taken);
    }
    let rounds = ((seconds / longest) as usize).clamp(LEAST_ROUNDS, MOST_ROUNDS);
    let mut random = Philox::new(rounds as u64, contestants.len() as u64);
    let mut samples = vec![Vec::with_capacity(rounds); contestants.len()];
    let mut order: Vec<usize> = (0..=contestants.len()).collect();
    for _ in 0..rounds {
        random.shuffle(&mut order);
        for &index in &order {
            let Some(contestant) = contestants.get_mut(index) else {
                between()?;
                continue;
            };
            // What another left in the caches is replaced first. A run that fills a turn alone has no use for them.
            if counts[index] > 1 {
                contestant.run(1)?;
            }
            samples[index].push(contestant.run(counts[index])? / counts[index] as f64);
        }
    }
    Ok(samples)
}

/// The estimate of samples that were taken.
///
/// # Errors
/// There is none.
pub fn estimate(samples: &[f64]) -> Result<Estimate> {
    Estimate::of(samples).ok_or_else(|| Error::invalid("nothing was measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says how long it took without taking it.
    struct Claims {
        seconds: f64,
        runs: usize,
        turns: usize,
    }

    impl Contestant for Claims {
        fn run(&mut self, count: usize) -> Result<f64> {
            self.runs += count;
            self.turns += 1;
            Ok(self.seconds * count as f64)
        }
    }

    #[test]
    fn turns_are_equal_in_time_and_number() {
        let claims = |seconds| Claims { seconds, runs: 0, turns: 0 };
        let (mut fast, mut slow, mut between) = (claims(1e-6), claims(1e-3), 0);
        let samples = take_turns(&mut [&mut fast, &mut slow], 0.4, &mut || {
            between += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [between, between]);
        assert!((20..=MOST_ROUNDS).contains(&between), "{between} rounds");
        assert!((samples[0][3] - 1e-6).abs() < 1e-12 && (samples[1][3] - 1e-3).abs() < 1e-9);
        let times = [fast.runs as f64 * fast.seconds, slow.runs as f64 * slow.seconds];
        assert!(times.iter().all(|&time| (0.2..0.9).contains(&time)), "{times:?}");
    }

    #[test]
    fn what_is_slow_still_has_an_interval() {
        let mut slow = Claims { seconds: 9.0, runs: 0, turns: 0 };
        let samples = take_turns(&mut [&mut slow], 0.5, &mut || Ok(())).unwrap();
        assert_eq!((samples[0].len(), slow.runs), (LEAST_ROUNDS, LEAST_ROUNDS + 2));
        assert_eq!(estimate(&samples[0]).unwrap().median, 9.0);
        assert!(estimate(&[]).is_err());
    }
}
