//! Tux Paint's stamps, from Debian's `tuxpaint-stamps-default`: pictures with a sentence in many languages.

use super::archive::for_each_file;
use super::package::Package;
use super::{key, picture};
use crate::Result;
use crate::data::shard_writer::ShardWriter;
use crate::data::tools::Tools;
use serde_json::json;
use std::collections::BTreeMap;

/// Where the stamps lie.
const FOLDER: &str = "usr/share/tuxpaint/stamps/";

/// What there is of a stamp.
#[derive(Default)]
struct Stamp {
    image: Option<Vec<u8>>,
    text: Option<String>,
}

/// Writes the split `all`: the English sentence as caption, the others by their languages in the `.json` member.
pub fn write(package: &Package, tools: &Tools, shards: &mut ShardWriter) -> Result<()> {
    let mut stamps: BTreeMap<String, Stamp> = BTreeMap::new();
    let mut damaged = 0u64;
    let wanted = |name: &str| name.starts_with(FOLDER) && (name.ends_with(".png") || name.ends_with(".txt"));
    for_each_file(package, tools, wanted, |name, content| {
        let (stem, ending) = name[FOLDER.len()..].rsplit_once('.').unwrap_or_default();
        let stamp = stamps.entry(key(stem)).or_default();
        if ending == "txt" {
            stamp.text = Some(String::from_utf8_lossy(&content).into_owned());
        } else if let Ok(image) = picture::shrink(&content) {
            stamp.image = Some(image);
        } else {
            damaged += 1;
        }
        Ok(())
    })?;
    let mut without = 0u64;
    for (key, stamp) in stamps {
        let (Some(image), Some(text)) = (stamp.image, stamp.text) else {
            without += 1;
            continue;
        };
        let mut lines = text.lines();
        let english = lines.next().unwrap_or_default().trim().to_owned();
        // `de.utf8=Ein Frosch.`
        let other = |line: &str| {
            let (language, text) = line.split_once('=')?;
            let language = language.strip_suffix(".utf8").unwrap_or(language);
            (!text.trim().is_empty()).then(|| (language.to_owned(), text.trim().to_owned()))
        };
        let translations: BTreeMap<String, String> = lines.filter_map(other).collect();
        if english.is_empty() {
            without += 1;
            continue;
        }
        let json = json!({"caption": english, "translations": translations}).to_string();
        shards.add("all", &key, &[("png", &image), ("txt", english.as_bytes()), ("json", json.as_bytes())])?;
    }
    tools.say(&format!("left out: {without} without a sentence or a PNG picture, {damaged} damaged"));
    Ok(())
}
