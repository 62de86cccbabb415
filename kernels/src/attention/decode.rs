//! One step of generation: each sequence's newest row attends to its cached rows and to itself. No backward.
//!
//! The cache stands outside: after the step the caller appends the keys and values of the new rows to it.

use crate::case::{Array, Case, Draw, Input, Reference, Tolerance};
use crate::simd::math::exp;
use crate::simd::{Float, LANES, max_of, sum_of};
use crate::vectorized;
use engine::{Cost, CpuQueue, DType, Error, Meta, Op, Out, Queue, Result, Shared, Tape, Tensor, View};
use half::bf16;
use std::sync::Arc;

/// `qkv [sequences, 3·width]` are the packed projections of the newest rows; `cache [sequences · capacity, 2·width]`
/// holds keys and values side by side, each sequence's earlier rows from row `sequence · capacity` on; `lengths
/// [sequences]` (i32) says how many there are. Returns `[sequences, width]`. Causality is in the lengths. Where
/// `sees_itself [sequences]` (i32), if given, is 0 the newest row is left out; a row that sees nothing gives zeros.
/// A length that the cache cannot hold is an error on the CPU; a GPU, whose host does not see it, takes the nearest one.
#[track_caller]
pub fn attention_decode(
    tape: &mut Tape,
    qkv: Tensor,
    cache: Tensor,
    lengths: Tensor,
    sees_itself: Option<Tensor>,
    heads: usize,
) -> Result<Tensor> {
    let inputs: Vec<Tensor> = [qkv, cache, lengths].into_iter().chain(sees_itself).collect();
    Ok(tape.push(AttentionDecode { heads }, &inputs)?[0])
}

/// The op; see [`attention_decode`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionDecode {
    /// Number of heads.
    pub heads: usize,
}

impl AttentionDecode {
    /// Number of sequences, rows of the cache for each, width.
    fn sizes(&self, inputs: &[Meta]) -> Result<(usize, usize, usize)> {
        let (qkv, cache, lengths, sees_itself) = match inputs {
            [qkv, cache, lengths] => (qkv, cache, lengths, lengths),
            [qkv, cache, lengths, sees_itself] => (qkv, cache, lengths, sees_itself),
            _ => return Err(Error::invalid(format!("expects 3 or 4 inputs, got {}", inputs.len()))),
        };
        let (sequences, columns) = (qkv.shape.rows(), qkv.shape.columns());
        let width = columns / 3;
        if !qkv.dtype.is_float() || cache.dtype != qkv.dtype || qkv.shape.rank() != 2 || cache.shape.rank() != 2 {
            return Err(Error::invalid("the projections and the cache are matrices of one dtype, f32 or bf16"));
        }
        if !columns.is_multiple_of(3) || self.heads == 0 || width == 0 || !width.is_multiple_of(self.heads) {
            return Err(Error::invalid(format!("{columns} columns are not q, k and v of {} heads", self.heads)));
        }
        if cache.shape.columns() != 2 * width || !cache.shape.rows().is_multiple_of(sequences.max(1)) {
            return Err(Error::invalid(format!(
                "the cache has {} columns and a multiple of {sequences} rows, got {cache}",
                2 * width
            )));
        }
        if let Some(wrong) =
            [lengths, sees_itself].into_iter().find(|meta| **meta != Meta::new([sequences], DType::I32))
        {
            return Err(Error::invalid(format!("lengths and self-visibility are {sequences} i32, got {wrong}")));
        }
        Ok((sequences, cache.shape.rows() / sequences.max(1), width))
    }
}

impl Op for AttentionDecode {
    fn name(&self) -> &'static str {
        "attention_decode"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let (sequences, capacity, width) = self.sizes(inputs)?;
        // Scores of a (sequence, head): the cached rows and the new one. Kernels of a GPU keep them in registers.
        let scratch = Meta::new([sequences, self.heads, capacity + 1], DType::F32);
        Ok(vec![Meta::new([sequences, width], inputs[0].dtype), scratch])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match (queue, inputs[0].meta().dtype) {
            (Queue::Cpu(cpu), DType::BF16) => self.typed::<bf16>(cpu, inputs, outputs),
            (Queue::Cpu(cpu), _) => self.typed::<f32>(cpu, inputs, outputs),
            (Queue::Cuda(queue), _) => {
                let metas: Vec<_> = inputs.iter().map(View::meta).collect();
                let (_, capacity, _) = self.sizes(&metas)?;
                super::cuda::decode(self.heads, capacity, queue, inputs, outputs)
            }
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let Ok((sequences, capacity, width)) = self.sizes(inputs) else { return Cost::default() };
        // Counted for a full cache.
        let rows = (sequences * (capacity + 1) * width) as f64;
        let bytes: usize = inputs.iter().map(Meta::bytes).sum();
        Cost { flops: 4.0 * rows, bytes: bytes as f64 }
    }
}

impl AttentionDecode {
    fn typed<T: Float>(&self, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let metas: Vec<_> = inputs.iter().map(View::meta).collect();
        let (sequences, capacity, width) = self.sizes(&metas)?;
        let (qkv, cache, lengths) = (inputs[0].slice::<T>()?, inputs[1].slice::<T>()?, inputs[2].slice::<i32>()?);
        if let Some(length) = lengths.iter().find(|&&length| length < 0 || length as usize > capacity) {
            return Err(Error::invalid(format!("a length is {length}, the cache holds 0 to {capacity} rows")));
        }
        let sees_itself = inputs.get(3).map(View::slice::<i32>).transpose()?;
        let dim = width / self.heads;
        let (result, scores) = outputs.split_at_mut(1);
        let accumulate = result[0].accumulates();
        let result = Shared::new(result[0].slice_mut::<T>()?);
        let scores = Shared::new(scores[0].slice_mut::<f32>()?);
        queue.parallel(sequences * self.heads, |pair| {
            let (sequence, head) = (pair / self.heads, pair % self.heads);
            let (start, column) = (sequence * 3 * width, head * dim);
            let rows = &cache[sequence * capacity * 2 * width..(sequence + 1) * capacity * 2 * width];
            // SAFETY: each pair has its own part of both outputs.
            let (out, scores) = unsafe {
                (
                    result.part(sequence * width + column..sequence * width + column + dim),
                    scores.part(pair * (capacity + 1)..(pair + 1) * (capacity + 1)),
                )
            };
            // What the length leaves unused is defined too.
            scores.fill(0.0);
            let work = Step {
                query: &qkv[start + column..][..dim],
                key: &qkv[start + width + column..][..dim],
                value: &qkv[start + 2 * width + column..][..dim],
                rows,
                column,
                width,
                length: lengths[sequence] as usize,
                sees_itself: sees_itself.is_none_or(|seen| seen[sequence] != 0),
                accumulate,
            };
            step(queue.isa(), &work, scores, out);
        });
        Ok(())
    }
}

/// One head of one sequence.
struct Step<'a, T> {
    query: &'a [T],
    key: &'a [T],
    value: &'a [T],
    rows: &'a [T],
    column: usize,
    width: usize,
    length: usize,
    sees_itself: bool,
    accumulate: bool,
}

impl<'a, T> Step<'a, T> {
    /// The key (part 0) or value (part 1) of a row: cached, or the new one.
    #[inline(always)]
    fn row(&self, row: usize, part: usize) -> &'a [T] {
        match (row < self.length, part) {
            (true, _) => &self.rows[row * 2 * self.width + part * self.width + self.column..][..self.query.len()],
            (false, 0) => self.key,
            (false, _) => self.value,
        }
    }
}

vectorized! {
    fn step<T: Float>(step: &Step<'_, T>, scores: &mut [f32], out: &mut [T]) {
        let dim = step.query.len();
        let scale = 1.0 / (dim as f32).sqrt();
        let scores = &mut scores[..step.length + usize::from(step.sees_itself)];
        for (row, score) in scores.iter_mut().enumerate() {
            let key = step.row(row, 0);
            *score = scale * sum_of((step.query, &key[..dim]), |[query, key]| query * key);
        }
        let largest = max_of(scores);
        scores.iter_mut().for_each(|score| *score = exp::<L>(*score - largest));
        let factor = if scores.is_empty() { 0.0 } else { 1.0 / sum_of((&*scores,), |[score]| score) };
        for (first, out) in out.chunks_mut(LANES).enumerate() {
            let mut sums = [0.0f32; LANES];
            for (row, &score) in scores.iter().enumerate() {
                let value = &step.row(row, 1)[first * LANES..];
                match value.first_chunk::<LANES>() {
                    Some(value) => (0..LANES).for_each(|lane| sums[lane] = L::fma(score, value[lane].widen(), sums[lane])),
                    None => sums.iter_mut().zip(value).for_each(|(sum, value)| *sum = L::fma(score, value.widen(), *sum)),
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = T::narrow(if step.accumulate { out.widen() + sum * factor } else { sum * factor });
            }
        }
    }
}

impl Reference for AttentionDecode {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (sequences, width) = (inputs[0].shape.rows(), inputs[0].shape.columns() / 3);
        let (capacity, dim) = (inputs[1].shape.rows() / sequences, width / self.heads);
        let mut out = Array::zeros([sequences, width]);
        for sequence in 0..sequences {
            let new = inputs[0].row(sequence);
            let mut rows: Vec<&[f64]> =
                (0..inputs[2].data[sequence] as usize).map(|row| inputs[1].row(sequence * capacity + row)).collect();
            if inputs.get(3).is_none_or(|seen| seen.data[sequence] != 0.0) {
                rows.push(&new[width..]);
            }
            for head in 0..self.heads {
                let query = &new[head * dim..(head + 1) * dim];
                let score = |row: &&[f64]| -> f64 {
                    let dot: f64 = query.iter().zip(&row[head * dim..]).map(|(a, b)| a * b).sum();
                    (dot / (dim as f64).sqrt()).exp()
                };
                let weights: Vec<f64> = rows.iter().map(score).collect();
                let total: f64 = weights.iter().sum();
                for channel in head * dim..(head + 1) * dim {
                    let sum: f64 = weights.iter().zip(&rows).map(|(weight, row)| weight * row[width + channel]).sum();
                    out.row_mut(sequence)[channel] = if rows.is_empty() { 0.0 } else { sum / total };
                }
            }
        }
        vec![out]
    }

    fn gradients(&self, inputs: &[Array], _outputs: &[Array]) -> Vec<Option<Array>> {
        vec![None; inputs.len()]
    }
}

fn case(
    lengths: &[i32],
    sees_itself: Option<&[i32]>,
    capacity: usize,
    heads: usize,
    head_dim: usize,
    dtype: DType,
) -> Case {
    let (sequences, width) = (lengths.len(), heads * head_dim);
    let op = AttentionDecode { heads };
    let mut inputs = vec![
        Input::variable([sequences, 3 * width], dtype),
        Input::variable([sequences * capacity, 2 * width], dtype),
        Input::integers(lengths),
    ];
    inputs.extend(sees_itself.map(Input::integers));
    let seen = sees_itself.map_or(String::new(), |seen| format!(" with {seen:?}"));
    Case {
        name: format!("attention_decode {lengths:?}{seen} of {capacity}, {heads} heads of {head_dim}, {dtype}"),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs,
        results: 0,
        forward: Tolerance::sum_of(2 * head_dim + capacity).scale(1.0),
        backward: Tolerance::sum_of(0),
        bench_only: false,
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        cases.push(case(&[3, 0, 7], None, 7, 2, 16, dtype));
        cases.push(case(&[2], None, 5, 3, 21, dtype));
        cases.push(case(&[2, 0, 0, 5], Some(&[0, 0, 1, 1]), 5, 2, 10, dtype));
        cases.push(case(&[70, 3], None, 70, 1, 64, dtype));
        cases.push(Case { bench_only: true, ..case(&[75; 6], None, 76, 8, 64, dtype) });
    }
    cases
}

pub(super) fn draw(draw: &mut Draw) -> Case {
    let (heads, head_dim, dtype) = (draw.integer(1, 3), draw.pick(&[16, 32, 5, 64]), draw.float());
    let (capacity, sequences) = (draw.integer(1, 20), draw.integer(1, 4));
    let lengths: Vec<i32> = (0..sequences).map(|_| draw.integer(0, capacity) as i32).collect();
    let seen: Vec<i32> = (0..sequences).map(|_| draw.integer(0, 1) as i32).collect();
    case(&lengths, draw.pick(&[true, false]).then_some(&seen), capacity, heads, head_dim, dtype)
}
