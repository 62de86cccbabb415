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
