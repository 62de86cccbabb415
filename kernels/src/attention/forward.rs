//! CPU forward pass: online softmax over tiles of keys, one tile for the lengths that CoCa has.

use super::cpu::{Call, Matrix, Target, Tiles, blocks};
use super::geometry::{Columns, Geometry};
use super::scratch::with_scratch;
use super::pairs::pair_along_rows;
use super::softmax::{Running, log_sum_exp, online_softmax};
use super::tile::TILE_ROWS;
use super::Attention;
use crate::simd::registers::Stored;
use engine::{CpuQueue, DType, Out, Result, View};
use half::bf16;

/// Most queries of a block.
const QUERIES: usize = 8 * TILE_ROWS;

/// Runs the forward op.
pub(super) fn forward(op: &Attention, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => typed::<bf16>(op, queue, inputs, outputs),
        _ => typed::<f32>(op, queue, inputs, outputs),
    }
}

/// What the pass reads and writes.
struct Operands<'a, T> {
    query: Matrix<'a, T>,
    key: Matrix<'a, T>,
    value: Matrix<'a, T>,
    result: Target<'a, T>,
    log_sum_exp: Target<'a, f32>,
}

fn typed<T: Stored>(op: &Attention, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let metas: Vec<_> = inputs.iter().map(View::meta).collect();
    let geometry = Geometry::check(op, &metas)?;
    let call = Call::new(op, queue.isa(), &geometry, inputs)?;
    let [q, k, v] = geometry.columns(op.source);
    let keys = &inputs[op.tensors() - 1];
    let (results, statistics) = outputs.split_at_mut(1);
    let operands = Operands {
        query: Matrix::<T>::new(&inputs[0], q)?,
        key: Matrix::new(keys, k)?,
        value: Matrix::new(keys, v)?,
        result: Target::new(&mut results[0], Columns { start: 0, stride: geometry.width })?,
        log_sum_exp: Target::new(&mut statistics[0], Columns { start: 0, stride: op.heads })?,
    };
    queue.parallel(geometry.sequences * op.heads, |pair| {
        call.forward_pair(pair / op.heads, pair % op.heads, &operands);
    });
    Ok(())
}

impl Call<'_> {
    /// The result and the log-sum-exp of one head of one sequence.
    fn forward_pair<T: Stored>(&self, sequence: usize, head: usize, operands: &Operands<'_, T>) {
        let (queries, keys) = (self.sequences.queries(sequence), self.sequences.keys(sequence));
        if queries.is_empty() {
            return;
        }
        let first_output = self.sequences.outputs(sequence).start;
        let column = head * self.head_dim;
        let (padded, tiles) = (self.padded(), Tiles::new(keys.len()));
        let elements = self.transposed(&tiles);
        let block_rows = queries.len().min(QUERIES);
        let sizes = [
            tiles.count() * elements,
            self.words(keys.len()) * padded,
            block_rows * padded,
            block_rows * padded,
            block_rows * tiles.stride,
            block_rows,
            block_rows,
            tiles.count() * tiles.stride,
        ];
        with_scratch(sizes, |[keys_t, values, block_q, block_o, scores, largest, total, biases]| {
            self.transpose(&operands.key, keys.start, column, &tiles, keys_t);
            self.across(&operands.value, &keys, column, values);
            self.fill_biases(sequence, &tiles, biases);
            for block in blocks(queries.len(), QUERIES) {
                let rows = queries.start + block.start..queries.start + block.end;
                let queries = self.along(&operands.query, &rows, column, block_q);
                let visible = if self.causal { block.end } else { keys.len() };
                if keys.is_empty() {
                    largest.fill(f32::NEG_INFINITY);
                    block_o.fill(0.0);
                }
                for (index, tile) in tiles.iter().enumerate().take_while(|(_, tile)| tile.start < visible) {
                    let first = index == 0;
                    let part = self.block(sequence, &block, &tiles, index, biases);
                    self.multiply_scores(queries, &keys_t[index * elements..], scores, &part);
                    let mut running = Running { largest, total, values: block_o, columns: padded, first };
                    online_softmax(self.isa, &part, scores, &mut running);
                    if self.pairs {
                        pair_along_rows(&part, scores);
                    }
                    self.multiply_by_keys(scores, &values[self.words(tile.start) * padded..], block_o, &part, !first);
                }
                let (largest, total) = (&mut largest[..block.len()], &mut total[..block.len()]);
                log_sum_exp(self.isa, largest, total, self.scale);
                for (row, &value) in (first_output + block.start..).zip(&*largest) {
                    // SAFETY: this task alone writes the statistics of its rows and head.
                    let statistic = unsafe { operands.log_sum_exp.part(row, head, 1) };
                    statistic[0] = if operands.log_sum_exp.accumulate { statistic[0] + value } else { value };
                }
                let rows = first_output + block.start..first_output + block.end;
                // SAFETY: this task alone writes the columns of its head in the rows of its sequence.
                unsafe { self.store(block_o, &operands.result, rows, column, total) };
            }
        });
    }
}
