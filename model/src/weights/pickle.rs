//! Python's pickle as data: an interpreter that builds plain values and executes nothing. It knows the opcodes that PyTorch
//! writes and five names; every other name is an error. Values live in one list and refer to each other by number, so that
//! nothing recurses and nothing is copied. Source: CPython's `pickletools` for the opcodes.

use super::{FileDtype, zip::shorten};
use engine::{Error, Result};
use std::collections::HashMap;

/// Longest pickle that is read. A training checkpoint of 10,000 tensors with its optimizer has about 5 MB.
const MOST_BYTES: usize = 16 << 20;
/// Most values that a pickle may build.
const MOST_VALUES: usize = 1 << 20;

/// Number of a value.
pub(super) type Id = u32;

/// A value. Text borrows from the pickle.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// None, booleans, floats, long integers, byte strings: tolerated, never looked into.
    Plain,
    /// An integer of at most eight bytes.
    Int(i64),
    /// Text.
    Text(&'a str),
    /// A list, or the positional part of a call.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dict or an ordered dict, in order; a later key replaces an equal earlier one.
    Dict(Vec<(Id, Id)>),
    /// One of the known names.
    Global(Global),
    /// The bytes of tensors: a member `data/{key}` of the archive.
    Storage { dtype: FileDtype, key: &'a str, elements: usize },
    /// A view of a storage: the arguments of `_rebuild_tensor_v2`, looked into by [`Pickle::tensor`] only.
    Tensor { arguments: Id },
}

/// A view of a storage.
pub(super) struct Tensor<'a> {
    /// Type of the elements.
    pub(super) dtype: FileDtype,
    /// The storage's member is `data/{key}`.
    pub(super) key: &'a str,
    /// Elements of the storage.
    pub(super) elements: usize,
    /// First element of the view.
    pub(super) offset: usize,
    /// Sizes, outermost first.
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, per dimension.
    pub(super) strides: Vec<usize>,
}

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and its like.
    Storage(FileDtype),
}

/// All values of a pickle.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a whole pickle.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Pickle<'a>> {
        if bytes.len() > MOST_BYTES {
            return Err(invalid(format!("{} bytes; at most {MOST_BYTES} are read", bytes.len())));
        }
        let mut machine =
            Machine { input: bytes, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        let root = machine.run()?;
        Ok(Pickle { values: machine.values, root })
    }

    /// The value that the pickle stands for.
    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// The value of a number.
    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// The tensor that a value stands for.
    pub(super) fn tensor(&self, id: Id) -> Result<Tensor<'a>> {
        let Value::Tensor { arguments } = self.get(id) else { return Err(invalid("it is not a tensor")) };
        // (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
        let Value::Tuple(arguments) = self.get(*arguments) else { return Err(invalid("a tensor without arguments")) };
        let [storage, offset, shape, strides, ..] = arguments[..] else {
            return Err(invalid("a tensor with too few arguments"));
        };
        let Value::Storage { dtype, key, elements } = *self.get(storage) else {
            return Err(invalid("a tensor without storage"));
        };
        let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
        Ok(Tensor { dtype, key, elements, offset, shape, strides })
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.get(id) {
            Value::Int(size) => usize::try_from(*size).map_err(|_| invalid(format!("a tensor with the size {size}"))),
            _ => Err(invalid("a tensor's size is not an integer")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        match self.get(id) {
            Value::Tuple(sizes) => sizes.iter().map(|size| self.size(*size)).collect(),
            _ => Err(invalid("a tensor's sizes are not a tuple")),
        }
    }
}

/// The stack machine.
struct Machine<'a> {
    input: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id> {
        loop {
            match self.take::<1>()?[0] {
                // Framing
                0x80 => {
                    let [protocol] = self.take()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(invalid(format!("protocol {protocol}; 2 to 5 are known")));
                    }
                }
                0x95 => drop(self.take::<8>()?),
                b'.' => return self.pop(),
                // Stack and memo
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'q' => {
                    let [slot] = self.take()?;
                    self.remember(slot as u32)?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.take()?);
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [slot] = self.take()?;
                    self.recall(slot as u32)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.take()?);
                    self.recall(slot)?;
                }
                // Atoms
                b'N' | 0x88 | 0x89 => self.push(Value::Plain)?,
                b'K' => {
                    let [value] = self.take()?;
                    self.push(Value::Int(value as i64))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.take()?);
                    self.push(Value::Int(value as i64))?;
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.push(Value::Int(value as i64))?;
                }
                0x8a => {
                    let [length] = self.take()?;
                    self.long(length as usize)?;
                }
                0x8b => {
                    let length = self.length_4()?;
                    self.long(length)?;
                }
                b'G' => {
                    self.take::<8>()?;
                    self.push(Value::Plain)?;
                }
                0x8c => {
                    let [length] = self.take()?;
                    self.text(length as usize)?;
                }
                b'X' => {
                    let length = self.length_4()?;
                    self.text(length)?;
                }
                0x8d => {
                    let length = self.length_8()?;
                    self.text(length)?;
                }
                b'C' => {
                    let [length] = self.take()?;
                    self.bytes(length as usize)?;
                }
                b'B' => {
                    let length = self.length_4()?;
                    self.bytes(length)?;
                }
                0x8e => {
                    let length = self.length_8()?;
                    self.bytes(length)?;
                }
                // Containers
                b']' => self.push(Value::List(Vec::new()))?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b')' => self.push(Value::Tuple(Vec::new()))?,
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::List(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Dict(Vec::new()))?;
                    self.set_items(&items)?;
                }
                count @ 0x85..=0x87 => {
                    let start = self.floor(count as usize - 0x84)?;
                    let items = self.stack.split_off(start);
                    self.push(Value::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let start = self.floor(2)?;
                    let items = self.stack.split_off(start);
                    self.set_items(&items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                // Names and calls
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(global(module, name)?))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (self.get(module), self.get(name)) else {
                        return Err(invalid("a name that is not text"));
                    };
                    let global = global(module, name)?;
                    self.push(Value::Global(global))?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(storage)?;
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments)?;
                }
                b'b' => {
                    // The state of an ordered dict is its attribute `_metadata`, which holds versions of modules.
                    self.pop()?;
                    if !matches!(self.get(self.top()?), Value::Dict(_)) {
                        return Err(invalid("state is given to something that is not a dict"));
                    }
                }
                opcode => {
                    return Err(invalid(format!("opcode 0x{opcode:02x} does not occur in PyTorch's state dicts")));
                }
            }
        }
    }

    fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() >= MOST_VALUES {
            return Err(invalid(format!("more than {MOST_VALUES} values")));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// Height of the stack below `count` values, none of which may be under the last mark.
    fn floor(&self, count: usize) -> Result<usize> {
        let start =
            self.stack.len().checked_sub(count).filter(|start| *start >= self.marks.last().copied().unwrap_or(0));
        start.ok_or_else(|| invalid("the stack is empty"))
    }

    fn pop(&mut self) -> Result<Id> {
        self.floor(1)?;
        self.stack.pop().ok_or_else(|| invalid("the stack is empty"))
    }

    fn top(&self) -> Result<Id> {
        Ok(self.stack[self.floor(1)?])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| invalid("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let id = *self.memo.get(&slot).ok_or_else(|| invalid(format!("memo {slot} is empty")))?;
        self.stack.push(id);
        Ok(())
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let (slice, rest) = self.input.split_at_checked(length).ok_or_else(|| invalid("truncated"))?;
        self.input = rest;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.input.split_first_chunk::<N>().ok_or_else(|| invalid("truncated"))?;
        self.input = rest;
        Ok(*bytes)
    }

    fn length_4(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    fn length_8(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.take()?)).map_err(|_| invalid("truncated"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let end = self.input.iter().position(|byte| *byte == b'\n').ok_or_else(|| invalid("truncated"))?;
        let line = self.slice(end)?;
        self.take::<1>()?;
        std::str::from_utf8(line).map_err(|_| invalid("a name is not UTF-8"))
    }

    /// Pushes a little-endian two's-complement integer of `length` bytes.
    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut full = if negative { [0xff; 8] } else { [0; 8] };
        if length > 8 {
            return self.push(Value::Plain);
        }
        full[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(full)))
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        // Python may write lone surrogates; no name of a parameter has them.
        self.push(std::str::from_utf8(bytes).map_or(Value::Plain, Value::Text))
    }

    fn bytes(&mut self, length: usize) -> Result<()> {
        self.slice(length)?;
        self.push(Value::Plain)
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        let Value::List(list) = &mut self.values[list as usize] else {
            return Err(invalid("items are given to something that is not a list"));
        };
        list.extend(items);
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, []) = items.as_chunks::<2>() else { return Err(invalid("a key without a value")) };
        let Value::Dict(dict) = &mut self.values[dict as usize] else {
            return Err(invalid("keys are given to something that is not a dict"));
        };
        dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    /// What a persistent id stands for: `("storage", class, key, device, elements)`.
    fn storage(&self, id: Id) -> Result<Value<'a>> {
        let Value::Tuple(parts) = self.get(id) else { return Err(invalid("a persistent id that is not a tuple")) };
        let [kind, class, key, _device, elements] = parts[..] else {
            return Err(invalid("a persistent id that is not of five parts"));
        };
        match (self.get(kind), self.get(class), self.get(key), self.get(elements)) {
            (Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), Value::Int(elements)) => {
                let elements = usize::try_from(*elements).map_err(|_| invalid("a storage of negative size"))?;
                Ok(Value::Storage { dtype: *dtype, key, elements })
            }
            _ => Err(invalid("a persistent id that is not a storage")),
        }
    }

    /// The three calls there are; each only builds a value.
    fn call(&mut self, callable: Id, arguments_id: Id) -> Result<()> {
        let Value::Tuple(arguments) = self.get(arguments_id) else {
            return Err(invalid("the arguments of a call are not a tuple"));
        };
        match (self.get(callable), &arguments[..]) {
            (Value::Global(Global::OrderedDict), []) => self.push(Value::Dict(Vec::new())),
            (Value::Global(Global::RebuildTensor), _) => self.push(Value::Tensor { arguments: arguments_id }),
            // (tensor, requires_grad, backward_hooks)
            (Value::Global(Global::RebuildParameter), [tensor, _, _])
                if matches!(self.get(*tensor), Value::Tensor { .. }) =>
            {
                let tensor = *tensor;
                self.stack.push(tensor);
                Ok(())
            }
            (Value::Global(global), arguments) => {
                Err(invalid(format!("{global:?} with {} unexpected arguments", arguments.len())))
            }
            _ => Err(invalid("a call of something that is not a name")),
        }
    }
}

/// The only names there are.
fn global(module: &str, name: &str) -> Result<Global> {
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
        ("torch", name) if let Some(dtype) = FileDtype::from_torch_storage(name) => Ok(Global::Storage(dtype)),
        _ => Err(invalid(format!(
            "it names \"{}.{}\", which is no part of weights; nothing in a file is executed. Save the weights alone: \
             torch.save(model.state_dict(), path)",
            shorten(module).escape_debug(),
            shorten(name).escape_debug()
        ))),
    }
}

fn invalid(detail: impl std::fmt::Display) -> Error {
    Error::invalid(format!("pickle: {detail}"))
}
