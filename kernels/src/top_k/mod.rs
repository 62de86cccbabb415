//! The k largest elements of each row with their columns: what sampling reads of logits.

mod cpu;
pub(crate) mod cuda;

use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance};
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Result, Tape, Tensor, View};
use std::sync::Arc;

/// The most elements of a row: they are sorted in the shared memory of a block.
pub const MOST: usize = 1024;

/// The `count` largest of each row of x f32 `[rows, n]`, in falling order: values f32 `[rows, count]` and their columns
/// i32 `[rows, count]`. Of equal values the one with the lower column comes first. The order is that of
/// [`f32::total_cmp`]: -0 below 0, a positive NaN above all numbers.
///
/// # Errors
/// `count` is 0, more than n or more than [`MOST`].
#[track_caller]
pub fn top_k(tape: &mut Tape, x: Tensor, count: usize) -> Result<(Tensor, Tensor)> {
    let outputs = tape.push(TopK { count }, &[x])?;
    Ok((outputs[0], outputs[1]))
}

/// The op behind [`top_k`]. The choice has no gradient.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    /// Elements of a row.
    pub count: usize,
}

impl Op for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let count = self.count;
        match inputs {
            [x] if x.dtype == DType::F32 && (1..=x.shape.columns().min(MOST)).contains(&count) => {
                let shape = [x.shape.rows(), count];
                Ok(vec![Meta::new(shape, DType::F32), Meta::new(shape, DType::I32)])
            }
            _ => Err(Error::invalid(format!("expects f32 rows of at least {count} elements, and takes 1 to {MOST} of each"))),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::run(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::run(queue, &inputs[0], outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let x = &inputs[0];
        Cost { flops: x.elements() as f64, bytes: (x.bytes() + x.shape.rows() * self.count * 8) as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Reference for TopK {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let rows = inputs[0].shape.rows();
        let (mut values, mut columns) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let x = inputs[0].row(row);
            let mut order: Vec<usize> = (0..x.len()).collect();
            order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
            order.truncate(self.count);
            values.extend(order.iter().map(|&column| x[column]));
            columns.extend(order.iter().map(|&column| column as f64));
        }
        [values, columns].map(|data| Array::new([rows, self.count], data)).into()
    }

    fn gradients(&self, _inputs: &[Array], _outputs: &[Array]) -> Vec<Option<Array>> {
        vec![None]
    }
}

fn case(what: &str, (rows, n): (usize, usize), count: usize, fill: Fill) -> Case {
    let op = TopK { count };
    Case {
        name: format!("top_k {count} of {rows}x{n}, {what}"),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs: vec![Input::data([rows, n], DType::F32, fill)],
        results: 0,
        // Elements are passed on as they are: not even the lowest bit of a column may differ.
        forward: Tolerance { roundings: 0.0, terms: 0.0, scale: 0.0 },
        backward: Tolerance::sum_of(1),
        bench_only: false,
    }
}

/// Values of which many are equal: `levels` different ones, both signs.
fn levels(count: usize, levels: usize) -> Fill {
    Fill::Values((0..count).map(|i| ((i * i * 7 + i) % levels) as f64 - (levels / 2) as f64).collect())
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let signed_zeros = Fill::Values([0.0, -0.0, -1.0].repeat(20));
    vec![
        case("random", (3, 1), 1, Fill::Normal(1.0)),
        case("random", (3, 997), 50, Fill::Normal(3.0)),
        case("as many as there may be", (2, 1600), MOST, Fill::Normal(1.0)),
        case("the last of many equal ones", (2, 1300), 40, levels(2600, 5)),
        case("whole rows", (2, 300), 300, levels(600, 3)),
        case("all equal", (1, 1030), 5, Fill::Values(vec![-2.5; 1030])),
        case("both zeros", (1, 60), 25, signed_zeros),
        Case { bench_only: true, ..case("logits", (64, 49408), 50, Fill::Normal(3.0)) },
    ]
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (rows, n) = (draw.integer(1, 4), draw.integer(1, 600));
    let count = draw.integer(1, n.min(MOST));
    if draw.flag() {
        return case("random", (rows, n), count, Fill::Normal(2.0));
    }
    case("with equal ones", (rows, n), count, levels(rows * n, draw.integer(1, 20)))
}
