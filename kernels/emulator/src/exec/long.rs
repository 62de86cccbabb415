//! Arithmetic on 64-bit longs, and between longs and words.
use super::float::{Round, extremes, float_to_integer, integral};
use super::half;
use super::lanes::{comparisons, operations};

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn s(bits: u64) -> i64 {
    bits as i64
}

const NAN: u64 = 0x7fff_ffff_ffff_ffff;

fn canonical(value: f64) -> u64 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

operations! {
    /// Operations that make a long of longs a, b, c and words x, y.
    Kind(a: u64, b: u64, c: u64, x: u32, y: u32) -> u64 {
        Move => a,
        Add => a.wrapping_add(b),
        Sub => a.wrapping_sub(b),
        Mul => a.wrapping_mul(b),
        MulHighSigned => ((i128::from(s(a)) * i128::from(s(b))) >> 64) as u64,
        MulHighUnsigned => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        Mad => a.wrapping_mul(b).wrapping_add(c),
        MadHighSigned => (((i128::from(s(a)) * i128::from(s(b))) >> 64) as u64).wrapping_add(c),
        MadHighUnsigned => (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c),
        MulWideSigned => (i64::from(x as i32) * i64::from(y as i32)) as u64,
        MulWideUnsigned => u64::from(x) * u64::from(y),
        MadWideSigned => ((i64::from(x as i32) * i64::from(y as i32)) as u64).wrapping_add(c),
        MadWideUnsigned => (u64::from(x) * u64::from(y)).wrapping_add(c),
        And => a & b,
        Or => a | b,
        Xor => a ^ b,
        Not => !a,
        IsZero => u64::from(a == 0),
        ShiftLeft => if x > 63 { 0 } else { a << x },
        ShiftRight => if x > 63 { 0 } else { a >> x },
        ShiftRightSigned => (s(a) >> x.min(63)) as u64,
        MinSigned => s(a).min(s(b)) as u64,
        MaxSigned => s(a).max(s(b)) as u64,
        MinUnsigned => a.min(b),
        MaxUnsigned => a.max(b),
        Abs => s(a).wrapping_abs() as u64,
        Negate => s(a).wrapping_neg() as u64,
        DivSigned => if b == 0 { u64::MAX } else { s(a).wrapping_div(s(b)) as u64 },
        DivUnsigned => a.checked_div(b).unwrap_or(u64::MAX),
        RemSigned => if b == 0 { a } else { s(a).wrapping_rem(s(b)) as u64 },
        RemUnsigned => a.checked_rem(b).unwrap_or(a),
        SadSigned => c.wrapping_add(s(a).abs_diff(s(b))),
        SadUnsigned => c.wrapping_add(a.abs_diff(b)),
        Reverse => a.reverse_bits(),
        ExtractUnsigned => extract(a, x, y, false),
        ExtractSigned => extract(a, x, y, true),
        Insert => insert(a, b, x, y),
        ZeroExtend => u64::from(x),
        SignExtend => x as i32 as u64,
        SignExtendLow8 => x as i8 as u64,
        SignExtendLow16 => x as i16 as u64,
        Extend8 => a as i8 as u64,
        Extend16 => a as i16 as u64,
        Extend32 => a as i32 as u64,
        Low8 => a & 0xff,
        Low16 => a & 0xffff,
        Low32 => a & 0xffff_ffff,
        ClampUnsignedToS64 => a.min(i64::MAX as u64),
        ClampSignedToU64 => s(a).max(0) as u64,
        Pack => u64::from(x) | (u64::from(y) << 32),

        AddF64 => canonical(d(a) + d(b)),
        SubF64 => canonical(d(a) - d(b)),
        MulF64 => canonical(d(a) * d(b)),
        FmaF64 => canonical(d(a).mul_add(d(b), d(c))),
        MinF64 => minimum(a, b),
        MaxF64 => maximum(a, b),
        AbsF64 => a & (u64::MAX >> 1),
        NegateF64 => a ^ (1 << 63),
        CopySign => (a & (1 << 63)) | (b & (u64::MAX >> 1)),
        DivF64 => canonical(d(a) / d(b)),
        ReciprocalF64 => canonical(1.0 / d(a)),
        SqrtF64 => canonical(d(a).sqrt()),
        // The approximations keep the upper 32 bits only.
        ReciprocalApprox => canonical(1.0 / d(a)) & 0xffff_ffff_0000_0000,
        InverseSqrtApprox => canonical(1.0 / d(a).sqrt()) & 0xffff_ffff_0000_0000,
        NearestF64 => canonical(integral(d(a), Round::Nearest)),
        TruncateF64 => canonical(d(a).trunc()),
        FloorF64 => canonical(d(a).floor()),
        CeilF64 => canonical(d(a).ceil()),
        F32ToF64 => canonical(f64::from(f32::from_bits(x))),
        SignedWordToF64 => f64::from(x as i32).to_bits(),
        UnsignedWordToF64 => f64::from(x).to_bits(),
        SignedToF64 => (s(a) as f64).to_bits(),
        UnsignedToF64 => (a as f64).to_bits(),
        F64ToSignedNearest => float_to_integer(integral(d(a), Round::Nearest), 64, true),
        F64ToSignedZero => float_to_integer(d(a).trunc(), 64, true),
        F64ToSignedDown => float_to_integer(d(a).floor(), 64, true),
        F64ToSignedUp => float_to_integer(d(a).ceil(), 64, true),
        F64ToUnsignedNearest => float_to_integer(integral(d(a), Round::Nearest), 64, false),
        F64ToUnsignedZero => float_to_integer(d(a).trunc(), 64, false),
        F64ToUnsignedDown => float_to_integer(d(a).floor(), 64, false),
        F64ToUnsignedUp => float_to_integer(d(a).ceil(), 64, false),
    }
}

extremes!(u64, d, canonical);

/// The field of `length` bits from `position` on, with its sign or zeros above.
pub fn extract(a: u64, position: u32, length: u32, signed: bool) -> u64 {
    let (position, length) = ((position & 255).min(127), (length & 255).min(64));
    if length == 0 {
        return 0;
    }
    let wide = if signed { i128::from(a as i64) } else { i128::from(a) };
    let left = 128 - length;
    let shifted = (wide >> position) << left;
    (if signed { shifted >> left } else { ((shifted as u128) >> left) as i128 }) as u64
}

/// b with its field of `length` bits from `position` on replaced by the low bits of a.
pub fn insert(a: u64, b: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    let mask = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    if position > 63 { b } else { (b & !(mask << position)) | ((a & mask) << position) }
}

operations! {
    /// Operations that make a word of longs.
    NarrowKind(a: u64, b: u64) -> u32 {
        Low => a as u32,
        High => (a >> 32) as u32,
        Half0 => (a & 0xffff) as u32,
        Half1 => ((a >> 16) & 0xffff) as u32,
        Half2 => ((a >> 32) & 0xffff) as u32,
        Half3 => (a >> 48) as u32,
        Low8 => (a & 0xff) as u32,
        Extend8 => a as i8 as u32,
        Extend16 => a as i16 as u32,
        ClampSigned32 => s(a).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32,
        ClampSignedToU32 => s(a).clamp(0, i64::from(u32::MAX)) as u32,
        ClampUnsignedToS32 => a.min(0x7fff_ffff) as u32,
        ClampUnsigned32 => a.min(u64::from(u32::MAX)) as u32,
        CountOnes => a.count_ones(),
        LeadingZeros => a.leading_zeros(),
        FindUnsigned => 63u32.wrapping_sub(a.leading_zeros()),
        FindSigned => 63u32.wrapping_sub((if s(a) < 0 { !a } else { a }).leading_zeros()),
        FindShiftUnsigned => if a == 0 { u32::MAX } else { a.leading_zeros() },
        FindShiftSigned => { let v = if s(a) < 0 { !a } else { a }; if v == 0 { u32::MAX } else { v.leading_zeros() } },
        F64ToF32 => super::word::canonical(d(a) as f32),
        F64ToF32Zero => super::word::canonical(super::float::to_f32(d(a), 0.0, Round::Zero)),
        F64ToF32Down => super::word::canonical(super::float::to_f32(d(a), 0.0, Round::Down)),
        F64ToF32Up => super::word::canonical(super::float::to_f32(d(a), 0.0, Round::Up)),
        F64ToF16 => u32::from(half::to_half(d(a), false)),
        F64ToBf16 => u32::from(half::to_brain(half::to_odd(d(a)), false)),
        SignedToF32 => (s(a) as f32).to_bits(),
        UnsignedToF32 => (a as f32).to_bits(),
        F64ToSignedNearest => float_to_integer(integral(d(a), Round::Nearest), 32, true) as u32,
        F64ToSignedZero => float_to_integer(d(a).trunc(), 32, true) as u32,
        F64ToSignedDown => float_to_integer(d(a).floor(), 32, true) as u32,
        F64ToSignedUp => float_to_integer(d(a).ceil(), 32, true) as u32,
        F64ToUnsignedNearest => float_to_integer(integral(d(a), Round::Nearest), 32, false) as u32,
        F64ToUnsignedZero => float_to_integer(d(a).trunc(), 32, false) as u32,
        F64ToUnsignedDown => float_to_integer(d(a).floor(), 32, false) as u32,
        F64ToUnsignedUp => float_to_integer(d(a).ceil(), 32, false) as u32,
    }
}

fn unordered(a: u64, b: u64) -> bool {
    d(a).is_nan() || d(b).is_nan()
}

comparisons! {
    /// Comparisons of longs.
    Compare(a, b: u64) {
        Equal => a == b,
        NotEqual => a != b,
        LessSigned => s(a) < s(b),
        LessEqualSigned => s(a) <= s(b),
        GreaterSigned => s(a) > s(b),
        GreaterEqualSigned => s(a) >= s(b),
        Less => a < b,
        LessEqual => a <= b,
        Greater => a > b,
        GreaterEqual => a >= b,
        EqualF64 => d(a) == d(b),
        NotEqualF64 => d(a) < d(b) || d(a) > d(b),
        LessF64 => d(a) < d(b),
        LessEqualF64 => d(a) <= d(b),
        GreaterF64 => d(a) > d(b),
        GreaterEqualF64 => d(a) >= d(b),
        EqualOrNanF64 => d(a) == d(b) || unordered(a, b),
        NotEqualOrNanF64 => d(a) != d(b),
        LessOrNanF64 => d(a) < d(b) || unordered(a, b),
        LessEqualOrNanF64 => d(a) <= d(b) || unordered(a, b),
        GreaterOrNanF64 => d(a) > d(b) || unordered(a, b),
        GreaterEqualOrNanF64 => d(a) >= d(b) || unordered(a, b),
        Numbers => !unordered(a, b),
        Nan => unordered(a, b),
    }
}
