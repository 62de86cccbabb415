//! Tar shards in WebDataset layout: neighbouring members with one key make a sample, `KEY.jpg` (or png, webp, gif) and
//! `KEY.txt` or `KEY.json`. A clip has frames `KEY.000.png`, `KEY.001.png`, … or an animated `KEY.webp` or `KEY.gif`, a pair of
//! scenes `KEY.left.png` and `KEY.right.png`. Only headers are read when a shard is opened; the members are read where they lie.

use super::{IMAGE_EXTENSIONS, Labels, MAX_IMAGE_BYTES, MAX_TEXT_BYTES, Part, Raw, RawImage, Source, captions, expand};
use crate::config::Data;
use crate::data::clips::{Footage, Frame, spread};
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
    clips: Option<Clips>,
}

/// How samples are read that are clips.
#[derive(Clone, Copy, Debug)]
struct Clips {
    /// Frames of each.
    frames: usize,
    max_pixels: u64,
}

impl ShardSource {
    /// The shards that a pattern names (see [`expand`]); they are opened when they are read.
    ///
    /// # Errors
    /// The pattern cannot be expanded, or none of the shards is there.
    pub fn open(pattern: &str, options: &Data) -> Result<ShardSource> {
        let shards = expand(pattern)?;
        if !shards.iter().any(|shard| Path::new(shard).is_file()) {
            let first = shards.first().map_or(pattern, String::as_str);
            return Err(Error::invalid(format!("{pattern}: none of its {} shards is there ({first})", shards.len())));
        }
        let clips = Clips { frames: options.frames, max_pixels: options.max_pixels };
        Ok(ShardSource { pattern: pattern.to_string(), shards, clips: Some(clips).filter(|clips| clips.frames > 0) })
    }
}

impl Source for ShardSource {
    fn name(&self) -> String {
        self.pattern.clone()
    }

    fn parts(&self) -> usize {
        self.shards.len()
    }

    fn images(&self) -> usize {
        self.clips.map_or(1, |clips| clips.frames)
    }

    fn part(&self, part: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(Shard { clips: self.clips, ..Shard::open(&self.shards[part])? }))
    }
}

/// Where a member lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u64,
    bytes: u64,
}

/// The members of a sample, or what is wrong with the shard at this place.
#[derive(Debug)]
enum Entry {
    Sample { key: String, members: Members },
    Broken(Fault),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pub image: Option<Span>,
    /// Frames by their numbers.
    frames: Vec<(u64, Span)>,
    /// The left and the right image of a pair.
    pub sides: [Option<Span>; 2],
    text: Option<Span>,
    pub json: Option<Span>,
}

/// An open shard.
#[derive(Debug)]
pub(super) struct Shard {
    path: String,
    file: File,
    entries: Vec<Entry>,
    clips: Option<Clips>,
}

impl Shard {
    pub fn open(path: &str) -> std::result::Result<Shard, Fault> {
        let missing = |error| Fault::new(FaultKind::MissingFile, path, error);
        let broken = |detail: &dyn ToString| Fault::new(FaultKind::BrokenArchive, path, detail.to_string());
        let file = File::open(path).map_err(missing)?;
        let length = file.metadata().map_err(missing)?.len();
        let mut archive = tar::Archive::new(&file);
        let members = archive.entries_with_seek().map_err(|error| broken(&error))?;
        let mut entries: Vec<Entry> = Vec::new();
        for member in members {
            let member = match member {
                Ok(member) => member,
                Err(error) => {
                    entries.push(Entry::Broken(broken(&error)));
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
                entries.push(Entry::Broken(broken(&format!("the file ends inside of {name}"))));
                break;
            }
            // The key ends at the first dot of the file name; dots in folders belong to the key.
            let folder = name.rfind('/').map_or(0, |slash| slash + 1);
            let Some((stem, extension)) = name[folder..].split_once('.') else { continue };
            let member_key = &name[..folder + stem.len()];
            if stem.is_empty() {
                continue;
            }
            if !matches!(entries.last(), Some(Entry::Sample { key, .. }) if key == member_key) {
                entries.push(Entry::Sample { key: member_key.to_string(), members: Members::default() });
            }
            let Some(Entry::Sample { members, .. }) = entries.last_mut() else { continue };
            match extension.to_ascii_lowercase().as_str() {
                "txt" => members.text = Some(span),
                "json" => members.json = Some(span),
                "left.png" => members.sides[0] = Some(span),
                "right.png" => members.sides[1] = Some(span),
                extension if IMAGE_EXTENSIONS.contains(&extension) => members.image = members.image.or(Some(span)),
                extension => members.frames.extend(frame_number(extension).map(|number| (number, span))),
            }
        }
        Ok(Shard { path: path.to_string(), file, entries, clips: None })
    }

    /// What messages call a sample, and its members.
    pub fn members(&self, index: usize) -> std::result::Result<(String, &Members), Fault> {
        match &self.entries[index] {
            Entry::Broken(fault) => Err(fault.clone()),
            Entry::Sample { key, members } => Ok((format!("{}: {key}", self.path), members)),
        }
    }

    /// A `.json` member of the sample `key`.
    pub fn json<T: DeserializeOwned>(&self, key: &str, span: Span) -> std::result::Result<T, Fault> {
        let json = self.read(key, span, MAX_TEXT_BYTES)?;
        std::str::from_utf8(&json).map_err(|error| Fault::new(FaultKind::BadUtf8, key, error))?;
        serde_json::from_slice(&json).map_err(|error| Fault::new(FaultKind::MissingCaption, key, error))
    }

    /// An image of the sample `key`; a fault if there is none with such an `ending`.
    pub fn image(&self, key: &str, span: Option<Span>, ending: &str) -> std::result::Result<RawImage, Fault> {
        let span = span.ok_or_else(|| Fault::new(FaultKind::MissingImage, key, format!("no .{ending}")))?;
        Ok(RawImage::Encoded(self.read(key, span, MAX_IMAGE_BYTES)?))
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

    /// The picture of a sample, or the frames of a clip.
    fn images(&self, key: &str, members: &Members) -> std::result::Result<Vec<RawImage>, Fault> {
        let read = |span| self.read(key, span, MAX_IMAGE_BYTES);
        let endings = IMAGE_EXTENSIONS.join(", .");
        match (self.clips, members.image) {
            (None, image) => Ok(vec![self.image(key, image, &endings)?]),
            (Some(Clips { frames, .. }), _) if !members.frames.is_empty() => {
                let mut spans = members.frames.clone();
                spans.sort_by_key(|&(number, _)| number);
                let frame = |index: usize| Ok(RawImage::Encoded(read(spans[index].1)?));
                spread(spans.len(), frames).into_iter().map(frame).collect()
            }
            (Some(Clips { frames, max_pixels }), Some(image)) => {
                Ok(Frame::all(key.to_owned(), Footage::Animation(read(image)?), frames, max_pixels))
            }
            (Some(_), None) => {
                Err(Fault::new(FaultKind::MissingImage, key, format!("no frames .000.png, and no .{endings}")))
            }
        }
    }
}

/// The number in `007.png`.
fn frame_number(extension: &str) -> Option<u64> {
    let (number, extension) = extension.split_once('.')?;
    IMAGE_EXTENSIONS.contains(&extension).then(|| number.parse().ok())?
}

/// Captions in a `.json` member: a text or a list of texts.
fn json_captions(key: &str, value: &serde_json::Value) -> std::result::Result<Vec<String>, Fault> {
    let missing = |detail: &dyn ToString| Fault::new(FaultKind::MissingCaption, key, detail.to_string());
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
        let (key, members) = self.members(index)?;
        let images = self.images(&key, members)?;
        let mut labels = Labels::default();
        // A plain text goes before metadata, which of a clip say the class too.
        let json = members.json.filter(|_| members.text.is_none() || self.clips.is_some());
        let json: Option<serde_json::Value> = json.map(|span| self.json(&key, span)).transpose()?;
        let captions = match (members.text, &json) {
            (Some(text), _) => captions(&key, [&self.read(&key, text, MAX_TEXT_BYTES)?[..]])?,
            (None, Some(json)) => json_captions(&key, json)?,
            (None, None) => return Err(Fault::new(FaultKind::MissingCaption, &key, "no .txt or .json")),
        };
        if self.clips.is_some() {
            labels.class = json.as_ref().and_then(|json| json["class"].as_str()).map(str::to_owned);
        }
        Ok(Raw { key, images, captions, keywords: Vec::new(), labels })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data::test_source::gif;
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
    fn clips_are_frames_by_their_numbers_or_an_animation() {
        let folder = test_folder("clip-shards");
        let path = folder.join("0.tar").display().to_string();
        let animation = gif(&[[200, 0, 0], [0, 200, 0]]);
        let members: [(&str, &[u8]); 13] = [
            ("a.010.png", b"third"),
            ("a.002.png", b"second"),
            ("a.1.png", b"first"),
            ("a.txt", b"a ball moving left"),
            ("a.json", br#"{"class": "moving left", "frames": 3}"#),
            ("b.gif", &animation),
            ("b.json", br#"{"caption": "a light"}"#),
            ("c.left.png", b"no number"),
            ("c.txt", b"a pair"),
            ("d.000.png", b"one"),
            ("d.txt", b"damaged metadata"),
            ("d.json", b"{"),
            ("e.000.png", b"no text"),
        ];
        std::fs::write(&path, tar(&members)).unwrap();
        let open = |frames| ShardSource::open(&path, &Data { frames, ..Data::default() }).unwrap();
        let encoded =
            |names: &[&str]| names.iter().map(|n| RawImage::Encoded(n.as_bytes().to_vec())).collect::<Vec<_>>();
        let source = open(3);
        assert_eq!(source.images(), 3);
        let part = source.part(0).unwrap();
        let first = part.sample(0).unwrap();
        assert_eq!(first.images, encoded(&["first", "second", "third"]));
        assert_eq!(
            (first.labels.class.as_deref(), first.captions),
            (Some("moving left"), vec!["a ball moving left".into()])
        );
        let second = part.sample(1).unwrap();
        let colours = second.images.iter().map(|image| match image {
            RawImage::Frame(frame) => frame.image().unwrap().pixels[..3].to_vec(),
            other => panic!("{other:?}"),
        });
        assert!(colours.eq([[200, 0, 0], [0, 200, 0], [0, 200, 0]].map(Vec::from)));
        assert_eq!((second.labels.class, second.captions), (None, vec!["a light".into()]));
        let faults = [2, 3, 4].map(|index| part.sample(index).unwrap_err().kind);
        assert_eq!(faults, [FaultKind::MissingImage, FaultKind::MissingCaption, FaultKind::MissingCaption]);
        // The middle of the whole, and of pictures no frames.
        assert_eq!(open(1).part(0).unwrap().sample(0).unwrap().images, encoded(&["second"]));
        assert_eq!(open(0).part(0).unwrap().sample(0).unwrap_err().kind, FaultKind::MissingImage);
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
