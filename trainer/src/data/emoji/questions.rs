//! Questions about the bundled drawings that their names, groups and keywords answer. As in procedural scenes, every answer of a
//! text comes up as often as any other, but for one time: the text alone gives nothing away.

use super::{Concept, EmojiSet, Split, Vendor};
use crate::data::scenes::questions::{Balance, Candidate, Question};
use engine::rng::Philox;
use std::collections::{BTreeMap, HashMap};

/// What decides which drawing is asked what.
const SEED: u64 = 0x656d_6f6a_6971;

/// Kinds of thing: what it is called, Unicode's subgroups that it is found in (what they begin with), and the keyword that sorts
/// out what else is there.
const THINGS: [(&str, &[&str], Option<&str>); 15] = [
    ("a face", &["face-"], Some("face")),
    ("a heart", &["heart"], Some("heart")),
    ("a hand", &["hand"], Some("hand")),
    ("a person", &["person-role", "person-activity", "person-gesture", "person-sport", "person-fantasy"], None),
    ("an animal", &["animal-"], None),
    ("a plant", &["plant-"], None),
    ("food", &["food-"], None),
    ("a drink", &["drink"], Some("drink")),
    ("a building", &["place-building"], Some("building")),
    ("a vehicle", &["transport-"], Some("vehicle")),
    ("a clock", &["time"], Some("clock")),
    ("clothing", &["clothing"], Some("clothing")),
    ("an instrument", &["musical-instrument"], None),
    ("an arrow", &["arrow"], None),
    ("a flag", &["country-flag", "subdivision-flag", "flag"], None),
];
const COLOURS: [&str; 11] =
    ["red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "grey", "white", "pink"];
const DIRECTIONS: [&str; 8] = ["up", "up-right", "right", "down-right", "down", "down-left", "left", "up-left"];

/// A question that a drawing answers.
fn question(kind: &'static str, text: impl Into<String>, answer: impl Into<String>) -> Question {
    Question { kind, text: text.into(), answer: answer.into() }
}

/// Whether a concept is in one of the subgroups, with the keyword.
fn is_of(concept: &Concept, subgroups: &[&str], keyword: Option<&str>) -> bool {
    let named = |word: &str| concept.name.contains(word) || concept.keywords.iter().any(|keyword| keyword == word);
    subgroups.iter().any(|subgroup| concept.subgroup.starts_with(subgroup)) && keyword.is_none_or(named)
}

/// All that can be asked about a vendor's drawing of a concept.
fn askable(concept: &Concept, vendor: Vendor) -> Vec<Question> {
    let mut askable = Vec::new();
    let name = concept.name.replace('\u{2019}', "'");
    // Nothing is asked about a drawing of none of the kinds: it may look like one all the same.
    if let Some(own) = THINGS.iter().position(|&(_, subgroups, keyword)| is_of(concept, subgroups, keyword)) {
        let phrase = THINGS[own].0;
        askable.push(question("thing", "what kind of thing is this?", phrase.rsplit(' ').next().unwrap_or(phrase)));
        let check = |(thing, (phrase, ..)): (usize, &(&str, _, _))| {
            question("check", format!("is this {phrase}?"), if thing == own { "yes" } else { "no" })
        };
        askable.extend(THINGS.iter().enumerate().map(check));
    }
    let (first, rest) = name.split_once(' ').unwrap_or((&name, ""));
    // Of the vendor's drawings in one colour none shows another.
    if COLOURS.contains(&first) && !rest.is_empty() && vendor != Vendor::EmojioneMonotone {
        askable.push(question("colour", format!("what colour is the {rest}?"), first));
    }
    let first = first.trim_end_matches(':');
    if ["man", "woman"].contains(&first) && !rest.split(' ').any(|word| word == "and") {
        askable.push(question("person", "is this a man or a woman?", first));
    }
    if let Some(direction) = name.strip_suffix(" arrow").filter(|direction| DIRECTIONS.contains(direction)) {
        askable.push(question("direction", "which way does the arrow point?", direction));
    }
    if name.ends_with(" o'clock") || name.ends_with("-thirty") {
        askable.push(question("time", "what time does the clock show?", name));
    }
    askable
}

/// The answers of which a text can be asked most often when all come up equally often, given how often each is there: the
/// more answers, the rarer is the rarest. None if that leaves only one.
fn balanced(answers: &BTreeMap<&str, usize>) -> Vec<String> {
    let mut answers: Vec<(&str, usize)> = answers.iter().map(|(&answer, &count)| (answer, count)).collect();
    // The order of the alphabet among equals.
    answers.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let most = (2..=answers.len()).max_by_key(|&kept| kept * answers[kept - 1].1).unwrap_or(0);
    answers.truncate(most);
    answers.into_iter().map(|(answer, _)| answer.to_owned()).collect()
}

/// The questions about a split, with the drawing that each is about, in the order of the drawings; at most one of each kind about
/// a drawing.
pub fn questions(set: &EmojiSet, split: Split) -> Vec<(usize, Question)> {
    let mut random = Philox::new(SEED, Split::ALL.iter().position(|&other| other == split).unwrap_or(0) as u64);
    let of_drawing = |drawing: usize| {
        let shown = set.drawings()[drawing];
        (drawing, askable(&set.concepts()[shown.concept], shown.vendor))
    };
    let mut drawings: Vec<_> = set.split(split).into_iter().map(of_drawing).collect();
    let mut counts: HashMap<&str, BTreeMap<&str, usize>> = HashMap::new();
    for question in drawings.iter().flat_map(|(_, askable)| askable) {
        *counts.entry(&question.text).or_default().entry(&question.answer).or_default() += 1;
    }
    let answers: HashMap<String, Vec<String>> =
        counts.into_iter().map(|(text, counts)| (text.to_owned(), balanced(&counts))).collect();
    // So that no vendor is asked first.
    random.shuffle(&mut drawings);
    let mut balance = Balance::default();
    let mut asked = Vec::new();
    for (drawing, askable) in drawings {
        let mut kinds: BTreeMap<&'static str, Vec<Candidate>> = BTreeMap::new();
        for Question { kind, text, answer } in askable {
            let answers = &answers[&text];
            if let Some(case) = answers.iter().position(|other| *other == answer) {
                let cases = answers.len();
                kinds.entry(kind).or_default().push(Candidate { text, answer, case, cases });
            }
        }
        for (kind, candidates) in kinds {
            let chosen = balance.choose(candidates, &mut random);
            asked.extend(chosen.map(|Candidate { text, answer, .. }| (drawing, Question { kind, text, answer })));
        }
    }
    asked.sort_by_key(|&(drawing, _)| drawing);
    asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn texts_alone_give_nothing_away() {
        let set = EmojiSet::bundled().unwrap();
        for (split, least, kinds) in
            [(Split::Train, 4000, 6), (Split::Style(Vendor::NotoV1), 800, 6), (Split::Style(Vendor::Fxemoji), 100, 3)]
        {
            let asked = questions(&set, split);
            assert_eq!(asked, questions(&set, split));
            let mut counts: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
            for (_, Question { kind, text, answer }) in &asked {
                *counts.entry((kind, text)).or_default().entry(answer).or_default() += 1;
            }
            for (text, answers) in &counts {
                let (least, most) = (answers.values().min().unwrap(), answers.values().max().unwrap());
                let even = if answers.len() == 1 { *most == 1 } else { most - least <= 1 };
                assert!(even, "{} {text:?}: {answers:?}", split.name());
            }
            let found: BTreeSet<&str> = counts.keys().map(|&(kind, _)| kind).collect();
            assert!(asked.len() >= least && found.len() >= kinds, "{}: {} {found:?}", split.name(), asked.len());
        }
    }

    #[test]
    fn answers_are_those_of_the_names_and_groups() {
        let set = EmojiSet::bundled().unwrap();
        let answer = |name: &str, vendor, text: &str| {
            let concept = set.concepts().iter().find(|concept| concept.name == name).unwrap();
            let asked = askable(concept, vendor).into_iter().find(|question| question.text == text);
            asked.map(|question| question.answer)
        };
        for (name, text, expected) in [
            ("red apple", "what colour is the apple?", Some("red")),
            ("red apple", "what kind of thing is this?", Some("food")),
            ("red apple", "is this food?", Some("yes")),
            ("red apple", "is this an animal?", Some("no")),
            ("light blue heart", "what colour is the heart?", None),
            ("grinning face", "what kind of thing is this?", Some("face")),
            ("up-left arrow", "which way does the arrow point?", Some("up-left")),
            ("left-right arrow", "which way does the arrow point?", None),
            ("twelve o\u{2019}clock", "what time does the clock show?", Some("twelve o'clock")),
            ("alarm clock", "what kind of thing is this?", Some("clock")),
            ("woman cook", "is this a man or a woman?", Some("woman")),
            ("man: beard", "is this a man or a woman?", Some("man")),
            ("woman\u{2019}s hat", "is this a man or a woman?", None),
            ("woman and man holding hands", "is this a man or a woman?", None),
            ("bus stop", "is this a vehicle?", None),
        ] {
            assert_eq!(answer(name, Vendor::Noto, text).as_deref(), expected, "{name}: {text}");
        }
        assert_eq!(answer("red apple", Vendor::EmojioneMonotone, "what colour is the apple?"), None);
    }

    #[test]
    fn answers_are_kept_while_more_questions_come_of_it() {
        let kept = |counts: &[(&'static str, usize)]| balanced(&counts.iter().copied().collect());
        assert_eq!(kept(&[("a", 9), ("b", 10), ("c", 8), ("d", 1)]), ["b", "a", "c"]);
        assert_eq!(kept(&[("a", 2), ("b", 2)]), ["a", "b"]);
        assert!(kept(&[("a", 9)]).is_empty());
    }
}
