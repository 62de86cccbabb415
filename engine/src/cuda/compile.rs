//! What is compiled: kernel sources joined with their constants, the architectures they are compiled for, and what the
//! compiler reports of each kernel.

use super::{Image, ImageKind};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

/// CUDA C++ without headers: shared parts first, the kernels last, all specialised by integer constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Names the source in errors, progress and the cache.
    pub name: &'static str,
    /// Name and text of each file, in the order in which they are joined. Errors and line tables show these names.
    pub parts: &'static [(&'static str, &'static str)],
    /// Constants that every part sees, `constexpr int` where the value allows it, else `constexpr long long`.
    pub constants: Vec<(String, i64)>,
}

impl Source {
    /// One text: the constants, then the parts, with `#line` between them.
    pub fn text(&self) -> String {
        let mut text = format!("#line 1 \"{}.constants\"\n", self.name);
        for (name, value) in &self.constants {
            let kind = if i32::try_from(*value).is_ok() { "int" } else { "long long" };
            let _ = writeln!(text, "constexpr {kind} {name} = {value};");
        }
        for (file, part) in self.parts {
            let _ = writeln!(text, "#line 1 \"{file}\"\n{part}");
        }
        text
    }

    /// The name with the constants: `matmul(TILE_M=128, TILE_N=256)`.
    pub fn title(&self) -> String {
        let constants: Vec<String> = self.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if constants.is_empty() { self.name.to_owned() } else { format!("{}({})", self.name, constants.join(", ")) }
    }
}

/// An architecture that machine code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Architecture {
    major: u32,
    minor: u32,
}

impl Architecture {
    /// The architecture of a device by its compute capability; an error below 8.0, which lacks bf16 and asynchronous
    /// copies.
    pub fn of(compute_capability: (u32, u32)) -> Result<Architecture> {
        let (major, minor) = compute_capability;
        if major < 8 {
            return Err(Error::invalid(format!(
                "the GPU has compute capability {major}.{minor}, the kernels need 8.0 (Ampere) or newer"
            )));
        }
        Ok(Architecture { major, minor })
    }

    /// Compute capability, major and minor.
    pub fn compute_capability(self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

/// As compilers write it: `sm_80`, and from 9.0 on with the features of that architecture alone, `sm_90a`.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Architecture { major, minor } = self;
        write!(f, "sm_{major}{minor}{}", if *major >= 9 { "a" } else { "" })
    }
}

/// What a kernel takes of the machine, as the assembler reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared_bytes: u32,
    /// Bytes of a thread's local memory: arrays that do not fit into registers, and spills.
    pub stack_bytes: u32,
    /// Bytes of registers written to and read from local memory for want of registers.
    pub spill_bytes: u32,
}

/// A source compiled for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Title of the source.
    pub title: String,
    /// PTX with line tables, as the compiler's front end made it.
    pub ptx: Arc<[u8]>,
    /// Machine code made from that PTX.
    pub cubin: Arc<[u8]>,
    /// What each kernel uses, by its name; functions that were not inlined stand beside them under their mangled names.
    pub functions: BTreeMap<String, Usage>,
    /// Warnings of the compiler's front end.
    pub warnings: Vec<String>,
}

impl Compiled {
    /// What a device that executes `kind` loads.
    pub fn image(&self, kind: ImageKind) -> Image {
        let bytes = match kind {
            ImageKind::Cubin => self.cubin.clone(),
            ImageKind::Ptx => self.ptx.clone(),
        };
        Image { name: self.title.clone(), kind, bytes }
    }
}

/// What makes code for a device out of sources: the [`Compiler`](super::Compiler), or a stand-in of tests.
pub trait Toolchain: fmt::Debug + Send + Sync {
    /// Compiles a source for an architecture.
    fn compile(&self, architecture: Architecture, source: &Source) -> Result<Compiled>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: &[(&str, &str)] = &[("prelude.cuh", "typedef unsigned u32;"), ("fill.cu", "u32 x;\n")];

    #[test]
    fn parts_follow_the_constants_and_keep_their_lines() {
        let constants = vec![("TILE".to_owned(), 128), ("BIG".to_owned(), 1 << 40), ("LOW".to_owned(), -1)];
        let source = Source { name: "fill", parts: PARTS, constants };
        assert_eq!(
            source.text(),
            "#line 1 \"fill.constants\"\nconstexpr int TILE = 128;\nconstexpr long long BIG = 1099511627776;\n\
             constexpr int LOW = -1;\n#line 1 \"prelude.cuh\"\ntypedef unsigned u32;\n#line 1 \"fill.cu\"\nu32 x;\n\n"
        );
        assert_eq!(source.title(), "fill(TILE=128, BIG=1099511627776, LOW=-1)");
        assert_eq!(Source { name: "fill", parts: PARTS, constants: vec![] }.title(), "fill");
    }

    #[test]
    fn architectures_are_named_as_compilers_name_them() {
        let names = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];
        let names = names.map(|capability| Architecture::of(capability).unwrap().to_string());
        assert_eq!(names, ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"]);
        let error = Architecture::of((7, 5)).unwrap_err().to_string();
        assert!(error.contains("compute capability 7.5") && error.contains("8.0"), "{error}");
    }
}
