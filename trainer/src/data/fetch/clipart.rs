//! Open Clip Art, from Debian's `openclipart-png` and `openclipart-svg`: the pictures of one, the titles and keywords that
//! the metadata of the other have under the same name.

use super::archive::for_each_file;
use super::package::Package;
use super::{key, picture, split_of};
use crate::Result;
use crate::data::shard_writer::ShardWriter;
use crate::data::tools::Tools;
use serde_json::json;
use std::collections::HashMap;

/// Where the pictures lie, and where the drawings with the metadata do.
const FOLDERS: [&str; 2] = ["usr/share/openclipart/png/", "usr/share/openclipart/svg/"];

/// Most drawings that may share a first text: what more of them have is the name of a series, and says nothing of one.
const MOST_ALIKE: usize = 8;

/// Writes the splits `train` and `test`: a title where there is one, else the keywords.
pub fn write(png: &Package, svg: &Package, tools: &Tools, shards: &mut ShardWriter) -> Result<()> {
    let mut texts: HashMap<String, Vec<String>> = HashMap::new();
    let wanted = |name: &str| name.starts_with(FOLDERS[1]) && name.ends_with(".svg");
    for_each_file(svg, tools, wanted, |name, content| {
        let stem = name[FOLDERS[1].len()..].trim_end_matches(".svg").to_owned();
        texts.insert(stem, captions(&String::from_utf8_lossy(&content)));
        Ok(())
    })?;
    let mut alike: HashMap<String, usize> = HashMap::new();
    for text in texts.values().filter_map(|texts| texts.first()) {
        *alike.entry(text.clone()).or_default() += 1;
    }
    let (mut without, mut series, mut unread) = (0u64, 0u64, 0u64);
    let wanted = |name: &str| name.starts_with(FOLDERS[0]) && name.ends_with(".png");
    for_each_file(png, tools, wanted, |name, content| {
        let stem = name[FOLDERS[0].len()..].trim_end_matches(".png");
        let Some(texts) = texts.get(stem).filter(|texts| !texts.is_empty()) else {
            without += 1;
            return Ok(());
        };
        if alike[&texts[0]] > MOST_ALIKE {
            series += 1;
            return Ok(());
        }
        let Ok(image) = picture::shrink(&content) else {
            unread += 1;
            return Ok(());
        };
        let json = json!({"captions": texts, "folder": stem.rsplit_once('/').map_or("", |(folder, _)| folder)});
        shards.add(split_of(&texts[0]), &key(stem), &[("png", &image), ("json", json.to_string().as_bytes())])
    })?;
    tools.say(&format!(
        "left out: {without} without title and keywords, {series} named as more than {MOST_ALIKE} are, {unread} damaged or too large"
    ));
    Ok(())
}

/// The title of a drawing, and its keywords as a list in words, as far as they say something.
fn captions(svg: &str) -> Vec<String> {
    let start = svg.find("<metadata").unwrap_or(svg.len());
    let metadata = &svg[start..];
    let metadata = &metadata[..metadata.find("</metadata>").unwrap_or(metadata.len())];
    // The people of a work have titles too, in an Agent each.
    let work = &metadata[..metadata.find("Agent").unwrap_or(metadata.len())];
    let title = elements(work, "dc:title").next();
    let keywords: Vec<String> = elements(metadata, "rdf:li").filter(|keyword| is_text(keyword)).collect();
    let texts = [title, Some(keywords.join(", "))].into_iter().flatten();
    texts.filter(|text| is_text(text)).collect()
}

/// Whether a text says more than an automatic name such as `image12` would.
fn is_text(text: &str) -> bool {
    let words = text.split(|letter: char| !letter.is_alphabetic()).filter(|word| word.chars().count() > 2);
    let empty = ["unsorted", "untitled", "image", "title", "svg", "clip", "art", "clipart", "document", "new"];
    words.map(str::to_lowercase).any(|word| !empty.contains(&word.as_str()))
}

/// The plain contents of the elements of a name, one space between words.
fn elements<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = String> {
    xml.split('<').filter_map(move |tag| {
        let (head, text) = tag.split_once('>')?;
        let named =
            head.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        let text = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
            .iter()
            .fold(text.to_owned(), |text, (entity, letter)| text.replace(entity, letter));
        let words: Vec<&str> = text.split_whitespace().collect();
        (named && !head.ends_with('/') && !words.is_empty()).then(|| words.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_and_keywords_come_from_the_work_not_from_its_people() {
        let svg = |title: &str, keywords: &str| {
            format!(
                "<svg><title>other</title><metadata><cc:Work>{title}<dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>\
                 <dc:publisher><cc:Agent><dc:title>Jane Doe</dc:title></cc:Agent></dc:publisher></cc:Work></metadata>\
                 <rdf:li>no keyword</rdf:li></svg>"
            )
        };
        for (title, keywords, expected) in [
            (
                "<dc:title>A cat &amp;\n a dog</dc:title>",
                "<rdf:li>cat</rdf:li><rdf:li>dog</rdf:li>",
                &["A cat & a dog", "cat, dog"][..],
            ),
            ("", "<rdf:li>unsorted</rdf:li>", &[]),
            ("<dc:title/>", "<rdf:li>frog</rdf:li>", &["frog"]),
            ("<dc:title>image 12</dc:title>", "", &[]),
            ("<dc:title id='a'>Sun</dc:title>", "", &["Sun"]),
        ] {
            assert_eq!(captions(&svg(title, keywords)), expected, "{title}");
        }
        assert!(captions("<svg><title>no metadata</title></svg>").is_empty());
    }
}
