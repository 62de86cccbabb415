//! Pictures inside the page: PNG, as a data URI.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A small picture, kept as PNG.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// The PNG file in base 64.
    pub png: String,
}

impl Picture {
    /// A picture from `width * height * 3` bytes, rows from the top, red, green, blue.
    ///
    /// # Errors
    /// The number of bytes is another one, or a side is 0.
    pub fn from_rgb(width: u32, height: u32, rgb: &[u8]) -> Result<Picture> {
        let refuse = |error: png::EncodingError| {
            Error::invalid(format!("a {width} x {height} picture of {} bytes: {error}", rgb.len()))
        };
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(refuse)?;
        writer.write_image_data(rgb).map_err(refuse)?;
        writer.finish().map_err(refuse)?;
        Ok(Picture { width, height, png: base64(&file) })
    }

    /// The picture as an address that needs no file.
    pub(crate) fn data_uri(&self) -> String {
        format!("data:image/png;base64,{}", self.png)
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0, |bits, (index, &byte)| bits | u32::from(byte) << (16 - 8 * index));
        for digit in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * digit)) as usize & 63];
            text.push(if digit <= group.len() { letter as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn sizes_must_fit() {
        assert!(Picture::from_rgb(2, 1, &[0; 6]).unwrap().png.starts_with("iVBORw0KGgo"));
        assert!(Picture::from_rgb(2, 2, &[0; 6]).is_err());
        assert!(Picture::from_rgb(0, 2, &[]).is_err());
    }
}
