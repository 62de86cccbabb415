//! `coca inspect`: what a model folder, a checkpoint, a run folder or a file of weights holds. Only headers are read, and
//! a checkpoint's checksums.

use crate::checkpoint::{Checkpoint, Checkpoints, MANIFEST};
use crate::machine::bytes;
use crate::model_folder::{HEAD_FILE, task_of};
use crate::task::Task;
use crate::{Error, Result, metrics};
use model::config::CocaConfig;
use model::flops::Flops;
use model::weights::{CONFIG_FILE, Weights, load_folder};
use std::fmt::Write;
use std::path::Path;

/// The description as text.
///
/// # Errors
/// There is nothing at the path, it is none of the kinds above, or it is damaged; the text says how.
pub fn describe(path: &Path) -> Result<String> {
    let has = |name: &str| path.join(name).exists();
    if path.is_file() {
        weights(&Weights::open(path)?)
    } else if has(CONFIG_FILE) {
        let (config, found) = load_folder(path)?;
        let head = path.join(HEAD_FILE);
        let head = if head.exists() { "\n".to_owned() + &weights(&Weights::open(&head)?)? } else { String::new() };
        Ok(architecture(&config)? + "\n" + &weights(&found)? + &head)
    } else if has(MANIFEST) {
        Ok(checkpoint(&Checkpoint::open(path)?))
    } else if has("metrics.jsonl") {
        run(path)
    } else {
        std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        Err(Error::invalid(format!(
            "{}: no model ({CONFIG_FILE}), checkpoint ({MANIFEST}) or run (metrics.jsonl) is in this folder",
            path.display()
        )))
    }
}

fn architecture(config: &CocaConfig) -> Result<String> {
    let json = serde_json::to_value(config).map_err(|error| Error::invalid(error.to_string()))?;
    let mut text = String::new();
    for (name, value) in json.as_object().into_iter().flatten() {
        let _ = writeln!(text, "{name:<18}{}", plain(value));
    }
    let flops = Flops::forward(config, config.text.context_length, config.text.context_length);
    let _ = writeln!(text, "{:<18}{:.3} GFLOP a full pair", "forward", flops.total() as f64 / 1e9);
    Ok(text)
}

/// A JSON value without its quotes and braces.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(keys) => {
            keys.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn weights(weights: &Weights) -> Result<String> {
    let mut text = String::new();
    let (mut tensors, mut elements, mut size) = (0, 0, 0);
    for name in weights.names() {
        let (Some(shape), Some(dtype)) = (weights.shape(name), weights.dtype(name)) else { continue };
        let count: usize = shape.iter().product();
        let _ = writeln!(text, "{:<5} {:<18} {name}", dtype.name(), format!("{shape:?}"));
        tensors += 1;
        elements += count;
        size += count * dtype.bytes();
    }
    let _ = writeln!(text, "{tensors} tensors, {elements} elements, {}", bytes(size as u64));
    if let Some(Task { kind, classes, .. }) = task_of(weights) {
        let (kind, count, names) = (kind.name(), classes.count(), classes.labels.join(", "));
        let _ = writeln!(text, "head of the task {kind}: {count} classes, {names}");
        return Ok(text);
    }
    for (key, value) in weights.metadata() {
        let _ = writeln!(text, "metadata {key}: {value}");
    }
    Ok(text)
}

fn checkpoint(checkpoint: &Checkpoint) -> String {
    let mut text = format!("checkpoint after {} steps, whole\n", checkpoint.step());
    for (name, size) in checkpoint.files() {
        let _ = writeln!(text, "{:<12}{name}", bytes(size));
    }
    text
}

fn run(folder: &Path) -> Result<String> {
    let steps = metrics::read(&folder.join("metrics.jsonl"))?;
    let mut text = format!("run of {} steps\n", steps.len());
    if let (Some(first), Some(last)) = (steps.first(), steps.last()) {
        let mut line = |name: &str, from: f64, to: f64| {
            let _ = writeln!(text, "{name:<18}{from:.4} at step {}, {to:.4} at step {}", first.step, last.step);
        };
        line("loss", first.loss, last.loss);
        for ((name, from), (_, to)) in first.losses().into_iter().zip(last.losses()) {
            if from != 0.0 || to != 0.0 {
                line(&format!("{name} loss"), from, to);
            }
        }
    }
    let mut damaged = Vec::new();
    let newest = Checkpoints::latest(&folder.join("checkpoints"), |message| damaged.push(format!("{message}\n")))?;
    text += &damaged.concat();
    text += &newest.map_or("no checkpoint\n".to_owned(), |newest| self::checkpoint(&newest));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{MetricsLog, StepRecord};
    use crate::test_folder;
    use model::params::parameters;
    use model::weights::{FileDtype, SAFETENSORS_FILE, TensorRef, save_folder};

    #[test]
    fn models_and_their_files_are_listed() {
        let folder = test_folder("inspect-model");
        let config = CocaConfig::preset("emoji").unwrap();
        let specs = parameters(&config);
        let data: Vec<Vec<f32>> = specs.iter().map(|spec| vec![0.5; spec.shape.elements()]).collect();
        let tensors: Vec<_> = specs
            .iter()
            .zip(&data)
            .map(|(spec, data)| TensorRef { name: &spec.name, shape: spec.shape.dims(), data })
            .collect();
        save_folder(&folder, &config, &tensors, FileDtype::Bf16).unwrap();
        let elements: usize = data.iter().map(Vec::len).sum();
        let summary = format!("{} tensors, {elements} elements, {}\n", specs.len(), bytes(2 * elements as u64));
        let file = describe(&folder.join(SAFETENSORS_FILE)).unwrap();
        assert!(file.contains(&summary) && file.contains("BF16  []                 logit_scale\n"), "{file}");
        let model = describe(&folder).unwrap();
        assert!(model.contains(&summary) && model.contains("image_size 16"), "{model}");
    }

    #[test]
    fn runs_and_checkpoints_are_described() {
        let folder = test_folder("inspect-run");
        let (mut log, _) = MetricsLog::open(&folder.join("metrics.jsonl"), 0).unwrap();
        for step in 0..7 {
            log.append(&StepRecord { step, loss: 7.0 - step as f64, ..Default::default() }).unwrap();
        }
        assert!(describe(&folder).unwrap().ends_with("no checkpoint\n"));
        let checkpoints = Checkpoints::open(&folder.join("checkpoints"), 2).unwrap();
        let saved = checkpoints.save(7, |files| files.add_bytes("weights", &[1; 2048])).unwrap();
        let text = describe(&folder).unwrap();
        assert!(text.starts_with("run of 7 steps\nloss              7.0000 at step 0, 1.0000 at step 6\n"), "{text}");
        assert!(text.ends_with("checkpoint after 7 steps, whole\n2.0 KiB     weights\n"), "{text}");
        assert_eq!(describe(&saved).unwrap(), "checkpoint after 7 steps, whole\n2.0 KiB     weights\n");
        std::fs::write(saved.join("weights"), [1; 2047]).unwrap();
        assert!(describe(&saved).unwrap_err().to_string().contains("2047 bytes instead of 2048"));
    }

    #[test]
    fn anything_else_is_refused() {
        let folder = test_folder("inspect-else");
        assert!(describe(&folder).unwrap_err().to_string().contains("no model (open_clip_config.json)"));
        assert!(describe(&folder.join("nowhere")).unwrap_err().to_string().contains("No such file"));
        std::fs::write(folder.join("file"), b"hello").unwrap();
        assert!(describe(&folder.join("file")).is_err());
    }
}
