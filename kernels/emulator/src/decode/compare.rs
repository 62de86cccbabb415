//! `setp`, `set`, `selp`, `slct`, `testp`.
use super::arithmetic::integer_form;
use super::{Builder, Class, Modifiers, unsupported};
use crate::Fault;
use crate::exec::long::Compare as Long;
use crate::exec::word::{Compare as Word, Kind};
use crate::op::{Combine, Form, HalfKind, Logic, Op, Predicate, Reg};
use crate::parse::{Operand, Statement, Type};

/// A comparison by name: of signed, of unsigned integers, and of floats.
#[derive(Clone, Copy)]
struct Comparison {
    signed: Option<(Word, Long)>,
    unsigned: Option<(Word, Long)>,
    float: Option<(Word, Long)>,
}

fn comparison(name: &str) -> Option<Comparison> {
    let of = |signed, unsigned, float| Some(Comparison { signed, unsigned, float });
    match name {
        "eq" => {
            let integer = Some((Word::Equal, Long::Equal));
            of(integer, integer, Some((Word::EqualF32, Long::EqualF64)))
        }
        "ne" => {
            let integer = Some((Word::NotEqual, Long::NotEqual));
            of(integer, integer, Some((Word::NotEqualF32, Long::NotEqualF64)))
        }
        "lt" => of(
            Some((Word::LessSigned, Long::LessSigned)),
            Some((Word::Less, Long::Less)),
            Some((Word::LessF32, Long::LessF64)),
        ),
        "le" => of(
            Some((Word::LessEqualSigned, Long::LessEqualSigned)),
            Some((Word::LessEqual, Long::LessEqual)),
            Some((Word::LessEqualF32, Long::LessEqualF64)),
        ),
        "gt" => of(
            Some((Word::GreaterSigned, Long::GreaterSigned)),
            Some((Word::Greater, Long::Greater)),
            Some((Word::GreaterF32, Long::GreaterF64)),
        ),
        "ge" => of(
            Some((Word::GreaterEqualSigned, Long::GreaterEqualSigned)),
            Some((Word::GreaterEqual, Long::GreaterEqual)),
            Some((Word::GreaterEqualF32, Long::GreaterEqualF64)),
        ),
        "lo" => of(None, Some((Word::Less, Long::Less)), None),
        "ls" => of(None, Some((Word::LessEqual, Long::LessEqual)), None),
        "hi" => of(None, Some((Word::Greater, Long::Greater)), None),
        "hs" => of(None, Some((Word::GreaterEqual, Long::GreaterEqual)), None),
        "equ" => of(None, None, Some((Word::EqualOrNanF32, Long::EqualOrNanF64))),
        "neu" => of(None, None, Some((Word::NotEqualOrNanF32, Long::NotEqualOrNanF64))),
        "ltu" => of(None, None, Some((Word::LessOrNanF32, Long::LessOrNanF64))),
        "leu" => of(None, None, Some((Word::LessEqualOrNanF32, Long::LessEqualOrNanF64))),
        "gtu" => of(None, None, Some((Word::GreaterOrNanF32, Long::GreaterOrNanF64))),
        "geu" => of(None, None, Some((Word::GreaterEqualOrNanF32, Long::GreaterEqualOrNanF64))),
        "num" => of(None, None, Some((Word::Numbers, Long::Numbers))),
        "nan" => of(None, None, Some((Word::Nan, Long::Nan))),
        _ => None,
    }
}

impl<'t> Builder<'t> {
    pub(super) fn compare(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        match s.opcode.as_str() {
            "setp" | "set" => self.set_predicate(s, m),
            "selp" => {
                let kind = m.kind()?;
                m.finish()?;
                self.expect_operands(s, &[4])?;
                let p = self.predicate(s, &s.operands[3])?;
                self.select(s, kind, p)
            }
            "slct" => {
                // d = c >= 0 ? a : b.
                let flush = m.flag("ftz");
                let kind = m.kind()?;
                let tested = m.kind()?;
                m.finish()?;
                self.expect_operands(s, &[4])?;
                let c = self.word(s, &s.operands[3], tested)?;
                let f = match tested {
                    Type::Signed(32) => Word::GreaterEqualSigned,
                    Type::Float(32) => Word::GreaterEqualF32,
                    _ => return Err(unsupported(s, "it tests s32 or f32")),
                };
                let form = if flush { Form::F32 { flush, saturate: false } } else { Form::Plain };
                let p = self.new_predicate()?;
                self.emit(Op::CompareWord { f, form, combine: Combine::None, d: p, q: 1, a: c, b: 0 });
                self.select(s, kind, Predicate { register: p, flip: 0 })
            }
            _ => self.test(s, m),
        }
    }

    fn select(&mut self, s: &Statement, kind: Type, p: Predicate) -> Result<(), Fault> {
        if kind.bits() == 64 {
            let d = self.target(s, &s.operands[0], Class::Long)?;
            let a = self.long(s, &s.operands[1], kind)?;
            let b = self.long(s, &s.operands[2], kind)?;
            self.emit(Op::SelectLong { d, a, b, p });
        } else {
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let a = self.word(s, &s.operands[1], kind)?;
            let b = self.word(s, &s.operands[2], kind)?;
            self.emit(Op::SelectWord { d, a, b, p });
        }
        Ok(())
    }

    fn set_predicate(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let names: Vec<(&str, Comparison)> =
            s.modifiers.iter().filter_map(|n| Some((n.as_str(), comparison(n)?))).collect();
        let chosen = m.choice(&names).ok_or_else(|| unsupported(s, "it has no comparison"))?;
        let logic = m.choice(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        let flush = m.flag("ftz");
        let result = if s.opcode == "set" { Some(m.kind()?) } else { None };
        let kind = m.kind()?;
        m.finish()?;
        self.expect_operands(s, &[if logic.is_some() { 4 } else { 3 }])?;
        let combine = match logic {
            Some(logic) => Combine::With(logic, self.predicate(s, &s.operands[3])?),
            None => Combine::None,
        };
        let (d, q) = match (&s.operands[0], result) {
            (_, Some(_)) => (self.new_predicate()?, 1),
            (Operand::Pair(d, q), None) => (self.target(s, d, Class::Predicate)?, self.target(s, q, Class::Predicate)?),
            (d, None) => (self.target(s, d, Class::Predicate)?, 1),
        };
        self.emit_comparison(s, chosen, kind, flush, combine, d, q)?;
        if let Some(result) = result {
            let one = if result == Type::Float(32) { 1f32.to_bits() } else { u32::MAX };
            if !matches!(result, Type::Float(32) | Type::Unsigned(32) | Type::Signed(32)) {
                return Err(unsupported(s, "it sets a 32-bit value"));
            }
            let target = self.target(s, &s.operands[0], Class::Word)?;
            self.emit(Op::Set { d: target, p: d, one });
        }
        Ok(())
    }

    fn emit_comparison(
        &mut self,
        s: &Statement,
        chosen: Comparison,
        kind: Type,
        flush: bool,
        combine: Combine,
        d: Reg,
        q: Reg,
    ) -> Result<(), Fault> {
        let float = matches!(kind, Type::Float(_) | Type::Bf16);
        let pair = match kind {
            _ if float => chosen.float,
            Type::Signed(_) => chosen.signed,
            Type::Unsigned(_) | Type::Bits(_) => chosen.unsigned,
            _ => None,
        };
        let (f, g) = pair.ok_or_else(|| unsupported(s, "not with this type"))?;
        if kind.bits() == 64 {
            let a = self.long(s, &s.operands[1], kind)?;
            let b = self.long(s, &s.operands[2], kind)?;
            self.emit(Op::CompareLong { f: g, combine, d, q, a, b });
            return Ok(());
        }
        let half = |brain| Form::Half(HalfKind { brain, saturate: false, relu: false });
        let form = match kind {
            Type::Float(16) => half(false),
            Type::Bf16 => half(true),
            Type::Float(_) if flush => Form::F32 { flush, saturate: false },
            _ => integer_form(kind),
        };
        let a = self.word(s, &s.operands[1], kind)?;
        let b = self.word(s, &s.operands[2], kind)?;
        self.emit(Op::CompareWord { f, form, combine, d, q, a, b });
        Ok(())
    }

    /// `testp.finite.f32` and its like, by comparing the magnitude's bits.
    fn test(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let infinity = 0x7f80_0000u32;
        let tests = [
            ("finite", (Word::Less, infinity)),
            ("infinite", (Word::Equal, infinity)),
            ("number", (Word::LessEqual, infinity)),
            ("notanumber", (Word::Greater, infinity)),
        ];
        let (f, bound) = m.choice(&tests).ok_or_else(|| unsupported(s, "an unknown test"))?;
        let kind = m.kind()?;
        m.finish()?;
        if kind != Type::Float(32) {
            return Err(unsupported(s, "only f32 is tested"));
        }
        self.expect_operands(s, &[2])?;
        let d = self.target(s, &s.operands[0], Class::Predicate)?;
        let a = self.word(s, &s.operands[1], kind)?;
        let magnitude = self.new_word()?;
        let b = self.constant_word(crate::kernel::InitialWord::Constant(bound))?;
        self.emit(Op::Word { f: Kind::AbsF32, form: Form::Plain, d: magnitude, a, b: 0, c: 0, e: 0 });
        self.emit(Op::CompareWord { f, form: Form::Plain, combine: Combine::None, d, q: 1, a: magnitude, b });
        Ok(())
    }
}
