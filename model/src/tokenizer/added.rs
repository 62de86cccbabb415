//! The added tokens of a `tokenizer.json`, which the tokenizers library cuts out of a text before any other rule: first
//! those that the raw text holds, then, in what is left and normalised, those that are `normalized` themselves.

use engine::{Error, Result};
use serde_json::{Value, json};

/// A text that is one id.
pub(super) struct Added {
    pub content: String,
    pub id: u32,
    /// Whether it is looked for in the normalised text.
    pub normalized: bool,
    /// Whether it takes the white space before it along.
    strip_left: bool,
    /// Whether it takes the white space after it along.
    strip_right: bool,
}

/// A part of a text.
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

impl Added {
    /// Reads one entry of `added_tokens`.
    pub fn read(token: &Value) -> Result<Added> {
        let unsupported = || Error::invalid(format!("tokenizer.json: the added token {token} is not supported"));
        let flag = |key: &str| token[key] == json!(true);
        let content = token["content"].as_str().filter(|content| !content.is_empty()).ok_or_else(unsupported)?;
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(unsupported)?;
        if flag("single_word") {
            return Err(unsupported());
        }
        Ok(Added {
            content: content.to_string(),
            id,
            normalized: flag("normalized"),
            strip_left: flag("lstrip"),
            strip_right: flag("rstrip"),
        })
    }
}

/// Calls `part` with the tokens and the text between them, until it returns false: the leftmost token first, of several at
/// one place the longest. False if it was stopped.
pub(super) fn cut<'t>(
    text: &'t str,
    tokens: &[Added],
    normalized: bool,
    part: &mut impl FnMut(Part<'t>) -> bool,
) -> bool {
    let mut rest = text;
    let tokens = || tokens.iter().filter(|token| token.normalized == normalized);
    loop {
        let found = tokens().filter_map(|token| Some((rest.find(&token.content)?, token)));
        let Some((at, token)) = found.min_by_key(|(at, token)| (*at, usize::MAX - token.content.len())) else {
            return rest.is_empty() || part(Part::Text(rest));
        };
        let (mut before, mut after) = (&rest[..at], &rest[at + token.content.len()..]);
        if token.strip_left {
            before = before.trim_end();
        }
        if token.strip_right {
            after = after.trim_start();
        }
        if !(before.is_empty() || part(Part::Text(before))) || !part(Part::Token(token.id)) {
            return false;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftmost_then_longest_with_the_space_around() {
        let added = |content: &str, id: u32, strip: bool| {
            Added::read(&json!({"content": content, "id": id, "lstrip": strip, "rstrip": strip})).unwrap()
        };
        let tokens = [added("<a>", 1, false), added("<a><b>", 2, false), added("<m>", 3, true)];
        let mut found = Vec::new();
        cut("x <a><b> <a> y <m>  z", &tokens, false, &mut |part| {
            found.push(match part {
                Part::Text(text) => text.to_string(),
                Part::Token(id) => id.to_string(),
            });
            true
        });
        assert_eq!(found, ["x ", "2", " ", "1", " y", "3", "z"]);
        assert!(Added::read(&json!({"content": "a", "id": 1, "single_word": true})).is_err());
    }
}
