//! Kinds of characters, as PTBTokenizer has them.

pub fn is_letter(letter: char) -> bool {
    // The tokenizer reads 16-bit units: what lies above is no letter to it.
    let mark =
        matches!(letter, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{487}' | '\u{591}'..='\u{5bd}' | '\u{64b}'..='\u{65e}');
    let numeral = matches!(letter, '\u{2160}'..='\u{24ff}');
    letter <= '\u{ffff}' && !numeral && (letter.is_alphabetic() || mark || letter == '\u{ad}')
}

pub fn is_letter_or_digit(letter: char) -> bool {
    is_letter(letter) || letter.is_ascii_digit()
}

pub fn is_apostrophe(letter: char) -> bool {
    matches!(letter, '\'' | '\u{2019}')
}

/// Others too that stand inside words, rightly or wrongly.
pub fn is_inner_apostrophe(letter: char) -> bool {
    is_apostrophe(letter) || matches!(letter, '`' | '\u{2018}' | '\u{201b}')
}

pub fn is_hyphen(letter: char) -> bool {
    matches!(letter, '-' | '_' | '\u{58a}' | '\u{2010}' | '\u{2011}')
}

pub fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\u{a0}')
}

pub fn is_raised(letter: char) -> bool {
    matches!(letter, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}')
}

/// Characters that are a token of their own.
pub fn is_symbol(letter: char) -> bool {
    matches!(letter, ',' | ';' | ':' | '"' | '+' | '%' | '&' | '~' | '^' | '|' | '\\' | '=' | '/' | '<' | '>')
        || matches!(letter, '\u{a1}' | '\u{a6}'..='\u{a9}' | '\u{ac}' | '\u{ae}'..='\u{ba}' | '\u{bf}' | '\u{d7}' | '\u{f7}')
        || matches!(letter, '\u{2013}'..='\u{2017}' | '\u{2020}'..='\u{2023}' | '\u{2026}' | '\u{2030}'..='\u{2038}')
        || matches!(letter, '\u{203b}' | '\u{203e}'..='\u{2044}' | '\u{207a}'..='\u{207e}' | '\u{208a}'..='\u{208e}')
        || matches!(letter, '\u{2100}'..='\u{214f}' | '\u{2190}'..='\u{2bff}' | '\u{3001}' | '\u{3002}' | '\u{3012}')
        || matches!(letter, '\u{30fb}' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}' | '\u{ff5b}'..='\u{ff65}')
}

/// The digits of a fraction that is one character.
pub fn vulgar_fraction(letter: char) -> Option<&'static str> {
    match letter {
        '\u{bc}' => Some("1/4"),
        '\u{bd}' => Some("1/2"),
        '\u{be}' => Some("3/4"),
        '\u{2153}' => Some("1/3"),
        '\u{2154}' => Some("2/3"),
        _ => None,
    }
}
