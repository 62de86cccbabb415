//! The page of the suite: a section for each task, then pictures.

use super::examples::{Examples, Look};
use super::plan::Section;
use super::row::Row;
use super::{Findings, Measured};
use crate::report::gallery::{caption_pictures, queries};
use crate::report::html::{STYLE, escape, grouped, image, marked, percent};
use clap::ValueEnum;
use std::fmt::Write;

/// What this page needs beside the report's style.
const OWN_STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn render(findings: &Findings, examples: &Examples) -> String {
    let rows = || findings.measured.iter().flat_map(|measured| &measured.rows);
    let held = rows().filter(|row| row.is_above().is_some()).count();
    let above = rows().filter(|row| row.is_above() == Some(true)).count();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>One CoCa, every task</title>\n\
         <style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>One CoCa, every task</h1>\n\
         <p class=\"lead\">A model of {} parameters, {}, held against what knowing less would reach: {above} of {held} figures \
         stand above their control. Where a task has a head, it was trained for {} steps.</p>\n",
        grouped(findings.parameters as u64),
        escape(&findings.model.display().to_string()),
        grouped(findings.steps)
    );
    if !findings.missing.is_empty() {
        let commands: String = findings
            .missing
            .iter()
            .map(|command| format!("<li>Not measured without <code>{}</code></li>", escape(command)))
            .collect();
        let _ = writeln!(page, "<ul class=\"notes\">{commands}</ul>");
    }
    page += "</header>\n";
    for &section in Section::value_variants() {
        page += &table(section, &findings.measured);
    }
    page += &looks(&examples.looks);
    page += &queries(&examples.queries);
    let _ = write!(
        page,
        "<section>\n<h2>Written about pictures</h2>\n<p class=\"about\">By the decoder, from the picture alone. Below a wrong one stands \
         the true name.</p>\n{}</section>\n",
        caption_pictures(&examples.captions)
    );
    page + "</main>\n</body>\n</html>\n"
}

/// The rows of a section; nothing if there are none.
fn table(section: Section, measured: &[Measured]) -> String {
    let measured: Vec<&Measured> = measured.iter().filter(|measured| measured.section == section).collect();
    let body: String = measured.iter().flat_map(|measured| &measured.rows).map(row).collect();
    if body.is_empty() {
        return String::new();
    }
    let (title, about) = section.heading();
    let commands: String = measured.iter().map(|measured| format!("{}\n", escape(&measured.command))).collect();
    format!(
        "<section>\n<h2>{title}</h2>\n<p class=\"about\">{about}</p>\n<div class=\"card table suite\" tabindex=\"0\"><table>\n<thead>\
         <tr><th>Set</th><th>Samples</th><th>Measure</th><th>CoCa</th><th class=\"bar\"></th><th>Control</th><th>Beside</th></tr>\
         </thead>\n<tbody>\n{body}</tbody></table></div>\n<p class=\"legend\">Bar: CoCa. <span class=\"floor\"></span> its \
         control.</p>\n<details class=\"card\"><summary>Commands</summary>\n<pre>{commands}</pre></details>\n</section>\n"
    )
}

fn row(row: &Row) -> String {
    let share = |value: f64| 100.0 * value.clamp(0.0, 1.0);
    let mark = row
        .control
        .as_ref()
        .map_or(String::new(), |(_, control)| format!("<u style=\"left:calc({:.2}% - 1px)\"></u>", share(*control)));
    let control = row
        .control
        .as_ref()
        .map_or("–".to_owned(), |(name, value)| format!("{}<small>{}</small>", percent(*value), escape(name)));
    let value = match row.is_above() {
        Some(above) => marked(above, &percent(row.value)),
        None => percent(row.value),
    };
    // Scores of captions are no shares.
    let shown = |name: &str, value: f64| match name {
        "BLEU-4" | "ROUGE-L" | "CIDEr-D" => format!("{value:.3}"),
        _ => percent(value),
    };
    let beside: Vec<String> =
        row.beside.iter().map(|(name, value)| format!("{}\u{a0}{}", escape(name), shown(name, *value))).collect();
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"strong\">{value}</td>\
         <td class=\"bar\"><div class=\"track\"><i style=\"width:{:.2}%\"></i>{mark}</div></td><td>{control}</td>\
         <td class=\"beside\">{}</td></tr>\n",
        escape(&row.set),
        grouped(row.count),
        escape(&row.measure),
        share(row.value),
        beside.join(" · ")
    )
}

/// Pictures under the attention of the pooled feature, with the nearest names.
fn looks(looks: &[Look]) -> String {
    if looks.is_empty() {
        return String::new();
    }
    let cards: String = looks.iter().map(card).collect();
    format!(
        "<section>\n<h2>Named, and where it looks</h2>\n<p class=\"about\">As many right as wrong ones of a style never seen, each with \
         the three nearest of all names. The bright parts are where the pooled feature attends.</p>\n\
         <ul class=\"pictures looks\">{cards}</ul>\n</section>\n"
    )
}

fn card(look: &Look) -> String {
    let most = look.attention.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let cells: String = look
        .attention
        .iter()
        .map(|weight| format!("<i style=\"opacity:{:.2}\"></i>", 0.72 * (1.0 - weight / most)))
        .collect();
    let side = look.attention.len().isqrt();
    let names: String = look
        .names
        .iter()
        .map(|(name, score)| {
            format!("<li>{}<span class=\"score\">{score:.3}</span></li>", marked(*name == look.truth, name))
        })
        .collect();
    let truth =
        if look.is_right() { String::new() } else { format!("<span class=\"truth\">{}</span>", escape(&look.truth)) };
    format!(
        "<li class=\"card\"><div class=\"look\" style=\"--side:{side}\">{}<div class=\"map\">{cells}</div></div>\
         <ol class=\"names\">{names}</ol>{truth}</li>",
        image(&look.picture, &look.truth)
    )
}
