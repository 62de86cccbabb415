//! The body of a function: registers, variables, labels and instructions in nested scopes, as inline assembly opens
//! them.
use super::{Function, Location, Operand, Parser, Scope, Space, Statement, Token, Type};
use crate::Fault;
use std::collections::HashMap;

/// The registers that a scope declares: single names, and ranges `%r<100>` by their prefix.
#[derive(Default)]
struct Registers {
    single: HashMap<String, u32>,
    ranges: HashMap<String, (u32, u32)>,
}

impl Registers {
    fn find(&self, name: &str) -> Option<u32> {
        if let Some(&number) = self.single.get(name) {
            return Some(number);
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let &(first, count) = self.ranges.get(prefix)?;
        let index: u32 = name[prefix.len()..].parse().ok()?;
        (index < count).then_some(first + index)
    }
}

struct Body<'f> {
    function: &'f mut Function,
    /// Open scopes: index in the function and registers.
    open: Vec<(usize, Registers)>,
    location: Option<Location>,
    /// Where code was inlined, by its position in the source: file, line, column.
    calls: HashMap<[u32; 3], [u32; 3]>,
}

/// Calls within calls that are followed to the outermost.
const INLINED_DEPTH: usize = 32;

impl Body<'_> {
    fn register(&self, name: &str) -> Option<u32> {
        self.open.iter().rev().find_map(|(_, registers)| registers.find(name))
    }

    fn scope(&self) -> usize {
        self.open.last().map_or(0, |(scope, _)| *scope)
    }

    fn enter(&mut self) {
        let parent = self.open.last().map(|(scope, _)| *scope);
        self.function.scopes.push(Scope { parent, ..Scope::default() });
        self.open.push((self.function.scopes.len() - 1, Registers::default()));
    }

    fn declare(&mut self, name: &str, kind: Type) -> u32 {
        self.function.registers.push(kind);
        self.function.names.push(name.to_string());
        self.function.registers.len() as u32 - 1
    }
}

impl Parser<'_> {
    /// The rest of `.loc`. Of inlined code the position is that of the outermost call: the line of the kernel.
    fn source_position(&mut self, body: &mut Body<'_>) -> Result<Location, Fault> {
        let mut position = [self.number()?, self.number()?, self.number()?];
        let line = self.tokens[self.at - 1].1;
        body.calls.remove(&position);
        while self.at < self.tokens.len() && self.tokens[self.at].1 == line {
            if self.next()? == Token::Word("inlined_at") {
                let call = [self.number()?, self.number()?, self.number()?];
                body.calls.insert(position, call);
            }
        }
        for _ in 0..INLINED_DEPTH {
            let Some(&call) = body.calls.get(&position) else { break };
            position = call;
        }
        Ok(Location { file: position[0], line: position[1] })
    }

    /// Parses `{ ... }` into the function.
    pub(super) fn body(&mut self, function: &mut Function) -> Result<(), Fault> {
        let mut body = Body { function, open: Vec::new(), location: None, calls: HashMap::new() };
        loop {
            if self.eat('{') {
                body.enter();
                continue;
            }
            if self.eat('}') {
                body.open.pop();
                if body.open.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if self.eat(';') {
                continue;
            }
            self.statement(&mut body)?;
        }
    }

    fn statement(&mut self, body: &mut Body<'_>) -> Result<(), Fault> {
        let line = self.line();
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            let name = self.word()?;
            let register = body.register(name).ok_or_else(|| self.error(format!("unknown predicate `{name}`")))?;
            Some((register, negated))
        } else {
            None
        };
        let word = self.word()?;
        if guard.is_none() {
            if self.eat(':') {
                return self.label(body, word);
            }
            match word {
                ".reg" => return self.registers(body),
                ".loc" => {
                    body.location = Some(self.source_position(body)?);
                    return Ok(());
                }
                ".pragma" => {
                    self.next()?;
                    return self.expect(';');
                }
                ".shared" | ".local" | ".param" | ".global" | ".const" => {
                    self.at -= 1;
                    let variable = self.variable()?;
                    let scope = body.scope();
                    let index = body.function.variables.len();
                    if matches!(variable.space, Space::Global | Space::Const) {
                        return Err(self.error(format!("`{}`: global variables of a function are not supported", word)));
                    }
                    body.function.scopes[scope].variables.insert(variable.name.clone(), index);
                    body.function.variables.push(variable);
                    return Ok(());
                }
                _ if word.starts_with('.') => return Err(self.error(format!("unknown directive `{word}`"))),
                _ => {}
            }
        }
        let mut parts = word.split('.');
        let opcode = parts.next().unwrap_or_default().to_string();
        let modifiers = parts.map(str::to_string).collect();
        let mut operands = Vec::new();
        while !self.eat(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand(body)?);
        }
        let (scope, location) = (body.scope(), body.location);
        body.function.statements.push(Statement { guard, opcode, modifiers, operands, scope, line, location });
        Ok(())
    }

    fn label(&mut self, body: &mut Body<'_>, name: &str) -> Result<(), Fault> {
        let scope = body.scope();
        if self.eat_word(".branchtargets") {
            let mut targets = Vec::new();
            while !self.eat(';') {
                self.eat(',');
                targets.push(self.word()?.to_string());
            }
            body.function.scopes[scope].targets.insert(name.to_string(), targets);
            return Ok(());
        }
        if self.eat_word(".callprototype") {
            return Err(self.error("indirect calls are not supported"));
        }
        let at = body.function.statements.len();
        if body.function.scopes[scope].labels.insert(name.to_string(), at).is_some() {
            return Err(self.error(format!("label `{name}` is declared twice")));
        }
        Ok(())
    }

    fn registers(&mut self, body: &mut Body<'_>) -> Result<(), Fault> {
        let word = self.word()?;
        let kind = word.strip_prefix('.').and_then(Type::named);
        let kind = kind.ok_or_else(|| self.error(format!("unknown type `{word}` of a register")))?;
        loop {
            let name = self.word()?;
            if self.eat('<') {
                let count = self.number()?;
                self.expect('>')?;
                let first = body.function.registers.len() as u32;
                for i in 0..count {
                    body.declare(&format!("{name}{i}"), kind);
                }
                if let Some((_, registers)) = body.open.last_mut() {
                    registers.ranges.insert(name.to_string(), (first, count));
                }
            } else {
                let number = body.declare(name, kind);
                if let Some((_, registers)) = body.open.last_mut() {
                    registers.single.insert(name.to_string(), number);
                }
            }
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    fn operand(&mut self, body: &Body<'_>) -> Result<Operand, Fault> {
        let operand = match self.peek() {
            Some(Token::Mark('{')) => {
                self.at += 1;
                Operand::Vector(self.operands(body, '}')?)
            }
            Some(Token::Mark('(')) => {
                self.at += 1;
                Operand::List(self.operands(body, ')')?)
            }
            Some(Token::Mark('[')) => {
                self.at += 1;
                self.address(body)?
            }
            Some(Token::Mark('!')) => {
                self.at += 1;
                let name = self.word()?;
                let register = body.register(name);
                Operand::Not(register.ok_or_else(|| self.error(format!("unknown predicate `{name}`")))?)
            }
            Some(Token::Word(name)) => {
                self.at += 1;
                self.name(body, name)?
            }
            _ => self.literal()?,
        };
        if self.eat('|') {
            let second = self.operand(body)?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }

    fn operands(&mut self, body: &Body<'_>, end: char) -> Result<Vec<Operand>, Fault> {
        let mut result = Vec::new();
        while !self.eat(end) {
            if !result.is_empty() {
                self.expect(',')?;
            }
            result.push(self.operand(body)?);
        }
        Ok(result)
    }

    fn name(&self, body: &Body<'_>, name: &str) -> Result<Operand, Fault> {
        if name == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(register) = body.register(name) {
            return Ok(Operand::Register(register));
        }
        match name.strip_prefix('%') {
            Some(special) if special.starts_with(|c: char| c.is_ascii_lowercase()) => {
                Ok(Operand::Special(special.to_string()))
            }
            Some(_) => Err(self.error(format!("unknown register `{name}`"))),
            None => Ok(Operand::Symbol(name.to_string())),
        }
    }

    /// The rest of `[base+offset, more...]`.
    fn address(&mut self, body: &Body<'_>) -> Result<Operand, Fault> {
        let base = self.operand(body)?;
        let mut offset = 0i64;
        if self.eat('+') || self.peek() == Some(Token::Mark('-')) {
            match self.literal()? {
                Operand::Integer(value) => offset = value as i64,
                _ => return Err(self.error("the offset of an address must be an integer")),
            }
        }
        let mut more = Vec::new();
        while !self.eat(']') {
            self.expect(',')?;
            more.push(self.operand(body)?);
        }
        Ok(Operand::Address(Box::new(base), offset, more))
    }
}
