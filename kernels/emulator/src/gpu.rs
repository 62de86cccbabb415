//! The device: its configuration, its global memory and the launch of kernels.
use crate::exec::Machine;
use crate::kernel::Kernel;
use crate::memory::Global;
use crate::{Fault, FaultKind, Module, Report, decode};
use std::collections::HashMap;

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
    /// Blocks of a cluster in x, y, z; all 1 without clusters, or where the source says `__cluster_dims__`.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// Most threads of a block.
const MOST_THREADS: u32 = 1024;
/// Most blocks of a cluster: what is portable, and twice that.
const MOST_BLOCKS_OF_CLUSTER: u32 = 16;

/// An emulated GPU.
#[derive(Debug)]
pub struct Gpu {
    config: Config,
    memory: Global,
    /// Addresses of the variables of modules that have been launched.
    variables: HashMap<u64, Vec<u64>>,
    launches: u64,
}

impl Gpu {
    /// A device with empty memory.
    pub fn new(config: Config) -> Gpu {
        Gpu { config, memory: Global::new(), variables: HashMap::new(), launches: 0 }
    }

    /// What the device is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Most bytes of shared memory that a block can have.
    pub fn shared_bytes_per_block(&self) -> u32 {
        match self.config.compute_capability {
            (8, 0 | 7) => 163 << 10,
            (8, _) | (12, _) => 99 << 10,
            _ => 227 << 10,
        }
    }

    /// Allocates `bytes` of global memory at a 256-byte boundary; its contents are undefined, and reading them in a
    /// kernel is a fault. The address is never used again.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        self.memory.allocate(bytes)
    }

    /// Frees an allocation by its address.
    ///
    /// # Errors
    /// When no allocation starts at `address`.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        self.memory.free(address)
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let range = self.memory.locate(address, bytes.len())?;
        self.memory.bytes_mut(range, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    /// Reads bytes to the host; bytes that nothing wrote read as a poison pattern.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let range = self.memory.locate(address, into.len())?;
        into.copy_from_slice(self.memory.bytes(range, into.len()));
        Ok(())
    }

    /// Copies within global memory; bytes that nothing wrote stay unwritten.
    ///
    /// # Errors
    /// When a range is not inside one allocation.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
        self.memory.copy(to, from, bytes)
    }

    /// Makes memory undefined again, as a fresh allocation is.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn poison(&mut self, address: u64, bytes: usize) -> Result<(), Fault> {
        self.memory.poison(address, bytes)
    }

    /// Whether a kernel or the host wrote every byte of a range.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn is_written(&self, address: u64, bytes: usize) -> Result<bool, Fault> {
        let range = self.memory.locate(address, bytes)?;
        Ok(self.memory.written(range, bytes))
    }

    /// Runs a kernel to its end. `parameters` is the parameter block: each parameter by value at its natural alignment.
    ///
    /// # Errors
    /// The first fault; global memory keeps what was written before it.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        launch: &Launch,
        parameters: &[u8],
    ) -> Result<Report, Fault> {
        let kernel = module.kernel(kernel)?;
        // What the source says of clusters holds where the launch says nothing.
        let cluster = kernel.limits.cluster.filter(|_| launch.cluster == [1; 3]).unwrap_or(launch.cluster);
        let launch = &Launch { cluster, ..*launch };
        self.check(module, kernel, launch, parameters).map_err(|message| {
            let mut fault = Fault::new(FaultKind::Launch, message);
            fault.place.kernel = Some(kernel.name.clone());
            fault
        })?;
        self.load_variables(module)?;
        let variables = &self.variables[&module.id];
        self.launches += 1;
        let seed = self.config.seed.wrapping_add(self.launches.wrapping_mul(0x9e37_79b9));
        let memory = &mut self.memory;
        let machine = Machine::new(kernel, launch, &self.config, parameters, variables, memory, seed);
        machine.run().map_err(|mut fault| {
            if let Some(line) = fault.place.line {
                fault.place.instruction = module.line(line);
            }
            fault
        })
    }

    fn check(&self, module: &Module, kernel: &Kernel, launch: &Launch, parameters: &[u8]) -> Result<(), String> {
        let Launch { grid, block, cluster, shared_bytes } = *launch;
        let (major, minor) = self.config.compute_capability;
        let target = module.target().trim_start_matches("sm_");
        let exact = target.ends_with('a');
        let wanted: u32 = target.trim_end_matches(['a', 'f']).parse().unwrap_or(0);
        let have = major * 10 + minor;
        if wanted > have || (exact && wanted != have) {
            return Err(format!(
                "the module is for {}, the device has compute capability {major}.{minor}",
                module.target()
            ));
        }
        if grid.contains(&0) || block.contains(&0) || cluster.contains(&0) {
            return Err(format!("grid {grid:?}, block {block:?} and cluster {cluster:?} must not have zeros"));
        }
        if grid[1] > 65535 || grid[2] > 65535 || grid[0] > i32::MAX as u32 {
            return Err(format!("the grid {grid:?} is larger than 2147483647, 65535, 65535"));
        }
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        if threads > u64::from(MOST_THREADS) || block[2] > 64 {
            return Err(format!("a block of {threads} threads; {MOST_THREADS} are the most, 64 in z"));
        }
        if let Some(most) = kernel.limits.most_threads.map(|n| n.iter().product::<u32>())
            && threads > u64::from(most)
        {
            return Err(format!("a block of {threads} threads; the kernel was compiled for {most} at most"));
        }
        if let Some(exact) = kernel.limits.threads
            && exact != block
        {
            return Err(format!("a block of {block:?} threads; the kernel was compiled for {exact:?}"));
        }
        if let Some(exact) = kernel.limits.cluster
            && exact != cluster
        {
            return Err(format!("a cluster of {cluster:?} blocks; the kernel was compiled for {exact:?}"));
        }
        if cluster.iter().product::<u32>() > MOST_BLOCKS_OF_CLUSTER || (major < 9 && cluster != [1; 3]) {
            return Err(format!(
                "clusters of {cluster:?} blocks are not possible on compute capability {major}.{minor}"
            ));
        }
        if (0..3).any(|i| grid[i] % cluster[i] != 0) {
            return Err(format!("the grid {grid:?} is not a multiple of the cluster {cluster:?}"));
        }
        let shared = kernel.dynamic_shared() - decode::SHARED_BASE + shared_bytes;
        if shared > self.shared_bytes_per_block() {
            let most = self.shared_bytes_per_block();
            return Err(format!("{shared} bytes of shared memory; a block has {most} at most"));
        }
        if parameters.len() != kernel.parameter_bytes as usize {
            let layout: Vec<String> =
                kernel.parameters.iter().map(|p| format!("{} at {}", p.bytes, p.offset)).collect();
            return Err(format!(
                "{} bytes of parameters; the kernel takes {} ({})",
                parameters.len(),
                kernel.parameter_bytes,
                layout.join(", ")
            ));
        }
        Ok(())
    }

    /// Gives the variables of a module their memory when it is launched first.
    fn load_variables(&mut self, module: &Module) -> Result<(), Fault> {
        if self.variables.contains_key(&module.id) {
            return Ok(());
        }
        let addresses: Vec<u64> = module
            .variables()
            .map(|variable| variable.map_or(0, |variable| self.memory.allocate(variable.bytes as usize)))
            .collect();
        for (variable, &address) in module.variables().zip(&addresses) {
            if let Some(variable) = variable {
                self.write(address, &module.initial(variable, &addresses)?)?;
            }
        }
        self.variables.insert(module.id, addresses);
        Ok(())
    }
}
