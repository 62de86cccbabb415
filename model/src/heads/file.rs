//! A head's file: safetensors with the parameters in f32, the sizes and the names of the classes in its free text.

use super::HeadConfig;
use crate::params::ParamSpec;
use crate::weights::{FileDtype, TensorRef, Weights, save};
use engine::{Error, Result};
use std::path::Path;

/// Keys of the free text.
const CONFIG: &str = "head";
const CLASSES: &str = "classes";

/// Writes a head whose values `read` gives by name, and `about` among its free text.
///
/// # Errors
/// There is not one name for each class, or the file cannot be written; it is written whole or not at all.
pub(crate) fn write(
    path: &Path,
    config: &HeadConfig,
    specs: &[ParamSpec],
    classes: &[String],
    about: &[(&str, &str)],
    read: impl Fn(&str) -> Result<Vec<f32>>,
) -> Result<()> {
    if classes.len() != config.classes {
        let (named, has) = (classes.len(), config.classes);
        return Err(Error::invalid(format!("{named} names for the {has} classes of the head")));
    }
    let values: Vec<Vec<f32>> = specs.iter().map(|spec| read(&spec.name)).collect::<Result<_>>()?;
    let tensors: Vec<TensorRef> = (specs.iter().zip(&values))
        .map(|(spec, data)| TensorRef { name: &spec.name, shape: spec.shape.dims(), data })
        .collect();
    let json = |value: serde_json::Result<String>| value.map_err(|error| Error::invalid(error.to_string()));
    let (config, names) = (json(serde_json::to_string(config))?, json(serde_json::to_string(classes))?);
    let text = [("format", "pt"), (CONFIG, config.as_str()), (CLASSES, names.as_str())];
    save(path, &tensors, FileDtype::F32, &[&text, about].concat())
}

/// The sizes, the names of the classes and the weights, which are those of a head of these sizes.
///
/// # Errors
/// The file cannot be read or is no head's.
pub(crate) fn read(path: &Path) -> Result<(HeadConfig, Vec<String>, Weights)> {
    let wrong = |what: &dyn std::fmt::Display| Error::invalid(format!("{}: {what}", path.display()));
    let weights = Weights::open(path)?;
    let text = |key: &str| {
        let found = weights.metadata().get(key).map(String::as_str);
        found.ok_or_else(|| wrong(&format!("no '{key}' in its free text: this is no file of a head")))
    };
    let config: HeadConfig = serde_json::from_str(text(CONFIG)?).map_err(|error| wrong(&error))?;
    let classes: Vec<String> = serde_json::from_str(text(CLASSES)?).map_err(|error| wrong(&error))?;
    if classes.len() != config.classes {
        return Err(wrong(&format!("{} names for {} classes", classes.len(), config.classes)));
    }
    config.validate().map_err(|error| wrong(&error))?;
    weights.check(&config.parameters()).map_err(|error| wrong(&error))?;
    Ok((config, classes, weights))
}
