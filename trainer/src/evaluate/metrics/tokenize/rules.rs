//! What is a token: each rule finds one at the start of a text that ends with a line break, or of what is left of it.

use super::letters::{is_apostrophe, is_hyphen, is_inner_apostrophe, is_letter, is_letter_or_digit, is_space};
use super::lexicon::{ABBREVIATIONS, CAPITAL_ABBREVIATIONS, EXTENSIONS, NUMBERED, SENTENCE_STARTS, SPLIT, WHOLE};

/// What a rule found at the start of a text: characters of the token, and how many it had to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    pub length: usize,
    pub seen: usize,
}

pub fn whole(length: usize) -> Option<Match> {
    (length > 0).then_some(Match { length, seen: length })
}

/// Characters at the start that fit.
pub fn run(text: &[char], fits: impl Fn(char) -> bool) -> usize {
    text.iter().take_while(|&&letter| fits(letter)).count()
}

/// The character at a place; past the end, the line break.
pub fn at(text: &[char], place: usize) -> char {
    text.get(place).copied().unwrap_or('\n')
}

/// Whether the text starts with these lower-case words, whatever its own case, any apostrophe for `'`.
pub fn starts(text: &[char], word: &str) -> Option<usize> {
    let same = |(index, wanted): (usize, char)| match wanted {
        '\'' => is_apostrophe(at(text, index)),
        _ => at(text, index).eq_ignore_ascii_case(&wanted),
    };
    word.chars().enumerate().all(same).then(|| word.chars().count())
}

/// Letters and digits after a letter, also across a full stop or exclamation inside.
pub fn word(text: &[char]) -> usize {
    let part = |from: usize| if is_letter(at(text, from)) { run(&text[from..], is_letter_or_digit) } else { 0 };
    let mut length = part(0);
    while length > 0 && matches!(at(text, length), '.' | '!' | '?') && part(length + 1) > 0 {
        length += 1 + part(length + 1);
    }
    length
}

/// `can|not`, `gon|na`: two words written as one.
pub fn split_word(text: &[char]) -> Option<Match> {
    SPLIT.iter().find_map(|(first, second)| {
        let length = starts(text, first)?;
        let seen = length + starts(&text[length..], second)?;
        // `'tis` with a typographic apostrophe is none of them.
        (first.starts_with('\'') <= (text[0] == '\'')).then_some(Match { length, seen })
    })
}

/// Length of `'s`, `'m`, `'d`, `'re`, `'ve` or `'ll`.
pub fn clitic_length(text: &[char]) -> Option<usize> {
    ["'re", "'ve", "'ll", "'s", "'m", "'d"].iter().find_map(|clitic| starts(text, clitic))
}

/// Length of `n't`.
pub fn not_length(text: &[char]) -> Option<usize> {
    let found = at(text, 0).eq_ignore_ascii_case(&'n') && is_inner_apostrophe(at(text, 1));
    (found && at(text, 2).eq_ignore_ascii_case(&'t')).then_some(3)
}

pub fn before_clitic(text: &[char]) -> Option<Match> {
    let length = word(text);
    let seen = length + clitic_length(&text[length..])?;
    (length > 0).then_some(Match { length, seen })
}

pub fn before_not(text: &[char]) -> Option<Match> {
    let length = run(text, |letter| letter.is_ascii_alphabetic()).checked_sub(1).filter(|&length| length > 0)?;
    let seen = length + not_length(&text[length..])?;
    (!text[length - 1].eq_ignore_ascii_case(&'n')).then_some(Match { length, seen })
}

/// `'s` and its like where no letter follows, and `n't`.
pub fn clitic(text: &[char]) -> Option<Match> {
    let alone = |length: &usize| !at(text, *length).is_ascii_alphabetic();
    let clitic = clitic_length(text).filter(alone).map(|length| Match { length, seen: length + 1 });
    clitic.or_else(|| whole(not_length(text)?))
}

/// Words that an apostrophe does not split.
pub fn with_apostrophe(text: &[char]) -> Option<Match> {
    let known = WHOLE.iter().filter_map(|word| starts(text, word)).max();
    // 'n and 'n'
    let and = (starts(text, "'n").map(|length| length + usize::from(is_apostrophe(at(text, length))))).unwrap_or(0);
    let decade = is_apostrophe(text[0]) && matches!(at(text, 1), '2'..='9') && at(text, 2) == '0';
    let decade = if decade && at(text, 3).eq_ignore_ascii_case(&'s') { 4 } else { 0 };
    let elided = if "lLdDjJ".contains(text[0]) && is_apostrophe(at(text, 1)) { 2 } else { 0 };
    // O'Hara: one letter, then two or more. I is left to I'll, Y to y'all.
    let one = (text[0].is_ascii_uppercase() && !"IY".contains(text[0]) || text[0] == 'n')
        && is_inner_apostrophe(at(text, 1))
        && is_letter(at(text, 2))
        && is_letter(at(text, 3));
    let one = if one { 2 + run(&text[2..], is_letter) } else { 0 };
    // Hawai'i, ma'am: a vowel on both sides.
    let front = run(text, is_letter);
    let vowels = front > 1
        && "aeiouyAEIOUY".contains(text[front - 1])
        && is_inner_apostrophe(at(text, front))
        && ("aeiou".contains(at(text, front + 1)) || at(text, front + 1).is_ascii_uppercase());
    let vowels = if vowels { front + 1 + run(&text[front + 1..], is_letter) } else { 0 };
    let longest = [known.unwrap_or(0), and, decade, elided, one, vowels].into_iter().max().unwrap_or(0);
    // y'all: the second half is a word of its own.
    let you = starts(text, "y'").filter(|&length| is_letter(at(text, length)));
    you.filter(|_| longest < 3).map(|length| Match { length, seen: length + 1 }).or_else(|| whole(longest))
}

/// `https://…` and `name@host`.
pub fn address(text: &[char]) -> Option<Match> {
    let open = |letter: char| !letter.is_whitespace() && !"\"<>|(){}".contains(letter);
    if let Some(start) = starts(text, "https://").or_else(|| starts(text, "http://")) {
        let mut length = start + run(&text[start..], open);
        while length > start && ".!?{},-".contains(text[length - 1]) {
            length -= 1;
        }
        return whole(length).filter(|_| length > start + 1);
    }
    let length = run(text, open);
    let signs = (1..length).filter(|&place| text[0].is_ascii_alphanumeric() && text[place] == '@');
    // The parts of a host are not empty.
    let host = |sign: usize| {
        let rest = &text[sign + 1..length];
        let end = rest.windows(2).position(|pair| pair == ['.', '.']).unwrap_or(rest.len());
        let length = end - usize::from(rest[..end].ends_with(&['.']));
        (length > 0 && rest[0] != '.').then_some(sign + 1 + length)
    };
    whole(signs.filter_map(host).max()?)
}

/// `@name` and `#subject`.
pub fn handle(text: &[char]) -> Option<Match> {
    let name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let length = match text[0] {
        '@' if !at(text, 1).is_ascii_digit() => run(&text[1..], name),
        '#' => run(&text[1..], is_letter),
        _ => 0,
    };
    whole(length + 1).filter(|_| length > 0)
}

pub fn digits(text: &[char], from: usize) -> usize {
    text.get(from..).map_or(0, |rest| run(rest, |letter| letter.is_ascii_digit()))
}

/// `12/25/2014`.
pub fn date(text: &[char]) -> Option<Match> {
    let (day, short) = (digits(text, 0), |count: usize| (1..=2).contains(&count));
    let month = digits(text, day + 1);
    let year = digits(text, day + month + 2).min(4);
    let apart = [day, day + month + 1].iter().all(|&place| "-/".contains(at(text, place)));
    whole(if short(day) && short(month) && year > 1 && apart { day + month + year + 2 } else { 0 })
}

/// `-1,000.50`, `10:30`, `.5`.
pub fn number(text: &[char]) -> usize {
    let sign = usize::from("+-".contains(text[0]));
    let mut length = sign + digits(text, sign);
    while ".:,".contains(at(text, length)) && digits(text, length + 1) > 0 {
        length += 1 + digits(text, length + 1);
    }
    if length > sign { length } else { 0 }
}

/// `3/4` and `1 3/4`.
pub fn fraction(text: &[char]) -> Option<Match> {
    let part = |from: usize| Some(digits(text, from)).filter(|count| (1..=4).contains(count));
    let simple = |from: usize| {
        let slash = from + part(from)?;
        let below = digits(text, slash + 1).min(4);
        ("/\u{2044}".contains(at(text, slash)) && below > 0).then_some(slash + 1 + below)
    };
    let mixed = part(0).filter(|&gap| "- \u{a0}".contains(at(text, gap))).and_then(|gap| simple(gap + 1));
    whole(mixed.or_else(|| simple(0))?)
}

/// `and/or`, with hyphens in the parts; two slashes at most.
pub fn alternatives(text: &[char]) -> Option<Match> {
    let part = |from: usize| {
        let mut to = from + text.get(from..).map_or(0, |rest| run(rest, |letter| letter.is_ascii_alphanumeric()));
        for _ in 0..2 {
            let more = text.get(to + 1..).map_or(0, |rest| run(rest, |letter| letter.is_ascii_alphabetic()));
            if to > from && at(text, to) == '-' && more > 0 {
                to += 1 + more;
            }
        }
        (to > from).then_some(to)
    };
    let next = |from: usize| (at(text, from) == '/').then(|| part(from + 1)).flatten();
    let two = next(part(0)?)?;
    whole(next(two).unwrap_or(two))
}

/// `$`, `US$`, and signs that stand alone.
pub fn currency(text: &[char]) -> Option<Match> {
    let country = run(text, |letter| letter.is_ascii_uppercase());
    match at(text, country) {
        '$' => whole(country + 1),
        _ => whole(usize::from("\u{a2}\u{a3}\u{a4}\u{a5}\u{20a0}\u{20a4}\u{20ac}".contains(text[0]))),
    }
}

/// `a.m.`, `st.`, `no. 5`: the full stop belongs to the word.
pub fn abbreviation(text: &[char]) -> Option<Match> {
    let acronym = acronym(text);
    let length = run(text, |letter| letter.is_ascii_alphabetic());
    let name: String = text[..length].iter().collect();
    let lower = name.to_ascii_lowercase();
    let degree = ["ph.d.", "ed.d.", "a.k.a."].iter().find_map(|degree| starts(text, degree)).unwrap_or(0);
    let found = at(text, length) == '.'
        && (ABBREVIATIONS.split(' ').any(|known| known == lower)
            || CAPITAL_ABBREVIATIONS.contains(&lower.as_str())
                && name.starts_with(|letter: char| letter.is_uppercase()));
    let known = if found { length + 1 } else { 0 };
    let digit = |place: usize| at(text, place).is_ascii_digit();
    let followed = digit(length + 1) || is_space(at(text, length + 1)) && digit(length + 2);
    if at(text, length) == '.' && NUMBERED.contains(&lower.as_str()) && followed {
        let seen = length + 2 + usize::from(!digit(length + 1));
        return Some(Match { length: length + 1, seen });
    }
    whole(acronym.max(known).max(degree))
}

/// A letter at the end of a sentence: `plan b. The …`. Any other keeps its full stop.
pub fn last_letter(text: &[char]) -> Option<Match> {
    if !text[0].is_ascii_alphabetic() || at(text, 1) != '.' {
        return None;
    }
    let gap = run(&text[2..], is_space);
    let next = text.get(2 + gap..).filter(|next| gap > 0 && next.first().is_some_and(char::is_ascii_uppercase))?;
    let ends = |start: &str| starts(next, start).filter(|&length| is_space(at(next, length)));
    let length = SENTENCE_STARTS.split(' ').find_map(ends)?;
    Some(Match { length: 1, seen: 2 + gap + length + 1 })
}

/// `2.mp3`.
pub fn file_name(text: &[char]) -> Option<Match> {
    let (mut end, mut known) = (run(text, is_letter_or_digit), 0);
    while end > 0 && at(text, end) == '.' {
        let part = run(&text[end + 1..], is_letter_or_digit);
        let extension: String = text[end + 1..end + 1 + part].iter().collect();
        if part == 0 {
            break;
        }
        end += 1 + part;
        let ends = is_space(at(text, end)) || ".,?!".contains(at(text, end));
        if ends && EXTENSIONS.split(' ').any(|known| known == extension.to_ascii_lowercase()) {
            known = end;
        }
    }
    whole(known)
}

/// Single letters, each with its full stop.
pub fn acronym(text: &[char]) -> usize {
    (0..).step_by(2).find(|&place| !at(text, place).is_ascii_alphabetic() || at(text, place + 1) != '.').unwrap_or(0)
}

/// A full stop before a comma belongs to the word, as in `Inc., `; so does an apostrophe to a year at its end.
pub fn before_punctuation(text: &[char]) -> Option<Match> {
    if is_apostrophe(text[0]) && digits(text, 1) == 2 && is_space(at(text, 3)) {
        return Some(Match { length: 3, seen: 4 });
    }
    let lengths = [word(text), hyphened(text), thing(text), joined_capitals(text)];
    let fits = |&length: &usize| length > 0 && at(text, length) == '.' && ",;:".contains(at(text, length + 1));
    lengths.into_iter().filter(fits).max().map(|length| Match { length: length + 1, seen: length + 2 })
}

pub fn hyphens(text: &[char]) -> Option<Match> {
    whole(run(text, |letter| letter == '-'))
}

pub fn dots(text: &[char]) -> Option<Match> {
    match run(text, |letter| letter == '.') {
        count @ 3.. => whole(count.min(5)),
        count => whole(count.min(1)),
    }
}

/// `###`, `@@`, `__`, `**`.
pub fn repeated(text: &[char]) -> Option<Match> {
    let first = text[0];
    whole(if "#@_*".contains(first) { run(text, |letter| letter == first) } else { 0 })
}

/// `1,000-mile`, `U.S.-based`.
pub fn hyphened(text: &[char]) -> usize {
    if !text[0].is_ascii_alphanumeric() {
        return 0;
    }
    let start = run(text, |letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | ',' | '\u{ad}'));
    let mut length = start;
    while at(text, length) == '-' {
        let rest = &text[length + 1..];
        let part = run(rest, |letter| letter.is_ascii_alphanumeric() || letter == '\u{ad}');
        let dotted = acronym(rest);
        let part = part.max(if dotted > 2 { dotted } else { 0 });
        if part == 0 {
            break;
        }
        length += 1 + part;
    }
    if length > start { length } else { 0 }
}

/// Letters and digits joined by hyphens, each part with a French or Irish start (`d'`, `o'`, `l'`) if it has one.
pub fn thing(text: &[char]) -> usize {
    let part = |from: usize| {
        let start = "dDoOlL".contains(at(text, from)) && is_inner_apostrophe(at(text, from + 1));
        let start = if start && is_letter_or_digit(at(text, from + 2)) { 2 } else { 0 };
        let length = text.get(from + start..).map_or(0, |rest| run(rest, is_letter_or_digit));
        if length > 0 { start + length } else { 0 }
    };
    let mut length = part(0);
    while length > 0 && is_hyphen(at(text, length)) && part(length + 1) > 0 {
        length += 1 + part(length + 1);
    }
    length
}

/// `R&B`.
pub fn joined_capitals(text: &[char]) -> usize {
    let part = |from: usize| text.get(from..).map_or(0, |rest| run(rest, |letter| letter.is_ascii_uppercase()));
    let start = part(0);
    let mut length = start;
    while length > 0 && "&+".contains(at(text, length)) && part(length + 1) > 0 {
        length += 1 + part(length + 1);
    }
    if length > start { length } else { 0 }
}

/// `:-)` where no letter or digit follows.
pub fn smiley(text: &[char]) -> Option<Match> {
    let brow = usize::from("<>".contains(text[0]));
    let nose = brow + 1 + usize::from("-o*'".contains(at(text, brow + 1)));
    let mouth = |place: &usize| "()DPdpO\\{@|[]".contains(at(text, *place));
    let place = [nose, brow + 1].into_iter().find(mouth).filter(|_| ":;=".contains(at(text, brow)))?;
    let alone = !at(text, place + 1).is_ascii_alphanumeric();
    alone.then_some(Match { length: place + 1, seen: place + 2 })
}

pub fn opening_quote(text: &[char]) -> Option<Match> {
    let opens = text[0] == '\'' && at(text, 1).is_ascii_alphabetic() && !at(text, 2).is_whitespace();
    opens.then_some(Match { length: 1, seen: 3 })
}

pub fn closing_quotes(text: &[char]) -> Option<Match> {
    let other = run(text, |letter| {
        "`\u{2018}\u{2019}\u{201a}\u{201b}\u{201c}\u{201d}\u{201e}\u{201f}\u{2039}\u{203a}\u{ab}\u{bb}".contains(letter)
    });
    let ascii = run(text, |letter| letter == '\'');
    whole(other.max(ascii).min(2))
}
