//! Whether a kernel is faster than in an earlier run, told so that a slower machine does not look like a slower kernel.
//!
//! Two quotients bound the truth. That of the times as they are blames the kernel for all that the machine did. That of the
//! times as shares of the ceiling which bounds the op, measured beside it in both runs, excuses the kernel for all that
//! happened to the ceiling. Neighbours and clocks act on a kernel somewhere in between, so a change counts only if the
//! confidence intervals of both lie on the same side of 1, by more than two runs of the same program may differ.

use super::statistics::Estimate;
use super::{COMPUTE, Environment, Report, Row};
use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// Two runs may differ by so much in what no interval within one run sees: where pages lie, which cores they get.
const BETWEEN_RUNS: f64 = 0.03;
/// Ceilings that differ by more make a poor comparison, which is said.
const SAME_MACHINE: f64 = 0.15;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It takes less time.
    Faster,
    /// It takes more time.
    Slower,
    /// No difference is established.
    Same,
}

impl Verdict {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "FASTER",
            Verdict::Slower => "SLOWER",
            Verdict::Same => "SAME",
        }
    }
}

/// A row beside the same one of the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Time now over time then.
    pub time: Estimate,
    /// The same, each as a share of the ceiling in its run; none where no ceiling of one kind is known of both.
    pub normalised: Option<Estimate>,
    /// What follows.
    pub verdict: Verdict,
}

/// A run beside its baseline.
#[derive(Clone, Debug, Default)]
pub struct Comparisons {
    /// Of each row, in the order of the run; none where the baseline has not this row.
    pub rows: Vec<Option<Comparison>>,
    /// What makes the comparison doubtful.
    pub warnings: Vec<String>,
}

impl Comparisons {
    /// How many rows have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().flatten().filter(|comparison| comparison.verdict == verdict).count()
    }
}

/// The report in a file that `--json` wrote.
///
/// # Errors
/// It cannot be read or is no such file.
pub fn load(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_str(&text).map_err(|error| {
        Error::invalid(format!("{}: no file of `coca bench --json` of this version: {error}", path.display()))
    })
}

/// Compares a run with an earlier one.
pub fn compare(now: &Report, then: &Report) -> Comparisons {
    let find = |row: &Row| then.rows.iter().find(|old| same_work(row, old));
    let ceilings = |row: &Row, old: &Row| ceilings((now, row), (then, old));
    let rows: Vec<_> =
        now.rows.iter().map(|row| find(row).map(|old| compare_rows(row, old, ceilings(row, old)))).collect();
    let mut warnings = Vec::new();
    let (new, old) = (&now.environment, &then.environment);
    let step = |report: &Report| report.step.clone().unwrap_or_else(|| "none".to_owned());
    let gpu = |environment: &Environment| environment.gpu.as_ref().map_or("none".to_owned(), |gpu| gpu.name.clone());
    let facts = [
        ("processor", &old.processor, &new.processor),
        ("GPU", &gpu(old), &gpu(new)),
        ("instruction set", &old.isa, &new.isa),
        ("number of threads", &old.threads.to_string(), &new.threads.to_string()),
        ("build", &old.build, &new.build),
        ("training step", &step(then), &step(now)),
    ];
    for (what, old, new) in facts {
        if old != new {
            warnings.push(format!("The baseline has another {what}: {old}, now {new}."));
        }
    }
    let shared: Vec<f64> = (now.rows.iter())
        .filter_map(|row| ceilings(row, find(row)?).map(|ceiling| ceiling.median))
        .filter(|ratio| ratio.is_finite())
        .collect();
    if let Some(ratio) = Estimate::of(&shared)
        && (ratio.median - 1.0).abs() > SAME_MACHINE
    {
        warnings.push(format!(
            "The machine's ceilings beside the rows are {:.2} of those of the baseline: small changes cannot be told.",
            ratio.median
        ));
    }
    let missing = rows.iter().filter(|comparison| comparison.is_none()).count();
    if missing > 0 {
        warnings.push(format!("{missing} of {} rows are not in the baseline.", rows.len()));
    }
    let blind = rows.iter().flatten().filter(|comparison| comparison.normalised.is_none()).count();
    if blind > 0 {
        warnings.push(format!(
            "{blind} of {} rows are SAME for want of a ceiling: what bounds them now was not measured in the baseline.",
            rows.len()
        ));
    }
    Comparisons { rows, warnings }
}

/// Whether two rows are of the same work in the same type.
fn same_work(now: &Row, then: &Row) -> bool {
    // Decimal digits may round.
    let same_flops = (now.flops - then.flops).abs() <= 1e-9 * now.flops.abs();
    (&now.name, &now.pass, now.dtype) == (&then.name, &then.pass, then.dtype) && same_flops
}

/// The ceiling now over that then: those beside the rows if they are of one kind, else of the kind that bounds the row now the
/// best of each run. None if it was not measured in both.
fn ceilings((now, row): (&Report, &Row), (then, old): (&Report, &Row)) -> Option<Estimate> {
    if row.bound == old.bound {
        return Some(row.ceiling.over(&old.ceiling));
    }
    let best = |report: &Report| {
        let ceilings = &report.ceilings;
        let rate = match row.bound.as_str() {
            COMPUTE => ceilings.flops_per_second(&report.environment.isa, row.dtype?),
            level => ceilings.memory.iter().find(|known| known.name == level)?.bytes_per_second(),
        };
        (rate > 0.0).then_some(Estimate { median: rate, low: rate, high: rate, samples: 1 })
    };
    Some(best(now)?.over(&best(then)?))
}

fn compare_rows(now: &Row, then: &Row, ceiling: Option<Estimate>) -> Comparison {
    let time = now.seconds.over(&then.seconds);
    let Some(ceiling) = ceiling else { return Comparison { time, normalised: None, verdict: Verdict::Same } };
    // Work as a share of the ceiling: seconds times rate.
    let inverse =
        Estimate { median: 1.0 / ceiling.median, low: 1.0 / ceiling.high, high: 1.0 / ceiling.low, ..ceiling };
    let normalised = time.over(&inverse);
    let slowest = time.low.min(normalised.low);
    let fastest = time.high.max(normalised.high);
    let verdict = if slowest > 1.0 + BETWEEN_RUNS {
        Verdict::Slower
    } else if fastest < 1.0 / (1.0 + BETWEEN_RUNS) {
        Verdict::Faster
    } else {
        Verdict::Same
    };
    Comparison { time, normalised: Some(normalised), verdict }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::test_report;

    /// Two runs of one row: medians of the times and of the ceilings, and half widths of their intervals.
    fn verdict(seconds: [f64; 2], ceilings: [f64; 2], widths: [f64; 2]) -> Verdict {
        let estimate = |median: f64, width: f64| Estimate {
            median,
            low: median * (1.0 - width),
            high: median * (1.0 + width),
            samples: 20,
        };
        let [then, now] = [0, 1].map(|run| {
            let mut report = test_report();
            report.rows.truncate(1);
            report.rows[0].seconds = estimate(seconds[run], widths[0]);
            report.rows[0].ceiling = estimate(ceilings[run], widths[1]);
            report
        });
        compare(&now, &then).rows[0].unwrap().verdict
    }

    #[test]
    fn verdicts_know_noise_and_the_state_of_the_machine() {
        let quiet = [0.01, 0.01];
        assert_eq!(verdict([1.0, 1.0], [1.0, 1.0], quiet), Verdict::Same);
        assert_eq!(verdict([1.0, 0.8], [1.0, 1.0], quiet), Verdict::Faster);
        assert_eq!(verdict([1.0, 1.2], [1.0, 1.0], quiet), Verdict::Slower);
        // Within what two runs may differ by.
        assert_eq!(verdict([1.0, 1.02], [1.0, 1.0], [0.0, 0.0]), Verdict::Same);
        // As large a change in wide intervals.
        assert_eq!(verdict([1.0, 1.2], [1.0, 1.0], [0.15, 0.01]), Verdict::Same);
        // The whole machine is at half its rate, and the kernel with it.
        assert_eq!(verdict([1.0, 2.0], [1.0, 0.5], quiet), Verdict::Same);
        // The machine is at half its rate, the kernel takes three times the time.
        assert_eq!(verdict([1.0, 3.0], [1.0, 0.5], quiet), Verdict::Slower);
        // A machine that was busy and is not any more makes no kernel better.
        assert_eq!(verdict([1.0, 0.5], [1.0, 2.0], quiet), Verdict::Same);
        // Nobody knows where the ceiling was.
        assert_eq!(verdict([1.0, 1.2], [1.0, 1.0], [0.01, 0.3]), Verdict::Same);
    }

    #[test]
    fn only_the_same_work_and_ceilings_of_one_kind_are_compared() {
        let (now, mut then) = (test_report(), test_report());
        // Arithmetic bounds the first row now, memory did then at a tenth of the rate.
        then.rows[0].bound = "memory".into();
        then.rows[0].ceiling = then.rows[0].ceiling.times(0.1);
        then.rows[0].seconds = now.rows[0].seconds.times(0.5);
        let comparisons = compare(&now, &then);
        let first = comparisons.rows[0].unwrap();
        assert_eq!((first.verdict, first.normalised.unwrap().median), (Verdict::Slower, 2.0));
        assert!(comparisons.warnings.is_empty(), "{:?}", comparisons.warnings);
        // A machine whose arithmetic is at half its rate takes twice the time.
        then.ceilings.compute[0].flops_per_second *= 2.0;
        assert_eq!(compare(&now, &then).rows[0].unwrap().verdict, Verdict::Same);
        then.ceilings.compute.clear();
        let comparisons = compare(&now, &then);
        assert_eq!(comparisons.rows[0].map(|row| (row.verdict, row.normalised)), Some((Verdict::Same, None)));
        assert!(comparisons.warnings.join("\n").contains("1 of 3 rows are SAME for want of a ceiling"));

        let mut then = test_report();
        then.step = Some("a batch of 4 pairs".into());
        then.rows[0].dtype = Some(engine::DType::BF16);
        then.rows[1].flops *= 2.0;
        let comparisons = compare(&now, &then);
        assert_eq!(comparisons.rows.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
        let warnings = comparisons.warnings.join("\n");
        assert!(warnings.contains("another training step: a batch of 4 pairs, now none."), "{warnings}");
        assert!(warnings.contains("2 of 3 rows are not in the baseline"), "{warnings}");
    }

    #[test]
    fn files_are_read_back_and_others_named() {
        let folder = crate::test_folder("baseline");
        let file = folder.join("run.json");
        let report = test_report();
        std::fs::write(&file, serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(load(&file).unwrap(), report);
        std::fs::write(&file, "{}").unwrap();
        assert!(load(&file).unwrap_err().to_string().contains("no file of `coca bench --json`"));
        assert!(load(&folder.join("none.json")).unwrap_err().to_string().contains("none.json"));
    }

    #[test]
    fn doubts_are_told() {
        let now = test_report();
        let mut then = test_report();
        assert!(compare(&now, &then).warnings.is_empty());
        then.environment.isa = "scalar".into();
        then.rows.remove(0);
        then.rows.iter_mut().for_each(|row| row.ceiling = row.ceiling.times(0.5));
        let warnings = compare(&now, &then).warnings.join("\n");
        for part in ["another instruction set: scalar, now avx2", "are 2.00 of those", "1 of 3 rows are not in"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
        let comparisons = compare(&now, &test_report());
        assert_eq!((comparisons.count(Verdict::Same), comparisons.count(Verdict::Slower)), (3, 0));
    }
}
