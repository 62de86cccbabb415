//! Makes the bundle: concepts from `emojibase-data` and `cldr-annotations-full`, drawings from `@iconify-json/*`.

use super::icons::{Icons, plain_hexcode, read_json};
use super::palette;
use super::table::{self, Concept, Vendor};
use crate::{Error, Result};
use serde::Deserialize;
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

/// The group of skin tones and hair styles, which are no pictures of their own.
const COMPONENTS: usize = 2;

/// An entry of `emojibase-data/en/data.json`.
#[derive(Deserialize)]
struct Emoji {
    label: String,
    hexcode: String,
    emoji: String,
    #[serde(default)]
    tags: Vec<String>,
    group: Option<usize>,
    subgroup: Option<usize>,
}

/// `emojibase-data/meta/groups.json`.
#[derive(Deserialize)]
struct Groups {
    groups: BTreeMap<String, String>,
    subgroups: BTreeMap<String, String>,
}

/// An entry of CLDR's `annotations.json`.
#[derive(Deserialize)]
struct Annotation {
    #[serde(default)]
    default: Vec<String>,
}

#[derive(Deserialize)]
struct Annotations {
    annotations: HashMap<String, Annotation>,
}

#[derive(Deserialize)]
struct AnnotationFile {
    annotations: Annotations,
}

/// What the NOTICE says of a package, read from its own files.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: String,
}

#[derive(Deserialize)]
struct Author {
    name: String,
    url: String,
}

#[derive(Deserialize)]
struct Info {
    author: Author,
}

/// Whether a concept is held out: the SHA-1 of its hexcode, as one big number, is a multiple of 10.
fn fresh(hexcode: &str) -> bool {
    let digest = Sha1::digest(hexcode.as_bytes());
    digest.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % 10) == 0
}

/// All concepts in CLDR's order: single emoji with a group, without skin tones and components.
pub(crate) fn concepts(node_modules: &Path) -> Result<Vec<Concept>> {
    let emoji: Vec<Emoji> = read_json(&node_modules.join("emojibase-data/en/data.json"))?;
    let groups: Groups = read_json(&node_modules.join("emojibase-data/meta/groups.json"))?;
    let file = node_modules.join("cldr-annotations-full/annotations/en/annotations.json");
    let annotations = read_json::<AnnotationFile>(&file)?.annotations.annotations;
    let mut concepts = Vec::new();
    for Emoji { label, hexcode, emoji, tags, group, subgroup } in emoji {
        let (Some(group), Some(subgroup)) = (group.filter(|&group| group != COMPONENTS), subgroup) else { continue };
        let group_name = |names: &BTreeMap<String, String>, number: usize| {
            let missing = || Error::invalid(format!("emojibase-data/meta/groups.json: no entry {number}"));
            names.get(&number.to_string()).cloned().ok_or_else(missing)
        };
        // CLDR annotates no sequences; emojibase derives their keywords from the parts.
        let annotation = annotations.get(&emoji.replace('\u{fe0f}', "")).map(|annotation| &annotation.default);
        let keywords = annotation.unwrap_or(&tags).iter();
        let hexcode = plain_hexcode(&hexcode);
        concepts.push(Concept {
            fresh: fresh(&hexcode),
            hexcode,
            keywords: keywords.filter(|keyword| keyword.to_lowercase() != label.to_lowercase()).cloned().collect(),
            group: group_name(&groups.groups, group)?,
            subgroup: group_name(&groups.subgroups, subgroup)?,
            name: label,
        });
    }
    Ok(concepts)
}

/// Who made what, from the packages' own metadata, with the licences of texts and tools that came along.
fn notice(node_modules: &Path) -> Result<String> {
    let mut text = String::from(
        "# Sources and licences of the bundled emoji\n\nMade by `coca data build emoji` from the npm packages below: \
         the drawings were rendered at 64 x 64 pixels without the margins around them, reduced to 256 colours a \
         sheet and placed in sheets; names, groups and keywords were taken into `concepts.tsv`.\n\n\
         | file | npm package | version | licence | by |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut row = |file: &str, folder: &str, by: &str| -> Result<()> {
        let Package { name, version, license } = read_json(&node_modules.join(folder).join("package.json"))?;
        let _ = writeln!(text, "| {file} | {name} | {version} | {license} | {by} |");
        Ok(())
    };
    for vendor in Vendor::ALL {
        let folder = format!("@iconify-json/{}", vendor.name());
        let Author { name, url } = read_json::<Info>(&node_modules.join(&folder).join("info.json"))?.author;
        row(&format!("{}.png", vendor.name()), &folder, &format!("{name}, {url}"))?;
    }
    row("concepts.tsv: names, groups", "emojibase-data", "Miles Johnson, https://emojibase.dev")?;
    row("concepts.tsv: keywords", "cldr-annotations-full", "Unicode, Inc., https://cldr.unicode.org")?;
    text.push_str(
        "\nfxemoji's artwork is also offered as CC-BY-4.0: the credit above serves both. CC-BY-4.0 is at \
         https://creativecommons.org/licenses/by/4.0/, Apache-2.0 at https://www.apache.org/licenses/LICENSE-2.0. \
         The drawings were changed as said above; their authors endorse nothing here.\n",
    );
    text.push_str(
        "\n## fluent-emoji, fluent-emoji-flat: MIT\n\nCopyright (c) Microsoft Corporation. The permission below \
         applies, with this copyright line in the place of the one it names.\n",
    );
    for (title, file) in
        [("emojibase-data: MIT", "emojibase-data/LICENSE"), ("CLDR: Unicode-3.0", "cldr-annotations-full/LICENSE")]
    {
        let path = node_modules.join(file);
        let licence = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
        let _ = write!(text, "\n## {title}\n\n{}\n", licence.trim());
    }
    Ok(text)
}

/// Writes `concepts.tsv`, one `VENDOR.png` each and `NOTICE.md` into `out`; returns a summary for the user.
///
/// # Errors
/// A package is missing or not as expected, an icon cannot be rendered, `out` cannot be written.
pub fn build(node_modules: &Path, out: &Path) -> Result<String> {
    let concepts = concepts(node_modules)?;
    let mut vendors = vec![Vec::new(); concepts.len()];
    let mut files = Vec::new();
    let mut summary = String::new();
    for vendor in Vendor::ALL {
        let icons = Icons::read(node_modules, vendor.name())?;
        let mut drawings = Vec::new();
        for (concept, vendors) in concepts.iter().zip(&mut vendors) {
            if let Some(icon) = icons.find(&concept.hexcode, &concept.name) {
                drawings.push(icons.render(icon)?);
                vendors.push(vendor);
            }
        }
        let sheet = palette::sheet(&drawings)?;
        let _ = writeln!(summary, "{:<18} {:>5} drawings {:>9} bytes", vendor.name(), drawings.len(), sheet.len());
        files.push((format!("{}.png", vendor.name()), sheet));
    }
    let lines = concepts.iter().zip(&vendors).map(|(concept, vendors)| table::line(concept, vendors));
    let text = format!("{}\n{}", table::HEADER, lines.collect::<String>());
    files.push(("concepts.tsv".into(), text.into_bytes()));
    files.push(("NOTICE.md".into(), notice(node_modules)?.into_bytes()));
    std::fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    for (name, content) in &files {
        let path = out.join(name);
        std::fs::write(&path, content).map_err(|error| Error::io(&path, error))?;
    }
    let (total, bytes) = (vendors.iter().flatten().count(), files.iter().map(|(_, file)| file.len()).sum::<usize>());
    let fresh = concepts.iter().filter(|concept| concept.fresh).count();
    let _ = writeln!(summary, "{total} drawings of {} concepts ({fresh} fresh), {bytes} bytes", concepts.len());
    Ok(summary)
}
