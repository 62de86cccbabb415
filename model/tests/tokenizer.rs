//! Ids equal open_clip's on awkward texts, and those of the tokenizers library for files that it wrote (fixtures made by
//! `fixtures/tokenizer.py`).

use model::tokenizer::Tokenizer;
use serde_json::Value;

/// Texts with their ids by CLIP, by each of the small tokenizers and by the last of them in open_clip's hands, and the files
/// of the small ones.
fn fixture() -> (Vec<(String, Vec<Vec<i32>>)>, Vec<Tokenizer>) {
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokens.json"));
    let fixture: Value = serde_json::from_str(&file.expect("fixture")).expect("fixture");
    let text = |line: &Value| -> (String, Vec<Vec<i32>>) {
        let ids = line.as_array().expect("a line").iter().skip(1);
        let ids = ids.map(|ids| serde_json::from_value(ids.clone()).expect("ids")).collect();
        (line[0].as_str().expect("a text").to_string(), ids)
    };
    let tokenizers = fixture["tokenizers"].as_array().expect("tokenizers").iter();
    (
        fixture["texts"].as_array().expect("texts").iter().map(text).collect(),
        tokenizers.map(|file| Tokenizer::from_json(&file.to_string()).expect("a tokenizer.json")).collect(),
    )
}

/// Fails with every text whose ids differ, not with the first.
fn check(name: &str, tokenizer: &Tokenizer, texts: impl Iterator<Item = (String, Vec<i32>)>, context: usize) {
    let mut wrong = Vec::new();
    for (text, expected) in texts {
        let ids = tokenizer.encode_within(&text, context);
        if ids != expected {
            wrong.push(format!("{text:?}: {:?}, not {:?}", pieces(tokenizer, &ids), pieces(tokenizer, &expected)));
        }
    }
    assert!(wrong.is_empty(), "{name}, {} texts:\n{}", wrong.len(), wrong.join("\n"));
}

fn pieces<'t>(tokenizer: &'t Tokenizer, ids: &[i32]) -> Vec<&'t str> {
    ids.iter().map(|&id| tokenizer.piece(id).unwrap_or("?")).collect()
}

#[test]
fn clip_equals_open_clip() {
    let (texts, _) = fixture();
    assert!(texts.len() >= 60);
    check("CLIP", &Tokenizer::clip(), texts.into_iter().map(|(text, mut ids)| (text, ids.swap_remove(0))), 77);
}

#[test]
fn files_of_the_tokenizers_library_give_its_ids() {
    let (texts, tokenizers) = fixture();
    for (index, tokenizer) in tokenizers.iter().enumerate() {
        let texts = texts.iter().map(|(text, ids)| (text.clone(), ids[1 + index].clone()));
        // Written and read again, it is the same.
        let again = Tokenizer::from_json(&tokenizer.to_json()).expect("its own file");
        check(&format!("tokenizer {index}"), &again, texts, usize::MAX);
    }
}

#[test]
fn a_named_tokenizer_cleans_before_as_open_clip_does() {
    let (texts, mut tokenizers) = fixture();
    let tokenizer = tokenizers.pop().expect("tokenizers").cleaned_before().expect("cleaned before");
    let again = Tokenizer::from_json(&tokenizer.to_json()).expect("its own file");
    for tokenizer in [again.cleaned_before().expect("the same"), again, tokenizer] {
        let texts = texts.iter().map(|(text, ids)| (text.clone(), ids[3].clone()));
        check("HFTokenizer", &tokenizer, texts, 77);
    }
}
