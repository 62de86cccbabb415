//! Where a tensor stands in a file: element type, shape and strides over a byte range that was checked once.

use super::FileDtype;
use engine::{Error, Result};
use std::ops::Range;

/// Most dimensions of a stored tensor.
const MOST_RANK: usize = 8;

/// One tensor of a file. Every element lies inside the file: `new` is the only maker.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: FileDtype,
    pub(super) shape: Vec<usize>,
    /// In elements, one per dimension.
    strides: Vec<usize>,
    /// Byte position in the file of the first element.
    start: usize,
}

impl Entry {
    /// A tensor whose elements begin `offset` elements into the storage at the byte range `storage` of the file.
    /// An error if an element lies outside it, or if there are more elements than the storage has: a few bytes
    /// repeated by strides of zero could otherwise ask for any amount of memory.
    pub(super) fn new(
        dtype: FileDtype,
        storage: Range<usize>,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Result<Entry> {
        if shape.len() > MOST_RANK || strides.len() != shape.len() {
            return Err(Error::invalid(format!(
                "{} dimensions and {} strides; at most {MOST_RANK}, as many of both, are supported",
                shape.len(),
                strides.len()
            )));
        }
        let stored = storage.len() / dtype.bytes();
        let outside = || {
            Error::invalid(format!(
                "shape {shape:?} with strides {strides:?} at offset {offset} does not fit a storage of {stored} elements"
            ))
        };
        let elements = product(&shape).ok_or_else(outside)?;
        if offset > stored || elements > stored {
            return Err(outside());
        }
        // One past the last element's index; an empty tensor has no element to place.
        let end = match elements {
            0 => Some(offset),
            _ => shape
                .iter()
                .zip(&strides)
                .try_fold(offset + 1, |end, (size, stride)| end.checked_add((size - 1).checked_mul(*stride)?)),
        };
        if end.is_none_or(|end| end > stored) {
            return Err(outside());
        }
        Ok(Entry { dtype, start: storage.start + offset * dtype.bytes(), shape, strides })
    }

    /// A row-major tensor that fills the byte range.
    pub(super) fn contiguous(dtype: FileDtype, range: Range<usize>, shape: Vec<usize>) -> Result<Entry> {
        let bytes = product(&shape).and_then(|elements| elements.checked_mul(dtype.bytes()));
        if bytes != Some(range.len()) {
            return Err(Error::invalid(format!(
                "shape {shape:?} of {} does not take the {} bytes that it has",
                dtype.name(),
                range.len()
            )));
        }
        let strides = row_major(&shape);
        Entry::new(dtype, range, 0, shape, strides)
    }

    /// Number of elements.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Reads all elements in row-major order as f32. `out` has as many elements as the tensor.
    pub(super) fn read(&self, file: &[u8], out: &mut [f32]) -> Result<()> {
        let bytes = self.dtype.bytes();
        if out.is_empty() {
            return Ok(());
        }
        // The longest tail of dimensions that lies in a row, read at once.
        let natural = row_major(&self.shape);
        let ordered = |axis: &usize| self.shape[*axis] == 1 || self.strides[*axis] == natural[*axis];
        let outer = self.shape.len() - (0..self.shape.len()).rev().take_while(ordered).count();
        let run: usize = self.shape[outer..].iter().product();
        let mut index = vec![0; outer];
        for out in out.chunks_mut(run) {
            let offset: usize = index.iter().zip(&self.strides).map(|(index, stride)| index * stride).sum();
            let start = self.start + offset * bytes;
            self.dtype.widen(&file[start..start + run * bytes], out).ok_or_else(|| {
                Error::invalid(format!("its type is {}; weights are F32, F16 or BF16", self.dtype.name()))
            })?;
            for axis in (0..outer).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(())
    }
}

/// Number of elements, unless it overflows.
fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size))
}

/// Strides of a row-major tensor. Sizes whose product overflows only because of a later zero give strides that are unused.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(count: usize) -> Vec<u8> {
        (0..count).flat_map(|value| (value as f32).to_le_bytes()).collect()
    }

    fn read(shape: &[usize], strides: &[usize], offset: usize) -> Result<Vec<f32>> {
        let file = file(24);
        let entry = Entry::new(FileDtype::F32, 0..file.len(), offset, shape.to_vec(), strides.to_vec())?;
        let mut out = vec![f32::NAN; entry.elements()];
        entry.read(&file, &mut out)?;
        Ok(out)
    }

    #[test]
    fn strides_are_followed() {
        assert_eq!(read(&[2, 3], &[3, 1], 4).unwrap(), [4., 5., 6., 7., 8., 9.]);
        assert_eq!(read(&[3, 2], &[1, 3], 0).unwrap(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(read(&[2, 2, 2], &[12, 4, 1], 1).unwrap(), [1., 2., 5., 6., 13., 14., 17., 18.]);
        assert_eq!(read(&[2, 1, 2], &[2, 77, 1], 20).unwrap(), [20., 21., 22., 23.]);
        assert_eq!(read(&[], &[], 23).unwrap(), [23.]);
        assert_eq!(read(&[0, 5], &[5, 1], 24).unwrap(), [0.0f32; 0]);
    }

    #[test]
    fn tensors_outside_their_storage_are_refused() {
        for (shape, strides, offset) in [
            (vec![], vec![], 24),
            (vec![25], vec![1], 0),
            (vec![2], vec![24], 0),
            (vec![2], vec![usize::MAX], 1),
            (vec![1], vec![1], usize::MAX),
            (vec![usize::MAX, usize::MAX], vec![0, 0], 0),
            (vec![1000], vec![0], 0),
            (vec![2, 2], vec![1], 0),
            (vec![1; 9], vec![1; 9], 0),
        ] {
            assert!(read(&shape, &strides, offset).is_err(), "{shape:?} {strides:?} {offset}");
        }
    }
}
