//! L2 normalisation of rows: `y = x / max(|x|, 1e-12)`, as `torch.nn.functional.normalize`.

pub(crate) mod cuda;

use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance};
use crate::simd::{Float, sum_of};
use crate::vectorized;
use engine::{Cost, CpuQueue, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Shared, Tape, Target, Tensor, View};
use half::bf16;
use std::sync::Arc;

const LEAST_NORM: f32 = 1e-12;
/// Rows of a task.
const GRAIN: usize = 16;

/// Unit rows of x `[rows, n]`, f32 or bf16.
#[track_caller]
pub fn normalize(tape: &mut Tape, x: Tensor) -> Result<Tensor> {
    Ok(tape.push(Normalize, &[x])?[0])
}

/// Outputs y and the inverse norms (f32 `[rows]`).
#[derive(Clone, Copy, Debug)]
pub struct Normalize;

/// `dx = (dy - y (y · dy)) / |x|`; inputs y, inverse norms, dy.
#[derive(Clone, Copy, Debug)]
pub struct NormalizeBackward;

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [x] if x.dtype.is_float() => Ok(vec![*x, Meta::new([x.shape.rows()], DType::F32)]),
            _ => Err(Error::invalid("expects one f32 or bf16 tensor")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match (queue, inputs[0].meta().dtype) {
            (Queue::Cpu(cpu), DType::BF16) => forward::<bf16>(cpu, inputs, outputs),
            (Queue::Cpu(cpu), _) => forward::<f32>(cpu, inputs, outputs),
            (Queue::Cuda(queue), _) => cuda::forward(queue, &inputs[0], outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let inputs = [node.outputs[0], node.outputs[1], gradient];
        tape.push_into(NormalizeBackward, &inputs, &[Target::Gradient(node.inputs[0])]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 3.0 * inputs[0].elements() as f64, bytes: 2.0 * inputs[0].bytes() as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for NormalizeBackward {
    fn name(&self) -> &'static str {
        "normalize_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [y, _, dy] if y == dy => Ok(vec![*y]),
            _ => Err(Error::invalid("expects y, inverse norms and dy of y's shape and dtype")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match (queue, inputs[0].meta().dtype) {
            (Queue::Cpu(cpu), DType::BF16) => backward::<bf16>(cpu, inputs, outputs),
            (Queue::Cpu(cpu), _) => backward::<f32>(cpu, inputs, outputs),
            (Queue::Cuda(queue), _) => cuda::backward(queue, inputs, &outputs[0]),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 5.0 * inputs[0].elements() as f64, bytes: 3.0 * inputs[0].bytes() as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

fn forward<T: Float>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (x, n) = (inputs[0].slice::<T>()?, inputs[0].shape().columns());
    let [y, inverse] = outputs else { unreachable!("declared by infer") };
    let (y, inverse) = (Shared::new(y.slice_mut::<T>()?), Shared::new(inverse.slice_mut::<f32>()?));
    queue.parallel_ranges(inputs[0].shape().rows(), GRAIN, |rows| {
        let span = rows.start * n..rows.end * n;
        // SAFETY: tasks have rows of their own.
        let (y, inverse) = unsafe { (y.part(span.clone()), inverse.part(rows)) };
        forward_rows::<T>(queue.isa(), &x[span], n, y, inverse);
    });
    Ok(())
}

fn backward<T: Float>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (y, inverse, dy) = (inputs[0].slice::<T>()?, inputs[1].slice::<f32>()?, inputs[2].slice::<T>()?);
    let n = inputs[0].shape().columns();
    let accumulate = outputs[0].accumulates();
    let dx = Shared::new(outputs[0].slice_mut::<T>()?);
    queue.parallel_ranges(inputs[0].shape().rows(), GRAIN, |rows| {
        let span = rows.start * n..rows.end * n;
        // SAFETY: tasks have rows of their own.
        let dx = unsafe { dx.part(span.clone()) };
        backward_rows::<T>(queue.isa(), &y[span.clone()], &inverse[rows], &dy[span], n, dx, accumulate);
    });
    Ok(())
}

vectorized! {
    fn forward_rows<T: Float>(x: &[T], n: usize, y: &mut [T], inverse: &mut [f32]) {
        for ((x, y), inverse) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(inverse) {
            let norm = sum_of((x,), |[x]| x * x).sqrt();
            *inverse = 1.0 / if norm > LEAST_NORM { norm } else { LEAST_NORM };
            y.iter_mut().zip(x).for_each(|(y, x)| *y = T::narrow(x.widen() * *inverse));
        }
    }

    fn backward_rows<T: Float>(y: &[T], inverse: &[f32], dy: &[T], n: usize, dx: &mut [T], accumulate: bool) {
        for (row, inverse) in inverse.iter().enumerate() {
            let (y, dy) = (&y[row * n..(row + 1) * n], &dy[row * n..(row + 1) * n]);
            // A row shorter than the least norm was scaled by a constant: there is no change of norm to take out.
            let along = sum_of((y, dy), |[y, dy]| y * dy);
            let along = if *inverse >= 1.0 / LEAST_NORM { 0.0 } else { along };
            for ((dx, y), dy) in dx[row * n..(row + 1) * n].iter_mut().zip(y).zip(dy) {
                let value = (dy.widen() - y.widen() * along) * inverse;
                *dx = T::narrow(if accumulate { dx.widen() + value } else { value });
            }
        }
    }
}

impl Reference for NormalizeBackward {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (y, inverses, mut dx) = (&inputs[0], &inputs[1].data, inputs[2].clone());
        for (row, &inverse) in inverses.iter().enumerate() {
            let y = y.row(row);
            let along: f64 = y.iter().zip(dx.row(row)).map(|(y, dy)| y * dy).sum();
            let along = if inverse < f64::from(1.0 / LEAST_NORM) { along } else { 0.0 };
            dx.row_mut(row).iter_mut().zip(y).for_each(|(dx, y)| *dx = (*dx - y * along) * inverse);
        }
        vec![dx]
    }

    fn gradients(&self, _inputs: &[Array], _outputs: &[Array]) -> Vec<Option<Array>> {
        vec![None, None, None]
    }
}

impl Reference for Normalize {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (mut y, rows) = (inputs[0].clone(), inputs[0].shape.rows());
        let mut inverses = Array::zeros([rows]);
        for row in 0..rows {
            let norm = y.row(row).iter().map(|x| x * x).sum::<f64>().sqrt();
            inverses.data[row] = 1.0 / norm.max(f64::from(LEAST_NORM));
            y.row_mut(row).iter_mut().for_each(|x| *x *= inverses.data[row]);
        }
        vec![y, inverses]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let [y, inverses] = <[Array; 2]>::try_from(self.forward(inputs)).expect("y and inverses");
        NormalizeBackward.forward(&[y, inverses, outputs[0].clone()]).into_iter().map(Some).collect()
    }
}

fn case(rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        name: format!("normalize {dtype}[{rows}, {columns}]"),
        op: Arc::new(Normalize),
        reference: Arc::new(Normalize),
        inputs: vec![Input::variable([rows, columns], dtype)],
        results: 1,
        forward: Tolerance::sum_of(columns),
        // y is read back rounded, twice.
        backward: Tolerance::sum_of(2 * columns).roundings(6.0).scale(1.0),
        bench_only: false,
    }
}

/// Rows shorter than the least norm. Central differences would step over the corner there: no gradient is asked for.
fn vanishing(dtype: DType) -> Case {
    let input = Input::data([3, 16], dtype, Fill::Normal(1e-14));
    let name = format!("normalize {dtype}[3, 16], shorter than the least norm");
    Case { name, inputs: vec![input], results: 0, ..case(3, 16, dtype) }
}

/// The gradient of such rows.
fn vanishing_backward(dtype: DType) -> Case {
    let inverse = f64::from(1.0 / LEAST_NORM);
    let (y, dy) = (Input::data([3, 16], dtype, Fill::Normal(0.1)), Input::data([3, 16], dtype, Fill::Normal(1.0)));
    let inverses = Input::data([3], DType::F32, Fill::Values(vec![1.0, inverse, inverse]));
    Case {
        name: format!("normalize_backward {dtype}[3, 16], two of them shorter than the least norm"),
        op: Arc::new(NormalizeBackward),
        reference: Arc::new(NormalizeBackward),
        inputs: vec![y, inverses, dy],
        results: 0,
        ..case(3, 16, dtype)
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let of = |dtype| {
        let lengths = [case(5, 67, dtype), case(33, 192, dtype), case(9, 520, dtype)];
        lengths.into_iter().chain([vanishing(dtype), vanishing_backward(dtype)])
    };
    [DType::F32, DType::BF16].into_iter().flat_map(of).collect()
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    case(draw.integer(1, 40), draw.integer(6, 90), draw.float())
}
