//! Tiny f32 ops. All element-wise ones work in place; `TimesMean` has a saved statistic and dirties its scratch.

use engine::cpu::Isa;
use engine::{
    Cost, CpuQueue, DType, Error, Meta, Op, Out, Queue, Recompute, Recorded, Result, Shape, Tape, Target, Tensor, View,
};

/// One thread, plain code.
pub fn queue() -> Queue {
    Queue::Cpu(CpuQueue::new(Isa::Scalar, 1).expect("a thread"))
}

/// Description of an f32 tensor.
pub fn f32s(shape: impl Into<Shape>) -> Meta {
    Meta::new(shape, DType::F32)
}

/// Pushes an op and takes its first output.
#[track_caller]
pub fn push(tape: &mut Tape, op: impl Op + 'static, inputs: &[Tensor]) -> Tensor {
    tape.push(op, inputs).expect("push")[0]
}

/// Element `index` of an input.
pub fn at(view: &View<'_>, index: usize) -> f32 {
    assert!(index < view.meta().elements(), "element {index} of {}", view.meta());
    // SAFETY: inside the input, which is f32 by the op's `infer`.
    unsafe { *view.pointer().cast::<f32>().add(index) }
}

/// Sets or adds `value(index)` to each element. Element `index` of an input in place must be read by that call.
pub fn each(out: &mut Out<'_>, value: impl Fn(usize) -> f32) {
    let (count, adds, to) = (out.meta().elements(), out.accumulates(), out.pointer().cast::<f32>());
    for index in 0..count {
        let value = value(index);
        // SAFETY: inside the output, which is f32 by the op's `infer`.
        unsafe { *to.add(index) = if adds { *to.add(index) + value } else { value } };
    }
}

/// `count` f32 inputs of one shape.
pub fn same(inputs: &[Meta], count: usize) -> Result<Vec<Meta>> {
    match inputs {
        [first, ..] if inputs.len() == count && inputs.iter().all(|m| m == first && m.dtype == DType::F32) => {
            Ok(vec![*first])
        }
        _ => Err(Error::invalid(format!("expects {count} f32 tensors of one shape"))),
    }
}

/// One operation an input element, each operand touched once.
pub fn streaming(inputs: &[Meta]) -> Cost {
    let elements: usize = inputs.iter().map(Meta::elements).sum();
    Cost { flops: elements as f64, bytes: inputs.iter().map(Meta::bytes).sum::<usize>() as f64 }
}

/// `factor · a · b`.
#[derive(Clone, Copy, Debug)]
pub struct Product(pub f32);

impl Op for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 2)
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        each(&mut outputs[0], |index| self.0 * at(&inputs[0], index) * at(&inputs[1], index));
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let (a, b) = (node.inputs[0], node.inputs[1]);
        tape.push_into(*self, &[gradient, b], &[Target::Gradient(a)])?;
        tape.push_into(*self, &[gradient, a], &[Target::Gradient(b)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }

    fn in_place(&self) -> &[(usize, usize)] {
        &[(0, 0), (0, 1)]
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

/// `a + b`; the gradient is passed on without a copy where the tape allows it.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 2)
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        each(&mut outputs[0], |index| at(&inputs[0], index) + at(&inputs[1], index));
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        for &input in &node.inputs {
            if tape.needs_gradient(input) && !tape.donate_gradient(input, gradient)? {
                tape.push_into(Scale(1.0), &[gradient], &[Target::Gradient(input)])?;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }

    fn in_place(&self) -> &[(usize, usize)] {
        &[(0, 0), (0, 1)]
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

/// `factor · a`.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub f32);

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        each(&mut outputs[0], |index| self.0 * at(&inputs[0], index));
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        tape.push_into(*self, &[gradient], &[Target::Gradient(node.inputs[0])]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }

    fn in_place(&self) -> &[(usize, usize)] {
        &[(0, 0)]
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

/// `a²`; cheap to compute again.
#[derive(Clone, Copy, Debug)]
pub struct Square;

impl Op for Square {
    fn name(&self) -> &'static str {
        "square"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        each(&mut outputs[0], |index| at(&inputs[0], index) * at(&inputs[0], index));
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        tape.push_into(Product(2.0), &[gradient, node.inputs[0]], &[Target::Gradient(node.inputs[0])]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }

    fn recompute(&self) -> Recompute {
        Recompute::Cheap
    }

    fn in_place(&self) -> &[(usize, usize)] {
        &[(0, 0)]
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

/// Each row times its mean; or, given a gradient, the row and the mean, the gradient of that.
#[derive(Clone, Copy, Debug)]
pub struct TimesMean {
    pub is_backward: bool,
}

impl Op for TimesMean {
    fn name(&self) -> &'static str {
        if self.is_backward { "times_mean_backward" } else { "times_mean" }
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let row = inputs[0];
        let scratch = Meta::new([3 * row.elements()], DType::U8);
        if self.is_backward { Ok(vec![row, scratch]) } else { Ok(vec![row, f32s([row.shape.rows()]), scratch]) }
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let columns = inputs[0].shape().columns();
        let row_of = |index: usize| index / columns * columns..(index / columns + 1) * columns;
        let [rest @ .., scratch] = outputs else { return Err(Error::invalid("no scratch")) };
        scratch.slice_mut::<u8>()?.fill(0xee);
        let x = &inputs[usize::from(self.is_backward)];
        if self.is_backward {
            let gradient = &inputs[0];
            each(&mut rest[0], |index| {
                let dot: f32 = row_of(index).map(|other| at(gradient, other) * at(x, other)).sum();
                at(&inputs[2], index / columns) * at(gradient, index) + dot / columns as f32
            });
        } else {
            let mean = |index: usize| row_of(index).map(|other| at(x, other)).sum::<f32>() / columns as f32;
            each(&mut rest[0], |index| at(x, index) * mean(index));
            each(&mut rest[1], |row| mean(row * columns));
        }
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let (Some(gradient), x) = (gradients[0], node.inputs[0]) else { return Ok(()) };
        let backward = TimesMean { is_backward: true };
        tape.push_into(backward, &[gradient, x, node.outputs[1]], &[Target::Gradient(x)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        (output < 2 - usize::from(self.is_backward)).then_some(0)
    }
}

/// Each row `times` times side by side; or, folding, the sum of its `times` parts.
#[derive(Clone, Copy, Debug)]
pub struct Repeat {
    pub times: usize,
    pub folds: bool,
}

impl Op for Repeat {
    fn name(&self) -> &'static str {
        if self.folds { "fold" } else { "repeat" }
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let (rows, columns) = (inputs[0].shape.rows(), inputs[0].shape.columns());
        Ok(vec![f32s([rows, if self.folds { columns / self.times } else { columns * self.times }])])
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let (from, to) = (inputs[0].shape().columns(), outputs[0].shape().columns());
        each(&mut outputs[0], |index| {
            let (row, column) = (index / to, index % to);
            if self.folds {
                (0..self.times).map(|part| at(&inputs[0], row * from + part * to + column)).sum()
            } else {
                at(&inputs[0], row * from + column % from)
            }
        });
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let other = Repeat { folds: !self.folds, ..*self };
        tape.push_into(other, &[gradient], &[Target::Gradient(node.inputs[0])]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

/// Sum of all elements, in order.
#[derive(Clone, Copy, Debug)]
pub struct Total;

impl Op for Total {
    fn name(&self) -> &'static str {
        "total"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1).map(|_| vec![f32s([1])])
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let total = inputs[0].slice::<f32>()?.iter().sum();
        each(&mut outputs[0], |_| total);
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let (Some(gradient), x) = (gradients[0], node.inputs[0]) else { return Ok(()) };
        tape.push_into(Spread(x.shape()), &[gradient], &[Target::Gradient(x)]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}

/// A scalar in every element of a shape. It has no backward.
#[derive(Clone, Copy, Debug)]
pub struct Spread(pub Shape);

impl Op for Spread {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        if inputs != [f32s([1])] {
            return Err(Error::invalid("expects an f32 scalar"));
        }
        Ok(vec![f32s(self.0)])
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        each(&mut outputs[0], |_| at(&inputs[0], 0));
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}
