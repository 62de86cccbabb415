//! Pillow's bicubic resampling (a = -0.5, antialiased) with its 8-bit fixed-point arithmetic: a horizontal pass, then a
//! vertical one, each rounded and clipped to bytes. Palettes take the nearest pixel; alpha is premultiplied meanwhile.

use super::{Image, Mode};

/// A part of a picture, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Box {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Fraction bits of a coefficient: 32 less 8 for the pixel and 2 for overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A picture of `width` x `height`, from the whole or from a part (which is cut out first, as torchvision does).
pub fn resize(image: &Image, width: usize, height: usize, part: Option<Box>) -> Image {
    if let Some(Box { left, top, width: w, height: h }) = part {
        return resize(&image.crop(left as i64, top as i64, w, h), width, height, None);
    }
    if (width, height) == (image.width, image.height) {
        return image.clone();
    }
    match image.mode {
        Mode::Palette(_) => nearest(image, width, height),
        Mode::GrayAlpha | Mode::Rgba => {
            let channels = image.mode.channels();
            let mut premultiplied = image.clone();
            premultiplied.pixels.chunks_exact_mut(channels).for_each(premultiply);
            let mut resized = bicubic(&premultiplied, width, height);
            resized.pixels.chunks_exact_mut(channels).for_each(unpremultiply);
            resized
        }
        Mode::Gray | Mode::Rgb => bicubic(image, width, height),
    }
}

fn premultiply(pixel: &mut [u8]) {
    if let Some((&mut alpha, colours)) = pixel.split_last_mut() {
        for colour in colours {
            let product = u32::from(*colour) * u32::from(alpha) + 128;
            *colour = ((product + (product >> 8)) >> 8) as u8;
        }
    }
}

fn unpremultiply(pixel: &mut [u8]) {
    if let Some((&mut alpha, colours)) = pixel.split_last_mut()
        && !matches!(alpha, 0 | 255)
    {
        for colour in colours {
            *colour = (255 * u32::from(*colour) / u32::from(alpha)).min(255) as u8;
        }
    }
}

fn nearest(image: &Image, width: usize, height: usize) -> Image {
    // Positions are summed up step by step as Pillow does: at ties the rounding of the sum decides.
    let places = |from: usize, to: usize| -> Vec<usize> {
        let step = from as f64 / to as f64;
        let positions = std::iter::successors(Some(step * 0.5), |position| Some(position + step));
        positions.take(to).map(|position| (position as usize).min(from - 1)).collect()
    };
    let (columns, rows) = (places(image.width, width), places(image.height, height));
    let pixels = rows.iter().flat_map(|row| columns.iter().map(move |column| image.pixels[row * image.width + column]));
    Image { width, height, mode: image.mode.clone(), pixels: pixels.collect() }
}

/// Where the inputs of one output start, and their coefficients.
pub(crate) struct Taps<T> {
    pub first: usize,
    pub weights: Vec<T>,
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Coefficients that bring `from` values in a line to `to`: bicubic, antialiased, their sums 1.
pub(crate) fn taps(from: usize, to: usize) -> Vec<Taps<f64>> {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = 2.0 * filter_scale;
    (0..to)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let inverse = 1.0 / filter_scale;
            let mut weights: Vec<f64> = (first..end).map(|x| cubic((x as f64 - centre + 0.5) * inverse)).collect();
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= total);
            }
            Taps { first, weights }
        })
        .collect()
}

fn fixed_taps(from: usize, to: usize) -> Vec<Taps<i32>> {
    let fixed = |weight: f64| {
        let scaled = weight * f64::from(1 << PRECISION_BITS);
        (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
    };
    let taps = taps(from, to).into_iter();
    taps.map(|Taps { first, weights }| Taps { first, weights: weights.into_iter().map(fixed).collect() }).collect()
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn bicubic(image: &Image, width: usize, height: usize) -> Image {
    let channels = image.mode.channels();
    let horizontal = if width == image.width {
        image.pixels.clone()
    } else {
        let taps = fixed_taps(image.width, width);
        let mut out = Vec::with_capacity(width * image.height * channels);
        for row in image.pixels.chunks_exact(image.width * channels) {
            for Taps { first, weights } in &taps {
                for channel in 0..channels {
                    let pixels = row[first * channels + channel..].iter().step_by(channels);
                    let sum = weights.iter().zip(pixels).map(|(weight, &pixel)| weight * i32::from(pixel));
                    out.push(to_byte(sum.fold(1 << (PRECISION_BITS - 1), i32::wrapping_add)));
                }
            }
        }
        out
    };
    let pixels = if height == image.height {
        horizontal
    } else {
        let stride = width * channels;
        let mut out = Vec::with_capacity(height * stride);
        for Taps { first, weights } in fixed_taps(image.height, height) {
            let mut sums = vec![1i32 << (PRECISION_BITS - 1); stride];
            for (row, weight) in weights.iter().enumerate() {
                let row = &horizontal[(first + row) * stride..(first + row + 1) * stride];
                sums.iter_mut().zip(row).for_each(|(sum, &pixel)| *sum = sum.wrapping_add(weight * i32::from(pixel)));
            }
            out.extend(sums.into_iter().map(to_byte));
        }
        out
    };
    Image { width, height, mode: image.mode.clone(), pixels }
}
