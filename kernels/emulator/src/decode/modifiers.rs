//! The modifiers of an opcode: each must be asked for by somebody, or the instruction is refused.
use crate::parse::{Statement, Type};
use crate::{Fault, FaultKind};

/// The modifiers that nobody has asked for yet.
pub struct Modifiers<'s> {
    statement: &'s Statement,
    used: u64,
}

impl<'s> Modifiers<'s> {
    /// All modifiers of a statement.
    pub fn new(statement: &'s Statement) -> Self {
        Modifiers { statement, used: 0 }
    }

    fn unused(&self) -> impl Iterator<Item = (usize, &'s str)> + use<'s> {
        let used = self.used;
        self.statement
            .modifiers
            .iter()
            .enumerate()
            .filter(move |(i, _)| used >> i & 1 == 0)
            .map(|(i, m)| (i, m.as_str()))
    }

    /// Takes a modifier if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.unused().find(|&(_, modifier)| modifier == name);
        if let Some((i, _)) = found {
            self.used |= 1 << i;
        }
        found.is_some()
    }

    /// Takes the first modifier of a list of choices.
    pub fn choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let (i, value) = self.unused().find_map(|(i, modifier)| {
            choices.iter().find(|(name, _)| *name == modifier).map(|&(_, value)| (i, value))
        })?;
        self.used |= 1 << i;
        Some(value)
    }

    /// Takes modifiers that change nothing here, such as cache hints.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            while self.flag(name) {}
        }
    }

    /// Takes modifiers with a prefix that change nothing here.
    pub fn ignore_prefix(&mut self, prefix: &str) {
        let used = self.unused().filter(|(_, m)| m.starts_with(prefix)).fold(0, |used, (i, _)| used | 1 << i);
        self.used |= used;
    }

    /// Takes the first type that is left.
    pub fn kind(&mut self) -> Result<Type, Fault> {
        self.try_kind().ok_or_else(|| unsupported(self.statement, "it has no type"))
    }

    /// Looks at the first type that is left.
    pub fn first_kind(&self) -> Result<Type, Fault> {
        let kind = self.unused().find_map(|(_, modifier)| Type::named(modifier));
        kind.ok_or_else(|| unsupported(self.statement, "it has no type"))
    }

    /// Takes the first type that is left, if there is one.
    pub fn try_kind(&mut self) -> Option<Type> {
        let (i, kind) = self.unused().find_map(|(i, modifier)| Type::named(modifier).map(|kind| (i, kind)))?;
        self.used |= 1 << i;
        Some(kind)
    }

    /// Takes a modifier with a prefix and returns the rest of it.
    pub fn prefixed(&mut self, prefix: &str) -> Option<&'s str> {
        let (i, rest) = self.unused().find_map(|(i, modifier)| modifier.strip_prefix(prefix).map(|rest| (i, rest)))?;
        self.used |= 1 << i;
        Some(rest)
    }

    /// Refuses the instruction when a modifier is left.
    pub fn finish(&self) -> Result<(), Fault> {
        match self.unused().next() {
            Some((_, modifier)) => Err(unsupported(self.statement, format!("unknown modifier `.{modifier}`"))),
            None => Ok(()),
        }
    }
}

/// The fault of an instruction that is not executed.
pub fn unsupported(statement: &Statement, why: impl std::fmt::Display) -> Fault {
    let mut opcode = statement.opcode.clone();
    for modifier in &statement.modifiers {
        opcode += ".";
        opcode += modifier;
    }
    let mut fault =
        Fault::new(FaultKind::Unsupported, format!("`{opcode}` is not supported: {why}")).at_line(statement.line);
    fault.place.instruction = Some(opcode);
    fault
}
