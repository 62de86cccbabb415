//! A set of bytes, one bit for each.

/// Which bytes of a memory were written.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// No byte of `bytes`.
    pub fn new(bytes: usize) -> Bits {
        Bits { words: vec![0; bytes.div_ceil(64)] }
    }

    /// Adds a range of bytes.
    #[inline]
    pub fn insert(&mut self, at: usize, bytes: usize) {
        let (word, shift) = (at / 64, at % 64);
        if shift + bytes <= 64 {
            self.words[word] |= mask(bytes) << shift;
            return;
        }
        self.each_word(at, bytes, |word, mask| *word |= mask);
    }

    /// Whether every byte of a range is in the set.
    #[inline]
    pub fn contains(&self, at: usize, bytes: usize) -> bool {
        let (word, shift) = (at / 64, at % 64);
        if shift + bytes <= 64 {
            let wanted = mask(bytes) << shift;
            return self.words[word] & wanted == wanted;
        }
        parts(at, bytes).all(|(word, mask)| self.words[word] & mask == mask)
    }

    /// Removes a range of bytes.
    pub fn remove(&mut self, at: usize, bytes: usize) {
        self.each_word(at, bytes, |word, mask| *word &= !mask);
    }

    /// Makes a range of this set what the same number of bytes of another set are.
    pub fn copy_from(&mut self, at: usize, from: &Bits, from_at: usize, bytes: usize) {
        if from.contains(from_at, bytes) {
            return self.insert(at, bytes);
        }
        for i in 0..bytes {
            if from.contains(from_at + i, 1) { self.insert(at + i, 1) } else { self.remove(at + i, 1) }
        }
    }

    fn each_word(&mut self, at: usize, bytes: usize, mut f: impl FnMut(&mut u64, u64)) {
        for (word, mask) in parts(at, bytes) {
            f(&mut self.words[word], mask);
        }
    }
}

fn mask(bytes: usize) -> u64 {
    if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 }
}

/// The words that a range touches, with the bits of it.
fn parts(at: usize, bytes: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = at + bytes;
    (at / 64..end.div_ceil(64)).map(move |word| {
        let from = at.max(word * 64) - word * 64;
        let to = end.min(word * 64 + 64) - word * 64;
        (word, mask(to - from) << from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_across_words() {
        let mut bits = Bits::new(300);
        for (at, bytes) in [(0, 1), (60, 8), (100, 150), (299, 1)] {
            assert!(!bits.contains(at, bytes));
            bits.insert(at, bytes);
            assert!(bits.contains(at, bytes));
        }
        assert!(!bits.contains(59, 2) && !bits.contains(67, 2) && !bits.contains(99, 100) && !bits.contains(200, 51));
        let mut other = Bits::new(10);
        other.insert(0, 10);
        other.copy_from(2, &bits, 58, 4);
        assert!(other.contains(0, 2) && !other.contains(2, 1) && !other.contains(3, 1) && other.contains(4, 6));
        bits.remove(130, 100);
        assert!(bits.contains(100, 30) && !bits.contains(130, 1) && !bits.contains(229, 1) && bits.contains(230, 20));
    }
}
