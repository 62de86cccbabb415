//! What is asked and said in the shards of `coca data make scenes`, a sample for each text: questions about a scene, statements
//! about a scene, a statement about the two scenes of a pair.

use super::shards::{Shard, ShardSource};
use super::{Class, Labels, Part, Raw, Source, TextKind, captions, no_clips};
use crate::Result;
use crate::config::Data;
use crate::data::{Fault, FaultKind};
use serde::Deserialize;
use std::sync::Arc;

/// How the sources are named.
pub const KINDS: [&str; 3] =
    ["scene-questions:SHARDS.tar", "scene-statements:SHARDS.tar", "scene-pairs:PAIR-SHARDS.tar"];

/// Shards of scenes, read for one kind of text.
#[derive(Clone, Debug)]
pub struct SceneSource {
    name: String,
    kind: TextKind,
    shards: ShardSource,
}

/// The source of a name such as `scene-questions:SHARDS.tar`; none if the name does not begin as one of [`KINDS`].
///
/// # Errors
/// As [`ShardSource::open`], or clips are asked for.
pub fn open(name: &str, options: &Data) -> Result<Option<Arc<dyn Source>>> {
    let Some((kind, pattern)) = name.split_once(':') else { return Ok(None) };
    let kind = match kind {
        "scene-questions" => TextKind::Question,
        "scene-statements" => TextKind::Hypothesis,
        "scene-pairs" => TextKind::Statement,
        _ => return Ok(None),
    };
    if options.frames > 0 {
        return Err(no_clips(name));
    }
    Ok(Some(Arc::new(SceneSource { name: name.to_owned(), kind, shards: ShardSource::open(pattern, options)? })))
}

impl Source for SceneSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn parts(&self) -> usize {
        self.shards.parts()
    }

    fn images(&self) -> usize {
        self.kind.images()
    }

    fn part(&self, part: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(ScenePart::open(&self.shards.shards[part], self.kind)?))
    }

    fn classes(&self) -> Option<Vec<Class>> {
        self.kind.classes()
    }
}

/// An open shard. Of its texts only the places are kept.
struct ScenePart {
    shard: Shard,
    kind: TextKind,
    /// Entry of the shard, and place among the entry's texts, of every sample.
    samples: Vec<(usize, usize)>,
}

/// A text with its answer, class or truth.
struct Told {
    text: String,
    class: String,
    /// What is asked for.
    domain: Option<String>,
}

#[derive(Deserialize)]
struct Questions {
    questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    kind: String,
    text: String,
    answer: String,
}

#[derive(Deserialize)]
struct Statements {
    statements: Vec<Statement>,
}

#[derive(Deserialize)]
struct Statement {
    text: String,
    label: String,
}

#[derive(Deserialize)]
struct Pair {
    statement: String,
    label: bool,
}

impl ScenePart {
    fn open(path: &str, kind: TextKind) -> std::result::Result<ScenePart, Fault> {
        let mut part = ScenePart { shard: Shard::open(path)?, kind, samples: Vec::new() };
        for entry in 0..part.shard.len() {
            // A faulty one is one sample: reading it gives the fault.
            let texts = if kind == TextKind::Statement { 1 } else { part.texts(entry).map_or(1, |texts| texts.len()) };
            part.samples.extend((0..texts).map(|place| (entry, place)));
        }
        Ok(part)
    }

    /// The texts of an entry.
    fn texts(&self, entry: usize) -> std::result::Result<Vec<Told>, Fault> {
        let (key, members) = self.shard.members(entry)?;
        let json = members.json.ok_or_else(|| Fault::new(FaultKind::MissingCaption, &key, "no .json"))?;
        Ok(match self.kind {
            TextKind::Question => {
                let Questions { questions } = self.shard.json(&key, json)?;
                let told = |Question { kind, text, answer }| Told { text, class: answer, domain: Some(kind) };
                questions.into_iter().map(told).collect()
            }
            TextKind::Statement => {
                let Pair { statement, label } = self.shard.json(&key, json)?;
                vec![Told { text: statement, class: label.to_string(), domain: None }]
            }
            TextKind::Caption | TextKind::Hypothesis => {
                let Statements { statements } = self.shard.json(&key, json)?;
                let told = |Statement { text, label }| Told { text, class: label, domain: None };
                statements.into_iter().map(told).collect()
            }
        })
    }
}

impl Part for ScenePart {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let (entry, place) = self.samples[index];
        let (key, members) = self.shard.members(entry)?;
        let changed = || Fault::new(FaultKind::BrokenArchive, &key, "the shard was changed while it was read");
        let Told { text, class, domain } = self.texts(entry)?.into_iter().nth(place).ok_or_else(changed)?;
        let images = match self.kind {
            TextKind::Statement => {
                let [left, right] = members.sides;
                vec![self.shard.image(&key, left, "left.png")?, self.shard.image(&key, right, "right.png")?]
            }
            _ => vec![self.shard.image(&key, members.image, "png")?],
        };
        let captions = captions(&key, [text.as_bytes()])?;
        let labels = Labels { class: Some(class), domain, ..Labels::default() };
        Ok(Raw { key: format!("{key}#{place}"), images, captions, keywords: Vec::new(), labels })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tar_of;
    use super::*;
    use crate::data::scenes::{Recipe, make};
    use crate::data::{Ledger, RawImage, check, open, read_batches, stats, test_source};
    use crate::test_folder;
    use crate::test_support::TestFolder;
    use std::collections::BTreeSet;

    fn made(name: &str) -> TestFolder {
        let folder = test_folder(name);
        make(&folder, Recipe { count: 30, side: 24, seed: 3 }).unwrap();
        folder
    }

    fn samples(source: &dyn Source) -> Vec<std::result::Result<Raw, Fault>> {
        let parts = (0..source.parts()).map(|part| source.part(part).unwrap());
        parts.flat_map(|part| (0..part.len()).map(|index| part.sample(index)).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn every_text_is_a_sample_with_its_picture_and_class() {
        let folder = made("scene-texts");
        let opened = |name: &str| open(&name.replace("IN", &folder.display().to_string()), &Data::default()).unwrap();
        let all = |name: &str| -> Vec<Raw> { samples(&*opened(name)).into_iter().map(|raw| raw.unwrap()).collect() };
        let set = |values: Vec<Option<String>>| values.into_iter().flatten().collect::<BTreeSet<_>>();
        let classes = |raws: &[Raw]| set(raws.iter().map(|raw| raw.labels.class.clone()).collect());

        let asked = all("scene-questions:IN/{train,test}-00000.tar");
        let kinds = set(asked.iter().map(|raw| raw.labels.domain.clone()).collect());
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["colour", "count", "existence", "relation", "shape"]);
        assert!(asked.len() > 33 && asked.iter().all(|raw| raw.images.len() == 1 && raw.captions[0].ends_with('?')));
        assert!(asked[1].key.ends_with("train-00000.tar: scene-0000000#1"), "{}", asked[1].key);
        let keys: BTreeSet<&str> = asked.iter().map(|raw| raw.key.as_str()).collect();
        assert_eq!(keys.len(), asked.len());
        // Questions about one scene show one picture.
        assert_eq!(asked[0].images, asked[1].images);
        assert!(opened("scene-questions:IN/train-00000.tar").classes().is_none());

        let labels = |source: &dyn Source| source.classes().unwrap().into_iter().map(|class| class.label).collect();
        let said = opened("scene-statements:IN/train-00000.tar");
        assert_eq!(labels(&*said), classes(&all("scene-statements:IN/train-00000.tar")));
        let pairs = opened("scene-pairs:IN/pairs-train-00000.tar");
        let stated = all("scene-pairs:IN/pairs-train-00000.tar");
        assert_eq!((stated.len(), labels(&*pairs), pairs.images()), (30, classes(&stated), 2));
        assert!(stated.iter().all(|raw| matches!(&raw.images[..], [RawImage::Encoded(_), RawImage::Encoded(_)])));

        let (mut ledger, mut found) = (Ledger::new(0.0), 0);
        let model = test_source::model(8);
        read_batches(&*pairs, &model, &Data::default(), &mut ledger, 7, |batch| {
            found += batch.len();
            assert!(batch.iter().all(|one| one.sample.image.len() == 2 * 8 * 8 * 3 && one.labels.class.is_some()));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, 30);
        let (text, sound) = check(&*pairs, &model, &Data::default()).unwrap();
        assert!(sound && text.contains("30 of 30"), "{text}");
        let text = stats(&*pairs, &Data::default()).unwrap();
        assert!(text.contains("labels    2 distinct"), "{text}");
    }

    #[test]
    fn faulty_scenes_are_faulty_samples() {
        let folder = test_folder("scene-faults");
        let path = folder.join("0.tar").display().to_string();
        let question = br#"{"questions": [{"kind": "count", "text": "how many?", "answer": "2"}, {"kind": "shape", "text": " ", "answer": "2"}]}"#;
        let members: [(&str, &[u8]); 9] = [
            ("a.png", b"a"),
            ("a.json", question),
            ("b.json", question),
            ("c.png", b"c"),
            ("c.json", br#"{"questions": [{"kind": "count", "text": "how many?"}]}"#),
            ("d.json", br#"{"caption": "no questions"}"#),
            ("e.png", b"e"),
            ("f.json", br#"{"questions": []}"#),
            ("g.left.png", b"left"),
        ];
        let whole = tar_of(&members);
        let read = |name: &str| samples(&*open(&format!("{name}:{path}"), &Data::default()).unwrap());
        std::fs::write(&path, &whole).unwrap();
        let found: Vec<_> = read("scene-questions").into_iter().map(|raw| raw.map(|raw| raw.captions)).collect();
        let faults = [
            (FaultKind::EmptyCaption, "a", ""),
            (FaultKind::MissingImage, "b", "no .png"),
            (FaultKind::MissingImage, "b", "no .png"),
            (FaultKind::MissingCaption, "c", "missing field `answer` at line 1"),
            (FaultKind::MissingCaption, "d", "missing field `questions`"),
            (FaultKind::MissingCaption, "e", "no .json"),
            (FaultKind::MissingCaption, "g", "no .json"),
        ];
        assert_eq!(found[0].as_ref().unwrap(), &["how many?"]);
        assert_eq!(found.len(), 1 + faults.len());
        for (found, (kind, key, detail)) in found[1..].iter().zip(faults) {
            let fault = found.as_ref().unwrap_err();
            assert_eq!((fault.kind, fault.key.as_str()), (kind, format!("{path}: {key}").as_str()));
            assert!(fault.detail.contains(detail), "{}", fault.detail);
        }

        let pair = br#"{"statement": "both are red", "label": true}"#;
        let pairs: [(&str, &[u8]); 4] =
            [("g.left.png", b"left"), ("g.json", pair), ("h.left.png", b"left"), ("h.right.png", b"right")];
        std::fs::write(&path, tar_of(&pairs)).unwrap();
        let details = read("scene-pairs").into_iter().map(|raw| raw.unwrap_err().detail);
        assert_eq!(details.collect::<Vec<_>>(), ["no .right.png", "no .json"]);

        std::fs::write(&path, &whole[..1300]).unwrap();
        assert!(
            read("scene-questions")
                .iter()
                .any(|raw| { raw.as_ref().is_err_and(|fault| fault.kind == FaultKind::BrokenArchive) })
        );
        let clips = open(&format!("scene-pairs:{path}"), &Data { frames: 2, ..Data::default() });
        assert!(clips.err().unwrap().to_string().contains("these are pictures"));
        assert!(open("scene-pairs:nowhere.tar", &Data::default()).err().unwrap().to_string().contains("nowhere.tar"));
    }
}
