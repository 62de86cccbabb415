//! Preprocessing equals open_clip's to the bit, on odd sizes and every mode (fixtures made by `fixtures/preprocess.py`).

use model::config::ResizeMode;
use model::preprocess::{decode, evaluate};
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
