//! HTML character references, as Python's `html.unescape` reads them and as ftfy, stricter, does.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Name, with its semicolon where it has one, to text.
fn named() -> &'static HashMap<&'static str, String> {
    static NAMED: OnceLock<HashMap<&'static str, String>> = OnceLock::new();
    NAMED.get_or_init(|| {
        let mut names = HashMap::new();
        for line in include_str!("../../data/html_entities.txt").lines() {
            let mut fields = line.split(' ');
            let name = fields.next().unwrap_or_default();
            let text = fields.filter_map(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?)).collect();
            names.insert(name, text);
        }
        names
    })
}

/// What a browser shows for the numeric references 0x80 to 0x9f: the characters of Windows-1252.
pub(super) const WINDOWS_1252: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{2c6}', '\u{2030}',
    '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}', '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}',
    '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}',
    '\u{17e}', '\u{178}',
];

/// Appends what a numeric reference stands for; forbidden code points stand for nothing.
fn push_numeric(code: Option<u32>, out: &mut String) {
    match code {
        Some(0) => out.push('\u{fffd}'),
        Some(0x0d) => out.push('\r'),
        Some(code @ 0x80..=0x9f) => out.push(WINDOWS_1252[code as usize - 0x80]),
        Some(0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef) => {}
        Some(code) if code <= 0x10ffff && code & 0xfffe == 0xfffe => {}
        // Surrogates and numbers past the last code point.
        code => out.push(code.and_then(char::from_u32).unwrap_or('\u{fffd}')),
    }
}

/// Length of `digits` at the head of `text` and their value; no value when past any code point.
fn number(text: &str, radix: u32) -> (usize, Option<u32>) {
    let length = text.bytes().take_while(|byte| (*byte as char).is_digit(radix)).count();
    (length, u32::from_str_radix(&text[..length], radix).ok())
}

/// Bytes of the numeric reference after `&` at the head of `text` (from `#`), with its semicolon if there, and its value.
fn numeric(text: &str) -> Option<(usize, Option<u32>)> {
    let digits = text.strip_prefix('#')?;
    let (head, (length, value)) = match digits.strip_prefix(['x', 'X']) {
        Some(hexadecimal) => (2, number(hexadecimal, 16)),
        None => (1, number(digits, 10)),
    };
    if length == 0 {
        return None;
    }
    let end = head + length;
    Some((end + usize::from(text[end..].starts_with(';')), value))
}

/// `html.unescape` of Python: every reference, also without semicolon, the longest known name first.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let body = &rest[at + 1..];
        if let Some((length, code)) = numeric(body) {
            push_numeric(code, &mut out);
            rest = &body[length..];
            continue;
        }
        // Up to 32 characters that are no white space, `<`, `&`, `#` or `;`, then a semicolon if there is one.
        let mut end = body
            .char_indices()
            .enumerate()
            .find(|&(count, (_, c))| count == 32 || matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';'))
            .map_or(body.len(), |(_, (at, _))| at);
        if end > 0 && body[end..].starts_with(';') {
            end += 1;
        }
        let known = body[..end].char_indices().map(|(at, c)| at + c.len_utf8()).rev();
        match known.filter(|&length| length >= 2).find_map(|length| Some((length, named().get(&body[..length])?))) {
            Some((length, text)) => {
                out.push_str(text);
                rest = &body[length..];
            }
            None => {
                out.push('&');
                rest = body;
            }
        }
    }
    out.push_str(rest);
    out
}

/// ftfy's `unescape_html`: only references that end in a semicolon, and names shouted in capitals where HTML has no such.
pub(super) fn unescape_strictly(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let body = &rest[at + 1..];
        let hash = usize::from(body.starts_with('#'));
        let length = body[hash..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        rest = body;
        let whole = hash + length + 1;
        if (1..=24).contains(&length) && body[hash + length..].starts_with(';') {
            let name = &body[..whole];
            let replaced = if hash == 1 {
                let text = unescape(&reference(name));
                if text.contains(';') { None } else { Some(text) }
            } else {
                named().get(name).cloned().or_else(|| shouted(name))
            };
            if let Some(replaced) = replaced {
                out.push_str(&replaced);
                rest = &body[whole..];
                continue;
            }
        }
        out.push('&');
    }
    out.push_str(rest);
    out
}

fn reference(name: &str) -> String {
    format!("&{name}")
}

/// `NTILDE;` for `ntilde;`: a capital name that HTML does not know and whose lower-case form it does.
fn shouted(name: &str) -> Option<String> {
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let text = named().get(name.to_ascii_lowercase().as_str())?;
    let reference = reference(name);
    (unescape(&reference) == reference).then(|| text.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_python_reads_them() {
        assert_eq!(
            unescape("&amp;&lt&#65;&#x42 &#128; &notit; &#0; &#1; &#xD800; &; &nope; 5 & 6"),
            "&<AB € ¬it; \u{fffd}  \u{fffd} &; &nope; 5 & 6"
        );
        assert_eq!(unescape_strictly("&amp; &lt &NTILDE; &nTILDE; &#233; &#xe9"), "& &lt Ñ &nTILDE; é &#xe9");
    }
}
