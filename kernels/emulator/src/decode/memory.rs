//! Loads, stores, atomics, and instructions on addresses.
use super::{Builder, Class, Modifiers, class, unsupported};
use crate::Fault;
use crate::exec::long::Kind as Long;
use crate::op::{Access, Address, Atomic, AtomicKind, AtomicOp, Op, Order, Reg, Space};
use crate::parse::{Operand, Statement, Type};

/// State spaces by name.
pub(super) const SPACES: [(&str, Space); 10] = [
    ("global", Space::Global),
    ("const", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Cluster),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Local),
    ("generic", Space::Generic),
];

/// Those whose addresses `cvta` converts: all but the last two.
pub(super) const CONVERTED: &[(&str, Space)] = SPACES.split_at(8).0;

const ORDERS: [(&str, Order); 8] = [
    ("weak", Order::Weak),
    ("relaxed", Order::Relaxed),
    ("volatile", Order::Relaxed),
    ("mmio", Order::Relaxed),
    ("acquire", Order::Acquire),
    ("release", Order::Release),
    ("acq_rel", Order::AcquireRelease),
    ("sc", Order::AcquireRelease),
];

/// Operations of atomics and of reductions by name.
pub(super) const ATOMICS: [(&str, AtomicOp); 10] = [
    ("add", AtomicOp::Add),
    ("min", AtomicOp::Min),
    ("max", AtomicOp::Max),
    ("and", AtomicOp::And),
    ("or", AtomicOp::Or),
    ("xor", AtomicOp::Xor),
    ("inc", AtomicOp::Increment),
    ("dec", AtomicOp::Decrement),
    ("exch", AtomicOp::Exchange),
    ("cas", AtomicOp::CompareExchange),
];

/// How an atomic reads a type.
pub(super) fn atomic_kind(kind: Type) -> Option<AtomicKind> {
    Some(match kind {
        Type::Bits(_) | Type::Unsigned(_) => AtomicKind::Unsigned,
        Type::Signed(_) => AtomicKind::Signed,
        Type::Float(64) => AtomicKind::F64,
        Type::Float(32) => AtomicKind::F32,
        Type::Float(_) => AtomicKind::F16,
        Type::Bf16 => AtomicKind::Bf16,
        Type::F16x2 => AtomicKind::F16x2,
        Type::Bf16x2 => AtomicKind::Bf16x2,
        Type::Tf32 | Type::Predicate => return None,
    })
}

impl<'t> Builder<'t> {
    pub(super) fn memory(&mut self, s: &Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        match s.opcode.as_str() {
            "ld" | "ldu" | "st" => self.access(s, m),
            "atom" | "red" => self.atomic(s, m),
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                m.ignore(&["global", "local", "const", "param", "L1", "L2", "tensormap"]);
                m.ignore_prefix("L2::");
                m.finish()?;
                self.address(s, self.operand(s, 0)?)?;
                self.emit(Op::Nothing);
                Ok(())
            }
            "isspacep" => {
                let space = m.choice(&SPACES).ok_or_else(|| unsupported(s, "it names no space"))?;
                m.finish()?;
                self.expect_operands(s, &[2])?;
                let d = self.target(s, &s.operands[0], Class::Predicate)?;
                let a = self.long(s, &s.operands[1], Type::Unsigned(64))?;
                self.emit(Op::IsSpace { d, a, space });
                Ok(())
            }
            "mapa" | "getctarank" => self.cluster_address(s, m),
            "createpolicy" => {
                // A policy is a hint: any value will do.
                m.ignore_prefix("L2::");
                m.ignore(&["fractional", "range", "cvt", "global", "b64"]);
                m.finish()?;
                let d = self.target(s, self.operand(s, 0)?, Class::Long)?;
                self.emit(Op::Long { f: Long::Move, d, a: 0, b: 0, c: 0, x: 0, y: 0 });
                Ok(())
            }
            _ => Err(unsupported(s, "not implemented")),
        }
    }

    fn access(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let store = s.opcode == "st";
        let hint = m.flag("L2::cache_hint");
        m.ignore_prefix("L1::");
        m.ignore_prefix("L2::");
        m.ignore(&["ca", "cg", "cs", "lu", "cv", "nc", "wb", "wt"]);
        m.ignore(&["cta", "cluster", "gpu", "sys"]);
        let order = m.choice(&ORDERS).unwrap_or(Order::Weak);
        let space = m.choice(&SPACES).unwrap_or(Space::Generic);
        let count = m.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let kind = m.kind()?;
        m.finish()?;
        self.expect_operands(s, &[if hint { 3 } else { 2 }])?;
        let (to, from) = (&s.operands[0], &s.operands[1]);
        let (location, data) = if store { (to, from) } else { (from, to) };
        // A parameter of a called function lives in local memory.
        let space = if space == Space::Param { self.parameter_space(s, location)? } else { space };
        let (address, more) = self.address(s, location)?;
        if !more.is_empty() {
            return Err(unsupported(s, "its address has more than one part"));
        }
        let first = super::operands::elements(data).first();
        let first = first.ok_or_else(|| unsupported(s, "it moves nothing"))?;
        let wide = self.register_type(first).map_or(class(kind), class) == Class::Long;
        let register_kind = if wide { Type::Bits(64) } else { kind };
        let registers = if store {
            self.sources(s, data, register_kind)?
        } else {
            self.targets(s, data, if wide { Class::Long } else { Class::Word })?
        };
        if registers.len() != count {
            return Err(unsupported(s, format!("{} registers for {count} elements", registers.len())));
        }
        if kind.bits() > 64 {
            return Err(unsupported(s, "elements of 128 bits"));
        }
        let access =
            Access { space, address, bytes: kind.bytes() as u8, signed: kind.is_signed(), registers, wide, order };
        // A narrow signed value extends to its register of 16 bits only.
        self.emit(if store { Op::Store(Box::new(access.clone())) } else { Op::Load(Box::new(access.clone())) });
        let register_bits = self.register_type(first).map_or(32, Type::bits);
        if !store && access.signed && register_bits == 16 && kind.bits() == 8 {
            for &d in &access.registers {
                let f = crate::exec::word::Kind::LowerHalf;
                self.emit(Op::Word { f, form: crate::op::Form::Plain, d, a: d, b: 0, c: 0, e: 0 });
            }
        }
        Ok(())
    }

    fn parameter_space(&mut self, s: &Statement, location: &Operand) -> Result<Space, Fault> {
        if let Operand::Address(base, ..) = location
            && let Operand::Symbol(name) = base.as_ref()
            && matches!(self.find(s, name)?, super::Location::Local(_))
        {
            return Ok(Space::Local);
        }
        Ok(Space::Param)
    }

    fn atomic(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let returns = s.opcode == "atom";
        let hint = m.flag("L2::cache_hint");
        m.ignore(&["cta", "cluster", "gpu", "sys", "noftz"]);
        let order = m.choice(&ORDERS).unwrap_or(Order::Relaxed);
        let space = m.choice(&SPACES).unwrap_or(Space::Generic);
        let op = m.choice(&ATOMICS).ok_or_else(|| unsupported(s, "an unknown operation"))?;
        let count = m.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let kind = m.kind()?;
        m.finish()?;
        let swaps = op == AtomicOp::CompareExchange;
        self.expect_operands(s, &[usize::from(returns) + 2 + usize::from(swaps) + usize::from(hint)])?;
        let wide = class(kind) == Class::Long;
        let old = if returns {
            self.targets(s, &s.operands[0], if wide { Class::Long } else { Class::Word })?
        } else {
            Vec::new()
        };
        let rest = &s.operands[usize::from(returns)..];
        let (address, _) = self.address(s, &rest[0])?;
        let values = self.sources(s, &rest[1], kind)?;
        let swap = if swaps { self.sources(s, &rest[2], kind)?[0] } else { 0 };
        let atomic_kind = atomic_kind(kind).ok_or_else(|| unsupported(s, "not with this type"))?;
        let integer = matches!(atomic_kind, AtomicKind::Unsigned | AtomicKind::Signed);
        let supported = match op {
            AtomicOp::Add => true,
            AtomicOp::Min | AtomicOp::Max => integer || kind.bits() <= 32 && atomic_kind != AtomicKind::F32,
            AtomicOp::Increment | AtomicOp::Decrement => kind == Type::Unsigned(32),
            _ => integer,
        };
        if !supported || values.len() != count || (count > 1 && integer) || kind.bits() > 64 {
            return Err(unsupported(s, "this operation on this type"));
        }
        let bytes = kind.bytes() as u8;
        let atomic = Atomic { space, address, op, kind: atomic_kind, bytes, old, values, swap, wide, order };
        self.emit(Op::Atomic(Box::new(atomic)));
        Ok(())
    }

    fn cluster_address(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let generic = !m.flag("shared::cluster");
        let kind = m.kind()?;
        m.finish()?;
        let map = s.opcode == "mapa";
        self.expect_operands(s, &[if map { 3 } else { 2 }])?;
        let source = &s.operands[1];
        let wide = self.register_type(source).map_or(class(kind), class) == Class::Long;
        let a = if wide { self.long(s, source, Type::Bits(64))? } else { self.word(s, source, Type::Bits(32))? };
        if map {
            let d = self.target(s, &s.operands[0], class(kind))?;
            let rank = self.word(s, &s.operands[2], Type::Unsigned(32))?;
            self.emit(Op::MapShared { d, a, rank, wide, generic });
        } else {
            let d = self.target(s, &s.operands[0], Class::Word)?;
            self.emit(Op::RankOf { d, a, wide });
        }
        Ok(())
    }

    /// An address operand that is nothing but an address.
    pub(super) fn plain_address(&mut self, s: &Statement, operand: &Operand) -> Result<Address, Fault> {
        let (address, more) = self.address(s, operand)?;
        if more.is_empty() { Ok(address) } else { Err(unsupported(s, "coordinates stand where none are expected")) }
    }

    /// A word operand that is an unsigned integer.
    pub(super) fn unsigned(&mut self, s: &Statement, operand: &Operand) -> Result<Reg, Fault> {
        self.word(s, operand, Type::Unsigned(32))
    }
}
