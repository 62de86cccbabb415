//! CPU attention: one task per (sequence, head) pair, or per (group of sequences, head) when the query is shared.
//!
//! A task copies its head's rows into contiguous f32 scratch (keys transposed), then goes over blocks of queries and
//! tiles of keys. Everything it touches more than once stays in the second-level cache for the usual lengths.

use super::geometry::{Columns, Geometry, Sequences};
use super::lanes::{self, Kernel};
use super::pack::{Delta, Load, Storage, Store, Transpose};
use super::scratch::with_scratch;
use super::softmax::{Block, KeyMask, OnlineSoftmax, SoftmaxBackward, fill_bias};
use super::tile::{Limit, Multiply, TILE_ROWS};
use super::{Attention, SHARED_QUERY_GROUPS, Source, Visibility};
use engine::cpu::Isa;
use engine::{CpuQueue, DType, Out, Result, View};
use half::bf16;
use std::ops::Range;

/// Keys of a tile: a block of scores and the tile's keys and values fit the second-level cache.
const TILE_KEYS: usize = 320;
/// Queries of a block.
const FORWARD_QUERIES: usize = 8 * TILE_ROWS;
const BACKWARD_QUERIES: usize = 16 * TILE_ROWS;
/// All widest vectors are whole multiples of this many elements' divisors.
const VECTOR: usize = 16;

/// Runs the forward op.
pub(super) fn forward(op: &Attention, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => typed_forward::<bf16>(op, queue, inputs, outputs),
        _ => typed_forward::<f32>(op, queue, inputs, outputs),
    }
}

/// Runs the backward op.
pub(super) fn backward(op: &Attention, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => typed_backward::<bf16>(op, queue, inputs, outputs),
        _ => typed_backward::<f32>(op, queue, inputs, outputs),
    }
}

/// A tensor of head columns, shared by tasks that touch disjoint parts of it.
#[derive(Clone, Copy, Debug)]
struct Matrix<T> {
    start: *mut T,
    columns: Columns,
    accumulate: bool,
}

// SAFETY: tasks write disjoint rows and columns, see `Call`.
unsafe impl<T> Send for Matrix<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Matrix<T> {}

impl<T> Matrix<T> {
    fn read(view: &View<'_>, columns: Columns) -> Matrix<T> {
        Matrix { start: view.pointer().cast_mut().cast(), columns, accumulate: false }
    }

    fn write(out: &mut Out<'_>, columns: Columns) -> Matrix<T> {
        Matrix { start: out.pointer().cast(), columns, accumulate: out.accumulates() }
    }

    fn accumulating(&self, accumulate: bool) -> Matrix<T> {
        Matrix { start: self.start, columns: self.columns, accumulate }
    }

    /// Address of `row` at the first column of a head.
    fn at(&self, row: usize, column: usize) -> *mut T {
        self.start.wrapping_add(row * self.columns.stride + self.columns.start + column)
    }
}

/// What all tasks of a call share. A task reads and writes only the rows of its sequences and the columns of its head.
#[derive(Clone, Copy, Debug)]
struct Call<'a> {
    isa: Isa,
    head_dim: usize,
    causal: bool,
    scale: f32,
    sequences: Sequences<'a>,
}

/// Keys of one tile, and where its matrices start in scratch.
#[derive(Clone, Debug)]
struct Tile {
    keys: Range<usize>,
    /// Elements between rows of transposed keys and of score blocks.
    stride: usize,
}

impl Call<'_> {
    fn new<'a>(op: &Attention, isa: Isa, geometry: &Geometry, inputs: &[View<'a>]) -> Result<Call<'a>> {
        Ok(Call {
            isa,
            head_dim: geometry.head_dim,
            causal: op.visibility != Visibility::All,
            scale: 1.0 / (geometry.head_dim as f32).sqrt(),
            sequences: Sequences::read(op, inputs)?,
        })
    }

    /// Columns of a scratch row.
    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(VECTOR)
    }

    fn run<K: Kernel>(&self, kernel: K) -> K::Output {
        // SAFETY: the queue's path is available; pointers come from tensors and scratch sized for the kernels.
        unsafe { lanes::run(self.isa, kernel) }
    }

    fn load<T: Storage>(&self, from: &Matrix<T>, rows: Range<usize>, column: usize, to: *mut f32, scale: f32) {
        self.run(Load {
            from: from.at(rows.start, column).cast_const(),
            from_stride: from.columns.stride,
            to,
            to_stride: self.padded(),
            rows: rows.len(),
            columns: self.head_dim,
            scale,
        });
    }

    fn transpose<T: Storage>(&self, from: &Matrix<T>, first_row: usize, column: usize, tiles: &Tiles, to: *mut f32) {
        for tile in tiles.iter() {
            self.run(Transpose {
                from: from.at(first_row + tile.keys.start, column).cast_const(),
                from_stride: from.columns.stride,
                to: to.wrapping_add(tile.keys.start / tiles.length * self.head_dim * tiles.stride),
                to_stride: tiles.stride,
                rows: tile.keys.len(),
                columns: self.head_dim,
            });
        }
    }

    fn store<T: Storage>(
        &self,
        from: *const f32,
        to: &Matrix<T>,
        rows: Range<usize>,
        column: usize,
        scale: f32,
        factors: Option<*const f32>,
    ) {
        self.run(Store {
            from,
            from_stride: self.padded(),
            to: to.at(rows.start, column),
            to_stride: to.columns.stride,
            rows: rows.len(),
            columns: self.head_dim,
            scale,
            factors,
            accumulate: to.accumulate,
        });
    }

    fn limit(&self, of: impl Fn(isize) -> Limit, shift: isize) -> Limit {
        if self.causal { of(shift) } else { Limit::None }
    }
}

/// Splits the keys of a sequence into tiles of nearly equal length.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    keys: usize,
    /// Keys of a tile, the last may have fewer.
    length: usize,
    stride: usize,
}

impl Tiles {
    fn new(keys: usize) -> Tiles {
        let count = keys.div_ceil(TILE_KEYS).max(1);
        let length = keys.div_ceil(count).max(1);
        // An odd number of cache lines keeps the rows of a panel from falling into the same sets.
        let lines = length.div_ceil(VECTOR);
        let stride = VECTOR * if lines > 4 { lines | 1 } else { lines };
        Tiles { keys, length, stride }
    }

    fn count(&self) -> usize {
        self.keys.div_ceil(self.length)
    }

    fn iter(&self) -> impl Iterator<Item = Tile> {
        let tiles = *self;
        (0..tiles.count()).map(move |index| Tile {
            keys: index * tiles.length..((index + 1) * tiles.length).min(tiles.keys),
            stride: tiles.stride,
        })
    }

    /// Elements of all transposed tiles.
    fn elements(&self, head_dim: usize) -> usize {
        self.count() * self.stride * head_dim
    }
}

/// Splits `count` queries into blocks of nearly equal length, at most `largest`, each a multiple of a register tile.
fn blocks(count: usize, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let number = count.div_ceil(largest).max(1);
    let length = count.div_ceil(number).next_multiple_of(TILE_ROWS);
    (0..count).step_by(length.max(1)).map(move |start| start..(start + length).min(count))
}

fn typed_forward<T: Storage>(
    op: &Attention,
    queue: &CpuQueue,
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let metas: Vec<_> = inputs.iter().map(View::meta).collect();
    let geometry = Geometry::check(op, &metas)?;
    let call = Call::new(op, queue.isa(), &geometry, inputs)?;
    let [q, k, v] = geometry.columns(op.source);
    let keys_in = &inputs[op.tensors() - 1];
    let (query, key, value) = (Matrix::<T>::read(&inputs[0], q), Matrix::read(keys_in, k), Matrix::read(keys_in, v));
    let (result, statistics) = outputs.split_at_mut(1);
    let result = Matrix::<T>::write(&mut result[0], Columns { start: 0, stride: geometry.width });
    let log_sum_exp = Matrix::<f32>::write(&mut statistics[0], Columns { start: 0, stride: op.heads });
    queue.parallel(geometry.sequences * op.heads, |pair| {
        let (sequence, head) = (pair / op.heads, pair % op.heads);
        call.forward_pair(sequence, head, [&query, &key, &value], &result, &log_sum_exp);
    });
    Ok(())
}

impl Call<'_> {
    /// The result and the log-sum-exp of one head of one sequence.
    fn forward_pair<T: Storage>(
        &self,
        sequence: usize,
        head: usize,
        [query, key, value]: [&Matrix<T>; 3],
        result: &Matrix<T>,
        log_sum_exp: &Matrix<f32>,
    ) {
        let (queries, keys) = (self.sequences.queries(sequence), self.sequences.keys(sequence));
        let first_output = self.sequences.outputs(sequence).start;
        let column = head * self.head_dim;
        let (dim, padded, tiles) = (self.head_dim, self.padded(), Tiles::new(keys.len()));
        let block_rows = queries.len().min(FORWARD_QUERIES);
        let sizes = [
            tiles.elements(dim),
            keys.len() * padded,
            block_rows * padded,
            block_rows * padded,
            block_rows * tiles.stride,
            block_rows,
            block_rows,
            tiles.count() * tiles.stride,
        ];
        if queries.is_empty() {
            return;
        }
        with_scratch(sizes, |[keys_t, values, block_q, block_o, scores, largest, total, bias]| {
            self.transpose(key, keys.start, column, &tiles, keys_t);
            self.load(value, keys.clone(), column, values, 1.0);
            self.fill_biases(sequence, &tiles, bias);
            for block in blocks(queries.len(), FORWARD_QUERIES) {
                let rows = queries.start + block.start..queries.start + block.end;
                self.load(query, rows, column, block_q, self.scale);
                let mut first = true;
                for (index, tile) in tiles.iter().enumerate() {
                    if self.causal && tile.keys.start >= block.end {
                        break;
                    }
                    let scores_of = self.block(sequence, &block, &tile, bias.wrapping_add(index * tiles.stride));
                    let shift = scores_of.shift();
                    let keys_t = keys_t.wrapping_add(index * dim * tiles.stride);
                    let limit = self.limit(Limit::Columns, shift);
                    self.multiply_scores(block_q, keys_t, scores, &scores_of, limit);
                    self.run(OnlineSoftmax {
                        block: scores_of,
                        scores,
                        largest,
                        total,
                        values: block_o,
                        columns: padded,
                        first,
                    });
                    self.run(Multiply {
                        a: scores,
                        a_strides: (tiles.stride, 1),
                        b: values.wrapping_add(tile.keys.start * padded),
                        b_stride: padded,
                        c: block_o,
                        c_stride: padded,
                        rows: block.len(),
                        columns: dim,
                        depth: tile.keys.len(),
                        accumulate: !first,
                        limit: self.limit(Limit::DepthEnd, shift),
                    });
                    first = false;
                }
                self.finish_block(&block, first, largest, total, |row| log_sum_exp.at(first_output + row, head));
                if first {
                    // No keys at all.
                    // SAFETY: the block's part of scratch.
                    unsafe { block_o.write_bytes(0, block.len() * padded) };
                }
                let rows = first_output + block.start..first_output + block.end;
                self.store(block_o, result, rows, column, 1.0, Some(total.cast_const()));
            }
        });
    }

    /// Writes the log-sum-exp of a block and turns totals into factors 1 / total; 0 for rows that saw nothing.
    fn finish_block(
        &self,
        block: &Range<usize>,
        empty: bool,
        largest: *mut f32,
        total: *mut f32,
        statistic: impl Fn(usize) -> *mut f32,
    ) {
        for (index, row) in block.clone().enumerate() {
            // SAFETY: one entry a row of the block; this task alone writes the statistics of its rows and head.
            unsafe {
                let (largest, total) = (*largest.add(index), &mut *total.add(index));
                let seen = !empty && largest > f32::NEG_INFINITY;
                *statistic(row) = if seen { largest + total.ln() } else { 0.0 };
                *total = if seen { 1.0 / *total } else { 0.0 };
            }
        }
    }

    fn fill_biases(&self, sequence: usize, tiles: &Tiles, bias: *mut f32) {
        let Some(bits) = self.sequences.bits(sequence) else { return };
        for (index, tile) in tiles.iter().enumerate() {
            let bias = bias.wrapping_add(index * tiles.stride);
            // SAFETY: scratch holds a stride of elements for each tile.
            fill_bias(&bits[tile.keys], unsafe { std::slice::from_raw_parts_mut(bias, tiles.stride) });
        }
    }

    fn block<'b>(&'b self, sequence: usize, queries: &Range<usize>, tile: &Tile, bias: *const f32) -> Block<'b> {
        let bits = self.sequences.bits(sequence);
        Block {
            first_query: queries.start,
            queries: queries.len(),
            first_key: tile.keys.start,
            keys: tile.keys.len(),
            stride: tile.stride,
            causal: self.causal,
            key_mask: bits.map(|bits| KeyMask { bits: &bits[tile.keys.clone()], bias }),
        }
    }

    /// scores = rows · transposed, where `transposed` is a tile `[head_dim, stride]`.
    fn multiply_scores(&self, rows: *const f32, transposed: *const f32, to: *mut f32, block: &Block<'_>, limit: Limit) {
        self.run(Multiply {
            a: rows,
            a_strides: (self.padded(), 1),
            b: transposed,
            b_stride: block.stride,
            c: to,
            c_stride: block.stride,
            rows: block.queries,
            columns: block.keys,
            depth: self.head_dim,
            accumulate: false,
            limit,
        });
    }
}

fn typed_backward<T: Storage>(
    op: &Attention,
    queue: &CpuQueue,
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let own = op.input_count();
    let metas: Vec<_> = inputs[..own].iter().map(View::meta).collect();
    let geometry = Geometry::check(op, &metas)?;
    let call = Call::new(op, queue.isa(), &geometry, &inputs[..own])?;
    let [q, k, v] = geometry.columns(op.source);
    let results = Columns { start: 0, stride: geometry.width };
    let keys_in = &inputs[op.tensors() - 1];
    let read = Operands {
        query: Matrix::<T>::read(&inputs[0], q),
        key: Matrix::read(keys_in, k),
        value: Matrix::read(keys_in, v),
        result: Matrix::read(&inputs[own], results),
        log_sum_exp: Matrix::read(&inputs[own + 1], Columns { start: 0, stride: op.heads }),
        gradient: Matrix::read(&inputs[own + 2], results),
    };
    let keys_out = &mut outputs[op.tensors() - 1];
    let (dkey, dvalue) = (Matrix::<T>::write(keys_out, k), Matrix::<T>::write(keys_out, v));
    if op.source != Source::SharedQuery {
        let dquery = Matrix::<T>::write(&mut outputs[0], q);
        queue.parallel(geometry.sequences * op.heads, |pair| {
            let (sequence, head) = (pair / op.heads, pair % op.heads);
            let rows = call.sequences.queries(sequence);
            call.backward_pair(sequence, head, &read, &dquery, rows.start, [&dkey, &dvalue]);
        });
        return Ok(());
    }
    // The sequences of a group are added up in order by one task, then the groups in order.
    let groups = geometry.sequences.min(SHARED_QUERY_GROUPS);
    let rows = inputs[0].shape().rows();
    let partial = Matrix::<f32>::write(&mut outputs[2], q);
    queue.parallel(groups * op.heads, |task| {
        let (group, head) = (task / op.heads, task % op.heads);
        let members = group * geometry.sequences / groups..(group + 1) * geometry.sequences / groups;
        for sequence in members.clone() {
            let dquery = partial.accumulating(sequence > members.start);
            call.backward_pair(sequence, head, &read, &dquery, group * rows, [&dkey, &dvalue]);
        }
    });
    let dquery = Matrix::<T>::write(&mut outputs[0], q);
    queue.parallel(rows, |row| {
        for column in 0..geometry.width {
            // SAFETY: inside both tensors; each task has its own row.
            unsafe {
                let target = dquery.at(row, column);
                let mut sum = 0.0;
                for group in 0..groups {
                    sum += *partial.at(group * rows + row, column);
                }
                *target = T::narrow(if dquery.accumulate { (*target).widen() + sum } else { sum });
            }
        }
    });
    Ok(())
}

/// What the backward pass reads.
#[derive(Clone, Copy, Debug)]
struct Operands<T> {
    query: Matrix<T>,
    key: Matrix<T>,
    value: Matrix<T>,
    result: Matrix<T>,
    log_sum_exp: Matrix<f32>,
    gradient: Matrix<T>,
}

impl Call<'_> {
    /// The gradients of one head of one sequence. Query gradients go to the rows from `first_gradient` on.
    fn backward_pair<T: Storage, Q: Storage>(
        &self,
        sequence: usize,
        head: usize,
        read: &Operands<T>,
        dquery: &Matrix<Q>,
        first_gradient: usize,
        [dkey, dvalue]: [&Matrix<T>; 2],
    ) {
        let (queries, keys) = (self.sequences.queries(sequence), self.sequences.keys(sequence));
        let first_output = self.sequences.outputs(sequence).start;
        let column = head * self.head_dim;
        let (dim, padded, tiles) = (self.head_dim, self.padded(), Tiles::new(keys.len()));
        let block_rows = queries.len().min(BACKWARD_QUERIES);
        let (rows_size, key_size, block_size) = (block_rows * padded, keys.len() * padded, block_rows * tiles.stride);
        let sizes = [
            tiles.elements(dim),
            tiles.elements(dim),
            key_size,
            key_size,
            key_size,
            rows_size,
            rows_size,
            rows_size,
            block_size,
            block_size,
            block_rows,
            block_rows,
            tiles.count() * tiles.stride,
        ];
        with_scratch(
            sizes,
            |[keys_t, values_t, key_rows, dkeys, dvalues, block_q, block_do, block_dq, scores, dscores, lse, delta, bias]| {
                self.transpose(&read.key, keys.start, column, &tiles, keys_t);
                self.transpose(&read.value, keys.start, column, &tiles, values_t);
                self.load(&read.key, keys.clone(), column, key_rows, 1.0);
                self.fill_biases(sequence, &tiles, bias);
                // SAFETY: these parts of scratch have this size.
                unsafe {
                    dkeys.write_bytes(0, key_size);
                    dvalues.write_bytes(0, key_size);
                }
                for block in blocks(queries.len(), BACKWARD_QUERIES) {
                    let rows = queries.start + block.start..queries.start + block.end;
                    let result_rows = first_output + block.start..first_output + block.end;
                    self.load(&read.query, rows, column, block_q, self.scale);
                    self.load(&read.gradient, result_rows.clone(), column, block_do, 1.0);
                    self.run(Delta {
                        result: read.result.at(result_rows.start, column).cast_const(),
                        result_stride: read.result.columns.stride,
                        gradient: block_do,
                        gradient_stride: padded,
                        delta,
                        rows: block.len(),
                        columns: dim,
                    });
                    for (index, row) in result_rows.enumerate() {
                        // SAFETY: one entry a row of the block.
                        unsafe { *lse.add(index) = *read.log_sum_exp.at(row, head) };
                    }
                    // SAFETY: this part of scratch has this size.
                    unsafe { block_dq.write_bytes(0, block.len() * padded) };
                    for (index, tile) in tiles.iter().enumerate() {
                        if self.causal && tile.keys.start >= block.end {
                            break;
                        }
                        let scores_of = self.block(sequence, &block, &tile, bias.wrapping_add(index * tiles.stride));
                        let (at_tile, at_rows) = (index * dim * tiles.stride, tile.keys.start * padded);
                        let shift = scores_of.shift();
                        let limit = self.limit(Limit::Columns, shift);
                        self.multiply_scores(block_q, keys_t.wrapping_add(at_tile), scores, &scores_of, limit);
                        self.multiply_scores(block_do, values_t.wrapping_add(at_tile), dscores, &scores_of, limit);
                        self.run(SoftmaxBackward {
                            block: scores_of,
                            scores,
                            gradients: dscores,
                            log_sum_exp: lse,
                            delta,
                        });
                        let product = Multiply {
                            a: scores,
                            a_strides: (1, tiles.stride),
                            b: block_do,
                            b_stride: padded,
                            c: dvalues.wrapping_add(at_rows),
                            c_stride: padded,
                            rows: tile.keys.len(),
                            columns: dim,
                            depth: block.len(),
                            accumulate: true,
                            limit: self.limit(Limit::DepthStart, shift),
                        };
                        self.run(product);
                        self.run(Multiply { a: dscores, b: block_q, c: dkeys.wrapping_add(at_rows), ..product });
                        self.run(Multiply {
                            a: dscores,
                            a_strides: (tiles.stride, 1),
                            b: key_rows.wrapping_add(at_rows),
                            b_stride: padded,
                            c: block_dq,
                            c_stride: padded,
                            rows: block.len(),
                            columns: dim,
                            depth: tile.keys.len(),
                            accumulate: true,
                            limit: self.limit(Limit::DepthEnd, shift),
                        });
                    }
                    let rows = first_gradient + block.start..first_gradient + block.end;
                    self.store(block_dq, dquery, rows, column, self.scale, None);
                }
                self.store(dkeys, dkey, keys.clone(), column, 1.0, None);
                self.store(dvalues, dvalue, keys.clone(), column, 1.0, None);
            },
        );
    }
}
