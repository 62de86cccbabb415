//! Arithmetic on 32-bit words, for all 32 lanes at once.
use super::approximate as approx;
use super::float::{extremes, float_to_integer};
use super::half;
use super::lanes::{comparisons, operations};
use super::long;

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn s(bits: u32) -> i32 {
    bits as i32
}

/// NaN as the hardware returns it.
const NAN: u32 = 0x7fff_ffff;

/// The canonical NaN for any NaN.
pub fn canonical(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

operations! {
    /// Operations that make a word of up to four words.
    Kind(a: u32, b: u32, c: u32, e: u32) -> u32 {
        Move => a,
        Add => a.wrapping_add(b),
        Sub => a.wrapping_sub(b),
        AddSaturate => s(a).saturating_add(s(b)) as u32,
        SubSaturate => s(a).saturating_sub(s(b)) as u32,
        Mul => a.wrapping_mul(b),
        MulHighSigned => ((i64::from(s(a)) * i64::from(s(b))) >> 32) as u32,
        MulHighUnsigned => ((u64::from(a) * u64::from(b)) >> 32) as u32,
        // The high half of a 16-bit product, whose factors come extended.
        MulHigh16 => a.wrapping_mul(b) >> 16,
        Mul24Signed => (((s(a) << 8) >> 8).wrapping_mul((s(b) << 8) >> 8)) as u32,
        Mul24Unsigned => (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff),
        Mad => a.wrapping_mul(b).wrapping_add(c),
        MadHighSigned => (((i64::from(s(a)) * i64::from(s(b))) >> 32) as u32).wrapping_add(c),
        MadHighUnsigned => (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c),
        And => a & b,
        Or => a | b,
        Xor => a ^ b,
        Not => !a,
        IsZero => u32::from(a == 0),
        ShiftLeft => if b > 31 { 0 } else { a << b },
        ShiftRight => if b > 31 { 0 } else { a >> b },
        ShiftRightSigned => (s(a) >> b.min(31)) as u32,
        MinSigned => s(a).min(s(b)) as u32,
        MaxSigned => s(a).max(s(b)) as u32,
        MinUnsigned => a.min(b),
        MaxUnsigned => a.max(b),
        Abs => s(a).wrapping_abs() as u32,
        Negate => s(a).wrapping_neg() as u32,
        // Division by zero is undefined; the hardware returns all ones.
        DivSigned => if b == 0 { u32::MAX } else { s(a).wrapping_div(s(b)) as u32 },
        DivUnsigned => a.checked_div(b).unwrap_or(u32::MAX),
        RemSigned => if b == 0 { a } else { s(a).wrapping_rem(s(b)) as u32 },
        RemUnsigned => a.checked_rem(b).unwrap_or(a),
        SadSigned => c.wrapping_add(s(a).abs_diff(s(b))),
        SadUnsigned => c.wrapping_add(a.abs_diff(b)),
        CountOnes => a.count_ones(),
        LeadingZeros => a.leading_zeros(),
        Reverse => a.reverse_bits(),
        FindUnsigned => 31u32.wrapping_sub(a.leading_zeros()),
        FindSigned => 31u32.wrapping_sub((if s(a) < 0 { !a } else { a }).leading_zeros()),
        FindShiftUnsigned => if a == 0 { u32::MAX } else { a.leading_zeros() },
        FindShiftSigned => { let v = if s(a) < 0 { !a } else { a }; if v == 0 { u32::MAX } else { v.leading_zeros() } },
        ExtractUnsigned => extract(a, b, c, false),
        ExtractSigned => extract(a, b, c, true),
        // bfi f, a, b, position, length: a goes into b.
        Insert => insert(a, b, c, e),
        Permute => permute(a, b, c),
        PermuteForward => permute(a, b, [0x3210, 0x4321, 0x5432, 0x6543][c as usize & 3]),
        PermuteBackward => permute(a, b, [0x5670, 0x6701, 0x7012, 0x0123][c as usize & 3]),
        PermuteReplicate => permute(a, b, [0x0000, 0x1111, 0x2222, 0x3333][c as usize & 3]),
        PermuteClampLeft => permute(a, b, [0x3210, 0x3211, 0x3222, 0x3333][c as usize & 3]),
        PermuteClampRight => permute(a, b, [0x0000, 0x1110, 0x2210, 0x3210][c as usize & 3]),
        PermuteHalves => permute(a, b, [0x1010, 0x3232, 0x1010, 0x3232][c as usize & 3]),
        Lop3 => lop3(a, b, c, e),
        FunnelLeftWrap => ((((u64::from(b) << 32) | u64::from(a)) << (c & 31)) >> 32) as u32,
        FunnelRightWrap => (((u64::from(b) << 32) | u64::from(a)) >> (c & 31)) as u32,
        FunnelLeftClamp => ((((u64::from(b) << 32) | u64::from(a)) << c.min(32)) >> 32) as u32,
        FunnelRightClamp => (((u64::from(b) << 32) | u64::from(a)) >> c.min(32)) as u32,
        // Bytes a dot bytes b plus c.
        Dot4Signed => dot4(a, b, c, true),
        Dot4Unsigned => dot4(a, b, c, false),
        PackHalves => (a & 0xffff) | (b << 16),
        UpperHalf => a >> 16,
        LowerHalf => a & 0xffff,
        PackBytes => (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (e << 24),
        Byte0 => a & 255,
        Byte1 => (a >> 8) & 255,
        Byte2 => (a >> 16) & 255,
        Byte3 => a >> 24,
        Extend8 => i32::from(a as i8) as u32,
        Extend16 => i32::from(a as i16) as u32,
        // Integer conversions that clamp to the type (cvt.sat).
        ClampS8 => s(a).clamp(-128, 127) as u32,
        ClampU8 => s(a).clamp(0, 255) as u32,
        ClampS16 => s(a).clamp(-32768, 32767) as u32,
        ClampU16 => s(a).clamp(0, 65535) as u32,
        ClampUnsignedToS8 => a.min(127),
        ClampUnsignedToU8 => a.min(255),
        ClampUnsignedToS16 => a.min(32767),
        ClampUnsignedToU16 => a.min(65535),
        ClampUnsignedToS32 => a.min(0x7fff_ffff),
        ClampSignedToU32 => s(a).max(0) as u32,

        AddF32 => canonical(f(a) + f(b)),
        SubF32 => canonical(f(a) - f(b)),
        MulF32 => canonical(f(a) * f(b)),
        FmaF32 => canonical(f(a).mul_add(f(b), f(c))),
        MinF32 => minimum(a, b),
        MaxF32 => maximum(a, b),
        MinNanF32 => if f(a).is_nan() || f(b).is_nan() { NAN } else { minimum(a, b) },
        MaxNanF32 => if f(a).is_nan() || f(b).is_nan() { NAN } else { maximum(a, b) },
        Min3F32 => minimum(minimum(a, b), c),
        Max3F32 => maximum(maximum(a, b), c),
        AbsF32 => a & 0x7fff_ffff,
        NegateF32 => a ^ 0x8000_0000,
        // The sign of a on the magnitude of b.
        CopySign => (a & 0x8000_0000) | (b & 0x7fff_ffff),
        DivF32 => canonical(f(a) / f(b)),
        ReciprocalF32 => canonical(1.0 / f(a)),
        SqrtF32 => canonical(f(a).sqrt()),
        InverseSqrtF32 => canonical(approx::inverse_sqrt(f(a))),
        Exp2F32 => canonical(approx::exp2(f(a))),
        Log2F32 => canonical(approx::log2(f(a))),
        SinF32 => canonical(approx::sin(f(a))),
        CosF32 => canonical(approx::cos(f(a))),
        TanhF32 => canonical(approx::tanh(f(a))),
        // Rounded to an integral f32.
        NearestF32 => canonical(f(a).round_ties_even()),
        TruncateF32 => canonical(f(a).trunc()),
        FloorF32 => canonical(f(a).floor()),
        CeilF32 => canonical(f(a).ceil()),
        SignedToF32 => (s(a) as f32).to_bits(),
        UnsignedToF32 => (a as f32).to_bits(),
        F32ToSignedNearest => float_to_integer(f64::from(f(a)).round_ties_even(), 32, true) as u32,
        F32ToSignedZero => float_to_integer(f64::from(f(a)).trunc(), 32, true) as u32,
        F32ToSignedDown => float_to_integer(f64::from(f(a)).floor(), 32, true) as u32,
        F32ToSignedUp => float_to_integer(f64::from(f(a)).ceil(), 32, true) as u32,
        F32ToUnsignedNearest => float_to_integer(f64::from(f(a)).round_ties_even(), 32, false) as u32,
        F32ToUnsignedZero => float_to_integer(f64::from(f(a)).trunc(), 32, false) as u32,
        F32ToUnsignedDown => float_to_integer(f64::from(f(a)).floor(), 32, false) as u32,
        F32ToUnsignedUp => float_to_integer(f64::from(f(a)).ceil(), 32, false) as u32,

        Tf32Away => half::to_tf32(a, false),
        Tf32Nearest => half::to_tf32(a, true),
        F16ToF32 => canonical(half::from_half(a as u16)),
        Bf16ToF32 => a << 16,
        F32ToF16 => to_half(a, false),
        F32ToF16Zero => to_half(a, true),
        F32ToBf16 => u32::from(half::to_brain(f(a), false)),
        F32ToBf16Zero => u32::from(half::to_brain(f(a), true)),
        // cvt.rn.f16x2.f32 d, a, b: a is the upper half.
        PackF16 => (to_half(a, false) << 16) | to_half(b, false),
        PackF16Zero => (to_half(a, true) << 16) | to_half(b, true),
        PackBf16 => (u32::from(half::to_brain(f(a), false)) << 16) | u32::from(half::to_brain(f(b), false)),
        PackBf16Zero => (u32::from(half::to_brain(f(a), true)) << 16) | u32::from(half::to_brain(f(b), true)),
        // Fused multiply-add for 16-bit results: rounded to odd, so that the second rounding is exact.
        FmaHalf => half::fma_odd(f(a), f(b), f(c)).to_bits(),
        AbsHalf => a & 0x7fff,
        NegateHalf => a ^ 0x8000,
        AbsHalves => a & 0x7fff_7fff,
        NegateHalves => a ^ 0x8000_8000,
        Relu => if f(a).is_nan() { NAN } else if s(a) < 0 { 0 } else { a },
    }
}

fn unordered(a: u32, b: u32) -> bool {
    f(a).is_nan() || f(b).is_nan()
}

fn to_half(a: u32, to_zero: bool) -> u32 {
    half::to_half(f64::from(f(a)), to_zero).into()
}

/// The products of four bytes, added to c.
fn dot4(a: u32, b: u32, c: u32, signed: bool) -> u32 {
    let byte = |word: u32, i: u32| {
        let byte = (word >> (8 * i)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i) * byte(b, i)) as u32))
}

extremes!(u32, f, canonical);

fn extract(a: u32, position: u32, length: u32, signed: bool) -> u32 {
    let wide = if signed { a as i32 as u64 } else { a.into() };
    long::extract(wide, position, length, signed) as u32
}

fn insert(a: u32, b: u32, position: u32, length: u32) -> u32 {
    long::insert(a.into(), b.into(), position, length) as u32
}

fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32) | u64::from(a);
    (0..4).fold(0, |result, i| {
        let choice = (selector >> (4 * i)) & 15;
        let byte = (bytes >> (8 * (choice & 7))) as u8;
        let byte = if choice & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        result | u32::from(byte) << (8 * i)
    })
}

fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).fold(0, |result, i| {
        let term =
            (if i & 4 != 0 { a } else { !a }) & (if i & 2 != 0 { b } else { !b }) & (if i & 1 != 0 { c } else { !c });
        result | (term & 0u32.wrapping_sub((table >> i) & 1))
    })
}

comparisons! {
    /// Comparisons of words.
    Compare(a, b: u32) {
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
        EqualF32 => f(a) == f(b),
        NotEqualF32 => f(a) < f(b) || f(a) > f(b),
        LessF32 => f(a) < f(b),
        LessEqualF32 => f(a) <= f(b),
        GreaterF32 => f(a) > f(b),
        GreaterEqualF32 => f(a) >= f(b),
        EqualOrNanF32 => f(a) == f(b) || unordered(a, b),
        NotEqualOrNanF32 => f(a) != f(b),
        LessOrNanF32 => f(a) < f(b) || unordered(a, b),
        LessEqualOrNanF32 => f(a) <= f(b) || unordered(a, b),
        GreaterOrNanF32 => f(a) > f(b) || unordered(a, b),
        GreaterEqualOrNanF32 => f(a) >= f(b) || unordered(a, b),
        Numbers => !unordered(a, b),
        Nan => unordered(a, b),
    }
}

/// Additions with the carry flag of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarryKind {
    /// What is added: c + a*b (low or high half), a + b, or a - b.
    pub base: CarryBase,
    /// Reads the flag.
    pub carry_in: bool,
    /// Writes the flag.
    pub carry_out: bool,
}

/// What an operation with carry computes before the carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarryBase {
    Add,
    Sub,
    MadLow,
    MadHigh,
}

impl CarryKind {
    /// Result and new flag of one lane.
    pub fn run(self, a: u32, b: u32, c: u32, flag: bool) -> (u32, bool) {
        let (x, y) = match self.base {
            CarryBase::Add | CarryBase::Sub => (a, b),
            CarryBase::MadLow => (a.wrapping_mul(b), c),
            CarryBase::MadHigh => (((u64::from(a) * u64::from(b)) >> 32) as u32, c),
        };
        let flag = u64::from(flag && self.carry_in);
        if self.base == CarryBase::Sub {
            let wide = u64::from(x).wrapping_sub(u64::from(y)).wrapping_sub(flag);
            return (wide as u32, (wide >> 32) & 1 == 1);
        }
        let wide = u64::from(x) + u64::from(y) + flag;
        (wide as u32, (wide >> 32) & 1 == 1)
    }
}
