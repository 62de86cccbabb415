//! The logarithm of the sum of exponentials of each row: what turns logits into log-probabilities.

mod cpu;
pub(crate) mod cuda;

use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance};
use crate::simd::LANES;
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Result, Tape, Tensor, View};
use std::sync::Arc;

/// `y[i] = ln(sum_j exp(x[i, j]))`: x f32 `[rows, n]`, y f32 `[rows]`. What is not finite in a row
/// makes y so too, but for minus infinity beside numbers, which adds nothing. For generation: it has no gradient.
#[track_caller]
pub fn log_sum_exp(tape: &mut Tape, x: Tensor) -> Result<Tensor> {
    Ok(tape.push(LogSumExp, &[x])?[0])
}

/// The op behind [`log_sum_exp`].
#[derive(Clone, Copy, Debug)]
pub struct LogSumExp;

impl Op for LogSumExp {
    fn name(&self) -> &'static str {
        "log_sum_exp"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [x] if x.dtype == DType::F32 && x.shape.rank() == 2 && x.shape.columns() > 0 => {
                Ok(vec![Meta::new([x.shape.rows()], DType::F32)])
            }
            _ => Err(Error::invalid("expects f32 [rows, n] with n of at least 1")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::run(cpu, &inputs[0], &mut outputs[0]),
            Queue::Cuda(queue) => cuda::run(queue, &inputs[0], &outputs[0]),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 4.0 * inputs[0].elements() as f64, bytes: inputs[0].bytes() as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Reference for LogSumExp {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let rows = inputs[0].shape.rows();
        let row = |row| {
            let x = inputs[0].row(row);
            let largest = x.iter().fold(f64::NEG_INFINITY, |largest, &x| largest.max(x));
            largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
        };
        vec![Array::new([rows], (0..rows).map(row).collect())]
    }

    fn gradients(&self, _inputs: &[Array], _outputs: &[Array]) -> Vec<Option<Array>> {
        vec![None]
    }
}

fn case(what: &str, (rows, n): (usize, usize), fill: Fill) -> Case {
    Case {
        name: format!("log_sum_exp {rows}x{n}, {what}"),
        op: Arc::new(LogSumExp),
        reference: Arc::new(LogSumExp),
        inputs: vec![Input::data([rows, n], DType::F32, fill)],
        results: 0,
        // A relative error of the sum is an absolute one of its logarithm, hence the scale; a lane adds n / LANES terms.
        forward: Tolerance::sum_of(n.div_ceil(LANES) + LANES).scale(1.0),
        backward: Tolerance::sum_of(1),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let far = [-3e4, 2e4, 2e4 - 1.0].into_iter().chain([-2e4; 37]).collect();
    vec![
        case("random", (3, 1), Fill::Normal(3.0)),
        case("random", (5, 67), Fill::Normal(1.0)),
        case("random, more than a block reads at once", (2, 9001), Fill::Normal(3.0)),
        case("whole packs", (3, 512), Fill::Normal(3.0)),
        case("far apart", (2, 20), Fill::Values(far)),
        case("all equal", (2, 1000), Fill::Values(vec![-700.5; 2000])),
        Case { bench_only: true, ..case("logits", (64, 49408), Fill::Normal(3.0)) },
    ]
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let shape = (draw.integer(1, 4), draw.integer(1, 600));
    case("random", shape, Fill::Normal([0.1, 1.0, 10.0][draw.integer(0, 2)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_shows() {
        let mut tape = Tape::eager(Queue::cpu_from_env().expect("a queue"));
        let rows = [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2], [f32::NEG_INFINITY, 2.5]];
        let x = tape.input("x", Meta::new([4, 2], DType::F32)).expect("x");
        tape.write(x, rows.as_flattened()).expect("written");
        let y = log_sum_exp(&mut tape, x).expect("y");
        let y = tape.read::<f32>(y).expect("read");
        assert!(y[..3].iter().all(|y| !y.is_finite()), "{y:?}");
        assert_eq!(y[3], 2.5);
    }
}
