//! The emulator as a device of the engine: streams run at once, a captured graph is the list of its calls.
use crate::module::Module as Parsed;
use crate::tensor_map::{self, Descriptor, ElementType};
use crate::{Config, Counters, Fault, Gpu, Launch as Shape};
use engine::cuda::{
    Arguments, Driver, Event, Fill, Function, Graph, Image, ImageKind, Launch, Module, Pinned, Properties, Stream,
    Swizzle, TensorMap, TensorMapSpec,
};
use engine::{DType, Error, Result};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Memory that the device claims to have; what is allocated is the host's.
const MEMORY_BYTES: u64 = 8 << 30;

/// An emulated device behind [`Driver`].
#[derive(Debug)]
pub struct Emulator {
    properties: Properties,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gpu: Gpu,
    counters: Counters,
    /// The calls of the graph that is being captured.
    recording: Option<Vec<Command>>,
}

/// A call that a graph repeats.
#[derive(Clone, Debug)]
enum Command {
    Copy { to: u64, from: u64, bytes: usize },
    Fill { to: u64, value: u8, bytes: usize },
    Launch { function: Function, launch: Launch, arguments: Arguments },
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::invalid(fault.to_string())
    }
}

impl Emulator {
    /// A device.
    pub fn new(config: Config) -> Emulator {
        let gpu = Gpu::new(config);
        let properties = Properties {
            name: "PTX emulator".into(),
            compute_capability: config.compute_capability,
            multiprocessors: config.multiprocessors,
            memory_bytes: MEMORY_BYTES,
            l2_bytes: 0,
            shared_bytes_per_block: gpu.shared_bytes_per_block(),
            image: ImageKind::Ptx,
            cuda: None,
        };
        Emulator { properties, state: Mutex::new(State { gpu, counters: Counters::default(), recording: None }) }
    }

    /// The counters of all launches since the last call of this function.
    pub fn take_counters(&self) -> Counters {
        std::mem::take(&mut self.state().counters)
    }

    /// Whether kernels, copies or the host wrote every byte of a range.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn is_written(&self, address: u64, bytes: usize) -> Result<bool> {
        Ok(self.state().gpu.is_written(address, bytes)?)
    }

    /// Makes memory undefined again, as a fresh allocation is: reading it in a kernel is an error.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn poison(&self, address: u64, bytes: usize) -> Result<()> {
        Ok(self.state().gpu.poison(address, bytes)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while a kernel runs leaves memory as that kernel would: nothing that others rely on is broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call, or records it.
    fn submit(&self, stream: Stream, command: Command) -> Result<()> {
        let mut state = self.state();
        match &mut state.recording {
            Some(recorded) if stream == Stream::Compute => {
                recorded.push(command);
                Ok(())
            }
            Some(_) => Err(Error::invalid("only the compute stream is recorded in a graph")),
            None => state.run(&command),
        }
    }

    /// The state outside of a capture, for calls that a graph cannot hold.
    fn immediate(&self, call: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.recording.is_some() {
            return Err(Error::invalid(format!("{call} cannot be recorded in a graph")));
        }
        Ok(state)
    }
}

impl State {
    fn run(&mut self, command: &Command) -> Result<()> {
        match command {
            Command::Copy { to, from, bytes } => self.gpu.copy(*to, *from, *bytes)?,
            Command::Fill { to, value, bytes } => self.gpu.write(*to, &vec![*value; *bytes])?,
            Command::Launch { function, launch, arguments } => {
                let Launch { grid, block, cluster, shared_bytes } = *launch;
                let shape = Shape { grid, block, cluster, shared_bytes };
                let module = function.module.get::<Parsed>()?;
                let report = self.gpu.launch(module, &function.name, &shape, arguments.block())?;
                self.counters += report.counters;
            }
        }
        Ok(())
    }
}

impl Driver for Emulator {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(Error::invalid("an allocation of no bytes"));
        }
        Ok(self.immediate("an allocation")?.gpu.allocate(bytes))
    }

    fn free(&self, address: u64) -> Result<()> {
        Ok(self.immediate("a deallocation")?.gpu.free(address)?)
    }

    fn upload(&self, _stream: Stream, to: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.immediate("an upload")?.gpu.write(to, bytes)?)
    }

    unsafe fn upload_pinned(&self, stream: Stream, to: u64, from: &Pinned, bytes: Range<usize>) -> Result<()> {
        let source = from
            .as_slice()
            .get(bytes.clone())
            .ok_or_else(|| Error::invalid(format!("bytes {bytes:?} of {} bytes of pinned memory", from.len())))?;
        self.upload(stream, to, source)
    }

    fn download(&self, _stream: Stream, into: &mut [u8], from: u64) -> Result<()> {
        Ok(self.immediate("a download")?.gpu.read(from, into)?)
    }

    fn copy(&self, stream: Stream, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.submit(stream, Command::Copy { to, from, bytes })
    }

    fn fill(&self, stream: Stream, to: u64, value: u8, bytes: usize) -> Result<()> {
        self.submit(stream, Command::Fill { to, value, bytes })
    }

    fn pinned(&self, bytes: usize) -> Result<Pinned> {
        Ok(Pinned::pageable(bytes))
    }

    fn load(&self, image: &Image) -> Result<Module> {
        if image.kind != ImageKind::Ptx {
            return Err(Error::invalid(format!("{}: the emulator loads PTX, not machine code", image.name)));
        }
        let text = std::str::from_utf8(&image.bytes)
            .map_err(|error| Error::invalid(format!("{}: PTX that is not text: {error}", image.name)))?;
        let module = Parsed::parse(text).map_err(|fault| Error::invalid(format!("{}: {fault}", image.name)))?;
        Ok(Module::new(module))
    }

    fn launch(&self, stream: Stream, function: &Function, launch: &Launch, arguments: &Arguments) -> Result<()> {
        launch.validate(&function.name, &self.properties)?;
        let command = Command::Launch { function: function.clone(), launch: *launch, arguments: arguments.clone() };
        self.submit(stream, command)
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        spec.validate()?;
        let mut descriptor = Descriptor {
            address: spec.address,
            element: match spec.element {
                DType::F32 => ElementType::F32,
                DType::BF16 => ElementType::Bf16,
                DType::I32 => ElementType::I32,
                DType::U8 => ElementType::U8,
            },
            rank: spec.sizes.len(),
            sizes: [0; 5],
            strides: [0; 4],
            box_sizes: [0; 5],
            swizzle: match spec.swizzle {
                Swizzle::None => tensor_map::Swizzle::None,
                Swizzle::B32 => tensor_map::Swizzle::B32,
                Swizzle::B64 => tensor_map::Swizzle::B64,
                Swizzle::B128 => tensor_map::Swizzle::B128,
            },
            fill: match spec.fill {
                Fill::Zero => tensor_map::Fill::Zero,
                Fill::Nan => tensor_map::Fill::Nan,
            },
        };
        descriptor.sizes[..spec.sizes.len()].copy_from_slice(&spec.sizes);
        descriptor.strides[..spec.strides_bytes.len()].copy_from_slice(&spec.strides_bytes);
        descriptor.box_sizes[..spec.box_sizes.len()].copy_from_slice(&spec.box_sizes);
        Ok(TensorMap::from_bytes(descriptor.encode()?))
    }

    fn record(&self, _stream: Stream) -> Result<Event> {
        drop(self.immediate("an event")?);
        Ok(Event::new(Instant::now()))
    }

    fn wait(&self, _stream: Stream, event: &Event) -> Result<()> {
        self.wait_on_host(event)
    }

    fn wait_on_host(&self, event: &Event) -> Result<()> {
        // Everything was done when its call returned.
        event.get::<Instant>().map(|_| ())
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<f64> {
        let (from, to) = (event_time(from)?, event_time(to)?);
        Ok(to.duration_since(from).as_secs_f64())
    }

    fn synchronize(&self) -> Result<()> {
        self.immediate("a synchronisation").map(|_| ())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.immediate("a graph")?.recording = Some(Vec::new());
        let result = work();
        let recorded = self.state().recording.take().unwrap_or_default();
        result.map(|()| Graph::new(recorded))
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        let commands = graph.get::<Vec<Command>>()?;
        let mut state = self.immediate("a graph")?;
        commands.iter().try_for_each(|command| state.run(command))
    }
}

fn event_time(event: &Event) -> Result<Instant> {
    event.get::<Instant>().copied()
}
