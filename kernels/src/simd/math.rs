//! Elementary functions in branch-free f32, for use inside `vectorized!` bodies. Bounds are tested below.

use super::Level;

/// The polynomial with these coefficients, highest first: a chain of `fma`, written out so that it becomes vector code.
macro_rules! polynomial {
    ($level:ty, $x:expr; $first:expr $(, $next:expr)+) => {{
        let sum: f32 = $first;
        $(let sum = <$level>::fma(sum, $x, $next);)+
        sum
    }};
}

/// e^x within 2 ulp; 0 below -87.33 (results that would be subnormal), infinity above 88.73, NaN for NaN.
#[inline(always)]
pub fn exp<L: Level>(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer, kept in the low mantissa bits
    let bounded = if x > 88.8 { 88.8 } else { x };
    let bounded = if bounded < -87.4 { -87.4 } else { bounded };
    let shifted = L::fma(bounded, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // ln 2 in two parts; n has at most 8 bits, so n times the first part is exact.
    let r = L::fma(n, -0.693_145_75, bounded);
    let r = L::fma(n, -1.428_606_8e-6, r);
    // Taylor to r^7: |r| <= 0.3467, so the first missing term is below 6e-9 relative.
    let p = polynomial!(L, r; 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0);
    // 2^n in two factors: n reaches 128, where a single exponent would overflow.
    let n = shifted.to_bits() as i32 - SHIFT.to_bits() as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let result = p * power(half) * power(n - half);
    let result = if x < -87.33 { 0.0 } else { result };
    let result = if x > 88.73 { f32::INFINITY } else { result };
    if x.is_nan() { x } else { result }
}

/// ln x within 2 ulp, or 1e-7 near 1, for positive normal x; NaN for what is infinite or NaN.
#[inline(always)]
pub fn ln<L: Level>(x: f32) -> f32 {
    // x = 2^n m with m between the square roots of 1/2 and 2.
    const HALF_ROOT: i32 = 0x3f35_04f3;
    let bits = x.to_bits() as i32;
    let n = bits.wrapping_sub(HALF_ROOT) >> 23;
    let r = f32::from_bits(bits.wrapping_sub(n << 23) as u32) - 1.0;
    let n = n as f32;
    // Minimax of (ln (1 + r) - r + r^2 / 2) / r^3, as in Moshier's Cephes.
    let p = polynomial!(
        L, r; 7.037_684e-2, -1.151_461e-1, 1.167_7e-1, -1.242_014_1e-1, 1.424_932_3e-1, -1.666_805_8e-1, 2.000_071_5e-1,
        -2.499_999_4e-1, 3.333_333e-1
    );
    let square = r * r;
    // ln 2 in two parts; n times the first is exact.
    let low = L::fma(n, -2.121_944_4e-4, p * r * square);
    L::fma(n, 0.693_359_4, L::fma(square, -0.5, low) + r) + x * 0.0
}

/// x, or the nearer end of -`end` to `end`; NaN stays.
#[inline(always)]
fn within(x: f32, end: f32) -> f32 {
    let bounded = if x > end { end } else { x };
    if bounded < -end { -end } else { bounded }
}

/// tanh x within 6 ulp: x times a rational minimax in x², ±1 beyond 9.
#[inline(always)]
pub fn tanh<L: Level>(x: f32) -> f32 {
    let bounded = within(x, 9.0);
    let s = bounded * bounded;
    let p = polynomial!(L, s; -8.488_864e-14, 5.278_01e-11, -2.022_535_6e-8, 1.115_434e-5, 3.103_959_3e-3, 1.308_401_3e-1, 1.0);
    let q = polynomial!(L, s; 2.546_149_7e-4, 2.449_519e-2, 4.641_734e-1, 1.0);
    bounded * p / q
}

/// 1 / (1 + e^-x), absolute error below 2e-7.
#[inline(always)]
pub fn sigmoid<L: Level>(x: f32) -> f32 {
    L::fma(0.5, tanh::<L>(0.5 * x), 0.5)
}

/// Φ(x) = (1 + erf(x / √2)) / 2: 1/2 and an odd rational minimax in x², 0 and 1 beyond 5.2. Absolute error below 3e-7.
#[inline(always)]
pub fn normal<L: Level>(x: f32) -> f32 {
    let bounded = within(x, 5.2);
    let s = bounded * bounded;
    let p =
        polynomial!(L, s; -1.761_682_7e-8, 6.025_036e-6, 4.657_213_6e-4, 6.430_782_4e-3, 6.533_978e-2, 3.989_416e-1);
    let q = polynomial!(L, s; 1.567_178e-4, 3.567_258_4e-3, 4.621_352e-2, 3.304_379_3e-1, 1.0);
    0.5 + bounded * p / q
}

/// GELU, x Φ(x), with the exact Φ.
#[inline(always)]
pub fn gelu<L: Level>(x: f32) -> f32 {
    x * normal::<L>(x)
}

/// Derivative of [`gelu`], Φ(x) + x φ(x): as [`normal`], 0 and 1 beyond 5.75. Absolute error below 4e-7.
#[inline(always)]
pub fn gelu_derivative<L: Level>(x: f32) -> f32 {
    let bounded = within(x, 5.75);
    let s = bounded * bounded;
    let p = polynomial!(L, s; 1.929_076_3e-7, 3.595_433_4e-5, 1.923_569_1e-5, 1.423_018_5e-2, -3.099_526_8e-2, 7.978_853_6e-1);
    let q = polynomial!(L, s; 8.951_73e-6, 1.920_368_7e-4, 3.523_023_8e-3, 4.098_031_3e-2, 2.944_947_8e-1, 1.0);
    0.5 + bounded * p / q
}

/// QuickGELU, x σ(1.702 x).
#[inline(always)]
pub fn quick_gelu<L: Level>(x: f32) -> f32 {
    x * sigmoid::<L>(1.702 * x)
}

/// Derivative of [`quick_gelu`]: as [`normal`], 0 and 1 beyond 11.48. Absolute error below 4e-7.
#[inline(always)]
pub fn quick_gelu_derivative<L: Level>(x: f32) -> f32 {
    let bounded = within(x, 11.48);
    let s = bounded * bounded;
    let p = polynomial!(L, s; 2.772_414e-8, 1.206_330_7e-5, 8.886_821e-4, 2.128_715_4e-2, 1.685_993_4e-1, 8.509_998e-1);
    let q =
        polynomial!(L, s; 8.823_554e-10, 1.522_644e-6, 2.474_124_8e-4, 9.697_735e-3, 1.439_799_4e-1, 6.809_175e-1, 1.0);
    0.5 + bounded * p / q
}

/// The exact error function in f64: the series near 0, a continued fraction beyond. For references and tests.
pub fn erf_f64(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
            if n > 200.0 {
                break;
            }
        }
        return (std::f64::consts::FRAC_2_SQRT_PI * sum).copysign(x);
    }
    let mut fraction = a;
    for k in (1..=60).rev() {
        fraction = a + f64::from(k) / 2.0 / fraction;
    }
    (1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Fused, Plain};

    fn ulps(value: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
        (f64::from(value) - exact).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulps() {
        for i in -870_000..887_000i32 {
            let x = i as f32 * 1e-4;
            for value in [exp::<Plain>(x), exp::<Fused>(x)] {
                assert!(ulps(value, f64::from(x).exp()) <= 2.0, "exp({x}) = {value}");
            }
        }
        assert_eq!(exp::<Fused>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<Fused>(-1e30), 0.0);
        assert_eq!(exp::<Fused>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<Fused>(0.0), 1.0);
        assert!(exp::<Fused>(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_within_two_ulps() {
        let near: Vec<f32> = (0..40_000).map(|i| 0.5 + i as f32 * 1e-4).collect();
        let far = (-1260..1270).map(|i| (f64::from(i) * 0.1).exp2() as f32);
        for x in near.into_iter().chain(far).chain([f32::MIN_POSITIVE, 1.0, f32::MAX]) {
            let exact = f64::from(x).ln();
            for value in [ln::<Plain>(x), ln::<Fused>(x)] {
                let off = (f64::from(value) - exact).abs();
                assert!(off <= 1e-7 || ulps(value.abs(), exact.abs()) <= 2.0, "ln({x}) = {value}");
            }
        }
        assert_eq!(ln::<Fused>(1.0), 0.0);
        assert!([f32::INFINITY, f32::NAN, -f32::NAN].into_iter().all(|x| ln::<Fused>(x).is_nan()));
    }

    #[test]
    fn tanh_is_within_six_ulps_and_sigmoid_within_its_bound() {
        let even = (1..130_000).map(|i| i as f32 * 1e-4);
        let small = (-1200..0).map(|i| (f64::from(i) * 0.1).exp2() as f32);
        for x in even.chain(small).chain([f32::MAX, f32::INFINITY]) {
            let exact = f64::from(x).tanh();
            for (value, opposite) in [(tanh::<Plain>(x), tanh::<Plain>(-x)), (tanh::<Fused>(x), tanh::<Fused>(-x))] {
                assert!(ulps(value, exact) <= 6.0 && opposite == -value, "tanh({x}) = {value}");
            }
            let (x, exact) = (2.0 * x, 1.0 / (1.0 + (-2.0 * f64::from(x)).exp()));
            assert!((f64::from(sigmoid::<Fused>(x)) - exact).abs() < 2e-7, "sigmoid({x})");
            assert!((f64::from(sigmoid::<Fused>(-x)) - (1.0 - exact)).abs() < 2e-7, "sigmoid(-{x})");
        }
        assert!(tanh::<Fused>(f32::NAN).is_nan() && tanh::<Fused>(0.0) == 0.0);
    }

    #[test]
    fn erf_and_gelu_are_within_their_bounds() {
        // Reference values of erf from Abramowitz and Stegun, table 7.1.
        for (x, value) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf_f64(x) - value).abs() < 1e-10);
        }
        assert!((erf_f64(3.0 + 1e-12) - erf_f64(3.0 - 1e-12)).abs() < 1e-12); // the series loses 3 digits at 3
        for i in -160_000..160_000i32 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x);
            let cumulative = 0.5 * (1.0 + erf_f64(exact / std::f64::consts::SQRT_2));
            let density = (-0.5 * exact * exact).exp() / std::f64::consts::TAU.sqrt();
            for value in [normal::<Plain>(x), normal::<Fused>(x)] {
                assert!((f64::from(value) - cumulative).abs() < 3e-7, "Φ({x})");
            }
            assert!((f64::from(gelu::<Fused>(x)) - exact * cumulative).abs() < 3e-7 * (1.0 + exact.abs()), "gelu({x})");
            let slope = cumulative + exact * density;
            for value in [gelu_derivative::<Plain>(x), gelu_derivative::<Fused>(x)] {
                assert!((f64::from(value) - slope).abs() < 4e-7, "gelu'({x})");
            }
            let s = 1.0 / (1.0 + (-1.702 * exact).exp());
            assert!((f64::from(quick_gelu::<Fused>(x)) - exact * s).abs() < 4e-7 * (1.0 + exact.abs()), "quick({x})");
            let slope = s + 1.702 * exact * s * (1.0 - s);
            for value in [quick_gelu_derivative::<Plain>(x), quick_gelu_derivative::<Fused>(x)] {
                assert!((f64::from(value) - slope).abs() < 4e-7, "quick'({x})");
            }
        }
        let saturated = [
            [normal::<Plain>, normal::<Fused>],
            [gelu_derivative::<Plain>, gelu_derivative::<Fused>],
            [quick_gelu_derivative::<Plain>, quick_gelu_derivative::<Fused>],
        ];
        for function in saturated.into_iter().flatten() {
            assert!([12.0, 1e30].into_iter().all(|far| (function(-far), function(far)) == (0.0, 1.0)));
            assert!(function(f32::NAN).is_nan());
        }
    }
}
