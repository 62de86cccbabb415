//! A random change of an image's colours: hue, saturation, contrast and brightness, or grey, as one affine map.

use engine::rng::Philox;

/// Largest relative change of brightness, contrast and saturation.
const JITTER: f64 = 0.4;
/// Largest change of hue either way, in radians: 18 degrees, so that a red heart stays red.
const HUE: f64 = 0.1 * std::f64::consts::PI;

/// An affine map of colours, in rows: `out = rows[..][..3] · in + rows[..][3]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours([[f32; 4]; 3]);

/// Uniform in `from..to`.
pub(super) fn between(random: &mut Philox, from: f64, to: f64) -> f64 {
    from + (to - from) * random.uniform()
}

impl Colours {
    /// Leaves every colour as it is.
    pub const IDENTITY: Colours = Colours([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]);

    /// Changes in the share `jittered` of all cases, grey in the share `grey`; luma by Rec. 601.
    pub fn random(jittered: f64, grey: f64, random: &mut Philox) -> Colours {
        let jittered = random.uniform() < jittered;
        let mut factor = || if jittered { between(random, 1.0 - JITTER, 1.0 + JITTER) } else { 1.0 };
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let hue = if jittered { between(random, -HUE, HUE) } else { 0.0 };
        let saturation = if random.uniform() < grey { 0.0 } else { saturation };
        // A rotation about the axis of greys.
        let (sine, cosine) = hue.sin_cos();
        let (third, part) = ((1.0 - cosine) / 3.0, sine / 3f64.sqrt());
        let (a, b, c) = (cosine + third, third - part, third + part);
        let rotation = [[a, b, c], [c, a, b], [b, c, a]];
        let luma = [0, 1, 2].map(|column| {
            [0.299, 0.587, 0.114].iter().zip(&rotation).map(|(weight, row)| weight * row[column]).sum::<f64>()
        });
        Colours(rotation.map(|row| {
            let mixed = |column: usize| saturation * row[column] + (1.0 - saturation) * luma[column];
            let scaled = |column| (brightness * contrast * mixed(column)) as f32;
            [scaled(0), scaled(1), scaled(2), (brightness * (1.0 - contrast) * 128.0) as f32]
        }))
    }

    /// A colour, each channel 0 to 255.
    #[inline]
    pub fn of(&self, rgb: [f32; 3]) -> [f32; 3] {
        self.0.map(|[r, g, b, add]| (r * rgb[0] + g * rgb[1] + b * rgb[2] + add).clamp(0.0, 255.0))
    }

    /// Changes an image, u8 `[pixels, 3]`.
    pub fn change(&self, pixels: &mut [u8]) {
        if *self == Colours::IDENTITY {
            return;
        }
        for pixel in pixels.chunks_exact_mut(3) {
            let changed = self.of([0, 1, 2].map(|channel| f32::from(pixel[channel])));
            (0..3).for_each(|channel| pixel[channel] = (changed[channel] + 0.5) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_stay_change_or_turn_grey_as_often_as_asked() {
        let red = [200u8, 40, 40];
        let changed = |jittered, grey, seed| {
            let mut pixel = red;
            Colours::random(jittered, grey, &mut Philox::new(seed, 0)).change(&mut pixel);
            pixel
        };
        assert!((0..100).all(|seed| changed(0.0, 0.0, seed) == red));
        // Rec. 601: 0.299 · 200 + 0.701 · 40.
        assert!((0..100).all(|seed| changed(0.0, 1.0, seed) == [88; 3]));
        let count = |jittered, grey, wanted: fn([u8; 3]) -> bool| {
            (0..1000).filter(|&seed| wanted(changed(jittered, grey, seed))).count() as f64
        };
        // Within four standard deviations.
        let within =
            |count: f64, share: f64| (count - 1000.0 * share).abs() < 4.0 * (1000.0 * share * (1.0 - share)).sqrt();
        assert!(within(count(0.8, 0.0, |pixel| pixel != [200, 40, 40]), 0.8));
        assert!(within(count(0.5, 0.3, |[r, g, b]| r == g && g == b), 0.3));
    }
}
