//! The page itself: sections in the order in which a reader asks (how good, how did it learn, examples, how it was made).

use super::chart::{Chart, short};
use super::gallery::{caption_pictures, queries};
use super::html::{STYLE, escape, grouped, percent};
use super::{CaptionRow, ClassRow, Recall, ReportData, RetrievalRow, RunFacts, Seen, ZeroShotRow};
use crate::machine::bytes;
use crate::metrics::StepRecord;
use crate::progress::clock;
use std::fmt::Write;
use std::time::Duration;

/// The whole page.
pub(super) fn render(data: &ReportData) -> String {
    let title = escape(&data.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n",
        lead(data)
    );
    if !data.notes.is_empty() {
        let notes: String = data.notes.iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
        let _ = writeln!(page, "<ul class=\"notes\">{notes}</ul>");
    }
    page += &tiles(data);
    page += "</header>\n";
    page += &classes(&data.classes);
    page += &zero_shot(&data.zero_shot);
    page += &retrieval(data);
    page += &learning(data);
    page += &captions(data);
    page += &queries(&data.queries);
    page += &speed(data);
    page += &made(data);
    page += "</main>\n</body>\n</html>\n";
    page
}

fn time(seconds: f64) -> String {
    clock(Duration::from_secs_f64(seconds.clamp(0.0, 1e12).round()))
}

/// `1 picture`, `2 pictures`.
fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn lead(data: &ReportData) -> String {
    let RunFacts { machine, parameters, pairs, training_seconds, dtype, .. } = &data.facts;
    format!(
        "A CoCa of {} parameters, trained on {} for {} in {} with {dtype} on {}.",
        short(*parameters as f64),
        counted(*pairs, "image-text pair"),
        counted(data.steps.len() as u64, "step"),
        time(*training_seconds),
        escape(&machine.summary())
    )
}

fn tiles(data: &ReportData) -> String {
    let mut tiles = String::new();
    let mut tile = |value: String, unit: &str, what: &str, beside: String| {
        let unit = if unit.is_empty() { String::new() } else { format!("<small>{unit}</small>") };
        let _ = write!(tiles, "<div class=\"tile\"><b>{value}{unit}</b><span>{what}</span><em>{beside}</em></div>");
    };
    let tenths = |share: f64| format!("{:.1}", 100.0 * share);
    for row in data.classes.iter().filter(|row| row.seen != Seen::Nothing).take(2) {
        let (set, classes) = (escape(&row.set), grouped(row.classes as u64));
        let beside = format!("{set} among {classes} classes, majority {}", percent(row.majority));
        tile(tenths(row.top1), "%", "head, top-1", beside);
    }
    for row in data.zero_shot.iter().filter(|row| row.seen != Seen::Nothing).take(2) {
        let floor = row.floor.map_or(String::new(), |(top1, _)| format!(", pixels alone {}", percent(top1)));
        let beside = format!("{} among {} names{floor}", escape(&row.set), grouped(row.classes as u64));
        tile(tenths(row.top1), "%", "zero-shot top-1", beside);
    }
    if let Some(row) = data.retrieval.first() {
        let beside = format!("{}, among {}", escape(&row.set), grouped(row.count as u64));
        tile(tenths(row.text_to_image.at_1), "%", "text to image, R@1", beside);
    }
    let rate = median(data.steps.iter().map(|step| step.images_per_second));
    let gflops = median(data.steps.iter().map(|step| step.gflops));
    if let Some(rate) = rate {
        let share = match (gflops, data.facts.peak_gflops) {
            (Some(gflops), Some(peak)) => format!("{gflops:.0} GFLOP/s, {:.0}\u{202f}% of peak", 100.0 * gflops / peak),
            (Some(gflops), None) => format!("{gflops:.0} GFLOP/s"),
            _ => String::new(),
        };
        tile(grouped(rate.round() as u64), "/s", "images trained", share);
    }
    let (training, evaluation) = (data.facts.training_seconds, data.facts.evaluation_seconds);
    tile(time(training), "", "training", format!("and {} of evaluation", time(evaluation)));
    if data.facts.peak_memory > 0 {
        let text = bytes(data.facts.peak_memory);
        let (value, unit) = text.split_once(' ').unwrap_or((&text, ""));
        let all = if data.facts.machine.memory_total > 0 {
            format!("of {}", bytes(data.facts.machine.memory_total))
        } else {
            String::new()
        };
        tile(value.to_owned(), unit, "memory at most", all);
    }
    format!("<div class=\"tiles\">{tiles}</div>\n")
}

/// The middle of the values that are finite and positive.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The rows of test sets in a table of this many columns, each kind of set under its heading.
fn by_kind<T>(rows: &[T], columns: usize, kind: impl Fn(&T) -> Seen, cells: impl Fn(&T) -> String) -> String {
    let mut body = String::new();
    for seen in Seen::ALL {
        let mut rows = rows.iter().filter(|row| kind(row) == seen).peekable();
        if rows.peek().is_some() {
            let _ = writeln!(body, "<tr class=\"heading\"><td colspan=\"{columns}\">{}</td></tr>", seen.heading());
        }
        rows.for_each(|row| body += &format!("<tr>{}</tr>\n", cells(row)));
    }
    body
}

fn classes(rows: &[ClassRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let cells = |row: &ClassRow| {
        let [share, majority] = [row.top1, row.majority].map(|share| 100.0 * share);
        let below = |name: &str, share: Option<f64>| {
            share.map_or(String::new(), |share| format!("<small>{name} {}</small>", percent(share)))
        };
        let (accuracy, floor) = (below("VQA accuracy", row.accuracy), below("text alone", row.floor));
        format!(
            "<td>{}<small>{}</small></td><td>{}</td><td class=\"strong\">{}{accuracy}</td>\
             <td class=\"bar\"><div class=\"track\"><i style=\"width:{share:.2}%\"></i>\
             <u style=\"left:calc({majority:.2}% - 1px)\"></u></div></td><td>{}</td><td>{}</td><td>{}{floor}</td><td>{}</td><td>{}</td>",
            escape(&row.set),
            escape(&row.about),
            grouped(row.count as u64),
            percent(row.top1),
            percent(row.top5),
            percent(row.mean_per_class),
            percent(row.majority),
            percent(row.chance),
            percent(row.known as f64 / row.count.max(1) as f64),
        )
    };
    let body = by_kind(rows, 9, |row| row.seen, cells);
    format!(
        "<section>\n<h2>Classification</h2>\n<p class=\"about\">What the head says, among {} classes. Majority is what always naming the \
         most frequent class of the training data would score. A sample of a class that training has not counts as wrong.</p>\n\
         <div class=\"card table\" tabindex=\"0\"><table>\n<thead><tr><th>Test set</th><th>Samples</th><th>Top-1</th>\
         <th class=\"bar\"></th><th>Top-5</th><th>Mean per class</th><th>Majority</th><th>Chance</th><th>Of known classes</th></tr>\
         </thead>\n<tbody>\n{body}</tbody></table></div>\n<p class=\"legend\">Bar: top-1. <span class=\"floor\"></span> \
         majority.</p>\n</section>\n",
        rows[0].classes
    )
}

fn zero_shot(rows: &[ZeroShotRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let cells = |row: &ZeroShotRow| {
        let (floor1, floor5) =
            row.floor.map_or(("–".to_owned(), "–".to_owned()), |(top1, top5)| (percent(top1), percent(top5)));
        let mark = row
            .floor
            .map_or(String::new(), |(top1, _)| format!("<u style=\"left:calc({:.2}% - 1px)\"></u>", 100.0 * top1));
        format!(
            "<td>{}<small>{}</small></td><td>{}</td><td class=\"strong\">{}</td>\
             <td class=\"bar\"><div class=\"track\"><i style=\"width:{:.2}%\"></i>{mark}</div></td>\
             <td>{}</td><td>{floor1}</td><td>{floor5}</td>",
            escape(&row.set),
            escape(&format!(
                "{}{}{} classes",
                row.about,
                if row.about.is_empty() { "" } else { "; " },
                grouped(row.classes as u64)
            )),
            grouped(row.count as u64),
            percent(row.top1),
            100.0 * row.top1,
            percent(row.top5),
        )
    };
    let body = by_kind(rows, 7, |row| row.seen, cells);
    format!(
        "<section>\n<h2>Zero-shot classification</h2>\n<p class=\"about\">Each picture is compared with the names of all \
         classes. The pixel floor is what the nearest training picture by pixels would score: only what stands above it \
         has been understood.</p>\n<div class=\"card table\" tabindex=\"0\"><table>\n<thead><tr><th>Test set</th><th>Pictures</th>\
         <th>Top-1</th><th class=\"bar\"></th><th>Top-5</th><th>Floor top-1</th><th>Floor top-5</th></tr></thead>\n\
         <tbody>\n{body}</tbody></table></div>\n<p class=\"legend\">Bar: top-1. <span class=\"floor\"></span> pixel \
         floor.</p>\n</section>\n"
    )
}

fn retrieval(data: &ReportData) -> String {
    if data.retrieval.is_empty() {
        return String::new();
    }
    let three = |Recall { at_1, at_5, at_10 }: Recall, floor: Option<Recall>| -> String {
        let below = |share: f64| format!("<small>{}</small>", percent(share));
        let floor =
            floor.map_or([const { String::new() }; 3], |floor| [floor.at_1, floor.at_5, floor.at_10].map(below));
        let [a, b, c] = [at_1, at_5, at_10].map(percent);
        format!("<td class=\"strong\">{a}{}</td><td>{b}{}</td><td>{c}{}</td>", floor[0], floor[1], floor[2])
    };
    let cells = |row: &RetrievalRow| {
        let (there, back) = row.floor.unzip();
        let (set, count) = (escape(&row.set), grouped(row.count as u64));
        format!("<td>{set}</td><td>{count}</td>{}{}", three(row.image_to_text, there), three(row.text_to_image, back))
    };
    let rows = by_kind(&data.retrieval, 8, |row| row.seen, cells);
    format!(
        "<section>\n<h2>Retrieval</h2>\n<p class=\"about\">How often the match of a picture or text is the first, among the \
         first five, among the first ten of the whole test set. Below, where it was measured, the pixel floor.</p>\n<div class=\"card table\" tabindex=\"0\"><table>\n<thead>\
         <tr><th></th><th></th><th class=\"group\" colspan=\"3\">Image to text</th><th class=\"group\" colspan=\"3\">Text to \
         image</th></tr>\n<tr><th>Test set</th><th>Pairs</th><th>R@1</th><th>R@5</th><th>R@10</th><th>R@1</th><th>R@5</th>\
         <th>R@10</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n</section>\n"
    )
}

fn learning(data: &ReportData) -> String {
    let points = |value: fn(&StepRecord) -> f64| -> Vec<(f64, f64)> {
        data.steps.iter().filter(|step| !step.skipped).map(|step| (step.step as f64, value(step))).collect()
    };
    let half = |title, unit, logarithmic, smooth, value| Chart {
        title,
        unit,
        width: 520.0,
        logarithmic,
        smooth,
        series: vec![(title, points(value))],
        reference: None,
    };
    let chance = (data.facts.pairs_per_step as f64).ln();
    // Losses that the run has.
    let has = |loss: fn(&StepRecord) -> f64| data.steps.iter().any(|step| loss(step) != 0.0);
    let losses: [(_, fn(&StepRecord) -> f64); 3] = [
        ("contrastive", |step| step.contrastive_loss),
        ("caption", |step| step.caption_loss),
        ("class", |step| step.class_loss),
    ];
    let compares = has(losses[0].1);
    let charts = [
        Chart {
            title: "Losses",
            unit: "nats, unweighted",
            width: 1060.0,
            logarithmic: false,
            smooth: true,
            series: losses
                .into_iter()
                .filter(|&(_, loss)| has(loss))
                .map(|(name, loss)| (name, points(loss)))
                .collect(),
            reference: compares.then(|| {
                (format!("contrastive by chance: ln {} = {}", data.facts.pairs_per_step, short(chance)), chance)
            }),
        },
        half("Learning rate", "", false, false, |step| step.learning_rate),
        half("Gradient norm", "before clipping, logarithmic", true, true, |step| step.grad_norm),
        half("Throughput", "images per second", false, true, |step| step.images_per_second),
    ];
    let scale = half("Similarity scale", "exp of logit_scale", false, false, |step| step.logit_scale.exp());
    let charts: String = charts.into_iter().chain(compares.then_some(scale)).map(Chart::render).collect();
    if charts.is_empty() {
        return String::new();
    }
    let tally = |test: fn(&StepRecord) -> bool| data.steps.iter().filter(|step| test(step)).count() as u64;
    format!(
        "<section>\n<h2>Learning</h2>\n<p class=\"about\">Faint: every step. Strong: running median. Horizontal: steps. {} skipped because a \
         value was not finite; {} flagged as outlier.</p>\n<div class=\"charts\">{charts}</div>\n</section>\n",
        counted(tally(|step| step.skipped), "step"),
        counted(tally(|step| step.outlier), "step"),
    )
}

fn captions(data: &ReportData) -> String {
    if data.captions.is_empty() && data.caption_scores.is_empty() {
        return String::new();
    }
    let mut section =
        "<section>\n<h2>Captions</h2>\n<p class=\"about\">Written by the decoder from the picture alone. \
                       Below a wrong one stands the true name.</p>\n"
            .to_owned();
    if let Some(first) = data.caption_scores.first() {
        let names: String = first.scores.iter().map(|(name, _)| format!("<th>{}</th>", escape(name))).collect();
        let _ = write!(
            section,
            "<div class=\"card table\" tabindex=\"0\" style=\"margin-bottom:12px\"><table><thead><tr><th>Test set</th><th>Pictures</th>\
             <th>Exactly right</th>{names}</tr></thead><tbody>"
        );
        let cells = |row: &CaptionRow| {
            let scores: String = row.scores.iter().map(|(_, score)| format!("<td>{score:.3}</td>")).collect();
            let (set, count) = (escape(&row.set), grouped(row.count as u64));
            format!("<td>{set}</td><td>{count}</td><td class=\"strong\">{}</td>{scores}", percent(row.exact))
        };
        section += &by_kind(&data.caption_scores, 3 + first.scores.len(), |row| row.seen, cells);
        section += "</tbody></table></div>\n";
    }
    section + &caption_pictures(&data.captions) + "</section>\n"
}

fn speed(data: &ReportData) -> String {
    if data.memory.is_empty() && data.profile.is_empty() {
        return String::new();
    }
    let mut section = "<section>\n<h2>Time and memory</h2>\n".to_owned();
    if !data.memory.is_empty() {
        let largest = data.memory.iter().map(|(_, size)| *size).max().unwrap_or(1).max(1) as f64;
        section += "<div class=\"card table\" tabindex=\"0\" style=\"margin-bottom:12px\"><table><thead><tr><th>Memory</th><th>Size</th>\
                    <th class=\"bar\"></th></tr></thead><tbody>";
        for (name, size) in &data.memory {
            let width = 100.0 * *size as f64 / largest;
            let _ = write!(
                section,
                "<tr><td>{}</td><td>{}</td><td class=\"bar\"><div class=\"track\"><i style=\"width:{width:.2}%\"></i></div></td></tr>",
                escape(name),
                bytes(*size)
            );
        }
        section += "</tbody></table></div>\n";
    }
    if !data.profile.is_empty() {
        section += "<div class=\"card table\" tabindex=\"0\"><table><thead><tr><th>Part of a step</th><th>Calls</th><th>ms</th><th>Share</th>\
                    <th>GFLOP/s</th><th>GB/s</th><th>Of roofline</th></tr></thead><tbody>";
        for row in &data.profile {
            let _ = write!(
                section,
                "<tr><td>{}</td><td>{}</td><td>{:.2}</td><td>{}</td><td>{:.0}</td><td>{:.1}</td><td>{:.0}\u{202f}%</td></tr>",
                escape(&row.name),
                row.calls,
                row.milliseconds,
                percent(row.share),
                row.gflops,
                row.gbytes,
                row.roofline_percent
            );
        }
        section += "</tbody></table></div>\n";
    }
    section + "</section>\n"
}

fn made(data: &ReportData) -> String {
    let RunFacts { config, machine, used, dtype, parameters, pairs, pairs_per_step, .. } = &data.facts;
    let epochs = data.steps.len() as f64 * *pairs_per_step as f64 / (*pairs).max(1) as f64;
    let facts = [
        ("Parameters", grouped(*parameters)),
        ("Data", format!("{}, seen {} times on average", counted(*pairs, "pair"), short(epochs))),
        ("Batch", counted(*pairs_per_step, "pair")),
        ("Processor", escape(&machine.summary())),
        ("Used", format!("{}, {dtype}", escape(used))),
    ];
    let facts: String = facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>")).collect();
    format!(
        "<section>\n<h2>How it was made</h2>\n<dl class=\"card\">{facts}</dl>\n<details class=\"card\"><summary>The whole \
         configuration</summary>\n<pre>{}</pre></details>\n</section>\n",
        escape(config)
    )
}
