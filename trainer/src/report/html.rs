//! Pieces of pages: style, text, pictures, marks.

use super::Picture;

/// The style of the pages.
pub(crate) const STYLE: &str = include_str!("style.css");

/// Text as HTML shows it, safe within quotes too.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            _ => safe.push(letter),
        }
    }
    safe
}

pub(crate) fn image(picture: &Picture, name: &str) -> String {
    let Picture { width, height, .. } = picture;
    format!("<img src=\"{}\" width=\"{width}\" height=\"{height}\" alt=\"{}\">", picture.data_uri(), escape(name))
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}\u{202f}%", 100.0 * share)
}

/// A whole number with thin spaces between groups of three digits.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A name marked as right or wrong by sign, colour and, for who hears the page, by word.
pub(crate) fn marked(right: bool, name: &str) -> String {
    let word = if right { "right" } else { "wrong" };
    format!("<span class=\"{word}\"><span class=\"unseen\">{word}: </span>{}</span>", escape(name))
}
