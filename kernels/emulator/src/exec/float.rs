//! Rounding modes: f32 arithmetic with directed roundings, and conversions between floats and integers.

/// A rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the nearest even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
}

/// The f32 operations that come with directed roundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Add,
    Mul,
    Fma,
    Div,
    Sqrt,
    FromSigned,
    FromUnsigned,
}

impl Kind {
    /// The rounded result of one lane.
    pub fn run(self, round: Round, a: u32, b: u32, c: u32) -> u32 {
        let f = |bits: u32| f64::from(f32::from_bits(bits));
        let (x, y, z) = (f(a), f(b), f(c));
        // A result in f64 and the sign of what that lost.
        let (value, lost) = match self {
            Kind::Add => sum(x, y),
            Kind::Mul => (x * y, 0.0),
            Kind::Fma => sum(x * y, z),
            Kind::Div => {
                let quotient = x / y;
                let residue = -quotient.mul_add(y, -x);
                (quotient, residue * y.signum())
            }
            Kind::Sqrt => {
                let root = x.sqrt();
                (root, -root.mul_add(root, -x))
            }
            Kind::FromSigned => (f64::from(a as i32), 0.0),
            Kind::FromUnsigned => (f64::from(a), 0.0),
        };
        if value == 0.0 && lost == 0.0 && round == Round::Down && matches!(self, Kind::Add | Kind::Fma) {
            // An exact zero of opposite terms is negative when rounding down.
            let product = if self == Kind::Fma { x * y } else { x };
            let other = if self == Kind::Fma { z } else { y };
            let both_positive = product.is_sign_positive() && other.is_sign_positive();
            return if both_positive { 0 } else { 0x8000_0000 };
        }
        super::word::canonical(to_f32(value, lost, round))
    }
}

/// The rounded sum and its exact error (Knuth).
fn sum(x: f64, y: f64) -> (f64, f64) {
    let total = x + y;
    let from_y = total - x;
    let error = (x - (total - from_y)) + (y - from_y);
    (total, if error.is_nan() { 0.0 } else { error })
}

/// An f64 and the sign of a smaller rest, rounded to f32.
pub fn to_f32(value: f64, lost: f64, round: Round) -> f32 {
    let nearest = value as f32;
    if round == Round::Nearest || value.is_nan() || value.is_infinite() {
        return nearest;
    }
    // The sign of exact minus nearest.
    let difference = (value - f64::from(nearest)).partial_cmp(&0.0).filter(|o| o.is_ne());
    let difference = difference.or(lost.partial_cmp(&0.0)).unwrap_or(std::cmp::Ordering::Equal);
    let up = match round {
        Round::Up => true,
        Round::Down | Round::Nearest => false,
        Round::Zero => value < 0.0,
    };
    match (difference, up) {
        (std::cmp::Ordering::Greater, true) => nearest.next_up(),
        (std::cmp::Ordering::Less, false) => nearest.next_down(),
        _ => nearest,
    }
}

/// An f64 rounded to an integral f64.
pub fn integral(value: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => value.round_ties_even(),
        Round::Zero => value.trunc(),
        Round::Down => value.floor(),
        Round::Up => value.ceil(),
    }
}

/// An integral f64 as an integer of the given width, clamped to its range; NaN becomes zero (for 64 bits, the sign
/// bit).
pub fn float_to_integer(value: f64, bits: u32, signed: bool) -> u64 {
    if value.is_nan() {
        return if bits == 64 { 1 << 63 } else { 0 };
    }
    if signed {
        let limit = 1i64 << (bits - 2);
        let (low, high) = (-limit - (limit), limit - 1 + limit);
        return (value as i64).clamp(low, high) as u64;
    }
    let high = u64::MAX >> (64 - bits);
    (value as u64).min(high)
}

/// `minimum` and `maximum` of floats as bits of a type: a number beside a NaN, -0 below +0.
macro_rules! extremes {
    ($bits:ty, $value:ident, $canonical:ident) => {
        fn minimum(a: $bits, b: $bits) -> $bits {
            let (x, y) = ($value(a), $value(b));
            if x.is_nan() {
                return $canonical(y);
            }
            if y.is_nan() || x < y {
                a
            } else if x == y {
                a | b
            } else {
                b
            }
        }

        fn maximum(a: $bits, b: $bits) -> $bits {
            let (x, y) = ($value(a), $value(b));
            if x.is_nan() {
                return $canonical(y);
            }
            if y.is_nan() || x > y {
                a
            } else if x == y {
                a & b
            } else {
                b
            }
        }
    };
}
pub(super) use extremes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_roundings_of_f32() {
        let bits = |x: f32| x.to_bits();
        let one = bits(1.0);
        let tiny = bits(1e-30);
        let add = |round, a, b| f32::from_bits(Kind::Add.run(round, a, b, 0));
        assert_eq!(add(Round::Up, one, tiny), 1f32.next_up());
        assert_eq!(add(Round::Down, one, tiny), 1.0);
        assert_eq!(add(Round::Zero, bits(-1.0), tiny), -(1f32.next_down()));
        assert_eq!(add(Round::Down, one, bits(-1e-30)), 1f32.next_down());
        let third = |round| f32::from_bits(Kind::Div.run(round, one, bits(3.0), 0));
        assert_eq!(third(Round::Up), third(Round::Down).next_up());
        assert_eq!(third(Round::Zero), third(Round::Down));
        let root = |round| f32::from_bits(Kind::Sqrt.run(round, bits(2.0), 0, 0));
        assert_eq!(root(Round::Up), root(Round::Down).next_up());
        assert_eq!(Kind::Add.run(Round::Down, one, bits(-1.0), 0), 0x8000_0000);
        assert_eq!(f32::from_bits(Kind::FromSigned.run(Round::Zero, i32::MAX as u32, 0, 0)), 2147483520.0);
    }

    #[test]
    fn floats_to_integers_clamp() {
        assert_eq!(float_to_integer(3e9, 32, true) as u32, i32::MAX as u32);
        assert_eq!(float_to_integer(-3e9, 32, true) as u32, i32::MIN as u32);
        assert_eq!(float_to_integer(-1.0, 32, false), 0);
        assert_eq!(float_to_integer(1e20, 64, false), u64::MAX);
        assert_eq!(float_to_integer(-200.0, 8, true) as i64, -128);
        assert_eq!(float_to_integer(f64::NAN, 32, true), 0);
    }
}
