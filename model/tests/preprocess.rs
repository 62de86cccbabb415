//! Preprocessing equals open_clip's to the bit, on odd sizes and every mode (fixtures made by `fixtures/preprocess.py`).

mod counting;

use model::config::ResizeMode;
use model::preprocess::{Image, Mode, decode, evaluate};
use std::path::PathBuf;

#[test]
fn evaluation_equals_open_clip_to_the_bit() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/preprocess");
    let mut compared = 0;
    for entry in std::fs::read_dir(&folder).expect("fixtures") {
        let path = entry.expect("fixture").path();
        if path.extension().is_none_or(|extension| extension != "png") {
            continue;
        }
        let image = decode(&std::fs::read(&path).expect("picture"), 1 << 20).expect("picture");
        let modes =
            [("shortest", ResizeMode::Shortest), ("squash", ResizeMode::Squash), ("longest", ResizeMode::Longest)];
        for (name, mode) in modes {
            let result = path.with_extension(format!("{name}.rgb"));
            if !result.exists() {
                continue; // padded palettes, see preprocess.py
            }
            let expected = std::fs::read(result).expect("result");
            let ours = evaluate(&image, 24, mode, 0);
            let off = ours.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert!(ours.len() == expected.len() && off == 0, "{} {name}: {off} bytes differ", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 60, "{compared}");
}

#[test]
fn the_shorter_side_is_rounded_as_open_clip_rounds_it() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/preprocess/longest.json");
    let sizes: Vec<[usize; 4]> =
        serde_json::from_str(&std::fs::read_to_string(file).expect("fixture")).expect("fixture");
    for [width, height, new_width, new_height] in sizes {
        let image = Image { width, height, mode: Mode::Gray, pixels: vec![255; width * height] };
        let white = evaluate(&image, 224, ResizeMode::Longest, 0).iter().filter(|&&value| value == 255).count();
        assert_eq!(white, new_width * new_height * 3, "{width} x {height}");
    }
}

/// A line of pixels whose short side grows to 24 would be 2.4e8 long: only the middle is made.
#[test]
fn a_line_of_pixels_takes_no_memory_for_what_is_cut_off() {
    let long = 10_000_000;
    for mode in [Mode::Gray, Mode::Palette(vec![[1; 3], [2; 3]])] {
        for (width, height) in [(1, long), (long, 1)] {
            let pixels = (0..long).map(|place| (place / (long / 2)) as u8).collect();
            let image = Image { width, height, mode: mode.clone(), pixels };
            let (rgb, taken) = counting::peak(|| evaluate(&image, 24, ResizeMode::Shortest, 0));
            assert!(taken < 1 << 20, "{taken}");
            let [first, last] = if mode == Mode::Gray { [0, 1] } else { [1, 2] };
            assert_eq!((rgb[0], rgb[rgb.len() - 1]), (first, last));
        }
    }
}

/// Formats as they are found. Only where a lossy format is decoded by other arithmetic may a byte differ; the bound is in
/// levels of 255, wider where colour is stored at half the resolution and stretched by other rules.
#[test]
fn files_equal_open_clip() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/preprocess/files");
    let mut wrong = Vec::new();
    for (name, bound) in [
        ("one-bit.png", 0),
        ("grey-transparent.png", 0),
        ("rgb-transparent.png", 0),
        ("palette-transparent.png", 0),
        ("palette.gif", 0),
        ("lossless.webp", 0),
        ("lossy.webp", 0),
        ("grey.jpg", 1),
        ("colour.jpg", 2),
        ("subsampled.jpg", 5),
        ("progressive.jpg", 5),
        ("cmyk.jpg", 2),
        ("rotated.jpg", 5),
        ("photo-640x480.jpg", 1),
    ] {
        let read = |name: String| std::fs::read(folder.join(name)).expect("fixture");
        let image = decode(&read(name.into()), 1 << 20).expect("picture");
        let (ours, expected) = (evaluate(&image, 24, ResizeMode::Shortest, 0), read(format!("{name}.rgb")));
        assert_eq!(ours.len(), expected.len(), "{name}");
        let off = ours.iter().zip(&expected).map(|(&a, &b)| a.abs_diff(b)).max().unwrap_or(0);
        if off > bound {
            wrong.push(format!("{name} is off by {off} levels, {bound} are allowed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}
