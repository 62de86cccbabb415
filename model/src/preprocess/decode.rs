//! Decoding of PNG, JPEG, WebP and GIF. The header is read first: a picture of too many pixels is refused before any
//! memory is taken for it.
//!
//! A PNG has the mode that Pillow gives it, but for 16-bit grey, which is refused: Pillow cuts its values at 255, so that
//! open_clip sees little but white. A JPEG is up to 2 of 255 levels off Pillow, with subsampled colour up to 5: the decoders
//! round differently. As open_clip, nothing turns a picture by its EXIF orientation.

use super::{Image, Mode};
use image::{DynamicImage, ImageFormat, ImageReader};
use std::collections::HashMap;
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
    /// A PNG of 16-bit grey.
    #[error(
        "the image has 16 bits of grey, which open_clip cuts at 255 of 65535 and so turns white: store it with 8 bits"
    )]
    DeepGrey,
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

/// Decodes a picture of at most `max_pixels` pixels. 16-bit colours are cut to their high bytes.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Image, DecodeError> {
    let format = header(bytes, max_pixels)?;
    if format == ImageFormat::Png {
        return decode_png(bytes);
    }
    let decoded = reader(bytes)?.decode().map_err(|error| corrupt(&error))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let (mode, pixels) = match decoded {
        DynamicImage::ImageRgba8(image) if format == ImageFormat::Gif => indexed(&image),
        DynamicImage::ImageLuma8(image) => (Mode::Gray, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (Mode::GrayAlpha, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (Mode::Rgb, image.into_raw()),
        DynamicImage::ImageRgba8(image) => (Mode::Rgba, image.into_raw()),
        other => (Mode::Rgb, other.to_rgb8().into_raw()),
    };
    Ok(Image { width, height, mode, pixels })
}

/// The error of a decoder.
pub(super) fn corrupt(error: &dyn std::fmt::Display) -> DecodeError {
    DecodeError::Corrupt(error.to_string())
}

fn reader(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, DecodeError> {
    ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| corrupt(&error))
}

/// The format of a picture whose header claims at least one pixel and no more than `max_pixels`.
pub(super) fn header(bytes: &[u8], max_pixels: u64) -> Result<ImageFormat, DecodeError> {
    let sized = reader(bytes)?;
    let format = sized.format().ok_or_else(|| DecodeError::Unsupported("unknown first bytes".into()))?;
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
    Ok(format)
}

/// The pixels of a GIF as indices again, without alpha: Pillow resizes its first picture with the nearest pixel.
fn indexed(image: &image::RgbaImage) -> (Mode, Vec<u8>) {
    let (mut colours, mut index_of) = (Vec::new(), HashMap::new());
    let index = |pixel: &image::Rgba<u8>| {
        let [red, green, blue, _] = pixel.0;
        let index = *index_of.entry([red, green, blue]).or_insert_with_key(|&colour| {
            colours.push(colour);
            colours.len() - 1
        });
        u8::try_from(index).ok()
    };
    match image.pixels().map(index).collect() {
        Some(pixels) => (Mode::Palette(colours), pixels),
        // A first picture that leaves a border free has the border's colour beside its 256.
        None => (Mode::Rgb, image.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2]]).collect()),
    }
}

/// A PNG as Pillow opens it: a transparent colour stays a colour; indices stay indices, and black and white become some,
/// because Pillow resizes both with the nearest pixel.
fn decode_png(bytes: &[u8]) -> Result<Image, DecodeError> {
    let corrupt = |error: png::DecodingError| DecodeError::Corrupt(error.to_string());
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(corrupt)?;
    let info = reader.info();
    let (width, height, bits) = (info.width as usize, info.height as usize, info.bit_depth as usize);
    let mode = match info.color_type {
        png::ColorType::Grayscale if bits == 16 => return Err(DecodeError::DeepGrey),
        png::ColorType::Grayscale if bits == 1 => Mode::Palette(vec![[0; 3], [255; 3]]),
        png::ColorType::Grayscale => Mode::Gray,
        png::ColorType::GrayscaleAlpha => Mode::GrayAlpha,
        png::ColorType::Rgb => Mode::Rgb,
        png::ColorType::Rgba => Mode::Rgba,
        png::ColorType::Indexed => {
            let palette = info.palette.as_deref().unwrap_or_default();
            Mode::Palette(palette.chunks_exact(3).map(|colour| [colour[0], colour[1], colour[2]]).collect())
        }
    };
    let size = reader.output_buffer_size().ok_or(png::DecodingError::LimitsExceeded).map_err(corrupt)?;
    let mut packed = vec![0; size];
    let line = reader.next_frame(&mut packed).map_err(corrupt)?.line_size;
    let row_samples = width * mode.channels();
    // A grey of fewer bits is stretched to the whole byte.
    let scale = if mode == Mode::Gray && bits < 8 { 0xff / ((1 << bits) - 1) } else { 1 };
    let mut pixels = Vec::with_capacity(row_samples * height);
    for row in packed.chunks_exact(line).take(height) {
        pixels.extend((0..row_samples).map(|x| match bits {
            8 => row[x],
            16 => row[2 * x],
            _ => scale * (row[x * bits / 8] >> (8 - bits - x * bits % 8) & (0xffu16 >> (8 - bits)) as u8),
        }));
    }
    Ok(Image { width, height, mode, pixels })
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
        // Four bits of grey are stretched; one bit is an index into black and white; a transparent colour stays a colour.
        let deep = |bits, color, data: &[u8], transparent: Option<Vec<u8>>| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
            encoder.set_color(color);
            encoder.set_depth(bits);
            if let Some(colour) = transparent {
                encoder.set_trns(colour);
            }
            encoder.write_header().unwrap().write_image_data(data).unwrap();
            decode(&bytes, 100)
        };
        assert_eq!(
            deep(png::BitDepth::Sixteen, png::ColorType::Grayscale, &[1, 2, 3, 4], None),
            Err(DecodeError::DeepGrey)
        );
        let deep = |bits, color, data: &[u8], transparent| deep(bits, color, data, transparent).unwrap();
        let grey = png::ColorType::Grayscale;
        assert_eq!(deep(png::BitDepth::Four, grey, &[0x1f], None).pixels, [0x11, 0xff]);
        assert_eq!(deep(png::BitDepth::One, grey, &[0x40], None).to_rgb(), [0, 0, 0, 255, 255, 255]);
        assert!(matches!(deep(png::BitDepth::One, grey, &[0x40], None).mode, Mode::Palette(_)));
        assert_eq!(deep(png::BitDepth::Eight, grey, &[7, 8], Some(vec![0, 7])).mode, Mode::Gray);
        let rgb = deep(png::BitDepth::Sixteen, png::ColorType::Rgb, &[1, 255, 2, 0, 3, 9, 4, 0, 5, 0, 6, 0], None);
        assert_eq!((rgb.mode, rgb.pixels), (Mode::Rgb, vec![1, 2, 3, 4, 5, 6]));
        let alpha = deep(png::BitDepth::Sixteen, png::ColorType::GrayscaleAlpha, &[1, 255, 2, 0, 3, 9, 4, 0], None);
        assert_eq!((alpha.mode, alpha.pixels), (Mode::GrayAlpha, vec![1, 2, 3, 4]));
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
