//! Whether a text looks like UTF-8 that was read by another table: neighbours that words hardly have and such misreadings do.
//!
//! Categories and rules are those of ftfy 6.3.1 (`ftfy/badness.py`, Apache-2.0, Robyn Speer), written anew.

use super::clean::is_space;

const C1: u16 = 1;
const BAD: u16 = 1 << 1;
const LAW: u16 = 1 << 2;
const CURRENCY: u16 = 1 << 3;
/// Punctuation that begins something.
const START: u16 = 1 << 4;
/// Punctuation that ends something.
const END: u16 = 1 << 5;
const NUMERIC: u16 = 1 << 6;
/// Accented capitals.
const UPPER: u16 = 1 << 7;
/// Accented small letters.
const LOWER: u16 = 1 << 8;
/// Greek and Cyrillic capitals.
const UPPER_COMMON: u16 = 1 << 9;
/// Greek and Cyrillic small letters.
const LOWER_COMMON: u16 = 1 << 10;
const BOX: u16 = 1 << 11;
/// What faces are drawn with.
const KAOMOJI: u16 = 1 << 12;
/// What stands in any text.
const COMMON: u16 = 1 << 13;

const ACCENTED: u16 = LOWER | UPPER;
const MARK: u16 = START | END | CURRENCY | NUMERIC | LAW;

/// The categories of a character that occurs in misread UTF-8; none for any other.
fn category(character: char) -> u16 {
    match character {
        '\0'..='\x7f' => 0,
        '\u{80}'..='\u{9f}' => C1,
        '\u{a0}' | '\u{ad}' | '´' | '·' | '–'..='―' | '’' | '…' => COMMON,
        '¤' | '¦' | '¨' | 'ª' | '¬' | '¯' | '¸' | 'º' | 'ƒ' | 'ˆ' | '\u{2c7}' | '\u{2d8}' | '\u{2db}' | '\u{2dc}' => {
            BAD
        }
        '†' | '‡' | '‰' | '⌐' | '◊' | '\u{fffd}' => BAD,
        '§' | '¶' => LAW,
        '¢' | '£' | '¥' | '₧' | '€' => CURRENCY,
        '¡' | '©' | '«' | '¿' | '\u{384}' | '\u{385}' | '‘' | '‚' | '“' | '„' | '•' | '‹' | '\u{f8ff}' => {
            START
        }
        '®' | '»' | '\u{2dd}' | '”' | '›' | '™' => END,
        '±'..='³' | 'µ' | '¹' | '¼'..='¾' | '×' | '÷' | '\u{2044}' | '№' | '∂' | '\u{2206}' | '\u{220f}' => {
            NUMERIC
        }
        '\u{2211}' | '√' | '∞' | '∩' | '∫' | '≈' | '≠' | '≡' | '≤' | '≥' => NUMERIC,
        'Ü' => UPPER | KAOMOJI,
        'ü' => LOWER | KAOMOJI,
        '°' | 'Ò'..='Ö' | 'Ù'..='Û' | 'ò'..='ö' | 'ø'..='û' | 'Ō' | 'Ő' | 'Ū' | 'Ų' => KAOMOJI,
        'À'..='Ñ' | 'Ø' | 'Ý' | 'Ā' | 'Ă' | 'Ą' | 'Ć' | 'Č' | 'Ď' | 'Đ' | 'Ē' | 'Ė' | 'Ę' | 'Ě' | 'Ğ' | 'Ģ' => {
            UPPER
        }
        'Ī' | 'İ' | 'Ķ' | 'Ĺ' | 'Ļ' | 'Ľ' | 'Ł' | 'Ń' | 'Ņ' | 'Ň' | 'Œ' | 'Ř' | 'Ś' | 'Ş' | 'Š' | 'Ţ' | 'Ť' => {
            UPPER
        }
        'Ů' | 'Ű' | 'Ÿ' | 'Ź' | 'Ż' | 'Ž' | 'Ґ' => UPPER,
        'ß'..='ñ' | 'ā' | 'ă' | 'ą' | 'ć' | 'č' | 'ď' | 'đ' | 'ē' | 'ė' | 'ę' | 'ě' | 'ğ' | 'ģ' | 'ī' | 'į' => {
            LOWER
        }
        'ķ' | 'ĺ' | 'ļ' | 'ľ' | 'ł' | 'œ' | 'ŕ' | 'ś' | 'ş' | 'š' | 'ť' | 'ź' | 'ż' | 'ž' | 'ґ' | 'ﬁ' | 'ﬂ' => {
            LOWER
        }
        'Þ' | 'Ά' | 'Έ'..='Ί' | 'Ό' | 'Ύ' | 'Ώ' | 'Α'..='Ϋ' | 'Ё'..='Я' => UPPER_COMMON,
        'ά'..='ω' | 'а'..='џ' => LOWER_COMMON,
        '│' | '┌' | '┐' | '┘' | '├' | '┤' | '┬' | '┼' | '═'..='╬' | '▀' | '▄' | '█' | '▌' | '▐'..='▓' => {
            BOX
        }
        _ => 0,
    }
}

/// ftfy's `is_bad`.
pub(super) fn is_bad(text: &str) -> bool {
    let mut rest = text.chars();
    let begins = text.starts_with("Â ") || text.starts_with("Ã ");
    begins || std::iter::from_fn(|| rest.next().map(|first| is_bad_at(first, rest.as_str()))).any(|bad| bad)
}

/// Whether a bad sequence begins with `a`, which `rest` follows.
fn is_bad_at(a: char, rest: &str) -> bool {
    let mut next = rest.chars();
    // Past the end stands what no rule knows.
    let [b, c, d] = std::array::from_fn(|_| next.next().unwrap_or('\0'));
    let a_hat = |character| matches!(character, 'Â' | 'Ã');
    let small_letter = a.is_ascii_lowercase();
    if small_letter && (a_hat(b) && c == ' ' || is_space(b) && a_hat(c) && d == ' ') {
        return true;
    }
    if a.is_ascii() && b.is_ascii() {
        return false;
    }
    let [p, q, r, s] = [a, b, c, d].map(category);
    let pair = |first: u16, second: u16| p & first != 0 && q & second != 0;
    let triple = |first: u16, second: u16, third: u16| pair(first, second) && r & third != 0;
    let between = C1 | BAD | START | END | CURRENCY;
    p & C1 != 0
        || pair(BAD | ACCENTED | BOX | MARK, BAD)
        || pair(BAD, ACCENTED | BOX | MARK)
        || pair(LOWER | LOWER_COMMON | BOX | END | CURRENCY | NUMERIC, UPPER)
        || pair(BOX | END | CURRENCY | NUMERIC, LOWER)
        || pair(LOWER | BOX | END, CURRENCY)
        || pair(UPPER | BOX, NUMERIC | LAW)
        || pair(CURRENCY | NUMERIC | BOX, START)
        || pair(BOX, KAOMOJI | END)
        || pair(ACCENTED | MARK, BOX)
        || triple(ACCENTED | BOX | CURRENCY | END, START, NUMERIC)
        || triple(ACCENTED | CURRENCY | NUMERIC | BOX | LAW, END, START)
        || pair(ACCENTED, START | END) && (c.is_alphanumeric() || c == '_')
        || a.is_ascii_alphabetic() && q & (LOWER_COMMON | UPPER_COMMON) != 0 && r & BAD != 0
        || is_space(a) && q & UPPER != 0 && r & CURRENCY != 0
        || small_letter && q & UPPER != 0 && r & (START | CURRENCY) != 0
        || b == 'Â'
            && (small_letter || matches!(a, '.' | ',' | '?' | '!') || p & END != 0)
            && (c == ' ' || r & (START | END) != 0)
        || match (a, b) {
            ('Œ' | 'œ', _) => !rest.is_empty() && !b.is_ascii_alphabetic(),
            (_, '°') if p & UPPER != 0 => true,
            ('Â' | 'Ã' | 'Î' | 'Ð', '€' | 'œ' | 'Š' | 'š' | '¢' | '£' | 'Ÿ' | 'ž' | '\u{a0}' | '\u{ad}') => {
                true
            }
            ('Â' | 'Ã' | 'Î' | 'Ð', '°' | '·' | '–' | '—' | '´') => true,
            ('Â' | 'Ã' | 'Î' | 'Ð', _) if q & (START | END) != 0 => true,
            ('×', '²' | '³') => true,
            ('Ø' | 'Ù', _) if matches!(c, 'Ø' | 'Ù') => of_arabic(b, q) && of_arabic(d, s),
            // Scripts of South Asia.
            ('à', '²' | 'µ' | '¹' | '¼' | '½' | '¾') => true,
            // MacRoman.
            ('√', '±' | '∂' | '†' | '≠' | '®' | '™' | '´' | '≤' | '≥' | '¥' | 'µ' | 'ø') => true,
            ('≈', '°' | '¢') => true,
            ('‚', 'Ä') => matches!(c, 'ì' | 'î' | 'ï' | 'ò' | 'ô' | 'ú' | 'ù' | 'û' | '†' | '°' | '¢' | 'π'),
            ('‚', 'â' | 'ó') => matches!(c, 'à' | 'ä' | '°' | 'ê'),
            // Windows-1251, -1257 and -1253; on top of Latin-1, and of the alphabets themselves.
            ('в', 'Ђ') | ('ā', '€') => true,
            ('β', '€') => matches!(c, '™' | '\u{a0}' | 'Ά' | '\u{ad}' | '®' | '°'),
            ('Г', 'ў') => {
                let mut after = rest.strip_prefix("ўВЂВ").unwrap_or_default().chars();
                after.next().is_some_and(|c| c != '\n')
                    && after.next().is_some_and(|c| c.is_ascii_alphabetic() || c == ' ')
            }
            ('В' | 'Г' | 'Р' | 'С', _) if matches!(c, 'В' | 'Г' | 'Р' | 'С') => {
                q & between != 0 || matches!(b, '°' | 'µ')
            }
            ('Β' | 'Γ' | 'Ξ' | 'Ο', _) if matches!(c, 'Β' | 'Γ' | 'Ξ' | 'Ο') => q & between != 0 || b == '°',
            _ => false,
        }
}

/// What follows the first byte of an Arabic letter read as Windows-1252.
fn of_arabic(character: char, category: u16) -> bool {
    category & (COMMON | CURRENCY | BAD | NUMERIC | START) != 0
        || matches!(character, 'Ÿ' | 'Š' | '®' | '°' | 'µ' | '»')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_good_and_misread_ones_are_bad() {
        for good in
            ["plain", "BEYONCÉ’s", "NESCAFÉ®", "Spaß”", "CAFÉ…", "naïve façade", "œuvre", "ΟΔΟΣ", "5 µm", "(°ロ°)"]
        {
            assert!(!is_bad(good), "{good}");
        }
        for bad in ["sÃ³", "cafÃ© au lait", "donâ€™t", "voilÃ  le", "Â 5", "ГўВЂВ™s", "Œ!", "ŸŸ\u{80}", "Ø§Ø¨", "‚Äì"]
        {
            assert!(is_bad(bad), "{bad}");
        }
    }
}
