//! The product of two rows, which similarities of features and of thumbnails are.

/// Sums side by side, which the compiler can keep in vectors.
const LANES: usize = 16;

/// The dot product of rows of one width, summed in an order that depends on the width alone, so that equal rows have equal
/// products.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_product() {
        for width in [576, 575, 7] {
            let a: Vec<f32> = (0..width).map(|at| ((at * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..width).map(|at| ((at * 5) % 11) as f32 - 5.0).collect();
            // Whole numbers: every order of summation gives the same.
            assert_eq!(dot(&a, &b), a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>());
        }
    }
}
