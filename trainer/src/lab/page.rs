//! The page of `--html`: the roofline, every row with its figures, and the ceilings. One file without anything beside it.

use super::table::{interval, rate, time};
use super::{Comparisons, Report, Row, Verdict, roofline};
use crate::machine::bytes;
use crate::report::html::{STYLE, escape, marked};
use std::fmt::Write;

/// What this page needs beside the report's style.
const OWN_STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn render(report: &Report, comparisons: Option<&Comparisons>) -> String {
    let environment = &report.environment;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Kernels beside their ceilings</title>\n\
         <style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>Kernels beside their ceilings</h1>\n\
         <p class=\"lead\">{}. {}.</p>\n",
        escape(&environment.machine()),
        escape(&environment.program())
    );
    if let Some(step) = &report.step {
        let _ = writeln!(page, "<p class=\"about\">A training step: {}.</p>", escape(step));
    }
    let warnings = comparisons.map_or(&[][..], |comparisons| &comparisons.warnings);
    let doubts = environment.doubts();
    let notes: String =
        report.absent.iter().chain(&doubts).chain(warnings).map(|note| format!("<li>{}</li>", escape(note))).collect();
    if !notes.is_empty() {
        let _ = writeln!(page, "<ul class=\"notes\">{notes}</ul>");
    }
    page += "</header>\n<section>\n<h2>Roofline</h2>\n<p class=\"about\">Lines are what this machine reached in the same run: \
             arithmetic out of registers, bytes of each level of the memory. Times are medians. Point at a dot to read what it is.\
             </p>\n";
    page += &roofline::render(report);
    page += "</section>\n";
    page += &rows(report, comparisons);
    page += &ceilings(report);
    page + "</main>\n</body>\n</html>\n"
}

fn rows(report: &Report, comparisons: Option<&Comparisons>) -> String {
    let has_peers = report.rows.iter().any(|row| !row.peers.is_empty());
    let has_calls = report.rows.iter().any(|row| row.calls > 1);
    let mut head = String::from("<th>Op</th>");
    if has_calls {
        head += "<th>Calls</th>";
    }
    head += "<th>Time</th><th>GFLOP/s</th><th>GB/s</th><th class=\"bar\"></th><th>Roofline</th><th>Results</th>";
    if has_peers {
        head += "<th>Others</th>";
    }
    if comparisons.is_some() {
        head += "<th>Now / baseline</th>";
    }
    let mut body = String::new();
    for (index, row) in report.rows.iter().enumerate() {
        body += &format!("<tr><td>{}<small>{}</small></td>", escape(&row.name), escape(&row.pass));
        if has_calls {
            body += &format!("<td>{}</td>", row.calls);
        }
        body += &figures(row);
        if has_peers {
            let beside =
                row.peers.iter().map(|peer| format!("{}<small>{}</small>", interval(&peer.ratio), escape(&peer.name)));
            body += &format!("<td>{}</td>", beside.collect::<Vec<_>>().join(""));
        }
        if let Some(comparisons) = comparisons {
            body += &format!("<td>{}</td>", compared(comparisons, index));
        }
        body += "</tr>\n";
    }
    let others = if has_peers { " Others: their time over ours, above 1 ours is faster." } else { "" };
    format!(
        "<section>\n<h2>Every row</h2>\n<div class=\"card table lab\" tabindex=\"0\"><table>\n<thead><tr>{head}</tr></thead>\n\
         <tbody>\n{body}</tbody></table></div>\n<p class=\"legend\">Intervals hold the median with 95 %. Roofline: the least time \
         that the ceilings allow over the time taken. Results: the largest error as a share of what rounding allows.{others}</p>\n\
         </section>\n"
    )
}

fn figures(row: &Row) -> String {
    let seconds = &row.seconds;
    let (low, high) = (time(seconds.low), time(seconds.high));
    let (width, percent) = match row.roofline_percent {
        Some(percent) => (percent.clamp(0.0, 100.0), format!("{percent:.0}\u{202f}%")),
        None => (0.0, "–".to_owned()),
    };
    let check = match row.check.passed() {
        Some(true) => marked(true, &format!("{:.2}", row.check.error)),
        Some(false) => marked(false, &format!("{:.3e}", row.check.error)),
        None => "–".to_owned(),
    };
    format!(
        "<td class=\"strong\">{}<small>{low} to {high}</small></td><td>{}</td><td>{}</td><td class=\"bar\"><div \
         class=\"track\"><i style=\"width:{width:.1}%\"></i></div></td><td>{percent}<small>{}</small></td>\
         <td>{check}<small>{}</small></td>",
        time(seconds.median),
        rate(row.gflops),
        rate(row.gbytes),
        escape(&row.bound),
        escape(&row.check.against)
    )
}

fn compared(comparisons: &Comparisons, index: usize) -> String {
    let Some(comparison) = comparisons.rows.get(index).copied().flatten() else { return "not in it".to_owned() };
    let name = comparison.verdict.name();
    let verdict = match comparison.verdict {
        Verdict::Faster => marked(true, name),
        Verdict::Slower => marked(false, name),
        Verdict::Same => name.to_owned(),
    };
    format!("{verdict}<small>{}</small>", interval(&comparison.time))
}

fn ceilings(report: &Report) -> String {
    let mut body = String::new();
    for compute in &report.ceilings.compute {
        let used = if compute.isa == report.environment.isa { "" } else { "<small>not used</small>" };
        let (isa, dtype, rate) = (escape(&compute.isa), compute.dtype, compute.flops_per_second / 1e9);
        body += &format!("<tr><td>{dtype} on {isa}{used}</td><td></td><td>{rate:.1} GFLOP/s</td><td></td></tr>\n");
    }
    for level in &report.ceilings.memory {
        let size = level.capacity_bytes.map_or(String::new(), |size| bytes(size as u64));
        let (read, copy) = (level.read_bytes_per_second / 1e9, level.copy_bytes_per_second / 1e9);
        let name = escape(&level.name);
        body += &format!(
            "<tr><td>{name}</td><td>{size}</td><td>{read:.1} GB/s read</td><td>{copy:.1} GB/s copied</td></tr>\n"
        );
    }
    format!(
        "<section>\n<h2>Ceilings</h2>\n<div class=\"card table lab\"><table><tbody>\n{body}</tbody></table></div>\n</section>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{baseline::compare, test_report};
    use super::*;

    #[test]
    fn one_dot_a_row_and_one_a_peer() {
        let report = test_report();
        let page = render(&report, None);
        let count = |part: &str| page.matches(part).count();
        assert_eq!((count("class=\"dot ours"), count("class=\"dot peer")), (report.rows.len(), 1));
        // What only moves bytes stands at the edge.
        assert_eq!((count("class=\"dot ours edge\""), count("<title>forward take_rows")), (1, 1));
        assert_eq!(count("class=\"bandwidth\""), report.ceilings.memory.len());
        assert_eq!(count("class=\"ceiling\""), 1);
        assert_eq!(count("<tbody>\n"), 2);
    }

    #[test]
    fn the_page_is_safe_whole_and_tells_everything() {
        let report = test_report();
        let page = render(&report, Some(&compare(&report, &report)));
        assert!(!page.contains("<f32>") && !page.contains("A <processor>"), "text is escaped");
        assert!(!page.contains("NaN") && !page.contains("inf,") && !page.contains("src=") && !page.contains("href="));
        for part in
            ["matmul_nt 8x8x8 &lt;f32&gt;", "gemm &amp; co are not built in", "torch 2", "SAME", "commit 0123456789ab"]
        {
            assert!(page.contains(part), "{part}");
        }
    }
}
