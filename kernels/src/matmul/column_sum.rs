//! Sums over rows: the gradient of a bias.

use super::cuda;
use crate::simd::Float;
use crate::vectorized;
use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Result, Shared, View};
use half::bf16;

/// x `[rows…, n]` (f32 or bf16) to f32 `[n]`. Each column is summed from the first row to the last.
#[derive(Clone, Copy, Debug)]
pub struct ColumnSum;

/// Columns of a task.
const COLUMNS: usize = 64;

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "column_sum"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [x] if x.dtype.is_float() => Ok(vec![Meta::new([x.shape.columns()], DType::F32)]),
            _ => Err(Error::invalid("expects one f32 or bf16 tensor")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let cpu = match queue {
            Queue::Cpu(cpu) => cpu,
            Queue::Cuda(queue) => return cuda::column_sum(queue, &inputs[0], &mut outputs[0]),
        };
        let accumulate = outputs[0].accumulates();
        let out = Shared::new(outputs[0].slice_mut::<f32>()?);
        let columns = inputs[0].shape().columns();
        let is_bf16 = inputs[0].meta().dtype == DType::BF16;
        let (narrow, wide) = if is_bf16 { (inputs[0].slice::<bf16>()?, &[][..]) } else { (&[][..], inputs[0].slice()?) };
        cpu.parallel_ranges(columns, COLUMNS, |range| {
            // SAFETY: tasks have ranges of their own.
            let out = unsafe { out.part(range.clone()) };
            if is_bf16 {
                sum_columns::<bf16>(cpu.isa(), narrow, columns, range.start, out, accumulate);
            } else {
                sum_columns::<f32>(cpu.isa(), wide, columns, range.start, out, accumulate);
            }
        });
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let bytes = inputs.iter().map(Meta::bytes).sum::<usize>() as f64;
        Cost { flops: inputs.iter().map(Meta::elements).sum::<usize>() as f64, bytes }
    }
}

vectorized! {
    fn sum_columns<T: Float>(x: &[T], columns: usize, first: usize, out: &mut [f32], accumulate: bool) {
        let width = out.len();
        let mut sums = [0.0f32; COLUMNS];
        let sums = &mut sums[..width];
        for row in x.chunks_exact(columns) {
            for (sum, value) in sums.iter_mut().zip(&row[first..first + width]) {
                *sum += value.widen();
            }
        }
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out = if accumulate { *out + sum } else { *sum };
        }
    }
}
