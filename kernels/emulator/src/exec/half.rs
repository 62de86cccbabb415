//! Conversions of the 16-bit floats and of tf32.
use half::{bf16, f16};

/// f16 to f32, exact.
pub fn from_half(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// bf16 to f32, exact.
pub fn from_brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To f16, to the nearest even or towards zero.
pub fn to_half(value: f64, to_zero: bool) -> u16 {
    if value.is_nan() {
        return 0x7fff;
    }
    let nearest = f16::from_f64(value);
    if to_zero && f64::from(nearest).abs() > value.abs() {
        return nearest.to_bits() - 1;
    }
    nearest.to_bits()
}

/// To bf16, to the nearest even or towards zero.
pub fn to_brain(value: f32, to_zero: bool) -> u16 {
    if value.is_nan() {
        return 0x7fff;
    }
    if to_zero { (value.to_bits() >> 16) as u16 } else { bf16::from_f32(value).to_bits() }
}

/// To tf32 (10 bits of mantissa): ties to even, or away from zero (`.rna`).
pub fn to_tf32(bits: u32, to_even: bool) -> u32 {
    let value = f32::from_bits(bits);
    if value.is_nan() {
        return 0x7fff_ffff;
    }
    if value.is_infinite() {
        return bits;
    }
    let half = if to_even { 0x0fff + ((bits >> 13) & 1) } else { 0x1000 };
    bits.wrapping_add(half) & 0xffff_e000
}

/// a*b + c rounded to odd in f32: rounding that to a 16-bit float gives the correctly rounded result.
pub fn fma_odd(a: f32, b: f32, c: f32) -> f32 {
    to_odd(f64::from(a).mul_add(f64::from(b), f64::from(c)))
}

/// An f64 rounded to odd in f32: truncated, the last bit set when that lost something.
pub fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if !nearest.is_finite() || f64::from(nearest) == value {
        return nearest;
    }
    let bits = nearest.to_bits();
    let truncated = if f64::from(nearest).abs() > value.abs() { bits - 1 } else { bits };
    f32::from_bits(truncated | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundings_of_halves() {
        assert_eq!(to_half(1.0 + 2f64.powi(-11), false), 0x3c00);
        assert_eq!(to_half(1.0 + 3.0 * 2f64.powi(-11), false), 0x3c02);
        assert_eq!(to_half(1.0 + 3.0 * 2f64.powi(-11), true), 0x3c01);
        assert_eq!(to_half(1e9, true), 0x7bff);
        assert_eq!(to_brain(f32::from_bits(0x3f80_8000), false), 0x3f80);
        assert_eq!(to_brain(f32::from_bits(0x3f81_8000), false), 0x3f82);
        assert_eq!(to_brain(f32::from_bits(0x3f81_ffff), true), 0x3f81);
        assert_eq!(to_tf32(0x3f80_1000, false), 0x3f80_2000);
        assert_eq!(to_tf32(0x3f80_1000, true), 0x3f80_0000);
        assert_eq!(to_odd(1.0 + 2f64.powi(-40)).to_bits(), 0x3f80_0001);
        assert_eq!(to_odd(1.0), 1.0);
    }
}
