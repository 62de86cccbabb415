//! What is asked about a scene and stated of it. Of one text every answer comes up as often as any other, but for one
//! time, so that the text alone gives nothing away.

use super::figure::{Colour, Shape};
use super::scene::{Combinations, Relation, Scene, name};
use engine::rng::Philox;
use serde::Serialize;
use std::collections::HashMap;

/// Most objects of a kind that are counted.
const MOST_COUNTED: usize = 3;
/// Statements about a scene.
const STATEMENTS: usize = 2;

/// A text that might be asked, with its answer for the picture at hand.
pub struct Candidate {
    pub text: String,
    pub answer: String,
    /// Which of the cases of this text the picture is, from 0.
    pub case: usize,
    /// How many cases there are; each shall come up equally often.
    pub cases: usize,
}

impl Candidate {
    /// A text with two cases of equal weight.
    pub fn two(text: String, answers: [&str; 2], first: bool) -> Candidate {
        let case = usize::from(!first);
        Candidate { text, answer: answers[case].into(), case, cases: 2 }
    }
}

/// How often each case of each text came up.
#[derive(Default)]
pub struct Balance(HashMap<String, Vec<u32>>);

impl Balance {
    /// Takes one of the candidates whose case is not ahead of the others of its text; none if there is no such one.
    pub fn choose(&mut self, mut candidates: Vec<Candidate>, random: &mut Philox) -> Option<Candidate> {
        candidates.retain(|candidate| {
            let seen = self.0.get(&candidate.text);
            seen.is_none_or(|seen| seen.iter().all(|&count| count >= seen[candidate.case]))
        });
        if candidates.is_empty() {
            return None;
        }
        let chosen = candidates.swap_remove(random.below(candidates.len()));
        self.0.entry(chosen.text.clone()).or_insert_with(|| vec![0; chosen.cases])[chosen.case] += 1;
        Some(chosen)
    }
}

/// A question about a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// What is asked for; of a scene `count`, `colour`, `shape`, `existence` or `relation`.
    pub kind: &'static str,
    pub text: String,
    pub answer: String,
}

/// A statement, which the picture makes true (`entailment`), false (`contradiction`), or leaves open (`neutral`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    pub text: String,
    pub label: String,
}

/// What can be counted and looked for: each shape, and each colour.
pub fn subjects() -> impl Iterator<Item = (Option<Colour>, Option<Shape>)> {
    let shapes = Shape::ALL.into_iter().map(|shape| (None, Some(shape)));
    shapes.chain(Colour::ALL.into_iter().map(|colour| (Some(colour), None)))
}

/// `circle` and `circles`, or `red shape` and `red shapes`.
pub fn words((colour, shape): (Option<Colour>, Option<Shape>)) -> [String; 2] {
    let [one, many] = shape.map_or(["shape".into(), "shapes".into()], |shape| [shape.name().into(), shape.plural()]);
    match colour {
        Some(colour) => [one, many].map(|word| format!("{} {word}", colour.name())),
        None => [one, many],
    }
}

/// Questions about a scene, at most one of each kind.
pub fn questions(
    scene: &Scene,
    combinations: Combinations,
    balance: &mut Balance,
    random: &mut Philox,
) -> Vec<Question> {
    let kinds = [
        ("count", counts(scene)),
        ("colour", colours(scene, combinations)),
        ("shape", shapes(scene, combinations)),
        ("existence", existence(scene, combinations)),
        ("relation", relations(scene)),
    ];
    let asked = kinds.into_iter().filter_map(|(kind, candidates)| {
        let Candidate { text, answer, .. } = balance.choose(candidates, random)?;
        Some(Question { kind, text, answer })
    });
    asked.collect()
}

fn counts(scene: &Scene) -> Vec<Candidate> {
    let candidate = |subject: (Option<Colour>, Option<Shape>)| {
        let count = scene.matching(subject.0, subject.1).count();
        let [_, many] = words(subject);
        let text = format!("how many {many} can you see?");
        let candidate = Candidate { text, answer: count.to_string(), case: count, cases: MOST_COUNTED + 1 };
        (count <= MOST_COUNTED).then_some(candidate)
    };
    subjects().filter_map(candidate).collect()
}

fn colours(scene: &Scene, combinations: Combinations) -> Vec<Candidate> {
    let candidate = |shape: Shape| {
        let [object] = scene.matching(None, Some(shape)).collect::<Vec<_>>()[..] else { return None };
        let possible = combinations.shown().into_iter().filter(|pair| pair.1 == shape).map(|pair| pair.0);
        let possible: Vec<Colour> = possible.collect();
        Some(Candidate {
            text: format!("what colour is the {}?", shape.name()),
            answer: object.colour.name().into(),
            case: possible.iter().position(|&colour| colour == object.colour)?,
            cases: possible.len(),
        })
    };
    Shape::ALL.into_iter().filter_map(candidate).collect()
}

fn shapes(scene: &Scene, combinations: Combinations) -> Vec<Candidate> {
    let candidate = |colour: Colour| {
        let [object] = scene.matching(Some(colour), None).collect::<Vec<_>>()[..] else { return None };
        let possible = combinations.shown().into_iter().filter(|pair| pair.0 == colour).map(|pair| pair.1);
        let possible: Vec<Shape> = possible.collect();
        Some(Candidate {
            text: format!("what shape is the {} thing?", colour.name()),
            answer: object.shape.name().into(),
            case: possible.iter().position(|&shape| shape == object.shape)?,
            cases: possible.len(),
        })
    };
    Colour::ALL.into_iter().filter_map(candidate).collect()
}

fn existence(scene: &Scene, combinations: Combinations) -> Vec<Candidate> {
    let candidate = |pair: (Colour, Shape)| {
        let there = scene.matching(Some(pair.0), Some(pair.1)).next().is_some();
        // What is asked for in vain has its colour or its shape there, or else one look at either would do.
        let near = scene.objects.iter().any(|object| object.colour == pair.0 || object.shape == pair.1);
        near.then(|| Candidate::two(format!("can you see {}?", name(pair)), ["yes", "no"], there))
    };
    combinations.asked().into_iter().filter_map(candidate).collect()
}

fn relations(scene: &Scene) -> Vec<Candidate> {
    // Objects that are the only ones of their shape, or of their colour.
    let alone: Vec<_> = subjects()
        .filter_map(|subject| match scene.matching(subject.0, subject.1).collect::<Vec<_>>()[..] {
            [object] => Some((words(subject)[0].clone(), object)),
            _ => None,
        })
        .collect();
    let mut candidates = Vec::new();
    for (first, object) in &alone {
        for (second, other) in alone.iter().filter(|(_, other)| other != object) {
            for relation in Relation::ALL {
                let text = format!("is the {first} {} the {second}?", relation.words());
                let holds = relation.holds(object, other);
                candidates.extend(holds.map(|holds| Candidate::two(text, ["yes", "no"], holds)));
            }
        }
    }
    candidates
}

/// Statements about a scene. A curtain leaves open whether there is what cannot be seen.
pub fn statements(
    scene: &Scene,
    combinations: Combinations,
    balance: &mut Balance,
    random: &mut Philox,
) -> Vec<Statement> {
    const LABELS: [&str; 3] = ["entailment", "neutral", "contradiction"];
    let pairs = combinations.asked().into_iter().map(|pair| (name(pair), (Some(pair.0), Some(pair.1))));
    let subjects = subjects().map(|subject| {
        let word = words(subject)[0].clone();
        (format!("{} {word}", if word.starts_with('o') { "an" } else { "a" }), subject)
    });
    let mut said: Vec<Statement> = Vec::new();
    let candidates: Vec<_> = pairs.chain(subjects).collect();
    for _ in 0..STATEMENTS {
        let candidate = |(name, subject): &(String, (Option<Colour>, Option<Shape>))| {
            let seen = scene.matching(subject.0, subject.1).next().is_some();
            let case = if seen { 0 } else { 2 - usize::from(scene.curtain.is_some()) };
            Candidate { text: format!("there is {name}"), answer: LABELS[case].into(), case, cases: LABELS.len() }
        };
        let new = |candidate: &Candidate| said.iter().all(|said| said.text != candidate.text);
        let chosen = balance.choose(candidates.iter().map(candidate).filter(new).collect(), random);
        said.extend(chosen.map(|Candidate { text, answer, .. }| Statement { text, label: answer }));
    }
    said
}

#[cfg(test)]
pub mod tests {
    use super::super::scene::Side;
    use super::*;
    use std::collections::BTreeMap;

    /// Share of the samples that a guess gets right which knows the answers of each text by heart.
    pub fn best_guess<'a>(answers: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
        let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for (text, answer) in answers {
            *counts.entry(text).or_default().entry(answer).or_default() += 1;
        }
        let best: usize = counts.values().filter_map(|answers| answers.values().max()).sum();
        best as f64 / counts.values().flat_map(BTreeMap::values).sum::<usize>() as f64
    }

    #[test]
    fn texts_alone_give_nothing_away() {
        for combinations in [Combinations::Known, Combinations::Fresh] {
            let mut random = Philox::new(11, 0);
            let (mut asked, mut said) = (Balance::default(), Balance::default());
            let (mut all, mut stated) = (Vec::new(), Vec::new());
            for _ in 0..4000 {
                let scene = Scene::random(combinations, &mut random);
                all.extend(questions(&scene, combinations, &mut asked, &mut random));
                stated.extend(statements(&scene, combinations, &mut said, &mut random));
            }
            // An even guess of a text with n answers is right in 1 of n; the rest is what an odd number of times leaves over,
            // which is most where there are many texts.
            for (kind, least, bound) in [
                ("count", 1000, 0.28),
                ("colour", 500, 0.22),
                ("shape", 500, 0.22),
                ("existence", 1000, 0.53),
                ("relation", 2000, 0.62),
            ] {
                let of_kind: Vec<_> = all.iter().filter(|question| question.kind == kind).collect();
                let guess = best_guess(of_kind.iter().map(|question| (&*question.text, &*question.answer)));
                assert!(of_kind.len() >= least && guess <= bound, "{combinations:?} {kind} {}: {guess}", of_kind.len());
            }
            let guess = best_guess(stated.iter().map(|statement| (&*statement.text, &*statement.label)));
            assert!(stated.len() > 2000 && guess < 0.36, "{combinations:?} {}: {guess}", stated.len());
        }
    }

    #[test]
    fn answers_are_those_of_the_scene() {
        let object = |colour, shape, x, y| super::super::scene::Object { colour, shape, centre: [x, y], radius: 0.07 };
        let objects = vec![
            object(Colour::Red, Shape::Circle, 0.2, 0.2),
            object(Colour::Blue, Shape::Circle, 0.8, 0.25),
            object(Colour::Red, Shape::Triangle, 0.5, 0.8),
        ];
        let scene = Scene { objects, curtain: None, ground: [255; 3] };
        let answer = |candidates: Vec<Candidate>, text: &str| {
            candidates.into_iter().find(|candidate| candidate.text == text).map(|candidate| candidate.answer)
        };
        let known = Combinations::Known;
        for (candidates, text, expected) in [
            (counts(&scene), "how many circles can you see?", Some("2")),
            (counts(&scene), "how many green shapes can you see?", Some("0")),
            (colours(&scene, known), "what colour is the triangle?", Some("red")),
            (colours(&scene, known), "what colour is the circle?", None),
            (shapes(&scene, known), "what shape is the blue thing?", Some("circle")),
            (existence(&scene, known), "can you see a blue circle?", Some("yes")),
            (existence(&scene, known), "can you see a blue triangle?", Some("no")),
            (existence(&scene, known), "can you see a green square?", None),
            (relations(&scene), "is the triangle below the blue shape?", Some("yes")),
            (relations(&scene), "is the triangle right of the blue shape?", Some("no")),
            (relations(&scene), "is the circle left of the triangle?", None),
        ] {
            assert_eq!(answer(candidates, text).as_deref(), expected, "{text}");
        }
        let label = |curtain, text: &str| {
            let scene = Scene { curtain, ..scene.clone() };
            (0..400).find_map(|stream| {
                let made = statements(&scene, known, &mut Balance::default(), &mut Philox::new(1, stream));
                made.into_iter().find(|statement| statement.text == text).map(|statement| statement.label)
            })
        };
        assert_eq!(label(None, "there is a red triangle").as_deref(), Some("entailment"));
        assert_eq!(label(None, "there is an orange shape").as_deref(), Some("contradiction"));
        assert_eq!(label(Some(Side::Left), "there is an orange shape").as_deref(), Some("neutral"));
    }
}
