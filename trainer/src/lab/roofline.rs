//! The roofline as inline SVG: rate of arithmetic over arithmetic per byte, both logarithmic. Bandwidths are diagonals, rates
//! of arithmetic are flat; an op is a dot below the lowest of what bounds it.

use super::table::time;
use super::{PeerRow, Report, Row};
use crate::report::html::escape;
use engine::DType;
use std::fmt::Write;

/// Units of the drawing; the page scales it.
const WIDTH: f64 = 1060.0;
const HEIGHT: f64 = 600.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

/// A logarithmic axis from `low` to `high` onto places from `first` to `last`.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    first: f64,
    last: f64,
}

impl Axis {
    /// Over all values, with room at both ends.
    fn over(values: impl Iterator<Item = f64>, first: f64, last: f64) -> Option<Axis> {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0), |(low, high), value| (value.min(low), value.max(high)));
        (high > 0.0).then_some(Axis { low: low / 1.6, high: high * 1.6, first, last })
    }

    fn place(&self, value: f64) -> f64 {
        self.first + (self.last - self.first) * (value / self.low).ln() / (self.high / self.low).ln()
    }

    /// Powers of ten, and what lies between them where there are few.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = if (self.high / self.low).log10() < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let marks = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        marks.filter(|mark| (self.low..=self.high).contains(mark)).collect()
    }
}

/// A dot: arithmetic per byte, rate, classes, and what it is. What does no arithmetic stands at the left edge, where its
/// height is its rate of bytes on the scale of the diagonals.
struct Dot {
    intensity: Option<f64>,
    /// Billions of operations a second, or without any, of bytes.
    rate: f64,
    class: &'static str,
    shape: DType,
    label: String,
}

impl Dot {
    fn of_row(row: &Row) -> Dot {
        let percent = row.roofline_percent.map_or(String::new(), |percent| format!(", {percent:.0} % of the roofline"));
        Dot::new(row, "ours", row.seconds.median, &format!("{} {}{percent}", row.pass, row.name))
    }

    fn of_peer(row: &Row, peer: &PeerRow) -> Dot {
        let label = format!("{}: {} {}, {:.2} of our time", peer.name, row.pass, row.name, peer.ratio.median);
        Dot::new(row, "peer", peer.seconds.median, &label)
    }

    fn new(row: &Row, class: &'static str, seconds: f64, label: &str) -> Dot {
        let (intensity, rate) = match row.flops > 0.0 && row.bytes > 0.0 {
            true => (Some(row.flops / row.bytes), row.flops / seconds / 1e9),
            false => (None, row.bytes / seconds / 1e9),
        };
        let rates = format!("{:.1} GFLOP/s, {:.1} GB/s", row.flops / seconds / 1e9, row.bytes / seconds / 1e9);
        let label = format!("{label}\n{}, {rates}, bound by {}", time(seconds), row.bound);
        Dot { intensity, rate, class, shape: row.dtype.unwrap_or(DType::F32), label }
    }
}

/// The figure; nothing without a row that has work.
pub fn render(report: &Report) -> String {
    let counted: Vec<&Row> = report.rows.iter().filter(|row| row.bytes > 0.0).collect();
    let mut dots: Vec<Dot> =
        (counted.iter()).flat_map(|row| row.peers.iter().map(|peer| Dot::of_peer(row, peer))).collect();
    // Ours on top.
    dots.extend(counted.iter().map(|row| Dot::of_row(row)));
    let isa = &report.environment.isa;
    let roofs: Vec<(String, f64)> = (report.ceilings.compute.iter())
        .filter(|compute| compute.isa == *isa)
        .map(|compute| (compute.dtype.to_string(), compute.flops_per_second / 1e9))
        .collect();
    let bandwidths: Vec<(String, f64)> =
        report.ceilings.memory.iter().map(|level| (level.name.clone(), level.bytes_per_second() / 1e9)).collect();
    let highest = roofs.iter().fold(0.0, |highest: f64, roof| highest.max(roof.1));
    let ridges = bandwidths.iter().map(|(_, rate)| highest / rate);
    let Some(x) = Axis::over(dots.iter().filter_map(|dot| dot.intensity).chain(ridges), LEFT, WIDTH - RIGHT) else {
        return String::new();
    };
    let height = |dot: &Dot| dot.rate * dot.intensity.map_or(x.low, |_| 1.0);
    let lowest_dot = dots.iter().map(height).filter(|rate| *rate > 0.0).fold(highest, f64::min);
    let values = [highest, lowest_dot, highest / 30.0];
    let Some(y) = Axis::over(values.into_iter(), HEIGHT - BOTTOM, TOP) else { return String::new() };

    let mut svg = grid(&x, &y);
    // What is about as fast has one line: names of two would lie over one another.
    for (name, rate) in merged(&bandwidths, 0.2) {
        svg += &diagonal(&name, rate, highest, &x, &y);
    }
    let ceilings = merged(&roofs, 0.05);
    let fastest = bandwidths.iter().fold(0.0, |fastest: f64, bandwidth| fastest.max(bandwidth.1));
    for (name, rate) in ceilings {
        let (from, to, at) = (x.place((rate / fastest).max(x.low)), x.last, y.place(rate));
        let _ = write!(svg, r#"<path class="ceiling" d="M{from:.1} {at:.1}H{to:.1}"/>"#);
        let _ = write!(
            svg,
            r#"<text class="name" x="{:.1}" y="{:.1}">{name}</text><text class="tick" x="{:.1}" y="{:.1}">{rate:.0}</text>"#,
            to + 6.0,
            at + 1.0,
            to + 6.0,
            at + 13.0
        );
    }
    for dot in &dots {
        let (across, down) = (x.place(dot.intensity.unwrap_or(x.low)), y.place(height(dot).max(y.low)));
        svg += &mark(dot, across, down);
    }
    let count = counted.len();
    let keys = keys(&dots);
    format!(
        "<figure class=\"chart wide\"><figcaption><b>GFLOP/s</b><span class=\"unit\">over FLOP per byte</span>{keys}\
         </figcaption><svg class=\"roofline\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline of {count} \
         rows on {isa}\">{svg}</svg></figure>\n"
    )
}

/// Rates with their names, those within a share `near` of an earlier one under both names.
fn merged(rates: &[(String, f64)], near: f64) -> Vec<(String, f64)> {
    let mut lines: Vec<(String, f64)> = Vec::new();
    for (name, rate) in rates {
        match lines.iter_mut().find(|(_, known)| (known / rate - 1.0).abs() < near) {
            Some((names, _)) => *names += &format!(", {name}"),
            None => lines.push((name.clone(), *rate)),
        }
    }
    lines
}

/// Lines and numbers of both axes.
fn grid(x: &Axis, y: &Axis) -> String {
    let mut svg = String::new();
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = write!(svg, r#"<path class="grid" d="M{} {at:.1}H{}"/>"#, x.first, x.last);
        let (left, down) = (x.first - 8.0, at + 3.6);
        let _ = write!(svg, r#"<text class="tick" x="{left}" y="{down:.1}" text-anchor="end">{tick}</text>"#);
    }
    for tick in x.ticks() {
        let at = x.place(tick);
        let _ = write!(svg, r#"<path class="grid" d="M{at:.1} {}V{}"/>"#, y.first, y.last);
        let down = y.first + 16.0;
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{down}" text-anchor="middle">{tick}</text>"#);
    }
    let middle = 0.5 * (x.first + x.last);
    let below = HEIGHT - 8.0;
    let _ = write!(svg, r#"<text class="tick" x="{middle}" y="{below}" text-anchor="middle">FLOP per byte</text>"#);
    svg
}

/// The line of a bandwidth up to the highest rate of arithmetic, with its name along it.
fn diagonal(name: &str, rate: f64, highest: f64, x: &Axis, y: &Axis) -> String {
    let start = x.low.max(y.low / rate);
    let end = (highest / rate).min(x.high);
    if start >= end {
        return String::new();
    }
    let points = [start, end].map(|intensity| (x.place(intensity), y.place(rate * intensity)));
    let [(x0, y0), (x1, y1)] = points;
    let angle = (y1 - y0).atan2(x1 - x0).to_degrees();
    // Beside its upper end, where diagonals are apart from dots of small kernels.
    let (across, down) = (x0 + 0.12 * (x1 - x0), y0 + 0.12 * (y1 - y0));
    format!(
        "<path class=\"bandwidth\" d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\"/><text class=\"name\" \
         transform=\"translate({across:.1} {down:.1}) rotate({angle:.1})\" dy=\"-6\">{} {rate:.0} GB/s</text>",
        escape(name)
    )
}

/// A circle for f32, a diamond for bf16.
fn mark(dot: &Dot, x: f64, y: f64) -> String {
    let place = if dot.intensity.is_none() { " edge" } else { "" };
    let shape = match dot.shape {
        DType::BF16 => {
            format!(
                "<path d=\"M{x:.1} {:.1}L{:.1} {y:.1}L{x:.1} {:.1}L{:.1} {y:.1}Z\"/>",
                y - 7.0,
                x + 7.0,
                y + 7.0,
                x - 7.0
            )
        }
        _ => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5.5\"/>"),
    };
    format!("<g class=\"dot {}{place}\" tabindex=\"0\">{shape}<title>{}</title></g>", dot.class, escape(&dot.label))
}

/// What colours and shapes stand for, as far as they are there.
fn keys(dots: &[Dot]) -> String {
    let has = |found: &dyn Fn(&Dot) -> bool| dots.iter().any(found);
    let mut keys = String::new();
    let mut key = |class: &str, name: &str| {
        let _ = write!(keys, "<span class=\"key\"><i class=\"{class}\"></i>{name}</span>");
    };
    if has(&|dot| dot.class == "peer") {
        key("round k1", "ours");
        key("round k2", "others");
    }
    if has(&|dot| dot.shape == DType::BF16) && has(&|dot| dot.shape != DType::BF16) {
        key("round", "f32");
        key("diamond", "bf16");
    }
    if has(&|dot| dot.intensity.is_none()) {
        key("edge", "at the left edge: no arithmetic, placed by its bytes");
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::test_report;

    #[test]
    fn places_are_logarithmic() {
        let axis = Axis { low: 1.0, high: 100.0, first: 10.0, last: 30.0 };
        assert_eq!([1.0, 10.0, 100.0].map(|value| axis.place(value)), [10.0, 20.0, 30.0]);
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert!(Axis::over([0.0, f64::NAN].into_iter(), 0.0, 1.0).is_none());
    }

    #[test]
    fn rates_that_are_nearly_equal_have_one_line() {
        let rates = [("L1", 550.0), ("L2", 530.0), ("L3", 250.0)].map(|(name, rate)| (name.to_owned(), rate));
        assert_eq!(merged(&rates, 0.2), [("L1, L2".to_owned(), 550.0), ("L3".to_owned(), 250.0)]);
    }

    #[test]
    fn a_dot_at_the_ceiling_lies_on_the_line() {
        let mut report = test_report();
        // 10 FLOP a byte at 10 GB/s.
        report.rows.truncate(1);
        report.rows[0].peers.clear();
        (report.rows[0].flops, report.rows[0].bytes) = (1e9, 1e8);
        report.rows[0].seconds.median = 1e-2;
        let svg = render(&report);
        let number = |text: &str, after: &str| -> f64 {
            let rest = &text[text.find(after).unwrap() + after.len()..];
            rest[..rest.find(['"', ' ', 'H']).unwrap()].parse().unwrap()
        };
        let ceiling = &svg[svg.find("class=\"ceiling\"").unwrap()..];
        let flat = number(&ceiling[ceiling.find("d=\"M").unwrap()..], " ");
        assert!((number(&svg, "cy=\"") - flat).abs() < 0.2, "{svg}");
    }
}
