//! The queue of a device: kernels by their source, compiled and loaded once; launches in order.

use super::{
    Architecture, Arguments, Compiler, Driver, Function, Gpu, Launch, Module, Source, StepScalars, Stream, TensorMap,
    TensorMapSpec, Toolchain,
};
use crate::{Buffer, Device, Result};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// Where CUDA kernels run. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct CudaQueue {
    shared: Arc<Shared>,
    graphs: bool,
    /// Where launches are listed instead of run; see [`CudaQueue::listing`].
    list: Option<Arc<Mutex<Vec<Source>>>>,
}

struct Shared {
    driver: Arc<dyn Driver>,
    device: Device,
    architecture: Architecture,
    toolchain: Box<dyn Toolchain>,
    modules: Mutex<HashMap<Key, Module>>,
    scalars: Arc<Buffer>,
    /// By their size; see [`CudaQueue::exchange`].
    exchanges: Mutex<HashMap<usize, Arc<Buffer>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("driver", &self.driver)
            .field("toolchain", &self.toolchain)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Kernels may still run, whose code and scalars go with this. Of a device that has failed nothing does.
        let _ = self.driver.synchronize();
    }
}

/// What tells one variant of a source from another: its texts are constants of the program, so that their address does.
type Key = (usize, Vec<(String, i64)>);

fn key(source: &Source) -> Key {
    (source.parts.as_ptr().addr(), source.constants.clone())
}

impl CudaQueue {
    /// The queue of this machine's GPU.
    ///
    /// # Errors
    /// There is no GPU that can be used, or no compiler for it: one sentence that says why.
    pub fn open() -> Result<CudaQueue> {
        let gpu = Gpu::open()?;
        let compiler = Compiler::find(gpu.properties().cuda)?;
        CudaQueue::new(Arc::new(gpu), compiler)
    }

    /// A queue on a device, which compiles with `toolchain`.
    ///
    /// # Errors
    /// The device is older than the kernels need, or out of memory.
    pub fn new(driver: Arc<dyn Driver>, toolchain: impl Toolchain + 'static) -> Result<CudaQueue> {
        let architecture = Architecture::of(driver.properties().compute_capability)?;
        let device = Device::Cuda(driver.clone());
        let scalars = Buffer::on(&device, size_of::<StepScalars>())?;
        let toolchain = Box::new(toolchain);
        let shared = Shared {
            driver,
            device,
            architecture,
            toolchain,
            modules: Mutex::default(),
            scalars,
            exchanges: Mutex::default(),
        };
        Ok(CudaQueue { shared: Arc::new(shared), graphs: true, list: None })
    }

    /// The same queue, whose programs are captured as graphs, or run as a list of launches.
    pub fn with_graphs(self, graphs: bool) -> CudaQueue {
        CudaQueue { graphs, ..self }
    }

    /// Whether programs are captured as graphs.
    pub fn graphs(&self) -> bool {
        self.graphs
    }

    /// True if both are clones of one queue.
    pub fn is(&self, other: &CudaQueue) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The driver behind the queue.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.shared.driver
    }

    /// Where its tensors lie.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// The architecture that kernels are compiled for.
    pub fn architecture(&self) -> Architecture {
        self.shared.architecture
    }

    // ---- what ops do ------------------------------------------------------------------------------------------------

    /// Runs kernel `kernel` of a source; the variant is compiled and loaded at its first use.
    pub fn launch(&self, source: &Source, kernel: &str, launch: &Launch, arguments: &Arguments) -> Result<()> {
        launch.validate(kernel, self.shared.driver.properties())?;
        if let Some(list) = &self.list {
            lock(list).push(source.clone());
            return Ok(());
        }
        let function = Function { module: self.module(source)?, name: kernel.to_owned() };
        self.shared.driver.launch(Stream::Compute, &function, launch, arguments)
    }

    /// Sets `bytes` bytes at a device address to `value`.
    pub fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        if self.list.is_some() { Ok(()) } else { self.shared.driver.fill(Stream::Compute, to, value, bytes) }
    }

    /// Copies `bytes` bytes between device addresses; the ranges do not overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if self.list.is_some() { Ok(()) } else { self.shared.driver.copy(Stream::Compute, to, from, bytes) }
    }

    /// Encodes the description of a tensor; see [`Driver::tensor_map`].
    pub fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.shared.driver.tensor_map(spec)
    }

    /// Address of the [`StepScalars`], which kernels read so that a captured graph stays valid from step to step.
    pub fn scalars(&self) -> u64 {
        self.shared.scalars.address(0)
    }

    /// Address of `bytes` bytes through which the blocks of a launch exchange values: zeros at first, and the same memory for
    /// every launch that asks for this size. It stays until the queue goes.
    pub fn exchange(&self, bytes: usize) -> Result<u64> {
        if self.list.is_some() {
            return Ok(0);
        }
        let mut exchanges = lock(&self.shared.exchanges);
        if let Some(buffer) = exchanges.get(&bytes) {
            return Ok(buffer.address(0));
        }
        let buffer = Buffer::on(&self.shared.device, bytes)?;
        let address = buffer.address(0);
        exchanges.insert(bytes, buffer);
        Ok(address)
    }

    // ---- around them ------------------------------------------------------------------------------------------------

    /// Sets what changes from step to step, for the kernels launched from now on.
    pub fn set_scalars(&self, scalars: StepScalars) -> Result<()> {
        self.shared.scalars.write(0, bytemuck::bytes_of(&scalars))
    }

    /// Waits until everything is done, and reports the error of any of it.
    pub fn synchronize(&self) -> Result<()> {
        self.shared.driver.synchronize()
    }

    /// Seconds that the device takes for what `work` submits, beside nothing else.
    ///
    /// # Errors
    /// Those of `work`, and of the device.
    pub fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let driver = &self.shared.driver;
        let from = driver.record(Stream::Compute)?;
        work()?;
        driver.elapsed(&from, &driver.record(Stream::Compute)?)
    }

    /// A queue that runs nothing: it lists the sources of the launches it is asked for.
    pub(crate) fn listing(&self) -> (CudaQueue, Arc<Mutex<Vec<Source>>>) {
        let list = Arc::new(Mutex::new(Vec::new()));
        (CudaQueue { list: Some(list.clone()), ..self.clone() }, list)
    }

    /// Compiles and loads those of the sources that are new; `progress` hears of each before its turn.
    pub fn prepare(&self, sources: &[Source], progress: &mut dyn FnMut(usize, usize, &str)) -> Result<()> {
        let mut missing: Vec<Source> = Vec::new();
        for source in sources {
            if !missing.contains(source) && !lock(&self.shared.modules).contains_key(&key(source)) {
                missing.push(source.clone());
            }
        }
        for (index, source) in missing.iter().enumerate() {
            progress(index, missing.len(), &source.title());
            self.module(source)?;
        }
        Ok(())
    }

    fn module(&self, source: &Source) -> Result<Module> {
        let shared = &*self.shared;
        let mut modules = lock(&shared.modules);
        let key = key(source);
        if let Some(module) = modules.get(&key) {
            return Ok(module.clone());
        }
        let compiled = shared.toolchain.compile(shared.architecture, source)?;
        let module = shared.driver.load(&compiled.image(shared.driver.properties().image))?;
        modules.insert(key, module.clone());
        Ok(module)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
