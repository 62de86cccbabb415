//! The device: its configuration, its global memory and the launch of kernels.
use crate::{Fault, FaultKind, Module, Report};

/// Which mistakes are looked for beyond those that stop the kernel anyway (bounds, alignment, barriers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Registers and bytes of memory read before they were written.
    pub uninitialised: bool,
    /// Races and missing proxy fences, by vector clocks.
    pub races: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Checks = Checks { uninitialised: true, races: true };
}

/// What the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Compute capability, such as (8, 0) or (9, 0).
    pub compute_capability: (u32, u32),
    /// Number of multiprocessors; kernels may size their grid by it.
    pub multiprocessors: u32,
    /// Chooses the order of warps and the moments at which asynchronous operations complete.
    pub seed: u64,
    /// What is checked.
    pub checks: Checks,
}

impl Default for Config {
    fn default() -> Self {
        Config { compute_capability: (9, 0), multiprocessors: 4, seed: 1, checks: Checks::ALL }
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks of the grid in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y, z; all 1 without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// An emulated GPU.
#[derive(Debug)]
pub struct Gpu {
    config: Config,
}

impl Gpu {
    /// A device with empty memory.
    pub fn new(config: Config) -> Gpu {
        Gpu { config }
    }

    /// What the device is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Allocates `bytes` of global memory at a 256-byte boundary; its contents are undefined, and reading them in a kernel
    /// is a fault.
    ///
    /// # Errors
    /// When the memory of the host does not suffice.
    pub fn allocate(&mut self, _bytes: usize) -> Result<u64, Fault> {
        Err(Fault::new(FaultKind::Launch, "no memory"))
    }

    /// Frees an allocation by its address.
    ///
    /// # Errors
    /// When no allocation starts at `address`.
    pub fn free(&mut self, _address: u64) -> Result<(), Fault> {
        Ok(())
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn write(&mut self, _address: u64, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    /// Reads bytes to the host; bytes that nothing wrote read as the poison pattern.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn read(&self, _address: u64, _into: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    /// Runs a kernel to its end. `parameters` is the parameter block: each parameter by value at its natural alignment.
    ///
    /// # Errors
    /// The first fault; global memory keeps what was written before it.
    pub fn launch(
        &mut self,
        _module: &Module,
        _kernel: &str,
        _launch: &Launch,
        _parameters: &[u8],
    ) -> Result<Report, Fault> {
        Ok(Report::default())
    }
}
