//! What ftfy's `fix_text` does by default (version 6.3.1), which CLIP's cleaning starts with.
//!
//! Differences, all about mojibake: a line that looks like some is repaired only if it is, whole, valid UTF-8 read as Latin-1
//! or Windows-1252; the other code pages, sequences with lost or changed bytes, and mojibake in only a part of a line are
//! left as they are. What is wrapped more than [`ROUNDS`] deep (`&amp;amp;…`) stays wrapped: ftfy's work on it grows with
//! the square of the length.

use super::badness::is_bad;
use super::entities::{WINDOWS_1252, unescape_strictly};
use std::borrow::Cow;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Most times that a line is gone through.
const ROUNDS: usize = 16;

/// Repairs text line by line. Text of plain printable ASCII without `&` is returned as it is.
pub(super) fn fix_text(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte == b'&' || byte >= 0x7f || (byte < b' ' && !matches!(byte, b'\t' | b'\n' | 0xc))) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    // A `<` means HTML: from that line on its references stay for a reader of HTML.
    let mut references = true;
    for line in text.split_inclusive('\n') {
        references &= !line.contains('<');
        out.push_str(&fix_line(line, references));
    }
    Cow::Owned(out)
}

fn fix_line(line: &str, references: bool) -> String {
    let mut text = line.to_string();
    // Each round only shortens, decodes or normalises, until nothing changes.
    for _ in 0..ROUNDS {
        let before = text.clone();
        if references && text.contains('&') {
            // ftfy decides once per line: a `<` that an unescape makes does not stop the next round.
            text = unescape_strictly(&text);
        }
        while let Some(repaired) = repair_mojibake(&text) {
            text = repaired;
        }
        text = fix_characters(&text);
        text = fix_line_breaks(&text);
        text = remove_terminal_escapes(&text);
        text.retain(|c| !is_removed_control(c));
        if !is_nfc(&text) {
            text = text.nfc().collect();
        }
        if text == before {
            break;
        }
    }
    text
}

fn windows_1252_byte(character: char) -> Option<u8> {
    let code = character as u32;
    match code {
        0..=0x7f | 0xa0..=0xff => Some(code as u8),
        _ => WINDOWS_1252.iter().position(|&c| c == character).map(|at| 0x80 + at as u8),
    }
}

/// The text that this line was before something read its UTF-8 as Latin-1 or as Windows-1252.
fn repair_mojibake(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let decode = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    decode(text.chars().map(|c| u8::try_from(c as u32).ok()).collect())
        .or_else(|| decode(text.chars().map(windows_1252_byte).collect()))
}

fn fix_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let replaced = match character {
            '\0'..='\x7f' => {
                out.push(character);
                continue;
            }
            '\u{80}'..='\u{9f}' => {
                out.push(WINDOWS_1252[character as usize - 0x80]);
                continue;
            }
            '\u{3000}' => " ",
            '\u{ff01}'..='\u{ffef}' => {
                push_uncurled(&mut out, std::iter::once(character).nfkc());
                continue;
            }
            'Ĳ' => "IJ",
            'ĳ' => "ij",
            // ʼn, whose first letter is then uncurled.
            'ŉ' => "'n",
            'Ǳ' => "DZ",
            'ǲ' => "Dz",
            'ǳ' => "dz",
            'Ǆ' => "DŽ",
            'ǅ' => "Dž",
            'ǆ' => "dž",
            'Ǉ' => "LJ",
            'ǈ' => "Lj",
            'ǉ' => "lj",
            'Ǌ' => "NJ",
            'ǋ' => "Nj",
            'ǌ' => "nj",
            'ﬀ' => "ff",
            'ﬁ' => "fi",
            'ﬂ' => "fl",
            'ﬃ' => "ffi",
            'ﬄ' => "ffl",
            'ﬅ' => "ſt",
            'ﬆ' => "st",
            _ => {
                push_uncurled(&mut out, std::iter::once(character));
                continue;
            }
        };
        out.push_str(replaced);
    }
    out
}

fn push_uncurled(out: &mut String, characters: impl Iterator<Item = char>) {
    out.extend(characters.map(|character| match character {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        _ => character,
    }));
}

fn fix_line_breaks(text: &str) -> String {
    text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n")
}

/// Removes `ESC [ digits and semicolons letter`.
fn remove_terminal_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        out.push_str(&rest[..at]);
        let body = &rest[at + 2..];
        let end = body.find(|c: char| !(c.is_numeric() || c == ';')).unwrap_or(body.len());
        rest = match body[end..].chars().next() {
            Some(letter) if letter.is_ascii_alphabetic() => &body[end + 1..],
            _ => {
                out.push_str("\x1b[");
                body
            }
        };
    }
    out.push_str(rest);
    out
}

fn is_removed_control(character: char) -> bool {
    matches!(character, '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_depth_takes_a_bounded_number_of_rounds() {
        for wrapped in ["amp;", "#65286;", "#38;"] {
            let text = format!("&{}", wrapped.repeat(200_000));
            assert_eq!(fix_text(&text), format!("&{}", wrapped.repeat(200_000 - ROUNDS)));
        }
    }

    #[test]
    fn the_steps_of_ftfy() {
        assert_eq!(fix_text("plain <b>text</b>"), "plain <b>text</b>");
        assert_eq!(fix_text("“curly” ‘quotes’ don’t"), "\"curly\" 'quotes' don't");
        assert_eq!(fix_text("ＬＯＵＤ　ＮＯＩＳＥＳ ﬂuﬃest"), "LOUD NOISES fluffiest");
        assert_eq!(fix_text("\u{1b}[36;44mblue\u{1b}[0m\u{7}\u{feff}"), "blue");
        assert_eq!(fix_text("cafe\u{301} sÃ³ donâ€™t"), "café sÃ³ donâ€\u{2122}t");
        assert_eq!(fix_text("sÃ³ donâ€™t"), "só don't");
        assert_eq!(fix_text("a &amp; b\n<i>&amp;</i>\n&amp;"), "a & b\n<i>&amp;</i>\n&amp;");
    }
}
