//! Pillow's bicubic resampling (a = -0.5, antialiased) with its 8-bit fixed-point arithmetic: a horizontal pass, then a
//! vertical one, each rounded and clipped to bytes. Palettes take the nearest pixel; alpha is premultiplied meanwhile.

use super::{Image, Mode};
use engine::cpu::Isa;
use kernels::simd::LANES;
use kernels::vectorized;
use std::ops::Range;

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
    resize_window(image, width, height, Box { left: 0, top: 0, width, height })
}

/// The part `window` of the picture of `width` x `height` to which `image` is resized; it lies inside.
pub(super) fn resize_window(image: &Image, width: usize, height: usize, window: Box) -> Image {
    if (width, height) == (image.width, image.height) {
        return image.crop(window.left as i64, window.top as i64, window.width, window.height);
    }
    match image.mode {
        Mode::Palette(_) => nearest(image, width, height, window),
        Mode::GrayAlpha | Mode::Rgba => {
            let channels = image.mode.channels();
            let mut premultiplied = image.clone();
            premultiplied.pixels.chunks_exact_mut(channels).for_each(premultiply);
            let mut resized = bicubic(&premultiplied, width, height, window);
            resized.pixels.chunks_exact_mut(channels).for_each(unpremultiply);
            resized
        }
        Mode::Gray | Mode::Rgb => bicubic(image, width, height, window),
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

fn nearest(image: &Image, width: usize, height: usize, window: Box) -> Image {
    // Positions are summed up step by step as Pillow does: at ties the rounding of the sum decides. Longer sides than its
    // own are entered without the walk there.
    let places = |from: usize, to: usize, first: usize, count: usize| -> Vec<usize> {
        let step = from as f64 / to as f64;
        let (start, skip) = if to > i32::MAX as usize { (step * first as f64, 0) } else { (0.0, first) };
        let positions = std::iter::successors(Some(start + step * 0.5), |position| Some(position + step));
        positions.skip(skip).take(count).map(|position| (position as usize).min(from - 1)).collect()
    };
    let columns = places(image.width, width, window.left, window.width);
    let rows = places(image.height, height, window.top, window.height);
    let pixels = rows.iter().flat_map(|row| columns.iter().map(move |column| image.pixels[row * image.width + column]));
    Image { width: window.width, height: window.height, mode: image.mode.clone(), pixels: pixels.collect() }
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
    (0..to).map(|index| tap(from, to, index)).collect()
}

/// The inputs of the output `index`, and the place of its centre among them.
fn reach(from: usize, to: usize, index: usize) -> (Range<usize>, f64) {
    let scale = from as f64 / to as f64;
    let support = 2.0 * scale.max(1.0);
    let centre = (index as f64 + 0.5) * scale;
    ((centre - support + 0.5).max(0.0) as usize..((centre + support + 0.5) as usize).min(from), centre)
}

fn tap(from: usize, to: usize, index: usize) -> Taps<f64> {
    let (inputs, centre) = reach(from, to, index);
    let first = inputs.start;
    let inverse = 1.0 / (from as f64 / to as f64).max(1.0);
    let mut weights: Vec<f64> = inputs.map(|x| cubic((x as f64 - centre + 0.5) * inverse)).collect();
    let total: f64 = weights.iter().sum();
    if total != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
    Taps { first, weights }
}

fn fixed_tap(from: usize, to: usize, index: usize) -> Taps<i32> {
    let fixed = |weight: f64| {
        let scaled = weight * f64::from(1 << PRECISION_BITS);
        (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
    };
    let Taps { first, weights } = tap(from, to, index);
    Taps { first, weights: weights.into_iter().map(fixed).collect() }
}

/// The inputs that a part of the outputs reads: itself where nothing is resized.
fn inputs(from: usize, to: usize, part: &Range<usize>) -> Range<usize> {
    if from == to || part.is_empty() {
        return part.clone();
    }
    reach(from, to, part.start).0.start..reach(from, to, part.end - 1).0.end
}

/// Bytes of a row that the vertical pass works on together.
const PART: usize = 128;

/// Adds up to what rounds to the nearest when the fraction bits are cut off.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The part `window` of an image that is brought to `width` x `height`. Memory grows with image and window, not with what the
/// window is a part of.
fn bicubic(image: &Image, width: usize, height: usize, window: Box) -> Image {
    let isa = Isa::best();
    let channels = image.mode.channels();
    let stride = window.width * channels;
    let (across, down) = (window.left..window.left + window.width, window.top..window.top + window.height);
    let rows = inputs(image.height, height, &down);
    let source = &image.pixels[rows.start * image.width * channels..rows.end * image.width * channels];
    let mut narrow = vec![0; rows.len() * stride];
    if width == image.width {
        for (row, out) in source.chunks_exact(width * channels).zip(narrow.chunks_exact_mut(stride)) {
            out.copy_from_slice(&row[window.left * channels..][..stride]);
        }
    } else {
        let read = inputs(image.width, width, &across);
        let taps = across.map(|index| fixed_tap(image.width, width, index));
        let taps: Vec<Taps<i32>> = taps.map(|taps| Taps { first: taps.first - read.start, ..taps }).collect();
        let mut columns = vec![[0; LANES]; read.len() * channels];
        let whole = image.width * channels;
        let blocks = source.chunks(LANES * whole).zip(narrow.chunks_mut(LANES * stride));
        blocks.for_each(|(rows, out)| {
            along_rows(isa, rows, whole, read.start * channels, &taps, channels, &mut columns, out);
        });
    }
    let mut pixels = narrow;
    if height != image.height {
        let source = pixels;
        pixels = vec![0; window.height * stride];
        for (index, out) in down.zip(pixels.chunks_exact_mut(stride)) {
            let Taps { first, weights } = fixed_tap(image.height, height, index);
            across_rows(isa, &source[(first - rows.start) * stride..][..weights.len() * stride], &weights, out);
        }
    }
    Image { width: window.width, height: window.height, mode: image.mode.clone(), pixels }
}

vectorized! {
    /// The horizontal pass over up to [`LANES`] rows, which are lanes of vectors: `columns` holds by columns what is read of
    /// them, from the byte `start` of the `whole` ones of a row.
    fn along_rows(
        rows: &[u8],
        whole: usize,
        start: usize,
        taps: &[Taps<i32>],
        channels: usize,
        columns: &mut [[u8; LANES]],
        out: &mut [u8],
    ) {
        let to = taps.len() * channels;
        for (block, columns) in columns.chunks_mut(LANES).enumerate() {
            let mut square = [[0; LANES]; LANES];
            for (row, values) in square.iter_mut().zip(rows.chunks_exact(whole)) {
                copy(&values[start + block * LANES..], row);
            }
            copy(&transposed(square), columns);
        }
        for start in (0..to).step_by(LANES) {
            let mut all = [[HALF; LANES]; LANES];
            for (place, all) in (start..to).zip(&mut all) {
                let Taps { first, weights } = &taps[place / channels];
                let mut sums = [HALF; LANES];
                let columns = columns[first * channels + place % channels..].iter().step_by(channels);
                for (weight, pixels) in weights.iter().zip(columns) {
                    for lane in 0..LANES {
                        sums[lane] = sums[lane].wrapping_add(weight * i32::from(pixels[lane]));
                    }
                }
                *all = sums;
            }
            let mut square = [[0; LANES]; LANES];
            to_bytes(all.as_flattened(), square.as_flattened_mut());
            for (row, values) in out.chunks_exact_mut(to).zip(&transposed(square)) {
                copy(values, &mut row[start..]);
            }
        }
    }

    /// A row of the vertical pass, from one row for each weight.
    fn across_rows(rows: &[u8], weights: &[i32], out: &mut [u8]) {
        let stride = out.len();
        for (part, out) in out.chunks_mut(PART).enumerate() {
            let mut sums = [HALF; PART];
            for (row, weight) in rows.chunks_exact(stride).zip(weights) {
                for (sum, &pixel) in sums.iter_mut().zip(&row[part * PART..][..out.len()]) {
                    *sum = sum.wrapping_add(weight * i32::from(pixel));
                }
            }
            to_bytes(&sums[..out.len()], out);
        }
    }
}

/// As much as both hold, of [`LANES`] elements at most: all of them is a few moves in place of a call.
#[inline(always)]
fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    match (from.first_chunk::<LANES>(), to.first_chunk_mut::<LANES>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
    }
}

/// Rows as columns: four rounds in which each pair of rows half the square apart is interleaved.
#[inline(always)]
fn transposed(mut square: [[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
    const H: usize = LANES / 2;
    for _ in 0..LANES.ilog2() {
        let mut next = [[0; LANES]; LANES];
        for pair in 0..H {
            let (a, b) = (square[pair], square[pair + H]);
            for lane in 0..H {
                next[2 * pair][2 * lane] = a[lane];
                next[2 * pair][2 * lane + 1] = b[lane];
                next[2 * pair + 1][2 * lane] = a[lane + H];
                next[2 * pair + 1][2 * lane + 1] = b[lane + H];
            }
        }
        square = next;
    }
    square
}

/// A loop of its own: behind the sums, lane by lane, it would not become vector code.
#[inline(always)]
fn to_bytes(sums: &[i32], bytes: &mut [u8]) {
    for (byte, sum) in bytes.iter_mut().zip(sums) {
        *byte = (sum >> PRECISION_BITS).clamp(0, 255) as u8;
    }
}
