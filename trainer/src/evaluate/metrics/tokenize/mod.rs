//! The words of a caption as published scores count them: those of Stanford's PTBTokenizer 3.4.1 in lower case, without
//! its punctuation tokens, which is what coco-caption (pycocoevalcap) feeds to its metrics.
//!
//! As there, every rule is tried at a place and the one that looks furthest wins, the first of those that tie. Markup
//! (`<b>`, `&eacute;`), telephone numbers and addresses without `http` are not known here, digits are those of ASCII, and
//! each caption stands alone, where the Java program lets the first word of the next decide over a last full stop.

mod letters;
mod lexicon;
mod rules;

use letters::{is_raised, is_symbol, vulgar_fraction};
use lexicon::PUNCTUATION;
use rules::*;

/// Characters that a rule sees at most; a token that is longer is cut. Without it the time for a long text without spaces
/// would grow with the square of its length.
const AHEAD: usize = 256;

/// The words of a text. A mixed fraction, `1 1/2`, is one, with a space in it that does not break (U+00A0).
pub fn tokenize(text: &str) -> Vec<String> {
    // A caption is one line, and rules look at what follows.
    let text: Vec<char> = text.chars().map(|letter| if letter == '\n' { ' ' } else { letter }).chain(['\n']).collect();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let rest = &text[at..text.len().min(at + AHEAD)];
        let mut best: Option<(Match, Write)> = None;
        for &(rule, write) in RULES {
            if let Some(found) = rule(rest)
                && best.is_none_or(|(best, _)| found.seen > best.seen)
            {
                best = Some((found, write));
            }
        }
        // What no rule takes, such as a space, separates words.
        let Some((Match { length, .. }, write)) = best else {
            at += 1;
            continue;
        };
        let word = write(&rest[..length]);
        if !PUNCTUATION.contains(&word.as_str()) {
            words.push(word);
        }
        at += length;
    }
    words
}

/// Finds a token at the start of a text that ends with a line break.
type Rule = fn(&[char]) -> Option<Match>;
/// How a token is written.
type Write = fn(&[char]) -> String;

const RULES: &[(Rule, Write)] = &[
    (split_word, plain),
    (before_clitic, plain),
    (before_not, plain),
    (|text| whole(word(text)), plain),
    (with_apostrophe, plain),
    (address, plain),
    (handle, plain),
    (clitic, quotes),
    (date, plain),
    (|text| whole(number(text)), plain),
    (|text| whole(run(text, is_raised)), plain),
    (fraction, plain),
    (|text| whole(usize::from(vulgar_fraction(text[0]).is_some())), fractions),
    (alternatives, plain),
    (currency, currencies),
    (file_name, plain),
    (abbreviation, plain),
    (last_letter, plain),
    (before_punctuation, plain),
    (|text| whole(usize::from("()[]{}".contains(text[0]))), brackets),
    (hyphens, dashes),
    (dots, dashes),
    (|text| whole(run(text, |letter| matches!(letter, '?' | '!'))), plain),
    (repeated, plain),
    (|text| whole(usize::from(is_symbol(text[0]))), dashes),
    (|text| whole(hyphened(text)), plain),
    (|text| whole(thing(text)), plain),
    (|text| whole(joined_capitals(text)), plain),
    (smiley, brackets),
    (opening_quote, quotes),
    (|text| whole(clitic_length(text)?), quotes),
    (closing_quotes, quotes),
];

fn plain(token: &[char]) -> String {
    // A soft hyphen is no part of a word.
    let text: String = token.iter().filter(|&&letter| letter != '\u{ad}').collect();
    text.replace(' ', "\u{a0}").to_lowercase()
}

fn quotes(token: &[char]) -> String {
    let mut text = String::new();
    for letter in token {
        match letter {
            '\u{2018}' | '\u{201b}' | '\u{2039}' => text.push('`'),
            '\u{2019}' | '\u{203a}' => text.push('\''),
            '\u{201c}' | '\u{ab}' => text.push_str("``"),
            '\u{201d}' | '\u{bb}' => text.push_str("''"),
            letter => text.extend(letter.to_lowercase()),
        }
    }
    text
}

fn fractions(token: &[char]) -> String {
    token.iter().filter_map(|&letter| vulgar_fraction(letter)).collect()
}

fn currencies(token: &[char]) -> String {
    match token {
        ['\u{a2}'] => "cents".into(),
        ['\u{a3}'] => "#".into(),
        ['\u{a4}' | '\u{20a0}' | '\u{20ac}'] => "$".into(),
        _ => plain(token),
    }
}

fn brackets(token: &[char]) -> String {
    let mut text = plain(token);
    for (bracket, name) in [('(', "-lrb-"), (')', "-rrb-")] {
        text = text.replace(bracket, name);
    }
    match text.as_str() {
        "[" => "-lsb-".into(),
        "]" => "-rsb-".into(),
        "{" => "-lcb-".into(),
        "}" => "-rcb-".into(),
        _ => text,
    }
}

fn dashes(token: &[char]) -> String {
    match token {
        ['\u{2013}'..='\u{2015}'] | ['-', '-', '-'] | ['-', '-', '-', '-'] => "--".into(),
        ['\u{2026}'] | ['.', '.', '.', ..] => "...".into(),
        ['"'] => "''".into(),
        _ => plain(token),
    }
}
