//! CPU code of the embeddings.

use super::CLASS_ID;
use crate::elementwise::{add_to, write_sum};
use crate::rows::scatter_add;
use crate::simd::registers::Stored;
use crate::simd::{LINE, Write, prefetch};
use engine::{CpuQueue, DType, Error, Out, Result, Shared, View};
use half::bf16;

/// Rows that are fetched ahead, from all over a table.
const AHEAD: usize = 2;

/// Rows of a task at least; columns of a reduction task.
const ROWS: usize = 32;
const COLUMNS: usize = 64;

pub(super) fn text(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (ids, at) = checked(inputs, inputs[2].shape().rows(), inputs[3].shape().rows())?;
    match outputs[0].meta().dtype {
        DType::BF16 => text_typed::<bf16>(queue, ids, at, inputs, outputs),
        _ => text_typed::<f32>(queue, ids, at, inputs, outputs),
    }
}

/// Ids and positions, of which each has a row.
fn checked<'a>(inputs: &'a [View<'_>], vocabulary: usize, positions: usize) -> Result<(&'a [i32], &'a [i32])> {
    let (ids, at) = (inputs[0].slice::<i32>()?, inputs[1].slice::<i32>()?);
    for (what, values, count, least) in [("id", ids, vocabulary, CLASS_ID), ("position", at, positions, 0)] {
        if let Some(row) = values.iter().position(|&value| value < least || value >= count as i32) {
            return Err(Error::invalid(format!("{what} {} of row {row} is not below {count}", values[row])));
        }
    }
    Ok((ids, at))
}

fn text_typed<T: Stored>(
    queue: &CpuQueue,
    ids: &[i32],
    at: &[i32],
    inputs: &[View<'_>],
    outputs: &mut [Out<'_>],
) -> Result<()> {
    let (tokens, positions, class) =
        (inputs[2].slice::<f32>()?, inputs[3].slice::<f32>()?, inputs[4].slice::<f32>()?);
    let n = class.len();
    let write = Write::of::<T>(false, ids.len() * n);
    let out = Shared::new(outputs[0].slice_mut::<T>()?);
    let token = |row: usize| if ids[row] == CLASS_ID { class } else { &tokens[ids[row] as usize * n..][..n] };
    queue.parallel_spans(ids.len(), ROWS, |range| {
        for row in range {
            if row + AHEAD < ids.len() {
                token(row + AHEAD).chunks(LINE / size_of::<f32>()).for_each(|line| prefetch(line.as_ptr().cast()));
            }
            let token = token(row);
            // SAFETY: tasks have rows of their own.
            let out = unsafe { out.part(row * n..(row + 1) * n) };
            write_sum(queue.isa(), token, &positions[at[row] as usize * n..][..n], out, write);
        }
        write.finish();
    });
    Ok(())
}

pub(super) fn text_backward(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[2].meta().dtype {
        DType::BF16 => text_backward_typed::<bf16>(queue, inputs, outputs),
        _ => text_backward_typed::<f32>(queue, inputs, outputs),
    }
}

fn text_backward_typed<T: Stored>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let dy = inputs[2].slice::<T>()?;
    let [tokens, positions, class, ..] = outputs else { unreachable!("declared by infer") };
    let (ids, at) = checked(inputs, tokens.shape().rows(), positions.shape().rows())?;
    // `scatter_add` passes over negative indices: the class rows of the token table, all others of the class table.
    scatter_add::<T, f32>(queue, ids, dy, tokens)?;
    scatter_add::<T, f32>(queue, at, dy, positions)?;
    let n = class.meta().elements();
    let accumulate = class.accumulates();
    let class = class.slice_mut::<f32>()?;
    if !accumulate {
        class.fill(0.0);
    }
    for (row, _) in ids.iter().enumerate().filter(|&(_, &id)| id == CLASS_ID) {
        add_to(queue.isa(), &dy[row * n..(row + 1) * n], class);
    }
    Ok(())
}

pub(super) fn patches(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => patches_typed::<bf16>(queue, inputs, outputs),
        _ => patches_typed::<f32>(queue, inputs, outputs),
    }
}

fn patches_typed<T: Stored>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let (patches, positions) = (inputs[0].slice::<T>()?, inputs[1].slice::<f32>()?);
    let class = inputs.get(2).map(View::slice::<f32>).transpose()?;
    let (rows, n) = (inputs[1].shape().rows(), inputs[0].shape().columns());
    let offset = usize::from(class.is_some());
    let count = outputs[0].shape().rows();
    let write = Write::of::<T>(false, count * n);
    let out = Shared::new(outputs[0].slice_mut::<T>()?);
    queue.parallel_spans(count, ROWS, |range| {
        for row in range {
            let (image, within) = (row / rows, row % rows);
            let position = &positions[within * n..(within + 1) * n];
            // SAFETY: tasks have rows of their own.
            let out = unsafe { out.part(row * n..(row + 1) * n) };
            match class {
                Some(class) if within == 0 => write_sum(queue.isa(), class, position, out, write),
                _ => {
                    let patch = image * (rows - offset) + within - offset;
                    write_sum(queue.isa(), &patches[patch * n..(patch + 1) * n], position, out, write);
                }
            }
        }
        write.finish();
    });
    Ok(())
}

pub(super) fn patches_backward(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    match inputs[0].meta().dtype {
        DType::BF16 => patches_backward_typed::<bf16>(queue, inputs, outputs),
        _ => patches_backward_typed::<f32>(queue, inputs, outputs),
    }
}

fn patches_backward_typed<T: Stored>(queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let dy = inputs[0].slice::<T>()?;
    let (rows, n) = (inputs[1].shape().rows(), inputs[0].shape().columns());
    let images = inputs[0].shape().rows() / rows;
    let [patches, positions, class @ ..] = outputs else { unreachable!("declared by infer") };
    let offset = class.len();
    let accumulate = patches.accumulates();
    let count = patches.shape().rows();
    let patches = Shared::new(patches.slice_mut::<T>()?);
    queue.parallel_spans(count, ROWS, |range| {
        for patch in range {
            let per_image = rows - offset;
            let row = patch / per_image * rows + patch % per_image + offset;
            // SAFETY: tasks have rows of their own.
            let out = unsafe { patches.part(patch * n..(patch + 1) * n) };
            let dy = &dy[row * n..(row + 1) * n];
            match accumulate {
                true => add_to(queue.isa(), dy, out),
                false => out.copy_from_slice(dy),
            }
        }
    });
    let accumulate = positions.accumulates();
    let positions = Shared::new(positions.slice_mut::<f32>()?);
    queue.parallel(rows, |within| {
        // SAFETY: tasks have rows of their own.
        let out = unsafe { positions.part(within * n..(within + 1) * n) };
        if !accumulate {
            out.fill(0.0);
        }
        for image in 0..images {
            add_to(queue.isa(), &dy[(image * rows + within) * n..][..n], out);
        }
    });
    if let Some(class) = class.first_mut() {
        let accumulate = class.accumulates();
        let class = Shared::new(class.slice_mut::<f32>()?);
        queue.parallel_ranges(n, COLUMNS, |columns| {
            // SAFETY: tasks have columns of their own.
            let out = unsafe { class.part(columns.clone()) };
            if !accumulate {
                out.fill(0.0);
            }
            for image in 0..images {
                let start = image * rows * n;
                add_to(queue.isa(), &dy[start + columns.start..start + columns.end], out);
            }
        });
    }
    Ok(())
}
