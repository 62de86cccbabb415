//! Cutting clean text into the pieces that byte-pair encoding never joins: CLIP's rule and GPT-2's.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Which rule cuts the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// `'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`, ignoring case; spaces vanish.
    OpenClip,
    /// The same as the tokenizers library reads it: case counts.
    Clip,
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`; nothing vanishes.
    Gpt2,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(character: char) -> Class {
    match character {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        '\t'..='\r' | ' ' => Class::Space,
        '\0'..='\x7f' => Class::Other,
        _ if character.is_whitespace() => Class::Space,
        _ => match character.general_category_group() {
            GeneralCategoryGroup::Letter => Class::Letter,
            GeneralCategoryGroup::Number => Class::Number,
            _ => Class::Other,
        },
    }
}

/// Bytes at the head of `text` that `wanted` (lower-case ASCII) matches; without regard to case the long s is an s.
fn matched(text: &str, wanted: &str, ignore_case: bool) -> Option<usize> {
    let mut characters = text.char_indices();
    for letter in wanted.chars() {
        let (_, found) = characters.next()?;
        let same = if ignore_case {
            found.to_ascii_lowercase() == letter
                || (letter == 's' && found == '\u{17f}')
                || (letter == 'k' && found == '\u{212a}')
        } else {
            found == letter
        };
        if !same {
            return None;
        }
    }
    Some(characters.next().map_or(text.len(), |(at, _)| at))
}

fn contraction(text: &str, ignore_case: bool) -> Option<usize> {
    if !text.starts_with('\'') {
        return None;
    }
    ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].iter().find_map(|ending| matched(text, ending, ignore_case))
}

/// Bytes at the head of `text` of one class.
fn run(text: &str, wanted: Class) -> usize {
    text.char_indices().find(|&(_, character)| class(character) != wanted).map_or(text.len(), |(at, _)| at)
}

impl Split {
    /// Calls `piece` with each piece in order until it returns false. `special` are texts that are pieces of their own.
    pub fn pieces<'t>(self, text: &'t str, special: &[String], mut piece: impl FnMut(&'t str) -> bool) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let ignore_case = self == Split::OpenClip;
            let found = special.iter().find_map(|token| {
                // Most text has no such head: the first byte decides.
                if rest.as_bytes()[0] == token.as_bytes()[0] { matched(rest, token, ignore_case) } else { None }
            });
            let length = match found.or_else(|| contraction(rest, ignore_case)) {
                Some(length) => length,
                None => match (self, class(first)) {
                    (Split::OpenClip | Split::Clip, Class::Space) => {
                        rest = &rest[first.len_utf8()..];
                        continue;
                    }
                    (Split::OpenClip | Split::Clip, Class::Number) => first.len_utf8(),
                    (Split::OpenClip | Split::Clip, class) => run(rest, class),
                    (Split::Gpt2, _) => gpt2_piece(rest),
                },
            };
            if !piece(&rest[..length]) {
                return;
            }
            rest = &rest[length..];
        }
    }
}

/// Length of GPT-2's piece at the head of `text`: a run, with at most one blank before it; a run of white space leaves
/// its last character to what follows.
fn gpt2_piece(text: &str) -> usize {
    let spaces = run(text, Class::Space);
    let after = text[spaces..].chars().next();
    match (spaces, after) {
        (0, Some(first)) => run(text, class(first)),
        (_, None) => spaces,
        (_, Some(first)) => {
            let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
            if spaces > last {
                spaces - last
            } else if let Some(rest) = text.strip_prefix(' ') {
                1 + run(rest, class(first))
            } else {
                spaces
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(split: Split, text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        split.pieces(text, &["<start_of_text>".into()], |piece| {
            pieces.push(piece);
            true
        });
        pieces
    }

    #[test]
    fn clip_and_gpt2_cut_as_their_regular_expressions() {
        assert_eq!(
            cut(Split::OpenClip, "it's 42, o'clock!!'s"),
            ["it", "'s", "4", "2", ",", "o", "'", "clock", "!!'", "s"]
        );
        assert_eq!(cut(Split::OpenClip, "a<START_OF_TEXT>b"), ["a", "<START_OF_TEXT>", "b"]);
        assert_eq!(cut(Split::OpenClip, "it'\u{17f}"), ["it", "'\u{17f}"]);
        assert_eq!(cut(Split::Clip, "it'\u{17f}"), ["it", "'", "\u{17f}"]);
        assert_eq!(
            cut(Split::Gpt2, "  it's 42\n\n, a \t b "),
            [" ", " it", "'s", " 42", "\n", "\n", ",", " a", " \t", " b", " "]
        );
    }
}
