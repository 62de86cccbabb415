//! Matrix instructions, asynchronous copies and mbarriers.
use super::memory::{ATOMICS, SPACES, atomic_kind};
use super::operands::elements;
use super::{Builder, Class, Modifiers, unsupported};
use crate::Fault;
use crate::op::{Address, Async, MBarrier, Matrix, Op, Phase, Reduction, Reg, Region, SourceA, Space};
use crate::parse::{Operand, Statement, Type};
use crate::tensor_core::{Element, Major, Mma, Wgmma};

fn element(kind: Type) -> Option<Element> {
    match kind {
        Type::Bf16 => Some(Element::Bf16),
        Type::Float(16) => Some(Element::F16),
        Type::Tf32 => Some(Element::Tf32),
        _ => None,
    }
}

impl<'t> Builder<'t> {
    pub(super) fn tensor(&mut self, s: &Statement) -> Result<(), Fault> {
        let m = Modifiers::new(s);
        match s.opcode.as_str() {
            "mma" => self.multiply(s, m),
            "ldmatrix" | "stmatrix" => self.move_matrix(s, m),
            "movmatrix" => self.transpose_matrix(s, m),
            "wgmma" => self.warpgroup(s, m),
            "cp" => self.copy(s, m),
            _ => self.mbarrier(s, m),
        }
    }

    fn matrix(&mut self, op: Matrix) {
        self.emit(Op::Matrix(Box::new(op)));
    }

    fn multiply(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let sync = m.flag("sync") && m.flag("aligned");
        let depth = m.prefixed("m16n8k").and_then(|depth| depth.parse().ok());
        let layout = m.flag("row") && m.flag("col");
        let kinds = [m.kind()?, m.kind()?, m.kind()?, m.kind()?];
        m.finish()?;
        let (Some(depth), true, true) = (depth, sync, layout) else {
            return Err(unsupported(s, "only `mma.sync.aligned.m16n8k*.row.col`"));
        };
        let [Type::Float(32), a_kind, b_kind, Type::Float(32)] = kinds else {
            return Err(unsupported(s, "only f32 accumulators"));
        };
        let element = element(a_kind).filter(|_| a_kind == b_kind);
        let element = element.ok_or_else(|| unsupported(s, "only f16, bf16 and tf32"))?;
        let shape = Mma::new(element, depth).map_err(|_| unsupported(s, "this depth with this type"))?;
        self.expect_operands(s, &[4])?;
        let word = Type::Bits(32);
        let d = self.targets(s, &s.operands[0], Class::Word)?;
        let a = self.sources(s, &s.operands[1], word)?;
        let b = self.sources(s, &s.operands[2], word)?;
        let c = self.sources(s, &s.operands[3], word)?;
        let (Ok(d), Ok(c)) = (d.try_into(), c.try_into()) else {
            return Err(unsupported(s, "an accumulator has four registers"));
        };
        if a.len() != shape.a_registers() || b.len() != shape.b_registers() {
            return Err(unsupported(s, "A or B has another number of registers"));
        }
        self.matrix(Matrix::Multiply { shape, d, a, b, c });
        Ok(())
    }

    fn move_matrix(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let sync = m.flag("sync") && m.flag("aligned") && m.flag("m8n8") && m.flag("b16");
        let shared = m.flag("shared") || m.flag("shared::cta");
        let transpose = m.flag("trans");
        let count = m.choice(&[("x1", 1), ("x2", 2), ("x4", 4)]).unwrap_or(0);
        m.finish()?;
        self.expect_operands(s, &[2])?;
        let load = s.opcode == "ldmatrix";
        let (data, location) = if load { (0, 1) } else { (1, 0) };
        let address = self.plain_address(s, &s.operands[location])?;
        if !sync || count == 0 || elements(&s.operands[data]).len() != count {
            return Err(unsupported(s, "only `.sync.aligned.m8n8.x1`, `.x2` or `.x4` of `.b16`"));
        }
        if !shared && !address.wide {
            return Err(unsupported(s, "a generic address has 64 bits"));
        }
        if load {
            let d = self.targets(s, &s.operands[0], Class::Word)?;
            self.matrix(Matrix::Load { d, address, transpose });
        } else {
            let values = self.sources(s, &s.operands[1], Type::Bits(32))?;
            self.matrix(Matrix::Store { values, address, transpose });
        }
        Ok(())
    }

    fn transpose_matrix(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        m.ignore(&["sync", "aligned", "m8n8", "trans", "b16"]);
        m.finish()?;
        self.expect_operands(s, &[2])?;
        let d = self.target(s, &s.operands[0], Class::Word)?;
        let a = self.word(s, &s.operands[1], Type::Bits(32))?;
        self.matrix(Matrix::Transpose { d, a });
        Ok(())
    }

    fn warpgroup(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        if !(m.flag("sync") && m.flag("aligned")) {
            return Err(unsupported(s, "it needs `.sync.aligned`"));
        }
        if m.flag("fence") {
            m.finish()?;
            self.matrix(Matrix::Fence);
            return Ok(());
        }
        if m.flag("commit_group") {
            m.finish()?;
            self.matrix(Matrix::Commit);
            return Ok(());
        }
        if m.flag("wait_group") {
            m.finish()?;
            let groups = self.integer(s, self.operand(s, 0)?)? as u32;
            self.matrix(Matrix::Wait { groups });
            return Ok(());
        }
        if !m.flag("mma_async") {
            return Err(unsupported(s, "an unknown operation"));
        }
        let shape = m.prefixed("m64n").and_then(|rest| rest.split_once('k'));
        let shape = shape.and_then(|(n, k)| Some((n.parse::<u32>().ok()?, k.parse::<u32>().ok()?)));
        let kinds = [m.kind()?, m.kind()?, m.kind()?];
        m.finish()?;
        let element = element(kinds[1]).filter(|_| kinds[1] == kinds[2] && kinds[0] == Type::Float(32));
        let (Some((n, k)), Some(element)) = (shape, element) else {
            return Err(unsupported(s, "only m64nNkK with f32 accumulators of f16, bf16 or tf32"));
        };
        let from_registers = matches!(s.operands.get(1), Some(Operand::Vector(_)));
        let transposes = match (from_registers, element) {
            (_, Element::Tf32) => 0,
            (true, _) => 1,
            (false, _) => 2,
        };
        self.expect_operands(s, &[6 + transposes])?;
        let literal = |builder: &Self, index: usize| builder.integer(s, &s.operands[index]);
        let (scale_a, scale_b) = (literal(self, 4)?, literal(self, 5)?);
        let transpose_b = transposes > 0 && literal(self, 5 + transposes)? == 1;
        let transpose_a = transposes == 2 && literal(self, 6)? == 1;
        let major = |transposed| if transposed { Major::Mn } else { Major::K };
        let shape = Wgmma {
            n,
            element,
            a_major: major(transpose_a),
            b_major: major(transpose_b),
            negate_a: scale_a == -1,
            negate_b: scale_b == -1,
        };
        shape.validate()?;
        if k != shape.k() || scale_a.abs() != 1 || scale_b.abs() != 1 {
            return Err(unsupported(s, "this depth or scale"));
        }
        let d = self.targets(s, &s.operands[0], Class::Word)?;
        if d.len() != shape.d_registers() {
            return Err(unsupported(s, format!("{} accumulators where it takes {}", d.len(), shape.d_registers())));
        }
        let a = if from_registers {
            let registers = self.sources(s, &s.operands[1], Type::Bits(32))?;
            SourceA::Registers(registers.try_into().map_err(|_| unsupported(s, "A has four registers"))?)
        } else {
            SourceA::Descriptor(self.long(s, &s.operands[1], Type::Bits(64))?)
        };
        let b = self.long(s, &s.operands[2], Type::Bits(64))?;
        let accumulate = self.predicate(s, &s.operands[3])?;
        self.matrix(Matrix::Group { shape, d, a, b, accumulate });
        Ok(())
    }

    fn asynchronous(&mut self, op: Async) -> Result<(), Fault> {
        self.emit(Op::Async(Box::new(op)));
        Ok(())
    }

    fn copy(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let reduce = m.flag("reduce");
        if !m.flag("async") {
            return Err(unsupported(s, "an unknown copy"));
        }
        if m.flag("bulk") {
            return self.bulk(s, m, reduce);
        }
        if m.flag("commit_group") {
            m.finish()?;
            return self.asynchronous(Async::Commit);
        }
        if m.flag("wait_group") {
            m.finish()?;
            let groups = self.integer(s, self.operand(s, 0)?)? as u32;
            return self.asynchronous(Async::Wait { groups: Some(groups) });
        }
        if m.flag("wait_all") {
            m.finish()?;
            return self.asynchronous(Async::Wait { groups: None });
        }
        if m.flag("mbarrier") {
            let arrive = m.flag("arrive");
            let expect = !m.flag("noinc");
            m.ignore(&["shared", "shared::cta", "b64"]);
            m.finish()?;
            if !arrive {
                return Err(unsupported(s, "an unknown operation"));
            }
            let barrier = self.plain_address(s, self.operand(s, 0)?)?;
            return self.asynchronous(Async::Arrive { barrier, expect });
        }
        let hint = m.flag("L2::cache_hint");
        m.ignore_prefix("L2::");
        let bypass = m.flag("cg");
        m.ignore(&["ca", "shared", "shared::cta", "global"]);
        m.finish()?;
        let count = s.operands.len() - usize::from(hint);
        if !(3..=4).contains(&count) {
            return Err(unsupported(s, "it takes 3 or 4 operands"));
        }
        let shared = self.plain_address(s, &s.operands[0])?;
        let global = self.plain_address(s, &s.operands[1])?;
        let bytes = self.integer(s, &s.operands[2])?;
        if !(matches!(bytes, 4 | 8 | 16)) || (bypass && bytes != 16) {
            return Err(unsupported(s, "it copies 4, 8 or 16 bytes, with `.cg` 16"));
        }
        let last = (count == 4).then(|| &s.operands[3]);
        let skips = last
            .is_some_and(|last| matches!(last, Operand::Not(_)) || self.register_type(last) == Some(Type::Predicate));
        let (source, skip) = match last {
            Some(last) if skips => (None, Some(self.predicate(s, last)?)),
            Some(last) => (Some(self.unsigned(s, last)?), None),
            None => (None, None),
        };
        self.asynchronous(Async::Copy { shared, global, bytes: bytes as u32, source, skip })
    }

    /// The box of a tensor: `[map, {x, y}]`.
    fn region(&mut self, s: &Statement, operand: &Operand, dimensions: usize) -> Result<Region, Fault> {
        let (map, more) = self.address(s, operand)?;
        let [coordinates] = more else { return Err(unsupported(s, "it needs coordinates")) };
        let coordinates: Vec<Reg> = self.sources(s, coordinates, Type::Signed(32))?;
        if coordinates.len() != dimensions {
            return Err(unsupported(s, format!("{} coordinates for {dimensions} dimensions", coordinates.len())));
        }
        Ok(Region::Tensor { map, coordinates })
    }

    fn bulk(&mut self, s: &Statement, mut m: Modifiers<'_>, reduce: bool) -> Result<(), Fault> {
        if m.flag("commit_group") {
            m.finish()?;
            return self.asynchronous(Async::BulkCommit);
        }
        if m.flag("wait_group") {
            let read = m.flag("read");
            m.finish()?;
            let groups = self.integer(s, self.operand(s, 0)?)? as u32;
            return self.asynchronous(Async::BulkWait { groups, read });
        }
        let tensor = m.flag("tensor");
        let dimensions = m.choice(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]).unwrap_or(0);
        let hint = m.flag("L2::cache_hint");
        if m.flag("prefetch") {
            m.ignore(&["L2", "global", "tile"]);
            m.finish()?;
            self.emit(Op::Nothing);
            return Ok(());
        }
        // The spaces stand in the order destination, source.
        let first = m.choice(&SPACES);
        let second = m.choice(&SPACES);
        m.ignore(&["tile"]);
        let by_barrier = m.flag("mbarrier::complete_tx::bytes");
        let by_group = m.flag("bulk_group");
        let multicast = m.flag("multicast::cluster");
        let op = if reduce { m.choice(&ATOMICS) } else { None };
        m.ignore(&["noftz"]);
        let kind = m.try_kind();
        m.finish()?;
        if tensor != (dimensions > 0) || reduce != op.is_some() {
            return Err(unsupported(s, "it lacks a part of its name"));
        }
        let extra = usize::from(hint);
        match (first, second) {
            (Some(Space::Cluster | Space::Shared), Some(Space::Global)) if by_barrier && !reduce => {
                let multi = usize::from(multicast);
                self.expect_operands(s, &[if tensor { 3 } else { 4 } + extra + multi])?;
                let shared = self.plain_address(s, &s.operands[0])?;
                let (from, next) = if tensor {
                    (self.region(s, &s.operands[1], dimensions)?, 2)
                } else {
                    let address = self.plain_address(s, &s.operands[1])?;
                    (Region::Linear { address, bytes: self.unsigned(s, &s.operands[2])? }, 3)
                };
                let barrier = self.plain_address(s, &s.operands[next])?;
                let multicast =
                    if multicast { Some(self.word(s, &s.operands[next + 1], Type::Bits(16))?) } else { None };
                self.asynchronous(Async::Load { shared, from, barrier, multicast })
            }
            (Some(Space::Cluster), Some(Space::Shared)) if by_barrier && !reduce && !tensor => {
                self.expect_operands(s, &[4])?;
                let to = self.plain_address(s, &s.operands[0])?;
                let from = self.plain_address(s, &s.operands[1])?;
                let bytes = self.unsigned(s, &s.operands[2])?;
                let barrier = self.plain_address(s, &s.operands[3])?;
                self.asynchronous(Async::Exchange { to, from, bytes, barrier })
            }
            (Some(Space::Global), Some(Space::Shared)) if by_group && !multicast => {
                let reduction = match (op, kind, tensor) {
                    (None, None, _) => None,
                    (Some(op), None, true) => Some(Reduction { op, kind: None }),
                    (Some(op), Some(kind), false) => {
                        let known = atomic_kind(kind).ok_or_else(|| unsupported(s, "not with this type"))?;
                        Some(Reduction { op, kind: Some((known, kind.bytes() as u8)) })
                    }
                    _ => return Err(unsupported(s, "this type")),
                };
                self.expect_operands(s, &[if tensor { 2 } else { 3 } + extra])?;
                let to = if tensor {
                    self.region(s, &s.operands[0], dimensions)?
                } else {
                    let address = self.plain_address(s, &s.operands[0])?;
                    Region::Linear { address, bytes: self.unsigned(s, &s.operands[2])? }
                };
                let shared = self.plain_address(s, &s.operands[1])?;
                self.asynchronous(Async::Store { to, shared, reduction })
            }
            _ => Err(unsupported(s, "between these spaces")),
        }
    }

    fn mbarrier(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let operations = [
            "init",
            "inval",
            "arrive",
            "arrive_drop",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
        ];
        let operation = operations.into_iter().find(|name| m.flag(name));
        let operation = operation.ok_or_else(|| unsupported(s, "an unknown operation"))?;
        let arrives = operation.starts_with("arrive");
        let expects = arrives && m.flag("expect_tx");
        let parity = m.flag("parity");
        let relaxed = m.flag("relaxed");
        m.ignore(&["acquire", "release", "cta", "cluster"]);
        let cluster = m.choice(&SPACES).unwrap_or(Space::Generic);
        m.ignore(&["b64"]);
        m.finish()?;
        let word = Type::Unsigned(32);
        if operation == "pending_count" {
            self.expect_operands(s, &[2])?;
            let d = self.target(s, &s.operands[0], Class::Word)?;
            let state = self.long(s, &s.operands[1], Type::Bits(64))?;
            self.emit(Op::PendingCount { d, state });
            return Ok(());
        }
        let at = usize::from(arrives && !matches!(s.operands.first(), Some(Operand::Address(..))))
            + usize::from(operation.ends_with("wait"));
        let address: Address = self.plain_address(s, self.operand(s, at)?)?;
        let rest = s.operands.len() - at - 1;
        let op = match operation {
            "init" => MBarrier::Init { count: self.word(s, self.operand(s, 1)?, word)? },
            "inval" => MBarrier::Invalidate,
            "expect_tx" => MBarrier::ExpectBytes { bytes: self.word(s, self.operand(s, 1)?, word)? },
            "complete_tx" => MBarrier::CompleteBytes { bytes: self.word(s, self.operand(s, 1)?, word)? },
            "arrive" | "arrive_drop" => {
                let state = if at == 1 { self.target(s, &s.operands[0], Class::Long)? } else { 1 };
                let value = if rest > 0 { Some(self.word(s, &s.operands[at + 1], word)?) } else { None };
                if expects && value.is_none() {
                    return Err(unsupported(s, "it needs the number of bytes"));
                }
                let (count, expect) = if expects { (None, value) } else { (value, None) };
                MBarrier::Arrive { state, count, expect, drop: operation == "arrive_drop", relaxed }
            }
            _ => {
                let p = self.target(s, &s.operands[0], Class::Predicate)?;
                let phase = self.operand(s, 2)?;
                let phase = if parity {
                    Phase::Parity(self.word(s, phase, word)?)
                } else {
                    Phase::State(self.long(s, phase, Type::Bits(64))?)
                };
                MBarrier::Wait { p, phase, relaxed }
            }
        };
        self.emit(Op::MBarrier { op: Box::new(op), address, cluster });
        Ok(())
    }
}
