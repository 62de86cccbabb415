//! Branches, calls, barriers, fences, and exchanges within a warp.
use super::{Builder, Class, Location, Modifiers, class, unsupported};
use crate::op::{Barrier, Fence, Op, Predicate, Reduce, Shuffle, Vote};
use crate::parse::{Operand, Statement, Type};
use crate::{Fault, FaultKind};
use std::collections::HashMap;

fn unknown(name: &str, what: &str) -> Fault {
    Fault::new(FaultKind::Parse, format!("unknown {what} `{name}`"))
}

impl<'t> Builder<'t> {
    /// The statement that a label stands before.
    fn label(&self, s: &Statement, name: &str) -> Result<usize, Fault> {
        let scopes = &self.frame().function.scopes;
        let mut scope = Some(s.scope);
        while let Some(at) = scope {
            if let Some(&statement) = scopes[at].labels.get(name) {
                return Ok(statement);
            }
            scope = scopes[at].parent;
        }
        Err(unknown(name, "label"))
    }

    fn branch_to(&mut self, statement: usize) {
        let at = self.code.len();
        self.emit(Op::Branch { target: 0 });
        self.frame_mut().fixups.push((at, 0, statement));
    }

    pub(super) fn control(&mut self, s: &'t Statement) -> Result<(), Fault> {
        let mut m = Modifiers::new(s);
        match s.opcode.as_str() {
            "bra" => {
                m.ignore(&["uni"]);
                m.finish()?;
                let Operand::Symbol(name) = self.operand(s, 0)? else { return Err(unsupported(s, "it needs a label")) };
                let statement = self.label(s, name)?;
                self.branch_to(statement);
                Ok(())
            }
            "brx" => self.branch_indexed(s, m),
            "call" => self.call(s, m),
            "ret" | "exit" => {
                m.ignore(&["uni"]);
                m.finish()?;
                if s.opcode == "ret" && self.frames.len() > 1 {
                    // Past the last statement of the inlined function.
                    self.branch_to(usize::MAX);
                } else {
                    self.emit(Op::Exit);
                }
                Ok(())
            }
            "trap" => self.simple(&m, Op::Trap),
            "brkpt" => self.simple(&m, Op::Breakpoint),
            "bar" | "barrier" => self.barrier(s, m),
            "membar" | "fence" => self.fence(s, m),
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => self.exchange(s, m),
            "nanosleep" => {
                m.kind()?;
                self.simple(&m, Op::Sleep)
            }
            "griddepcontrol" => {
                // Kernels run one after the other, so the wait for the one before is always over.
                m.ignore(&["launch_dependents", "wait"]);
                self.simple(&m, Op::Nothing)
            }
            "setmaxnreg" => {
                let increase = m.flag("inc");
                let decrease = m.flag("dec");
                m.ignore(&["sync", "aligned", "u32"]);
                m.finish()?;
                let count = self.integer(s, self.operand(s, 0)?)?;
                if increase == decrease || !(24..=256).contains(&count) || count % 8 != 0 {
                    return Err(unsupported(s, "it takes 24 to 256 registers in steps of 8"));
                }
                self.emit(Op::Registers { count: count as u32, increase });
                Ok(())
            }
            _ => Err(unsupported(s, "not implemented")),
        }
    }

    fn simple(&mut self, m: &Modifiers<'_>, op: Op) -> Result<(), Fault> {
        m.finish()?;
        self.emit(op);
        Ok(())
    }

    fn branch_indexed(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        m.ignore(&["idx", "uni"]);
        m.finish()?;
        self.expect_operands(s, &[2])?;
        let index = self.unsigned(s, &s.operands[0])?;
        let Operand::Symbol(name) = &s.operands[1] else { return Err(unsupported(s, "it needs a list of targets")) };
        let scopes = &self.frame().function.scopes;
        let mut scope = Some(s.scope);
        let mut found = None;
        while let Some(at) = scope {
            found = found.or(scopes[at].targets.get(name));
            scope = scopes[at].parent;
        }
        let labels = found.ok_or_else(|| unknown(name, "list of targets"))?;
        let statements: Vec<usize> = labels.iter().map(|label| self.label(s, label)).collect::<Result<_, _>>()?;
        let at = self.code.len();
        self.emit(Op::BranchIndexed { index, targets: vec![0; statements.len()].into() });
        for (which, statement) in statements.into_iter().enumerate() {
            self.frame_mut().fixups.push((at, which, statement));
        }
        Ok(())
    }

    fn call(&mut self, s: &'t Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        m.ignore(&["uni"]);
        m.finish()?;
        let list = |operand: &'t Operand| match operand {
            Operand::List(list) => Some(list.as_slice()),
            _ => None,
        };
        let (returns, rest) = match s.operands.first().and_then(list) {
            Some(returns) => (returns, &s.operands[1..]),
            None => (&[][..], &s.operands[..]),
        };
        let Some(Operand::Symbol(name)) = rest.first() else {
            return Err(unsupported(s, "indirect calls"));
        };
        let arguments = rest.get(1).and_then(list).unwrap_or(&[]);
        let tree = self.tree;
        let callee = tree.functions.iter().find(|function| function.name == *name && !function.is_kernel);
        let callee = callee.ok_or_else(|| unsupported(s, format!("`{name}` has no body in this module")))?;
        if callee.parameters.len() != arguments.len() || callee.returns.len() != returns.len() {
            return Err(unsupported(s, format!("`{name}` takes other arguments")));
        }
        let mut parameters = HashMap::new();
        let formal = callee.parameters.iter().chain(&callee.returns);
        for (variable, operand) in formal.zip(arguments.iter().chain(returns)) {
            let location = match operand {
                Operand::Symbol(name) => self.find(s, name)?,
                _ => return Err(unsupported(s, "arguments that are not `.param` variables")),
            };
            if !matches!(location, Location::Local(_)) {
                return Err(unsupported(s, "arguments that are not `.param` variables"));
            }
            parameters.insert(variable.name.as_str(), location);
        }
        let guarded = self.guard != Predicate::TRUE;
        if guarded {
            return Err(unsupported(s, "a call with a predicate"));
        }
        self.function(callee, parameters)
    }

    fn barrier(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        m.ignore(&["cta", "aligned"]);
        if m.flag("cluster") {
            let arrive = m.flag("arrive");
            let wait = m.flag("wait");
            let relaxed = m.flag("relaxed");
            m.ignore(&["acquire", "release"]);
            let op = match (arrive, wait) {
                (true, false) => Op::ClusterArrive { relaxed },
                (false, true) => Op::ClusterWait,
                _ => return Err(unsupported(s, "it arrives or waits")),
            };
            return self.simple(&m, op);
        }
        if m.flag("warp") {
            m.ignore(&["sync"]);
            m.finish()?;
            let members = self.unsigned(s, self.operand(s, 0)?)?;
            self.emit(Op::WarpBarrier { members });
            return Ok(());
        }
        let sync = m.flag("sync");
        let arrive = m.flag("arrive");
        let reduce = m.flag("red");
        let how = match (sync, arrive, reduce) {
            (true, false, false) => Barrier::Sync,
            (false, true, false) => Barrier::Arrive,
            (false, false, true) => {
                let how = [("and", Barrier::ReduceAnd), ("or", Barrier::ReduceOr), ("popc", Barrier::ReduceCount)];
                m.choice(&how).ok_or_else(|| unsupported(s, "an unknown reduction"))?
            }
            _ => return Err(unsupported(s, "an unknown barrier")),
        };
        let mut operands = &s.operands[..];
        let (mut d, mut p) = (None, Predicate::TRUE);
        if reduce {
            let kind = m.kind()?;
            let predicate = kind == Type::Predicate;
            if predicate == (how == Barrier::ReduceCount) {
                return Err(unsupported(s, "this type"));
            }
            self.expect_operands(s, &[3, 4])?;
            d = Some(self.target(s, &operands[0], class(kind))?);
            p = self.predicate(s, &operands[operands.len() - 1])?;
            operands = &operands[1..operands.len() - 1];
        }
        m.finish()?;
        let Some(id) = operands.first() else { return Err(unsupported(s, "it needs a barrier")) };
        let id = self.unsigned(s, id)?;
        let count = match operands.get(1) {
            Some(count) => Some(self.unsigned(s, count)?),
            None => None,
        };
        if how == Barrier::Arrive && count.is_none() {
            return Err(unsupported(s, "an arrival needs the number of threads"));
        }
        self.emit(Op::Barrier { how, id, count, p, d });
        Ok(())
    }

    fn fence(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        if m.flag("proxy") {
            let asynchronous = m.flag("async");
            let aliases = m.flag("alias");
            let shared = m.flag("shared::cta") || m.flag("shared::cluster");
            let global = m.flag("global");
            let both = !shared && !global;
            m.finish()?;
            let fence = Fence::Proxy { shared: shared || both, global: global || both };
            return match (asynchronous, aliases) {
                (true, false) => self.simple(&m, Op::Fence(fence)),
                (false, true) => self.simple(&m, Op::Nothing),
                _ => Err(unsupported(s, "an unknown proxy")),
            };
        }
        if m.flag("mbarrier_init") {
            m.ignore(&["release", "cluster"]);
            return self.simple(&m, Op::Fence(Fence::MBarrierInit));
        }
        m.ignore(&["sc", "acq_rel", "acquire", "release"]);
        let narrow = m.flag("cta");
        m.ignore(&["cluster", "gpu", "sys", "gl"]);
        self.simple(&m, Op::Fence(Fence::Memory { wide: !narrow }))
    }

    fn exchange(&mut self, s: &Statement, mut m: Modifiers<'_>) -> Result<(), Fault> {
        let synchronous = m.flag("sync");
        if !synchronous && s.opcode != "activemask" {
            return Err(unsupported(s, "the forms without `.sync`"));
        }
        let pair = |operand: &'_ Operand| match operand {
            Operand::Pair(first, second) => (first.as_ref().clone(), Some(second.as_ref().clone())),
            single => (single.clone(), None),
        };
        match s.opcode.as_str() {
            "shfl" => {
                let how = [
                    ("up", Shuffle::Up),
                    ("down", Shuffle::Down),
                    ("bfly", Shuffle::Butterfly),
                    ("idx", Shuffle::Index),
                ];
                let how = m.choice(&how).ok_or_else(|| unsupported(s, "an unknown mode"))?;
                let kind = m.kind()?;
                m.finish()?;
                self.expect_operands(s, &[5])?;
                let (d, valid) = pair(&s.operands[0]);
                let d = self.target(s, &d, Class::Word)?;
                let valid = valid.map_or(Ok(1), |valid| self.target(s, &valid, Class::Predicate))?;
                let a = self.word(s, &s.operands[1], kind)?;
                let b = self.unsigned(s, &s.operands[2])?;
                let c = self.unsigned(s, &s.operands[3])?;
                let members = self.unsigned(s, &s.operands[4])?;
                self.emit(Op::Shuffle { how, d, valid, a, b, c, members });
            }
            "vote" => {
                let how = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
                let how = m.choice(&how).ok_or_else(|| unsupported(s, "an unknown mode"))?;
                let kind = m.kind()?;
                m.finish()?;
                self.expect_operands(s, &[3])?;
                let wanted = if how == Vote::Ballot { Class::Word } else { Class::Predicate };
                if class(kind) != wanted {
                    return Err(unsupported(s, "this type"));
                }
                let d = self.target(s, &s.operands[0], wanted)?;
                let p = self.predicate(s, &s.operands[1])?;
                let members = self.unsigned(s, &s.operands[2])?;
                self.emit(Op::Vote { how, d, p, members });
            }
            "match" => {
                let all = m.flag("all");
                let any = m.flag("any");
                let kind = m.kind()?;
                m.finish()?;
                if all == any {
                    return Err(unsupported(s, "it matches any or all"));
                }
                self.expect_operands(s, &[3])?;
                let (d, valid) = pair(&s.operands[0]);
                let d = self.target(s, &d, Class::Word)?;
                let valid = valid.map_or(Ok(1), |valid| self.target(s, &valid, Class::Predicate))?;
                let wide = class(kind) == Class::Long;
                let a = if wide { self.long(s, &s.operands[1], kind)? } else { self.word(s, &s.operands[1], kind)? };
                let members = self.unsigned(s, &s.operands[2])?;
                self.emit(Op::Match { all, d, valid, a, wide, members });
            }
            "redux" => {
                let name = ["add", "min", "max", "and", "or", "xor"].into_iter().find(|name| m.flag(name));
                let kind = m.kind()?;
                m.finish()?;
                let how = match (name, kind.is_signed()) {
                    (Some("add"), _) => Reduce::Add,
                    (Some("min"), true) => Reduce::MinSigned,
                    (Some("min"), false) => Reduce::MinUnsigned,
                    (Some("max"), true) => Reduce::MaxSigned,
                    (Some("max"), false) => Reduce::MaxUnsigned,
                    (Some("and"), _) => Reduce::And,
                    (Some("or"), _) => Reduce::Or,
                    (Some("xor"), _) => Reduce::Xor,
                    _ => return Err(unsupported(s, "an unknown operation")),
                };
                if !matches!(kind, Type::Unsigned(32) | Type::Signed(32) | Type::Bits(32)) {
                    return Err(unsupported(s, "it reduces 32-bit integers"));
                }
                self.expect_operands(s, &[3])?;
                let d = self.target(s, &s.operands[0], Class::Word)?;
                let a = self.word(s, &s.operands[1], kind)?;
                let members = self.unsigned(s, &s.operands[2])?;
                self.emit(Op::ReduceWarp { how, d, a, members });
            }
            "elect" => {
                m.finish()?;
                self.expect_operands(s, &[2])?;
                let (d, p) = pair(&s.operands[0]);
                let p = p.ok_or_else(|| unsupported(s, "it needs a predicate"))?;
                let d = self.target(s, &d, Class::Word)?;
                let p = self.target(s, &p, Class::Predicate)?;
                let members = self.unsigned(s, &s.operands[1])?;
                self.emit(Op::Elect { d, p, members });
            }
            _ => {
                m.kind()?;
                m.finish()?;
                let d = self.target(s, self.operand(s, 0)?, Class::Word)?;
                self.emit(Op::ActiveMask { d });
            }
        }
        Ok(())
    }
}
