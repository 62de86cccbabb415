//! The bundled data: emoji drawn by seven vendors, with the names and keywords of Unicode CLDR. Made by
//! `coca data build emoji` (feature `build-data`); licences and sources stand in `data/emoji/NOTICE.md`.

#[cfg(feature = "build-data")]
pub mod build;
mod floor;
#[cfg(feature = "build-data")]
pub(crate) mod icons;
#[cfg(feature = "build-data")]
mod palette;
mod questions;
pub(crate) mod table;

use crate::{Error, Result};
pub use floor::{Floor, floor, floor_bytes};
pub(crate) use questions::questions;
use std::ops::Range;
use std::sync::OnceLock;
pub use table::{COLUMNS, Concept, SIDE, Vendor};
use table::{Sheet, Vendor as V};

/// One drawing: which concept, by which vendor, and where its pixels lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// Index into [`EmojiSet::concepts`].
    pub concept: usize,
    /// Who drew it.
    pub vendor: Vendor,
    /// Cell of the vendor's sheet, row by row.
    cell: usize,
}

/// A part of the set with a purpose. Splits follow vendors and concepts, never single files: some vendors' drawings of
/// one concept are nearly the same picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The four training vendors without the fresh concepts.
    Train,
    /// All drawings of one vendor that training never sees: a shift in style.
    Style(Vendor),
    /// The fresh concepts as the training vendors draw them: known styles, new words.
    Fresh,
    /// The fresh concepts as a held-out vendor draws them: new style and new words.
    FreshStyle(Vendor),
    /// Everything.
    All,
}

impl Split {
    /// Every split, in the order of a report.
    pub const ALL: [Split; 9] = [
        Split::Train,
        Split::Style(V::NotoV1),
        Split::Style(V::Fxemoji),
        Split::Style(V::EmojioneMonotone),
        Split::Fresh,
        Split::FreshStyle(V::NotoV1),
        Split::FreshStyle(V::Fxemoji),
        Split::FreshStyle(V::EmojioneMonotone),
        Split::All,
    ];

    /// Its name in `emoji:NAME`.
    pub fn name(self) -> String {
        match self {
            Split::Train => "train".into(),
            Split::Style(vendor) => vendor.name().into(),
            Split::Fresh => "fresh".into(),
            Split::FreshStyle(vendor) => format!("fresh-{}", vendor.name()),
            Split::All => "all".into(),
        }
    }

    /// The split of this name.
    ///
    /// # Errors
    /// There is none; the text lists them.
    pub fn parse(name: &str) -> Result<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name).ok_or_else(|| {
            let names: Vec<String> = Split::ALL.iter().map(|split| split.name()).collect();
            Error::invalid(format!("emoji:{name}: no such split; there are {}", names.join(", ")))
        })
    }

    fn holds(self, vendor: Vendor, fresh: bool) -> bool {
        match self {
            Split::Train => vendor.trains() && !fresh,
            Split::Style(wanted) => vendor == wanted,
            Split::Fresh => vendor.trains() && fresh,
            Split::FreshStyle(wanted) => vendor == wanted && fresh,
            Split::All => true,
        }
    }
}

/// The bundled set in memory: 64 x 64 drawings as palette indices, and the concepts that they show.
#[derive(Debug)]
pub struct EmojiSet {
    concepts: Vec<Concept>,
    drawings: Vec<Drawing>,
    sheets: Vec<Sheet>,
    /// Concept and thumbnail of every drawing that [`floor`] compares with, once it was asked.
    known: OnceLock<Vec<(usize, floor::Thumbnail)>>,
}

/// The bundled file of a vendor or the table.
macro_rules! bundled {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/emoji/", $name))
    };
}

impl EmojiSet {
    /// The set inside this program.
    ///
    /// # Errors
    /// The program was built from a damaged bundle.
    pub fn bundled() -> Result<EmojiSet> {
        let sheets: [&[u8]; 7] = [
            bundled!("noto.png"),
            bundled!("twemoji.png"),
            bundled!("fluent-emoji-flat.png"),
            bundled!("fluent-emoji.png"),
            bundled!("noto-v1.png"),
            bundled!("fxemoji.png"),
            bundled!("emojione-monotone.png"),
        ];
        EmojiSet::read(bundled!("concepts.tsv"), &sheets)
    }

    /// A set from the text of its table and one PNG a vendor, in the order of [`Vendor::ALL`].
    ///
    /// # Errors
    /// A file is not what `table` describes, or table and sheets disagree.
    pub fn read(concepts: &[u8], sheets: &[&[u8]; 7]) -> Result<EmojiSet> {
        let rows = table::parse(concepts)?;
        let mut drawings = Vec::new();
        for vendor in Vendor::ALL {
            let drawn = rows.iter().enumerate().filter(|(_, (_, vendors))| vendors.contains(&vendor));
            drawings.extend(drawn.enumerate().map(|(cell, (concept, _))| Drawing { concept, vendor, cell }));
        }
        // Half a second of inflating on one core; the sheets are independent.
        let sheets = std::thread::scope(|scope| {
            let threads: Vec<_> = Vendor::ALL.map(|v| scope.spawn(move || Sheet::read(v, sheets[v as usize]))).into();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Sheet>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<Sheet>>>()
        })?;
        for (vendor, sheet) in Vendor::ALL.into_iter().zip(&sheets) {
            let cells = drawings.iter().filter(|drawing| drawing.vendor == vendor).count();
            if cells > sheet.cells() {
                let (name, has) = (vendor.name(), sheet.cells());
                return Err(Error::invalid(format!(
                    "{name}.png has {has} cells and concepts.tsv wants {cells}; build the bundle again"
                )));
            }
        }
        let concepts = rows.into_iter().map(|(concept, _)| concept).collect();
        Ok(EmojiSet { concepts, drawings, sheets, known: OnceLock::new() })
    }

    /// The concepts, in CLDR's order.
    pub fn concepts(&self) -> &[Concept] {
        &self.concepts
    }

    /// All drawings, vendor by vendor, each in the order of the concepts.
    pub fn drawings(&self) -> &[Drawing] {
        &self.drawings
    }

    /// Indices into [`EmojiSet::drawings`] of one split, ascending.
    pub fn split(&self, split: Split) -> Vec<usize> {
        let holds = |drawing: &Drawing| split.holds(drawing.vendor, self.concepts[drawing.concept].fresh);
        (0..self.drawings.len()).filter(|&index| holds(&self.drawings[index])).collect()
    }

    /// What one drawing is called in messages and predictions: vendor and code points.
    pub fn key(&self, drawing: usize) -> String {
        let Drawing { concept, vendor, .. } = self.drawings[drawing];
        format!("{}/{}", vendor.name(), self.concepts[concept].hexcode)
    }

    /// Pixels of one drawing on a background, u8 `[64, 64, 3]`. The edges are blended with white whatever the
    /// background: the bundle keeps one bit of transparency.
    pub fn rgb(&self, drawing: usize, background: [u8; 3]) -> Vec<u8> {
        let Drawing { vendor, cell, .. } = self.drawings[drawing];
        self.sheets[vendor as usize].rgb(cell, background)
    }

    /// Which pixels of a drawing are transparent, `[64, 64]`.
    pub fn transparent(&self, drawing: usize) -> Vec<bool> {
        let Drawing { vendor, cell, .. } = self.drawings[drawing];
        self.sheets[vendor as usize].transparent(cell)
    }
}

/// The columns and the rows from the first to the last that is drawn on, of a square of pixels in rows; none of an empty one.
fn extents(side: usize, drawn: impl Fn(usize) -> bool) -> Option<[Range<usize>; 2]> {
    (0..side * side).filter(|&at| drawn(at)).fold(None, |found, at| {
        let [x, y] = [at % side, at / side];
        let [columns, rows] = found.unwrap_or([x..x, y..y]);
        Some([columns.start.min(x)..columns.end.max(x + 1), rows.start.min(y)..rows.end.max(y + 1)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    static SET: LazyLock<EmojiSet> = LazyLock::new(|| EmojiSet::bundled().unwrap());

    #[test]
    fn the_bundle_holds_what_its_table_says() {
        assert_eq!(SET.concepts().len(), 1914);
        assert_eq!(SET.concepts().iter().filter(|concept| concept.fresh).count(), 215);
        let drawn = |vendor| SET.split(Split::Style(vendor)).len();
        assert_eq!(Vendor::ALL.map(drawn), [1653, 1914, 1595, 1565, 1216, 467, 1074]);
        let apple = SET.concepts().iter().position(|concept| concept.name == "red apple").unwrap();
        for index in (0..SET.drawings().len()).filter(|&index| SET.drawings()[index].concept == apple) {
            // An apple is red, or black on white where the vendor has one colour.
            let rgb = SET.rgb(index, [255; 3]);
            let sum = |channel| rgb.iter().skip(channel).step_by(3).map(|&value| u64::from(value)).sum::<u64>();
            let sketch = SET.drawings()[index].vendor == Vendor::EmojioneMonotone;
            assert_eq!(sum(0) > sum(1) + sum(1) / 10, !sketch, "{:?}", SET.drawings()[index]);
        }
    }

    #[test]
    fn every_drawing_shows_something_and_takes_the_background() {
        for index in 0..SET.drawings().len() {
            let (white, green) = (SET.rgb(index, [255; 3]), SET.rgb(index, [0, 255, 0]));
            assert!(white.iter().any(|&value| value < 250), "{:?} is empty", SET.drawings()[index]);
            let transparent = SET.transparent(index);
            let changed = white.chunks(3).zip(green.chunks(3)).map(|(white, green)| white != green);
            assert!(changed.eq(transparent), "{:?}", SET.drawings()[index]);
        }
    }

    #[test]
    fn splits_share_no_drawing_and_training_has_no_fresh_concept() {
        let parts = [Split::Train, Split::Fresh, Split::Style(V::NotoV1), Split::Style(V::Fxemoji)];
        let mut all: Vec<usize> = parts.into_iter().flat_map(|split| SET.split(split)).collect();
        all.extend(SET.split(Split::Style(V::EmojioneMonotone)));
        all.sort();
        assert!(all.into_iter().eq(0..SET.drawings().len()));
        let fresh = |&index: &usize| SET.concepts()[SET.drawings()[index].concept].fresh;
        assert!(!SET.split(Split::Train).iter().any(fresh));
        assert!(SET.split(Split::FreshStyle(V::NotoV1)).iter().all(fresh));
        for split in Split::ALL {
            assert_eq!(Split::parse(&split.name()).unwrap(), split);
        }
        assert!(Split::parse("trian").unwrap_err().to_string().contains("train, noto-v1"));
    }

    #[test]
    fn a_damaged_bundle_is_an_error() {
        let empty: [&[u8]; 7] = [b""; 7];
        assert!(EmojiSet::read(b"hexcode\n", &empty).is_err());
        assert!(EmojiSet::read(bundled!("concepts.tsv"), &empty).unwrap_err().to_string().starts_with("noto.png"));
        let table = bundled!("concepts.tsv");
        assert!(EmojiSet::read(&table[..table.len() / 2 - 30], &empty).is_err());
    }

    #[test]
    fn pixels_alone_find_some_concepts() {
        let Floor { zero_shot, image_to_text, text_to_image } = floor(&SET, Split::Style(V::Fxemoji));
        let share = |ranks: &[usize], limit: usize| {
            assert_eq!(ranks.len(), 467);
            ranks.iter().filter(|&&rank| rank < limit).count() as f64 / 467.0
        };
        let (top1, top5) = (share(&zero_shot, 1), share(&zero_shot, 5));
        assert!(top1 > 0.3 && top1 < top5 && top5 < 0.6, "{top1} {top5}");
        // Fewer names to choose from are easier, for every single drawing.
        assert!(image_to_text.iter().zip(&zero_shot).all(|(few, all)| few <= all) && image_to_text != zero_shot);
        let back = share(&text_to_image, 1);
        assert!(back > 0.3 && back < share(&text_to_image, 5) && text_to_image != image_to_text, "{back}");
    }
}
