//! CPU code of Adafactor. A factored parameter is read once for its row and column means and once for the update; with
//! clipping of updates once more between them.

use super::{Adafactor, Factors, Layout, ROW, Step, TINY};
use crate::optimizer::arenas;
use crate::reduce::lanes;
use crate::simd::{Float, sum_of};
use crate::vectorized;
use engine::{CpuQueue, Parameters, Result, Shared};
use half::bf16;
use std::ops::Range;

/// Columns of a task that adds up partial sums.
const COLUMNS: usize = 1 << 10;

/// The arenas as all tasks see them.
#[derive(Clone, Copy)]
struct State<'a> {
    queue: &'a CpuQueue,
    gradient: &'a [f32],
    master: Shared<'a, f32>,
    bf16: Option<Shared<'a, bf16>>,
    momentum: Shared<'a, f32>,
    second: Shared<'a, f32>,
    scratch: Shared<'a, f32>,
}

/// What the second moments say of an update.
struct Moments<'a> {
    /// Mean of the row means.
    mean: f64,
    /// Reciprocal roots of the column means.
    column_factors: &'a [f32],
}

pub(super) fn update(adafactor: &Adafactor, queue: &CpuQueue, parameters: &Parameters, step: Step) -> Result<()> {
    let arenas = arenas(parameters)?;
    let work: Vec<(Layout, Factors)> = (parameters.entries().iter().zip(&adafactor.layouts))
        .filter(|(entry, _)| entry.trainable)
        .map(|(_, layout)| (*layout, adafactor.factors(layout.rule, step)))
        .collect();
    let Adafactor { momentum, second, scratch, .. } = adafactor;
    // SAFETY: these belong to the optimizer, which its caller has exclusively.
    let (momentum, second, scratch) = unsafe {
        (
            momentum.slice_mut(0, adafactor.elements)?,
            second.slice_mut(0, second.bytes() / 4)?,
            scratch.slice_mut(0, scratch.bytes() / 4)?,
        )
    };
    let state = State {
        queue,
        gradient: arenas.gradient,
        master: Shared::new(arenas.master),
        bf16: arenas.bf16.map(Shared::new),
        momentum: Shared::new(momentum),
        second: Shared::new(second),
        scratch: Shared::new(scratch),
    };
    let (large, small): (Vec<(Layout, Factors)>, Vec<_>) = work.into_iter().partition(|(layout, _)| layout.is_large());
    for (layout, factors) in &large {
        update_one(&state, layout, factors);
    }
    queue.parallel(small.len(), |index| {
        let (layout, factors) = &small[index];
        update_one(&state, layout, factors);
    });
    Ok(())
}

impl<'a> State<'a> {
    /// The second moments of rows: one each of a factored parameter, else one for each element.
    ///
    /// # Safety
    /// As [`Shared::part`].
    unsafe fn second(&self, layout: &Layout, rows: Range<usize>) -> &'a mut [f32] {
        let range = if layout.factored { rows } else { layout.span(rows) };
        // SAFETY: by contract.
        unsafe { self.second.part(layout.second + range.start..layout.second + range.end) }
    }

    fn gradient(&self, layout: &Layout, rows: Range<usize>) -> &'a [f32] {
        let span = layout.span(rows);
        &self.gradient[layout.offset + span.start..layout.offset + span.end]
    }
}

/// One parameter, its parts in parallel.
fn update_one(state: &State<'_>, layout: &Layout, factors: &Factors) {
    let (queue, isa) = (state.queue, state.queue.isa());
    let moments = update_moments(state, layout, factors);
    let learning_rate = (f64::from(factors.learning_rate) / excess(state, layout, factors, &moments)) as f32;
    queue.parallel(layout.parts, |part| {
        let rows = layout.part(part);
        let (gradient, span) = (state.gradient(layout, rows.clone()), layout.span(rows.clone()));
        let span = layout.offset + span.start..layout.offset + span.end;
        // SAFETY: parameters do not overlap, and neither do parts of one.
        let (master, momentum, bf16, second) = unsafe {
            (
                state.master.part(span.clone()),
                state.momentum.part(span.clone()),
                state.bf16.map(|bf16| bf16.part(span)),
                state.second(layout, rows),
            )
        };
        if layout.factored {
            let Moments { mean, column_factors } = moments;
            apply_rows(isa, *factors, learning_rate, mean, gradient, second, column_factors, master, momentum);
        } else {
            apply(isa, *factors, learning_rate, gradient, second, master, momentum);
        }
        if let Some(bf16) = bf16 {
            narrow(isa, master, bf16);
        }
    });
}

/// Takes the gradient into the second moments.
fn update_moments<'a>(state: &State<'a>, layout: &Layout, factors: &Factors) -> Moments<'a> {
    let (queue, isa) = (state.queue, state.queue.isa());
    let &Layout { rows, columns, parts, .. } = layout;
    queue.parallel(parts, |part| {
        let rows = layout.part(part);
        let gradient = state.gradient(layout, rows.clone());
        let sums = layout.scratch + part * columns..layout.scratch + (part + 1) * columns;
        // SAFETY: every part has its own rows and its own partial sums.
        unsafe {
            let second = state.second(layout, rows);
            if layout.factored {
                add_squares(isa, *factors, gradient, second, state.scratch.part(sums));
            } else {
                average_squares(isa, *factors, gradient, second);
            }
        }
    });
    if !layout.factored {
        return Moments { mean: 0.0, column_factors: &[] };
    }
    let (column_means, factors_at) = (layout.column_means(), layout.column_factors());
    queue.parallel_ranges(columns, COLUMNS, |range| {
        // SAFETY: every task has its own columns; the partial sums are complete and only read.
        let (means, column_factors) = unsafe {
            (
                state.second.part(column_means + range.start..column_means + range.end),
                state.scratch.part(factors_at + range.start..factors_at + range.end),
            )
        };
        column_factors.fill(0.0);
        for part in 0..parts {
            let start = layout.scratch + part * columns;
            // SAFETY: as above.
            let partial = unsafe { state.scratch.part(start + range.start..start + range.end) };
            column_factors.iter_mut().zip(&*partial).for_each(|(sum, partial)| *sum += partial);
        }
        average_columns(isa, *factors, 1.0 / rows as f32, means, column_factors);
    });
    // SAFETY: the parallel regions are over, and until the next one nobody writes here.
    let (row_means, column_factors) = unsafe {
        (state.second.part(layout.second..layout.second + rows), state.scratch.part(factors_at..factors_at + columns))
    };
    Moments { mean: lanes(row_means, f64::from) / rows as f64, column_factors }
}

/// By how much the root mean square of the update exceeds the threshold; at least 1.
fn excess(state: &State<'_>, layout: &Layout, factors: &Factors, moments: &Moments<'_>) -> f64 {
    if factors.clip_threshold == 0.0 {
        return 1.0;
    }
    let isa = state.queue.isa();
    let sums_at = layout.row_sums();
    state.queue.parallel(layout.parts, |part| {
        let rows = layout.part(part);
        let gradient = state.gradient(layout, rows.clone());
        // SAFETY: every part has its own rows and their sums.
        unsafe {
            let sums = state.scratch.part(sums_at + rows.start..sums_at + rows.end);
            let second = state.second(layout, rows);
            if layout.factored {
                row_updates_squared(isa, *factors, moments.mean, gradient, second, moments.column_factors, sums);
            } else {
                updates_squared(isa, *factors, gradient, second, sums);
            }
        }
    });
    // SAFETY: the parallel region is over, and until the next one nobody writes here.
    let sums = unsafe { state.scratch.part(sums_at..sums_at + layout.rows) };
    let mean = lanes(sums, f64::from) / layout.elements as f64;
    (mean.sqrt() / factors.clip_threshold).max(1.0)
}

/// Root of the mean of the row means over this row's: what its gradients are multiplied with besides column factors.
#[inline(always)]
fn row_factor(mean: f64, row_mean: f32) -> f32 {
    (mean / f64::from(row_mean)).sqrt() as f32
}

vectorized! {
    /// Means of squares of each row into their average; sums over rows into `sums`.
    fn add_squares(factors: Factors, gradient: &[f32], row_means: &mut [f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for (row, mean) in gradient.chunks_exact(sums.len()).zip(row_means) {
            let square = |g: f32| (g * factors.gradient) * (g * factors.gradient);
            let total = sum_of((row,), |[g]| square(g));
            *mean = factors.second * *mean + factors.second_new * (total / row.len() as f32 + TINY);
            sums.iter_mut().zip(row).for_each(|(sum, &g)| *sum += square(g));
        }
    }

    fn average_squares(factors: Factors, gradient: &[f32], second: &mut [f32]) {
        for (second, g) in second.iter_mut().zip(gradient) {
            let g = g * factors.gradient;
            *second = factors.second * *second + factors.second_new * (g * g + TINY);
        }
    }

    /// Column sums times `scale` into their average; the sums become reciprocal roots of the average.
    fn average_columns(factors: Factors, scale: f32, means: &mut [f32], sums: &mut [f32]) {
        for (mean, sum) in means.iter_mut().zip(sums) {
            *mean = factors.second * *mean + factors.second_new * (*sum * scale + TINY);
            *sum = 1.0 / mean.sqrt();
        }
    }

    /// The sum of squares of each row's updates.
    fn row_updates_squared(
        factors: Factors,
        mean: f64,
        gradient: &[f32],
        row_means: &[f32],
        column_factors: &[f32],
        sums: &mut [f32],
    ) {
        for ((row, row_mean), sum) in gradient.chunks_exact(column_factors.len()).zip(row_means).zip(sums) {
            let factor = row_factor(mean, *row_mean) * factors.gradient;
            *sum = sum_of((row, column_factors), |[g, column]| {
                let update = g * factor * column;
                update * update
            });
        }
    }

    fn updates_squared(factors: Factors, gradient: &[f32], second: &[f32], sums: &mut [f32]) {
        for ((gradient, second), sum) in gradient.chunks(ROW).zip(second.chunks(ROW)).zip(sums) {
            *sum = sum_of((gradient, second), |[g, second]| {
                let update = g * factors.gradient / second.sqrt();
                update * update
            });
        }
    }

    fn apply_rows(
        factors: Factors,
        learning_rate: f32,
        mean: f64,
        gradient: &[f32],
        row_means: &[f32],
        column_factors: &[f32],
        master: &mut [f32],
        momentum: &mut [f32],
    ) {
        let columns = column_factors.len();
        let rows = gradient.chunks_exact(columns).zip(row_means);
        let targets = master.chunks_exact_mut(columns).zip(momentum.chunks_exact_mut(columns));
        for ((gradient, row_mean), (master, momentum)) in rows.zip(targets) {
            let factor = row_factor(mean, *row_mean) * factors.gradient;
            for (((p, m), g), column) in master.iter_mut().zip(momentum).zip(gradient).zip(column_factors) {
                *m = factors.momentum * *m + factors.momentum_new * (learning_rate * (g * factor * column));
                *p = (*p - *m) * factors.keep;
            }
        }
    }

    fn apply(
        factors: Factors,
        learning_rate: f32,
        gradient: &[f32],
        second: &[f32],
        master: &mut [f32],
        momentum: &mut [f32],
    ) {
        for (((p, m), g), second) in master.iter_mut().zip(momentum).zip(gradient).zip(second) {
            let update = g * factors.gradient / second.sqrt();
            *m = factors.momentum * *m + factors.momentum_new * (learning_rate * update);
            *p = (*p - *m) * factors.keep;
        }
    }

    fn narrow(master: &[f32], bf16: &mut [bf16]) {
        bf16.iter_mut().zip(master).for_each(|(bf16, p)| *bf16 = bf16::narrow(*p));
    }
}
