//! A parsed and decoded PTX module.
use crate::kernel::Kernel;
use crate::parse::{Initial, Space, Tree, Variable};
use crate::{Fault, FaultKind, decode, parse};
use std::sync::atomic::{AtomicU64, Ordering};

/// A PTX module, ready to launch its kernels.
#[derive(Debug)]
pub struct Module {
    /// Tells modules apart, so that a device can keep their variables.
    pub(crate) id: u64,
    target: String,
    kernels: Vec<Kernel>,
    variables: Vec<Variable>,
    lines: Vec<String>,
}

impl Module {
    /// Parses and decodes PTX text as NVRTC writes it.
    ///
    /// # Errors
    /// A [`Fault`] with the line for a syntax error, an unknown name, opcode or modifier.
    pub fn parse(ptx: &str) -> Result<Module, Fault> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let lines: Vec<String> = ptx.lines().map(|line| line.trim().to_string()).collect();
        let explain = |mut fault: Fault| {
            if let Some(line) = fault.place.line {
                fault.place.instruction = lines.get(line as usize - 1).cloned();
            }
            fault
        };
        let tree: Tree = parse::parse(ptx).map_err(explain)?;
        let kernels = decode::decode(&tree).map_err(explain)?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Module { id, target: tree.target, kernels, variables: tree.variables, lines })
    }

    /// The names of the kernels (`.entry`), in order of appearance.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|kernel| kernel.name.as_str())
    }

    /// The `.target` of the module, such as `sm_90a`.
    pub fn target(&self) -> &str {
        &self.target
    }

    pub(crate) fn kernel(&self, name: &str) -> Result<&Kernel, Fault> {
        self.kernels.iter().find(|kernel| kernel.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.kernels().collect();
            Fault::new(FaultKind::Launch, format!("no kernel `{name}`; the module has {}", known.join(", ")))
        })
    }

    /// A line of the text, for faults.
    pub(crate) fn line(&self, line: u32) -> Option<String> {
        self.lines.get(line as usize - 1).cloned()
    }

    /// Bytes of each variable in global memory, with the addresses that its initialiser refers to; none for those in
    /// other spaces.
    pub(crate) fn variables(&self) -> impl Iterator<Item = Option<&Variable>> {
        self.variables.iter().map(|v| matches!(v.space, Space::Global | Space::Const).then_some(v))
    }

    /// The contents of a variable, given the addresses of all of them.
    pub(crate) fn initial(&self, variable: &Variable, addresses: &[u64]) -> Result<Vec<u8>, Fault> {
        let element = variable.element.bytes() as usize;
        let mut bytes = vec![0; variable.bytes as usize];
        for (slot, initial) in bytes.chunks_exact_mut(element).zip(&variable.initial) {
            let value = match initial {
                Initial::Bits(bits) => *bits,
                Initial::Address(name, offset) => {
                    let index = self.variables.iter().position(|v| v.name == *name).ok_or_else(|| {
                        Fault::new(FaultKind::Parse, format!("unknown name `{name}`")).at_line(variable.line)
                    })?;
                    addresses[index].wrapping_add_signed(*offset)
                }
            };
            slot.copy_from_slice(&value.to_le_bytes()[..element]);
        }
        Ok(bytes)
    }
}
