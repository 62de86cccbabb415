//! PTX text to tokens that know their line.
use crate::{Fault, FaultKind};

/// A piece of PTX text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// An identifier, a register, a directive or an opcode with its modifiers: `%r1`, `.reg`, `ld.shared::cta.b32`.
    Word(&'a str),
    /// A literal that starts with a digit.
    Number(&'a str),
    /// The text between two quotes.
    Text(&'a str),
    /// One character of punctuation.
    Mark(char),
}

/// Splits PTX into tokens with their line numbers (from 1).
pub fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, Fault> {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b' ' | b'\t' | b'\r' | 0 => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let length = text[at..].find("*/").ok_or_else(|| error(line, "a comment that does not end"))? + 2;
                line += text[at..at + length].matches('\n').count() as u32;
                at += length;
            }
            b'"' => {
                let length = text[at + 1..].find('"').ok_or_else(|| error(line, "a string that does not end"))?;
                result.push((Token::Text(&text[at + 1..at + 1 + length]), line));
                at += length + 2;
            }
            b'0'..=b'9' => {
                let prefixed = matches!(bytes.get(at + 1), Some(b'x' | b'X' | b'f' | b'F' | b'd' | b'D'));
                while at < bytes.len() {
                    let exponent =
                        !prefixed && matches!(bytes[at], b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E');
                    if !(bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.' || exponent) {
                        break;
                    }
                    at += 1;
                }
                result.push((Token::Number(&text[start..at]), line));
            }
            byte if is_word(byte) => {
                while at < bytes.len() {
                    let scope =
                        bytes[at..].starts_with(b"::") && bytes.get(at + 2).is_some_and(u8::is_ascii_alphanumeric);
                    if scope {
                        at += 2;
                    } else if is_word(bytes[at]) || bytes[at].is_ascii_digit() {
                        at += 1;
                    } else {
                        break;
                    }
                }
                result.push((Token::Word(&text[start..at]), line));
            }
            byte if byte.is_ascii_punctuation() => {
                result.push((Token::Mark(byte as char), line));
                at += 1;
            }
            _ => return Err(error(line, "a character that PTX does not have")),
        }
    }
    Ok(result)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn error(line: u32, message: &str) -> Fault {
    Fault::new(FaultKind::Parse, message).at_line(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_marks_keep_their_lines() {
        let text = "W: @!%p1 bra $L__BB0_2; // note\nld.shared::cta.v2.b32 {%r1,_}, [%rd2+-8]; /* a\nb */ mov.f32 %f1, 0f3F800000;";
        let found = tokens(text).unwrap();
        assert_eq!(found[0], (Token::Word("W"), 1));
        assert_eq!(found[1], (Token::Mark(':'), 1));
        assert!(found.contains(&(Token::Word("ld.shared::cta.v2.b32"), 2)));
        assert!(found.contains(&(Token::Number("0f3F800000"), 3)));
        assert_eq!(tokens("a \"b").unwrap_err().place.line, Some(1));
    }
}
