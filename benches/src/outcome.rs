//! What the measurements have in common beside peers: the types they name, medians, lines of results.

use engine::DType;
use model::config::CocaConfig;
use serde::Serialize;
use std::error::Error;
use std::io::Write;
use std::path::Path;

/// The storage type called `name`.
///
/// # Errors
/// It is neither f32 nor bf16.
pub fn dtype(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        other => Err(format!("--dtype {other}: use f32 or bf16")),
    }
}

/// The configuration that is called `name`, or that the file of this name ending in `.json` describes as open_clip does.
///
/// # Errors
/// There is none, or it is not valid.
pub fn model(name: &str) -> Result<CocaConfig, Box<dyn Error>> {
    if !name.ends_with(".json") {
        return Ok(CocaConfig::preset(name)?);
    }
    let text = std::fs::read_to_string(name).map_err(|error| format!("{name}: {error}"))?;
    Ok(CocaConfig::from_open_clip(&text).map_err(|error| format!("{name}: {error}"))?)
}

/// The middle value, of two the larger; NaN without values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Adds a line of JSON to a file.
///
/// # Errors
/// It cannot be written.
pub fn append(file: &Path, outcome: &impl Serialize) -> Result<(), Box<dyn Error>> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{}", serde_json::to_string(outcome)?)?;
    Ok(())
}
