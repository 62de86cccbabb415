//! The floor of a task with questions: the best guess from the text alone, without a model and without the picture.

use std::cmp::Reverse;
use std::collections::HashMap;

/// How often each answer was given.
type Counts<'a> = HashMap<&'a str, usize>;

/// What the training set says of each text: its most frequent answer, that of the texts that begin with the same two words, and
/// that of all. Statements with classes or truths are such texts too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionFloor {
    texts: HashMap<String, String>,
    starts: HashMap<String, String>,
    most: String,
}

/// Words of a text that tell one kind of question from another.
const START: usize = 2;

/// The words of a text, case and marks at the end aside.
fn words(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(|letter: char| letter.is_whitespace() || "?.!".contains(letter)).to_lowercase();
    text.split_whitespace().map(str::to_owned).collect()
}

fn start(words: &[String]) -> String {
    words[..words.len().min(START)].join(" ")
}

/// The most frequent one; of equals the first in the order of the alphabet.
fn most(counts: &Counts) -> String {
    let best = counts.iter().max_by_key(|&(answer, count)| (count, Reverse(answer)));
    best.map_or(String::new(), |(&answer, _)| answer.to_owned())
}

impl QuestionFloor {
    /// Counts the answers of a training set, given as texts and answers.
    pub fn learn<'a>(samples: impl IntoIterator<Item = (&'a str, &'a str)>) -> QuestionFloor {
        let (mut texts, mut starts) = (HashMap::<String, Counts>::new(), HashMap::<String, Counts>::new());
        let mut all = Counts::new();
        for (text, answer) in samples {
            let words = words(text);
            for counts in
                [&mut all, starts.entry(start(&words)).or_default(), texts.entry(words.join(" ")).or_default()]
            {
                *counts.entry(answer).or_default() += 1;
            }
        }
        let each =
            |counts: HashMap<String, Counts>| counts.into_iter().map(|(text, counts)| (text, most(&counts))).collect();
        QuestionFloor { texts: each(texts), starts: each(starts), most: most(&all) }
    }

    /// The answer to a text, seen or not; empty if the training set was.
    pub fn guess(&self, text: &str) -> &str {
        let words = words(text);
        let known = self.texts.get(&words.join(" ")).or_else(|| self.starts.get(&start(&words)));
        known.unwrap_or(&self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_gives_its_own_answer_then_that_of_its_start_then_that_of_all() {
        let floor = QuestionFloor::learn([
            ("How many dogs are there?", "2"),
            ("how many dogs  are there", "2"),
            ("How many dogs are there?", "1"),
            ("How many cats are there?", "3"),
            ("How many birds are there?", "3"),
            ("How many cows are there?", "3"),
            ("Is it raining?", "yes"),
            ("Is it cold?", "no"),
            ("Is this a cat?", "no"),
            ("Why?", "yes"),
            ("Who?", "yes"),
            ("When?", "yes"),
        ]);
        for (text, expected) in [
            ("How many dogs are there?", "2"),
            ("HOW MANY dogs are there ?", "2"),
            ("How many horses are there?", "3"),
            // Of answers that are equally frequent, the one that the alphabet has first.
            ("Is it late?", "no"),
            ("Is this a dog?", "no"),
            ("What is it?", "yes"),
            ("why", "yes"),
            ("", "yes"),
        ] {
            assert_eq!(floor.guess(text), expected, "{text}");
        }
        assert_eq!(QuestionFloor::learn([]).guess("Is it?"), "");
    }
}
