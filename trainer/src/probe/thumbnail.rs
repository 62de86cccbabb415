//! Pictures as a control of probes: small and grey, compared pixel by pixel, which knows no model.

/// Largest side of a thumbnail: more pixels find no more.
const SIDE: usize = 16;

/// Bytes of the thumbnail of a picture of this side.
pub fn bytes(side: usize) -> usize {
    side.min(SIDE).pow(2)
}

/// A picture u8 `[side, side, 3]` in grey (Rec. 601 luma), averaged down: u8 `[SIDE, SIDE]`, or its own side if that is less.
pub fn thumbnail(rgb: &[u8], side: usize) -> Vec<u8> {
    let small = side.min(SIDE);
    let part = |at: usize| at * side / small..((at + 1) * side).div_ceil(small);
    let luma = |at: usize| {
        let pixel = &rgb[3 * at..3 * at + 3];
        299 * u64::from(pixel[0]) + 587 * u64::from(pixel[1]) + 114 * u64::from(pixel[2])
    };
    let pixel = |at: usize| {
        let (rows, columns) = (part(at / small), part(at % small));
        let count = (rows.len() * columns.len()) as u64;
        let sum: u64 = rows.flat_map(|y| columns.clone().map(move |x| y * side + x)).map(luma).sum();
        ((sum + 500 * count) / (1000 * count)) as u8
    };
    (0..small * small).map(pixel).collect()
}

/// Thumbnails as a vector with mean 0 and norm 1, so that the nearest is the best correlated; zeros of a picture of one grey.
pub fn unit(thumbnails: &[u8]) -> Vec<f32> {
    let mean = thumbnails.iter().map(|&value| f32::from(value)).sum::<f32>() / thumbnails.len().max(1) as f32;
    let norm =
        thumbnails.iter().map(|&value| (f32::from(value) - mean).powi(2)).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    thumbnails.iter().map(|&value| (f32::from(value) - mean) / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbnails_are_grey_means() {
        // 32 pixels a side: left half black, right half of one colour with luma 0.299 · 100 + 0.587 · 50 + 0.114 · 200 = 82.05.
        let rgb: Vec<u8> = (0..32 * 32).flat_map(|at| if at % 32 < 16 { [0; 3] } else { [100, 50, 200] }).collect();
        let small = thumbnail(&rgb, 32);
        assert_eq!(small.len(), bytes(32));
        assert!(small.iter().enumerate().all(|(at, &value)| value == if at % 16 < 8 { 0 } else { 82 }), "{small:?}");
        // A side that 16 does not divide: means of overlapping parts; and one below 16, which keeps its pixels.
        assert_eq!(thumbnail(&[7; 24 * 24 * 3], 24), [7; 256]);
        assert_eq!(thumbnail(&[0, 0, 0, 255, 255, 255, 9, 9, 9, 10, 10, 10], 2), [0, 255, 9, 10]);
    }

    #[test]
    fn units_ignore_brightness_and_contrast() {
        let (one, other) = (unit(&[10, 20, 30, 60]), unit(&[110, 130, 150, 210]));
        assert!(one.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!((one.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6 && one.iter().sum::<f32>().abs() < 1e-6);
        assert_eq!(unit(&[5; 4]), [0.0; 4]);
    }
}
