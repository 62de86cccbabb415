//! What `coca data stats` and `coca data check` say about a source.

use super::fault::guarded;
use super::read::for_each;
use super::{Augmenter, Fault, FaultKind, Raw, RawImage, Source};
use crate::Result;
use crate::config::Data;
use engine::rng::Philox;
use model::config::CocaConfig;
use model::preprocess::{DecodeError, decode};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

/// Faults of one kind that are shown.
const EXAMPLES: usize = 3;
/// Width of the longest bar, in characters.
const BAR: u64 = 40;

/// What is counted of one sample.
struct Counted {
    captions: Vec<String>,
    class: Option<String>,
    keywords: usize,
    /// Width and height in pixels of each image whose header can be read.
    sides: Vec<Option<(u32, u32)>>,
}

/// Width and height, of a file as its header has them.
fn sides(image: &RawImage) -> Option<(u32, u32)> {
    match image {
        RawImage::Drawing { side, .. } => u32::try_from(*side).ok().map(|side| (side, side)),
        // Where no pixel is allowed, the header is read and nothing else.
        RawImage::Encoded(bytes) => match decode(bytes, 0) {
            Err(DecodeError::TooLarge { width, height, .. }) => Some((width, height)),
            _ => None,
        },
        RawImage::Frame(frame) => {
            let image = guarded("", || frame.image()).ok()?;
            Some((u32::try_from(image.width).ok()?, u32::try_from(image.height).ok()?))
        }
    }
}

/// Pairs, captions, words and image sizes of a source, as text for a terminal. Of images only the headers are
/// read, but animations and videos are decoded.
///
/// # Errors
/// None of its own; a source that cannot be read at all shows as faulty samples.
pub fn stats(source: &dyn Source, config: &Data) -> Result<String> {
    let (mut pairs, mut faulty, mut captions, mut keywords) = (0u64, 0u64, 0u64, 0u64);
    let (mut words, mut most_words, mut oversized, mut unknown) = (0u64, 0, 0u64, 0u64);
    let mut distinct = HashSet::new();
    let mut classes: BTreeMap<String, u64> = BTreeMap::new();
    // By the power of two that the longer side reaches at most.
    let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
    let each = |raw: Raw| {
        let sides = raw.images.iter().map(sides).collect();
        Ok(Counted { sides, class: raw.labels.class, keywords: raw.keywords.len(), captions: raw.captions })
    };
    for_each(source, each, |made| {
        let Ok(Counted { captions: texts, class, keywords: count, sides }) = made else {
            faulty += 1;
            return Ok(());
        };
        pairs += 1;
        keywords += count as u64;
        class.into_iter().for_each(|class| *classes.entry(class).or_default() += 1);
        captions += texts.len() as u64;
        for text in texts {
            let count = text.split_whitespace().count() as u64;
            words += count;
            most_words = most_words.max(count);
            distinct.insert(text);
        }
        for sides in sides {
            match sides {
                Some((width, height)) => {
                    *sizes.entry(width.max(height).checked_next_power_of_two().unwrap_or(u32::MAX)).or_default() += 1;
                    oversized += u64::from(u64::from(width) * u64::from(height) > config.max_pixels);
                }
                None => unknown += 1,
            }
        }
        Ok(())
    })?;
    let mean = |sum: u64, count: u64| sum as f64 / count.max(1) as f64;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("source", source.name());
    line("pairs", format!("{pairs} in {} part{}", source.parts(), if source.parts() == 1 { "" } else { "s" }));
    line("captions", format!("{captions}, {:.2} a pair, {} distinct", mean(captions, pairs), distinct.len()));
    line("words", format!("{:.2} a caption, at most {most_words}", mean(words, captions)));
    line("keywords", format!("{:.2} a pair", mean(keywords, pairs)));
    if let Some((class, &count)) = classes.iter().max_by_key(|&(class, count)| (count, Reverse(class))) {
        let share = 100.0 * mean(count, classes.values().sum());
        line("labels", format!("{} distinct, the most frequent '{class}' with {share:.2} %", classes.len()));
    }
    line("faulty", format!("{faulty} without image or text; `coca data check` also decodes the images"));
    if oversized > 0 {
        line("oversized", format!("{oversized} have more than data.max_pixels = {} pixels", config.max_pixels));
    }
    line("sizes", "longer side in pixels".into());
    let highest = sizes.values().copied().max().unwrap_or(0).max(1);
    for (&side, &count) in &sizes {
        let bar = "#".repeat((count * BAR).div_ceil(highest) as usize);
        line("", format!("{:>6} to {side:<6} {count:>9}  {bar}", side / 2 + 1));
    }
    if unknown > 0 {
        line("", format!("{:<16} {unknown:>9}", "unreadable"));
    }
    Ok(text)
}

/// Reads every sample once, to the model's input as evaluation makes it, and lists what would be skipped, by kind with
/// the first of each, as text for a terminal; and whether a run would go on.
///
/// # Errors
/// None of its own; what is wrong stands in the text.
pub fn check(source: &dyn Source, model: &CocaConfig, config: &Data) -> Result<(String, bool)> {
    let augmenter = Augmenter::evaluation(model, config);
    // Nothing is random in evaluation.
    let each = |raw: Raw| augmenter.images(&raw, source.images(), &mut Philox::new(0, 0)).map(drop);
    let mut sound = 0u64;
    let mut faults: BTreeMap<FaultKind, (u64, Vec<Fault>)> = BTreeMap::new();
    for_each(source, each, |made| {
        match made {
            Ok(()) => sound += 1,
            Err(fault) => {
                let (count, examples) = faults.entry(fault.kind).or_default();
                *count += 1;
                if examples.len() < EXAMPLES {
                    examples.push(fault);
                }
            }
        }
        Ok(())
    })?;
    let bad: u64 = faults.values().map(|(count, _)| count).sum();
    let seen = sound + bad;
    let mut text = String::new();
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line(source.name());
    line(format!("{sound} of {seen} samples are sound"));
    for (kind, (count, examples)) in &faults {
        line(format!("{count} {}", kind.name()));
        examples.iter().for_each(|fault| line(format!("  {}: {}", fault.key, fault.detail)));
        if *count > examples.len() as u64 {
            line(format!("  and {} more", count - examples.len() as u64));
        }
    }
    let share = bad as f64 / seen.max(1) as f64;
    let allowed = config.max_bad_share;
    let stops = sound == 0 || share > allowed;
    let verdict = if stops { "a run would stop" } else { "a run would go on" };
    line(format!("{:.2} % are faulty, data.max_bad_share allows {:.2} %: {verdict}", share * 100.0, allowed * 100.0));
    Ok((text, !stops))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::test_source::{Kind, TestSource, model};

    fn check(source: &TestSource) -> (String, bool) {
        super::check(source, &model(8), &Data::default()).unwrap()
    }

    #[test]
    fn a_source_is_counted() {
        let mut kinds = vec![Kind::Good; 6];
        (kinds[1], kinds[2], kinds[3]) = (Kind::Drawing, Kind::Bomb, Kind::Bad(FaultKind::EmptyCaption));
        kinds[4] = Kind::Corrupt;
        let source = TestSource::new(vec![Some(kinds), None]);
        let text = stats(&source, &Data::default()).unwrap();
        for expected in [
            "pairs     5 in 2 parts\n",
            "captions  10, 2.00 a pair, 10 distinct\n",
            "words     3.00 a caption, at most 3\n",
            "keywords  0.40 a pair\n",
            "faulty    2 ",
            "oversized 1 have more",
            "     9 to 16             3  ####",
            " 32769 to 65536          1  ##",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn a_check_lists_what_is_faulty() {
        let mut kinds = vec![Kind::Good; 6];
        kinds.extend([Kind::Corrupt; 5]);
        kinds.push(Kind::Bomb);
        let (text, goes_on) = check(&TestSource::new(vec![Some(kinds)]));
        assert!(!goes_on);
        for expected in ["6 of 12 samples are sound", "5 corrupt_image\n  0/6: ", "  and 2 more\n1 oversized\n  0/11: "]
        {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
        assert!(text.ends_with("50.00 % are faulty, data.max_bad_share allows 5.00 %: a run would stop\n"), "{text}");
        let (good, goes_on) = check(&TestSource::all_good(&[3]));
        assert!(goes_on && good.contains("3 of 3") && good.ends_with("a run would go on\n"), "{good}");
        assert!(check(&TestSource::new(Vec::new())).0.ends_with("a run would stop\n"));
    }

    #[test]
    fn the_bundle_is_sound() {
        let source = crate::data::open("emoji", &Data::default()).unwrap();
        let text = stats(&*source, &Data::default()).unwrap();
        assert!(text.contains("pairs     5945 in 1 part\n") && text.contains("faulty    0 "), "{text}");
    }
}
