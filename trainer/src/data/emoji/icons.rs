//! Icon sets of the npm scope `@iconify-json`: finding an emoji's drawing, and rendering it.

pub use super::SIDE;
use super::extents;
use crate::{Error, Result};
use resvg::{tiny_skia, usvg};
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Side of the picture in which a drawing's extent is measured.
const MEASURED: usize = 4 * SIDE;
/// Least opacity of what counts as drawn.
const FAINT: u8 = 16;

/// `icons.json` of a package, what is used of it.
#[derive(Deserialize)]
struct IconFile {
    icons: HashMap<String, Icon>,
    #[serde(default)]
    aliases: HashMap<String, Alias>,
    #[serde(default = "sixteen")]
    width: f32,
    #[serde(default = "sixteen")]
    height: f32,
}

/// The format's default size.
fn sixteen() -> f32 {
    16.0
}

#[derive(Deserialize)]
struct Icon {
    body: String,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alias {
    parent: String,
    #[serde(default)]
    h_flip: bool,
}

/// The drawings of one vendor.
pub struct Icons {
    file: IconFile,
    by_hexcode: HashMap<String, String>,
}

/// Reads a JSON file.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_slice(&text).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

/// Lower case and without variation selectors: the form in which hexcodes are compared.
pub fn plain_hexcode(hexcode: &str) -> String {
    let parts: Vec<String> = hexcode.split('-').map(str::to_lowercase).filter(|part| part != "fe0f").collect();
    parts.join("-")
}

/// A CLDR name as icon sets write it: `St. Barthélemy` is `st-barthelemy`.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.to_lowercase().chars() {
        match letter {
            'a'..='z' | '0'..='9' => slug.push(letter),
            'à'..='å' => slug.push('a'),
            'ç' => slug.push('c'),
            'è'..='ë' => slug.push('e'),
            'ì'..='ï' => slug.push('i'),
            'ñ' => slug.push('n'),
            'ò'..='ö' => slug.push('o'),
            'ù'..='ü' => slug.push('u'),
            '\'' | '’' | '“' | '”' | '.' | '!' => {}
            '#' => slug.push_str("number-sign"),
            '*' => slug.push_str("asterisk"),
            '&' => slug.push_str("-and-"),
            _ => slug.push('-'),
        }
    }
    let words: Vec<&str> = slug.split('-').filter(|word| !word.is_empty()).collect();
    words.join("-")
}

impl Icons {
    /// Reads a vendor's package under `node_modules`.
    pub fn read(node_modules: &Path, vendor: &str) -> Result<Icons> {
        let package = node_modules.join("@iconify-json").join(vendor);
        let codes: HashMap<String, String> = read_json(&package.join("chars.json")).or_else(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Ok(HashMap::new()),
            error => Err(error),
        })?;
        let by_hexcode = codes.into_iter().map(|(hexcode, icon)| (plain_hexcode(&hexcode), icon)).collect();
        Ok(Icons { file: read_json(&package.join("icons.json"))?, by_hexcode })
    }

    /// A set from the text of its `icons.json`, to be drawn by the names of its icons.
    pub fn parse(icons: &[u8]) -> serde_json::Result<Icons> {
        Ok(Icons { file: serde_json::from_slice(icons)?, by_hexcode: HashMap::new() })
    }

    /// The names of all icons, in order; aliases are no icons of their own.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.file.icons.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The icon of an emoji: by its code points, else by its name, with hyphens or without.
    pub fn find(&self, hexcode: &str, name: &str) -> Option<&str> {
        let has = |icon: &str| self.file.icons.contains_key(icon) || self.file.aliases.contains_key(icon);
        let slug = slug(name);
        let squeezed = slug.replace('-', "");
        let names = [self.by_hexcode.get(hexcode).cloned(), Some(slug), Some(squeezed)];
        let found = names.into_iter().flatten().find(|icon| has(icon))?;
        let key = self.file.icons.get_key_value(&found).map(|(key, _)| key);
        key.or_else(|| self.file.aliases.get_key_value(&found).map(|(key, _)| key)).map(String::as_str)
    }

    /// An icon in premultiplied RGBA, `[SIDE, SIDE, 4]`: what is drawn fills the cell, centred, whatever margin the vendor
    /// leaves around it, so that all vendors' drawings are framed alike.
    pub fn render(&self, icon: &str) -> Result<Vec<u8>> {
        let wrong = |what: &str| Error::invalid(format!("icon {icon}: {what}"));
        let alias = self.file.aliases.get(icon);
        let (parent, flip) = alias.map_or((icon, false), |alias| (&alias.parent, alias.h_flip));
        let drawing = self.file.icons.get(parent).ok_or_else(|| wrong("its parent is missing"))?;
        let (width, height) = (drawing.width.unwrap_or(self.file.width), drawing.height.unwrap_or(self.file.height));
        let svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' \
             width='{width}' height='{height}' viewBox='0 0 {width} {height}'>{}</svg>",
            drawing.body
        );
        let tree = usvg::Tree::from_str(&svg, &usvg::Options::default()).map_err(|error| wrong(&error.to_string()))?;
        let render = |side: usize, place: tiny_skia::Transform| {
            let mut pixels = tiny_skia::Pixmap::new(side as u32, side as u32).ok_or_else(|| wrong("no picture"))?;
            resvg::render(&tree, place, &mut pixels.as_mut());
            Ok(pixels.take())
        };
        let scale = MEASURED as f32 / width.max(height);
        let [columns, rows] = drawn_part(&render(MEASURED, tiny_skia::Transform::from_scale(scale, scale))?)
            .ok_or_else(|| wrong("it shows nothing"))?
            .map(|range| {
                let (start, end) = (range.start as f32 / scale, range.end as f32 / scale);
                ((start + end) / 2.0, end - start)
            });
        let scale = SIDE as f32 / columns.1.max(rows.1);
        let shift = |(middle, _): (f32, f32)| SIDE as f32 / 2.0 - middle * scale;
        let place = tiny_skia::Transform::from_row(scale, 0.0, 0.0, scale, shift(columns), shift(rows));
        let mirror = tiny_skia::Transform::from_row(-1.0, 0.0, 0.0, 1.0, SIDE as f32, 0.0);
        render(SIDE, if flip { place.post_concat(mirror) } else { place })
    }
}

/// [`extents`] of a square RGBA picture, without what is almost transparent.
fn drawn_part(pixels: &[u8]) -> Option<[Range<usize>; 2]> {
    extents((pixels.len() / 4).isqrt(), |at| pixels[at * 4 + 3] >= FAINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn icons(body: &str) -> Icons {
        let text = format!(
            r#"{{"icons": {{"a": {{"body": "{body}"}}}}, "aliases": {{"b": {{"parent": "a", "hFlip": true}}}}}}"#
        );
        Icons::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_drawn_fills_the_cell() {
        // Twice as wide as high, in a corner of the 16 x 16 box; its left half is red.
        let two = icons("<path fill='red' d='M1 1h2v2h-2z'/><path fill='blue' d='M3 1h2v2h-2z'/>");
        for (name, left) in [("a", [255, 0, 0, 255]), ("b", [0, 0, 255, 255])] {
            let pixels = two.render(name).unwrap();
            assert_eq!(drawn_part(&pixels), Some([0..SIDE, SIDE / 4..SIDE * 3 / 4]));
            assert_eq!(pixels[(SIDE / 2 * SIDE + 5) * 4..][..4], left);
        }
        assert!(icons("").render("a").unwrap_err().to_string().contains("icon a: it shows nothing"));
    }

    #[test]
    fn names_become_icon_names() {
        assert_eq!(slug("flag: St. Barthélemy"), "flag-st-barthelemy");
        assert_eq!(slug("woman’s hat"), "womans-hat");
        assert_eq!(slug("Japanese “free of charge” button"), "japanese-free-of-charge-button");
        assert_eq!(slug("keycap: #"), "keycap-number-sign");
        assert_eq!(slug("flag: Åland Islands"), "flag-aland-islands");
        assert_eq!(slug("flag: Antigua & Barbuda"), "flag-antigua-and-barbuda");
        assert_eq!(plain_hexcode("2764-FE0F-200D-1F525"), "2764-200d-1f525");
    }
}
