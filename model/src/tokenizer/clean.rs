//! What happens to text before it is cut into pieces: open_clip's cleaning, or the normaliser of a `tokenizer.json`.

use super::entities::unescape;
use super::fix_text::fix_text;
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;

/// How text is cleaned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cleaning {
    /// ftfy, character references twice, white space collapsed, lower case: open_clip's `clean="lower"`.
    OpenClip,
    /// The listed steps in order, and nothing else.
    Steps(Vec<Step>),
    /// open_clip's `clean="whitespace"` (no lower case) of the whole text before all else, then the listed steps.
    WhitespaceThen(Vec<Step>),
}

/// One step of a normaliser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    Strip {
        left: bool,
        right: bool,
    },
    /// Each run of white space becomes one blank.
    CollapseSpace,
    Replace {
        from: String,
        to: String,
    },
}

/// White space as Python's `str.split` sees it: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

impl Cleaning {
    /// The text before added tokens are looked for in it.
    pub fn before<'t>(&self, text: &'t str, buffer: &'t mut String) -> &'t str {
        match self {
            Cleaning::OpenClip | Cleaning::Steps(_) => text,
            Cleaning::WhitespaceThen(_) => {
                clean(text, false, buffer);
                buffer
            }
        }
    }

    /// The cleaned text.
    pub fn apply<'t>(&self, text: &'t str, buffer: &'t mut String) -> &'t str {
        match self {
            Cleaning::OpenClip => {
                clean(text, true, buffer);
                buffer
            }
            Cleaning::Steps(steps) | Cleaning::WhitespaceThen(steps) => {
                *buffer = steps.iter().fold(text.to_string(), |text, step| step.apply(text));
                buffer
            }
        }
    }
}

fn clean(text: &str, lower: bool, out: &mut String) {
    out.clear();
    let fixed = fix_text(text);
    let unescaped: Cow<str> = if fixed.contains('&') { unescape(&unescape(&fixed)).into() } else { fixed };
    if unescaped.is_ascii() {
        // The common case, in one pass.
        let mut pending = false;
        for &byte in unescaped.as_bytes() {
            if is_space(byte as char) {
                pending = !out.is_empty();
                continue;
            }
            if pending {
                out.push(' ');
                pending = false;
            }
            out.push(byte as char);
        }
        if lower {
            out.make_ascii_lowercase();
        }
        return;
    }
    for word in unescaped.split(is_space).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    if lower {
        *out = out.to_lowercase();
    }
}

impl Step {
    fn apply(&self, text: String) -> String {
        match self {
            Step::Nfc => text.nfc().collect(),
            Step::Nfd => text.nfd().collect(),
            Step::Nfkc => text.nfkc().collect(),
            Step::Nfkd => text.nfkd().collect(),
            // Character by character, as the tokenizers library does: no final sigma.
            Step::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Step::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { &text };
                (if *right { text.trim_end() } else { text }).to_string()
            }
            Step::CollapseSpace => {
                let mut out = String::with_capacity(text.len());
                let mut in_space = false;
                for character in text.chars() {
                    let space = character.is_whitespace();
                    if !space {
                        out.push(character);
                    } else if !in_space {
                        out.push(' ');
                    }
                    in_space = space;
                }
                out
            }
            Step::Replace { from, to } => text.replace(from.as_str(), to),
        }
    }
}
