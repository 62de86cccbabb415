//! Two pictures and a statement that is true or false of both together.

use super::questions::{Balance, Candidate, subjects, words};
use super::scene::{Combinations, Scene, name};
use engine::rng::Philox;

/// Most objects of a kind in the two pictures that a statement names.
const MOST_TOGETHER: usize = 4;

/// Two scenes and what is said of them.
pub struct Pair {
    pub scenes: [Scene; 2],
    pub statement: String,
    pub truth: bool,
}

/// A random pair.
pub fn random(combinations: Combinations, balance: &mut Balance, random: &mut Philox) -> Pair {
    loop {
        let scenes = [0; 2].map(|_| Scene::random(combinations, random));
        if let Some(Candidate { text, answer, .. }) = balance.choose(candidates(&scenes, combinations), random) {
            return Pair { scenes, statement: text, truth: answer == "true" };
        }
    }
}

/// All statements whose truth these scenes show, each in one of its cases.
fn candidates(scenes: &[Scene; 2], combinations: Combinations) -> Vec<Candidate> {
    const ANSWERS: [&str; 2] = ["true", "false"];
    let mut candidates = Vec::new();
    for pair in combinations.asked() {
        let [left, right] = scenes.each_ref().map(|scene| scene.matching(Some(pair.0), Some(pair.1)).next().is_some());
        // Four cases, so that neither picture alone tells the answer.
        candidates.push(Candidate {
            text: format!("exactly one image shows {}", name(pair)),
            answer: ANSWERS[usize::from(left == right)].into(),
            case: usize::from(left) * 2 + usize::from(right),
            cases: 4,
        });
        if left || right {
            candidates.push(Candidate::two(format!("both images show {}", name(pair)), ANSWERS, left && right));
        }
    }
    for subject in subjects() {
        let [left, right] = scenes.each_ref().map(|scene| scene.matching(subject.0, subject.1).count());
        let [one, many] = words(subject);
        if left != right {
            let text = format!("the left image shows more {many} than the right image");
            candidates.push(Candidate::two(text, ANSWERS, left > right));
        }
        for count in 1..=MOST_TOGETHER {
            // False by one only: the two have to be counted.
            if (left + right).abs_diff(count) <= 1 {
                let text = format!("the two images show {count} {} in all", if count == 1 { &one } else { &many });
                candidates.push(Candidate::two(text, ANSWERS, left + right == count));
            }
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Colour, Shape};
    use super::super::questions::tests::best_guess;
    use super::super::scene::Object;
    use super::*;

    #[test]
    fn statements_alone_give_nothing_away_and_exactly_one_needs_both_pictures() {
        for combinations in [Combinations::Known, Combinations::Fresh] {
            let (mut balance, mut numbers) = (Balance::default(), Philox::new(5, 0));
            let pairs: Vec<Pair> = (0..3000).map(|_| random(combinations, &mut balance, &mut numbers)).collect();
            let label = |pair: &Pair| if pair.truth { "true" } else { "false" };
            let guess = best_guess(pairs.iter().map(|pair| (&*pair.statement, label(pair))));
            assert!(guess < 0.55, "{combinations:?}: {guess}");
            let one_seen = pairs.iter().filter(|pair| pair.statement.starts_with("exactly")).map(|pair| {
                let shown = |object: &Object| pair.statement.ends_with(&name((object.colour, object.shape)));
                (if pair.scenes[0].objects.iter().any(shown) { "seen" } else { "not seen" }, label(pair))
            });
            let guess = best_guess(one_seen);
            assert!(guess < 0.6, "{combinations:?}: {guess}");
        }
    }

    #[test]
    fn statements_are_true_of_what_is_there() {
        let scene = |shapes: &[(Colour, Shape)]| {
            let object = |&(colour, shape): &(Colour, Shape)| Object { colour, shape, centre: [0.5; 2], radius: 0.07 };
            Scene { objects: shapes.iter().map(object).collect(), curtain: None, ground: [255; 3] }
        };
        let (red, blue) = ((Colour::Red, Shape::Circle), (Colour::Blue, Shape::Circle));
        let made = candidates(&[scene(&[red, blue]), scene(&[red])], Combinations::Known);
        for (text, expected) in [
            ("exactly one image shows a red circle", Some("false")),
            ("exactly one image shows a blue circle", Some("true")),
            ("both images show a red circle", Some("true")),
            ("both images show a blue circle", Some("false")),
            ("both images show a pink star", None),
            ("the left image shows more circles than the right image", Some("true")),
            ("the left image shows more red shapes than the right image", None),
            ("the two images show 3 circles in all", Some("true")),
            ("the two images show 2 circles in all", Some("false")),
            ("the two images show 1 circle in all", None),
        ] {
            let found = made.iter().find(|candidate| candidate.text == text);
            assert_eq!(found.map(|candidate| &*candidate.answer), expected, "{text}");
        }
    }
}
