//! Drawings from SVG: emoji as eleven vendors draw them, and every icon of Iconify's sets. Needs the feature `build-data`.

use super::archive::for_each_file;
use super::package::Package;
use super::{key, split_of};
use crate::data::emoji::build::concepts;
use crate::data::emoji::icons::{Icons, SIDE};
use crate::data::shard_writer::ShardWriter;
use crate::data::tools::Tools;
use crate::{Error, Result, png_file};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Packages with the names, and what is read of them.
const NAMES: [(&str, &[&str]); 2] = [
    ("emojibase-data", &["en/data.json", "meta/groups.json"]),
    ("cldr-annotations-full", &["annotations/en/annotations.json"]),
];
/// Packages with the drawings of a vendor each.
const VENDORS: [&str; 11] = [
    "@iconify-json/noto",
    "@iconify-json/twemoji",
    "@iconify-json/fluent-emoji-flat",
    "@iconify-json/fluent-emoji",
    "@iconify-json/noto-v1",
    "@iconify-json/fxemoji",
    "@iconify-json/emojione-monotone",
    "@iconify-json/openmoji",
    "@iconify-json/emojione",
    "@iconify-json/emojione-v1",
    "@iconify-json/fluent-emoji-high-contrast",
];
/// What is read of a vendor's package.
const VENDOR_FILES: [&str; 2] = ["icons.json", "chars.json"];
/// Words at the end of an icon's name that tell its style, not what it shows.
const STYLES: [&str; 22] = [
    "fill", "filled", "outline", "outlined", "line", "linear", "bold", "thin", "light", "regular", "duotone",
    "twotone", "rounded", "round", "sharp", "solid", "broken", "alt", "sm", "lg", "mini", "variant",
];

/// All packages of the emoji, names first.
pub fn packages() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).chain(VENDORS).collect()
}

/// Writes a split for each vendor, and one of its `fresh` concepts, those that the bundled training data leaves out.
pub fn write(packages: &[Package], out: &Path, tools: &Tools, shards: &mut ShardWriter) -> Result<()> {
    // The few files that are read lie as npm would put them; no name of the archive is used as a path.
    let node_modules = out.join("packages/node_modules");
    for package in packages {
        let name = &package.origin.name;
        let files = NAMES.iter().find(|(names, _)| names == name).map_or(&VENDOR_FILES[..], |(_, files)| files);
        let wanted = |member: &str| member.split_once('/').is_some_and(|(_, file)| files.contains(&file));
        for_each_file(package, tools, wanted, |member, content| {
            let Some(file) = files.iter().find(|file| member.ends_with(*file)) else { return Ok(()) };
            let path = node_modules.join(name).join(file);
            let folder = path.parent().unwrap_or(&node_modules);
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
            fs::write(&path, content).map_err(|error| Error::io(&path, error))
        })?;
    }
    let concepts = concepts(&node_modules)?;
    for package in VENDORS {
        let vendor = package.rsplit('/').next().unwrap_or(package);
        let icons = Icons::read(&node_modules, vendor)?;
        let found: Vec<_> = concepts
            .iter()
            .filter_map(|concept| Some((concept, icons.find(&concept.hexcode, &concept.name)?)))
            .collect();
        let images: Vec<Result<Vec<u8>>> = found.par_iter().map(|(_, icon)| picture(&icons, icon)).collect();
        for ((concept, _), image) in found.iter().zip(images) {
            let json = json!({
                "caption": concept.name, "keywords": concept.keywords, "group": concept.group,
                "subgroup": concept.subgroup, "hexcode": concept.hexcode, "vendor": vendor,
            })
            .to_string();
            let image = image?;
            let split = if concept.fresh { format!("fresh-{vendor}") } else { vendor.to_owned() };
            let members = [("png", &image[..]), ("json", json.as_bytes())];
            shards.add(&split, &key(&concept.hexcode), &members)?;
        }
    }
    Ok(())
}

/// An icon on white, as a PNG file.
fn picture(icons: &Icons, icon: &str) -> Result<Vec<u8>> {
    let rgba = icons.render(icon)?;
    // Premultiplied: white shines through what is not covered.
    let rgb: Vec<u8> = rgba
        .chunks_exact(4)
        .flat_map(|pixel| [0, 1, 2].map(|channel| pixel[channel].saturating_add(255 - pixel[3])))
        .collect();
    png_file::encode_rgb(SIDE as u32, SIDE as u32, &rgb)
}

/// What is used of the description of a set of icons.
#[derive(Deserialize)]
struct Described {
    prefix: String,
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    name: String,
    license: Licence,
}

#[derive(Deserialize)]
struct Licence {
    title: String,
}

/// Writes the splits `train` and `test`: of each set the first icon of every phrase. A phrase is in one split only. Sets of
/// emoji are left out: `emoji-all` has them, split by style.
pub fn write_icons(package: &Package, tools: &Tools, shards: &mut ShardWriter) -> Result<()> {
    let mut left_out = 0u64;
    let wanted = |name: &str| name.starts_with("package/json/") && name.ends_with(".json");
    for_each_file(package, tools, wanted, |name, content| {
        let wrong = |error: &dyn std::fmt::Display| Error::invalid(format!("{name}: {error}"));
        let set: Described = serde_json::from_slice(&content).map_err(|error| wrong(&error))?;
        if VENDORS.contains(&format!("@iconify-json/{}", set.prefix).as_str()) {
            return Ok(());
        }
        let icons = Icons::parse(&content).map_err(|error| wrong(&error))?;
        let mut phrases = HashSet::new();
        let named = icons.names().into_iter().map(|icon| (icon, phrase(icon)));
        let chosen: Vec<(&str, String)> =
            named.filter(|(_, phrase)| !phrase.is_empty() && phrases.insert(phrase.clone())).collect();
        let images: Vec<Result<Vec<u8>>> = chosen.par_iter().map(|(icon, _)| picture(&icons, icon)).collect();
        for ((icon, phrase), image) in chosen.iter().zip(images) {
            let Ok(image) = image else {
                left_out += 1;
                continue;
            };
            let json = json!({"caption": phrase, "set": set.info.name, "licence": set.info.license.title}).to_string();
            let members = [("png", &image[..]), ("json", json.as_bytes())];
            shards.add(split_of(phrase), &key(&format!("{}/{icon}", set.prefix)), &members)?;
        }
        Ok(())
    })?;
    tools.say(&format!("left out: {left_out} icons that show nothing or cannot be drawn"));
    Ok(())
}

/// `arrow-left-24-filled` is `arrow left`; empty where no word is left.
fn phrase(icon: &str) -> String {
    let mut words: Vec<&str> = icon.split('-').filter(|word| !word.is_empty()).collect();
    while words.last().is_some_and(|word| STYLES.contains(word) || word.bytes().all(|byte| byte.is_ascii_digit())) {
        words.pop();
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::package::Registry;
    use super::*;
    use crate::data::shard_writer::{Limits, Origin};
    use crate::data::source::tar_of;
    use crate::test_folder;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn package(folder: &Path, name: &str, members: &[(&str, &[u8])]) -> Package {
        let path = folder.join(name.replace('/', "-"));
        let mut encoder = GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast());
        encoder.write_all(&tar_of(members)).unwrap();
        encoder.finish().unwrap();
        let origin = Origin { name: name.into(), version: "1".into(), checksum: String::new() };
        Package { registry: Registry::Npm, path, licence: String::new(), origin }
    }

    #[test]
    fn the_words_of_a_style_are_no_part_of_a_phrase() {
        for (icon, expected) in
            [("arrow-left-24-filled", "arrow left"), ("outline", ""), ("line-chart", "line chart"), ("a--b-2", "a b")]
        {
            assert_eq!(phrase(icon), expected);
        }
    }

    #[test]
    fn icons_are_drawn_once_a_phrase_with_their_licence() {
        let folder = test_folder("fetch-icons");
        let set = br#"{"prefix": "p", "info": {"name": "P", "license": {"title": "MIT"}}, "icons": {
            "cat": {"body": "<path d='M0 0h16v16z'/>"}, "cat-bold": {"body": "<path d='M0 0h16v16z'/>"},
            "void": {"body": ""}}}"#;
        let emoji = br#"{"prefix": "noto-v1", "info": {"name": "N", "license": {"title": "MIT"}}, "icons": {
            "dog": {"body": "<path d='M0 0h16v16z'/>"}}}"#;
        let members: [(&str, &[u8]); 3] =
            [("package/json/p.json", set), ("package/json/noto-v1.json", emoji), ("package/other.json", b"{")];
        let package = package(&folder, "@iconify/json", &members);
        let mut shards = ShardWriter::create(&folder, "icons", "", Vec::new(), Limits::default()).unwrap();
        write_icons(&package, &Tools::on_path(""), &mut shards).unwrap();
        let index = shards.finish().unwrap();
        assert_eq!(index.splits.values().map(|split| split.samples).collect::<Vec<_>>(), [1]);
        let shard = fs::read(folder.join(format!("{}-00000.tar", split_of("cat")))).unwrap();
        let json = br#"{"caption":"cat","licence":"MIT","set":"P"}"#;
        assert!(shard.windows(json.len()).any(|window| window == json));
    }

    #[test]
    fn emoji_come_in_a_split_for_each_vendor() {
        let folder = test_folder("fetch-emoji");
        let data = br#"[{"label": "red apple", "hexcode": "1F34E", "emoji": "x", "tags": ["fruit"], "group": 4, "subgroup": 2}]"#;
        let groups = br#"{"groups": {"4": "food"}, "subgroups": {"2": "food-fruit"}}"#;
        let annotations = br#"{"annotations": {"annotations": {}}}"#;
        let mut packages = vec![
            package(&folder, NAMES[0].0, &[("package/en/data.json", data), ("package/meta/groups.json", groups)]),
            package(&folder, NAMES[1].0, &[("package/annotations/en/annotations.json", annotations)]),
        ];
        let icons = br#"{"icons": {"red-apple": {"body": "<path d='M0 0h16v16z'/>"}}}"#;
        packages.extend(VENDORS.map(|vendor| package(&folder, vendor, &[("package/icons.json", icons)])));
        let mut shards = ShardWriter::create(&folder, "emoji-all", "", Vec::new(), Limits::default()).unwrap();
        write(&packages, &folder, &Tools::on_path(""), &mut shards).unwrap();
        let index = shards.finish().unwrap();
        assert_eq!(index.splits.values().map(|split| split.samples).sum::<u64>(), VENDORS.len() as u64);
        assert!(index.splits.keys().any(|split| split.ends_with("openmoji")), "{:?}", index.splits.keys());
    }
}
