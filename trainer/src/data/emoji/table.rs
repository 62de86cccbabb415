//! The files of the bundle. `concepts.tsv`: one concept a line; `VENDOR.png`: 64 x 64 drawings in rows of
//! [`COLUMNS`], cell i being the vendor's i-th concept in the order of the table; palette entry 0 is transparent.

use crate::{Error, Result};

/// Side of a drawing in pixels.
pub const SIDE: usize = 64;
/// Drawings in one row of a sheet.
pub const COLUMNS: usize = 8;
/// The palette entry of transparent pixels.
pub(crate) const TRANSPARENT: u8 = 0;
/// First line of `concepts.tsv`.
pub(crate) const HEADER: &str = "hexcode\tname\tgroup\tsubgroup\tfresh\tvendors\tkeywords";

/// Who drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vendor {
    /// Google, today's style.
    Noto,
    /// Twitter.
    Twemoji,
    /// Microsoft, flat.
    FluentFlat,
    /// Microsoft, shaded.
    Fluent,
    /// Google, the style of 2013 to 2017.
    NotoV1,
    /// Mozilla.
    Fxemoji,
    /// EmojiOne in one colour: a sketch.
    EmojioneMonotone,
}

impl Vendor {
    /// All of them, in the order of their numbers.
    pub const ALL: [Vendor; 7] = [
        Vendor::Noto,
        Vendor::Twemoji,
        Vendor::FluentFlat,
        Vendor::Fluent,
        Vendor::NotoV1,
        Vendor::Fxemoji,
        Vendor::EmojioneMonotone,
    ];

    /// Name of its npm package in the scope `@iconify-json`.
    pub fn name(self) -> &'static str {
        match self {
            Vendor::Noto => "noto",
            Vendor::Twemoji => "twemoji",
            Vendor::FluentFlat => "fluent-emoji-flat",
            Vendor::Fluent => "fluent-emoji",
            Vendor::NotoV1 => "noto-v1",
            Vendor::Fxemoji => "fxemoji",
            Vendor::EmojioneMonotone => "emojione-monotone",
        }
    }

    /// Whether it belongs to the training split; the others are held out.
    pub fn trains(self) -> bool {
        self < Vendor::NotoV1
    }
}

/// What a drawing shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concept {
    /// Code points in lower-case hexadecimal, joined by `-`, without the variation selector fe0f.
    pub hexcode: String,
    /// CLDR short name.
    pub name: String,
    /// CLDR keywords, the name itself left out.
    pub keywords: Vec<String>,
    /// Unicode's group, such as `animals-nature`.
    pub group: String,
    /// Unicode's subgroup, such as `animal-bird`.
    pub subgroup: String,
    /// Held out of training whatever the vendor: the SHA-1 of the hexcode, as a number, is a multiple of 10.
    pub fresh: bool,
}

/// One line of the table.
#[cfg(feature = "build-data")]
pub(crate) fn line(concept: &Concept, vendors: &[Vendor]) -> String {
    let Concept { hexcode, name, keywords, group, subgroup, fresh } = concept;
    let vendors: String = vendors.iter().map(|&vendor| (vendor as usize).to_string()).collect();
    let (fresh, keywords) = (u8::from(*fresh), keywords.join("|"));
    format!("{hexcode}\t{name}\t{group}\t{subgroup}\t{fresh}\t{vendors}\t{keywords}\n")
}

/// The concepts of a table, each with the vendors that drew it.
pub(crate) fn parse(table: &[u8]) -> Result<Vec<(Concept, Vec<Vendor>)>> {
    let wrong =
        |line: usize, what: &str| Error::invalid(format!("concepts.tsv:{line}: {what}; build the bundle again"));
    let text = std::str::from_utf8(table).map_err(|_| wrong(1, "not UTF-8"))?;
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, header)| header) != Some(HEADER) {
        return Err(wrong(1, "another header than expected"));
    }
    lines
        .map(|(index, line)| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [hexcode, name, group, subgroup, fresh, vendors, keywords] = fields[..] else {
                return Err(wrong(index + 1, "not seven fields"));
            };
            let vendor = |digit: char| digit.to_digit(10).and_then(|number| Vendor::ALL.get(number as usize).copied());
            let vendors: Option<Vec<Vendor>> = vendors.chars().map(vendor).collect();
            let fresh = match fresh {
                "0" => false,
                "1" => true,
                _ => return Err(wrong(index + 1, "the field fresh is neither 0 nor 1")),
            };
            let concept = Concept {
                hexcode: hexcode.into(),
                name: name.into(),
                keywords: keywords.split('|').filter(|word| !word.is_empty()).map(str::to_string).collect(),
                group: group.into(),
                subgroup: subgroup.into(),
                fresh,
            };
            Ok((concept, vendors.ok_or_else(|| wrong(index + 1, "an unknown vendor"))?))
        })
        .collect()
}

/// A vendor's drawings: palette indices, `[rows * SIDE, COLUMNS * SIDE]`.
#[derive(Debug)]
pub(crate) struct Sheet {
    palette: Vec<[u8; 3]>,
    indices: Vec<u8>,
}

impl Sheet {
    /// Decodes the PNG.
    pub fn read(vendor: Vendor, png: &[u8]) -> Result<Sheet> {
        let wrong = |what: String| Error::invalid(format!("{}.png: {what}; build the bundle again", vendor.name()));
        let decoder = png::Decoder::new(std::io::Cursor::new(png));
        let mut reader = decoder.read_info().map_err(|error| wrong(error.to_string()))?;
        let info = reader.info();
        let (width, height) = (info.width as usize, info.height as usize);
        let indexed = info.color_type == png::ColorType::Indexed && info.bit_depth == png::BitDepth::Eight;
        if !indexed || width != COLUMNS * SIDE || height % SIDE != 0 {
            return Err(wrong("not an 8-bit palette image of whole cells".into()));
        }
        let palette = info.palette.as_deref().unwrap_or_default();
        let palette: Vec<[u8; 3]> = palette.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect();
        let mut indices = vec![0; width * height];
        reader.next_frame(&mut indices).map_err(|error| wrong(error.to_string()))?;
        if indices.iter().any(|&index| usize::from(index) >= palette.len()) {
            return Err(wrong("a pixel outside of the palette".into()));
        }
        Ok(Sheet { palette, indices })
    }

    /// Cells, empty ones at the end included.
    pub fn cells(&self) -> usize {
        self.indices.len() / (SIDE * SIDE)
    }

    /// Palette indices of one drawing, row by row.
    fn rows(&self, cell: usize) -> impl Iterator<Item = &[u8]> {
        let start = (cell / COLUMNS * SIDE * COLUMNS + cell % COLUMNS) * SIDE;
        (0..SIDE).map(move |y| &self.indices[start + y * COLUMNS * SIDE..][..SIDE])
    }

    /// See [`super::EmojiSet::rgb`].
    pub fn rgb(&self, cell: usize, background: [u8; 3]) -> Vec<u8> {
        let colour = |index: u8| if index == TRANSPARENT { background } else { self.palette[usize::from(index)] };
        let mut rgb = vec![0; SIDE * SIDE * 3];
        let pixels = rgb.as_chunks_mut::<3>().0.iter_mut();
        pixels.zip(self.rows(cell).flatten()).for_each(|(pixel, &index)| *pixel = colour(index));
        rgb
    }

    /// See [`super::EmojiSet::transparent`].
    pub fn transparent(&self, cell: usize) -> Vec<bool> {
        let mut transparent = Vec::with_capacity(SIDE * SIDE);
        self.rows(cell).for_each(|row| transparent.extend(row.iter().map(|&index| index == TRANSPARENT)));
        transparent
    }
}
