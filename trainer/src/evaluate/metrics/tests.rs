use super::*;
use serde_json::Value;

/// pycocoevalcap's tokens and scores; `tests/fixtures/captions.py` makes it.
const FIXTURE: &str = include_str!("../../../tests/fixtures/captions.json");

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn tokens_and_scores_are_pycocoevalcaps() {
    let sets: Vec<Value> = serde_json::from_str(FIXTURE).unwrap();
    assert_eq!(sets.len(), 4);
    for set in &sets {
        let images = set["images"].as_array().unwrap();
        let captions: Vec<&str> = images.iter().map(|image| image["caption"].as_str().unwrap()).collect();
        let references: Vec<Vec<&str>> = images.iter().map(|image| texts(&image["references"])).collect();
        for ((caption, references), image) in captions.iter().zip(&references).zip(images) {
            for (text, tokens) in [caption].into_iter().chain(references).zip(texts(&image["tokens"])) {
                assert_eq!(tokenize(text).join(" "), tokens, "{text}");
            }
        }
        let scores = scores(&captions, &references).unwrap().named();
        assert_eq!(scores.len(), set["scores"].as_object().unwrap().len());
        for (name, found) in scores {
            let wanted = set["scores"][&name].as_f64().unwrap();
            // Sums of a few hundred terms in another order.
            assert!((found - wanted).abs() <= 1e-9 * wanted, "{}: {name} {found}, theirs {wanted}", set["name"]);
        }
    }
}

#[test]
fn words_are_the_tokenizers() {
    // Each as PTBTokenizer 3.4.1 splits it, without coco-caption's punctuation.
    for (text, words) in [
        (
            "A man's flag: (light-skinned), \u{201c}42\u{201d} -- don\u{2019}t!",
            "a man 's flag -lrb- light-skinned -rrb- 42 do n't",
        ),
        ("cannot gonna 'tis 'twas y'all 'em 'til ol' c'mon", "can not gon na 't is 't was y' all 'em 'til ol' c'mon"),
        ("dogs' toys, O'Hara ma'am rock'n'roll o'clock's", "dogs toys o'hara ma'am rock 'n' roll o'clock 's"),
        ("He said 'hello' and \u{2018}bye\u{2019} \u{ab}x\u{bb}", "he said hello and bye x"),
        (
            "1 1/2 1-1/2 12/25/2014 10:30am 1,000.50 -5 .5 x\u{b2} \u{bd}",
            "1\u{a0}1/2 1-1/2 12/25/2014 10:30 am 1,000.50 -5 .5 x \u{b2} 1/2",
        ),
        (
            "a/b/c/d R&B a&b US$5 \u{a3}5 \u{20ac}5 5\u{a2} #tag1 @a_b ##",
            "a/b/c / d r&b a & b us$ 5 # 5 $ 5 5 cents #tag 1 @a_b ##",
        ),
        ("St. no. 5 no. Mass. mass. U.S.-based Ph.D. etc.", "st. no. 5 no mass. mass u.s.-based ph.d. etc."),
        ("plan b. The end, plan b. the end., word.: x", "plan b the end plan b. the end. word. x"),
        ("dog.cat wow!cool a.. b... c.... d\u{2026} ?! !!", "dog.cat wow!cool a. b. c. d ?! !!"),
        (":) :-( >:D =] a:d (b) [c] {d}", ":-rrb- :--lrb- >:d =] a :d -lrb- b -rrb- -lsb- c -rsb- -lcb- d -rcb-"),
        (
            "me@home.org. https://a.b/c?d. 2.mp3 2.mp4 under_score",
            "me@home.org https://a.b/c?d 2.mp3 2 mp4 under_score",
        ),
        (
            "caf\u{e9} soft\u{ad}hyphen a\u{1f600}b \u{2713} a--b a\u{2014}b a-----b \u{2010}",
            "caf\u{e9} softhyphen a b \u{2713} a b a b a ----- b",
        ),
        ("* ** \\ | % 5% C++ C# '90s '98 '98x", "* ** \\ | % 5 % c++ c# '90s '98 98x"),
        (" \n ... ' - ", ""),
    ] {
        assert_eq!(tokenize(text).join(" "), words, "{text}");
    }
}

#[test]
fn exact_matches_are_of_words() {
    let references = [vec!["bird", "a cat"], vec!["dog a"], vec!["dog."]];
    let found = scores(&["A cat!", "a dog", "dog"], &references).unwrap().exact_match;
    assert_eq!(found, 2.0 / 3.0);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let none: [&str; 0] = [];
    let refused = |captions: &[&str], references: &[Vec<&str>]| scores(captions, references).unwrap_err().to_string();
    assert!(refused(&none, &[]).contains("0 captions, 0 sets"));
    assert!(refused(&["a"], &[]).contains("1 captions, 0 sets"));
    assert!(refused(&["a", "b"], &[vec!["a"], vec![]]).contains("caption 1 has no reference"));
}
