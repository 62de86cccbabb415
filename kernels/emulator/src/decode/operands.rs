//! Operands to registers, with a check of their class.
use super::{Builder, Class, Location, class};
use crate::kernel::{InitialLong, InitialWord, Special};
use crate::op::{Address, Predicate, Reg};
use crate::parse::{Operand, Statement, Type};
use crate::{Fault, FaultKind};

fn fault(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Parse, message)
}

impl<'t> Builder<'t> {
    pub(super) fn operand<'s>(&self, s: &'s Statement, index: usize) -> Result<&'s Operand, Fault> {
        s.operands.get(index).ok_or_else(|| fault(format!("`{}` lacks operand {}", s.opcode, index + 1)))
    }

    /// Checks the number of operands.
    pub(super) fn expect_operands(&self, s: &Statement, counts: &[usize]) -> Result<(), Fault> {
        if counts.contains(&s.operands.len()) {
            return Ok(());
        }
        Err(fault(format!("`{}` has {} operands where it takes {counts:?}", s.opcode, s.operands.len())))
    }

    /// The declared type of a register operand.
    pub(super) fn register_type(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Register(number) => Some(self.frame().function.registers[*number as usize]),
            _ => None,
        }
    }

    fn register(&self, number: u32, wanted: Class) -> Result<Reg, Fault> {
        let frame = self.frame();
        let kind = frame.function.registers[number as usize];
        if class(kind) != wanted {
            let name = &frame.function.names[number as usize];
            return Err(fault(format!("register `{name}` is {kind:?} where a {wanted:?} is needed")));
        }
        Ok(frame.registers[number as usize])
    }

    /// A word operand of a type.
    pub(super) fn word(&mut self, s: &Statement, operand: &Operand, kind: Type) -> Result<Reg, Fault> {
        let mask = if kind.bits() >= 32 { u32::MAX } else { (1 << kind.bits()) - 1 };
        let value = match operand {
            Operand::Register(number) => return self.register(*number, Class::Word),
            Operand::Integer(value) => InitialWord::Constant(*value as u32 & mask),
            Operand::Float32(bits) => InitialWord::Constant(*bits),
            Operand::Float64(bits) => InitialWord::Constant((f64::from_bits(*bits) as f32).to_bits()),
            Operand::Decimal(value) => InitialWord::Constant((*value as f32).to_bits()),
            Operand::Special(name) => InitialWord::Special(special(name)?),
            Operand::Symbol(name) => match self.find(s, name)? {
                Location::Parameter(offset) | Location::Local(offset) | Location::Shared(offset) => {
                    InitialWord::Constant(offset)
                }
                Location::DynamicShared => InitialWord::DynamicShared(0),
                Location::Global(_) => return Err(fault(format!("the address of `{name}` needs 64 bits"))),
            },
            _ => return Err(fault(format!("`{}` cannot take this operand", s.opcode))),
        };
        self.constant_word(value)
    }

    /// A long operand of a type.
    pub(super) fn long(&mut self, s: &Statement, operand: &Operand, kind: Type) -> Result<Reg, Fault> {
        let value = match operand {
            Operand::Register(number) => return self.register(*number, Class::Long),
            Operand::Integer(value) if kind == Type::Float(64) => InitialLong::Constant((*value as f64).to_bits()),
            Operand::Integer(value) => InitialLong::Constant(*value as u64),
            Operand::Float32(bits) => InitialLong::Constant(f64::from(f32::from_bits(*bits)).to_bits()),
            Operand::Float64(bits) => InitialLong::Constant(*bits),
            Operand::Decimal(value) => InitialLong::Constant(value.to_bits()),
            Operand::Special(name) => InitialLong::Special(special(name)?),
            Operand::Symbol(name) => self.symbol(s, name, 0)?,
            _ => return Err(fault(format!("`{}` cannot take this operand", s.opcode))),
        };
        self.constant_long(value)
    }

    fn symbol(&mut self, s: &Statement, name: &str, offset: i64) -> Result<InitialLong, Fault> {
        Ok(match self.find(s, name)? {
            Location::Parameter(at) | Location::Local(at) | Location::Shared(at) => {
                InitialLong::Constant(u64::from(at).wrapping_add(offset as u64))
            }
            Location::DynamicShared => InitialLong::DynamicShared(offset),
            Location::Global(index) => InitialLong::Global(index, offset),
        })
    }

    /// A predicate operand, possibly negated or constant.
    pub(super) fn predicate(&self, s: &Statement, operand: &Operand) -> Result<Predicate, Fault> {
        match operand {
            Operand::Register(number) => Ok(Predicate { register: self.register(*number, Class::Predicate)?, flip: 0 }),
            Operand::Not(number) => {
                Ok(Predicate { register: self.register(*number, Class::Predicate)?, flip: u32::MAX })
            }
            Operand::Integer(value) => Ok(Predicate { register: 0, flip: if *value == 0 { u32::MAX } else { 0 } }),
            _ => Err(fault(format!("`{}` needs a predicate here", s.opcode))),
        }
    }

    /// A destination of a class; `_` goes to the register that nobody reads.
    pub(super) fn target(&self, s: &Statement, operand: &Operand, wanted: Class) -> Result<Reg, Fault> {
        match operand {
            Operand::Register(number) => self.register(*number, wanted),
            Operand::Sink => Ok(1),
            _ => Err(fault(format!("`{}` must write a register", s.opcode))),
        }
    }

    /// The registers of `{a, b}` or of a single operand.
    pub(super) fn targets(&self, s: &Statement, operand: &Operand, wanted: Class) -> Result<Vec<Reg>, Fault> {
        elements(operand).iter().map(|element| self.target(s, element, wanted)).collect()
    }

    /// Sources of `{a, b}` or of a single operand.
    pub(super) fn sources(&mut self, s: &Statement, operand: &Operand, kind: Type) -> Result<Vec<Reg>, Fault> {
        let wide = class(kind) == Class::Long;
        elements(operand).iter().map(|e| if wide { self.long(s, e, kind) } else { self.word(s, e, kind) }).collect()
    }

    /// The base and offset of `[a+offset]`, and what follows in the brackets.
    pub(super) fn address<'s>(
        &mut self,
        s: &Statement,
        operand: &'s Operand,
    ) -> Result<(Address, &'s [Operand]), Fault> {
        let Operand::Address(base, offset, more) = operand else {
            return Err(fault(format!("`{}` needs an address in brackets", s.opcode)));
        };
        let wide = Type::Unsigned(64);
        let address = match base.as_ref() {
            Operand::Register(number) => {
                let is_wide = class(self.frame().function.registers[*number as usize]) == Class::Long;
                let wanted = if is_wide { Class::Long } else { Class::Word };
                Address { base: self.register(*number, wanted)?, wide: is_wide, offset: *offset }
            }
            base => Address { base: self.long(s, base, wide)?, wide: true, offset: *offset },
        };
        Ok((address, more))
    }

    /// An integer literal.
    pub(super) fn integer(&self, s: &Statement, operand: &Operand) -> Result<i64, Fault> {
        match operand {
            Operand::Integer(value) => Ok(*value as i64),
            _ => Err(fault(format!("`{}` needs an integer literal here", s.opcode))),
        }
    }
}

/// The elements of a vector operand, or the operand itself.
pub(super) fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        single => std::slice::from_ref(single),
    }
}

fn special(name: &str) -> Result<Special, Fault> {
    let (base, axis) = match name.rsplit_once('.') {
        Some((base, "x")) => (base, Some(0)),
        Some((base, "y")) => (base, Some(1)),
        Some((base, "z")) => (base, Some(2)),
        _ => (name, None),
    };
    Ok(match (base, axis) {
        ("tid", Some(axis)) => Special::Thread(axis),
        ("ntid", Some(axis)) => Special::Threads(axis),
        ("ctaid", Some(axis)) => Special::Block(axis),
        ("nctaid", Some(axis)) => Special::Blocks(axis),
        ("clusterid", Some(axis)) => Special::Cluster(axis),
        ("nclusterid", Some(axis)) => Special::Clusters(axis),
        ("cluster_ctaid", Some(axis)) => Special::BlockInCluster(axis),
        ("cluster_nctaid", Some(axis)) => Special::BlocksInCluster(axis),
        ("cluster_ctarank", None) => Special::Rank,
        ("cluster_nctarank", None) => Special::Ranks,
        ("laneid", None) => Special::Lane,
        ("warpid", None) => Special::Warp,
        ("nwarpid", None) => Special::Warps,
        ("smid", None) => Special::Multiprocessor,
        ("nsmid", None) => Special::Multiprocessors,
        ("gridid", None) => Special::GridId,
        ("lanemask_eq", None) => Special::LanesEqual,
        ("lanemask_lt", None) => Special::LanesLess,
        ("lanemask_le", None) => Special::LanesLessEqual,
        ("lanemask_gt", None) => Special::LanesGreater,
        ("lanemask_ge", None) => Special::LanesGreaterEqual,
        ("dynamic_smem_size", None) => Special::DynamicSharedBytes,
        ("total_smem_size", None) => Special::TotalSharedBytes,
        ("is_explicit_cluster", None) => Special::HasClusters,
        _ => return Err(Fault::new(FaultKind::Unsupported, format!("special register `%{name}` is not supported"))),
    })
}
