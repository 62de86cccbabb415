//! The parser: PTX text to a [`Tree`].
mod body;
mod token;
mod tree;

use crate::{Fault, FaultKind};
use token::{Token, tokens};
pub(crate) use tree::*;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Tree, Fault> {
    Parser { tokens: tokens(text)?, at: 0 }.module()
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|&(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |&(_, line)| line)
    }

    fn next(&mut self) -> Result<Token<'a>, Fault> {
        let token = self.peek().ok_or_else(|| self.error("the text ends in the middle of a statement"))?;
        self.at += 1;
        Ok(token)
    }

    fn error(&self, message: impl Into<String>) -> Fault {
        Fault::new(FaultKind::Parse, message).at_line(self.line())
    }

    fn eat(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Token::Word(word));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), Fault> {
        if self.eat(mark) { Ok(()) } else { Err(self.error(format!("expected `{mark}`, found {}", self.found()))) }
    }

    fn found(&self) -> String {
        match self.peek() {
            Some(Token::Word(text) | Token::Number(text)) => format!("`{text}`"),
            Some(Token::Text(text)) => format!("\"{text}\""),
            Some(Token::Mark(mark)) => format!("`{mark}`"),
            None => "the end of the text".into(),
        }
    }

    fn word(&mut self) -> Result<&'a str, Fault> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.error(format!("expected a name, found {}", self.found()))),
        }
    }

    fn number(&mut self) -> Result<u32, Fault> {
        match self.peek() {
            Some(Token::Number(text)) => {
                self.at += 1;
                let value = text.parse().or_else(|_| u32::from_str_radix(text.trim_start_matches("0x"), 16));
                value.map_err(|_| self.error(format!("`{text}` is not a number that fits here")))
            }
            _ => Err(self.error(format!("expected a number, found {}", self.found()))),
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.tokens[self.at].1 == line {
            self.at += 1;
        }
    }

    fn skip_block(&mut self) -> Result<(), Fault> {
        let mut depth = 0;
        loop {
            match self.next()? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }

    fn module(mut self) -> Result<Tree, Fault> {
        let mut tree = Tree::default();
        while let Some(token) = self.peek() {
            let Token::Word(word) = token else {
                return Err(self.error(format!("expected a directive, found {}", self.found())));
            };
            match word {
                ".version" | ".address_size" => self.skip_line(),
                ".target" => {
                    self.at += 1;
                    tree.target = self.word()?.to_string();
                    self.skip_line_rest();
                }
                ".file" => {
                    self.at += 1;
                    let number = self.number()?;
                    if let Token::Text(name) = self.next()? {
                        tree.files.insert(number, name.to_string());
                    }
                    self.skip_line_rest();
                }
                ".loc" => self.skip_line(),
                ".section" => self.skip_block()?,
                ".pragma" => self.skip_line(),
                ".alias" => return Err(self.error("`.alias` is not supported")),
                ".visible" | ".weak" | ".extern" | ".common" => self.at += 1,
                ".entry" | ".func" => {
                    if let Some(function) = self.function()? {
                        tree.functions.push(function);
                    }
                }
                _ => tree.variables.push(self.variable()?),
            }
        }
        Ok(tree)
    }

    fn skip_line_rest(&mut self) {
        let line = self.tokens[self.at - 1].1;
        while self.at < self.tokens.len() && self.tokens[self.at].1 == line {
            self.at += 1;
        }
    }

    /// A kernel or function; none for a declaration without a body.
    fn function(&mut self) -> Result<Option<Function>, Fault> {
        let line = self.line();
        let is_kernel = self.word()? == ".entry";
        let returns = if self.eat('(') { self.parameters()? } else { Vec::new() };
        let name = self.word()?.to_string();
        let parameters = if self.eat('(') { self.parameters()? } else { Vec::new() };
        let mut limits = Limits::default();
        loop {
            match self.peek() {
                Some(Token::Mark('{')) => break,
                Some(Token::Mark(';')) => {
                    self.at += 1;
                    return Ok(None);
                }
                _ => {}
            }
            let word = self.word()?;
            match word {
                ".maxntid" => limits.most_threads = Some(self.triple()?),
                ".reqntid" => limits.threads = Some(self.triple()?),
                ".reqnctapercluster" => limits.cluster = Some(self.triple()?),
                ".minnctapersm" | ".maxnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                    self.number()?;
                }
                ".explicitcluster" | ".blocksareclusters" | ".noreturn" => {}
                ".pragma" => {
                    self.next()?;
                    self.expect(';')?;
                }
                _ => return Err(self.error(format!("unknown directive `{word}` of a function"))),
            }
        }
        let mut function = Function {
            name,
            is_kernel,
            parameters,
            returns,
            limits,
            registers: Vec::new(),
            names: Vec::new(),
            variables: Vec::new(),
            scopes: Vec::new(),
            statements: Vec::new(),
            line,
        };
        self.body(&mut function)?;
        Ok(Some(function))
    }

    fn triple(&mut self) -> Result<[u32; 3], Fault> {
        let mut triple = [1; 3];
        for (i, value) in triple.iter_mut().enumerate() {
            if i > 0 && !self.eat(',') {
                break;
            }
            *value = self.number()?;
        }
        Ok(triple)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, Fault> {
        let mut result = Vec::new();
        while !self.eat(')') {
            if !result.is_empty() {
                self.expect(',')?;
            }
            result.push(self.declaration()?);
        }
        Ok(result)
    }

    /// A variable with its semicolon.
    fn variable(&mut self) -> Result<Variable, Fault> {
        let mut variable = self.declaration()?;
        if self.eat('=') {
            self.initial(&mut variable)?;
        }
        self.expect(';')?;
        Ok(variable)
    }

    /// `.shared .align 16 .b8 name[4][8]`.
    fn declaration(&mut self) -> Result<Variable, Fault> {
        let line = self.line();
        let (mut space, mut align, mut element) = (None, None, None);
        let mut pointer = false;
        let name = loop {
            let word = self.word()?;
            let Some(directive) = word.strip_prefix('.') else { break word };
            match directive {
                "global" | "const" | "shared" | "local" | "param" if space.is_none() => {
                    space = Some(match directive {
                        "global" => Space::Global,
                        "const" => Space::Const,
                        "shared" => Space::Shared,
                        "local" => Space::Local,
                        _ => Space::Param,
                    });
                }
                "global" | "const" | "shared" | "local" => {}
                "ptr" => pointer = true,
                "align" => {
                    let value = self.number()?;
                    // Behind `.ptr` it is the alignment of what the pointer points to.
                    if !pointer {
                        align = Some(value);
                    }
                }
                "attribute" => {
                    self.expect('(')?;
                    while !self.eat(')') {
                        self.next()?;
                    }
                }
                _ => match Type::named(directive) {
                    Some(kind) => element = Some(kind),
                    None => return Err(self.error(format!("unknown directive `{word}`"))),
                },
            }
        };
        let space = space.ok_or_else(|| self.error(format!("`{name}` has no state space")))?;
        let element = element.ok_or_else(|| self.error(format!("`{name}` has no type")))?;
        let mut bytes = element.bytes();
        while self.eat('[') {
            bytes *= if self.eat(']') {
                0
            } else {
                let count = self.number()?;
                self.expect(']')?;
                count
            };
        }
        let align = align.unwrap_or(element.bytes()).max(1);
        Ok(Variable { name: name.to_string(), space, align, element, bytes, initial: Vec::new(), line })
    }

    fn initial(&mut self, variable: &mut Variable) -> Result<(), Fault> {
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(Token::Mark('{')) => {
                    depth += 1;
                    self.at += 1;
                }
                Some(Token::Mark('}')) => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(Token::Mark(',')) => self.at += 1,
                Some(Token::Mark(';')) => break,
                _ => {
                    let value = self.initial_value(variable.element)?;
                    variable.initial.push(value);
                }
            }
        }
        if depth != 0 {
            return Err(self.error("braces of an initialiser do not match"));
        }
        let count = variable.initial.len() as u32;
        if variable.bytes == 0 {
            variable.bytes = count * variable.element.bytes();
        }
        if count * variable.element.bytes() > variable.bytes {
            return Err(self.error(format!("`{}` has more initial values than elements", variable.name)));
        }
        Ok(())
    }

    fn initial_value(&mut self, element: Type) -> Result<Initial, Fault> {
        if let Some(Token::Word(word)) = self.peek() {
            self.at += 1;
            let generic = word == "generic" && self.eat('(');
            let name = if generic { self.word()? } else { word };
            if generic {
                self.expect(')')?;
            }
            let offset = if self.eat('+') { i64::from(self.number()?) } else { 0 };
            return Ok(Initial::Address(name.to_string(), offset));
        }
        let bits = match self.literal()? {
            Operand::Integer(value) => value as u64,
            Operand::Float32(bits) => u64::from(bits),
            Operand::Float64(bits) => bits,
            Operand::Decimal(value) if element == Type::Float(32) => u64::from((value as f32).to_bits()),
            Operand::Decimal(value) => value.to_bits(),
            _ => return Err(self.error("expected an initial value")),
        };
        Ok(Initial::Bits(bits))
    }

    /// A number with its sign.
    fn literal(&mut self) -> Result<Operand, Fault> {
        let negative = self.eat('-');
        let Some(Token::Number(text)) = self.peek() else {
            return Err(self.error(format!("expected a number, found {}", self.found())));
        };
        let value = literal(text).ok_or_else(|| self.error(format!("`{text}` is not a number")))?;
        self.at += 1;
        Ok(match value {
            Operand::Integer(value) if negative => Operand::Integer(-value),
            Operand::Decimal(value) if negative => Operand::Decimal(-value),
            value => value,
        })
    }
}

fn literal(text: &str) -> Option<Operand> {
    let digits = text.trim_end_matches('U');
    if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(Operand::Float32);
    }
    if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok().map(Operand::Float64);
    }
    if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        return i128::from_str_radix(hex, 16).ok().map(Operand::Integer);
    }
    if let Some(binary) = digits.strip_prefix("0b").or(digits.strip_prefix("0B")) {
        return i128::from_str_radix(binary, 2).ok().map(Operand::Integer);
    }
    if digits.contains(['.', 'e', 'E']) {
        return digits.parse().ok().map(Operand::Decimal);
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return i128::from_str_radix(digits, 8).ok().map(Operand::Integer);
    }
    digits.parse().ok().map(Operand::Integer)
}
