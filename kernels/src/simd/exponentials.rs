//! The exponentials of a row, for a softmax over many values.

use super::registers::{self, Kernel, Lanes, exp};
use engine::cpu::Isa;

/// Turns every value into exp(value - largest); returns the largest and the sum. NaNs stay, and are not the largest.
pub(crate) fn exponentials(isa: Isa, row: &mut [f32]) -> (f32, f32) {
    let mut result = (f32::NEG_INFINITY, 0.0);
    // SAFETY: the instruction set is a queue's.
    unsafe { registers::run(isa, Exponentials { row, result: &mut result }) };
    result
}

struct Exponentials<'a> {
    row: &'a mut [f32],
    result: &'a mut (f32, f32),
}

/// Independent vectors of a reduction, which would wait for one another.
const CHAINS: usize = 4;

impl Kernel for Exponentials<'_> {
    #[inline(always)]
    unsafe fn run<R: Lanes>(self) {
        let count = self.row.len();
        let whole = count / R::COUNT * R::COUNT;
        // What does not fill a vector, behind it what changes neither the largest nor the sum.
        let mut rest = [f32::NEG_INFINITY; 16];
        rest[..count - whole].copy_from_slice(&self.row[whole..]);
        let row = self.row.as_mut_ptr();
        // SAFETY: whole vectors of the row, and the first of the rest, which is as long as the longest.
        unsafe {
            let mut peaks = [R::load(rest.as_ptr()).max(R::splat(f32::NEG_INFINITY)); CHAINS];
            let mut at = 0;
            while at < whole {
                let chain = at / R::COUNT % CHAINS;
                peaks[chain] = R::load(row.add(at)).max(peaks[chain]);
                at += R::COUNT;
            }
            let largest = peaks.into_iter().fold(f32::NEG_INFINITY, |best, peak| best.max(peak.largest()));
            let shift = R::splat(if largest == f32::NEG_INFINITY { 0.0 } else { -largest });
            let mut sums = exp(R::load(rest.as_ptr()).add(shift));
            sums.store(rest.as_mut_ptr());
            let mut at = 0;
            while at < whole {
                let values = exp(R::load(row.add(at)).add(shift));
                values.store(row.add(at));
                sums = sums.add(values);
                at += R::COUNT;
            }
            *self.result = (largest, sums.total());
        }
        self.row[whole..].copy_from_slice(&rest[..count - whole]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_of_rows_of_any_length() {
        let mut random = engine::rng::Philox::new(11, 0);
        for count in 0..150 {
            let values: Vec<f32> = (0..count).map(|_| random.normal() as f32 * 20.0).collect();
            let exact = values.iter().fold(f32::NEG_INFINITY, |best, &value| best.max(value));
            for isa in Isa::available() {
                let mut row = values.clone();
                let (largest, sum) = exponentials(isa, &mut row);
                assert_eq!(largest, exact, "{isa}");
                for (value, result) in values.iter().zip(&row) {
                    let exact = f64::from(value - largest).exp();
                    let bound = 2.0 * f64::from(f32::EPSILON) * exact + f64::from(f32::MIN_POSITIVE);
                    assert!((f64::from(*result) - exact).abs() <= bound, "{isa}: exp({value} - {largest}) = {result}");
                }
                let exact: f64 = row.iter().map(|&value| f64::from(value)).sum();
                assert!((f64::from(sum) - exact).abs() <= 1e-5 * exact, "{isa}: {sum} is not {exact}");
            }
        }
        let mut hidden = [f32::NEG_INFINITY; 21];
        assert_eq!(exponentials(Isa::best(), &mut hidden), (f32::NEG_INFINITY, 0.0));
        assert_eq!(hidden, [0.0; 21]);
        let mut row = [1.0, f32::NAN, 2.0];
        assert!(exponentials(Isa::best(), &mut row).1.is_nan() && row[1].is_nan() && row[2] == 1.0);
    }
}
