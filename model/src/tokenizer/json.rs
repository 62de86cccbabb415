//! `tokenizer.json` of Hugging Face's tokenizers library: the byte-level byte-pair part of it, in and out.
//!
//! Read: model `BPE` over bytes, with `</w>` (CLIP) or without (RoBERTa), and one token put before and one after every text,
//! which may be the same. GPT-2's own file puts none, and open_clip, too, refuses it: a text without an end has no padding.
//! Anything that would change ids and is not understood is an error with its name. A file written by [`Tokenizer::save`] is recognised by its normaliser and cleaned
//! as open_clip cleans; the library, which knows neither ftfy nor HTML, does as much of it as it has words for.

use super::added::Added;
use super::bpe::{Bpe, END_OF_WORD};
use super::clean::{Cleaning, Step};
use super::split::Split;
use super::{PAD, Tokenizer};
use crate::weights::write_atomically;
use engine::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// CLIP's rule without its special tokens, which the library cuts out first.
const CLIP_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!(
        "tokenizer.json: {what} is not supported; it must be a byte-level BPE as of CLIP or RoBERTa"
    ))
}

/// What open_clip's cleaning, `lower` or `whitespace`, is in the library's words; also the mark of a file written here.
fn open_clip_normalizer(lower: bool) -> Value {
    let replace =
        |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    let mut steps = vec![
        replace("[\u{2bc}\u{2018}-\u{201b}]", "'"),
        replace("[\u{201c}-\u{201f}]", "\""),
        json!({"type": "NFC"}),
        replace(r"\s+", " "),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
    ];
    steps.extend(lower.then(|| json!({"type": "Lowercase"})));
    json!({"type": "Sequence", "normalizers": steps})
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn load(path: impl AsRef<Path>) -> Result<Tokenizer> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        Tokenizer::from_json(&text).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
    }

    /// Writes a `tokenizer.json`, whole or not at all. Loaded again it gives the same ids.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = self.to_json();
        write_atomically(path.as_ref(), |file| file.write_all(text.as_bytes()))
    }

    /// Reads the text of a `tokenizer.json`.
    pub fn from_json(text: &str) -> Result<Tokenizer> {
        let file: Value =
            serde_json::from_str(text).map_err(|error| Error::invalid(format!("tokenizer.json: {error}")))?;
        let model = &file["model"];
        // Files before the type was written down are BPE where they have merges.
        match model["type"].as_str() {
            Some("BPE") => {}
            None if model["merges"].is_array() => {}
            other => return Err(unsupported(format!("the model {other:?}"))),
        }
        for key in ["dropout", "continuing_subword_prefix"] {
            if !matches!(&model[key], Value::Null) && model[key] != json!("") {
                return Err(unsupported(format!("model.{key}")));
            }
        }
        for key in ["byte_fallback", "ignore_merges", "fuse_unk"] {
            if model[key] == json!(true) {
                return Err(unsupported(format!("model.{key}")));
            }
        }
        let end_of_word = match model["end_of_word_suffix"].as_str() {
            None | Some("") => false,
            Some(END_OF_WORD) => true,
            Some(other) => return Err(unsupported(format!("the end of word {other:?}"))),
        };
        let added = file["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let mut added = added.iter().map(Added::read).collect::<Result<Vec<Added>>>()?;
        let (strings, ids) = vocabulary(&model["vocab"], &added)?;
        let merges = merges(&model["merges"], &ids)?;
        let mut split = read_split(&file["pre_tokenizer"])?;
        let normalizer = &file["normalizer"];
        let ours = *normalizer == open_clip_normalizer(true) && split == Split::Clip;
        let cleaning = if ours {
            split = Split::OpenClip;
            Cleaning::OpenClip
        } else {
            let mut steps = Vec::new();
            if normalizer["normalizers"][0] == open_clip_normalizer(false) {
                read_normalizer(&normalizer["normalizers"][1], &mut steps)?;
                Cleaning::WhitespaceThen(steps)
            } else {
                read_normalizer(normalizer, &mut steps)?;
                Cleaning::Steps(steps)
            }
        };
        let id = |token: &str| {
            ids.get(token).copied().ok_or_else(|| Error::invalid(format!("tokenizer.json: no token {token:?}")))
        };
        let [start, end] = ends(&file["post_processor"])?;
        let pad = match (file["padding"]["pad_token"].as_str(), ids.get(PAD).or(ids.get("[PAD]"))) {
            (Some(token), _) => id(token)?,
            (None, known) => known.copied().unwrap_or(0),
        };
        let ends = [id(&start)?, id(&end)?, pad];
        let mut not_text: Vec<u32> = added.iter().map(|token| token.id).collect();
        not_text.extend(&ends[..2]);
        let ends = ends.map(|id| id as i32);
        let mut special = Vec::new();
        if ours {
            // open_clip cuts its two tokens out of clean text, and knows no others.
            added.clear();
            special.extend([(start, ends[0]), (end, ends[1])]);
        }
        for token in added.iter_mut().filter(|token| token.normalized) {
            token.content = cleaning.apply(&token.content, &mut String::new()).to_string();
        }
        let bpe = Bpe::new(strings, merges, end_of_word, &not_text)?;
        let file = (!ours || !end_of_word).then(|| text.to_owned());
        Ok(Tokenizer::new(bpe, cleaning, split, special, added, ends, file))
    }

    /// This tokenizer as open_clip's `HFTokenizer` uses it: before the rules of its file a text goes through ftfy and HTML's
    /// references, and its white space is collapsed. Files written from it say so. One of open_clip's cleaning stays as it is.
    pub fn cleaned_before(&self) -> Result<Tokenizer> {
        let (Some(text), Cleaning::Steps(_)) = (&self.0.file, &self.0.cleaning) else { return Ok(self.clone()) };
        let mut file: Value =
            serde_json::from_str(text).map_err(|error| Error::invalid(format!("tokenizer.json: {error}")))?;
        let mut steps = vec![open_clip_normalizer(false), file["normalizer"].take()];
        steps.retain(|step| !step.is_null());
        file["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
        Tokenizer::from_json(&file.to_string())
    }

    /// The text of a `tokenizer.json`: for a tokenizer that was read from another program's file, that file.
    pub fn to_json(&self) -> String {
        let parts = &*self.0;
        if let Some(file) = &parts.file {
            return file.clone();
        }
        let string = |id: i32| parts.bpe.strings[id as usize].as_str();
        let mut special = vec![parts.start, parts.end];
        special.dedup();
        let own_padding = string(parts.pad) == PAD;
        if own_padding {
            special.insert(0, parts.pad);
        }
        let added: Vec<Value> = special
            .iter()
            .map(|&id| {
                json!({"id": id, "content": string(id), "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true})
            })
            .collect();
        let vocabulary: Map<String, Value> =
            parts.bpe.strings.iter().enumerate().map(|(id, string)| (string.clone(), json!(id))).collect();
        let merges: Vec<String> = parts
            .bpe
            .merges
            .iter()
            .map(|&(left, right)| format!("{} {}", string(left as i32), string(right as i32)))
            .collect();
        let padding = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": parts.pad, "pad_type_id": 0, "pad_token": string(parts.pad)});
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": padding,
            "added_tokens": added,
            "normalizer": open_clip_normalizer(true),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": CLIP_REGEX}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": {"type": "RobertaProcessing", "sep": [string(parts.end), parts.end],
                "cls": [string(parts.start), parts.start], "trim_offsets": false, "add_prefix_space": false},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": END_OF_WORD, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary, "merges": merges},
        });
        file.to_string()
    }
}

/// Strings by id and ids by string.
fn vocabulary(vocabulary: &Value, added: &[Added]) -> Result<(Vec<String>, HashMap<String, u32>)> {
    let entries = vocabulary.as_object().ok_or_else(|| unsupported("a model without a vocabulary"))?;
    let mut ids = HashMap::with_capacity(entries.len());
    for (string, id) in entries {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.insert(string.clone(), id.ok_or_else(|| unsupported(format!("the id of {string:?}")))?);
    }
    ids.extend(added.iter().map(|token| (token.content.clone(), token.id)));
    let count = ids.values().max().map_or(0, |&last| last as usize + 1);
    if count > 2 * ids.len() + 1024 {
        return Err(unsupported(format!("a vocabulary of {} pieces with the id {}", ids.len(), count - 1)));
    }
    let mut strings = vec![String::new(); count];
    for (string, &id) in &ids {
        let place = &mut strings[id as usize];
        if !place.is_empty() {
            return Err(unsupported(format!("the id {id} for both {place:?} and {string:?}")));
        }
        place.clone_from(string);
    }
    Ok((strings, ids))
}

/// Merges as `"left right"` or, in newer files, `["left", "right"]`.
fn merges(merges: &Value, ids: &HashMap<String, u32>) -> Result<Vec<(u32, u32)>> {
    let list = merges.as_array().ok_or_else(|| unsupported("a model without merges"))?;
    list.iter()
        .map(|merge| {
            let halves = match merge {
                Value::String(text) => text.split_once(' '),
                _ => merge[0].as_str().zip(merge[1].as_str()),
            };
            halves
                .and_then(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)))
                .ok_or_else(|| unsupported(format!("the merge {merge}, whose halves are not both pieces,")))
        })
        .collect()
}

fn read_normalizer(normalizer: &Value, steps: &mut Vec<Step>) -> Result<()> {
    if normalizer.is_null() {
        return Ok(());
    }
    let pattern = &normalizer["pattern"];
    match normalizer["type"].as_str() {
        Some("Sequence") => {
            for step in normalizer["normalizers"].as_array().map_or(&[][..], Vec::as_slice) {
                read_normalizer(step, steps)?;
            }
        }
        Some("NFC") => steps.push(Step::Nfc),
        Some("NFD") => steps.push(Step::Nfd),
        Some("NFKC") => steps.push(Step::Nfkc),
        Some("NFKD") => steps.push(Step::Nfkd),
        Some("Lowercase") => steps.push(Step::Lowercase),
        Some("Strip") => {
            let side = |key: &str| normalizer[key].as_bool().unwrap_or(true);
            steps.push(Step::Strip { left: side("strip_left"), right: side("strip_right") });
        }
        Some("Replace") if pattern["Regex"] == json!(r"\s+") && normalizer["content"] == json!(" ") => {
            steps.push(Step::CollapseSpace);
        }
        Some("Replace") if pattern["String"].as_str().is_some_and(|from| !from.is_empty()) => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
            steps.push(Step::Replace { from: text(&pattern["String"]), to: text(&normalizer["content"]) });
        }
        _ => return Err(unsupported(format!("the normaliser {normalizer}"))),
    }
    Ok(())
}

fn read_split(split: &Value) -> Result<Split> {
    let byte_level = |value: &Value| value["type"] == json!("ByteLevel") && value["add_prefix_space"] != json!(true);
    if byte_level(split) && split["use_regex"] != json!(false) {
        return Ok(Split::Gpt2);
    }
    let parts = split["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
    // The byte level may cut by GPT-2's rule once more: CLIP's pieces have nothing left to cut.
    if let [cut, bytes] = parts
        && cut["type"] == json!("Split")
        && cut["pattern"]["Regex"] == json!(CLIP_REGEX)
        && cut["behavior"] == json!("Removed")
        && cut["invert"] == json!(true)
        && byte_level(bytes)
    {
        return Ok(Split::Clip);
    }
    Err(unsupported(format!("the pre-tokenizer {split}")))
}

/// The tokens put before and after a text.
fn ends(processor: &Value) -> Result<[String; 2]> {
    let found = match processor["type"].as_str() {
        Some("RobertaProcessing" | "BertProcessing") => [processor["cls"][0].as_str(), processor["sep"][0].as_str()],
        Some("TemplateProcessing") => match processor["single"].as_array().map_or(&[][..], Vec::as_slice) {
            [start, text, end] if text.get("Sequence").is_some() => {
                [start["SpecialToken"]["id"].as_str(), end["SpecialToken"]["id"].as_str()]
            }
            _ => [None, None],
        },
        _ => [None, None],
    };
    match found {
        [Some(""), _] | [_, Some("")] => Err(unsupported("an empty token before or after the text")),
        [Some(start), Some(end)] => Ok([start.to_string(), end.to_string()]),
        _ => Err(unsupported(
            "a post-processor that does not put one token before and one after the text (for GPT-2's file add a \
             TemplateProcessing of <|endoftext|> $A <|endoftext|>)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_vocabulary_gives_the_same_ids() {
        let captions = ["A photo of a cat", "a photo of a dog", "“curly” it’s &lt;3 don&#39;t"];
        for tokenizer in [Tokenizer::train(captions, 560).unwrap(), Tokenizer::clip()] {
            let again = Tokenizer::from_json(&tokenizer.to_json()).unwrap();
            for text in captions.iter().chain(&["", "<start_of_text> inside", "zoë 😀 12"]) {
                assert_eq!(tokenizer.encode(text), again.encode(text));
            }
            assert_eq!(
                [tokenizer.start(), tokenizer.end(), tokenizer.pad()],
                [again.start(), again.end(), again.pad()]
            );
        }
    }

    #[test]
    fn one_token_may_start_and_end_a_text() {
        let own = Tokenizer::train(["a red cat"], 530).unwrap();
        let mut file: Value = serde_json::from_str(&own.to_json()).unwrap();
        let end = json!({"SpecialToken": {"id": "<end_of_text>", "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        file["post_processor"] = json!({"type": "TemplateProcessing", "single": [end, text, end]});
        let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
        for tokenizer in [Tokenizer::from_json(&tokenizer.to_json()).unwrap(), tokenizer] {
            let ids = tokenizer.encode("a red cat");
            assert_eq!((ids[0], ids.last()), (own.end(), Some(&own.end())));
            assert_eq!(tokenizer.decode(&ids), "a red cat");
        }
        // GPT-2's own puts none.
        file["post_processor"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false});
        let error = Tokenizer::from_json(&file.to_string()).unwrap_err().to_string();
        assert!(error.contains("for GPT-2's file add a TemplateProcessing"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let good: Value = serde_json::from_str(&Tokenizer::train(["a"], 515).unwrap().to_json()).unwrap();
        let refused = |key: &str, value: Value, named: &str| {
            let mut file = good.clone();
            *file.pointer_mut(key).unwrap() = value;
            let error = Tokenizer::from_json(&file.to_string()).unwrap_err().to_string();
            assert!(error.contains(named), "{key}: {error}");
        };
        refused("/model/type", json!("WordPiece"), "WordPiece");
        refused("/model/dropout", json!(0.1), "dropout");
        refused("/model/merges", json!(["nosuch piece"]), "nosuch");
        refused("/model/vocab/a", json!(4_000_000_000u32), "vocabulary of");
        refused("/model/vocab/a", json!(7), "the id 7");
        refused("/normalizer", json!({"type": "Precompiled"}), "Precompiled");
        refused("/pre_tokenizer", json!({"type": "Metaspace"}), "Metaspace");
        refused("/post_processor", Value::Null, "post-processor");
        refused("/post_processor/cls", json!(["", 0]), "an empty token");
        refused("/post_processor/sep", json!(["", 0]), "an empty token");
        assert!(Tokenizer::from_json("{").is_err());
        assert!(Tokenizer::from_json("[]").is_err());
    }
}
