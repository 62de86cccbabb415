//! Cases travel with the op: one description is test, gradient check, poison run, determinism check and bench.
//!
//! A [`Case`] is an op, its inputs and a plain f64 [`Reference`]. `kernels/tests/suite.rs` runs every case of every op
//! on every instruction set; property tests draw further ones from [`Draw`].

mod program;

pub use program::{CaseProgram, Pass, read, write};

use engine::rng::Philox;
use engine::{DType, Meta, Op, Shape};
use std::fmt::Debug;
use std::sync::Arc;

/// A tensor of the reference: exact shapes, f64 values.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Shape.
    pub shape: Shape,
    /// Row-major values.
    pub data: Vec<f64>,
}

impl Array {
    /// An array from its parts. The count must be the shape's.
    pub fn new(shape: impl Into<Shape>, data: Vec<f64>) -> Array {
        let shape = shape.into();
        assert_eq!(shape.elements(), data.len(), "reference array of {shape} has {} values", data.len());
        Array { shape, data }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        Array { shape, data: vec![0.0; shape.elements()] }
    }

    /// Row `row` of the array seen as a matrix of its innermost dimension.
    pub fn row(&self, row: usize) -> &[f64] {
        let columns = self.shape.columns();
        &self.data[row * columns..(row + 1) * columns]
    }

    /// As [`Array::row`], to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        let columns = self.shape.columns();
        &mut self.data[row * columns..(row + 1) * columns]
    }
}

/// The obviously right version of an op, in f64 and plain loops. Ragged inputs arrive cut to the rows in use.
pub trait Reference: Debug + Send + Sync {
    /// The first outputs of the op: all that are compared (scratch may be left out).
    fn forward(&self, inputs: &[Array]) -> Vec<Array>;

    /// Gradient of each input (`None` for inputs without one), given the gradients of the op's results.
    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>>;

    /// Element `index` of output `output` alone, where one takes much less work than all: what is too large to be compared
    /// whole is compared at some places.
    fn element(&self, inputs: &[Array], output: usize, index: usize) -> Option<f64> {
        let _ = (inputs, output, index);
        None
    }
}

/// How the values of an input are made.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform between two bounds.
    Uniform(f64, f64),
    /// These values.
    Values(Vec<f64>),
}

/// What an input is to the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No gradient.
    Data,
    /// Has a gradient in its own dtype.
    Variable,
    /// A parameter: its gradient is f32.
    Parameter,
}

/// One input of a case.
#[derive(Clone, Debug)]
pub struct Input {
    /// Shape (full capacity) and dtype.
    pub meta: Meta,
    /// Its values.
    pub fill: Fill,
    /// What it is to the tape.
    pub role: Role,
    /// The input that holds the row offsets that bound its leading dimension.
    pub ragged: Option<usize>,
}

impl Input {
    /// An activation: standard normal, with a gradient.
    pub fn variable(shape: impl Into<Shape>, dtype: DType) -> Input {
        Input { meta: Meta::new(shape, dtype), fill: Fill::Normal(1.0), role: Role::Variable, ragged: None }
    }

    /// A parameter: normal, with an f32 gradient.
    pub fn parameter(shape: impl Into<Shape>, dtype: DType) -> Input {
        Input { role: Role::Parameter, ..Input::variable(shape, dtype) }
    }

    /// Data without a gradient.
    pub fn data(shape: impl Into<Shape>, dtype: DType, fill: Fill) -> Input {
        Input { meta: Meta::new(shape, dtype), fill, role: Role::Data, ragged: None }
    }

    /// Integers, such as token ids or row offsets.
    pub fn integers(values: &[i32]) -> Input {
        Input::data([values.len()], DType::I32, Fill::Values(values.iter().map(|&value| value.into()).collect()))
    }

    /// With other values.
    pub fn fill(self, fill: Fill) -> Input {
        Input { fill, ..self }
    }

    /// With its leading dimension bounded by the last element of input `offsets`.
    pub fn ragged(self, offsets: usize) -> Input {
        Input { ragged: Some(offsets), ..self }
    }
}

/// Where the error of a result comes from. The bound of an element is
/// `(roundings · ε(dtype) + terms · ε(f32)) · (largest magnitude in the reference, at least `scale`)`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Roundings to the storage type on the longest path, the final one included.
    pub roundings: f64,
    /// Roundings in f32 on the longest path: terms of a sum, steps of a polynomial.
    pub terms: f64,
    /// A lower bound of the magnitude that errors are relative to: the size of intermediates that cancel.
    pub scale: f64,
}

impl Tolerance {
    /// One rounding to storage and `terms` f32 operations.
    pub fn sum_of(terms: usize) -> Tolerance {
        Tolerance { roundings: 1.0, terms: terms as f64 + 8.0, scale: 0.0 }
    }

    /// With this many roundings to the storage type.
    pub fn roundings(self, roundings: f64) -> Tolerance {
        Tolerance { roundings, ..self }
    }

    /// With errors relative to at least this magnitude.
    pub fn scale(self, scale: f64) -> Tolerance {
        Tolerance { scale, ..self }
    }

    /// The largest error of an element of this dtype beside these exact values.
    pub fn bound(&self, dtype: DType, exact: &[f64]) -> f64 {
        let largest = exact.iter().fold(self.scale, |largest, value| largest.max(value.abs()));
        (self.roundings * dtype.epsilon() + self.terms * f64::from(f32::EPSILON)) * largest
    }
}

/// Rows and columns of benches of what memory bounds: a tensor of 64 MiB in f32, beyond the caches.
pub(crate) const BEYOND_CACHES: (usize, usize) = (16384, 1024);

/// An op, its inputs and its reference.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it, with shapes.
    pub name: String,
    /// The op under test.
    pub op: Arc<dyn Op>,
    /// The plain version.
    pub reference: Arc<dyn Reference>,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// The outputs that a gradient flows back from: the first `results` ones. 0 for ops without a backward.
    pub results: usize,
    /// Error bound of the outputs.
    pub forward: Tolerance,
    /// Error bound of the gradients.
    pub backward: Tolerance,
    /// True for shapes of real models that only benches run; tests skip them.
    pub bench_only: bool,
}

/// Draws shapes and choices for property tests: a list of random words, so that proptest can shrink them.
#[derive(Clone, Debug)]
pub struct Draw {
    words: Vec<u32>,
    next: usize,
}

impl Draw {
    /// From random words; after the last one every draw gives its smallest value.
    pub fn new(words: Vec<u32>) -> Draw {
        Draw { words, next: 0 }
    }

    /// An integer from `low` to `high`, both included.
    pub fn integer(&mut self, low: usize, high: usize) -> usize {
        let word = self.words.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        low + word as usize % (high - low + 1)
    }

    /// One of two.
    pub fn flag(&mut self) -> bool {
        self.integer(0, 1) == 1
    }

    /// One of the given values.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.integer(0, values.len() - 1)]
    }

    /// f32 or bf16.
    pub fn float(&mut self) -> DType {
        self.pick(&[DType::F32, DType::BF16])
    }
}

impl Case {
    /// Values for every input, rounded to its dtype, from a seed.
    pub fn values(&self, seed: u64) -> Vec<Array> {
        values(&self.inputs, seed)
    }

    /// `values` with ragged inputs cut to the rows in use.
    pub fn clip(&self, values: &[Array]) -> Vec<Array> {
        clip(&self.inputs, values)
    }
}

/// Values that are drawn for one input at most, which then repeat: no divisor of any row or tile, so that no two rows are alike
/// that a kernel could mix up.
const DRAWN: usize = (1 << 21) - 9;

/// As [`Case::values`].
pub fn values(inputs: &[Input], seed: u64) -> Vec<Array> {
    (inputs.iter().enumerate())
        .map(|(index, input)| {
            let mut random = Philox::new(seed, index as u64);
            let count = input.meta.elements();
            let mut draw = |value: &mut dyn FnMut(&mut Philox) -> f64| -> Vec<f64> {
                let drawn = (0..count.min(DRAWN)).map(|_| round(value(&mut random), input.meta.dtype));
                let drawn: Vec<f64> = drawn.collect();
                if count <= DRAWN { drawn } else { drawn.into_iter().cycle().take(count).collect() }
            };
            let data = match &input.fill {
                Fill::Normal(deviation) => draw(&mut |random| random.normal() * deviation),
                Fill::Uniform(low, high) => draw(&mut |random| low + (high - low) * random.uniform()),
                Fill::Values(values) => values.iter().map(|&value| round(value, input.meta.dtype)).collect(),
            };
            Array::new(input.meta.shape, data)
        })
        .collect()
}

/// As [`Case::clip`].
pub fn clip(inputs: &[Input], values: &[Array]) -> Vec<Array> {
    (values.iter().zip(inputs))
        .map(|(array, input)| match input.ragged {
            None => array.clone(),
            Some(offsets) => {
                let rows = values[offsets].data.last().copied().unwrap_or(0.0) as usize;
                let mut sizes = array.shape.dims().to_vec();
                let stride = array.data.len() / sizes[0].max(1);
                sizes[0] = rows;
                let shape = Shape::new(&sizes).unwrap_or(array.shape);
                Array { shape, data: array.data[..rows * stride].to_vec() }
            }
        })
        .collect()
}

/// The storage type that gradients of these inputs pass through: the coarsest of their own.
pub fn coarsest(inputs: &[Input]) -> DType {
    let floats = inputs.iter().map(|input| input.meta.dtype).filter(|dtype| dtype.is_float());
    floats.max_by(|a, b| a.epsilon().total_cmp(&b.epsilon())).unwrap_or(DType::F32)
}

/// The nearest value of a dtype.
pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::BF16 => half::bf16::from_f32(value as f32).to_f64(),
        DType::I32 | DType::U8 => value.trunc(),
    }
}
