//! The syntax tree of a PTX module: names of registers and labels are resolved, those of variables and functions are
//! not.
use std::collections::HashMap;

/// The type in a declaration or a modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Bits(u8),
    Unsigned(u8),
    Signed(u8),
    Float(u8),
    Bf16,
    F16x2,
    Bf16x2,
    Tf32,
    Predicate,
}

impl Type {
    /// The type that a word names, without its dot.
    pub fn named(word: &str) -> Option<Type> {
        Some(match word {
            "b8" => Type::Bits(8),
            "b16" => Type::Bits(16),
            "b32" => Type::Bits(32),
            "b64" => Type::Bits(64),
            "b128" => Type::Bits(128),
            "u8" => Type::Unsigned(8),
            "u16" => Type::Unsigned(16),
            "u32" => Type::Unsigned(32),
            "u64" => Type::Unsigned(64),
            "s8" => Type::Signed(8),
            "s16" => Type::Signed(16),
            "s32" => Type::Signed(32),
            "s64" => Type::Signed(64),
            "f16" => Type::Float(16),
            "f32" => Type::Float(32),
            "f64" => Type::Float(64),
            "bf16" => Type::Bf16,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "pred" => Type::Predicate,
            _ => return None,
        })
    }

    /// Width in bits; a predicate has one.
    pub fn bits(self) -> u32 {
        match self {
            Type::Bits(n) | Type::Unsigned(n) | Type::Signed(n) | Type::Float(n) => u32::from(n),
            Type::Bf16 => 16,
            Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 32,
            Type::Predicate => 1,
        }
    }

    /// Width in bytes of a value in memory.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether it is a signed integer.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::Signed(_))
    }
}

/// The state space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One value of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    /// Bits of the element.
    Bits(u64),
    /// The address of another variable, plus an offset.
    Address(String, i64),
}

/// A declared variable.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u32,
    pub element: Type,
    /// Size in bytes; 0 for an array of unknown length (`extern`).
    pub bytes: u32,
    pub initial: Vec<Initial>,
    pub line: u32,
}

/// An operand as written, with registers resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register of the function, by number.
    Register(u32),
    /// The negation of a predicate register.
    Not(u32),
    /// A special register, without the percent sign.
    Special(String),
    Integer(i128),
    Float32(u32),
    Float64(u64),
    Decimal(f64),
    /// A variable, function or label.
    Symbol(String),
    /// `[base+offset, more...]`.
    Address(Box<Operand>, i64, Vec<Operand>),
    /// `{a, b, ...}`.
    Vector(Vec<Operand>),
    /// `(a, b, ...)` of a call.
    List(Vec<Operand>),
    /// `a|b`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`.
    Sink,
}

/// A position in the source, from `.loc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub file: u32,
    pub line: u32,
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The predicate register that guards it, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// The first part of the opcode: `ld` of `ld.global.f32`.
    pub opcode: String,
    /// The other parts.
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
    /// The lexical scope, for labels.
    pub scope: usize,
    pub line: u32,
    pub location: Option<Location>,
}

/// Limits that a kernel declares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `.maxntid`: most threads of a block.
    pub most_threads: Option<[u32; 3]>,
    /// `.reqntid`: threads of a block.
    pub threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`: blocks of a cluster.
    pub cluster: Option<[u32; 3]>,
}

/// A lexical scope of a function: where labels and `.branchtargets` live.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub parent: Option<usize>,
    /// Label to index of the statement that follows it.
    pub labels: HashMap<String, usize>,
    pub targets: HashMap<String, Vec<String>>,
    /// Variables by name, as indices into those of the function.
    pub variables: HashMap<String, usize>,
}

/// A kernel or a device function.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub is_kernel: bool,
    pub parameters: Vec<Variable>,
    pub returns: Vec<Variable>,
    pub limits: Limits,
    /// Types of the registers, by number.
    pub registers: Vec<Type>,
    /// Names of the registers, by number, for messages.
    pub names: Vec<String>,
    /// Shared, local and call-parameter variables declared inside.
    pub variables: Vec<Variable>,
    pub scopes: Vec<Scope>,
    pub statements: Vec<Statement>,
    pub line: u32,
}

/// A module as parsed.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// `.target`, such as `sm_90a`.
    pub target: String,
    /// `.file` numbers to names.
    pub files: HashMap<u32, String>,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}
