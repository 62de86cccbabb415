//! Pictures as PNG files.

use crate::{Error, Result};

/// A PNG file of `width * height * 3` bytes, rows from the top, red, green, blue.
///
/// # Errors
/// The number of bytes is another one, or a side is 0.
pub fn encode_rgb(width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>> {
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
    Ok(file)
}
