//! From picture files to the square RGB bytes that the model reads, as open_clip prepares them with Pillow and
//! torchvision, to the bit: resize in the picture's own mode, crop, then convert to RGB.

mod decode;
mod frames;
mod resample;

pub use decode::{DecodeError, decode};
pub use frames::decode_frames;
use resample::resize_window;
pub use resample::{Box, resize};
pub(crate) use resample::{Taps, taps};

use crate::config::ResizeMode;

/// How the bytes of a picture are to be read. One byte a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One grey channel.
    Gray,
    /// Grey and alpha.
    GrayAlpha,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, alpha.
    Rgba,
    /// An index into these colours.
    Palette(Vec<[u8; 3]>),
}

impl Mode {
    /// Bytes of a pixel.
    pub fn channels(&self) -> usize {
        match self {
            Mode::Gray | Mode::Palette(_) => 1,
            Mode::GrayAlpha => 2,
            Mode::Rgb => 3,
            Mode::Rgba => 4,
        }
    }
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What a pixel is.
    pub mode: Mode,
    /// `height · width · channels` bytes.
    pub pixels: Vec<u8>,
}

impl Image {
    /// The RGB bytes `[height, width, 3]`, alpha dropped, as Pillow's `convert("RGB")`.
    pub fn to_rgb(&self) -> Vec<u8> {
        match &self.mode {
            Mode::Rgb => self.pixels.clone(),
            Mode::Gray => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            Mode::GrayAlpha => self.pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
            Mode::Rgba => self.pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
            Mode::Palette(colours) => (self.pixels.iter())
                .flat_map(|&index| colours.get(usize::from(index)).copied().unwrap_or([0; 3]))
                .collect(),
        }
    }

    /// The part of the picture from (`left`, `top`), black (or index 0) outside.
    pub fn crop(&self, left: i64, top: i64, width: usize, height: usize) -> Image {
        let channels = self.mode.channels();
        let mut pixels = vec![0; width * height * channels];
        // Columns of the result that lie inside.
        let columns =
            (-left).clamp(0, width as i64) as usize..(self.width as i64 - left).clamp(0, width as i64) as usize;
        for (y, row) in pixels.chunks_exact_mut((width * channels).max(1)).enumerate() {
            let from = top + y as i64;
            if (0..self.height as i64).contains(&from) && !columns.is_empty() {
                let from = (from as usize * self.width + (left + columns.start as i64) as usize) * channels;
                let part = &mut row[columns.start * channels..columns.end * channels];
                part.copy_from_slice(&self.pixels[from..from + part.len()]);
            }
        }
        Image { width, height, mode: self.mode.clone(), pixels }
    }
}

/// The evaluation preprocessing: RGB bytes `[size, size, 3]` of any picture.
pub fn evaluate(image: &Image, size: usize, mode: ResizeMode, fill: u8) -> Vec<u8> {
    let (width, height) = (image.width, image.height);
    match mode {
        ResizeMode::Squash => resize(image, size, size, None).to_rgb(),
        ResizeMode::Shortest => {
            let long = |long: usize, short: usize| (size * long / short).max(1);
            let (new_width, new_height) =
                if width <= height { (size, long(height, width)) } else { (long(width, height), size) };
            // Neither side is shorter than the square.
            let middle = |length: usize| round_half_even(length as i64 - size as i64) as usize;
            let window = Box { left: middle(new_width), top: middle(new_height), width: size, height: size };
            resize_window(image, new_width, new_height, window).to_rgb()
        }
        ResizeMode::Longest => {
            // open_clip divides by the ratio: its product with the inverse rounds ties to the other side.
            let ratio = width.max(height) as f64 / size as f64;
            let scaled = |length: usize| ((length as f64 / ratio).round_ties_even() as usize).max(1);
            let resized = resize(image, scaled(width), scaled(height), None);
            let (left, top) = ((size - resized.width) / 2, (size - resized.height) / 2);
            let rgb = resized.to_rgb();
            let mut out = vec![fill; size * size * 3];
            for y in 0..resized.height {
                let row = &rgb[y * resized.width * 3..(y + 1) * resized.width * 3];
                let start = ((top + y) * size + left) * 3;
                out[start..start + row.len()].copy_from_slice(row);
            }
            out
        }
    }
}

/// Half of an integer, ties to the even neighbour, as Python's `round`.
fn round_half_even(twice: i64) -> i64 {
    (twice as f64 / 2.0).round_ties_even() as i64
}

/// Picks torchvision's random-resized-crop box: area a `scale` share of the picture, aspect ratio between `1 / ratio` and
/// `ratio` (log-uniform), ten tries, else the largest centred box of an allowed ratio. `uniform` gives numbers in [0, 1).
pub fn random_crop(
    (width, height): (usize, usize),
    scale: (f64, f64),
    ratio: f64,
    uniform: &mut impl FnMut() -> f64,
) -> Box {
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * (scale.0 + (scale.1 - scale.0) * uniform());
        let aspect = ((2.0 * uniform() - 1.0) * ratio.ln()).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let left = (uniform() * (width - w + 1) as f64) as usize;
            let top = (uniform() * (height - h + 1) as f64) as usize;
            return Box { left, top, width: w, height: h };
        }
    }
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < 1.0 / ratio {
        (width, ((width as f64 * ratio).round_ties_even() as usize).min(height))
    } else if aspect > ratio {
        (((height as f64 * ratio).round_ties_even() as usize).min(width), height)
    } else {
        (width, height)
    };
    Box { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_stay_inside_and_reach_everywhere() {
        let mut random = engine::rng::Philox::new(1, 2);
        let mut uniform = || random.uniform();
        let (mut left_most, mut right_most) = (usize::MAX, 0);
        for _ in 0..500 {
            let crop = random_crop((40, 30), (0.3, 1.0), 4.0 / 3.0, &mut uniform);
            assert!(crop.width >= 1 && crop.left + crop.width <= 40 && crop.top + crop.height <= 30);
            left_most = left_most.min(crop.left);
            right_most = right_most.max(crop.left + crop.width);
        }
        assert_eq!((left_most, right_most), (0, 40));
        // No box of such an area and ratio fits: the largest centred one.
        let crop = random_crop((400, 4), (1.0, 1.0), 4.0 / 3.0, &mut uniform);
        assert_eq!(crop, Box { left: 197, top: 0, width: 5, height: 4 });
    }

    #[test]
    fn halves_go_to_even() {
        assert_eq!([1, 3, 5, -1, 4].map(round_half_even), [0, 2, 2, 0, 2]);
    }
}
