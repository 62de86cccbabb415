//! `mov`, which also packs and unpacks, and `cvta`.
use super::memory::CONVERTED;
use super::{Builder, Class, Modifiers, class, unsupported};
use crate::Fault;
use crate::exec::long::{Kind as Long, NarrowKind};
use crate::exec::word::Kind as Word;
use crate::op::{Clock, Form, Op, Reg, Space};
use crate::parse::{Operand, Statement, Type};

impl<'t> Builder<'t> {
    pub(super) fn plain(&mut self, f: Word, d: Reg, a: Reg, b: Reg) {
        self.emit(Op::Word { f, form: Form::Plain, d, a, b, c: 0, e: 0 });
    }

    /// A word operation into a new register.
    pub(super) fn temporary(&mut self, f: Word, a: Reg) -> Result<Reg, Fault> {
        let d = self.new_word()?;
        self.plain(f, d, a, 0);
        Ok(d)
    }

    pub(super) fn mov(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        let kind = m.kind()?;
        m.finish()?;
        self.expect_operands(s, &[2])?;
        match (&s.operands[0], &s.operands[1]) {
            (Operand::Vector(targets), source) => self.unpack(s, kind, targets, source),
            (target, Operand::Vector(sources)) => self.pack(s, kind, target, sources),
            (target, Operand::Special(name)) if ["clock", "clock64", "globaltimer"].contains(&name.as_str()) => {
                let wide = kind.bits() == 64;
                let d = self.target(s, target, class(kind))?;
                self.emit(Op::Clock { d, clock: if wide { Clock::Wide } else { Clock::Low } });
                Ok(())
            }
            (target, source) => match class(kind) {
                Class::Predicate => {
                    let d = self.target(s, target, Class::Predicate)?;
                    let a = match source {
                        Operand::Special(_) => {
                            let word = self.word(s, source, Type::Bits(32))?;
                            let f = crate::exec::word::Compare::NotEqual;
                            let combine = crate::op::Combine::None;
                            self.emit(Op::CompareWord { f, form: Form::Plain, combine, d, q: 1, a: word, b: 0 });
                            return Ok(());
                        }
                        source => self.predicate(s, source)?,
                    };
                    self.emit(Op::Logic { f: crate::op::Logic::And, d, a, b: crate::op::Predicate::TRUE });
                    Ok(())
                }
                Class::Word => {
                    let d = self.target(s, target, Class::Word)?;
                    let a = self.word(s, source, kind)?;
                    self.plain(Word::Move, d, a, 0);
                    Ok(())
                }
                Class::Long => {
                    let d = self.target(s, target, Class::Long)?;
                    let a = self.long(s, source, kind)?;
                    self.emit(Op::Long { f: Long::Move, d, a, b: 0, c: 0, x: 0, y: 0 });
                    Ok(())
                }
            },
        }
    }

    fn unpack(&mut self, s: &Statement, kind: Type, targets: &[Operand], source: &Operand) -> Result<(), Fault> {
        let d: Vec<Reg> = targets.iter().map(|t| self.target(s, t, Class::Word)).collect::<Result<_, _>>()?;
        if kind.bits() == 64 {
            let a = self.long(s, source, kind)?;
            let parts: &[NarrowKind] = match d.len() {
                2 => &[NarrowKind::Low, NarrowKind::High],
                4 => &[NarrowKind::Half0, NarrowKind::Half1, NarrowKind::Half2, NarrowKind::Half3],
                _ => return Err(unsupported(s, "64 bits unpack into two or four")),
            };
            for (&f, &d) in parts.iter().zip(&d) {
                self.emit(Op::Narrow { f, d, a, b: 0 });
            }
            return Ok(());
        }
        // The source may be one of the targets: it is read from a copy.
        let a = self.word(s, source, kind)?;
        let a = self.temporary(Word::Move, a)?;
        let parts: &[Word] = match (kind.bits(), d.len()) {
            (32, 2) => &[Word::LowerHalf, Word::UpperHalf],
            (32, 4) => &[Word::Byte0, Word::Byte1, Word::Byte2, Word::Byte3],
            (16, 2) => &[Word::Byte0, Word::Byte1],
            _ => return Err(unsupported(s, "it does not unpack into so many")),
        };
        for (&f, &d) in parts.iter().zip(&d) {
            self.plain(f, d, a, 0);
        }
        Ok(())
    }

    fn pack(&mut self, s: &Statement, kind: Type, target: &Operand, sources: &[Operand]) -> Result<(), Fault> {
        let a: Vec<Reg> = sources.iter().map(|e| self.word(s, e, Type::Bits(32))).collect::<Result<_, _>>()?;
        match (kind.bits(), a.as_slice()) {
            (64, &[x, y]) => {
                let d = self.target(s, target, Class::Long)?;
                self.emit(Op::Long { f: Long::Pack, d, a: 0, b: 0, c: 0, x, y });
            }
            (64, &[p, q, r, t]) => {
                let d = self.target(s, target, Class::Long)?;
                let (x, y) = (self.new_word()?, self.new_word()?);
                self.plain(Word::PackHalves, x, p, q);
                self.plain(Word::PackHalves, y, r, t);
                self.emit(Op::Long { f: Long::Pack, d, a: 0, b: 0, c: 0, x, y });
            }
            (32, &[x, y]) => {
                let d = self.target(s, target, Class::Word)?;
                self.plain(Word::PackHalves, d, x, y);
            }
            (32, &[p, q, r, t]) => {
                let d = self.target(s, target, Class::Word)?;
                self.emit(Op::Word { f: Word::PackBytes, form: Form::Plain, d, a: p, b: q, c: r, e: t });
            }
            (16, &[x, y]) => {
                let d = self.target(s, target, Class::Word)?;
                self.emit(Op::Word { f: Word::PackBytes, form: Form::Plain, d, a: x, b: y, c: 0, e: 0 });
            }
            _ => return Err(unsupported(s, "it does not pack so many")),
        }
        Ok(())
    }

    pub(super) fn cvta(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        let from_generic = m.flag("to");
        let space = m.choice(CONVERTED).ok_or_else(|| unsupported(s, "it names no space"))?;
        let kind = m.kind()?;
        m.finish()?;
        if kind.bits() != 64 {
            return Err(unsupported(s, "addresses have 64 bits"));
        }
        self.expect_operands(s, &[2])?;
        let d = self.target(s, &s.operands[0], Class::Long)?;
        let a = self.long(s, &s.operands[1], kind)?;
        if space == Space::Global {
            self.emit(Op::Long { f: Long::Move, d, a, b: 0, c: 0, x: 0, y: 0 });
        } else {
            self.emit(Op::Convert { d, a, space, to_generic: !from_generic });
        }
        Ok(())
    }
}
