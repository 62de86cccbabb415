//! Byte-pair encoding over bytes: a vocabulary of byte strings, ranked merges, and the merge loop.
//! Vocabulary strings are written in GPT-2's byte characters; `</w>` marks the end of a piece where a vocabulary uses it.

use engine::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Marks the end of a piece in the vocabularies of CLIP.
pub(super) const END_OF_WORD: &str = "</w>";

/// Above this many symbols the quadratic merge loop gives way to a heap.
const HEAP_FROM: usize = 64;

/// No merge, or no neighbour.
const NONE: u32 = u32::MAX;

/// The character that stands for each byte in vocabulary files (GPT-2's `bytes_to_unicode`).
pub(super) fn byte_characters() -> [char; 256] {
    let mut characters = ['\0'; 256];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        characters[byte as usize] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as char,
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("at most U+0143")
            }
        };
    }
    characters
}

/// The bytes in the order of CLIP's vocabulary: those that stand for themselves first.
pub(super) fn bytes_in_order() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    let characters = byte_characters();
    bytes.sort_by_key(|&byte| characters[byte as usize]);
    bytes
}

/// A multiplicative hash, for keys that nobody chooses to collide: pairs of ids and short pieces of text.
#[derive(Default)]
pub(super) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().expect("8 bytes")));
        }
        let mut last = [0; 8];
        let rest = chunks.remainder();
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

pub(super) fn pair(left: u32, right: u32) -> u64 {
    (left as u64) << 32 | right as u64
}

/// A vocabulary and its merges.
pub(super) struct Bpe {
    /// Vocabulary string of each id, special tokens included.
    pub strings: Vec<String>,
    /// Merges in order of rank, as ids.
    pub merges: Vec<(u32, u32)>,
    /// What each id decodes to; `</w>` is a space. Special tokens have none.
    decoded: Vec<Vec<u8>>,
    inner: [u32; 256],
    last: [u32; 256],
    ranks: FastMap<u64, (u32, u32)>,
    /// Pieces that end as one id: found without merging.
    whole: FastMap<Box<[u8]>, u32>,
}

impl Bpe {
    /// Checks and indexes a vocabulary. `strings[id]` is written in byte characters, except for `special` ids. With
    /// `end_of_word` the last symbol of a piece carries [`END_OF_WORD`].
    pub fn new(strings: Vec<String>, merges: Vec<(u32, u32)>, end_of_word: bool, special: &[u32]) -> Result<Bpe> {
        let mut id_of: HashMap<&str, u32> = HashMap::with_capacity(strings.len());
        for (id, string) in strings.iter().enumerate() {
            // A string that occurs twice belongs to its last id, as in Python's dict(zip(...)).
            id_of.insert(string, id as u32);
        }
        let characters = byte_characters();
        let mut inner = [NONE; 256];
        let mut last = [NONE; 256];
        for byte in 0..256 {
            let character = characters[byte].to_string();
            let missing = || Error::invalid(format!("tokenizer: the vocabulary has no piece for the byte {byte}"));
            inner[byte] = *id_of.get(character.as_str()).ok_or_else(missing)?;
            last[byte] = inner[byte];
            if end_of_word {
                let ending = character + END_OF_WORD;
                last[byte] = *id_of.get(ending.as_str()).ok_or_else(missing)?;
            }
        }
        let mut ranks = FastMap::with_capacity_and_hasher(merges.len(), Default::default());
        for (rank, &(left, right)) in merges.iter().enumerate() {
            let merged = format!("{}{}", strings[left as usize], strings[right as usize]);
            let Some(&id) = id_of.get(merged.as_str()) else {
                return Err(Error::invalid(format!("tokenizer: merge {rank} makes {merged:?}, not in the vocabulary")));
            };
            ranks.insert(pair(left, right), (rank as u32, id));
        }
        let byte_of: FastMap<u32, u8> = (0..=255u8).map(|byte| (characters[byte as usize] as u32, byte)).collect();
        let mut decoded = Vec::with_capacity(strings.len());
        for (id, string) in strings.iter().enumerate() {
            let mut bytes = Vec::new();
            if !special.contains(&(id as u32)) {
                let (text, ends) = match string.strip_suffix(END_OF_WORD) {
                    Some(text) if end_of_word => (text, true),
                    _ => (string.as_str(), false),
                };
                for character in text.chars() {
                    bytes.push(*byte_of.get(&(character as u32)).ok_or_else(|| {
                        Error::invalid(format!("tokenizer: piece {id}, {string:?}, is not written in byte characters"))
                    })?);
                }
                if ends {
                    bytes.push(b' ');
                }
            }
            decoded.push(bytes);
        }
        let mut bpe = Bpe { strings, merges, decoded, inner, last, ranks, whole: FastMap::default() };
        let mut ids = Vec::new();
        for (id, bytes) in bpe.decoded.iter().enumerate() {
            let piece = if end_of_word { bytes.strip_suffix(b" ") } else { Some(bytes.as_slice()) };
            let Some(piece) = piece.filter(|piece| !piece.is_empty()) else { continue };
            ids.clear();
            bpe.merge(piece, &mut ids);
            if ids == [id as i32] {
                bpe.whole.insert(piece.into(), id as u32);
            }
        }
        Ok(bpe)
    }

    /// Appends the ids of one piece of text.
    pub fn encode(&self, piece: &[u8], ids: &mut Vec<i32>) {
        match self.whole.get(piece) {
            Some(&id) => ids.push(id as i32),
            None => self.merge(piece, ids),
        }
    }

    /// The bytes that an id stands for; none for an unknown or special one.
    pub fn bytes(&self, id: i32) -> &[u8] {
        usize::try_from(id).ok().and_then(|id| self.decoded.get(id)).map_or(&[], Vec::as_slice)
    }

    fn rank(&self, left: u32, right: u32) -> (u32, u32) {
        self.ranks.get(&pair(left, right)).copied().unwrap_or((NONE, NONE))
    }

    fn merge(&self, piece: &[u8], ids: &mut Vec<i32>) {
        let Some((&final_byte, body)) = piece.split_last() else { return };
        let start = ids.len();
        ids.extend(body.iter().map(|&byte| self.inner[byte as usize] as i32));
        ids.push(self.last[final_byte as usize] as i32);
        if piece.len() < HEAP_FROM { self.merge_short(ids, start) } else { self.merge_long(ids, start) }
    }

    /// Merges `ids[start..]` (fewer than `HEAP_FROM`) in place: the lowest rank first, leftmost first, until none is left.
    fn merge_short(&self, ids: &mut Vec<i32>, start: usize) {
        let symbols = &mut ids[start..];
        let mut length = symbols.len();
        let mut ranks = [(NONE, NONE); HEAP_FROM];
        for at in 0..length - 1 {
            ranks[at] = self.rank(symbols[at] as u32, symbols[at + 1] as u32);
        }
        while length > 1 {
            let mut best = 0;
            for at in 1..length - 1 {
                if ranks[at].0 < ranks[best].0 {
                    best = at;
                }
            }
            if ranks[best].0 == NONE {
                break;
            }
            symbols[best] = ranks[best].1 as i32;
            symbols.copy_within(best + 2..length, best + 1);
            ranks.copy_within(best + 1..length, best);
            length -= 1;
            if best > 0 {
                ranks[best - 1] = self.rank(symbols[best - 1] as u32, symbols[best] as u32);
            }
            if best + 1 < length {
                ranks[best] = self.rank(symbols[best] as u32, symbols[best + 1] as u32);
            }
        }
        ids.truncate(start + length);
    }

    /// The same for any length in n log n: a heap of candidate merges over a linked list, stale ones skipped.
    fn merge_long(&self, ids: &mut Vec<i32>, start: usize) {
        let mut symbols: Vec<u32> = ids[start..].iter().map(|&id| id as u32).collect();
        let count = symbols.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let push = |heap: &mut BinaryHeap<_>, at: usize, left: u32, right: u32| {
            let (rank, id) = self.rank(left, right);
            if rank != NONE {
                heap.push(Reverse((rank, at, left, right, id)));
            }
        };
        for at in 0..count - 1 {
            push(&mut heap, at, symbols[at], symbols[at + 1]);
        }
        while let Some(Reverse((_, at, left, right, id))) = heap.pop() {
            let after = next[at];
            if symbols[at] != left || after >= count || symbols[after] != right {
                continue;
            }
            symbols[at] = id;
            symbols[after] = NONE;
            next[at] = next[after];
            if next[at] < count {
                previous[next[at]] = at;
                push(&mut heap, at, id, symbols[next[at]]);
            }
            if previous[at] < count {
                push(&mut heap, previous[at], symbols[previous[at]], id);
            }
        }
        ids.truncate(start);
        ids.extend(symbols.iter().filter(|&&symbol| symbol != NONE).map(|&symbol| symbol as i32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of the bytes and of merges drawn at random from what is there, in creation order.
    fn random_vocabulary(mut state: u64, count: usize) -> Bpe {
        let characters = byte_characters();
        let mut strings: Vec<String> = (0..256).map(|byte| characters[byte].to_string()).collect();
        let mut pool = vec![b'a' as u32, b'b' as u32, b'c' as u32];
        let mut merges = Vec::new();
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        while merges.len() < count {
            let (left, right) = (pool[draw(pool.len())], pool[draw(pool.len())]);
            let merged = format!("{}{}", strings[left as usize], strings[right as usize]);
            if !strings.contains(&merged) {
                pool.push(strings.len() as u32);
                strings.push(merged);
                merges.push((left, right));
            }
        }
        Bpe::new(strings, merges, false, &[]).unwrap()
    }

    #[test]
    fn the_heap_and_the_scan_agree() {
        for seed in 0..200 {
            let bpe = random_vocabulary(seed, 12);
            let length = 2 + seed as usize % (HEAP_FROM - 2);
            let piece: Vec<i32> =
                (0..length as u64).map(|at| 97 + ((at * at * 7 + at * seed) % 11 % 3) as i32).collect();
            let (mut short, mut long) = (piece.clone(), piece);
            bpe.merge_short(&mut short, 0);
            bpe.merge_long(&mut long, 0);
            assert_eq!(short, long, "seed {seed}");
        }
    }
}
