//! A model as a folder: `open_clip_config.json` beside its weights, as open_clip reads and publishes them.

use super::{FileDtype, TensorRef, Weights, save, write_atomically};
use crate::config::CocaConfig;
use crate::params::parameters;
use engine::{Error, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// The model's configuration in a folder.
pub const CONFIG_FILE: &str = "open_clip_config.json";
/// The weights in a folder; read first where both are there.
pub const SAFETENSORS_FILE: &str = "open_clip_model.safetensors";
/// The weights in PyTorch's format; read where there are no others.
pub const PYTORCH_FILE: &str = "open_clip_pytorch_model.bin";

/// Longest configuration that is read.
const MOST_CONFIG: u64 = 1 << 20;

/// Opens a model's folder. The weights fit the configuration exactly, in names and shapes; only headers are read.
pub fn load_folder(folder: &Path) -> Result<(CocaConfig, Weights)> {
    let path = folder.join(CONFIG_FILE);
    let mut json = String::new();
    let file = File::open(&path).map_err(|error| Error::io(&path, error))?;
    file.take(MOST_CONFIG + 1).read_to_string(&mut json).map_err(|error| Error::io(&path, error))?;
    if json.len() as u64 > MOST_CONFIG {
        return Err(Error::invalid(format!("{}: longer than {MOST_CONFIG} bytes", path.display())));
    }
    let config = CocaConfig::from_open_clip(&json).map_err(|error| in_file(&path, error))?;
    let path = [SAFETENSORS_FILE, PYTORCH_FILE].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
    let Some(path) = path else {
        return Err(Error::invalid(format!(
            "{}: there is neither {SAFETENSORS_FILE} nor {PYTORCH_FILE}",
            folder.display()
        )));
    };
    let weights = Weights::open(&path)?;
    weights.check(&parameters(&config)).map_err(|error| in_file(&path, error))?;
    Ok((config, weights))
}

/// Writes a model's folder, which is made if it is not there: first the weights, then the configuration, each atomically.
/// `tensors` must be exactly the parameters of `config`; `dtype` is F32 or BF16.
pub fn save_folder(folder: &Path, config: &CocaConfig, tensors: &[TensorRef], dtype: FileDtype) -> Result<()> {
    config.validate()?;
    check_tensors(config, tensors)?;
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    save(&folder.join(SAFETENSORS_FILE), tensors, dtype, &[("format", "pt")])?;
    write_atomically(&folder.join(CONFIG_FILE), |file| file.write_all(config.to_open_clip().as_bytes()))
}

/// That the tensors to write are the configuration's parameters; each name once is checked by the writer.
fn check_tensors(config: &CocaConfig, tensors: &[TensorRef]) -> Result<()> {
    let parameters = parameters(config);
    for parameter in &parameters {
        match tensors.iter().find(|tensor| tensor.name == parameter.name) {
            Some(tensor) if tensor.shape == parameter.shape.dims() => {}
            Some(TensorRef { name, shape, .. }) => {
                let wanted = parameter.shape;
                return Err(Error::invalid(format!("parameter \"{name}\" has shape {shape:?} instead of {wanted}")));
            }
            None => return Err(Error::invalid(format!("parameter \"{}\" is missing", parameter.name))),
        }
    }
    if tensors.len() != parameters.len() {
        return Err(Error::invalid(format!("{} tensors for {} parameters", tensors.len(), parameters.len())));
    }
    Ok(())
}

fn in_file(path: &Path, error: Error) -> Error {
    Error::invalid(format!("{}: {error}", path.display()))
}
