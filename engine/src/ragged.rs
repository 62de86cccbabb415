//! Ragged rows: a tensor has a planned capacity of rows, and each run sees only those in use.

use crate::tape::{Home, Tape};
use crate::{DType, Error, Meta, Result, Shape, Tensor};

/// Rows in use of ragged tensors: the last element of an i32 tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ragged {
    pub offsets: Tensor,
    pub capacity: usize,
}

impl Tape {
    /// Declares that only the first `offsets[last]` entries of the leading dimension of `tensor` are in use. Outputs
    /// whose rows follow it are ragged in the same way. `offsets` is an i32 tensor that the caller writes.
    pub fn set_ragged(&mut self, tensor: Tensor, offsets: Tensor) -> Result<()> {
        let capacity = tensor.shape().dims().first().copied().unwrap_or(0);
        if offsets.dtype() != DType::I32 || offsets.meta().elements() == 0 || capacity == 0 {
            return Err(Error::invalid(format!(
                "ragged rows need i32 offsets and a leading dimension, got {} for {}",
                offsets.meta(),
                tensor.meta()
            )));
        }
        self.own(tensor)?;
        self.own(offsets)?;
        let root = self.root(tensor.id);
        let whole = self.infos[root as usize].meta;
        if whole.shape.dims().first() != Some(&capacity) {
            return Err(Error::invalid(format!(
                "{} cannot be ragged: it is {whole} under another shape",
                tensor.meta()
            )));
        }
        let same = |group: &Ragged| group.offsets == offsets && group.capacity == capacity;
        let group = self.ragged.iter().position(same).unwrap_or_else(|| {
            self.ragged.push(Ragged { offsets, capacity });
            self.ragged.len() - 1
        });
        self.infos[root as usize].ragged = Some(group);
        self.infos[tensor.id as usize].ragged = Some(group);
        Ok(())
    }

    /// Rows in use of each ragged group, read from its offsets.
    pub(crate) fn rows_in_use(&self) -> Result<Vec<usize>> {
        self.ragged.iter().map(|group| rows_in_use(group, self.home(group.offsets.id))).collect()
    }

    /// The description of a tensor, cut to the rows in use.
    pub(crate) fn clip(&self, tensor: Tensor, used: &[usize]) -> Meta {
        clip(tensor.meta(), self.infos[tensor.id as usize].ragged.map(|group| used[group]))
    }
}

/// Reads how many rows of a ragged group are in use; an error if offsets decrease or exceed the capacity.
pub(crate) fn rows_in_use(group: &Ragged, home: &Home) -> Result<usize> {
    let Home::Owned(buffer, offset) = home else {
        return Err(Error::invalid("the row offsets of a ragged tensor must be an input"));
    };
    let offsets: Vec<i32> = buffer.read(*offset, group.offsets.meta().elements())?;
    let mut used = 0;
    for (index, &next) in offsets.iter().enumerate() {
        match usize::try_from(next) {
            Ok(next) if (used..=group.capacity).contains(&next) => used = next,
            _ => {
                let capacity = group.capacity;
                return Err(Error::invalid(format!(
                    "row offset {index} is {next}: neither less than the one before, {used}, nor more than the plan's \
                     {capacity} rows is possible"
                )));
            }
        }
    }
    Ok(used)
}

/// A description with its leading dimension cut to the rows in use.
pub(crate) fn clip(meta: Meta, used: Option<usize>) -> Meta {
    match used {
        None => meta,
        Some(rows) => {
            let mut sizes = [1; Shape::MAX_RANK];
            let rank = meta.shape.rank();
            sizes[..rank].copy_from_slice(meta.shape.dims());
            sizes[0] = rows;
            Meta { shape: Shape::new(&sizes[..rank]).unwrap_or(meta.shape), dtype: meta.dtype }
        }
    }
}
