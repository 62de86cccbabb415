//! A random view of a drawing on a transparent ground: one affine map of the plane, one affine map of the colours, a
//! random ground. Most views keep the white ground; `benches/NOTES.md` has what stronger and weaker views gave. No mirror
//! images, since arrows and letters have a direction.

use super::colours::{Colours, between};
use crate::config::Augmentation;
use engine::rng::Philox;

/// Largest rotation either way, in radians: 8 degrees.
const ROTATION: f64 = 8.0 / 180.0 * std::f64::consts::PI;
/// Largest shift either way beyond the room that the window leaves, as a share of the side.
const SHIFT: f64 = 0.05;
/// Share of views with changed colours.
const JITTERED: f64 = 0.8;
/// Share of grey views.
const GREY: f64 = 0.3;
/// Share of white grounds; of the others half are light, half of any colour.
const WHITE: f64 = 0.9;
/// Darkest channel of a light ground.
const LIGHT: f64 = 176.0;
/// Most samples along one axis of a pixel.
const MOST_SAMPLES: usize = 4;

/// A pixel: red, green, blue (0 to 255, times its cover) and cover (0 to 1).
type Pixel = [f32; 4];

/// A random view, u8 `[size, size, 3]`, of a drawing on white `[side, side, 3]` with its mask of ground `[side, side]`.
/// The window keeps an area share between `scale_min` and `scale_max` of `augmentation`, or as often the inverse of it,
/// which makes the drawing smaller.
pub(super) fn random_view(
    side: usize,
    rgb: &[u8],
    transparent: &[bool],
    size: usize,
    augmentation: &Augmentation,
    random: &mut Philox,
) -> Vec<u8> {
    let share = between(random, augmentation.scale_min, augmentation.scale_max);
    let area = if random.uniform() < 0.5 { share } else { 1.0 / share };
    let aspect = (augmentation.ratio.ln() * between(random, -1.0, 1.0)).exp();
    let window = [(area * aspect).sqrt(), (area / aspect).sqrt()];
    let centre = window.map(|side| 0.5 + between(random, -1.0, 1.0) * ((1.0 - side).abs() / 2.0 + SHIFT));
    let (sine, cosine) = between(random, -ROTATION, ROTATION).sin_cos();
    let colours = Colours::random(JITTERED, GREY, random);
    let ground = random_ground(random);

    let padded = premultiply(side, rgb, transparent, &colours);
    // Source pixels to the right and down, for one output pixel to the right and down.
    let step = side as f64 / size as f64;
    let across = [cosine * window[0] * step, sine * window[0] * step];
    let down = [-sine * window[1] * step, cosine * window[1] * step];
    // Where the window's corner lies, in a source with a border of one pixel, whose first pixel's centre is 0.
    let half = size as f64 / 2.0;
    let corner = [0, 1].map(|axis| centre[axis] * side as f64 + 0.5 - half * (across[axis] + down[axis]));
    // One bilinear sample is enough unless the drawing shrinks much; then a grid of them is averaged. More would blur,
    // and evaluation shows drawings as sharp as they are.
    let samples = ((window[0].max(window[1]) * step).round() as usize).clamp(1, MOST_SAMPLES);
    let offset = |sample: usize| (sample as f64 + 0.5) / samples as f64;
    let weight = 1.0 / (samples * samples) as f32;
    let mut row = vec![[0.0; 4]; size];
    let mut out = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        row.fill([0.0; 4]);
        for (u, v) in (0..samples * samples).map(|at| (offset(at % samples), offset(at / samples))) {
            let at = [0, 1].map(|axis| (corner[axis] + u * across[axis] + (y as f64 + v) * down[axis]) as f32);
            let across = across.map(|step| step as f32);
            for (x, sum) in row.iter_mut().enumerate() {
                let pixel = bilinear(&padded, side + 2, [0, 1].map(|axis| at[axis] + x as f32 * across[axis]));
                (0..4).for_each(|channel| sum[channel] += pixel[channel]);
            }
        }
        for sum in &row {
            let uncovered = 1.0 - sum[3] * weight;
            out.extend([0, 1, 2].map(|c| (sum[c] * weight + ground[c] * uncovered + 0.5) as u8));
        }
    }
    out
}

/// The drawing with its colours changed, in a border of transparent pixels: `[side + 2, side + 2]`.
fn premultiply(side: usize, rgb: &[u8], transparent: &[bool], colours: &Colours) -> Vec<Pixel> {
    let mut padded = vec![[0.0; 4]; (side + 2) * (side + 2)];
    let rows = padded.chunks_exact_mut(side + 2).skip(1);
    for (row, (rgb, transparent)) in rows.zip(rgb.chunks_exact(side * 3).zip(transparent.chunks_exact(side))) {
        for (pixel, (rgb, _)) in
            row[1..].iter_mut().zip(rgb.chunks_exact(3).zip(transparent)).filter(|(_, (_, ground))| !**ground)
        {
            let [red, green, blue] = colours.of([f32::from(rgb[0]), f32::from(rgb[1]), f32::from(rgb[2])]);
            *pixel = [red, green, blue, 1.0];
        }
    }
    padded
}

/// The pixel at (column, row) of a square of `width` pixels, whose border is transparent and goes on outside.
#[inline]
fn bilinear(pixels: &[Pixel], width: usize, at: [f32; 2]) -> Pixel {
    let last = (width - 1) as f32 - 1e-3;
    let [x, y] = at.map(|position| position.clamp(0.0, last));
    let (column, row) = (x as i32, y as i32);
    let (right, below) = (x - column as f32, y - row as f32);
    let first = row as usize * width + column as usize;
    let [upper, lower] = [first, first + width].map(|at| mix(&pixels[at], &pixels[at + 1], right));
    mix(&upper, &lower, below)
}

#[inline]
fn mix(a: &Pixel, b: &Pixel, share: f32) -> Pixel {
    [0, 1, 2, 3].map(|channel| a[channel] + share * (b[channel] - a[channel]))
}

fn random_ground(random: &mut Philox) -> [f32; 3] {
    if random.uniform() < WHITE {
        return [255.0; 3];
    }
    let darkest = if random.uniform() < 0.5 { LIGHT } else { 0.0 };
    [(); 3].map(|()| between(random, darkest, 255.0) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AugmentKind;

    const KEEP: Augmentation = Augmentation {
        kind: AugmentKind::Crop,
        scale_min: 0.8,
        scale_max: 1.0,
        ratio: 1.2,
        jittered: 0.0,
        grey: 0.0,
        keywords: 0.2,
    };

    /// A red square on a transparent ground.
    fn square(side: usize) -> (Vec<u8>, Vec<bool>) {
        let ground = |at: usize| [at / side, at % side].into_iter().any(|v| v < side / 4 || v >= side - side / 4);
        let transparent: Vec<bool> = (0..side * side).map(ground).collect();
        let rgb = transparent.iter().flat_map(|&ground| if ground { [255; 3] } else { [200, 40, 40] }).collect();
        (rgb, transparent)
    }

    #[test]
    fn views_differ_repeat_and_keep_the_drawing_in_the_middle() {
        let (rgb, transparent) = square(32);
        let view = |seed, size| random_view(32, &rgb, &transparent, size, &KEEP, &mut Philox::new(seed, 0));
        let (mut white, mut grey, mut red) = (0, 0, 0);
        for seed in 0..400 {
            let pixels = view(seed, 24);
            assert_eq!(pixels.len(), 24 * 24 * 3);
            let corner = &pixels[..3];
            let middle = &pixels[(12 * 24 + 12) * 3..][..3];
            white += i32::from(corner == [255; 3]);
            grey += i32::from(middle[0].abs_diff(middle[1]) <= 1 && middle[1].abs_diff(middle[2]) <= 1);
            red += i32::from(middle[0] > middle[1].saturating_add(20) && middle[0] > middle[2].saturating_add(20));
        }
        // Within four standard deviations of what the constants say.
        let within = |count: i32, share: f64| {
            (f64::from(count) - 400.0 * share).abs() < 4.0 * (400.0 * share * (1.0 - share)).sqrt()
        };
        assert!(within(white, WHITE) && within(grey, GREY), "{white} {grey}");
        assert!(red + grey >= 395, "{red} red, {grey} grey");
        assert_eq!(view(3, 24), view(3, 24));
        assert_ne!(view(3, 24), view(4, 24));
        assert_eq!((view(1, 1).len(), view(1, 100).len()), (3, 30_000));
    }

    #[test]
    fn the_identity_gives_the_drawing_back() {
        let (rgb, transparent) = square(16);
        let padded = premultiply(16, &rgb, &transparent, &Colours::IDENTITY);
        for at in 0..256 {
            let [r, g, b, cover] = bilinear(&padded, 18, [(at % 16 + 1) as f32, (at / 16 + 1) as f32]);
            let on_white = [r, g, b].map(|value| (value + 255.0 * (1.0 - cover)) as u8);
            assert_eq!(on_white, rgb[at * 3..][..3], "{at}");
        }
        assert_eq!(bilinear(&padded, 18, [-1e9, f32::INFINITY])[3], 0.0);
    }

    #[test]
    #[ignore = "a measurement"]
    fn speed_of_a_view() {
        // Time on the processor, in nanoseconds: other programs do not count.
        let clock = || -> f64 {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let (rgb, transparent) = square(64);
        let mut random = Philox::new(1, 1);
        for size in [32, 64, 112] {
            let (start, views) = (clock(), 2000);
            let view = |_| usize::from(random_view(64, &rgb, &transparent, size, &KEEP, &mut random)[50]);
            let sum: usize = (0..views).map(view).sum();
            println!("{size}: {:.1} us a view ({sum})", (clock() - start) / 1e3 / f64::from(views));
        }
    }
}
