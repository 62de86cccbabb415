//! Names of shards by pattern, as WebDataset writes them: `{000..012}` counts, `{a,b}` lists, `::` joins patterns.

use crate::{Error, Result};

/// Names that a pattern may stand for.
const MAX_NAMES: usize = 1_000_000;

/// All names that a pattern stands for, in its order. Leading zeros are kept: `{08..10}` is 08, 09, 10.
///
/// # Errors
/// A brace is not closed, or there are more than a million names.
pub fn expand(pattern: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for part in pattern.split("::").filter(|part| !part.is_empty()) {
        names.extend(expand_one(pattern, part)?);
        within_limit(pattern, names.len())?;
    }
    Ok(names)
}

fn within_limit(pattern: &str, names: usize) -> Result<()> {
    let error = || Error::invalid(format!("{pattern}: stands for more than {MAX_NAMES} names"));
    if names > MAX_NAMES { Err(error()) } else { Ok(()) }
}

fn expand_one(pattern: &str, part: &str) -> Result<Vec<String>> {
    let Some((head, rest)) = part.split_once('{') else { return Ok(vec![part.to_string()]) };
    let Some((inside, tail)) = rest.split_once('}') else {
        return Err(Error::invalid(format!("{pattern}: a {{ without its }}")));
    };
    let choices = match inside.split_once("..") {
        Some((from, to)) => count(pattern, from, to)?,
        None => inside.split(',').map(str::to_string).collect(),
    };
    let tails = expand_one(pattern, tail)?;
    within_limit(pattern, choices.len().saturating_mul(tails.len()))?;
    Ok(choices.iter().flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}"))).collect())
}

fn count(pattern: &str, from: &str, to: &str) -> Result<Vec<String>> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (Some(first), Some(last)) = (number(from), number(to)) else {
        return Err(Error::invalid(format!("{pattern}: {{{from}..{to}}} does not count; write {{000..012}}")));
    };
    if last < first {
        return Err(Error::invalid(format!("{pattern}: {{{from}..{to}}} counts down")));
    }
    within_limit(pattern, usize::try_from(last - first).unwrap_or(usize::MAX))?;
    let width = if from.starts_with('0') { from.len() } else { 0 };
    Ok((first..=last).map(|number| format!("{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_count_and_list() {
        assert_eq!(expand("s/{08..10}.tar").unwrap(), ["s/08.tar", "s/09.tar", "s/10.tar"]);
        assert_eq!(expand("{9..11}").unwrap(), ["9", "10", "11"]);
        assert_eq!(expand("{a,b}-{0..1}.tar::c.tar").unwrap(), ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar", "c.tar"]);
        for wrong in ["{0..", "{a..b}", "{3..1}", "{0..18446744073709551615}", "{0..999}{0..999}{0..999}", "{-1..2}"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }
}
