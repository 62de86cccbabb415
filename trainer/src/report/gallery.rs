//! Pictures on pages: with captions, and as queries with what was found.

use super::html::{escape, image, marked};
use super::{CaptionExample, Hit, Item, QueryExample};
use std::fmt::Write;

/// A list of pictures with what was generated for each.
pub(crate) fn caption_pictures(captions: &[CaptionExample]) -> String {
    let mut section = "<ul class=\"pictures\">".to_owned();
    for CaptionExample { picture, generated, truth, set, right } in captions {
        let truth_line = if *right { String::new() } else { format!("<span class=\"truth\">{}</span>", escape(truth)) };
        let shown = if generated.trim().is_empty() { "(nothing)" } else { generated };
        let _ = write!(
            section,
            "<li class=\"card\" title=\"{}\">{}{}{truth_line}</li>",
            escape(set),
            image(picture, truth),
            marked(*right, shown)
        );
    }
    section + "</ul>\n"
}

/// The section of queries; nothing if there is none.
pub(crate) fn queries(queries: &[QueryExample]) -> String {
    if queries.is_empty() {
        return String::new();
    }
    let hit = |Hit { item, score, right }: &Hit| {
        let (picture, name) = match item {
            Item::Text(text) => (String::new(), text),
            Item::Picture(picture, name) => (image(picture, name), name),
        };
        let name = marked(*right, name);
        format!("<li>{picture}{name}<span class=\"score\">{score:.3}</span></li>")
    };
    let rows: String = (queries.iter())
        .map(|QueryExample { query, hits }| {
            let ask = match query {
                Item::Text(text) => format!("\u{201c}{}\u{201d}", escape(text)),
                Item::Picture(picture, name) => image(picture, name) + &escape(name),
            };
            let hits: String = hits.iter().map(hit).collect();
            format!("<div class=\"card query\"><div class=\"ask\">{ask}</div><ol class=\"hits\">{hits}</ol></div>\n")
        })
        .collect();
    format!(
        "<section>\n<h2>Found by meaning</h2>\n<p class=\"about\">Queries, each with the nearest of the whole test set and \
         their cosine similarity.</p>\n{rows}</section>\n"
    )
}
