//! Text to ids and back: CLIP's byte-pair encoding, vocabularies from a `tokenizer.json`, and ones trained here.
//!
//! All three are one [`Tokenizer`]: clean, cut into pieces, merge bytes within a piece, between a start and an end id.
//! Sources: open_clip `tokenizer.py`, ftfy 6.3.1, the `tokenizer.json` of Hugging Face's tokenizers library.

mod added;
mod badness;
mod bpe;
mod clean;
mod entities;
mod fix_text;
mod json;
mod split;
mod train;

use added::{Added, Part, cut};
use bpe::Bpe;
use clean::Cleaning;
use engine::{Error, Result};
use split::Split;
use std::io::Read;
use std::sync::{Arc, OnceLock};

const START: &str = "<start_of_text>";
const END: &str = "<end_of_text>";
const PAD: &str = "<pad>";

/// A vocabulary with its rules. Cheap to clone, shared by threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Parts>);

struct Parts {
    bpe: Bpe,
    cleaning: Cleaning,
    split: Split,
    /// Texts that are one id after open_clip's cleaning, with their ids.
    special: Vec<String>,
    special_ids: Vec<i32>,
    /// Texts that are one id by the rules of the tokenizers library.
    added: Vec<Added>,
    start: i32,
    end: i32,
    pad: i32,
    /// The `tokenizer.json` that it was read from, where we would not write the same.
    file: Option<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tokenizer({} pieces, start {}, end {}, pad {})",
            self.vocabulary_size(),
            self.start(),
            self.end(),
            self.pad()
        )
    }
}

impl Tokenizer {
    /// CLIP's vocabulary of 49,408 ids, as open_clip uses it. Padding is id 0, which is also the piece `!`.
    pub fn clip() -> Tokenizer {
        static CLIP: OnceLock<Tokenizer> = OnceLock::new();
        CLIP.get_or_init(|| {
            // A test reads the bundled file to its last id: this cannot fail on a machine of its own.
            clip_from(include_bytes!("../../data/bpe_simple_vocab_16e6.txt.gz"))
                .expect("the bundled vocabulary is whole")
        })
        .clone()
    }

    fn new(
        bpe: Bpe,
        cleaning: Cleaning,
        split: Split,
        special: Vec<(String, i32)>,
        added: Vec<Added>,
        ends: [i32; 3],
        file: Option<String>,
    ) -> Tokenizer {
        let (special, special_ids) = special.into_iter().unzip();
        let [start, end, pad] = ends;
        Tokenizer(Arc::new(Parts { bpe, cleaning, split, special, special_ids, added, start, end, pad, file }))
    }

    /// Ids of a text between [`start`](Self::start) and [`end`](Self::end), without padding.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        self.encode_within(text, usize::MAX)
    }

    /// As [`encode`](Self::encode), cut to `context_length` ids; where something was cut the last one is the end.
    pub fn encode_within(&self, text: &str, context_length: usize) -> Vec<i32> {
        let mut ids = Vec::new();
        self.encode_into(text, context_length, &mut String::new(), &mut ids);
        ids
    }

    /// Many texts in one row of ids: text `i` is `ids[offsets[i]..offsets[i + 1]]`, each cut to `context_length`.
    pub fn encode_packed<T: AsRef<str>>(&self, texts: &[T], context_length: usize) -> (Vec<i32>, Vec<i32>) {
        let (mut ids, mut offsets, mut buffer) = (Vec::new(), vec![0], String::new());
        for text in texts {
            self.encode_into(text.as_ref(), context_length, &mut buffer, &mut ids);
            offsets.push(ids.len() as i32);
        }
        (ids, offsets)
    }

    fn encode_into(&self, text: &str, context_length: usize, buffer: &mut String, ids: &mut Vec<i32>) {
        let parts = &*self.0;
        let first = ids.len();
        let limit = first.saturating_add(context_length);
        ids.push(parts.start);
        let mut cleaned = String::new();
        let text = parts.cleaning.before(text, &mut cleaned);
        cut(text, &parts.added, false, &mut |part| match part {
            Part::Token(id) => push_token(id, ids, limit),
            Part::Text(text) => {
                let text = parts.cleaning.apply(text, buffer);
                cut(text, &parts.added, true, &mut |part| match part {
                    Part::Token(id) => push_token(id, ids, limit),
                    Part::Text(text) => parts.push_text(text, ids, limit),
                })
            }
        });
        ids.push(parts.end);
        if ids.len() > limit {
            ids.truncate(limit);
            if let Some(last) = ids[first..].last_mut() {
                *last = parts.end;
            }
        }
    }

    /// The text of ids up to the first end: start and a padding id that is no piece are left out, bytes that are no UTF-8
    /// become U+FFFD, blanks at both ends vanish. Ids outside the vocabulary are passed over.
    pub fn decode(&self, ids: &[i32]) -> String {
        let mut bytes = Vec::new();
        // The start may be the id that also ends a text.
        let ids = ids.strip_prefix(&[self.start()]).unwrap_or(ids);
        for &id in ids.iter().take_while(|&&id| id != self.end()) {
            bytes.extend_from_slice(self.0.bpe.bytes(id));
        }
        String::from_utf8_lossy(&bytes).trim().to_string()
    }

    /// The id before every text.
    pub fn start(&self) -> i32 {
        self.0.start
    }

    /// The id after every text.
    pub fn end(&self) -> i32 {
        self.0.end
    }

    /// The id that fills rows of fixed length.
    pub fn pad(&self) -> i32 {
        self.0.pad
    }

    /// Number of ids, special ones included: the rows of the token embedding.
    pub fn vocabulary_size(&self) -> usize {
        self.0.bpe.strings.len()
    }

    /// The vocabulary string of an id, as `tokenizer.json` spells it.
    pub fn piece(&self, id: i32) -> Option<&str> {
        self.0.bpe.strings.get(usize::try_from(id).ok()?).map(String::as_str)
    }
}

/// Appends an id; false when the ids reach `limit`.
fn push_token(id: u32, ids: &mut Vec<i32>, limit: usize) -> bool {
    ids.push(id as i32);
    ids.len() < limit
}

impl Parts {
    /// Appends the ids of clean text; false when they reach `limit`: what lies past the context is not even merged.
    fn push_text(&self, text: &str, ids: &mut Vec<i32>, limit: usize) -> bool {
        self.split.pieces(text, &self.special, |piece| {
            match self.special.iter().position(|special| special == piece) {
                Some(special) => ids.push(self.special_ids[special]),
                None => self.bpe.encode(piece.as_bytes(), ids),
            }
            ids.len() < limit
        });
        ids.len() < limit
    }
}

/// CLIP's vocabulary from its gzip file of merges: byte pieces, the same at the end of a word, merges, start and end.
fn clip_from(compressed: &[u8]) -> Result<Tokenizer> {
    const MERGES: usize = 48_894;
    let mut text = String::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_string(&mut text)
        .map_err(|error| Error::invalid(format!("CLIP's vocabulary file: {error}")))?;
    let characters = bpe::byte_characters();
    let bytes: Vec<String> = bpe::bytes_in_order().iter().map(|&byte| characters[byte as usize].to_string()).collect();
    let mut strings = bytes.clone();
    strings.extend(bytes.iter().map(|byte| format!("{byte}{}", bpe::END_OF_WORD)));
    let mut ids: std::collections::HashMap<String, u32> =
        strings.iter().enumerate().map(|(id, string)| (string.clone(), id as u32)).collect();
    let mut merges = Vec::with_capacity(MERGES);
    for (number, line) in text.lines().skip(1).take(MERGES).enumerate() {
        let known = line.split_once(' ').and_then(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        let Some((left, right)) = known else {
            return Err(Error::invalid(format!("CLIP's vocabulary file: merge {number}, {line:?}, is not two pieces")));
        };
        merges.push((left, right));
        let merged = line.replacen(' ', "", 1);
        ids.insert(merged.clone(), strings.len() as u32);
        strings.push(merged);
    }
    if merges.len() != MERGES {
        return Err(Error::invalid(format!("CLIP's vocabulary file: {} merges, not {MERGES}", merges.len())));
    }
    let start = strings.len() as u32;
    strings.extend([START.to_string(), END.to_string()]);
    let special = vec![(START.to_string(), start as i32), (END.to_string(), start as i32 + 1)];
    let bpe = Bpe::new(strings, merges, true, &[start, start + 1])?;
    let ends = [start as i32, start as i32 + 1, 0];
    Ok(Tokenizer::new(bpe, Cleaning::OpenClip, Split::OpenClip, special, Vec::new(), ends, None))
}
