//! The tables that `coca bench` prints.

use super::{Check, Comparisons, Estimate, Report, Row, Verdict};
use std::fmt::Write;

/// Everything as text.
pub fn render(report: &Report, comparisons: Option<&Comparisons>) -> String {
    let mut text = format!("{}\n{}\n", report.environment.machine(), report.environment.program());
    if let Some(step) = &report.step {
        let _ = writeln!(text, "a training step: {step}");
    }
    text += &ceilings(report);
    text += &rows(report, comparisons);
    for note in report.absent.iter().chain(&report.environment.doubts()) {
        let _ = writeln!(text, "{note}");
    }
    if let Some(comparisons) = comparisons {
        let count = |verdict: Verdict| format!("{} {}", comparisons.count(verdict), verdict.name());
        let counts = [Verdict::Faster, Verdict::Slower, Verdict::Same].map(count);
        let _ = writeln!(text, "{}", counts.join(", "));
        comparisons.warnings.iter().for_each(|warning| text += &format!("{warning}\n"));
    }
    text
}

fn ceilings(report: &Report) -> String {
    let mut text = String::from("\nceilings\n");
    for compute in &report.ceilings.compute {
        let (rate, used) = (compute.flops_per_second / 1e9, compute.isa == report.environment.isa);
        let mark = if used { "" } else { "  not used" };
        let _ = writeln!(text, "{:>10} {:<5} {rate:8.1} GFLOP/s{mark}", compute.isa, compute.dtype.to_string());
    }
    for level in &report.ceilings.memory {
        let (read, copy) = (level.read_bytes_per_second / 1e9, level.copy_bytes_per_second / 1e9);
        let size = level.capacity_bytes.map_or(String::new(), |bytes| crate::machine::bytes(bytes as u64));
        let _ = writeln!(text, "{:>10} {size:<9} {read:8.1} GB/s read {copy:8.1} GB/s copied", level.name);
    }
    text
}

fn rows(report: &Report, comparisons: Option<&Comparisons>) -> String {
    let mut peers: Vec<&str> = Vec::new();
    for peer in report.rows.iter().flat_map(|row| &row.peers) {
        if !peers.contains(&peer.name.as_str()) {
            peers.push(&peer.name);
        }
    }
    let has_calls = report.rows.iter().any(|row| row.calls > 1);
    let mut text =
        format!("\n{:>10} {:>7} {:>8} {:>7} {:>8} {:<7}", "time", "95 %", "GFLOP/s", "GB/s", "roofline", "bound");
    peers.iter().for_each(|peer| text += &format!(" {:>25}", format!("{peer} / ours")));
    if comparisons.is_some() {
        text += &format!(" {:>25}", "now / baseline");
    }
    if has_calls {
        text += &format!(" {:>6}", "calls");
    }
    text += "  right  pass, op\n";
    for (index, row) in report.rows.iter().enumerate() {
        let percent = row.roofline_percent.map_or("–".to_owned(), |percent| format!("{percent:.0} %"));
        let spread = format!("±{:.1} %", 100.0 * row.seconds.spread());
        let _ = write!(
            text,
            "{:>10} {spread:>7} {:>8} {:>7} {percent:>8} {:<7}",
            time(row.seconds.median),
            rate(row.gflops),
            rate(row.gbytes),
            row.bound
        );
        for name in &peers {
            let found = row.peers.iter().find(|peer| peer.name == *name);
            text += &format!(" {:>25}", found.map_or(String::new(), |peer| interval(&peer.ratio)));
        }
        if let Some(comparisons) = comparisons {
            let shown = comparisons.rows.get(index).copied().flatten();
            let shown = shown.map_or("not in it".to_owned(), |comparison| {
                format!("{} {}", interval(&comparison.time), comparison.verdict.name())
            });
            text += &format!(" {shown:>25}");
        }
        if has_calls {
            text += &format!(" {:>6}", row.calls);
        }
        let _ = writeln!(text, "  {:<5}  {} {}", mark(&row.check), row.pass, row.name);
    }
    text + &checks(&report.rows)
}

/// A rate; of what was not counted there is none.
pub fn rate(value: f64) -> String {
    if value > 0.0 { format!("{value:.1}") } else { "–".to_owned() }
}

fn mark(check: &Check) -> &'static str {
    match check.passed() {
        Some(true) => "yes",
        Some(false) => "WRONG",
        None => "–",
    }
}

/// What the results were compared with, each kind once, and how close the worst of them came to its bound.
fn checks(rows: &[Row]) -> String {
    let mut kinds: Vec<(String, usize, f64)> = Vec::new();
    for Row { check, .. } in rows {
        // Numbers of elements differ from row to row.
        let kind = match check.against.split_once(" of ") {
            Some((count, _)) if count.parse::<usize>().is_ok() => "some elements in f64".to_owned(),
            _ => check.against.clone(),
        };
        match kinds.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, count, worst)) => (*count, *worst) = (*count + 1, worst.max(check.error)),
            None => kinds.push((kind, 1, check.error)),
        }
    }
    let mut text = String::from("\nresults held against\n");
    for (kind, count, worst) in kinds {
        let error = match kind.starts_with("not checked") {
            true => String::new(),
            false => format!(", largest error {} of its bound", short(worst)),
        };
        let _ = writeln!(text, "{count:>10} rows: {kind}{error}");
    }
    text
}

fn short(share: f64) -> String {
    if share > 1e3 { "beyond 1000".into() } else { format!("{share:.2}") }
}

/// `1.23 [1.20, 1.27]`.
pub fn interval(estimate: &Estimate) -> String {
    format!("{:.2} [{:.2}, {:.2}]", estimate.median, estimate.low, estimate.high)
}

/// Seconds with three digits and their unit.
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        seconds if seconds >= 1.0 => (seconds, "s"),
        seconds if seconds >= 1e-3 => (seconds * 1e3, "ms"),
        seconds => (seconds * 1e6, "µs"),
    };
    let digits = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::super::{baseline::compare, test_report};
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let times = [1.234e-7, 1.5e-5, 0.012_345, 0.5, 3.21, 123.4].map(time);
        assert_eq!(times, ["0.12 µs", "15.0 µs", "12.3 ms", "500 ms", "3.21 s", "123 s"]);
    }

    #[test]
    fn every_row_stands_with_its_figures() {
        let mut report = test_report();
        report.rows[1].check = Check { against: "60 of 900 elements in f64".into(), compared: 60, error: 1.5 };
        report.rows[2].check = Check::none("a reason");
        report.rows[2].roofline_percent = None;
        let text = render(&report, Some(&compare(&report, &test_report())));
        let line =
            |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {text}"));
        let product = line("matmul_nt 8x8x8");
        for part in ["1.00 ms", "±1.5 %", "80.0", "80 %", "compute", "2.00 [1.98, 2.04]", "SAME", " yes "] {
            assert!(product.contains(part), "{part}: {product}");
        }
        assert!(line("layer_norm").contains("WRONG") && line("take_rows").contains('–'));
        assert!(line("some elements in f64").contains("largest error 1.50"));
        assert!(text.contains("1 rows: not checked: a reason\n") && text.contains("0 FASTER, 0 SLOWER, 3 SAME"));
        assert!(line("avx2 f32").contains("100.0 GFLOP/s") && line("L2").contains("50.0 GB/s read"));
        assert!(text.contains("gemm & co") && !text.contains("calls"));
    }
}
