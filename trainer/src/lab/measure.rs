//! Contestants take turns: in every round each has one turn, in an order drawn anew, so that what the machine does to one
//! it does to all. A turn is a batch of runs timed together, after others that are not.

use super::statistics::Estimate;
use crate::{Error, Result};
use engine::Queue;
use engine::rng::Philox;
use std::time::{Duration, Instant};

/// Rounds for what is fast; what is slow gets fewer.
const MOST_ROUNDS: usize = 40;
/// Fewer cannot give an interval of 95 %.
const LEAST_ROUNDS: usize = 6;
/// Rest before a turn among several: threads of other libraries (OpenMP's) keep a core busy for milliseconds after their work.
const REST: Duration = Duration::from_millis(10);
/// Seconds of runs before a turn among several that are not timed: threads that have slept are woken on one core, and the system
/// takes milliseconds to give each its own.
const SETTLING: f64 = 15e-3;
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

/// Seconds of a run for every contestant, one sample a round; of one that cannot run the reason, and no more turns.
/// `seconds` is about what each gets in all; `between` is called once a round, in a place of the order that is drawn as
/// theirs are.
///
/// # Errors
/// `between` fails.
pub fn take_turns(
    contestants: &mut [&mut dyn Contestant],
    seconds: f64,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Result<Vec<f64>>>> {
    let turn = seconds / MOST_ROUNDS as f64;
    let paces: Vec<Result<Pace>> = contestants.iter_mut().map(|contestant| pace(*contestant, turn)).collect();
    let longest = paces.iter().flatten().fold(turn, |longest, pace| longest.max(pace.seconds));
    let rounds = ((seconds / longest) as usize).clamp(LEAST_ROUNDS, MOST_ROUNDS);
    let mut random = Philox::new(rounds as u64, contestants.len() as u64);
    let counts: Vec<usize> = paces.iter().map(|pace| pace.as_ref().map_or(0, |pace| pace.count)).collect();
    let settling: Vec<usize> = paces.iter().map(|pace| pace.as_ref().map_or(0, Pace::settling)).collect();
    let mut samples: Vec<Result<Vec<f64>>> =
        paces.into_iter().map(|pace| pace.map(|_| Vec::with_capacity(rounds))).collect();
    let mut order: Vec<usize> = (0..=contestants.len()).collect();
    let contestants_take_turns = contestants.len() > 1;
    for _ in 0..rounds {
        random.shuffle(&mut order);
        for &index in &order {
            if contestants_take_turns {
                std::thread::sleep(REST);
            }
            let Some(contestant) = contestants.get_mut(index) else {
                between()?;
                continue;
            };
            let Ok(taken) = &mut samples[index] else { continue };
            let settling = if contestants_take_turns { settling[index] } else { 0 };
            match one_turn(*contestant, counts[index], settling) {
                Ok(seconds) => taken.push(seconds),
                Err(error) => samples[index] = Err(error),
            }
        }
    }
    Ok(samples)
}

/// How often a contestant runs in a turn, and about how long that takes.
struct Pace {
    count: usize,
    seconds: f64,
}

impl Pace {
    /// Runs that together take [`SETTLING`]: none of what takes longer.
    fn settling(&self) -> usize {
        ((SETTLING * self.count as f64 / self.seconds) as usize).min(MOST_RUNS)
    }
}

/// The pace at which a turn takes about so many seconds.
fn pace(contestant: &mut dyn Contestant, turn: f64) -> Result<Pace> {
    contestant.run(1)?;
    let mut count = 1;
    let mut seconds = contestant.run(count)?;
    // A first guess from one run is coarse for what takes microseconds.
    while seconds < 0.5 * turn && count < MOST_RUNS {
        let more = (turn / seconds.max(1e-9)).clamp(2.0, 100.0);
        count = ((count as f64 * more) as usize).min(MOST_RUNS);
        seconds = contestant.run(count)?;
    }
    Ok(Pace { count, seconds })
}

/// The seconds of a run in one turn, after at least `settling` runs that are not timed.
fn one_turn(contestant: &mut dyn Contestant, count: usize, settling: usize) -> Result<f64> {
    // What another left in the caches is replaced first. A run that fills a turn alone has no use for them.
    let untimed = settling.max(usize::from(count > 1));
    if untimed > 0 {
        contestant.run(untimed)?;
    }
    Ok(contestant.run(count)? / count as f64)
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
        /// Turns until it fails.
        turns: usize,
    }

    impl Contestant for Claims {
        fn run(&mut self, count: usize) -> Result<f64> {
            self.runs += count;
            self.turns = self.turns.checked_sub(1).ok_or_else(|| Error::invalid("no more"))?;
            Ok(self.seconds * count as f64)
        }
    }

    fn claims(seconds: f64) -> Claims {
        Claims { seconds, runs: 0, turns: usize::MAX }
    }

    #[test]
    fn turns_are_equal_in_time_and_number() {
        let (mut fast, mut slow, mut between) = (claims(1e-6), claims(1e-3), 0);
        let samples = take_turns(&mut [&mut fast, &mut slow], 0.4, &mut || {
            between += 1;
            Ok(())
        })
        .unwrap();
        let samples: Vec<_> = samples.into_iter().map(|samples| samples.unwrap()).collect();
        assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [between, between]);
        assert!((20..=MOST_ROUNDS).contains(&between), "{between} rounds");
        assert!((samples[0][3] - 1e-6).abs() < 1e-12 && (samples[1][3] - 1e-3).abs() < 1e-9);
        let settling = between as f64 * SETTLING;
        let times = [fast.runs as f64 * fast.seconds - settling, slow.runs as f64 * slow.seconds - settling];
        assert!(times.iter().all(|&time| (0.2..0.9).contains(&time)), "{times:?}");
    }

    #[test]
    fn what_is_slow_still_has_an_interval() {
        let mut slow = claims(9.0);
        let samples = take_turns(&mut [&mut slow], 0.5, &mut || Ok(())).unwrap().remove(0).unwrap();
        assert_eq!((samples.len(), slow.runs), (LEAST_ROUNDS, LEAST_ROUNDS + 2));
        assert_eq!(estimate(&samples).unwrap().median, 9.0);
        assert!(estimate(&[]).is_err());
    }

    #[test]
    fn who_fails_leaves_the_others_their_turns() {
        // One cannot begin, one fails in a later round.
        let (mut none, mut some) = (Claims { turns: 0, ..claims(1.0) }, Claims { turns: 4, ..claims(1.0) });
        let mut all = claims(1.0);
        let samples = take_turns(&mut [&mut none, &mut all, &mut some], 0.5, &mut || Ok(())).unwrap();
        assert!([0, 2].iter().all(|&index| samples[index].as_ref().unwrap_err().to_string() == "no more"));
        assert_eq!(samples[1].as_ref().unwrap().len(), LEAST_ROUNDS);
        assert_eq!((none.runs, some.runs), (1, 5));
    }
}
