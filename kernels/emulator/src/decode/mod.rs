//! From the syntax tree to instructions with resolved registers, once for each kernel. Device functions are inlined
//! where they are called, their parameters living in local memory.
mod arithmetic;
mod compare;
mod control;
mod convert;
mod memory;
mod modifiers;
mod moves;
mod operands;
mod tensor;

use crate::kernel::{Initial, InitialLong, InitialWord, Kernel, ParameterSlot, Site};
use crate::op::{Instruction, Op, Predicate, Reg};
use crate::parse::{Function, Space, Statement, Tree, Type, Variable};
use crate::{Fault, FaultKind};
use std::collections::HashMap;

pub(crate) use modifiers::Modifiers;
use modifiers::unsupported;

/// Start of the shared window of a block: the first KiB belongs to the system, as on compute capability 9.0.
pub const SHARED_BASE: u32 = 0x400;

/// Deepest nesting of inlined calls; deeper means recursion.
const DEEPEST_CALL: usize = 16;

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Location {
    /// A parameter of the kernel, at its offset in the block of parameters.
    Parameter(u32),
    /// Local memory of the lane.
    Local(u32),
    /// Shared memory, as an address in its window.
    Shared(u32),
    /// Dynamic shared memory.
    DynamicShared,
    /// A variable of the module in global memory.
    Global(u32),
}

/// The function that is being decoded, or inlined.
struct Frame<'t> {
    function: &'t Function,
    /// Its registers, by number.
    registers: Vec<Reg>,
    variables: Vec<Location>,
    parameters: HashMap<&'t str, Location>,
    /// Code index of each statement.
    starts: Vec<u32>,
    /// Branches whose target is a statement: code index, which target of it, statement.
    fixups: Vec<(usize, usize, usize)>,
}

struct Builder<'t> {
    tree: &'t Tree,
    frames: Vec<Frame<'t>>,
    code: Vec<Instruction>,
    sites: Vec<Site>,
    guard: Predicate,
    site: Site,
    predicates: u32,
    words: u32,
    longs: u32,
    initial: Initial,
    word_constants: HashMap<InitialWord, Reg>,
    long_constants: HashMap<InitialLong, Reg>,
    shared_bytes: u32,
    shared_align: u32,
    shared_globals: HashMap<&'t str, u32>,
    local_bytes: u32,
}

/// Decodes all kernels of a module.
pub(crate) fn decode(tree: &Tree) -> Result<Vec<Kernel>, Fault> {
    tree.functions.iter().filter(|function| function.is_kernel).map(|function| kernel(tree, function)).collect()
}

fn kernel(tree: &Tree, function: &Function) -> Result<Kernel, Fault> {
    let mut builder = Builder {
        tree,
        frames: Vec::new(),
        code: Vec::new(),
        sites: Vec::new(),
        guard: Predicate::TRUE,
        site: Site::default(),
        predicates: 2,
        words: 2,
        longs: 2,
        initial: Initial::default(),
        word_constants: HashMap::from([(InitialWord::Constant(0), 0)]),
        long_constants: HashMap::from([(InitialLong::Constant(0), 0)]),
        shared_bytes: 0,
        shared_align: 16,
        shared_globals: HashMap::new(),
        local_bytes: 0,
    };
    let mut parameters = Vec::new();
    let mut parameter_bytes = 0u32;
    let mut locations = HashMap::new();
    for parameter in &function.parameters {
        let offset = parameter_bytes.next_multiple_of(parameter.align);
        locations.insert(parameter.name.as_str(), Location::Parameter(offset));
        parameters.push(ParameterSlot { offset, bytes: parameter.bytes });
        parameter_bytes = offset + parameter.bytes;
    }
    builder.function(function, locations)?;
    builder.emit(Op::Exit);
    let files = &tree.files;
    Ok(Kernel {
        name: function.name.clone(),
        code: builder.code,
        sites: builder.sites,
        files: files.clone(),
        parameters,
        parameter_bytes,
        predicates: builder.predicates as usize,
        words: builder.words as usize,
        longs: builder.longs as usize,
        initial: builder.initial,
        shared_bytes: builder.shared_bytes,
        shared_align: builder.shared_align,
        local_bytes: builder.local_bytes,
        limits: function.limits,
    })
}

impl<'t> Builder<'t> {
    fn frame(&self) -> &Frame<'t> {
        self.frames.last().expect("a function is being decoded")
    }

    fn frame_mut(&mut self) -> &mut Frame<'t> {
        self.frames.last_mut().expect("a function is being decoded")
    }

    fn emit(&mut self, op: Op) {
        self.code.push(Instruction { guard: self.guard, op });
        self.sites.push(self.site);
    }

    /// Decodes the statements of a function at the end of the code.
    fn function(&mut self, function: &'t Function, parameters: HashMap<&'t str, Location>) -> Result<(), Fault> {
        if self.frames.len() == DEEPEST_CALL {
            let message =
                format!("function `{}` calls itself, or calls nest deeper than {DEEPEST_CALL}", function.name);
            return Err(Fault::new(FaultKind::Unsupported, message).at_line(function.line));
        }
        let mut registers = Vec::with_capacity(function.registers.len());
        for (kind, name) in function.registers.iter().zip(&function.names) {
            registers.push(match kind.bits() {
                1 => self.new_predicate()?,
                8 | 16 | 32 => self.new_word()?,
                64 => self.new_long()?,
                bits => {
                    let message = format!("register `{name}` has {bits} bits; 64 are the most");
                    return Err(Fault::new(FaultKind::Unsupported, message).at_line(function.line));
                }
            });
        }
        let variables = function.variables.iter().map(|variable| self.place(variable)).collect();
        let starts = Vec::with_capacity(function.statements.len() + 1);
        self.frames.push(Frame { function, registers, variables, parameters, starts, fixups: Vec::new() });
        for statement in &function.statements {
            let start = self.code.len() as u32;
            self.frame_mut().starts.push(start);
            self.site = Site { line: statement.line, location: statement.location };
            self.guard = match statement.guard {
                Some((register, negated)) => {
                    let register = self.frame().registers[register as usize];
                    Predicate { register, flip: if negated { u32::MAX } else { 0 } }
                }
                None => Predicate::TRUE,
            };
            self.instruction(statement).map_err(|fault| fault.at_line(statement.line))?;
        }
        let end = self.code.len() as u32;
        let frame = self.frames.pop().expect("pushed above");
        for (at, which, statement) in frame.fixups {
            let start = frame.starts.get(statement).copied().unwrap_or(end);
            match &mut self.code[at].op {
                Op::Branch { target } => *target = start,
                Op::BranchIndexed { targets, .. } => targets[which] = start,
                _ => unreachable!("only branches have targets"),
            }
        }
        self.guard = Predicate::TRUE;
        Ok(())
    }

    /// Gives a variable of a function its place.
    fn place(&mut self, variable: &Variable) -> Location {
        match variable.space {
            Space::Shared => Location::Shared(self.place_shared(variable)),
            _ => {
                let offset = self.local_bytes.next_multiple_of(variable.align);
                self.local_bytes = offset + variable.bytes;
                Location::Local(offset)
            }
        }
    }

    fn place_shared(&mut self, variable: &Variable) -> u32 {
        let offset = (SHARED_BASE + self.shared_bytes).next_multiple_of(variable.align) - SHARED_BASE;
        self.shared_bytes = offset + variable.bytes;
        SHARED_BASE + offset
    }

    fn new_register(count: &mut u32) -> Result<Reg, Fault> {
        let register = Reg::try_from(*count)
            .map_err(|_| Fault::new(FaultKind::Unsupported, "a kernel with more than 65536 registers of one class"))?;
        *count += 1;
        Ok(register)
    }

    fn new_predicate(&mut self) -> Result<Reg, Fault> {
        Self::new_register(&mut self.predicates)
    }

    fn new_word(&mut self) -> Result<Reg, Fault> {
        Self::new_register(&mut self.words)
    }

    fn new_long(&mut self) -> Result<Reg, Fault> {
        Self::new_register(&mut self.longs)
    }

    fn constant_word(&mut self, value: InitialWord) -> Result<Reg, Fault> {
        if let Some(&register) = self.word_constants.get(&value) {
            return Ok(register);
        }
        let register = self.new_word()?;
        self.initial.words.push((register, value));
        self.word_constants.insert(value, register);
        Ok(register)
    }

    fn constant_long(&mut self, value: InitialLong) -> Result<Reg, Fault> {
        if let Some(&register) = self.long_constants.get(&value) {
            return Ok(register);
        }
        let register = self.new_long()?;
        self.initial.longs.push((register, value));
        self.long_constants.insert(value, register);
        Ok(register)
    }

    /// Where a named variable lives.
    fn find(&mut self, statement: &Statement, name: &str) -> Result<Location, Fault> {
        let frame = self.frame();
        let mut scope = Some(statement.scope);
        while let Some(at) = scope {
            if let Some(&index) = frame.function.scopes[at].variables.get(name) {
                return Ok(frame.variables[index]);
            }
            scope = frame.function.scopes[at].parent;
        }
        if let Some(&location) = frame.parameters.get(name) {
            return Ok(location);
        }
        let tree = self.tree;
        let index = tree.variables.iter().position(|variable| variable.name == name);
        let index = index.ok_or_else(|| Fault::new(FaultKind::Parse, format!("unknown name `{name}`")))?;
        let variable = &tree.variables[index];
        match variable.space {
            Space::Shared if variable.bytes == 0 => {
                self.shared_align = self.shared_align.max(variable.align);
                Ok(Location::DynamicShared)
            }
            Space::Shared => {
                if let Some(&address) = self.shared_globals.get(variable.name.as_str()) {
                    return Ok(Location::Shared(address));
                }
                let address = self.place_shared(variable);
                self.shared_globals.insert(&variable.name, address);
                Ok(Location::Shared(address))
            }
            _ => Ok(Location::Global(index as u32)),
        }
    }

    fn instruction(&mut self, s: &'t Statement) -> Result<(), Fault> {
        match s.opcode.as_str() {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "sad" | "mul24"
            | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "dp4a" | "addc"
            | "subc" | "madc" => self.arithmetic(s),
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe" | "bfi"
            | "bfind" | "popc" | "clz" | "brev" | "fns" | "szext" | "bmsk" => self.bits(s),
            "mov" => self.mov(s),
            "cvta" => self.cvta(s),
            "cvt" => self.cvt(s),
            "setp" | "set" | "selp" | "slct" | "testp" => self.compare(s),
            "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "discard" | "applypriority"
            | "isspacep" | "mapa" | "getctarank" | "createpolicy" | "multimem" => self.memory(s),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "bar" | "barrier" | "membar" | "fence"
            | "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "nanosleep" | "griddepcontrol"
            | "setmaxnreg" | "pmevent" => self.control(s),
            "mma" | "ldmatrix" | "stmatrix" | "movmatrix" | "wgmma" | "cp" | "mbarrier" => self.tensor(s),
            _ => Err(unsupported(s, "unknown opcode")),
        }
    }
}

/// The class of registers that holds a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Predicate,
    Word,
    Long,
}

fn class(kind: Type) -> Class {
    match kind.bits() {
        1 => Class::Predicate,
        64 => Class::Long,
        _ => Class::Word,
    }
}
