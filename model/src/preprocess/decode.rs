//! Decoding of PNG, JPEG, WebP and GIF. The header is read first: a picture of too many pixels is refused before any
//! memory is taken for it.

use super::{Image, Mode};
use image::{DynamicImage, ImageReader};
use std::io::Cursor;

/// Why a picture could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are damaged or end early.
    #[error("the image is damaged: {0}")]
    Corrupt(String),
    /// No format that is read here.
    #[error("the image is no PNG, JPEG, WebP or GIF: {0}")]
    Unsupported(String),
    /// More pixels than allowed.
    #[error("the image has {width} x {height} pixels, {limit} are allowed")]
    TooLarge {
        /// Columns in the header.
        width: u32,
        /// Rows in the header.
        height: u32,
        /// The most pixels allowed.
        limit: u64,
    },
}

/// Decodes a picture of at most `max_pixels` pixels. 16-bit channels are cut to 8 bits.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Image, DecodeError> {
    let corrupt = |error: &dyn std::fmt::Display| DecodeError::Corrupt(error.to_string());
    let reader = || ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let sized = reader().map_err(|error| corrupt(&error))?;
    if sized.format().is_none() {
        return Err(DecodeError::Unsupported("unknown first bytes".into()));
    }
    let is_png = sized.format() == Some(image::ImageFormat::Png);
    let (width, height) = sized.into_dimensions().map_err(|error| match error {
        image::ImageError::Unsupported(error) => DecodeError::Unsupported(error.to_string()),
        error => corrupt(&error),
    })?;
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(DecodeError::TooLarge { width, height, limit: max_pixels });
    }
    if width == 0 || height == 0 {
        return Err(DecodeError::Corrupt("it has no pixels".into()));
    }
    if is_png && let Some(image) = decode_palette(bytes) {
        return Ok(image);
    }
    let decoded = reader().map_err(|error| corrupt(&error))?.decode().map_err(|error| corrupt(&error))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let (mode, pixels) = match decoded {
        DynamicImage::ImageLuma8(image) => (Mode::Gray, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (Mode::GrayAlpha, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (Mode::Rgb, image.into_raw()),
        DynamicImage::ImageRgba8(image) => (Mode::Rgba, image.into_raw()),
        DynamicImage::ImageLuma16(_) => (Mode::Gray, decoded.to_luma8().into_raw()),
        DynamicImage::ImageLumaA16(_) => (Mode::GrayAlpha, decoded.to_luma_alpha8().into_raw()),
        DynamicImage::ImageRgba16(_) => (Mode::Rgba, decoded.to_rgba8().into_raw()),
        other => (Mode::Rgb, other.to_rgb8().into_raw()),
    };
    Ok(Image { width, height, mode, pixels })
}

/// A PNG of palette indices, kept as indices: Pillow resizes those with the nearest pixel. None for other PNGs.
fn decode_palette(bytes: &[u8]) -> Option<Image> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().ok()?;
    let info = reader.info();
    if info.color_type != png::ColorType::Indexed {
        return None;
    }
    let (width, height, bits) = (info.width as usize, info.height as usize, info.bit_depth as usize);
    let palette = info.palette.as_ref()?.chunks_exact(3).map(|colour| [colour[0], colour[1], colour[2]]).collect();
    let mut packed = vec![0; reader.output_buffer_size()?];
    let line = reader.next_frame(&mut packed).ok()?.line_size;
    let mut pixels = Vec::with_capacity(width * height);
    for row in packed.chunks_exact(line).take(height) {
        let index = |x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & (0xffu16 >> (8 - bits)) as u8;
        pixels.extend((0..width).map(index));
    }
    Some(Image { width, height, mode: Mode::Palette(palette), pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, color: png::ColorType, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 9, 8, 7]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    #[test]
    fn modes_are_kept() {
        let image = decode(&png(2, 1, png::ColorType::Indexed, &[1, 0]), 100).unwrap();
        assert_eq!(image.mode, Mode::Palette(vec![[1, 2, 3], [9, 8, 7]]));
        assert_eq!(image.to_rgb(), [9, 8, 7, 1, 2, 3]);
        assert_eq!(decode(&png(1, 2, png::ColorType::Grayscale, &[4, 5]), 100).unwrap().mode, Mode::Gray);
        assert_eq!(decode(&png(1, 1, png::ColorType::Rgba, &[1, 2, 3, 4]), 100).unwrap().mode, Mode::Rgba);
    }

    #[test]
    fn faults_are_told_apart() {
        let good = png(3, 3, png::ColorType::Rgb, &[7; 27]);
        assert_eq!(decode(&good, 8), Err(DecodeError::TooLarge { width: 3, height: 3, limit: 8 }));
        assert!(matches!(decode(&good[..good.len() - 20], 100), Err(DecodeError::Corrupt(_))));
        assert!(matches!(decode(b"no picture", 100), Err(DecodeError::Unsupported(_))));
        // A header that claims 2^31 columns is refused by what it claims.
        let mut bomb = good;
        bomb[16..20].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        assert!(!matches!(decode(&bomb, 1 << 20), Ok(_) | Err(DecodeError::Unsupported(_))));
    }
}
