//! Heads: classifiers of what a model gives, with parameters of their own. A head reads sequences of rows from anywhere:
//! image tokens, the frames of a video one after another, decoder rows. The paper's probe and fine-tuning are a single-query
//! attentional pooler and a softmax layer over it (coca.md 1.4); without a pooler a head is a linear classifier of rows.

mod program;
#[cfg(test)]
mod tests;

pub use program::{HeadLogits, HeadStep};

use crate::config::CocaConfig;
use crate::network::Layers;
use crate::params::{Init, List, ParamSpec, initialize, inverse_sqrt};
use crate::weights::{FileDtype, TensorRef, Weights, save};
use engine::{DType, Error, Parameters, Result, Tape, Tensor};
use kernels::attention::Rows;
use kernels::matmul::linear_f32;
use serde::{Deserialize, Serialize};
use std::path::Path;

const POOLER: &str = "head.pooler";
const NORM: &str = "head.ln_post";
const CLASSIFIER: &str = "head.classifier";

/// Keys of the free text in a head's file.
const CONFIG: &str = "head";
const CLASSES: &str = "classes";

/// Sizes of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the rows that it reads.
    pub inputs: usize,
    /// What makes one row of each sequence; without it every row is classified by itself.
    pub pooler: Option<HeadPooler>,
    /// Number of classes.
    pub classes: usize,
}

/// Sizes of a head's attentional pooler, which has one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadPooler {
    /// Width of its query and of what it gives.
    pub width: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
}

impl HeadConfig {
    /// A pooler over the encoder output of images, as wide as the model's own.
    pub fn of_images(model: &CocaConfig, classes: usize) -> HeadConfig {
        let width = model.embed_dim;
        let heads = model
            .pooler
            .generative()
            .map_or_else(|| (1..=width / 64).rfind(|heads| width.is_multiple_of(*heads)), |(_, h)| Some(h));
        let pooler = HeadPooler { width, heads: heads.unwrap_or(1) };
        HeadConfig { inputs: model.vision.width, pooler: Some(pooler), classes }
    }

    /// A linear classifier of a model's unit features.
    pub fn of_features(model: &CocaConfig, classes: usize) -> HeadConfig {
        HeadConfig { inputs: model.embed_dim, pooler: None, classes }
    }

    /// Every parameter, in the order in which the forward pass meets them. With a pooler they start as the model's own do;
    /// a linear classifier, whose loss has one minimum, starts at zero.
    fn parameters(&self) -> Vec<ParamSpec> {
        let mut list = List(Vec::new());
        let (mut width, mut start) = (self.inputs, Init::Constant(0.0));
        if let Some(pooler) = self.pooler {
            list.pooler(POOLER, 1, pooler.width, self.inputs);
            list.layer_norm(NORM, pooler.width);
            (width, start) = (pooler.width, Init::Uniform(inverse_sqrt(pooler.width)));
        }
        list.linear(CLASSIFIER, self.classes, width, start, Init::Constant(0.0));
        list.0
    }

    fn validate(&self) -> Result<()> {
        if self.classes < 2 || self.inputs == 0 {
            return Err(Error::invalid(format!(
                "a head needs rows of at least one value and at least two classes, not {} and {}",
                self.inputs, self.classes
            )));
        }
        match self.pooler {
            Some(HeadPooler { width, heads }) if width == 0 || heads == 0 || !width.is_multiple_of(heads) => {
                Err(Error::invalid(format!("a pooler of width {width} cannot have {heads} heads: they must divide it")))
            }
            _ => Ok(()),
        }
    }
}

/// A head in memory. Tapes hold on to its arenas, as they do to a model's.
#[derive(Debug)]
pub struct Head {
    config: HeadConfig,
    specs: Vec<ParamSpec>,
    parameters: Parameters,
    dtype: DType,
}

impl Head {
    /// A head of zeros. `dtype` is the storage type of the rows that it reads, of its activations and of the matrices that
    /// products read (f32 masters are kept); `gradients` adds the gradient arena that training needs.
    ///
    /// # Errors
    /// A size is 0, there are fewer than two classes, or the heads do not divide the width.
    pub fn new(config: HeadConfig, dtype: DType, gradients: bool) -> Result<Head> {
        config.validate()?;
        let specs = config.parameters();
        let shapes = specs.iter().map(|spec| (spec.name.clone(), spec.shape));
        let parameters = Parameters::new(shapes, dtype == DType::BF16, gradients)?;
        Ok(Head { config, specs, parameters, dtype })
    }

    /// Draws every parameter from its starting distribution.
    ///
    /// # Errors
    /// None in a head of this program.
    pub fn initialize(&self, seed: u64) -> Result<()> {
        initialize(&self.specs, &self.parameters, seed)
    }

    /// Its sizes.
    pub fn config(&self) -> HeadConfig {
        self.config
    }

    /// Name, shape, start and decay of every parameter, in arena order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The arenas.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Storage type of activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sets all parameters from values in arena order, such as an average of them.
    ///
    /// # Errors
    /// There are not as many as the arena has elements.
    pub fn set(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.parameters.elements() {
            let (given, wanted) = (values.len(), self.parameters.elements());
            return Err(Error::invalid(format!("the head has an arena of {wanted} elements, {given} were given")));
        }
        for entry in self.parameters.entries() {
            self.parameters.write(&entry.name, &values[entry.offset..entry.offset + entry.shape.elements()])?;
        }
        Ok(())
    }

    /// Logits f32 `[sequences, classes]` of sequences of rows: `tokens` `[all rows, inputs]` of the head's dtype, divided by
    /// `rows`. They can come from anywhere on the tape; if that needs a gradient, it gets one. Without a pooler every row is a
    /// sequence.
    ///
    /// # Errors
    /// The rows have another width or type.
    #[track_caller]
    pub fn logits(&self, tape: &mut Tape, tokens: Tensor, rows: Rows) -> Result<Tensor> {
        if tokens.shape().columns() != self.config.inputs || tokens.dtype() != self.dtype {
            let (meta, Head { config: HeadConfig { inputs, .. }, dtype, .. }) = (tokens.meta(), self);
            return Err(Error::invalid(format!("the head reads {dtype} rows of {inputs} values, got {meta}")));
        }
        let mut layers = Layers { tape, parameters: &self.parameters, config: &self.config, dtype: self.dtype };
        layers.in_span("head", |layers| {
            let pooled = match self.config.pooler {
                None => tokens,
                Some(HeadPooler { heads, .. }) => {
                    let pooled = layers.attention_pooler(POOLER, tokens, rows, heads)?;
                    layers.layer_norm(pooled, NORM)?
                }
            };
            let weight = layers.matrix(&format!("{CLASSIFIER}.weight"))?;
            let bias = layers.vector(&format!("{CLASSIFIER}.bias"))?;
            linear_f32(layers.tape, pooled, weight, bias)
        })
    }

    /// Writes a safetensors file with the parameters in f32, the sizes and the names of the classes.
    ///
    /// # Errors
    /// There is not one name for each class, or the file cannot be written; it is written whole or not at all.
    pub fn save(&self, path: &Path, classes: &[String]) -> Result<()> {
        if classes.len() != self.config.classes {
            let (named, has) = (classes.len(), self.config.classes);
            return Err(Error::invalid(format!("{named} names for the {has} classes of the head")));
        }
        let values: Vec<Vec<f32>> =
            self.specs.iter().map(|spec| self.parameters.read(&spec.name)).collect::<Result<_>>()?;
        let tensors: Vec<TensorRef> = (self.specs.iter().zip(&values))
            .map(|(spec, data)| TensorRef { name: &spec.name, shape: spec.shape.dims(), data })
            .collect();
        let json = |value: serde_json::Result<String>| value.map_err(|error| Error::invalid(error.to_string()));
        let (config, names) = (json(serde_json::to_string(&self.config))?, json(serde_json::to_string(classes))?);
        save(path, &tensors, FileDtype::F32, &[("format", "pt"), (CONFIG, &config), (CLASSES, &names)])
    }

    /// The head in a file that [`Head::save`] wrote, with the names of its classes.
    ///
    /// # Errors
    /// The file cannot be read or is no head's.
    pub fn open(path: &Path, dtype: DType, gradients: bool) -> Result<(Head, Vec<String>)> {
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
        let head = Head::new(config, dtype, gradients)?;
        for spec in &head.specs {
            head.parameters.write(&spec.name, &weights.to_vec(&spec.name)?)?;
        }
        Ok((head, classes))
    }
}
