//! The parameters of a model in flat arenas: f32 master, bf16 copy, f32 gradient, found by name, never by position.

use crate::buffer::{Buffer, align_up};
use crate::{DType, Device, Error, Result, Shape};
use std::collections::HashMap;
use std::sync::Arc;

/// Where one parameter lies in the arenas.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name in the weights file.
    pub name: String,
    /// Shape.
    pub shape: Shape,
    /// First element in each arena; a multiple of 64 elements.
    pub offset: usize,
    /// False for a frozen parameter: it gets no gradient.
    pub trainable: bool,
}

/// All parameters of a model. Each arena holds them in the order given, each padded to 256 bytes of f32; the padding
/// is zero and stays zero.
#[derive(Debug)]
pub struct Parameters {
    entries: Vec<Parameter>,
    by_name: HashMap<String, usize>,
    elements: usize,
    master: Arc<Buffer>,
    bf16: Option<Arc<Buffer>>,
    gradient: Option<Arc<Buffer>>,
}

impl Parameters {
    /// Zeroed arenas for parameters of these names and shapes; an error on a doubled name. `bf16` adds the copy that
    /// bf16 matmuls read, `gradients` the gradient arena.
    pub fn new(specs: impl IntoIterator<Item = (String, Shape)>, bf16: bool, gradients: bool) -> Result<Parameters> {
        let mut entries = Vec::new();
        let mut by_name = HashMap::new();
        let mut elements = 0;
        for (name, shape) in specs {
            if by_name.insert(name.clone(), entries.len()).is_some() {
                return Err(Error::invalid(format!("parameter '{name}' is declared twice")));
            }
            entries.push(Parameter { name, shape, offset: elements, trainable: true });
            elements += align_up(shape.elements() * 4) / 4;
        }
        Ok(Parameters {
            entries,
            by_name,
            elements,
            master: Buffer::zeroed(elements * 4)?,
            bf16: if bf16 { Some(Buffer::zeroed(elements * 2)?) } else { None },
            gradient: if gradients { Some(Buffer::zeroed(elements * 4)?) } else { None },
        })
    }

    /// The parameters in arena order.
    pub fn entries(&self) -> &[Parameter] {
        &self.entries
    }

    /// A parameter by name; an error that names it if there is none.
    pub fn find(&self, name: &str) -> Result<&Parameter> {
        match self.by_name.get(name) {
            Some(&index) => Ok(&self.entries[index]),
            None => Err(Error::invalid(format!("the model has no parameter '{name}'"))),
        }
    }

    /// Freezes or frees every parameter whose name `matches`; frozen ones get no gradient in tapes recorded later.
    pub fn set_trainable(&mut self, trainable: bool, matches: impl Fn(&str) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| matches(&entry.name)) {
            entry.trainable = trainable;
        }
    }

    /// Elements of each arena, padding included.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The f32 arena.
    pub fn master(&self) -> &Arc<Buffer> {
        &self.master
    }

    /// The bf16 arena, if there is one.
    pub fn bf16(&self) -> Option<&Arc<Buffer>> {
        self.bf16.as_ref()
    }

    /// The f32 gradient arena, if there is one.
    pub fn gradient(&self) -> Option<&Arc<Buffer>> {
        self.gradient.as_ref()
    }

    /// Moves the arenas to the memory of a device. Tapes recorded before keep the old ones.
    pub fn move_to(&mut self, device: &Device) -> Result<()> {
        let moved = |arena: &Arc<Buffer>| arena.copy_on(device);
        let bf16 = self.bf16.as_ref().map(moved).transpose()?;
        let gradient = self.gradient.as_ref().map(moved).transpose()?;
        (self.master, self.bf16, self.gradient) = (moved(&self.master)?, bf16, gradient);
        Ok(())
    }

    /// The values of a parameter.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.find(name)?;
        self.master.read(entry.offset * 4, entry.shape.elements())
    }

    /// The gradient of a parameter; an error without a gradient arena.
    pub fn read_gradient(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.find(name)?;
        let gradient = self.gradient.as_ref().ok_or_else(|| Error::invalid("these parameters have no gradients"))?;
        gradient.read(entry.offset * 4, entry.shape.elements())
    }

    /// Sets the values of a parameter, in the bf16 copy too; an error if the count is not the shape's.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<()> {
        let entry = self.find(name)?;
        if values.len() != entry.shape.elements() {
            let shape = entry.shape;
            return Err(Error::invalid(format!("parameter '{name}' is {shape}, {} values were given", values.len())));
        }
        self.master.write(entry.offset * 4, values)?;
        if let Some(bf16) = &self.bf16 {
            let rounded: Vec<half::bf16> = values.iter().map(|&value| half::bf16::from_f32(value)).collect();
            bf16.write(entry.offset * 2, &rounded)?;
        }
        Ok(())
    }

    /// Arena and byte offset of rows `rows` (of the leading dimension) of a parameter in storage type `dtype`.
    pub(crate) fn locate(&self, entry: &Parameter, row: usize, dtype: DType) -> Result<(Arc<Buffer>, usize)> {
        let stride = entry.shape.elements() / entry.shape.dims().first().copied().unwrap_or(1).max(1);
        let element = entry.offset + row * stride;
        match (dtype, &self.bf16) {
            (DType::F32, _) => Ok((self.master.clone(), element * 4)),
            (DType::BF16, Some(bf16)) => Ok((bf16.clone(), element * 2)),
            _ => Err(Error::invalid(format!("parameter '{}' has no copy in {dtype}", entry.name))),
        }
    }
}
