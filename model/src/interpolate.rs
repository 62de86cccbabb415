//! Position tables for images of another size and texts of another length, as open_clip makes them when it loads weights:
//! bicubic with antialiasing over the grid of patches, linear over the rows of a text (its CLS row is one of them).

use crate::preprocess::{Taps, taps};
use engine::{Error, Result};

/// Positions of an image `[rows, width]` for `grid` times `grid` patches, from a table of another square grid. A class
/// token's row comes first and stays as it is. An error if the table is not of that form.
pub fn image_positions(table: &[f32], width: usize, class_token: bool, grid: usize) -> Result<Vec<f32>> {
    let class = width * usize::from(class_token);
    let old = (table.len().saturating_sub(class) / width.max(1)).isqrt();
    if width == 0 || grid == 0 || old == 0 || table.len() != class + old * old * width {
        return Err(Error::invalid(format!("{} positions are not a square grid of width {width}", table.len())));
    }
    let (class, patches) = table.split_at(class);
    let patches: Vec<f64> = patches.iter().map(|&value| f64::from(value)).collect();
    let taps = taps(old, grid);
    // Along the rows of the grid first, as torch does.
    let narrowed: Vec<f64> = patches.chunks(old * width).flat_map(|row| combine(row, width, &taps)).collect();
    let resized = combine(&narrowed, grid * width, &taps);
    Ok(class.iter().copied().chain(resized.into_iter().map(|value| value as f32)).collect())
}

/// Positions of a text `[rows, width]`, from a table of another number of rows; ends are not aligned, so that rows outside
/// the old ones' middles repeat the first or the last. An error if the table has no whole rows.
pub fn text_positions(table: &[f32], width: usize, rows: usize) -> Result<Vec<f32>> {
    if width == 0 || table.is_empty() || !table.len().is_multiple_of(width) {
        return Err(Error::invalid(format!("{} positions are not rows of width {width}", table.len())));
    }
    let old = table.len() / width;
    let mut resized = Vec::with_capacity(rows * width);
    for row in 0..rows {
        let at = ((row as f64 + 0.5) * old as f64 / rows as f64 - 0.5).max(0.0);
        let (first, part) = (at as usize, at.fract());
        let second = (first + 1).min(old - 1);
        resized.extend((0..width).map(|column| {
            let value = |row: usize| f64::from(table[row * width + column]);
            (value(first) * (1.0 - part) + value(second) * part) as f32
        }));
    }
    Ok(resized)
}

/// Weighted sums of the items, `size` values each, one for every entry of `taps`.
fn combine(items: &[f64], size: usize, taps: &[Taps<f64>]) -> Vec<f64> {
    let mut sums = vec![0.0; taps.len() * size];
    for (Taps { first, weights }, sums) in taps.iter().zip(sums.chunks_mut(size)) {
        for (item, weight) in items[first * size..].chunks(size).zip(weights) {
            sums.iter_mut().zip(item).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    sums
}
