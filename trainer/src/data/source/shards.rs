//! Tar shards in WebDataset layout: neighbouring members with one key make a sample, `KEY.jpg` (or png, webp, gif) and
//! `KEY.txt` or `KEY.json`; in a pair there are `KEY.left.png` and `KEY.right.png`. Only headers are read when a shard is opened; the members are read where they lie.

use super::{IMAGE_EXTENSIONS, Labels, MAX_IMAGE_BYTES, MAX_TEXT_BYTES, Part, Raw, RawImage, Source, captions, expand};
use crate::data::{Fault, FaultKind};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Fields of a `.json` member that hold captions, the first that is there.
const CAPTION_FIELDS: [&str; 4] = ["caption", "captions", "text", "title"];

/// Shards by pattern.
#[derive(Clone, Debug)]
pub struct ShardSource {
    pattern: String,
    pub(super) shards: Vec<String>,
}

impl ShardSource {
    /// The shards that a pattern names (see [`expand`]); they are opened when they are read.
    ///
    /// # Errors
    /// The pattern cannot be expanded, or none of the shards is there.
    pub fn open(pattern: &str) -> Result<ShardSource> {
        let shards = expand(pattern)?;
        if !shards.iter().any(|shard| Path::new(shard).is_file()) {
            let first = shards.first().map_or(pattern, String::as_str);
            return Err(Error::invalid(format!("{pattern}: none of its {} shards is there ({first})", shards.len())));
        }
        Ok(ShardSource { pattern: pattern.to_string(), shards })
    }
}

impl Source for ShardSource {
    fn name(&self) -> String {
        self.pattern.clone()
    }

    fn parts(&self) -> usize {
        self.shards.len()
    }

    fn part(&self, part: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(Shard::open(&self.shards[part])?))
    }
}

/// Where a member lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u64,
    bytes: u64,
}

/// The members of a sample.
#[derive(Debug, Default)]
pub(super) struct Members {
    key: String,
    pub image: Option<Span>,
    /// The left and the right image of a pair.
    pub sides: [Option<Span>; 2],
    text: Option<Span>,
    pub json: Option<Span>,
}

/// An open shard: its samples, or what is wrong with it at their place.
#[derive(Debug)]
pub(super) struct Shard {
    path: String,
    file: File,
    pub entries: Vec<std::result::Result<Members, Fault>>,
}

impl Shard {
    pub fn open(path: &str) -> std::result::Result<Shard, Fault> {
        let missing = |error| Fault::new(FaultKind::MissingFile, path, error);
        let broken = |detail: &dyn ToString| Fault::new(FaultKind::BrokenArchive, path, detail.to_string());
        let file = File::open(path).map_err(missing)?;
        let length = file.metadata().map_err(missing)?.len();
        let mut archive = tar::Archive::new(&file);
        let members = archive.entries_with_seek().map_err(|error| broken(&error))?;
        let mut entries: Vec<std::result::Result<Members, Fault>> = Vec::new();
        for member in members {
            let member = match member {
                Ok(member) => member,
                Err(error) => {
                    entries.push(Err(broken(&error)));
                    break;
                }
            };
            if !member.header().entry_type().is_file() {
                continue;
            }
            let name = member.path_bytes();
            let name = String::from_utf8_lossy(&name);
            let span = Span { start: member.raw_file_position(), bytes: member.size() };
            if span.start.checked_add(span.bytes).is_none_or(|end| end > length) {
                entries.push(Err(broken(&format!("the file ends inside of {name}"))));
                break;
            }
            // The key ends at the first dot of the file name; dots in folders belong to the key.
            let folder = name.rfind('/').map_or(0, |slash| slash + 1);
            let Some((stem, extension)) = name[folder..].split_once('.') else { continue };
            let member_key = &name[..folder + stem.len()];
            if stem.is_empty() {
                continue;
            }
            if !matches!(entries.last(), Some(Ok(members)) if members.key == member_key) {
                entries.push(Ok(Members { key: member_key.to_string(), ..Members::default() }));
            }
            let Some(Ok(members)) = entries.last_mut() else { continue };
            match extension.to_ascii_lowercase().as_str() {
                "txt" => members.text = Some(span),
                "json" => members.json = members.json.or(Some(span)),
                "left.png" => members.sides[0] = Some(span),
                "right.png" => members.sides[1] = Some(span),
                extension if IMAGE_EXTENSIONS.contains(&extension) => members.image = members.image.or(Some(span)),
                _ => {}
            }
        }
        Ok(Shard { path: path.to_string(), file, entries })
    }

    /// What messages call a sample.
    pub fn key(&self, members: &Members) -> String {
        format!("{}: {}", self.path, members.key)
    }

    /// The JSON of the sample `key`.
    pub fn json<T: DeserializeOwned>(&self, key: &str, members: &Members) -> std::result::Result<T, Fault> {
        let missing = |detail: &dyn ToString| Fault::new(FaultKind::MissingCaption, key, detail.to_string());
        let json = self.read(key, members.json.ok_or_else(|| missing(&"no .json"))?, MAX_TEXT_BYTES)?;
        serde_json::from_slice(&json).map_err(|error| missing(&format!(".json: {error}")))
    }

    /// An image of the sample `key`, or a fault if there is none with this `ending`.
    pub fn image(&self, key: &str, image: Option<Span>, ending: &str) -> std::result::Result<RawImage, Fault> {
        let image = image.ok_or_else(|| Fault::new(FaultKind::MissingImage, key, format!("no .{ending}")))?;
        Ok(RawImage::Encoded(self.read(key, image, MAX_IMAGE_BYTES)?))
    }

    fn read(&self, key: &str, span: Span, limit: u64) -> std::result::Result<Vec<u8>, Fault> {
        if span.bytes > limit {
            return Err(Fault::new(FaultKind::Oversized, key, format!("{} bytes, more than {limit}", span.bytes)));
        }
        let mut bytes = vec![0; span.bytes as usize];
        let broken = |error| Fault::new(FaultKind::BrokenArchive, key, error);
        self.file.read_exact_at(&mut bytes, span.start).map_err(broken)?;
        Ok(bytes)
    }
}

/// Captions in a `.json` member: a text or a list of texts.
fn json_captions(key: &str, json: &[u8]) -> std::result::Result<Vec<String>, Fault> {
    std::str::from_utf8(json).map_err(|error| Fault::new(FaultKind::BadUtf8, key, error))?;
    let missing = |detail: &dyn ToString| Fault::new(FaultKind::MissingCaption, key, detail.to_string());
    let value: serde_json::Value = serde_json::from_slice(json).map_err(|error| missing(&error))?;
    let field = CAPTION_FIELDS.iter().find_map(|&field| value.get(field));
    let texts: Vec<&[u8]> = match field {
        Some(serde_json::Value::String(text)) => vec![text.as_bytes()],
        Some(serde_json::Value::Array(texts)) => texts.iter().filter_map(|t| t.as_str()).map(str::as_bytes).collect(),
        _ => return Err(missing(&format!("none of the fields {} holds text", CAPTION_FIELDS.join(", ")))),
    };
    captions(key, texts)
}

impl Part for Shard {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let members = self.entries[index].as_ref().map_err(Fault::clone)?;
        let key = self.key(members);
        let images = vec![self.image(&key, members.image, &IMAGE_EXTENSIONS.join(", ."))?];
        let text = |span| self.read(&key, span, MAX_TEXT_BYTES);
        // A plain text goes before metadata.
        let captions = match (members.text, members.json) {
            (Some(span), _) => captions(&key, [&text(span)?[..]])?,
            (None, Some(span)) => json_captions(&key, &text(span)?)?,
            (None, None) => return Err(Fault::new(FaultKind::MissingCaption, &key, "no .txt or .json")),
        };
        Ok(Raw { key, images, captions, keywords: Vec::new(), labels: Labels::default() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::test_folder;

    /// A tar file of these members.
    pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn kinds(shard: &Shard) -> Vec<std::result::Result<Vec<String>, FaultKind>> {
        let captions = |index| shard.sample(index).map(|raw| raw.captions).map_err(|fault| fault.kind);
        (0..shard.entries.len()).map(captions).collect()
    }

    #[test]
    fn members_are_grouped_by_key() {
        let folder = test_folder("shards");
        let path = folder.join("0.tar").display().to_string();
        let long = "n".repeat(150);
        let long = [format!("{long}.jpg"), format!("{long}.txt")];
        let huge = vec![b'x'; MAX_TEXT_BYTES as usize + 1];
        let members: [(&str, &[u8]); 22] = [
            ("a.v/1.jpg", b"one"),
            ("a.v/1.txt", b" first \n"),
            ("a.v/1.json", br#"{"caption": "not this"}"#),
            ("2.json", br#"{"url": 1, "captions": ["x", "y"]}"#),
            ("2.webp", b"two"),
            ("3.txt", b"no image"),
            ("4.png", b"no text"),
            ("5.jpg", b"five"),
            ("5.txt", b"\xff"),
            ("6.jpg", b"six"),
            ("6.txt", b"\n"),
            ("7.jpg", b"seven"),
            ("7.json", b"{"),
            ("8.jpg", b"eight"),
            ("8.json", br#"{"caption": 3}"#),
            ("9.jpg", b"nine"),
            ("9.txt", &huge),
            ("README", b"no dot"),
            (".hidden", b"no key"),
            (&long[0], b"long"),
            (&long[1], b"a long name"),
            ("z.cls", b"3"),
        ];
        std::fs::write(&path, tar(&members)).unwrap();
        let shard = Shard::open(&path).unwrap();
        let text = |text: &[&str]| Ok(text.iter().map(|text| text.to_string()).collect());
        let expected = [
            text(&["first"]),
            text(&["x", "y"]),
            Err(FaultKind::MissingImage),
            Err(FaultKind::MissingCaption),
            Err(FaultKind::BadUtf8),
            Err(FaultKind::EmptyCaption),
            Err(FaultKind::MissingCaption),
            Err(FaultKind::MissingCaption),
            Err(FaultKind::Oversized),
            text(&["a long name"]),
            Err(FaultKind::MissingImage),
        ];
        assert_eq!(kinds(&shard), expected);
        let first = shard.sample(0).unwrap();
        assert_eq!(first.images, [RawImage::Encoded(b"one".to_vec())]);
        assert!(first.key.ends_with("0.tar: a.v/1"), "{}", first.key);
    }

    #[test]
    fn a_shard_cut_anywhere_gives_its_whole_samples_and_one_fault() {
        let folder = test_folder("cut-shards");
        let image = [7u8; 700];
        let whole = tar(&[("a.jpg", &image), ("a.txt", b"a"), ("b.jpg", &image), ("b.txt", b"b")]);
        let path = folder.join("cut.tar").display().to_string();
        // Members end at 512 + 1024, + 512 + 512 = 2560, 4096, 5120; the end mark follows. At 4700
        // only padding is lost.
        for (length, good, faults) in
            [(5120, 2, 0), (4700, 2, 0), (4608, 1, 2), (4300, 1, 2), (3000, 1, 1), (2600, 1, 1), (900, 0, 1)]
        {
            std::fs::write(&path, &whole[..length]).unwrap();
            let kinds = kinds(&Shard::open(&path).unwrap());
            let found = kinds.iter().filter(|kind| kind.is_ok()).count();
            assert_eq!((found, kinds.len() - found), (good, faults), "{length}: {kinds:?}");
        }
        std::fs::write(&path, b"<html>not found</html>".repeat(100)).unwrap();
        assert_eq!(kinds(&Shard::open(&path).unwrap()), [Err(FaultKind::BrokenArchive)]);
        assert_eq!(Shard::open("nowhere.tar").unwrap_err().kind, FaultKind::MissingFile);
    }
}
