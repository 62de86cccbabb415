//! Pictures inside the page: PNG, as a data URI.

use crate::base64::base64;
use crate::{Result, png_file};
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
        let file = png_file::encode_rgb(width, height, rgb)?;
        Ok(Picture { width, height, png: base64(&file) })
    }

    /// The picture as an address that needs no file.
    pub(crate) fn data_uri(&self) -> String {
        format!("data:image/png;base64,{}", self.png)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_must_fit() {
        assert!(Picture::from_rgb(2, 1, &[0; 6]).unwrap().png.starts_with("iVBORw0KGgo"));
        assert!(Picture::from_rgb(2, 2, &[0; 6]).is_err());
        assert!(Picture::from_rgb(0, 2, &[]).is_err());
    }
}
