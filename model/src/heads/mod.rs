//! Heads: classifiers of what a model gives, with parameters of their own. A head reads sequences of rows from anywhere:
//! image tokens, the frames of a video one after another, decoder rows. The paper's probe and fine-tuning are a single-query
//! attentional pooler and a softmax layer over it (coca.md 1.4); without a pooler a head is a linear classifier of rows.

pub(crate) mod file;
mod program;
#[cfg(test)]
mod tests;

pub use program::{HeadLogits, HeadStep};

use crate::config::CocaConfig;
use crate::network::Layers;
use crate::params::{Init, List, ParamSpec, initialize, inverse_sqrt};
use engine::{DType, Error, Parameters, Result, Tape, Tensor};
use kernels::attention::Rows;
use kernels::matmul::linear_f32;
use serde::{Deserialize, Serialize};
use std::path::Path;

const POOLER: &str = "head.pooler";
const NORM: &str = "head.ln_post";
const CLASSIFIER: &str = "head.classifier";

/// Sizes of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the rows that it reads.
    pub inputs: usize,
    /// What makes one row of each sequence; without it every row is classified by itself.
    pub pooler: Option<HeadPooler>,
    /// Pooled rows that stand side by side in front of the classifier: two where a pair is judged, else one.
    pub joined: usize,
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
    /// A pooler over the encoder output of the images of a sample, as wide as the model's own.
    pub fn of_images(model: &CocaConfig, classes: usize) -> HeadConfig {
        let width = model.embed_dim;
        let heads = model.pooler.generative().map_or_else(|| heads_of(width), |(_, heads)| heads);
        let pooler = HeadPooler { width, heads };
        HeadConfig { inputs: model.vision.width, pooler: Some(pooler), joined: 1, classes }
    }

    /// A pooler over the decoder's rows, as wide as they are; of a sample of several images, each with a text, the pooled
    /// rows are joined.
    pub fn of_texts(model: &CocaConfig, images: usize, classes: usize) -> HeadConfig {
        let (width, heads) = (model.decoder.width, model.decoder.heads);
        HeadConfig { inputs: width, pooler: Some(HeadPooler { width, heads }), joined: images, classes }
    }

    /// A linear classifier of a model's unit features.
    pub fn of_features(model: &CocaConfig, classes: usize) -> HeadConfig {
        HeadConfig { inputs: model.embed_dim, pooler: None, joined: 1, classes }
    }

    /// Every parameter, in the order in which the forward pass meets them. With a pooler they start as the model's own do;
    /// a linear classifier, whose loss has one minimum, starts at zero.
    pub(crate) fn parameters(&self) -> Vec<ParamSpec> {
        let mut list = List(Vec::new());
        let (mut width, mut start) = (self.inputs, Init::Constant(0.0));
        if let Some(pooler) = self.pooler {
            list.pooler(POOLER, 1, pooler.width, self.inputs);
            list.layer_norm(NORM, pooler.width);
            width = pooler.width * self.joined;
            start = Init::Uniform(inverse_sqrt(width));
        }
        list.linear(CLASSIFIER, self.classes, width, start, Init::Constant(0.0));
        list.0
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.classes < 2 || self.inputs == 0 {
            return Err(Error::invalid(format!(
                "a head needs rows of at least one value and at least two classes, not {} and {}",
                self.inputs, self.classes
            )));
        }
        if self.joined == 0 || (self.joined > 1 && self.pooler.is_none()) {
            return Err(Error::invalid(format!("a head joins at least one pooled row, not {}", self.joined)));
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

    /// Logits f32 `[sequences / joined, classes]` of sequences of rows: `tokens` `[all rows, inputs]` of the head's dtype, divided
    /// by `rows`. They can come from anywhere on the tape; if that needs a gradient, it gets one. Without a pooler every row
    /// is a sequence.
    ///
    /// # Errors
    /// The rows have another width or type.
    #[track_caller]
    pub fn logits(&self, tape: &mut Tape, tokens: Tensor, rows: Rows) -> Result<Tensor> {
        let mut layers = Layers { tape, parameters: &self.parameters, config: &self.config, dtype: self.dtype };
        layers.logits(tokens, rows)
    }

    /// Writes a safetensors file with the parameters in f32, the sizes and the names of the classes.
    ///
    /// # Errors
    /// There is not one name for each class, or the file cannot be written; it is written whole or not at all.
    pub fn save(&self, path: &Path, classes: &[String]) -> Result<()> {
        file::write(path, &self.config, &self.specs, classes, &[], |name| self.parameters.read(name))
    }

    /// The head in a file that [`Head::save`] wrote, with the names of its classes.
    ///
    /// # Errors
    /// The file cannot be read or is no head's.
    pub fn open(path: &Path, dtype: DType, gradients: bool) -> Result<(Head, Vec<String>)> {
        let (config, classes, weights) = file::read(path)?;
        let head = Head::new(config, dtype, gradients)?;
        for spec in &head.specs {
            head.parameters.write(&spec.name, &weights.to_vec(&spec.name)?)?;
        }
        Ok((head, classes))
    }
}

impl Layers<'_, HeadConfig> {
    /// See [`Head::logits`].
    #[track_caller]
    pub(crate) fn logits(&mut self, tokens: Tensor, rows: Rows) -> Result<Tensor> {
        let (HeadConfig { inputs, pooler, joined, .. }, dtype) = (*self.config, self.dtype);
        if tokens.shape().columns() != inputs || tokens.dtype() != dtype {
            let meta = tokens.meta();
            return Err(Error::invalid(format!("the head reads {dtype} rows of {inputs} values, got {meta}")));
        }
        self.in_span("head", |layers| {
            let pooled = match pooler {
                None => tokens,
                Some(HeadPooler { heads, width }) => {
                    let pooled = layers.attention_pooler(POOLER, tokens, rows, heads)?;
                    let pooled = layers.layer_norm(pooled, NORM)?;
                    match joined {
                        1 => pooled,
                        _ => layers.tape.reshape(pooled, [pooled.shape().rows() / joined, joined * width])?,
                    }
                }
            };
            let weight = layers.matrix(&format!("{CLASSIFIER}.weight"))?;
            let bias = layers.vector(&format!("{CLASSIFIER}.bias"))?;
            linear_f32(layers.tape, pooled, weight, bias)
        })
    }
}

/// Attention heads of at least 64 values that a width can have.
fn heads_of(width: usize) -> usize {
    (1..=width / 64).rfind(|heads| width.is_multiple_of(*heads)).unwrap_or(1)
}
