//! Learning a byte-pair vocabulary from captions, by CLIP's rules of cleaning and cutting.
//!
//! Ids: 0 padding and nothing else (unlike CLIP), 1 start, 2 end, 256 bytes, 256 bytes at the end of a piece, merges.
//! The same captions give the same vocabulary on every machine, in whatever order they come.

use super::bpe::{Bpe, END_OF_WORD, FastMap, byte_characters, bytes_in_order, pair};
use super::clean::Cleaning;
use super::split::Split;
use super::{END, PAD, START, Tokenizer};
use engine::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Special tokens, bytes, and bytes at the end of a piece: the ids before the first merge.
const BASE: usize = 3 + 2 * 256;

/// A distinct piece of the text: its symbols and how often it occurs.
struct Word {
    symbols: Vec<u32>,
    count: i64,
}

impl Tokenizer {
    /// Learns a vocabulary of at most `vocabulary_size` ids (at least 515): fewer if no pair of symbols is left that occurs
    /// twice. Of equally frequent pairs the one with the lower ids is merged first.
    pub fn train<T: AsRef<str>>(captions: impl IntoIterator<Item = T>, vocabulary_size: usize) -> Result<Tokenizer> {
        if vocabulary_size < BASE {
            return Err(Error::invalid(format!(
                "tokenizer: a vocabulary of {vocabulary_size} ids cannot hold the {BASE} of every byte and the special tokens"
            )));
        }
        let characters = byte_characters();
        let mut strings = vec![PAD.to_string(), START.to_string(), END.to_string()];
        let mut inner = [0; 256];
        let mut last = [0; 256];
        for (ending, ids) in [("", &mut inner), (END_OF_WORD, &mut last)] {
            for byte in bytes_in_order() {
                ids[byte as usize] = strings.len() as u32;
                strings.push(format!("{}{ending}", characters[byte as usize]));
            }
        }
        let mut words = words(captions, &inner, &last);
        let merges = learn(&mut words, &mut strings, vocabulary_size);
        trained(strings, merges)
    }
}

/// A tokenizer with the special tokens, cleaning and cutting of trained vocabularies.
pub(super) fn trained(strings: Vec<String>, merges: Vec<(u32, u32)>) -> Result<Tokenizer> {
    let bpe = Bpe::new(strings, merges, true, &[0, 1, 2])?;
    Ok(Tokenizer::new(
        bpe,
        Cleaning::OpenClip,
        Split::OpenClip,
        vec![(START.to_string(), 1), (END.to_string(), 2)],
        Vec::new(),
        [1, 2, 0],
        None,
    ))
}

/// Counts the pieces of all captions; sorted, so that their order is that of no hash.
fn words<T: AsRef<str>>(captions: impl IntoIterator<Item = T>, inner: &[u32; 256], last: &[u32; 256]) -> Vec<Word> {
    let special = [START.to_string(), END.to_string()];
    let mut counts: HashMap<Vec<u8>, i64> = HashMap::new();
    let mut buffer = String::new();
    for caption in captions {
        let text = Cleaning::OpenClip.apply(caption.as_ref(), &mut buffer);
        Split::OpenClip.pieces(text, &special, |piece| {
            if special.iter().all(|special| special != piece) {
                match counts.get_mut(piece.as_bytes()) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(piece.as_bytes().to_vec(), 1)),
                }
            }
            true
        });
    }
    let mut counts: Vec<(Vec<u8>, i64)> = counts.into_iter().collect();
    counts.sort_unstable();
    let symbols = |piece: &[u8]| {
        let end = piece.len() - 1;
        piece.iter().enumerate().map(|(at, &byte)| if at == end { last } else { inner }[byte as usize]).collect()
    };
    counts.iter().map(|(piece, count)| Word { symbols: symbols(piece), count: *count }).collect()
}

/// Merges the most frequent pair until the vocabulary is full; counts are kept up to date word by word.
fn learn(words: &mut [Word], strings: &mut Vec<String>, vocabulary_size: usize) -> Vec<(u32, u32)> {
    let mut counts: FastMap<u64, i64> = FastMap::default();
    let mut places: FastMap<u64, Vec<usize>> = FastMap::default();
    for (at, word) in words.iter().enumerate() {
        for window in word.symbols.windows(2) {
            let key = pair(window[0], window[1]);
            *counts.entry(key).or_insert(0) += word.count;
            places.entry(key).or_default().push(at);
        }
    }
    let mut heap: BinaryHeap<(i64, Reverse<u64>)> = counts.iter().map(|(&key, &count)| (count, Reverse(key))).collect();
    let mut id_of: HashMap<String, u32> = strings.iter().enumerate().map(|(id, s)| (s.clone(), id as u32)).collect();
    let mut merges = Vec::new();
    while strings.len() < vocabulary_size {
        let Some((count, Reverse(key))) = heap.pop() else { break };
        let current = counts.get(&key).copied().unwrap_or(0);
        if current != count {
            // Out of date; a true entry was pushed when the count changed.
            continue;
        }
        if count < 2 {
            break;
        }
        let (left, right) = ((key >> 32) as u32, key as u32);
        let merged = format!("{}{}", strings[left as usize], strings[right as usize]);
        // Two merges may spell the same piece: it has one id.
        let id = *id_of.entry(merged).or_insert_with_key(|merged| {
            strings.push(merged.clone());
            strings.len() as u32 - 1
        });
        merges.push((left, right));
        let mut changed: FastMap<u64, i64> = FastMap::default();
        let mut at_words = places.remove(&key).unwrap_or_default();
        at_words.sort_unstable();
        at_words.dedup();
        for at in at_words {
            let word = &mut words[at];
            for window in word.symbols.windows(2) {
                *changed.entry(pair(window[0], window[1])).or_insert(0) -= word.count;
            }
            merge_pair(&mut word.symbols, left, right, id);
            for window in word.symbols.windows(2) {
                let key = pair(window[0], window[1]);
                *changed.entry(key).or_insert(0) += word.count;
                if window[0] == id || window[1] == id {
                    places.entry(key).or_default().push(at);
                }
            }
        }
        for (key, change) in changed {
            let count = counts.entry(key).or_insert(0);
            *count += change;
            if change != 0 && *count > 0 {
                heap.push((*count, Reverse(key)));
            }
        }
    }
    merges
}

/// Joins each `left right` from left to right.
fn merge_pair(symbols: &mut Vec<u32>, left: u32, right: u32, id: u32) {
    let (mut read, mut write) = (0, 0);
    while read < symbols.len() {
        let joined = symbols[read] == left && symbols.get(read + 1) == Some(&right);
        symbols[write] = if joined { id } else { symbols[read] };
        read += 1 + usize::from(joined);
        write += 1;
    }
    symbols.truncate(write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_become_one_id_and_nothing_depends_on_order() {
        let captions = ["A photo of a cat", "a photo of a dog", "the cat &amp; the dog!", "photo, photo; ünï 😀😀"];
        let tokenizer = Tokenizer::train(captions, 600).unwrap();
        let backwards = Tokenizer::train(captions.iter().rev(), 600).unwrap();
        assert_eq!(tokenizer.0.bpe.strings, backwards.0.bpe.strings);
        assert!(tokenizer.vocabulary_size() > BASE && tokenizer.vocabulary_size() <= 600);
        assert_eq!(tokenizer.encode("photo").len(), 3);
        for text in ["a photo of the dog", "zebra ünï 😀 über", "!% !/ (!)"] {
            let ids = tokenizer.encode(text);
            assert!(!ids.contains(&0), "{text}: padding inside {ids:?}");
            assert_eq!(tokenizer.decode(&ids).replace(' ', ""), text.replace(' ', ""));
        }
        assert!(Tokenizer::train(captions, 514).is_err());
    }

    /// The definition: count all pairs afresh, merge the most frequent one, again.
    #[test]
    fn the_incremental_counts_are_the_counts() {
        let captions: Vec<String> =
            (0..60u32).map(|n| format!("{:b} {:o} aaaaa{}", n * n, n * 7, "ab".repeat(n as usize % 5))).collect();
        let tokenizer = Tokenizer::train(&captions, 560).unwrap();
        let bpe = &tokenizer.0.bpe;
        let byte = |ending: &str| {
            let mut ids = [0; 256];
            for value in 0..256 {
                let string = format!("{}{ending}", byte_characters()[value]);
                ids[value] = bpe.strings.iter().position(|s| *s == string).unwrap() as u32;
            }
            ids
        };
        let mut words = words(&captions, &byte(""), &byte(END_OF_WORD));
        for (rank, &(left, right)) in bpe.merges.iter().enumerate() {
            let mut counts: HashMap<(u32, u32), i64> = HashMap::new();
            for word in &words {
                for window in word.symbols.windows(2) {
                    *counts.entry((window[0], window[1])).or_insert(0) += word.count;
                }
            }
            let best = counts.into_iter().max_by_key(|&(pair, count)| (count, Reverse(pair))).unwrap();
            assert_eq!(best.0, (left, right), "merge {rank}");
            let merged = format!("{}{}", bpe.strings[left as usize], bpe.strings[right as usize]);
            let id = bpe.strings.iter().position(|s| *s == merged).unwrap() as u32;
            words.iter_mut().for_each(|word| merge_pair(&mut word.symbols, left, right, id));
        }
    }
}
