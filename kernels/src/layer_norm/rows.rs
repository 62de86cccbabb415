//! LayerNorm of rows that one task has, by vectors: sums have several chains, of which each would wait for its last addition.
//! What does not fill a vector at the end of a row is done by itself.

use crate::simd::registers::{Kernel, Lanes, Stored};
use crate::simd::stream::stream;
use crate::simd::{LANES, LINE, Write, prefetch};
use engine::DType;

/// Independent vectors of a sum.
const CHAINS: usize = 4;

/// Rows of `weight.len()` elements: normalised, and their statistics.
pub(super) struct Forward<'a, T> {
    pub epsilon: f32,
    pub x: &'a [T],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub y: &'a mut [T],
    pub means: &'a mut [f32],
    pub rstds: &'a mut [f32],
    /// Room for a row.
    pub wide: &'a mut [f32],
    /// How `y` is written: never added to.
    pub write: Write,
}

impl<T: Stored> Kernel for Forward<'_, T> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Forward { epsilon, x, weight, bias, y, means, rstds, wide, write } = self;
        let n = weight.len();
        let whole = n / R::COUNT * R::COUNT;
        assert!(bias.len() == n && wide.len() >= n);
        for (row, (x, y)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
            // SAFETY: whole vectors of slices of `n` elements; the instruction set is the caller's promise.
            unsafe {
                let next = x.as_ptr().wrapping_add(n);
                let x = widened::<T, R>(x, wide);
                let [sum] = sums::<R, 1>(whole, |at| [R::load(x.as_ptr().add(at))]);
                let mean = (sum + x[whole..].iter().sum::<f32>()) / n as f32;
                let less = R::splat(-mean);
                let [sum] = sums::<R, 1>(whole, |at| {
                    // The next row comes while this one is computed.
                    if (at * size_of::<T>()).is_multiple_of(LINE) {
                        prefetch(next.wrapping_add(at).cast());
                    }
                    let centred = R::load(x.as_ptr().add(at)).add(less);
                    [centred.multiply(centred)]
                });
                let variance = (sum + x[whole..].iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()) / n as f32;
                let rstd = 1.0 / (variance + epsilon).sqrt();
                (means[row], rstds[row]) = (mean, rstd);
                let scale = R::splat(rstd);
                let result = |at: usize| {
                    let hat = R::load(x.as_ptr().add(at)).add(less).multiply(scale);
                    hat.multiply_add(R::load(weight.as_ptr().add(at)), R::load(bias.as_ptr().add(at)))
                };
                let mut at = 0;
                while write == Write::Stream && at + LANES <= whole {
                    let (to, mut lanes) = (y.as_mut_ptr().add(at), [T::narrow(0.0); LANES]);
                    for lane in (0..LANES).step_by(R::COUNT) {
                        T::store(result(at + lane), lanes.as_mut_ptr().add(lane));
                    }
                    stream(&mut *to.cast(), lanes);
                    at += LANES;
                }
                while at < whole {
                    T::store(result(at), y.as_mut_ptr().add(at));
                    at += R::COUNT;
                }
                for at in whole..n {
                    y[at] = T::narrow((x[at] - mean) * rstd * weight[at] + bias[at]);
                }
            }
        }
        write.finish();
    }
}

/// Rows of `weight.len()` elements: gradients of x, and of weight and bias summed over the rows.
pub(super) struct Backward<'a, T> {
    pub x: &'a [T],
    pub weight: &'a [f32],
    pub means: &'a [f32],
    pub rstds: &'a [f32],
    pub dy: &'a [T],
    pub dx: &'a mut [T],
    pub accumulate: bool,
    pub dweight: &'a mut [f32],
    pub dbias: &'a mut [f32],
    /// Room for two rows.
    pub wide: &'a mut [f32],
}

impl<T: Stored> Kernel for Backward<'_, T> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Backward { x, weight, means, rstds, dy, dx, accumulate, dweight, dbias, wide } = self;
        let n = weight.len();
        let whole = n / R::COUNT * R::COUNT;
        let (wide_x, wide_dy) = wide.split_at_mut(n);
        assert!(dweight.len() == n && dbias.len() == n && wide_dy.len() >= n);
        let rows = x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n));
        for (((x, dy), dx), (&mean, &rstd)) in rows.zip(means.iter().zip(rstds)) {
            // SAFETY: as in the forward pass.
            unsafe {
                let (x, dy) = (widened::<T, R>(x, wide_x), widened::<T, R>(dy, wide_dy));
                let (less, scale) = (R::splat(-mean), R::splat(rstd));
                let hat = |at: usize| R::load(x.as_ptr().add(at)).add(less).multiply(scale);
                let [mut sum_g, mut sum_gx] = sums::<R, 2>(whole, |at| {
                    let g = R::load(dy.as_ptr().add(at)).multiply(R::load(weight.as_ptr().add(at)));
                    [g, g.multiply(hat(at))]
                });
                for at in whole..n {
                    let g = dy[at] * weight[at];
                    sum_g += g;
                    sum_gx += g * ((x[at] - mean) * rstd);
                }
                let (mean_g, mean_gx) = (sum_g / n as f32, sum_gx / n as f32);
                let (less_g, less_gx) = (R::splat(-mean_g), R::splat(-mean_gx));
                for at in (0..whole).step_by(R::COUNT) {
                    let (hat, dy) = (hat(at), R::load(dy.as_ptr().add(at)));
                    let (dweight, dbias) = (dweight.as_mut_ptr().add(at), dbias.as_mut_ptr().add(at));
                    dy.multiply_add(hat, R::load(dweight)).store(dweight);
                    dy.add(R::load(dbias)).store(dbias);
                    let inner = hat.multiply_add(less_gx, less_g);
                    let inner = dy.multiply_add(R::load(weight.as_ptr().add(at)), inner);
                    let to = dx.as_mut_ptr().add(at);
                    let gradient = match accumulate {
                        true => inner.multiply_add(scale, T::load(to)),
                        false => inner.multiply(scale),
                    };
                    T::store(gradient, to);
                }
                for at in whole..n {
                    let hat = (x[at] - mean) * rstd;
                    dweight[at] += dy[at] * hat;
                    dbias[at] += dy[at];
                    let gradient = rstd * (dy[at] * weight[at] - mean_g - hat * mean_gx);
                    dx[at] = T::narrow(if accumulate { dx[at].widen() + gradient } else { gradient });
                }
            }
        }
    }
}

/// A row as f32: itself, or widened into the start of `buffer`.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn widened<'a, T: Stored, R: Lanes>(row: &'a [T], buffer: &'a mut [f32]) -> &'a [f32] {
    if T::DTYPE == DType::F32 {
        return bytemuck::cast_slice(row);
    }
    let buffer = &mut buffer[..row.len()];
    let whole = row.len() / R::COUNT * R::COUNT;
    for at in (0..whole).step_by(R::COUNT) {
        // SAFETY: whole vectors of both.
        unsafe { T::load::<R>(row.as_ptr().add(at)).store(buffer.as_mut_ptr().add(at)) };
    }
    for (wide, element) in buffer[whole..].iter_mut().zip(&row[whole..]) {
        *wide = element.widen();
    }
    buffer
}

/// Sums of the lanes of what `terms` gives for every vector of the first `whole` elements.
///
/// # Safety
/// As for `terms`; the CPU has the instruction set.
#[inline(always)]
unsafe fn sums<R: Lanes, const N: usize>(whole: usize, terms: impl Fn(usize) -> [R; N]) -> [f32; N] {
    // SAFETY: the caller's.
    unsafe {
        let mut chains = [[R::splat(0.0); N]; CHAINS];
        let mut at = 0;
        while at + CHAINS * R::COUNT <= whole {
            for (chain, sums) in chains.iter_mut().enumerate() {
                for (sum, term) in sums.iter_mut().zip(terms(at + chain * R::COUNT)) {
                    *sum = sum.add(term);
                }
            }
            at += CHAINS * R::COUNT;
        }
        while at < whole {
            for (sum, term) in chains[0].iter_mut().zip(terms(at)) {
                *sum = sum.add(term);
            }
            at += R::COUNT;
        }
        let ([a, b, c, d], mut totals) = (chains, [0.0; N]);
        for (sum, total) in totals.iter_mut().enumerate() {
            *total = a[sum].add(b[sum]).add(c[sum].add(d[sum])).total();
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::registers;
    use engine::cpu::Isa;
    use half::bf16;

    /// What is written past the caches has the bits of what is not.
    fn streams_the_same<T: Stored + PartialEq>() {
        let mut random = engine::rng::Philox::new(13, 0);
        for n in [1, 15, 16, 40, 64, 100] {
            let mut row = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
            let (x, weight, bias) = (row(3 * n).into_iter().map(T::narrow).collect::<Vec<_>>(), row(n), row(n));
            for isa in Isa::available() {
                let run = |write: Write| {
                    let (mut y, mut wide) = (vec![T::narrow(0.0); 3 * n], vec![0.0; n]);
                    let (mut means, mut rstds) = ([0.0; 3], [0.0; 3]);
                    let (means, rstds, y_rows) = (&mut means[..], &mut rstds[..], &mut y[..]);
                    let (epsilon, x, weight, bias, wide) = (1e-5, &x[..], &weight[..], &bias[..], &mut wide[..]);
                    let rows = Forward { epsilon, x, weight, bias, y: y_rows, means, rstds, wide, write };
                    // SAFETY: the instruction set is available.
                    unsafe { registers::run(isa, rows) };
                    y
                };
                assert!(run(Write::Set) == run(Write::Stream), "{isa}, rows of {n}");
            }
        }
    }

    #[test]
    fn streamed_rows_are_those_that_are_not() {
        streams_the_same::<f32>();
        streams_the_same::<bf16>();
    }
}
