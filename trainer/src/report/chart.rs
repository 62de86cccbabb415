//! Line charts as inline SVG. Colours and type come from the page's style sheet, so that they follow its scheme.

use std::fmt::Write;

/// Units of the drawing; the page scales it.
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

/// A chart over training steps.
pub(super) struct Chart {
    /// Heading.
    pub title: &'static str,
    /// What the vertical axis counts; empty for a pure number.
    pub unit: &'static str,
    /// Width in the units of the drawing: 520 for half the page, 1060 for all of it.
    pub width: f64,
    /// Logarithmic vertical axis.
    pub logarithmic: bool,
    /// Draw a running median over a faint line of the values.
    pub smooth: bool,
    /// The lines: name and (step, value).
    pub series: Vec<(&'static str, Vec<(f64, f64)>)>,
    /// A dashed line to compare with: its name and value.
    pub reference: Option<(String, f64)>,
}

impl Chart {
    /// The figure, or nothing if there are no points.
    pub fn render(mut self) -> String {
        for (_, points) in &mut self.series {
            points.retain(|(_, value)| value.is_finite() && (!self.logarithmic || *value > 0.0));
        }
        self.series.retain(|(_, points)| !points.is_empty());
        let Some((vertical, horizontal)) = self.axes() else { return String::new() };
        let (right, bottom) = (self.width - RIGHT, HEIGHT - BOTTOM);
        let x = |step: f64| LEFT + horizontal.place(step) * (right - LEFT);
        let y = |value: f64| bottom - vertical.place(value) * (bottom - TOP);

        let mut svg = String::new();
        for tick in vertical.ticks() {
            let y = y(tick);
            let _ = write!(svg, r#"<path class="grid" d="M{LEFT} {y:.1}H{right}"/>"#);
            let _ = write!(
                svg,
                r#"<text class="tick" x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 7.0,
                y + 3.6,
                short(tick)
            );
        }
        for tick in horizontal.ticks() {
            let x = x(tick);
            let _ = write!(
                svg,
                r#"<text class="tick" x="{x:.1}" y="{}" text-anchor="middle">{}</text>"#,
                HEIGHT - 8.0,
                short(tick)
            );
        }
        let _ = write!(svg, r#"<path class="axis" d="M{LEFT} {bottom}H{right}"/>"#);
        if let Some((name, value)) = &self.reference {
            let y = y(*value);
            let _ = write!(svg, r#"<path class="reference" d="M{LEFT} {y:.1}H{right}"/>"#);
            let _ = write!(svg, r#"<text class="note" x="{right}" y="{:.1}" text-anchor="end">{name}</text>"#, y - 5.0);
        }
        let clip = self.title.replace(' ', "-").to_lowercase();
        let _ = write!(
            svg,
            r#"<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{}" height="{}"/></clipPath><g clip-path="url(#{clip})">"#,
            right - LEFT,
            bottom - TOP
        );
        let draw = |points: &[(f64, f64)]| {
            let places: Vec<String> =
                points.iter().map(|&(step, value)| format!("{:.1} {:.1}", x(step), y(value))).collect();
            format!("M{}", places.join("L"))
        };
        for (index, (_, points)) in self.series.iter().enumerate() {
            let colour = index + 1;
            let columns = (right - LEFT) as usize;
            if self.is_smoothed(points) {
                let _ = write!(svg, r#"<path class="raw s{colour}" d="{}"/>"#, draw(&thin(points, columns / 2)));
                let _ = write!(
                    svg,
                    r#"<path class="line s{colour}" d="{}"/>"#,
                    draw(&thin(&running_median(points), columns / 4))
                );
            } else {
                let _ = write!(svg, r#"<path class="line s{colour}" d="{}"/>"#, draw(&thin(points, columns / 2)));
            }
        }
        svg.push_str("</g>");

        let unit =
            if self.unit.is_empty() { String::new() } else { format!(r#" <span class="unit">{}</span>"#, self.unit) };
        let mut legend = String::new();
        let mut summary = Vec::new();
        for (index, (name, points)) in self.series.iter().enumerate() {
            let (first, last) = (points[0].1, points[points.len() - 1].1);
            summary.push(format!("{name} from {} to {}", short(first), short(last)));
            if self.series.len() > 1 {
                let _ = write!(legend, r#"<span class="key"><i class="k{}"></i>{name}</span>"#, index + 1);
            }
        }
        format!(
            r#"<figure class="chart{}"><figcaption><b>{}</b>{unit}{legend}</figcaption><svg viewBox="0 0 {} {HEIGHT}" role="img" aria-label="{}: {}">{svg}</svg></figure>"#,
            if self.width > 800.0 { " wide" } else { "" },
            self.title,
            self.width,
            self.title,
            summary.join(", "),
        )
    }

    /// Vertical and horizontal axis.
    fn axes(&self) -> Option<(Axis, Axis)> {
        let steps = self.series.iter().flat_map(|(_, points)| points.iter().map(|point| point.0));
        let (first, last) =
            steps.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), step| (low.min(step), high.max(step)));
        // Where a running median is drawn it sets the range: one spike would press everything else flat.
        let shown =
            |points: &Vec<(f64, f64)>| if self.is_smoothed(points) { running_median(points) } else { points.clone() };
        let values = self.series.iter().flat_map(|(_, points)| shown(points)).map(|point| point.1);
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high || first > last {
            return None;
        }
        let high = self.reference.as_ref().map_or(high, |reference| high.max(reference.1));
        let vertical = Axis::over(if self.logarithmic { low } else { low.min(0.0) }, high, self.logarithmic);
        Some((vertical, Axis { low: first, high: last + 1.0, logarithmic: false }))
    }

    /// Whether a line gets a running median over its faint values.
    fn is_smoothed(&self, points: &[(f64, f64)]) -> bool {
        self.smooth && points.len() >= 30
    }
}

/// One axis.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// An axis over a range of values, with a little room above.
    fn over(low: f64, high: f64, logarithmic: bool) -> Axis {
        if logarithmic {
            return Axis { low: low / 1.5, high: high * 1.5, logarithmic };
        }
        let high = if high > low { high + 0.06 * (high - low) } else { low + low.abs().max(1.0) };
        Axis { low, high, logarithmic }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Round values to mark.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic && self.high / self.low >= 4.0 {
            let decades = (self.high / self.low).log10();
            let steps: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let first = self.low.log10().floor() as i32;
            let marks = (first..=self.high.log10().ceil() as i32)
                .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
            return marks.filter(|mark| (self.low..=self.high).contains(mark)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.low / step - 1e-9).ceil() as i64;
        (first..).map(|index| index as f64 * step).take_while(|mark| *mark <= self.high + 1e-9 * step).collect()
    }
}

/// A number for an axis: three digits, k and M for thousands and millions.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, suffix) = if size >= 1e6 {
        (value / 1e6, "M")
    } else if size >= 1e4 {
        (value / 1e3, "k")
    } else if size != 0.0 && size < 1e-4 {
        return format!("{value:.1e}").replace(".0e", "e").replace('-', "\u{2212}");
    } else {
        (value, "")
    };
    let leading = if scaled == 0.0 { 0 } else { scaled.abs().log10().floor() as i32 };
    let digits = (2 - leading).max(0) as usize;
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// At most twice `columns` points that keep the lowest and the highest of each column.
fn thin(points: &[(f64, f64)], columns: usize) -> Vec<(f64, f64)> {
    if points.len() <= 2 * columns {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * columns);
    for column in points.chunks(points.len().div_ceil(columns)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        if let (Some(&low), Some(&high)) = (column.iter().min_by(by_value), column.iter().max_by(by_value)) {
            kept.extend(if low.0 <= high.0 { [low, high] } else { [high, low] });
        }
    }
    kept
}

/// Median over a window of one fortieth of the points. It is centred at the start, where losses fall steeply and a
/// lopsided window would lie; at the end it lacks its right half, where a narrow one would follow the noise.
fn running_median(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 80).max(2);
    let median = |index: usize| {
        let reach = half.min(index);
        let window = &points[index - reach..points.len().min(index + reach + 1)];
        let mut values: Vec<f64> = window.iter().map(|point| point.1).collect();
        let middle = values.len() / 2;
        *values.select_nth_unstable_by(middle, f64::total_cmp).1
    };
    (0..points.len()).map(|index| (points[index].0, median(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.001, "0.001"),
            (0.0125, "0.0125"),
            (0.25, "0.25"),
            (4.85, "4.85"),
            (12.0, "12"),
            (12.34, "12.3"),
            (812.4, "812"),
            (9000.0, "9000"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
        assert_eq!(
            [short(12_500.0), short(2e6), short(5e-5), short(-2.5e-7)],
            ["12.5k", "2M", "5e\u{2212}5", "\u{2212}2.5e\u{2212}7"]
        );
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = |low, high, logarithmic| Axis { low, high, logarithmic }.ticks();
        assert_eq!(ticks(0.0, 5.2, false), [0.0, 2.0, 4.0]);
        assert_eq!(ticks(0.0, 1000.0, false), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(ticks(-1.0, 1.0, false).len(), 5);
        assert_eq!(ticks(0.5, 2000.0, true), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(ticks(3.0, 30.0, true), [5.0, 10.0, 20.0]);
    }

    #[test]
    fn thinning_keeps_the_spikes() {
        let mut points: Vec<_> = (0..10_000).map(|step| (f64::from(step), 1.0)).collect();
        points[7777].1 = 9.0;
        points[123].1 = -9.0;
        let thinned = thin(&points, 100);
        assert!(thinned.len() <= 200);
        assert!(thinned.contains(&(7777.0, 9.0)) && thinned.contains(&(123.0, -9.0)));
        assert!(thinned.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn the_running_median_follows_the_start_and_ignores_spikes() {
        let value = |step: u32| 1.0 + 9.0 * (-f64::from(step) / 20.0).exp();
        let mut points: Vec<_> = (0..400).map(|step| (f64::from(step), value(step))).collect();
        points[200].1 = 1e6;
        let smooth = running_median(&points);
        assert_eq!(smooth[0], points[0]);
        let far = (0..400).filter(|step| (smooth[*step as usize].1 - value(*step)).abs() > 0.01).count();
        assert_eq!(far, 0, "a falling curve is its own median in a centred window");
    }

    #[test]
    fn nothing_to_draw_is_no_figure() {
        let chart = |points| Chart {
            title: "Loss",
            unit: "",
            width: 520.0,
            logarithmic: false,
            smooth: true,
            series: vec![("a", points)],
            reference: None,
        };
        assert_eq!(chart(vec![]).render(), "");
        assert_eq!(chart(vec![(0.0, f64::NAN)]).render(), "");
        let one = chart(vec![(3.0, 2.0)]).render();
        assert!(one.contains("<svg") && !one.contains("NaN") && !one.contains("inf"), "{one}");
    }
}
