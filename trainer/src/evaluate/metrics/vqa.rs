//! VQA's accuracy (Antol et al. 2015, evaluated as for v2.0): an answer is as right as annotators gave it, wholly if three did.

use crate::data::benchmark::{normalised_answer, trimmed_answer};

/// Annotators who have to agree with an answer that is wholly right.
const AGREE: usize = 3;

/// The accuracy of an answer, 0 to 1, given what each annotator said: `min(1, equal answers / 3)`, averaged over all ways to
/// leave one annotator out; 0 if fewer than two answered. Answers are compared in their normal form, but as they are if all
/// annotators said the same: so does the official evaluation.
pub fn vqa_accuracy<T: AsRef<str>>(answer: &str, answers: &[T]) -> f64 {
    let mut form: fn(&str) -> String = trimmed_answer;
    if answers.windows(2).any(|pair| form(pair[0].as_ref()) != form(pair[1].as_ref())) {
        form = normalised_answer;
    }
    let answer = form(answer);
    let equal = answers.iter().filter(|given| form(given.as_ref()) == answer).count();
    let share = |equal: usize| equal.min(AGREE) as f64 / AGREE as f64;
    // Without one who said the same, and without one who did not.
    let sum = equal as f64 * share(equal.saturating_sub(1)) + (answers.len() - equal) as f64 * share(equal);
    sum / answers.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::rng::Philox;

    /// Every set of all answers but one, counted one by one.
    fn by_subsets(answer: &str, answers: &[String]) -> f64 {
        let subset = |left_out: usize| {
            let mut equal: f64 = 0.0;
            for (annotator, given) in answers.iter().enumerate() {
                equal += f64::from(u8::from(annotator != left_out && given == answer));
            }
            (equal / 3.0).min(1.0)
        };
        (0..answers.len()).map(subset).sum::<f64>() / answers.len() as f64
    }

    #[test]
    fn it_is_the_mean_over_all_subsets() {
        let mut random = Philox::new(3, 0);
        let words = ["yes", "no", "dog", "2", "red"];
        for round in 0..400 {
            let kinds = 1 + round % words.len();
            let answers: Vec<String> = (0..2 + random.below(12)).map(|_| words[random.below(kinds)].into()).collect();
            for answer in words {
                let (found, expected) = (vqa_accuracy(answer, &answers), by_subsets(answer, &answers));
                assert!((found - expected).abs() < 1e-12, "{answer} of {answers:?}: {found}, {expected}");
            }
        }
    }

    #[test]
    fn answers_are_compared_in_their_normal_form_unless_they_all_agree() {
        let ten = |first: usize, one: &str, other: &str| -> Vec<String> {
            (0..10).map(|annotator| if annotator < first { one } else { other }.to_owned()).collect()
        };
        for (answer, answers, expected) in [
            ("The dogs!", ten(4, "dogs", "cats"), 1.0),
            ("dogs", ten(3, "dogs.", "cats"), 0.9),
            ("2", ten(2, "two", "three"), 0.6),
            ("two", ten(1, "2", "3"), 0.3),
            ("birds", ten(5, "dogs", "cats"), 0.0),
            ("two", ten(10, "two", ""), 1.0),
            (" two\n", ten(10, "two", ""), 1.0),
            ("2", ten(10, "two", ""), 0.0),
        ] {
            let found = vqa_accuracy(answer, &answers);
            assert!((found - expected).abs() < 1e-12, "{answer} of {answers:?}: {found}");
        }
        assert_eq!([vqa_accuracy::<&str>("x", &[]), vqa_accuracy("x", &["x"])], [0.0, 0.0]);
    }
}
