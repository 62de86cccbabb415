//! CPU backward pass: probabilities again from the log-sum-exp, five products for each block of queries and tile of keys.

use super::cpu::{Call, Left, Matrix, Target, Tiles, blocks};
use super::geometry::{Columns, Geometry};
use super::pack::row_dots;
use super::pairs::pair_across_rows;
use super::scratch::with_scratch;
use super::softmax::{Block, softmax_backward};
use super::tile::{Limit, Multiply, TILE_ROWS};
use super::{Attention, SHARED_QUERY_GROUPS, Source};
use crate::simd::registers::Stored;
use engine::{CpuQueue, DType, Out, Result, View};
use half::bf16;

/// Most queries of a block.
const QUERIES: usize = 16 * TILE_ROWS;

/// Runs the backward op.
pub(super) fn backward(op: &Attention, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => typed::<bf16>(op, queue, inputs, outputs),
        _ => typed::<f32>(op, queue, inputs, outputs),
    }
}

/// What the pass reads, and the gradients of keys and values.
struct Operands<'a, T> {
    query: Matrix<'a, T>,
    key: Matrix<'a, T>,
    value: Matrix<'a, T>,
    result: Matrix<'a, T>,
    log_sum_exp: Matrix<'a, f32>,
    gradient: Matrix<'a, T>,
    dkey: Target<'a, T>,
    dvalue: Target<'a, T>,
}

fn typed<T: Stored>(op: &Attention, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (own, tensors) = (op.input_count(), op.tensors());
    let metas: Vec<_> = inputs[..own].iter().map(View::meta).collect();
    let geometry = Geometry::check(op, &metas)?;
    let call = Call::new(op, queue.isa(), &geometry, &inputs[..own])?;
    let [q, k, v] = geometry.columns(op.source);
    let results = Columns { start: 0, stride: geometry.width };
    let (query_outputs, rest) = outputs.split_at_mut(tensors - 1);
    let (key_outputs, scratch) = rest.split_at_mut(1);
    let dkey = Target::<T>::new(&mut key_outputs[0], k)?;
    let operands = Operands {
        query: Matrix::<T>::new(&inputs[0], q)?,
        key: Matrix::new(&inputs[tensors - 1], k)?,
        value: Matrix::new(&inputs[tensors - 1], v)?,
        result: Matrix::new(&inputs[own], results)?,
        log_sum_exp: Matrix::new(&inputs[own + 1], Columns { start: 0, stride: op.heads })?,
        gradient: Matrix::new(&inputs[own + 2], results)?,
        dkey,
        dvalue: dkey.at(v),
    };
    let dquery = match query_outputs.first_mut() {
        Some(out) => Target::<T>::new(out, q)?,
        None => dkey.at(q),
    };
    if op.source != Source::SharedQuery {
        queue.parallel(geometry.sequences * op.heads, |pair| {
            let (sequence, head) = (pair / op.heads, pair % op.heads);
            let first = call.sequences.queries(sequence).start;
            call.backward_pair(sequence, head, &operands, &dquery, first);
        });
        return Ok(());
    }
    // The sequences of a group are added up in order by one task, then the groups in order.
    let groups = geometry.sequences.min(SHARED_QUERY_GROUPS);
    let rows = inputs[0].shape().rows();
    let partial = Target::<f32>::new(&mut scratch[0], q)?.accumulating(false);
    queue.parallel(groups * op.heads, |task| {
        let (group, head) = (task / op.heads, task % op.heads);
        let members = group * geometry.sequences / groups..(group + 1) * geometry.sequences / groups;
        for sequence in members.clone() {
            let sum = partial.accumulating(sequence > members.start);
            call.backward_pair(sequence, head, &operands, &sum, group * rows);
        }
    });
    queue.parallel(rows, |row| {
        // SAFETY: the partial sums are complete and only read from here on; each task has its own row of the gradient.
        let (target, sums) = unsafe {
            let sums = |group: usize| &*partial.part(group * rows + row, 0, geometry.width);
            (dquery.part(row, 0, geometry.width), sums)
        };
        for (column, target) in target.iter_mut().enumerate() {
            let sum: f32 = (0..groups).map(|group| sums(group)[column]).sum();
            *target = T::narrow(if dquery.accumulate { target.widen() + sum } else { sum });
        }
    });
    Ok(())
}

impl Call<'_> {
    /// The gradients of one head of one sequence. Query gradients go to the rows from `first_gradient` on.
    fn backward_pair<T: Stored, Q: Stored>(
        &self,
        sequence: usize,
        head: usize,
        operands: &Operands<'_, T>,
        dquery: &Target<'_, Q>,
        first_gradient: usize,
    ) {
        let (queries, keys) = (self.sequences.queries(sequence), self.sequences.keys(sequence));
        let first_output = self.sequences.outputs(sequence).start;
        let column = head * self.head_dim;
        let (padded, tiles) = (self.padded(), Tiles::new(keys.len()));
        let elements = self.transposed(&tiles);
        let block_rows = queries.len().min(QUERIES).next_multiple_of(2);
        let (rows, all_keys, block) = (block_rows * padded, keys.len() * padded, block_rows * tiles.stride);
        let transposed = tiles.count() * elements;
        let all_biases = tiles.count() * tiles.stride;
        let sizes = [
            transposed, transposed, all_keys, all_keys, all_keys, rows, rows, rows, block, block, block_rows, block_rows,
            all_biases,
        ];
        with_scratch(sizes, |parts| {
            let [keys_t, values_t, key_rows, dkeys, dvalues, block_q, block_do, block_dq, parts @ ..] = parts;
            let [scores, dscores, log_sum_exp, delta, biases] = parts;
            self.transpose(&operands.key, keys.start, column, &tiles, keys_t);
            self.transpose(&operands.value, keys.start, column, &tiles, values_t);
            self.across(&operands.key, &keys, column, key_rows);
            self.fill_biases(sequence, &tiles, biases);
            dkeys.fill(0.0);
            dvalues.fill(0.0);
            for block in blocks(queries.len(), QUERIES) {
                let rows = queries.start + block.start..queries.start + block.end;
                let result_rows = first_output + block.start..first_output + block.end;
                self.across(&operands.query, &rows, column, block_q);
                self.across(&operands.gradient, &result_rows, column, block_do);
                // What is not pairs is the same along rows and across.
                let [queries_along, gradients_along] = match self.pairs {
                    true => [(&operands.query, &rows), (&operands.gradient, &result_rows)]
                        .map(|(matrix, rows)| self.along(matrix, rows, column, &mut [])),
                    false => [&*block_q, &*block_do].map(|words| Left { words, stride: padded }),
                };
                let (results, gradients) = (&operands.result, &operands.gradient);
                let (stride, delta) = (results.stride(), &mut delta[..block.len()]);
                let (results, gradients) = (results.rows(&result_rows, column), gradients.rows(&result_rows, column));
                row_dots(self.isa, results, gradients, stride, self.head_dim, delta);
                let statistics = operands.log_sum_exp.rows(&result_rows, head);
                let statistics = statistics.iter().step_by(operands.log_sum_exp.stride());
                log_sum_exp.iter_mut().zip(statistics).take(block.len()).for_each(|(to, from)| *to = *from);
                block_dq.fill(0.0);
                let visible = if self.causal { block.end } else { keys.len() };
                for (index, tile) in tiles.iter().enumerate().take_while(|(_, tile)| tile.start < visible) {
                    let part = self.block(sequence, &block, &tiles, index, biases);
                    let (words_from, keys_from) = (self.words(tile.start) * padded, tile.start * padded);
                    self.multiply_scores(queries_along, &keys_t[index * elements..], scores, &part);
                    self.multiply_scores(gradients_along, &values_t[index * elements..], dscores, &part);
                    softmax_backward(self.isa, &part, scores, dscores, log_sum_exp, delta);
                    let (probabilities, gradients) = match self.pairs {
                        true => {
                            pair_across_rows(&part, scores, dscores);
                            (&*scores, &scores[tiles.stride..])
                        }
                        false => (&*scores, &*dscores),
                    };
                    self.multiply_by_queries(probabilities, block_do, &mut dvalues[keys_from..], &part);
                    self.multiply_by_queries(gradients, block_q, &mut dkeys[keys_from..], &part);
                    self.multiply_by_keys(dscores, &key_rows[words_from..], block_dq, &part, true);
                }
                let rows = first_gradient + block.start..first_gradient + block.end;
                // SAFETY: this task alone writes the columns of its head in the rows of its sequence.
                unsafe { self.store(block_dq, dquery, rows, column, &[self.scale]) };
            }
            // SAFETY: as above.
            unsafe {
                self.store(dkeys, &operands.dkey, keys.clone(), column, &[self.scale]);
                self.store(dvalues, &operands.dvalue, keys.clone(), column, &[1.0]);
            }
        });
    }

    /// result += transposed scores · rows of queries. Pairs of scores are those of two queries, two rows apart from the next.
    fn multiply_by_queries(&self, scores: &[f32], rows: &[f32], result: &mut [f32], block: &Block<'_>) {
        Multiply {
            pairs: self.pairs,
            a: scores,
            a_strides: (1, block.stride * if self.pairs { 2 } else { 1 }),
            b: rows,
            b_stride: self.padded(),
            c: result,
            c_stride: self.padded(),
            rows: block.keys,
            columns: self.head_dim,
            depth: self.words(block.queries),
            accumulate: true,
            limit: self.limit(Limit::DepthStart, block),
        }
        .run(self.isa);
    }
}
