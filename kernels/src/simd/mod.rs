//! One body of plain Rust, compiled once for every instruction set and chosen at run time.
//!
//! A kernel is written inside [`vectorized!`](crate::vectorized) as branch-free loops over slices; the compiler turns them into vector
//! code for each set, because the body is inlined into functions that enable its features. Inside the body the type `L`
//! is the [`Level`]: it decides whether [`Level::fma`] is one instruction. Reductions keep [`LANES`] partial sums, so
//! their order is fixed. Call kernels inside the tasks of a parallel region, not around it: features do not cross
//! closures that other threads run.
//!
//! ```text
//! vectorized! {
//!     /// `y += a x`
//!     fn axpy<T: Float>(a: f32, x: &[T], y: &mut [f32]) {
//!         for (y, &x) in y.iter_mut().zip(x) { *y = L::fma(a, x.widen(), *y); }
//!     }
//! }
//! queue.parallel_ranges(n, 4096, |range| axpy(queue.isa(), a, &x[range.clone()], …));
//! ```

pub(crate) mod exponentials;
pub mod math;
pub(crate) mod registers;
pub(crate) mod stream;
pub(crate) mod transpose;

pub use stream::Write;

use engine::Element;
use half::bf16;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Partial sums of a reduction.
pub const LANES: usize = 16;

/// What an instruction set offers to plain Rust bodies.
pub trait Level {
    /// `a * b + c`: one rounding where the set has the instruction, else two.
    fn fma(a: f32, b: f32, c: f32) -> f32;

    /// The nearest bf16 of each lane, ties to even. Subnormal values may become 0.
    #[inline(always)]
    fn narrow(values: [f32; LANES]) -> [bf16; LANES] {
        let mut halves = [bf16::ZERO; LANES];
        for (half, value) in halves.iter_mut().zip(values) {
            *half = bf16::narrow(value);
        }
        halves
    }
}

/// Sets with fused multiply-add.
#[derive(Clone, Copy, Debug)]
pub struct Fused;

/// Sets with fused multiply-add and an instruction that rounds to bf16.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct FusedBf16;

/// Plain x86-64 and other processors.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Level for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

#[cfg(target_arch = "x86_64")]
impl Level for FusedBf16 {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn narrow(values: [f32; LANES]) -> [bf16; LANES] {
        use std::arch::x86_64::{__m256bh, _mm512_cvtneps_pbh, _mm512_loadu_ps};
        // SAFETY: bodies of this level are only run where the CPU has the instruction.
        unsafe { std::mem::transmute::<__m256bh, [bf16; LANES]>(_mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()))) }
    }
}

impl Level for Plain {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Asks for a cache line; any address will do.
#[inline(always)]
pub(crate) fn prefetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.cast())
    };
    let _ = from;
}

/// As [`prefetch`], into the level-2 cache.
#[inline(always)]
pub(crate) fn prefetch_far(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(from.cast())
    };
    let _ = from;
}

/// Storage types of activations and weights; arithmetic is always f32.
pub trait Float: Element {
    /// The exact f32.
    fn widen(self) -> f32;
    /// The nearest value, ties to even.
    fn narrow(value: f32) -> Self;
    /// As [`Float::narrow`], by the instructions of a level.
    fn narrow_lanes<L: Level>(values: [f32; LANES]) -> [Self; LANES];
    /// The elements as f32: themselves, or widened into the start of `buffer`. What goes over a row several times widens it
    /// once; sums of what is widened on the way do not always become vector code.
    fn wide<'a>(elements: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32];
}

impl Float for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn narrow_lanes<L: Level>(values: [f32; LANES]) -> [f32; LANES] {
        values
    }
    #[inline(always)]
    fn wide<'a>(elements: &'a [f32], _buffer: &'a mut [f32]) -> &'a [f32] {
        elements
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // Rounding would carry a NaN with a small payload into an infinity: keep it a quiet NaN.
        let quiet = bits >> 16 | 0x40;
        bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded } as u16)
    }
    #[inline(always)]
    fn narrow_lanes<L: Level>(values: [f32; LANES]) -> [bf16; LANES] {
        L::narrow(values)
    }
    #[inline(always)]
    fn wide<'a>(elements: &'a [bf16], buffer: &'a mut [f32]) -> &'a [f32] {
        let buffer = &mut buffer[..elements.len()];
        buffer.iter_mut().zip(elements).for_each(|(wide, element)| *wide = element.widen());
        buffer
    }
}

/// Declares functions whose body is compiled for every instruction set; see the module documentation. The functions take
/// the [`Isa`](engine::cpu::Isa) as their first argument.
#[macro_export]
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($T:ident: $bound:path),+>)? (
        $($arg:ident: $ty:ty),* $(,)?
    ) $(-> $out:ty)? $body:block)*) => { $(
        $(#[$meta])*
        #[allow(clippy::extra_unused_type_parameters)]
        $vis fn $name $(<$($T: $bound),+>)? (isa: engine::cpu::Isa, $($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn body<L: $crate::simd::Level $($(, $T: $bound)+)?>($($arg: $ty),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
                fn avx512bf16 $(<$($T: $bound),+>)? ($($arg: $ty),*) $(-> $out)? {
                    body::<$crate::simd::FusedBf16 $($(, $T)+)?>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$($T: $bound),+>)? ($($arg: $ty),*) $(-> $out)? {
                    body::<$crate::simd::Fused $($(, $T)+)?>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($T: $bound),+>)? ($($arg: $ty),*) $(-> $out)? {
                    body::<$crate::simd::Fused $($(, $T)+)?>($($arg),*)
                }
                match isa {
                    // SAFETY: an `Isa` in a queue was checked to be available on this machine.
                    engine::cpu::Isa::Avx512Bf16 => return unsafe { avx512bf16 $(::<$($T),+>)? ($($arg),*) },
                    // SAFETY: as above.
                    engine::cpu::Isa::Avx512 => return unsafe { avx512 $(::<$($T),+>)? ($($arg),*) },
                    // SAFETY: as above.
                    engine::cpu::Isa::Avx2 => return unsafe { avx2 $(::<$($T),+>)? ($($arg),*) },
                    engine::cpu::Isa::Scalar => {}
                }
            }
            body::<$crate::simd::Plain $($(, $T)+)?>($($arg),*)
        }
    )* };
}

/// Slices of one length that a reduction goes through together: a tuple of one to three.
pub trait Slices<const K: usize>: Copy {
    /// Elements of each.
    fn elements(self) -> usize;
    /// [`LANES`] elements of each from `start` on, widened.
    fn lanes(self, start: usize) -> [[f32; LANES]; K];
    /// One element of each, widened.
    fn element(self, index: usize) -> [f32; K];
}

/// Bounds are asked once for all lanes, so that a loop over them becomes vector code.
#[inline(always)]
fn widened<T: Float>(slice: &[T], start: usize) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    let (chunk, _) = slice[start..].as_chunks::<LANES>();
    for (value, element) in values.iter_mut().zip(&chunk[0]) {
        *value = element.widen();
    }
    values
}

macro_rules! slices {
    ($count:literal: $($slice:ident $T:ident),+) => {
        impl<'a, $($T: Float),+> Slices<$count> for ($(&'a [$T],)+) {
            #[inline(always)]
            fn elements(self) -> usize {
                self.0.len()
            }
            #[inline(always)]
            fn lanes(self, start: usize) -> [[f32; LANES]; $count] {
                let ($($slice,)+) = self;
                [$(widened($slice, start)),+]
            }
            #[inline(always)]
            fn element(self, index: usize) -> [f32; $count] {
                let ($($slice,)+) = self;
                [$($slice[index].widen()),+]
            }
        }
    };
}
slices!(1: a A);
slices!(2: a A, b B);
slices!(3: a A, b B, c C);

/// Sum of a term of every element, in [`LANES`] interleaved partial sums added in order.
#[inline(always)]
pub fn sum_of<const K: usize>(slices: impl Slices<K>, term: impl Fn([f32; K]) -> f32) -> f32 {
    let [sum] = sums_of(slices, |values| [term(values)]);
    sum
}

/// As [`sum_of`], several sums in one pass.
#[inline(always)]
pub fn sums_of<const K: usize, const N: usize>(
    slices: impl Slices<K>,
    terms: impl Fn([f32; K]) -> [f32; N],
) -> [f32; N] {
    let mut sums = [[0.0f32; LANES]; N];
    let count = slices.elements();
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let values = slices.lanes(start);
        for lane in 0..LANES {
            let mut item = [0.0; K];
            for (item, values) in item.iter_mut().zip(&values) {
                *item = values[lane];
            }
            let terms = terms(item);
            for (sum, term) in sums.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    for index in whole..count {
        let terms = terms(slices.element(index));
        for (sum, term) in sums.iter_mut().zip(terms) {
            sum[index - whole] += term;
        }
    }
    sums.map(fold)
}

/// Writes `function(…)` of the elements of all slices at each place; `out` is as long as they are.
#[inline(always)]
pub fn map_of<L: Level, T: Float, const K: usize>(
    out: &mut [T],
    slices: impl Slices<K>,
    write: Write,
    function: impl Fn([f32; K]) -> f32,
) {
    let count = slices.elements();
    let whole = count / LANES * LANES;
    let (chunks, rest) = out[..count].as_chunks_mut::<LANES>();
    match write {
        Write::Set => {
            for (index, out) in chunks.iter_mut().enumerate() {
                *out = map_lanes::<L, T, K>(slices.lanes(index * LANES), None, &function);
            }
        }
        Write::Add => {
            for (index, out) in chunks.iter_mut().enumerate() {
                *out = map_lanes::<L, T, K>(slices.lanes(index * LANES), Some(*out), &function);
            }
        }
        Write::Stream => {
            for (index, out) in chunks.iter_mut().enumerate() {
                stream::stream(out, map_lanes::<L, T, K>(slices.lanes(index * LANES), None, &function));
            }
            write.finish();
        }
    }
    if !rest.is_empty() {
        let (mut lanes, mut last) = ([[0.0; LANES]; K], [T::narrow(0.0); LANES]);
        for lane in 0..rest.len() {
            let element = slices.element(whole + lane);
            lanes.iter_mut().zip(element).for_each(|(lanes, element)| lanes[lane] = element);
            last[lane] = rest[lane];
        }
        let before = (write == Write::Add).then_some(last);
        rest.copy_from_slice(&map_lanes::<L, T, K>(lanes, before, &function)[..rest.len()]);
    }
}

#[inline(always)]
fn map_lanes<L: Level, T: Float, const K: usize>(
    lanes: [[f32; LANES]; K],
    before: Option<[T; LANES]>,
    function: &impl Fn([f32; K]) -> f32,
) -> [T; LANES] {
    let mut values = [0.0; LANES];
    for lane in 0..LANES {
        let mut item = [0.0; K];
        for (item, lanes) in item.iter_mut().zip(&lanes) {
            *item = lanes[lane];
        }
        values[lane] = function(item);
    }
    if let Some(before) = before {
        for (value, before) in values.iter_mut().zip(before) {
            *value += before.widen();
        }
    }
    T::narrow_lanes::<L>(values)
}

/// The lanes added pairwise.
#[inline(always)]
pub fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest element; negative infinity if there is none. NaNs are passed over.
#[inline(always)]
pub fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (best, &value) in lanes.iter_mut().zip(chunk) {
            *best = if value > *best { value } else { *best };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &value| if value > best { value } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_like_the_half_crate() {
        let mut random = engine::rng::Philox::new(3, 0);
        for _ in 0..200_000 {
            let value = f32::from_bits(random.next_u32());
            let (ours, theirs) = (<bf16 as Float>::narrow(value), bf16::from_f32(value));
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{value:e}");
        }
        assert_eq!(<bf16 as Float>::narrow(f32::MAX), bf16::INFINITY);
    }

    vectorized! {
        fn double(x: &[f32], out: &mut [bf16], write: Write) {
            map_of::<L, _, 1>(out, (x,), write, |[x]| 2.0 * x);
        }
    }

    #[test]
    fn lanes_round_as_single_values_do() {
        let mut random = engine::rng::Philox::new(4, 0);
        for count in 0..200 {
            let x: Vec<f32> = (0..count).map(|_| f32::from_bits(random.next_u32())).collect();
            let before: Vec<bf16> = (0..count).map(|_| bf16::from_f32(random.normal() as f32)).collect();
            for isa in engine::cpu::Isa::available() {
                for write in [Write::Set, Write::Add, Write::Stream] {
                    let mut out = before.clone();
                    double(isa, &x, &mut out, write);
                    for ((x, before), out) in x.iter().zip(&before).zip(out) {
                        let exact = 2.0 * x + if write == Write::Add { before.to_f32() } else { 0.0 };
                        let nearest = bf16::from_f32(exact);
                        let flushed = exact.abs() < f32::MIN_POSITIVE && out == bf16::ZERO;
                        assert!(
                            out == nearest || (out.is_nan() && nearest.is_nan()) || flushed,
                            "{isa}: {exact:e} to {out}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn reductions_cover_every_element() {
        let values: Vec<f32> = (0..70).map(|index| index as f32).collect();
        for count in 0..70usize {
            let values = &values[..count];
            assert_eq!(sum_of((values,), |[value]| value), (count * count.saturating_sub(1) / 2) as f32);
            let [pairs, ones] = sums_of((values, values), |[a, b]| [a - b, 1.0]);
            assert_eq!((pairs, ones), (0.0, count as f32));
            let best = if count == 0 { f32::NEG_INFINITY } else { count as f32 - 1.0 };
            assert_eq!(max_of(values), best);
        }
    }
}
