//! `cvt`: between integers and floats of all widths.
use super::{Builder, Class, Modifiers, class, unsupported};
use crate::Fault;
use crate::exec::float::{Kind as RoundedKind, Round};
use crate::exec::long::{Kind as Long, NarrowKind};
use crate::exec::word::Kind as Word;
use crate::op::{Form, HalfKind, Op, Reg};
use crate::parse::{Operand, Statement, Type};

/// What `cvt` rounds to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// A float of fewer bits.
    Float(Round),
    /// An integer value.
    Integer(Round),
    /// tf32, ties away from zero.
    Away,
}

const ROUNDINGS: [(&str, Rounding); 9] = [
    ("rn", Rounding::Float(Round::Nearest)),
    ("rz", Rounding::Float(Round::Zero)),
    ("rm", Rounding::Float(Round::Down)),
    ("rp", Rounding::Float(Round::Up)),
    ("rni", Rounding::Integer(Round::Nearest)),
    ("rzi", Rounding::Integer(Round::Zero)),
    ("rmi", Rounding::Integer(Round::Down)),
    ("rpi", Rounding::Integer(Round::Up)),
    ("rna", Rounding::Away),
];

/// What `cvt` does beside rounding.
#[derive(Clone, Copy)]
struct Options {
    rounding: Option<Rounding>,
    flush: bool,
    saturate: bool,
    relu: bool,
}

fn is_float(kind: Type) -> bool {
    matches!(kind, Type::Float(_) | Type::Bf16 | Type::Bf16x2 | Type::F16x2 | Type::Tf32)
}

impl<'t> Builder<'t> {
    pub(super) fn cvt(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        let pack = m.flag("pack");
        let rounding = m.choice(&ROUNDINGS);
        let options = Options {
            rounding,
            flush: m.flag("ftz"),
            saturate: m.flag("sat") || m.flag("satfinite"),
            relu: m.flag("relu"),
        };
        let to = m.kind()?;
        let from = m.kind()?;
        m.finish()?;
        if pack {
            return Err(unsupported(s, "cvt.pack"));
        }
        if matches!(to, Type::F16x2 | Type::Bf16x2) {
            return self.convert_pair(s, to, from, options);
        }
        self.expect_operands(s, &[2])?;
        match (is_float(from), is_float(to)) {
            (false, false) => self.integer_to_integer(s, to, from, options),
            (false, true) => self.integer_to_float(s, to, from, options),
            (true, false) => self.float_to_integer(s, to, from, options),
            (true, true) => self.float_to_float(s, to, from, options),
        }
    }

    fn convert_pair(&mut self, s: &Statement, to: Type, from: Type, options: Options) -> Result<(), Fault> {
        self.expect_operands(s, &[3])?;
        if from != Type::Float(32) || options.saturate {
            return Err(unsupported(s, "a pair is made of two f32"));
        }
        let f = match (to, options.rounding) {
            (Type::F16x2, Some(Rounding::Float(Round::Nearest))) => Word::PackF16,
            (Type::F16x2, Some(Rounding::Float(Round::Zero))) => Word::PackF16Zero,
            (Type::Bf16x2, Some(Rounding::Float(Round::Nearest))) => Word::PackBf16,
            (Type::Bf16x2, Some(Rounding::Float(Round::Zero))) => Word::PackBf16Zero,
            _ => return Err(unsupported(s, "it needs `.rn` or `.rz`")),
        };
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let mut a = self.word(s, &s.operands[1], from)?;
        let mut b = self.word(s, &s.operands[2], from)?;
        if options.relu {
            a = self.temporary(Word::Relu, a)?;
            b = self.temporary(Word::Relu, b)?;
        }
        self.plain(f, d, a, b);
        Ok(())
    }

    /// Bits of the register that takes a result: a result narrower than its register is extended to it.
    fn target_bits(&self, operand: &Operand, kind: Type) -> u32 {
        self.register_type(operand).map_or(kind.bits(), Type::bits)
    }

    fn integer_to_integer(&mut self, s: &Statement, to: Type, from: Type, options: Options) -> Result<(), Fault> {
        if options.rounding.is_some() || options.flush || options.relu {
            return Err(unsupported(s, "a rounding between integers"));
        }
        let width = self.target_bits(&s.operands[0], to);
        let (small, big) = (from.bits().min(to.bits()), from.bits().max(to.bits()));
        let signed = if from.bits() < to.bits() { from.is_signed() } else { to.is_signed() };
        let source_class = self.register_type(&s.operands[1]).map_or(class(from), class);
        if options.saturate && from != to {
            return self.saturate_integer(s, to, from);
        }
        match (source_class, width == 64) {
            (Class::Word, false) => {
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let a = self.word(s, &s.operands[1], from)?;
                let f = match (small, signed) {
                    (8, true) => Word::Extend8,
                    (8, false) => Word::Byte0,
                    (16, true) => Word::Extend16,
                    (16, false) => Word::LowerHalf,
                    _ => Word::Move,
                };
                let form = if width <= 16 { Form::Unsigned(width as u8) } else { Form::Plain };
                // Both reading and writing are cut to the register, which holds the low bits that count.
                self.emit(Op::Word { f, form, d, a, b: 0, c: 0, e: 0 });
            }
            (Class::Word, true) => {
                let d = self.target(s, &s.operands[0], Class::Long)?;
                let a = self.word(s, &s.operands[1], from)?;
                let x = match small {
                    8 if !signed => self.temporary(Word::Byte0, a)?,
                    16 if !signed => self.temporary(Word::LowerHalf, a)?,
                    _ => a,
                };
                let f = match (small, signed) {
                    (_, false) => Long::ZeroExtend,
                    (8, true) => Long::SignExtendLow8,
                    (16, true) => Long::SignExtendLow16,
                    (_, true) => Long::SignExtend,
                };
                self.emit(Op::Long { f, d, a: 0, b: 0, c: 0, x, y: 0 });
            }
            (_, false) => {
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let a = self.long(s, &s.operands[1], from)?;
                let f = match (small, signed) {
                    (8, false) => NarrowKind::Low8,
                    (8, true) => NarrowKind::Extend8,
                    (16, true) => NarrowKind::Extend16,
                    (16, false) => NarrowKind::Half0,
                    _ => NarrowKind::Low,
                };
                if width == 16 {
                    let wide = self.new_word()?;
                    self.emit(Op::Narrow { f, d: wide, a, b: 0 });
                    self.plain(Word::LowerHalf, d, wide, 0);
                } else {
                    self.emit(Op::Narrow { f, d, a, b: 0 });
                }
            }
            (_, true) => {
                let d = self.target(s, &s.operands[0], Class::Long)?;
                let a = self.long(s, &s.operands[1], from)?;
                let f = match (small, signed) {
                    (8, false) => Long::Low8,
                    (8, true) => Long::Extend8,
                    (16, false) => Long::Low16,
                    (16, true) => Long::Extend16,
                    (32, false) => Long::Low32,
                    (32, true) => Long::Extend32,
                    _ => Long::Move,
                };
                debug_assert!(big == 64 || small == big);
                self.emit(Op::Long { f, d, a, b: 0, c: 0, x: 0, y: 0 });
            }
        }
        Ok(())
    }

    fn saturate_integer(&mut self, s: &Statement, to: Type, from: Type) -> Result<(), Fault> {
        let signed = from.is_signed();
        if from.bits() == 64 && to.bits() == 32 {
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let a = self.long(s, &s.operands[1], from)?;
            let f = match (signed, to.is_signed()) {
                (true, true) => NarrowKind::ClampSigned32,
                (true, false) => NarrowKind::ClampSignedToU32,
                (false, true) => NarrowKind::ClampUnsignedToS32,
                (false, false) => NarrowKind::ClampUnsigned32,
            };
            self.emit(Op::Narrow { f, d, a, b: 0 });
            return Ok(());
        }
        if from.bits() == 64 && to.bits() == 64 {
            let f = if signed { Long::ClampSignedToU64 } else { Long::ClampUnsignedToS64 };
            return self.emit_long(s, f, from, 1);
        }
        if from.bits() != 32 || to.bits() > 32 {
            return Err(unsupported(s, "saturation between these widths"));
        }
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let a = self.word(s, &s.operands[1], from)?;
        let f = clamp(to, signed).ok_or_else(|| unsupported(s, "saturation between these types"))?;
        self.clamped(s, f, d, a, to)
    }

    /// Clamps and cuts to the width of the target register.
    fn clamped(&mut self, s: &Statement, f: Word, d: Reg, a: Reg, to: Type) -> Result<(), Fault> {
        let value = self.temporary(f, a)?;
        let cut = if self.target_bits(&s.operands[0], to) <= 16 { Word::LowerHalf } else { Word::Move };
        self.plain(cut, d, value, 0);
        Ok(())
    }

    fn integer_to_float(&mut self, s: &Statement, to: Type, from: Type, options: Options) -> Result<(), Fault> {
        let round = match options.rounding {
            Some(Rounding::Float(round)) => round,
            _ => return Err(unsupported(s, "it needs a rounding such as `.rn`")),
        };
        let signed = from.is_signed();
        if from.bits() == 64 {
            let a = self.long(s, &s.operands[1], from)?;
            if round != Round::Nearest {
                return Err(unsupported(s, "a directed rounding of 64-bit integers"));
            }
            if to == Type::Float(64) {
                let f = if signed { Long::SignedToF64 } else { Long::UnsignedToF64 };
                return self.emit_long(s, f, from, 1);
            }
            if to != Type::Float(32) {
                return Err(unsupported(s, "64-bit integers to 16-bit floats"));
            }
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let f = if signed { NarrowKind::SignedToF32 } else { NarrowKind::UnsignedToF32 };
            self.emit(Op::Narrow { f, d, a, b: 0 });
            return Ok(());
        }
        let a = self.word(s, &s.operands[1], from)?;
        let a = match (from.bits(), signed) {
            (8, true) => self.temporary(Word::Extend8, a)?,
            (8, false) => self.temporary(Word::Byte0, a)?,
            (16, true) => self.temporary(Word::Extend16, a)?,
            (16, false) => self.temporary(Word::LowerHalf, a)?,
            _ => a,
        };
        if to == Type::Float(32) {
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let form = Form::F32 { flush: false, saturate: options.saturate };
            if round == Round::Nearest {
                let f = if signed { Word::SignedToF32 } else { Word::UnsignedToF32 };
                self.plain(f, d, a, 0);
                if options.saturate {
                    self.emit(Op::Word { f: Word::Move, form, d, a: d, b: 0, c: 0, e: 0 });
                }
            } else {
                let f = if signed { RoundedKind::FromSigned } else { RoundedKind::FromUnsigned };
                self.emit(Op::Rounded { f, round, form: Form::Plain, d, a, b: 0, c: 0 });
            }
            return Ok(());
        }
        let f = if signed { Long::SignedWordToF64 } else { Long::UnsignedWordToF64 };
        if to == Type::Float(64) {
            let d = self.target(s, &s.operands[0], Class::Long)?;
            self.emit(Op::Long { f, d, a: 0, b: 0, c: 0, x: a, y: 0 });
            return Ok(());
        }
        // Through f64, which holds every 32-bit integer.
        let narrow = match (to, round) {
            (Type::Float(16), Round::Nearest) => NarrowKind::F64ToF16,
            (Type::Bf16, Round::Nearest) => NarrowKind::F64ToBf16,
            _ => return Err(unsupported(s, "this rounding to this type")),
        };
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let wide = self.new_long()?;
        self.emit(Op::Long { f, d: wide, a: 0, b: 0, c: 0, x: a, y: 0 });
        self.emit(Op::Narrow { f: narrow, d, a: wide, b: 0 });
        Ok(())
    }

    /// A 16-bit float or f32 operand as f32 in a word.
    fn widened(&mut self, s: &Statement, operand: &Operand, from: Type, flush: bool) -> Result<Reg, Fault> {
        let a = self.word(s, operand, from)?;
        match from {
            Type::Float(16) => self.temporary(Word::F16ToF32, a),
            Type::Bf16 => self.temporary(Word::Bf16ToF32, a),
            Type::Float(32) if flush => {
                let d = self.new_word()?;
                let form = Form::F32 { flush, saturate: false };
                self.emit(Op::Word { f: Word::Move, form, d, a, b: 0, c: 0, e: 0 });
                Ok(d)
            }
            _ => Ok(a),
        }
    }

    fn float_to_integer(&mut self, s: &Statement, to: Type, from: Type, options: Options) -> Result<(), Fault> {
        let round = match options.rounding {
            Some(Rounding::Integer(round)) => round,
            _ => return Err(unsupported(s, "it needs a rounding such as `.rzi`")),
        };
        let signed = to.is_signed();
        if from != Type::Float(64) && to.bits() <= 32 {
            let a = self.widened(s, &s.operands[1], from, options.flush)?;
            let f = match (signed, round) {
                (true, Round::Nearest) => Word::F32ToSignedNearest,
                (true, Round::Zero) => Word::F32ToSignedZero,
                (true, Round::Down) => Word::F32ToSignedDown,
                (true, Round::Up) => Word::F32ToSignedUp,
                (false, Round::Nearest) => Word::F32ToUnsignedNearest,
                (false, Round::Zero) => Word::F32ToUnsignedZero,
                (false, Round::Down) => Word::F32ToUnsignedDown,
                (false, Round::Up) => Word::F32ToUnsignedUp,
            };
            let d = self.target(s, &s.operands[0], Class::Word)?;
            if to.bits() == 32 {
                self.plain(f, d, a, 0);
                return Ok(());
            }
            let value = self.temporary(f, a)?;
            let clamp = clamp(to, signed).ok_or_else(|| unsupported(s, "this integer type"))?;
            return self.clamped(s, clamp, d, value, to);
        }
        let a = if from == Type::Float(64) {
            self.long(s, &s.operands[1], from)?
        } else {
            let x = self.widened(s, &s.operands[1], from, options.flush)?;
            let wide = self.new_long()?;
            self.emit(Op::Long { f: Long::F32ToF64, d: wide, a: 0, b: 0, c: 0, x, y: 0 });
            wide
        };
        if to.bits() == 64 {
            let f = match (signed, round) {
                (true, Round::Nearest) => Long::F64ToSignedNearest,
                (true, Round::Zero) => Long::F64ToSignedZero,
                (true, Round::Down) => Long::F64ToSignedDown,
                (true, Round::Up) => Long::F64ToSignedUp,
                (false, Round::Nearest) => Long::F64ToUnsignedNearest,
                (false, Round::Zero) => Long::F64ToUnsignedZero,
                (false, Round::Down) => Long::F64ToUnsignedDown,
                (false, Round::Up) => Long::F64ToUnsignedUp,
            };
            let d = self.target(s, &s.operands[0], Class::Long)?;
            self.emit(Op::Long { f, d, a, b: 0, c: 0, x: 0, y: 0 });
            return Ok(());
        }
        let f = match (signed, round) {
            (true, Round::Nearest) => NarrowKind::F64ToSignedNearest,
            (true, Round::Zero) => NarrowKind::F64ToSignedZero,
            (true, Round::Down) => NarrowKind::F64ToSignedDown,
            (true, Round::Up) => NarrowKind::F64ToSignedUp,
            (false, Round::Nearest) => NarrowKind::F64ToUnsignedNearest,
            (false, Round::Zero) => NarrowKind::F64ToUnsignedZero,
            (false, Round::Down) => NarrowKind::F64ToUnsignedDown,
            (false, Round::Up) => NarrowKind::F64ToUnsignedUp,
        };
        if to.bits() != 32 {
            return Err(unsupported(s, "f64 to integers of fewer than 32 bits"));
        }
        let d = self.target(s, &s.operands[0], Class::Word)?;
        self.emit(Op::Narrow { f, d, a, b: 0 });
        Ok(())
    }

    fn float_to_float(&mut self, s: &Statement, to: Type, from: Type, options: Options) -> Result<(), Fault> {
        let Options { rounding, flush, saturate, relu } = options;
        let integral = match rounding {
            Some(Rounding::Integer(round)) => Some(round),
            _ => None,
        };
        if to == from {
            return self.float_to_same(s, to, integral, options);
        }
        if integral.is_some() {
            return Err(unsupported(s, "rounding to an integer and to another type at once"));
        }
        let round = match rounding {
            Some(Rounding::Float(round)) => round,
            _ => Round::Nearest,
        };
        match (to, from) {
            (Type::Float(64), _) => {
                let d = self.target(s, &s.operands[0], Class::Long)?;
                let x = self.widened(s, &s.operands[1], from, flush)?;
                self.emit(Op::Long { f: Long::F32ToF64, d, a: 0, b: 0, c: 0, x, y: 0 });
                Ok(())
            }
            (_, Type::Float(64)) => {
                let f = match (to, round) {
                    (Type::Float(32), Round::Nearest) => NarrowKind::F64ToF32,
                    (Type::Float(32), Round::Zero) => NarrowKind::F64ToF32Zero,
                    (Type::Float(32), Round::Down) => NarrowKind::F64ToF32Down,
                    (Type::Float(32), Round::Up) => NarrowKind::F64ToF32Up,
                    (Type::Float(16), Round::Nearest) => NarrowKind::F64ToF16,
                    (Type::Bf16, Round::Nearest) => NarrowKind::F64ToBf16,
                    _ => return Err(unsupported(s, "this rounding to this type")),
                };
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let a = self.long(s, &s.operands[1], from)?;
                self.emit(Op::Narrow { f, d, a, b: 0 });
                if flush || saturate {
                    let form = Form::F32 { flush, saturate };
                    self.emit(Op::Word { f: Word::Move, form, d, a: d, b: 0, c: 0, e: 0 });
                }
                Ok(())
            }
            (Type::Float(32), _) => {
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let a = self.widened(s, &s.operands[1], from, false)?;
                let form = if flush || saturate { Form::F32 { flush, saturate } } else { Form::Plain };
                self.emit(Op::Word { f: Word::Move, form, d, a, b: 0, c: 0, e: 0 });
                Ok(())
            }
            (Type::Tf32, Type::Float(32)) => {
                let f = match rounding {
                    Some(Rounding::Away) => Word::Tf32Away,
                    Some(Rounding::Float(Round::Nearest)) => Word::Tf32Nearest,
                    _ => return Err(unsupported(s, "it needs `.rna` or `.rn`")),
                };
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let mut a = self.word(s, &s.operands[1], from)?;
                if relu {
                    a = self.temporary(Word::Relu, a)?;
                }
                self.plain(f, d, a, 0);
                Ok(())
            }
            (Type::Float(16) | Type::Bf16, _) => {
                let f = match (to, round) {
                    (Type::Float(16), Round::Nearest) => Word::F32ToF16,
                    (Type::Float(16), Round::Zero) => Word::F32ToF16Zero,
                    (Type::Bf16, Round::Nearest) => Word::F32ToBf16,
                    (Type::Bf16, Round::Zero) => Word::F32ToBf16Zero,
                    _ => return Err(unsupported(s, "this rounding to this type")),
                };
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let mut a = self.widened(s, &s.operands[1], from, flush)?;
                if saturate {
                    let clamped = self.new_word()?;
                    let form = Form::F32 { flush: false, saturate };
                    self.emit(Op::Word { f: Word::Move, form, d: clamped, a, b: 0, c: 0, e: 0 });
                    a = clamped;
                }
                if relu {
                    a = self.temporary(Word::Relu, a)?;
                }
                self.plain(f, d, a, 0);
                Ok(())
            }
            _ => Err(unsupported(s, "between these types")),
        }
    }

    fn float_to_same(
        &mut self,
        s: &Statement,
        kind: Type,
        round: Option<Round>,
        options: Options,
    ) -> Result<(), Fault> {
        if kind == Type::Float(64) {
            let f = match round {
                None => Long::Move,
                Some(Round::Nearest) => Long::NearestF64,
                Some(Round::Zero) => Long::TruncateF64,
                Some(Round::Down) => Long::FloorF64,
                Some(Round::Up) => Long::CeilF64,
            };
            return self.emit_long(s, f, kind, 1);
        }
        let f = match round {
            None => Word::Move,
            Some(Round::Nearest) => Word::NearestF32,
            Some(Round::Zero) => Word::TruncateF32,
            Some(Round::Down) => Word::FloorF32,
            Some(Round::Up) => Word::CeilF32,
        };
        let Options { flush, saturate, relu, .. } = options;
        let form = match kind {
            Type::Float(32) => Form::F32 { flush, saturate },
            Type::Float(16) => Form::Half(HalfKind { brain: false, saturate, relu }),
            Type::Bf16 => Form::Half(HalfKind { brain: true, saturate, relu }),
            _ => return Err(unsupported(s, "this type to itself")),
        };
        self.emit_word(s, f, form, &[kind])
    }
}

fn clamp(to: Type, from_signed: bool) -> Option<Word> {
    Some(match (to, from_signed) {
        (Type::Signed(8), true) => Word::ClampS8,
        (Type::Unsigned(8), true) => Word::ClampU8,
        (Type::Signed(16), true) => Word::ClampS16,
        (Type::Unsigned(16), true) => Word::ClampU16,
        (Type::Unsigned(32), true) => Word::ClampSignedToU32,
        (Type::Signed(8), false) => Word::ClampUnsignedToS8,
        (Type::Unsigned(8), false) => Word::ClampUnsignedToU8,
        (Type::Signed(16), false) => Word::ClampUnsignedToS16,
        (Type::Unsigned(16), false) => Word::ClampUnsignedToU16,
        (Type::Signed(32), false) => Word::ClampUnsignedToS32,
        _ => return None,
    })
}
