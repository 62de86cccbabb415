//! What the tests of the emulator share: devices, parameter blocks, kernels compiled from source.

use bytemuck::Pod;
use engine::cuda::{Architecture, Source, Toolchain, compiler_or_skip};
use ptxemu::{Config, Fault, Gpu, Module};

/// A device with every check on.
pub fn gpu(compute_capability: (u32, u32), seed: u64) -> Gpu {
    Gpu::new(Config { compute_capability, seed, ..Config::default() })
}

/// Compiles a source to PTX for a device; nothing where there is no NVRTC, which is reported.
///
/// # Panics
/// The source does not compile, or the emulator does not understand what became of it.
pub fn compile(
    name: &'static str,
    parts: &'static [(&'static str, &'static str)],
    compute_capability: (u32, u32),
    constants: &[(&str, i64)],
) -> Option<Module> {
    let compiler = compiler_or_skip(name)?;
    let constants = constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let architecture = Architecture::of(compute_capability).expect("supported");
    let compiled = compiler.compile(architecture, &Source { name, parts, constants }).expect("sound source");
    let ptx = std::str::from_utf8(&compiled.ptx).expect("text");
    Some(Module::parse(ptx).unwrap_or_else(|fault| panic!("{name}: {fault}")))
}

/// Copies values to a new allocation.
pub fn upload<T: Pod>(gpu: &mut Gpu, values: &[T]) -> Result<u64, Fault> {
    let address = gpu.allocate(size_of_val(values));
    gpu.write(address, bytemuck::cast_slice(values))?;
    Ok(address)
}

/// Copies values back.
pub fn download<T: Pod>(gpu: &Gpu, address: u64, count: usize) -> Result<Vec<T>, Fault> {
    let mut values = vec![T::zeroed(); count];
    gpu.read(address, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// A parameter block: each parameter by value at its natural alignment.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    bytes: Vec<u8>,
}

impl Parameters {
    fn push(mut self, value: &[u8], alignment: usize) -> Parameters {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Adds an address or another 8-byte value.
    pub fn u64(self, value: u64) -> Parameters {
        self.push(&value.to_le_bytes(), 8)
    }

    /// Adds a 4-byte value.
    pub fn u32(self, value: u32) -> Parameters {
        self.push(&value.to_le_bytes(), 4)
    }

    /// Adds a tensor map.
    pub fn map(self, map: &[u8; 128]) -> Parameters {
        self.push(map, 64)
    }

    /// The block.
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}
