//! Texts as packed rows: only the rows that matter, with offsets (coca.md 6.3). Exact: a dropped row is one that no
//! kept row sees and no loss reads.
//!
//! A text of n tokens has n token rows, with the legacy mask and n below the context one pad row (real input to CLS),
//! and the CLS row, whose position is always the row after the context. The decoder reads rows 0 to n - 2, each with the
//! next token as its label.

use crate::config::{ClsMask, TextConfig};
use engine::{Error, Result};
use kernels::attention::{SEEN_BY_ITSELF, SEEN_LATER};
use kernels::embed::CLASS_ID;

/// A batch of texts as packed rows; every field is an input of the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackedText {
    /// Token id of every row, [`CLASS_ID`] for CLS.
    pub ids: Vec<i32>,
    /// Row of the position table of every row.
    pub positions: Vec<i32>,
    /// Who sees the row as a key: bits of `kernels::attention`.
    pub key_bits: Vec<u8>,
    /// First row of each text, and the number of rows: `[texts + 1]`.
    pub offsets: Vec<i32>,
    /// The CLS row of each text.
    pub class_rows: Vec<i32>,
    /// The rows that the decoder reads.
    pub decoder_rows: Vec<i32>,
    /// First decoder row of each text, and their number: `[texts + 1]`.
    pub decoder_offsets: Vec<i32>,
    /// The token that each decoder row should predict; the pad id does not count.
    pub labels: Vec<i32>,
}

const SEEN: u8 = SEEN_LATER | SEEN_BY_ITSELF;

impl PackedText {
    /// Packs texts of token ids (start and end included). Trailing pad ids are taken for padding. An error names a text
    /// that is too long or holds an id outside the vocabulary.
    pub fn new<T: AsRef<[i32]>>(texts: &[T], config: &TextConfig) -> Result<PackedText> {
        let (context, pad) = (config.context_length, config.pad_id as i32);
        let mut packed = PackedText { offsets: vec![0], decoder_offsets: vec![0], ..PackedText::default() };
        for (index, text) in texts.iter().enumerate() {
            let text = text.as_ref();
            let length = text.iter().rposition(|&id| id != pad).map_or(0, |last| last + 1);
            let text = &text[..length];
            if length > context {
                return Err(Error::invalid(format!("text {index} has {length} tokens, the context holds {context}")));
            }
            if let Some(id) = text.iter().find(|&&id| id < 0 || id as usize >= config.vocabulary_size) {
                let size = config.vocabulary_size;
                return Err(Error::invalid(format!("text {index} has token {id}, the vocabulary holds {size}")));
            }
            packed.push(text, context, pad, config.cls_mask);
        }
        Ok(packed)
    }

    fn push(&mut self, text: &[i32], context: usize, pad: i32, mask: ClsMask) {
        let first = self.ids.len() as i32;
        let has_pad_row = mask == ClsMask::Legacy && text.len() < context;
        let rows = text.len() + usize::from(has_pad_row);
        for row in 0..rows {
            let id = text.get(row).copied().unwrap_or(pad);
            let shown = mask.shows(row.checked_sub(1).map(|before| text[before]), id, pad);
            self.ids.push(id);
            self.positions.push(row as i32);
            self.key_bits.push(if shown { SEEN } else { 0 });
        }
        self.class_rows.push(self.ids.len() as i32);
        self.ids.push(CLASS_ID);
        self.positions.push(context as i32);
        self.key_bits.push(if has_pad_row { 0 } else { SEEN });
        self.offsets.push(self.ids.len() as i32);
        for (row, &label) in text.iter().skip(1).enumerate() {
            self.decoder_rows.push(first + row as i32);
            self.labels.push(label);
        }
        self.decoder_offsets.push(self.decoder_rows.len() as i32);
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.class_rows.len()
    }

    /// Rows of the text tower.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Adds texts without rows until there are `texts`, so that a short last batch fits a plan.
    pub fn pad_to(&mut self, texts: usize) {
        while self.texts() < texts {
            self.class_rows.push(0);
            self.offsets.push(self.ids.len() as i32);
            self.decoder_offsets.push(self.decoder_rows.len() as i32);
        }
    }

    /// Most rows that `texts` texts can have: (text tower, decoder).
    pub fn capacity(texts: usize, config: &TextConfig) -> (usize, usize) {
        let longest = config.context_length + 1;
        (texts * longest, texts * config.context_length.saturating_sub(1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cls_mask: ClsMask) -> TextConfig {
        let mut config = crate::config::CocaConfig::preset("emoji").expect("a preset").text;
        (config.context_length, config.vocabulary_size, config.cls_mask) = (5, 10, cls_mask);
        config
    }

    #[test]
    fn legacy_rows_have_a_pad_row_that_cls_sees() {
        let packed = PackedText::new(&[vec![8, 3, 9], vec![8, 0, 3, 4, 9], vec![]], &config(ClsMask::Legacy)).unwrap();
        assert_eq!(packed.ids, [8, 3, 9, 0, -1, 8, 0, 3, 4, 9, -1, 0, -1]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 5, 0, 1, 2, 3, 4, 5, 0, 5]);
        // The id 0 of the second text hides the row after it; a full text's CLS sees itself.
        assert_eq!(packed.key_bits, [3, 3, 3, 3, 0, 3, 3, 0, 3, 3, 3, 3, 0]);
        assert_eq!(packed.offsets, [0, 5, 11, 13]);
        assert_eq!(packed.class_rows, [4, 10, 12]);
        assert_eq!(packed.decoder_rows, [0, 1, 5, 6, 7, 8]);
        assert_eq!(packed.decoder_offsets, [0, 2, 6, 6]);
        assert_eq!(packed.labels, [3, 9, 0, 3, 4, 9]);
    }

    #[test]
    fn other_masks_store_no_pad_row() {
        let packed = PackedText::new(&[vec![8, 0, 9, 0, 0]], &config(ClsMask::Correct)).unwrap();
        assert_eq!((packed.ids.as_slice(), packed.key_bits.as_slice()), (&[8, 0, 9, -1][..], &[3, 0, 3, 3][..]));
        let packed = PackedText::new(&[vec![8, 0, 9]], &config(ClsMask::Length)).unwrap();
        assert_eq!(packed.key_bits, [3, 3, 3, 3]);
    }

    #[test]
    fn bad_texts_are_named() {
        let error = PackedText::new(&[vec![1], vec![1; 6]], &config(ClsMask::Legacy)).unwrap_err().to_string();
        assert!(error.contains("text 1 has 6 tokens"), "{error}");
        let error = PackedText::new(&[vec![10]], &config(ClsMask::Legacy)).unwrap_err().to_string();
        assert!(error.contains("token 10"), "{error}");
    }
}
