//! Answers as VQA's official evaluation compares them (VQAEval of 2017, for v2.0): lower case, no articles, numbers in digits,
//! apostrophes where they belong, no other punctuation.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Marks that are no part of a word. Apostrophes, colons (2:50 pm) and full stops have rules of their own, or none.
const MARKS: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];
const ARTICLES: [&str; 3] = ["a", "an", "the"];
/// The number words that become digits.
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];
/// Contractions that are found again when one of their apostrophes is missing.
const CONTRACTIONS: &str = "\
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's \
    how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock \
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd \
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's \
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd \
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've \
    y'all'll you'd you'd've you'll you're you've";

/// What a word becomes, of those that become another.
static WORDS: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
    let contractions = CONTRACTIONS.split(' ').flat_map(|whole| {
        let without = move |(at, _): (usize, &str)| (format!("{}{}", &whole[..at], &whole[at + 1..]), whole);
        whole.match_indices('\'').map(without)
    });
    let numbers = NUMBERS.map(|(word, digits)| (word.to_owned(), digits));
    // The one that loses its apostrophe, as the evaluation has it.
    contractions.chain(numbers).chain([("somebody'd".to_owned(), "somebodyd")]).collect()
});

/// Neither line breaks and tabs nor spaces at the ends: all that the evaluation does to answers that agree.
pub fn trimmed_answer(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim().to_owned()
}

/// An answer in the form in which it is compared with others. It is empty if nothing but articles and marks is in it.
pub fn normalised_answer(answer: &str) -> String {
    let answer = trimmed_answer(answer);
    let words = without_stops(&without_marks(&answer)).to_lowercase();
    let words = words.split_whitespace().filter(|word| !ARTICLES.contains(word));
    let words: Vec<&str> = words.map(|word| WORDS.get(word).copied().unwrap_or(word)).collect();
    words.join(" ")
}

/// A mark becomes a space where it joins words, and nothing if it stands beside a space somewhere, or if a number of the
/// answer has a comma.
fn without_marks(answer: &str) -> String {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let numbers = answer.as_bytes().windows(3).any(|window| {
        let [before, comma, after] = window else { return false };
        digit(before) && *comma == b',' && digit(after)
    });
    let beside_space = |mark: char| answer.contains(&format!("{mark} ")) || answer.contains(&format!(" {mark}"));
    let mut text = answer.to_owned();
    // Most answers have none: looked for, they cost nothing.
    for mark in MARKS.into_iter().filter(|&mark| answer.contains(mark)) {
        text = text.replace(mark, if numbers || beside_space(mark) { "" } else { " " });
    }
    text
}

/// No full stop but those in front of a digit: 1.5 stays.
fn without_stops(answer: &str) -> String {
    let mut letters = answer.chars().peekable();
    let mut text = String::with_capacity(answer.len());
    while let Some(letter) = letters.next() {
        if letter != '.' || letters.peek().is_some_and(char::is_ascii_digit) {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_normalised_as_the_official_evaluation_does() {
        // Each as processPunctuation and processDigitArticle leave it.
        for (answer, expected) in [
            ("The  Dog", "dog"),
            (" new\tyork\n", "new york"),
            ("an a the", ""),
            ("", ""),
            ("2:50 pm", "2:50 pm"),
            ("100,978", "100978"),
            ("100,978-ft", "100978ft"),
            ("x,y 1,2", "xy 12"),
            ("10,000 (ten thousand)", "10000 10 thousand"),
            ("red,white", "red white"),
            ("red, white and blue", "red white and blue"),
            ("t-shirt", "t shirt"),
            ("t- shirt", "t shirt"),
            ("t - shirt", "t shirt"),
            ("his/her", "his her"),
            ("!yes", "yes"),
            ("( no )", "no"),
            ("what?!", "what"),
            ("a+b=c", "b c"),
            ("1.5", "1.5"),
            (".5", ".5"),
            ("5.", "5"),
            ("3...4", "3.4"),
            ("v. 2.0", "v 2.0"),
            ("a.m.", "am"),
            ("one.two", "onetwo"),
            ("None of the above", "0 of above"),
            ("twenty-one", "twenty 1"),
            ("THE NINE", "9"),
            ("dont", "don't"),
            ("man's", "man's"),
            ("Im", "im"),
            ("ten oclock", "10 o'clock"),
            ("wheres waldo", "where's waldo"),
            ("couldnt've couldn'tve couldntve", "couldn't've couldn't've couldntve"),
            ("yall'd've y'alld've y'all'dve", "y'all'd've y'all'd've y'all'd've"),
            ("'ows'at", "'ow's'at"),
            ("somebody'd", "somebodyd"),
            ("$5.00", "$5.00"),
            ("\u{c9}. \u{d6}", "\u{e9} \u{f6}"),
            ("\u{bf}qu\u{e9}?", "\u{bf}qu\u{e9}"),
        ] {
            assert_eq!(normalised_answer(answer), expected, "{answer:?}");
        }
        assert_eq!(WORDS.len(), 126);
    }
}
