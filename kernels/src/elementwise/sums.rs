//! Sums of elements by vectors. Written with registers, since the compiler makes single elements of such short loops.

use crate::simd::registers::{self, Kernel, Lanes, Stored};
use crate::simd::stream::stream;
use crate::simd::{LANES, Write};
use engine::cpu::Isa;
use std::ops::Range;

/// `a`, or `a + b`, of a range of elements, and where it goes. The output may be an input, of the same type.
pub(super) struct Sums<A, B, T> {
    pub a: *const A,
    pub b: Option<*const B>,
    pub out: *mut T,
    pub count: usize,
    pub write: Write,
}

// SAFETY: tasks work on disjoint parts.
unsafe impl<A, B, T> Send for Sums<A, B, T> {}
// SAFETY: as above.
unsafe impl<A, B, T> Sync for Sums<A, B, T> {}

impl<A: Stored, B: Stored, T: Stored> Sums<A, B, T> {
    /// Those of a part of the range.
    ///
    /// # Safety
    /// The part is inside it.
    pub unsafe fn part(&self, part: Range<usize>) -> Sums<A, B, T> {
        // SAFETY: the caller's.
        unsafe {
            let (a, b) = (self.a.add(part.start), self.b.map(|b| b.add(part.start)));
            Sums { a, b, out: self.out.add(part.start), count: part.len(), write: self.write }
        }
    }

    /// Writes them; the task that has streamed some ends with [`Write::finish`].
    ///
    /// # Safety
    /// `count` elements are there, of which nobody else uses those of the output; the CPU has the instruction set.
    #[inline(always)]
    pub unsafe fn run(self, isa: Isa) {
        // SAFETY: the caller's.
        unsafe { registers::run(isa, self) };
    }

    /// Those of the vector at `at`. A closure would not be compiled for the instruction set.
    #[inline(always)]
    unsafe fn at<R: Lanes>(&self, at: usize) -> R {
        // SAFETY: inside the ranges, by contract.
        unsafe {
            let mut sum = A::load::<R>(self.a.add(at));
            if let Some(b) = self.b {
                sum = sum.add(B::load(b.add(at)));
            }
            if self.write == Write::Add {
                sum = sum.add(T::load(self.out.add(at)));
            }
            sum
        }
    }
}

/// `out = a + b` of rows of one length; see [`Sums::run`].
pub(crate) fn write_sum<A: Stored, B: Stored, T: Stored>(isa: Isa, a: &[A], b: &[B], out: &mut [T], write: Write) {
    let count = out.len();
    assert!(a.len() == count && b.len() == count, "rows of different lengths");
    // SAFETY: all three have these elements; the instruction set is a queue's.
    unsafe { Sums { a: a.as_ptr(), b: Some(b.as_ptr()), out: out.as_mut_ptr(), count, write }.run(isa) };
}

/// `out += a`, of one length.
pub(crate) fn add_to<A: Stored, T: Stored>(isa: Isa, a: &[A], out: &mut [T]) {
    assert_eq!(a.len(), out.len(), "rows of different lengths");
    let (count, out) = (a.len(), out.as_mut_ptr());
    // SAFETY: both have these elements; the instruction set is a queue's.
    unsafe { Sums { a: a.as_ptr(), b: None::<*const A>, out, count, write: Write::Add }.run(isa) };
}

impl<A: Stored, B: Stored, T: Stored> Kernel for Sums<A, B, T> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let Sums { a, b, out, count, write } = self;
        let whole = count / R::COUNT * R::COUNT;
        // SAFETY: inside the ranges, by contract; an element is read before it is written.
        unsafe {
            let mut at = 0;
            while write == Write::Stream && at + LANES <= whole {
                let mut lanes = [T::narrow(0.0); LANES];
                for lane in (0..LANES).step_by(R::COUNT) {
                    T::store(self.at::<R>(at + lane), lanes.as_mut_ptr().add(lane));
                }
                stream(&mut *out.add(at).cast(), lanes);
                at += LANES;
            }
            while at < whole {
                T::store(self.at::<R>(at), out.add(at));
                at += R::COUNT;
            }
            for at in whole..count {
                let mut sum = (*a.add(at)).widen();
                if let Some(b) = b {
                    sum += (*b.add(at)).widen();
                }
                if write == Write::Add {
                    sum += (*out.add(at)).widen();
                }
                *out.add(at) = T::narrow(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Every way of writing rows of every length gives what single elements give.
    fn sums_of_any_length<T: Stored>(is_near: impl Fn(f64, T) -> bool) {
        let mut random = engine::rng::Philox::new(12, 0);
        for count in 0..100 {
            let mut row = || -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
            let (a, b) = (row(), row().into_iter().map(T::narrow).collect::<Vec<_>>());
            let before: Vec<T> = row().into_iter().map(T::narrow).collect();
            for isa in Isa::available() {
                for write in [Write::Set, Write::Add, Write::Stream] {
                    let (mut two, mut one) = (before.clone(), before.clone());
                    write_sum(isa, &a, &b, &mut two, write);
                    // SAFETY: both have these elements.
                    unsafe { Sums { a: a.as_ptr(), b: None::<*const T>, out: one.as_mut_ptr(), count, write }.run(isa) };
                    write.finish();
                    for index in 0..count {
                        let held = if write == Write::Add { before[index].widen() } else { 0.0 };
                        let (a, b) = (f64::from(a[index]) + f64::from(held), f64::from(b[index].widen()));
                        assert!(is_near(a, one[index]) && is_near(a + b, two[index]), "{isa}, {write:?}, {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn f32_and_bf16_sums() {
        let near = |bits: i32| move |exact: f64, value: f64| (exact - value).abs() <= 2f64.powi(-bits) * (exact.abs() + 1.0);
        sums_of_any_length::<f32>(|exact, value| near(22)(exact, value.into()));
        sums_of_any_length::<bf16>(|exact, value| near(8)(exact, value.to_f64()));
    }

    #[test]
    fn an_output_may_be_an_input() {
        let mut row: Vec<f32> = (0..37).map(|index| index as f32).collect();
        let pointer = row.as_mut_ptr();
        let sums = Sums { a: pointer.cast_const(), b: Some(pointer.cast_const()), out: pointer, count: 37, write: Write::Set };
        // SAFETY: the row has these elements.
        unsafe { sums.run(Isa::best()) };
        assert!(row.iter().enumerate().all(|(index, &value)| value == 2.0 * index as f32));
    }
}
