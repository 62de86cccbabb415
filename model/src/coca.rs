//! A CoCa in memory: its configuration, its parameters, and the programs that run it.

use crate::config::CocaConfig;
use crate::heads::{HeadConfig, file};
use crate::interpolate::{image_positions, text_positions};
use crate::network::Layers;
use crate::params::{ParamSpec, initialize, parameters};
use crate::weights::{FileDtype, TensorRef, Weights, load_folder, save_folder};
use engine::{DType, Error, Parameters, Result, Shape, Tape, Tensor};
use kernels::attention::Rows;
use std::path::Path;

/// The name of the temperature's parameter: the logarithm of the scale of the contrastive logits.
pub const LOGIT_SCALE: &str = "logit_scale";

const IMAGE_POSITIONS: &str = "visual.positional_embedding";
const TEXT_POSITIONS: &str = "text.positional_embedding";

/// The model. Tapes hold on to the parameters' arenas, so programs see every change of a weight.
#[derive(Debug)]
pub struct Coca {
    config: CocaConfig,
    head: Option<HeadConfig>,
    specs: Vec<ParamSpec>,
    /// How many of them are the model's own; those of the head follow.
    own: usize,
    parameters: Parameters,
    dtype: DType,
}

impl Coca {
    /// A model of zeros. `dtype` is the storage type of activations and of the matrices that products read (f32 masters
    /// are kept); `gradients` adds the gradient arena that training needs.
    pub fn new(config: CocaConfig, dtype: DType, gradients: bool) -> Result<Coca> {
        Coca::with_head(config, None, dtype, gradients)
    }

    /// As [`Coca::new`], with a head whose parameters follow those of the model in its arenas. A head is trained and saved in
    /// a file of its own; the model's weights are read and written without it.
    pub fn with_head(config: CocaConfig, head: Option<HeadConfig>, dtype: DType, gradients: bool) -> Result<Coca> {
        config.validate()?;
        let mut specs = parameters(&config);
        let own = specs.len();
        if let Some(head) = &head {
            head.validate()?;
            specs.extend(head.parameters());
        }
        let shapes = specs.iter().map(|spec| (spec.name.clone(), spec.shape));
        let parameters = Parameters::new(shapes, dtype == DType::BF16, gradients)?;
        Ok(Coca { config, head, specs, own, parameters, dtype })
    }

    /// Draws every parameter from its starting distribution. Stream i of the generator makes parameter i.
    pub fn initialize(&self, seed: u64) -> Result<()> {
        initialize(&self.specs, &self.parameters, seed)
    }

    /// Reads every parameter. As in open_clip, positions of images of another size and of texts of another length are
    /// interpolated; the error lists what is missing, unexpected or otherwise of another shape.
    pub fn load(&self, weights: &Weights) -> Result<()> {
        let stored = |spec: &ParamSpec| ParamSpec { shape: stored_shape(spec, weights), ..spec.clone() };
        let own = &self.specs[..self.own];
        weights.check(&own.iter().map(stored).collect::<Vec<_>>())?;
        let CocaConfig { vision, text, .. } = &self.config;
        for ParamSpec { name, shape, .. } in own {
            let values = weights.to_vec(name)?;
            let values = match name.as_str() {
                _ if values.len() == shape.elements() => values,
                IMAGE_POSITIONS => {
                    image_positions(&values, vision.width, vision.class_token, vision.image_size / vision.patch_size)?
                }
                TEXT_POSITIONS => text_positions(&values, text.width, text.rows())?,
                _ => values,
            };
            self.parameters.write(name, &values)?;
        }
        Ok(())
    }

    /// A model from a folder that holds `open_clip_config.json` and weights.
    pub fn open(folder: &Path, dtype: DType, gradients: bool) -> Result<Coca> {
        let (config, weights) = load_folder(folder)?;
        let model = Coca::new(config, dtype, gradients)?;
        model.load(&weights)?;
        Ok(model)
    }

    /// Writes a folder that open_clip loads: configuration and f32 weights, `values` in place of the parameters if given
    /// (an average of them, say), in arena order.
    pub fn save(&self, folder: &Path, values: Option<&[f32]>) -> Result<()> {
        let owned;
        let arena = match values {
            Some(values) => values,
            None => {
                owned = self.parameters.master().read::<f32>(0, self.parameters.elements())?;
                &owned
            }
        };
        let tensors: Vec<TensorRef> = (self.parameters.entries()[..self.own].iter())
            .map(|entry| TensorRef {
                name: &entry.name,
                shape: entry.shape.dims(),
                data: &arena[entry.offset..entry.offset + entry.shape.elements()],
            })
            .collect();
        save_folder(folder, &self.config, &tensors, FileDtype::F32)
    }

    /// Writes the head as [`Head::save`](crate::heads::Head::save) does, `about` among the free text, `values` in place of the
    /// parameters if given, in arena order (the model's first).
    ///
    /// # Errors
    /// There is no head, there is not one name for each class, or the file cannot be written.
    pub fn save_head(
        &self,
        path: &Path,
        classes: &[String],
        about: &[(&str, &str)],
        values: Option<&[f32]>,
    ) -> Result<()> {
        let head = self.head.as_ref().ok_or_else(|| Error::invalid("the model has no head to save"))?;
        file::write(path, head, &self.specs[self.own..], classes, about, |name| match values {
            None => self.parameters.read(name),
            Some(values) => {
                let entry = self.parameters.find(name)?;
                Ok(values[entry.offset..entry.offset + entry.shape.elements()].to_vec())
            }
        })
    }

    /// Reads the head's parameters from its file. Returns the names of the classes.
    ///
    /// # Errors
    /// The file cannot be read, is no head's, or its head has other sizes than this one.
    pub fn load_head(&self, path: &Path) -> Result<Vec<String>> {
        let (config, classes, weights) = file::read(path)?;
        if Some(config) != self.head {
            return Err(Error::invalid(format!(
                "{}: a head of other sizes ({config:?}) than the model's ({:?})",
                path.display(),
                self.head
            )));
        }
        for spec in &self.specs[self.own..] {
            self.parameters.write(&spec.name, &weights.to_vec(&spec.name)?)?;
        }
        Ok(classes)
    }

    /// The architecture.
    pub fn config(&self) -> &CocaConfig {
        &self.config
    }

    /// Sizes of its head, if it has one.
    pub fn head(&self) -> Option<&HeadConfig> {
        self.head.as_ref()
    }

    /// Logits of the head for rows on a tape, see [`Head::logits`](crate::heads::Head::logits).
    ///
    /// # Errors
    /// There is no head, or the rows have another width or type than it reads.
    #[track_caller]
    pub fn head_logits(&self, tape: &mut Tape, rows: Tensor, division: Rows) -> Result<Tensor> {
        let config = self.head.as_ref().ok_or_else(|| Error::invalid("the model has no head"))?;
        Layers { tape, parameters: &self.parameters, config, dtype: self.dtype }.logits(rows, division)
    }

    /// Name, shape, start and decay of every parameter, in arena order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The arenas.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The arenas, to freeze parameters.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Storage type of activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.specs.iter().map(|spec| spec.shape.elements()).sum()
    }

    /// Pushes layers of this model onto a tape.
    pub fn layers<'a>(&'a self, tape: &'a mut Tape) -> Layers<'a> {
        Layers { tape, parameters: &self.parameters, config: &self.config, dtype: self.dtype }
    }

    /// Trainable parameters that nothing has written the gradient of on a tape, in arena order.
    pub(crate) fn unreached(&self, tape: &Tape) -> Vec<String> {
        let entries = self.parameters.entries().iter();
        let unreached = entries.filter(|entry| entry.trainable && !tape.reaches(&entry.name));
        unreached.map(|entry| entry.name.clone()).collect()
    }

    /// The factor of the contrastive logits, `exp(logit_scale)`.
    pub fn logit_scale(&self) -> Result<f32> {
        Ok(self.parameters.read(LOGIT_SCALE)?[0].exp())
    }
}

/// The shape that a parameter has in the weights if it can be brought to its own, else its own: a table of positions may
/// have another number of rows.
fn stored_shape(spec: &ParamSpec, weights: &Weights) -> Shape {
    let is_positions = [IMAGE_POSITIONS, TEXT_POSITIONS].contains(&spec.name.as_str());
    match weights.shape(&spec.name) {
        Some(&[rows, width]) if is_positions && width == spec.shape.columns() => [rows, width].into(),
        _ => spec.shape,
    }
}

#[cfg(test)]
mod tests;
