//! Shapes and the shape-plus-dtype description of a tensor. Everything is contiguous and row-major.

use crate::{DType, Error, Result};
use std::fmt;

/// Sizes of up to four dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; Shape::MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The largest number of dimensions.
    pub const MAX_RANK: usize = 4;

    /// A shape from its sizes; an error beyond four dimensions.
    pub fn new(sizes: &[usize]) -> Result<Shape> {
        if sizes.len() > Shape::MAX_RANK {
            return Err(Error::invalid(format!("shape {sizes:?} has more than {} dimensions", Shape::MAX_RANK)));
        }
        let mut dims = [1; Shape::MAX_RANK];
        dims[..sizes.len()].copy_from_slice(sizes);
        Ok(Shape { dims, rank: sizes.len() as u8 })
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements (1 for a scalar); the largest integer if there are more.
    pub fn elements(&self) -> usize {
        product(self.dims())
    }

    /// The size of the innermost dimension (1 for a scalar).
    pub fn columns(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        match self.dims() {
            [] => 1,
            [outer @ .., _] => product(outer),
        }
    }
}

fn product(sizes: &[usize]) -> usize {
    if sizes.contains(&0) { 0 } else { sizes.iter().fold(1, |product, &size| product.saturating_mul(size)) }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Shape {
        const { assert!(N <= Shape::MAX_RANK, "a shape has at most four dimensions") };
        let mut dims = [1; Shape::MAX_RANK];
        dims[..N].copy_from_slice(&sizes);
        Shape { dims, rank: N as u8 }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is known of a tensor without its contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Sizes of the dimensions.
    pub shape: Shape,
    /// Storage type.
    pub dtype: DType,
}

impl Meta {
    /// A description from a shape and a dtype.
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> Meta {
        Meta { shape: shape.into(), dtype }
    }

    /// Bytes of the contents; the largest integer if there are more.
    pub fn bytes(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
