//! From rendered drawings to a PNG sheet of 256 colours: median cut, a few rounds of k-means, no dithering (it would
//! cost more bytes than it gives), and zopfli.

use super::table::{COLUMNS, SIDE, TRANSPARENT};
use crate::{Error, Result};

/// Alpha below which a pixel becomes transparent: 5 %, so that what is dropped cannot be seen on white.
const OPAQUE: u8 = 13;
/// Rounds of k-means; the error falls by less than 1 % a round after these.
const ROUNDS: usize = 12;

/// A drawing's pixels on white; none where it is transparent.
fn on_white(premultiplied: &[u8]) -> impl Iterator<Item = Option<[u8; 3]>> {
    premultiplied.chunks_exact(4).map(|pixel| {
        let white = 255 - pixel[3];
        (pixel[3] >= OPAQUE).then(|| [pixel[0] + white, pixel[1] + white, pixel[2] + white])
    })
}

/// Colours of a cell of the histogram: how many, and their sums.
#[derive(Clone, Copy, Default)]
struct Bin {
    count: f64,
    sum: [f64; 3],
}

impl Bin {
    fn mean(&self) -> [f64; 3] {
        self.sum.map(|sum| sum / self.count)
    }

    fn add(&mut self, other: &Bin) {
        self.count += other.count;
        (0..3).for_each(|channel| self.sum[channel] += other.sum[channel]);
    }
}

/// Cell of a colour in a histogram with 6 bits a channel.
fn cell(colour: [u8; 3]) -> usize {
    colour.iter().fold(0, |cell, &value| cell << 6 | usize::from(value >> 2))
}

/// The nearest of some colours.
fn nearest(colours: &[[f64; 3]], colour: [f64; 3]) -> usize {
    let distance = |other: &[f64; 3]| -> f64 { (0..3).map(|c| (other[c] - colour[c]).powi(2)).sum() };
    let by_distance = |&a: &usize, &b: &usize| distance(&colours[a]).total_cmp(&distance(&colours[b]));
    (0..colours.len()).min_by(by_distance).unwrap_or(0)
}

/// Splits the box of the largest spread at its mean until there are `count` boxes.
fn median_cut(bins: &[Bin], count: usize) -> Vec<[f64; 3]> {
    /// Sum of squared distances along the widest channel, and that channel.
    fn spread(bins: &[Bin]) -> (f64, usize) {
        let mut total = Bin::default();
        bins.iter().for_each(|bin| total.add(bin));
        let mean = total.mean();
        let along = |c: usize| bins.iter().map(|bin| bin.count * (bin.mean()[c] - mean[c]).powi(2)).sum::<f64>();
        (0..3).map(|channel| (along(channel), channel)).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, 0))
    }
    let mut boxes = vec![(spread(bins), bins.to_vec())];
    while boxes.len() < count {
        let by_spread = |a: &usize, b: &usize| boxes[*a].0.0.total_cmp(&boxes[*b].0.0);
        let Some(widest) = (0..boxes.len()).max_by(by_spread).filter(|&widest| boxes[widest].1.len() > 1) else {
            break;
        };
        let ((_, channel), bins) = boxes.swap_remove(widest);
        let mut total = Bin::default();
        bins.iter().for_each(|bin| total.add(bin));
        let middle = total.mean()[channel];
        let (low, high): (Vec<Bin>, Vec<Bin>) = bins.into_iter().partition(|bin| bin.mean()[channel] < middle);
        if low.is_empty() || high.is_empty() {
            boxes.push(((0.0, channel), if low.is_empty() { high } else { low }));
            break;
        }
        boxes.extend([low, high].map(|bins| (spread(&bins), bins)));
    }
    let mean = |bins: &[Bin]| {
        let mut total = Bin::default();
        bins.iter().for_each(|bin| total.add(bin));
        total.mean()
    };
    boxes.iter().map(|(_, bins)| mean(bins)).collect()
}

/// At most 255 colours for these drawings, dark ones first.
fn choose(drawings: &[Vec<u8>]) -> Vec<[u8; 3]> {
    let mut histogram = vec![Bin::default(); 1 << 18];
    for colour in drawings.iter().flat_map(|drawing| on_white(drawing)).flatten() {
        histogram[cell(colour)].add(&Bin { count: 1.0, sum: colour.map(f64::from) });
    }
    histogram.retain(|bin| bin.count > 0.0);
    if histogram.is_empty() {
        return Vec::new();
    }
    let mut colours = median_cut(&histogram, 255);
    for _ in 0..ROUNDS {
        let mut clusters = vec![Bin::default(); colours.len()];
        histogram.iter().for_each(|bin| clusters[nearest(&colours, bin.mean())].add(bin));
        for (colour, cluster) in colours.iter_mut().zip(&clusters).filter(|(_, cluster)| cluster.count > 0.0) {
            *colour = cluster.mean();
        }
    }
    let mut colours: Vec<[u8; 3]> = colours.iter().map(|colour| colour.map(|value| value.round() as u8)).collect();
    colours.sort_by_key(|colour| colour.iter().map(|&value| u32::from(value)).sum::<u32>());
    colours.dedup();
    colours
}

/// The sheet of these drawings (premultiplied RGBA, `[SIDE, SIDE, 4]` each) as a PNG file.
pub fn sheet(drawings: &[Vec<u8>]) -> Result<Vec<u8>> {
    let colours = choose(drawings);
    let exact: Vec<[f64; 3]> = colours.iter().map(|colour| colour.map(f64::from)).collect();
    let mut known: Vec<Option<u8>> = vec![None; 1 << 18];
    let rows = drawings.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS * SIDE, rows * SIDE);
    // One filter byte (0, no filter) before each line, as PNG wants it.
    let mut lines = vec![TRANSPARENT; (width + 1) * height];
    for (index, drawing) in drawings.iter().enumerate() {
        let (left, top) = (index % COLUMNS * SIDE, index / COLUMNS * SIDE);
        for (pixel, colour) in on_white(drawing).enumerate() {
            let Some(colour) = colour else { continue };
            let entry = *known[cell(colour)].get_or_insert_with(|| nearest(&exact, colour.map(f64::from)) as u8 + 1);
            lines[(top + pixel / SIDE) * (width + 1) + 1 + left + pixel % SIDE] = entry;
        }
    }
    let wrong = |error: &dyn std::fmt::Display| Error::invalid(format!("writing a sheet: {error}"));
    let mut compressed = Vec::new();
    let options =
        zopfli::Options { iteration_count: std::num::NonZeroU64::MIN.saturating_add(4), ..Default::default() };
    zopfli::compress(options, zopfli::Format::Zlib, &lines[..], &mut compressed).map_err(|error| wrong(&error))?;
    let palette: Vec<u8> = [[255; 3]].iter().chain(&colours).flatten().copied().collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    encoder.set_trns(vec![0]);
    let mut writer = encoder.write_header().map_err(|error| wrong(&error))?;
    writer.write_chunk(png::chunk::IDAT, &compressed).map_err(|error| wrong(&error))?;
    writer.finish().map_err(|error| wrong(&error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_colours_survive_exactly_and_transparency_is_kept() {
        let drawing: Vec<u8> = (0..SIDE * SIDE)
            .flat_map(|pixel| match pixel % 3 {
                0 => [0, 0, 0, 0],
                1 => [200, 10, 30, 255],
                _ => [0, 0, 128, 128],
            })
            .collect();
        let png = sheet(&vec![drawing; 9]).unwrap();
        let sheet = super::super::table::Sheet::read(super::super::Vendor::Noto, &png).unwrap();
        assert_eq!(sheet.cells(), 2 * COLUMNS);
        let rgb = sheet.rgb(8, [1, 2, 3]);
        assert_eq!(rgb[..9], [1, 2, 3, 200, 10, 30, 127, 127, 255]);
        assert!(sheet.transparent(8)[0] && !sheet.transparent(8)[1] && sheet.transparent(9)[1]);
    }
}
