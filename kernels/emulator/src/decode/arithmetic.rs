//! Arithmetic and bit operations: opcode, type and modifiers to a kind of the tables and a form.
use super::{Builder, Class, Modifiers, unsupported};
use crate::Fault;
use crate::exec::float::{Kind as RoundedKind, Round};
use crate::exec::long::{Kind as Long, NarrowKind};
use crate::exec::word::{CarryBase, CarryKind, Kind as Word};
use crate::op::{Form, HalfKind, Op, Reg};
use crate::parse::{Statement, Type};

/// The rounding modifiers of float results.
const ROUNDS: [(&str, Round); 4] =
    [("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];

/// Which half of a product an integer multiplication keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Low,
    High,
    Wide,
}

const PARTS: [(&str, Part); 3] = [("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)];

impl<'t> Builder<'t> {
    /// Emits a word operation on the operands after the first.
    pub(super) fn emit_word(&mut self, s: &Statement, f: Word, form: Form, kinds: &[Type]) -> Result<(), Fault> {
        self.expect_operands(s, &[kinds.len() + 1])?;
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let mut sources = [0; 4];
        for (source, (operand, kind)) in sources.iter_mut().zip(s.operands[1..].iter().zip(kinds)) {
            *source = self.word(s, operand, *kind)?;
        }
        let [a, b, c, e] = sources;
        self.emit(Op::Word { f, form, d, a, b, c, e });
        Ok(())
    }

    /// Emits a long operation whose operands after the first are longs.
    pub(super) fn emit_long(&mut self, s: &Statement, f: Long, kind: Type, count: usize) -> Result<(), Fault> {
        self.expect_operands(s, &[count + 1])?;
        let d = self.target(s, &s.operands[0], Class::Long)?;
        let mut sources = [0; 3];
        for (source, operand) in sources.iter_mut().zip(&s.operands[1..]) {
            *source = self.long(s, operand, kind)?;
        }
        let [a, b, c] = sources;
        self.emit(Op::Long { f, d, a, b, c, x: 0, y: 0 });
        Ok(())
    }

    pub(super) fn arithmetic(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        match m.first_kind()? {
            Type::Float(64) => self.double(s, m),
            Type::Float(_) | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => self.float(s, m),
            _ => self.integer_operation(s, &mut m),
        }
    }

    fn integer_operation(&mut self, s: &Statement, m: &mut Modifiers<'_>) -> Result<(), Fault> {
        let saturate = m.flag("sat");
        let carry_out = m.flag("cc");
        let part = m.choice(&PARTS);
        let kind = m.kind()?;
        let second = if s.opcode == "dp4a" { Some(m.kind()?) } else { None };
        m.finish()?;
        let signed = kind.is_signed();
        let bits = kind.bits();
        if carry_out || matches!(s.opcode.as_str(), "addc" | "subc" | "madc") {
            return self.carry(s, part, kind, carry_out);
        }
        if part == Some(Part::Wide) {
            return self.wide(s, kind);
        }
        if part == Some(Part::High) && bits == 16 && s.opcode != "mul" {
            return Err(unsupported(s, "the high half of a 16-bit product is only multiplied"));
        }
        let high = part == Some(Part::High);
        let pick = |signed_kind, unsigned_kind| if signed { signed_kind } else { unsigned_kind };
        if bits == 64 {
            let choose = |signed_kind, unsigned_kind| if signed { signed_kind } else { unsigned_kind };
            let (f, count) = match s.opcode.as_str() {
                _ if saturate => return Err(unsupported(s, "saturation of 64 bits")),
                "add" => (Long::Add, 2),
                "sub" => (Long::Sub, 2),
                "mul" if high => (choose(Long::MulHighSigned, Long::MulHighUnsigned), 2),
                "mul" => (Long::Mul, 2),
                "mad" if high => (choose(Long::MadHighSigned, Long::MadHighUnsigned), 3),
                "mad" => (Long::Mad, 3),
                "div" => (choose(Long::DivSigned, Long::DivUnsigned), 2),
                "rem" => (choose(Long::RemSigned, Long::RemUnsigned), 2),
                "min" => (choose(Long::MinSigned, Long::MinUnsigned), 2),
                "max" => (choose(Long::MaxSigned, Long::MaxUnsigned), 2),
                "abs" => (Long::Abs, 1),
                "neg" => (Long::Negate, 1),
                "sad" => (choose(Long::SadSigned, Long::SadUnsigned), 3),
                _ => return Err(unsupported(s, "not with 64 bits")),
            };
            return self.emit_long(s, f, kind, count);
        }
        let (f, count) = match s.opcode.as_str() {
            "add" if saturate && bits == 32 => (Word::AddSaturate, 2),
            "sub" if saturate && bits == 32 => (Word::SubSaturate, 2),
            _ if saturate => return Err(unsupported(s, "saturation here")),
            "add" => (Word::Add, 2),
            "sub" => (Word::Sub, 2),
            "mul" if high && bits == 16 => (Word::MulHigh16, 2),
            "mul" if high => (pick(Word::MulHighSigned, Word::MulHighUnsigned), 2),
            "mul" => (Word::Mul, 2),
            "mul24" if part == Some(Part::Low) => (pick(Word::Mul24Signed, Word::Mul24Unsigned), 2),
            "mad" if high => (pick(Word::MadHighSigned, Word::MadHighUnsigned), 3),
            "mad" => (Word::Mad, 3),
            "div" => (pick(Word::DivSigned, Word::DivUnsigned), 2),
            "rem" => (pick(Word::RemSigned, Word::RemUnsigned), 2),
            "min" => (pick(Word::MinSigned, Word::MinUnsigned), 2),
            "max" => (pick(Word::MaxSigned, Word::MaxUnsigned), 2),
            "abs" => (Word::Abs, 1),
            "neg" => (Word::Negate, 1),
            "sad" => (pick(Word::SadSigned, Word::SadUnsigned), 3),
            "dp4a" if second == Some(kind) => (pick(Word::Dot4Signed, Word::Dot4Unsigned), 3),
            _ => return Err(unsupported(s, "not with this type")),
        };
        let form = integer_form(kind);
        self.emit_word(s, f, form, &[kind; 3][..count])
    }

    fn wide(&mut self, s: &Statement, kind: Type) -> Result<(), Fault> {
        let signed = kind.is_signed();
        let mad = s.opcode == "mad";
        self.expect_operands(s, &[if mad { 4 } else { 3 }])?;
        if kind.bits() == 16 {
            // Both factors are extended; the product and the sum have 32 bits.
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let mut factors = [0; 2];
            for (factor, operand) in factors.iter_mut().zip(&s.operands[1..3]) {
                let a = self.word(s, operand, kind)?;
                *factor = self.new_word()?;
                let f = if signed { Word::Extend16 } else { Word::LowerHalf };
                self.emit(Op::Word { f, form: Form::Plain, d: *factor, a, b: 0, c: 0, e: 0 });
            }
            let c = if mad { self.word(s, &s.operands[3], Type::Bits(32))? } else { 0 };
            self.emit(Op::Word { f: Word::Mad, form: Form::Plain, d, a: factors[0], b: factors[1], c, e: 0 });
            return Ok(());
        }
        if kind.bits() != 32 {
            return Err(unsupported(s, "a product of more than 64 bits"));
        }
        let d = self.target(s, &s.operands[0], Class::Long)?;
        let x = self.word(s, &s.operands[1], kind)?;
        let y = self.word(s, &s.operands[2], kind)?;
        let c = if mad { self.long(s, &s.operands[3], Type::Bits(64))? } else { 0 };
        let f = match (mad, signed) {
            (false, true) => Long::MulWideSigned,
            (false, false) => Long::MulWideUnsigned,
            (true, true) => Long::MadWideSigned,
            (true, false) => Long::MadWideUnsigned,
        };
        self.emit(Op::Long { f, d, a: 0, b: 0, c, x, y });
        Ok(())
    }

    fn carry(&mut self, s: &Statement, part: Option<Part>, kind: Type, carry_out: bool) -> Result<(), Fault> {
        if kind.bits() != 32 {
            return Err(unsupported(s, "a carry of other than 32 bits"));
        }
        let (base, carry_in) = match s.opcode.as_str() {
            "add" => (CarryBase::Add, false),
            "addc" => (CarryBase::Add, true),
            "sub" => (CarryBase::Sub, false),
            "subc" => (CarryBase::Sub, true),
            "mad" | "madc" => {
                let base = if part == Some(Part::High) { CarryBase::MadHigh } else { CarryBase::MadLow };
                if base == CarryBase::MadHigh && kind.is_signed() {
                    return Err(unsupported(s, "a carry of a signed high product"));
                }
                (base, s.opcode == "madc")
            }
            _ => return Err(unsupported(s, "a carry here")),
        };
        let count = if s.opcode.starts_with("mad") { 4 } else { 3 };
        self.expect_operands(s, &[count])?;
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let a = self.word(s, &s.operands[1], kind)?;
        let b = self.word(s, &s.operands[2], kind)?;
        let c = if count == 4 { self.word(s, &s.operands[3], kind)? } else { 0 };
        self.emit(Op::Carry { f: CarryKind { base, carry_in, carry_out }, d, a, b, c });
        Ok(())
    }

    fn double(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let kind = m.kind()?;
        let round = m.choice(&ROUNDS).unwrap_or(Round::Nearest);
        let approximate = m.flag("approx");
        m.ignore(&["ftz"]);
        m.finish()?;
        if round != Round::Nearest {
            return Err(unsupported(s, "a directed rounding of f64"));
        }
        let (f, count) = match s.opcode.as_str() {
            "add" => (Long::AddF64, 2),
            "sub" => (Long::SubF64, 2),
            "mul" => (Long::MulF64, 2),
            "fma" | "mad" => (Long::FmaF64, 3),
            "div" => (Long::DivF64, 2),
            "min" => (Long::MinF64, 2),
            "max" => (Long::MaxF64, 2),
            "abs" => (Long::AbsF64, 1),
            "neg" => (Long::NegateF64, 1),
            "copysign" => (Long::CopySign, 2),
            "rcp" if approximate => (Long::ReciprocalApprox, 1),
            "rcp" => (Long::ReciprocalF64, 1),
            "sqrt" => (Long::SqrtF64, 1),
            "rsqrt" => (Long::InverseSqrtApprox, 1),
            _ => return Err(unsupported(s, "not with f64")),
        };
        self.emit_long(s, f, kind, count)
    }

    fn float(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let kind = m.kind()?;
        let round = m.choice(&ROUNDS).unwrap_or(Round::Nearest);
        let flush = m.flag("ftz");
        let saturate = m.flag("sat");
        let relu = m.flag("relu");
        let nan = m.flag("NaN");
        let approximate = m.flag("approx") || m.flag("full");
        m.finish()?;
        let half = kind != Type::Float(32);
        let form = match kind {
            Type::Float(32) if flush || saturate => Form::F32 { flush, saturate },
            Type::Float(32) => Form::Plain,
            Type::Float(16) => Form::Half(HalfKind { brain: false, saturate, relu }),
            Type::Bf16 => Form::Half(HalfKind { brain: true, saturate, relu }),
            Type::F16x2 => Form::Halves(HalfKind { brain: false, saturate, relu }),
            _ => Form::Halves(HalfKind { brain: true, saturate, relu }),
        };
        if relu && !half {
            return Err(unsupported(s, "`.relu` on f32"));
        }
        if round != Round::Nearest {
            let (f, count) = match s.opcode.as_str() {
                _ if half => return Err(unsupported(s, "a directed rounding of 16-bit floats")),
                "add" => (RoundedKind::Add, 2),
                "mul" => (RoundedKind::Mul, 2),
                "fma" => (RoundedKind::Fma, 3),
                "div" => (RoundedKind::Div, 2),
                "sqrt" => (RoundedKind::Sqrt, 1),
                _ => return Err(unsupported(s, "a directed rounding here")),
            };
            self.expect_operands(s, &[count + 1])?;
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let mut sources: [Reg; 3] = [0; 3];
            for (source, operand) in sources.iter_mut().zip(&s.operands[1..]) {
                *source = self.word(s, operand, kind)?;
            }
            let [a, b, c] = sources;
            self.emit(Op::Rounded { f, round, form, d, a, b, c });
            return Ok(());
        }
        let (f, count) = match s.opcode.as_str() {
            "add" => (Word::AddF32, 2),
            "sub" => (Word::SubF32, 2),
            "mul" => (Word::MulF32, 2),
            "fma" | "mad" if half => (Word::FmaHalf, 3),
            "fma" | "mad" => (Word::FmaF32, 3),
            "min" if s.operands.len() == 4 => (Word::Min3F32, 3),
            "max" if s.operands.len() == 4 => (Word::Max3F32, 3),
            "min" if nan => (Word::MinNanF32, 2),
            "max" if nan => (Word::MaxNanF32, 2),
            "min" => (Word::MinF32, 2),
            "max" => (Word::MaxF32, 2),
            // Sign operations leave every bit but the sign, also of NaN.
            "abs" | "neg" if half && !flush => {
                let pair = matches!(kind, Type::F16x2 | Type::Bf16x2);
                let f = match (s.opcode.as_str(), pair) {
                    ("abs", false) => Word::AbsHalf,
                    ("abs", true) => Word::AbsHalves,
                    (_, false) => Word::NegateHalf,
                    (_, true) => Word::NegateHalves,
                };
                return self.emit_word(s, f, Form::Plain, &[kind]);
            }
            "abs" => (Word::AbsF32, 1),
            "neg" => (Word::NegateF32, 1),
            "copysign" => (Word::CopySign, 2),
            "div" if !half => (Word::DivF32, 2),
            "rcp" if !half => (Word::ReciprocalF32, 1),
            "sqrt" if !half => (Word::SqrtF32, 1),
            "rsqrt" if !half && approximate => (Word::InverseSqrtF32, 1),
            "ex2" if approximate => (Word::Exp2F32, 1),
            "lg2" if !half && approximate => (Word::Log2F32, 1),
            "sin" if !half && approximate => (Word::SinF32, 1),
            "cos" if !half && approximate => (Word::CosF32, 1),
            "tanh" if approximate => (Word::TanhF32, 1),
            _ => return Err(unsupported(s, "not with this type")),
        };
        self.emit_word(s, f, form, &[kind; 3][..count])
    }

    pub(super) fn bits(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        let word = Type::Unsigned(32);
        match s.opcode.as_str() {
            "and" | "or" | "xor" | "not" | "cnot" => {
                let kind = m.kind()?;
                m.finish()?;
                if kind == Type::Predicate {
                    return self.predicate_logic(s);
                }
                let (f, g, count) = match s.opcode.as_str() {
                    "and" => (Word::And, Long::And, 2),
                    "or" => (Word::Or, Long::Or, 2),
                    "xor" => (Word::Xor, Long::Xor, 2),
                    "not" => (Word::Not, Long::Not, 1),
                    _ => (Word::IsZero, Long::IsZero, 1),
                };
                if kind.bits() == 64 {
                    return self.emit_long(s, g, kind, count);
                }
                self.emit_word(s, f, integer_form(kind), &[kind; 2][..count])
            }
            "shl" | "shr" => {
                let kind = m.kind()?;
                m.finish()?;
                let signed = kind.is_signed();
                if kind.bits() == 64 {
                    let f = match (s.opcode.as_str(), signed) {
                        ("shl", _) => Long::ShiftLeft,
                        (_, true) => Long::ShiftRightSigned,
                        (_, false) => Long::ShiftRight,
                    };
                    self.expect_operands(s, &[3])?;
                    let d = self.target(s, &s.operands[0], Class::Long)?;
                    let a = self.long(s, &s.operands[1], kind)?;
                    let x = self.word(s, &s.operands[2], word)?;
                    self.emit(Op::Long { f, d, a, b: 0, c: 0, x, y: 0 });
                    return Ok(());
                }
                let f = match (s.opcode.as_str(), signed) {
                    ("shl", _) => Word::ShiftLeft,
                    (_, true) => Word::ShiftRightSigned,
                    (_, false) => Word::ShiftRight,
                };
                if kind.bits() == 32 {
                    return self.emit_word(s, f, Form::Plain, &[kind, word]);
                }
                // The amount has 32 bits although the value has 16.
                self.expect_operands(s, &[3])?;
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let a = self.word(s, &s.operands[1], kind)?;
                let b = self.word(s, &s.operands[2], word)?;
                let value = self.new_word()?;
                let extend = if signed { Word::Extend16 } else { Word::LowerHalf };
                self.emit(Op::Word { f: extend, form: Form::Plain, d: value, a, b: 0, c: 0, e: 0 });
                let shifted = self.new_word()?;
                self.emit(Op::Word { f, form: Form::Plain, d: shifted, a: value, b, c: 0, e: 0 });
                self.emit(Op::Word { f: Word::LowerHalf, form: Form::Plain, d, a: shifted, b: 0, c: 0, e: 0 });
                Ok(())
            }
            "shf" => {
                let left = m.flag("l");
                let right = m.flag("r");
                let wrap = m.flag("wrap");
                let clamp = m.flag("clamp");
                m.kind()?;
                m.finish()?;
                let f = match (left, right, wrap, clamp) {
                    (true, false, true, false) => Word::FunnelLeftWrap,
                    (true, false, false, true) => Word::FunnelLeftClamp,
                    (false, true, true, false) => Word::FunnelRightWrap,
                    (false, true, false, true) => Word::FunnelRightClamp,
                    _ => return Err(unsupported(s, "it needs a direction and a mode")),
                };
                self.emit_word(s, f, Form::Plain, &[word; 3])
            }
            "lop3" => {
                let kind = m.kind()?;
                m.finish()?;
                self.emit_word(s, Word::Lop3, Form::Plain, &[kind; 4])
            }
            "prmt" => {
                let f = m.choice(&[
                    ("f4e", Word::PermuteForward),
                    ("b4e", Word::PermuteBackward),
                    ("rc8", Word::PermuteReplicate),
                    ("ecl", Word::PermuteClampLeft),
                    ("ecr", Word::PermuteClampRight),
                    ("rc16", Word::PermuteHalves),
                ]);
                let kind = m.kind()?;
                m.finish()?;
                self.emit_word(s, f.unwrap_or(Word::Permute), Form::Plain, &[kind; 3])
            }
            "bfe" | "bfi" => {
                let kind = m.kind()?;
                m.finish()?;
                let insert = s.opcode == "bfi";
                let signed = kind.is_signed();
                if kind.bits() == 32 {
                    let f = match (insert, signed) {
                        (true, _) => return self.emit_word(s, Word::Insert, Form::Plain, &[kind, kind, word, word]),
                        (false, true) => Word::ExtractSigned,
                        (false, false) => Word::ExtractUnsigned,
                    };
                    return self.emit_word(s, f, Form::Plain, &[kind, word, word]);
                }
                let count = if insert { 5 } else { 4 };
                self.expect_operands(s, &[count])?;
                let d = self.target(s, &s.operands[0], Class::Long)?;
                let a = self.long(s, &s.operands[1], kind)?;
                let b = if insert { self.long(s, &s.operands[2], kind)? } else { 0 };
                let x = self.word(s, &s.operands[count - 2], word)?;
                let y = self.word(s, &s.operands[count - 1], word)?;
                let f = match (insert, signed) {
                    (true, _) => Long::Insert,
                    (false, true) => Long::ExtractSigned,
                    (false, false) => Long::ExtractUnsigned,
                };
                self.emit(Op::Long { f, d, a, b, c: 0, x, y });
                Ok(())
            }
            "popc" | "clz" | "bfind" | "brev" => self.count_bits(s, m),
            _ => Err(unsupported(s, "not implemented")),
        }
    }

    fn count_bits(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let shift = m.flag("shiftamt");
        let kind = m.kind()?;
        m.finish()?;
        let (f, g) = match (s.opcode.as_str(), kind.is_signed(), shift) {
            ("popc", ..) => (Word::CountOnes, NarrowKind::CountOnes),
            ("clz", ..) => (Word::LeadingZeros, NarrowKind::LeadingZeros),
            ("brev", ..) if kind.bits() == 64 => return self.emit_long(s, Long::Reverse, kind, 1),
            ("brev", ..) => return self.emit_word(s, Word::Reverse, Form::Plain, &[kind]),
            (_, true, false) => (Word::FindSigned, NarrowKind::FindSigned),
            (_, false, false) => (Word::FindUnsigned, NarrowKind::FindUnsigned),
            (_, true, true) => (Word::FindShiftSigned, NarrowKind::FindShiftSigned),
            (_, false, true) => (Word::FindShiftUnsigned, NarrowKind::FindShiftUnsigned),
        };
        if kind.bits() != 64 {
            return self.emit_word(s, f, Form::Plain, &[kind]);
        }
        self.expect_operands(s, &[2])?;
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let a = self.long(s, &s.operands[1], kind)?;
        self.emit(Op::Narrow { f: g, d, a, b: 0 });
        Ok(())
    }

    fn predicate_logic(&mut self, s: &Statement) -> Result<(), Fault> {
        use crate::op::{Logic, Predicate};
        let unary = s.opcode == "not";
        self.expect_operands(s, &[if unary { 2 } else { 3 }])?;
        let d = self.target(s, &s.operands[0], Class::Predicate)?;
        let a = self.predicate(s, &s.operands[1])?;
        let b = if unary { Predicate::TRUE } else { self.predicate(s, &s.operands[2])? };
        let f = match s.opcode.as_str() {
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" | "not" => Logic::Xor,
            _ => return Err(unsupported(s, "not on predicates")),
        };
        self.emit(Op::Logic { f, d, a, b });
        Ok(())
    }
}

/// How narrow integers live in words.
pub(super) fn integer_form(kind: Type) -> Form {
    match kind {
        Type::Signed(bits @ (8 | 16)) => Form::Signed(bits),
        Type::Unsigned(bits @ (8 | 16)) | Type::Bits(bits @ (8 | 16)) => Form::Unsigned(bits),
        _ => Form::Plain,
    }
}
