//! Pictures of packages made small: on white, no side longer than is said.

use crate::png_file;
use crate::{Error, Result};
use model::preprocess::{Image, Mode, resize};
use std::io::Cursor;

/// Longest side of a picture in a shard that is no frame, in pixels.
const LONGEST: usize = 256;
/// Most pixels of a picture that is read: a few of Open Clip Art's would take gigabytes.
pub const MOST_PIXELS: u64 = 40_000_000;

/// A PNG file as a small one, transparent parts on white.
///
/// # Errors
/// It is damaged, or has too many pixels.
pub fn shrink(file: &[u8]) -> Result<Vec<u8>> {
    let wrong = |error: &dyn std::fmt::Display| Error::invalid(error.to_string());
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| wrong(&error))?;
    let (width, height) = reader.info().size();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(Error::invalid(format!("{width} x {height} pixels, more than {MOST_PIXELS}")));
    }
    let mut pixels = vec![0; reader.output_buffer_size().ok_or_else(|| wrong(&"too large"))?];
    let channels = reader.next_frame(&mut pixels).map_err(|error| wrong(&error))?.color_type.samples();
    let rgb = on_white(&pixels, channels);
    let [width, height] = [width, height].map(|side| side as usize);
    small_png(Image { width, height, mode: Mode::Rgb, pixels: rgb }, LONGEST)
}

/// Pixels of 1 (grey), 2 (grey, alpha), 3 or 4 channels as red, green, blue on white.
fn on_white(pixels: &[u8], channels: usize) -> Vec<u8> {
    let blend = |pixel: &[u8]| -> [u8; 3] {
        let (colour, alpha) = if channels.is_multiple_of(2) {
            (&pixel[..channels - 1], u32::from(pixel[channels - 1]))
        } else {
            (pixel, 255)
        };
        [0, 1, 2].map(|at| {
            let value = u32::from(colour[at.min(colour.len() - 1)]);
            ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        })
    };
    pixels.chunks_exact(channels).flat_map(blend).collect()
}

/// A decoded picture without palette as a PNG file of no more than `limit` pixels a side, transparent parts on white.
///
/// # Errors
/// It has no pixels.
pub fn small(image: Image, limit: usize) -> Result<Vec<u8>> {
    let pixels = on_white(&image.pixels, image.mode.channels());
    small_png(Image { mode: Mode::Rgb, pixels, ..image }, limit)
}

/// A PNG file of a picture, which is made smaller where a side is longer than `limit`.
fn small_png(image: Image, limit: usize) -> Result<Vec<u8>> {
    let longest = image.width.max(image.height);
    let scaled = |side: usize| ((side * limit + longest / 2) / longest).max(1);
    let small = if longest > limit { resize(&image, scaled(image.width), scaled(image.height), None) } else { image };
    png_file::encode_rgb(small.width as u32, small.height as u32, &small.pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_transparent_becomes_white() {
        assert_eq!(on_white(&[10, 20], 1), [10, 10, 10, 20, 20, 20]);
        assert_eq!(on_white(&[10, 255, 10, 0], 2), [10, 10, 10, 255, 255, 255]);
        assert_eq!(on_white(&[1, 2, 3], 3), [1, 2, 3]);
        assert_eq!(on_white(&[0, 100, 255, 128], 4), [127, 177, 255]);
    }

    #[test]
    fn pictures_are_made_small_and_keep_their_form() {
        let rgb = [200, 100, 0].repeat(600 * 300);
        let file = shrink(&png_file::encode_rgb(600, 300, &rgb).unwrap()).unwrap();
        let image = model::preprocess::decode(&file, 1 << 20).unwrap();
        assert_eq!((image.width, image.height), (LONGEST, LONGEST / 2));
        assert!(image.to_rgb().chunks(3).all(|pixel| pixel == [200, 100, 0]));
        let small = png_file::encode_rgb(3, 2, &[7; 18]).unwrap();
        let image = model::preprocess::decode(&shrink(&small).unwrap(), 6).unwrap();
        assert_eq!((image.width, image.height, image.to_rgb()), (3, 2, vec![7; 18]));
        assert!(shrink(&file[..file.len() / 2]).is_err() && shrink(b"no picture").is_err());
    }
}
