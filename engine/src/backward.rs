//! The backward pass: walks the list from its end and lets each op push its own backward onto the same list.
//!
//! The first writer of a gradient sets it, later writers add: no zero fills, no temporaries. An op without a backward
//! is an error, and parameters that no gradient reaches are reported.

use crate::op::Recorded;
use crate::tape::{Home, Phase, Source, When};
use crate::{DType, Error, Meta, Result, Tape, Tensor};

impl Tape {
    /// Appends the backward pass. Each seed is (tensor, its gradient): for a loss the gradient is a scalar input that
    /// holds the loss weight. Returns the names of trainable parameters of this tape that receive no gradient.
    pub fn backward(&mut self, seeds: &[(Tensor, Tensor)]) -> Result<Vec<String>> {
        if std::mem::replace(&mut self.backward_done, true) {
            return Err(Error::invalid("backward was already called on this tape"));
        }
        for &(tensor, gradient) in seeds {
            self.own(tensor)?;
            self.own(gradient)?;
            if tensor.meta().elements() != gradient.meta().elements() {
                let (tensor, gradient) = (tensor.meta(), gradient.meta());
                return Err(Error::invalid(format!("the gradient of {tensor} was seeded with {gradient}")));
            }
            let root = self.root(tensor.id);
            self.seeds.insert(self.root(gradient.id));
            if self.gradients.insert(root, gradient).is_some() {
                return Err(Error::invalid(format!("a tensor of {} was seeded twice", tensor.meta())));
            }
        }
        self.phase = Phase::Backward;
        for index in (0..self.nodes.len()).rev() {
            let node = &self.nodes[index];
            if node.removed {
                continue;
            }
            let (op, source) = (node.op.clone(), node.source);
            let recorded = Recorded {
                inputs: node.inputs.clone(),
                outputs: node.outputs.iter().map(|&(output, _)| output).collect(),
                index,
            };
            let wanted = recorded.inputs.iter().any(|&input| self.needs_gradient(input));
            let mut gradients = Vec::with_capacity(recorded.outputs.len());
            for &output in &recorded.outputs {
                gradients.push(self.gradient(output)?);
            }
            if !wanted || gradients.iter().all(Option::is_none) {
                continue;
            }
            self.donated.clear();
            self.override_source = Some(source);
            let result = op.backward(self, &recorded, &gradients);
            self.override_source = None;
            let metas: Vec<Meta> = recorded.inputs.iter().map(|input| input.meta()).collect();
            result.map_err(|error| self.explain(error, op.as_ref(), &metas, source))?;
        }
        self.phase = Phase::Forward;
        let mut unreached: Vec<String> = (self.leaf_gradients.keys())
            .filter(|id| !self.gradients.contains_key(id))
            .filter_map(|&id| self.infos[id as usize].name.clone())
            .collect();
        unreached.sort();
        Ok(unreached)
    }

    /// True if a gradient of this tensor is wanted.
    pub fn needs_gradient(&self, tensor: Tensor) -> bool {
        self.infos[self.root(tensor.id) as usize].needs_gradient
    }

    /// True if something has written the gradient of this parameter, or of some of its rows, by now.
    pub fn reaches(&self, parameter: &str) -> bool {
        self.leaves.iter().any(|((name, ..), leaf)| name == parameter && self.gradients.contains_key(&leaf.id))
    }

    /// The storage type of a tensor's gradient: f32 for parameters, else the tensor's own.
    pub fn gradient_dtype(&self, tensor: Tensor) -> DType {
        if self.leaf_gradients.contains_key(&self.root(tensor.id)) { DType::F32 } else { tensor.dtype() }
    }

    /// The gradient of a tensor in the tensor's own shape, if something has written it by now.
    pub fn gradient(&mut self, tensor: Tensor) -> Result<Option<Tensor>> {
        let root = self.root(tensor.id);
        let Some(&gradient) = self.gradients.get(&root) else { return Ok(None) };
        if gradient.shape() == tensor.shape() {
            return Ok(Some(gradient));
        }
        self.reshape(gradient, tensor.shape()).map(Some)
    }

    /// Lets `gradient`, the gradient of an output of the node whose backward runs now, become the gradient of `of`
    /// without a copy: y = x + f(…) passes its gradient on to x. Call it after every push that reads `gradient`.
    /// Returns false if that cannot be done (a gradient exists already, or `gradient` is not a planned tensor of its
    /// own); then push a copy into `Target::Gradient(of)`.
    pub fn donate_gradient(&mut self, of: Tensor, gradient: Tensor) -> Result<bool> {
        let root = self.root(of.id);
        let donor = self.root(gradient.id);
        let owner = &self.infos[root as usize];
        if !owner.needs_gradient {
            return Ok(true);
        }
        let taken = self.gradients.contains_key(&root) || self.leaf_gradients.contains_key(&root);
        let fits = owner.meta.dtype == gradient.dtype() && owner.meta.elements() == gradient.meta().elements();
        let seeded = self.seeds.contains(&donor);
        if taken
            || self.donated.contains(&donor)
            || seeded
            || !fits
            || owner.ragged != self.infos[donor as usize].ragged
        {
            return Ok(false);
        }
        let is_variable = matches!(owner.home, Home::Owned(..));
        self.infos[donor as usize].keep |= is_variable;
        self.donated.push(donor);
        self.gradients.insert(root, gradient);
        Ok(true)
    }

    /// The tensor that an output meant for the gradient of `of` writes, and how.
    pub(crate) fn gradient_target(&mut self, of: Tensor) -> Result<(Tensor, When)> {
        let root = self.root(of.id);
        if let Some(&gradient) = self.gradients.get(&root) {
            // A seed is the caller's; adding to it would change what the next run is seeded with.
            if self.seeds.contains(&self.root(gradient.id)) {
                return Err(Error::invalid(format!("{} was seeded and also receives a gradient", of.meta())));
            }
            return Ok((gradient, When::Add));
        }
        let info = &self.infos[root as usize];
        let (meta, ragged, source) = (info.meta, info.ragged, info.source);
        let (gradient, when) = match self.leaf_gradients.get(&root) {
            Some((buffer, offset)) => {
                let home = Home::Owned(buffer.clone(), *offset);
                let meta = Meta { shape: meta.shape, dtype: DType::F32 };
                (self.add_tensor(meta, home, None, false, source.location), When::FirstOfStep)
            }
            None => {
                let home = self.value_home(meta)?;
                (self.add_tensor(meta, home, None, false, source.location), When::Set)
            }
        };
        let here = self.override_source.map_or(self.current, |source: Source| source.span);
        // The gradient of a variable is read by whoever declared it.
        let keep = matches!(self.infos[root as usize].home, Home::Owned(..));
        let info = &mut self.infos[gradient.id as usize];
        (info.ragged, info.source.span, info.keep) = (ragged, here, keep);
        self.gradients.insert(root, gradient);
        Ok((gradient, when))
    }
}
