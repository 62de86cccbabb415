//! A device made of host memory. It puts everything off as long as it may: work begins only when somebody waits, and which
//! stream goes first is drawn, so that a missing wait shows as a wrong result. Kernels are Rust functions by name.

use engine::cuda::{
    Architecture, Arguments, Compiled, CudaQueue, Driver, Event, Function, Graph, Image, ImageKind, Launch, Module,
    Pinned, Properties, Source, Stream, TensorMap, TensorMapSpec, Toolchain,
};
use engine::{Error, Queue, Result};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A kernel: memory, and the bytes of its arguments.
pub type Kernel = fn(&mut Memory, &[Vec<u8>]);

/// The device.
#[derive(Debug)]
pub struct Fake {
    properties: Properties,
    state: Mutex<State>,
    launches: AtomicUsize,
    captures: AtomicUsize,
    replays: AtomicUsize,
}

#[derive(Debug)]
struct State {
    kernels: HashMap<&'static str, Kernel>,
    memory: Memory,
    streams: [VecDeque<Work>; 2],
    captured: Option<Vec<Work>>,
    random: u32,
}

/// Device memory: blocks by address.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<u64, Vec<u8>>);

#[derive(Clone, Debug)]
enum Work {
    Upload(u64, Vec<u8>),
    /// Address on the host and length: the bytes are those that are there when the copy happens.
    UploadPinned(u64, usize, usize),
    Copy(u64, u64, usize),
    Fill(u64, u8, usize),
    Launch(Kernel, Vec<Vec<u8>>),
    Record(Arc<AtomicBool>),
    Wait(Arc<AtomicBool>),
}

impl Memory {
    /// The bytes of a range; it must lie in one block.
    pub fn bytes(&mut self, address: u64, bytes: usize) -> &mut [u8] {
        let (start, block) = self.0.range_mut(..=address).next_back().expect("an address of the device");
        let first = (address - start) as usize;
        assert!(first + bytes <= block.len(), "{bytes} bytes at {first} of a block of {}", block.len());
        &mut block[first..first + bytes]
    }

    /// The `index`th f32 from an address.
    pub fn f32(&mut self, address: u64, index: usize) -> f32 {
        f32::from_ne_bytes(self.bytes(address + 4 * index as u64, 4).try_into().expect("four bytes"))
    }

    /// Sets the `index`th f32 from an address.
    pub fn set_f32(&mut self, address: u64, index: usize, value: f32) {
        self.bytes(address + 4 * index as u64, 4).copy_from_slice(&value.to_ne_bytes());
    }
}

impl State {
    /// Runs what may run until `done`, taking the streams in a random order.
    fn run_until(&mut self, done: impl Fn(&State) -> bool) {
        while !done(self) {
            self.random = self.random.wrapping_mul(1664525).wrapping_add(1013904223);
            let first = (self.random >> 16) as usize % 2;
            let ready = |stream: &usize| match self.streams[*stream].front() {
                Some(Work::Wait(passed)) => passed.load(Ordering::Relaxed),
                work => work.is_some(),
            };
            let stream = [first, 1 - first].into_iter().find(ready).expect("no stream can go on");
            if let Some(work) = self.streams[stream].pop_front() {
                self.run(work);
            }
        }
    }

    fn run(&mut self, work: Work) {
        let memory = &mut self.memory;
        match work {
            Work::Upload(to, bytes) => memory.bytes(to, bytes.len()).copy_from_slice(&bytes),
            Work::UploadPinned(to, from, count) => {
                let from = std::ptr::with_exposed_provenance::<u8>(from);
                // SAFETY: the memory stays until an event after this copy: the contract of `Driver::upload_pinned`.
                let from = unsafe { std::slice::from_raw_parts(from, count) };
                memory.bytes(to, count).copy_from_slice(from);
            }
            Work::Copy(to, from, count) => {
                let through = memory.bytes(from, count).to_vec();
                memory.bytes(to, count).copy_from_slice(&through);
            }
            Work::Fill(to, value, count) => memory.bytes(to, count).fill(value),
            Work::Launch(kernel, arguments) => kernel(memory, &arguments),
            Work::Record(passed) => passed.store(true, Ordering::Relaxed),
            Work::Wait(_) => {}
        }
    }
}

impl Fake {
    /// A device with these kernels; `seed` draws the order of its streams.
    pub fn new(seed: u32, kernels: &[(&'static str, Kernel)]) -> Arc<Fake> {
        let properties = Properties {
            name: "a fake".into(),
            compute_capability: (9, 0),
            multiprocessors: 1,
            memory_bytes: 1 << 30,
            l2_bytes: 0,
            shared_bytes_per_block: 1 << 10,
            image: ImageKind::Ptx,
            cuda: None,
        };
        let state = State {
            kernels: kernels.iter().copied().collect(),
            memory: Memory::default(),
            streams: Default::default(),
            captured: None,
            random: seed,
        };
        let count = AtomicUsize::default;
        Arc::new(Fake { properties, state: Mutex::new(state), launches: count(), captures: count(), replays: count() })
    }

    /// Launches outside of graphs, graphs captured, graphs run.
    pub fn counts(&self) -> [usize; 3] {
        [&self.launches, &self.captures, &self.replays].map(|count| count.load(Ordering::Relaxed))
    }

    /// Blocks of memory in use.
    pub fn blocks(&self) -> usize {
        self.lock().memory.0.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn submit(&self, stream: Stream, work: Work) -> Result<()> {
        let mut state = self.lock();
        match (&mut state.captured, stream) {
            (Some(list), Stream::Compute) => list.push(work),
            _ => state.streams[stream as usize].push_back(work),
        }
        Ok(())
    }

    /// The state for a call that a capture does not allow.
    fn outside(&self, call: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.captured.is_some() { Err(Error::invalid(format!("{call} while capturing"))) } else { Ok(state) }
    }
}

impl Driver for Fake {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut state = self.outside("allocate")?;
        let end = state.memory.0.last_key_value().map_or(0x1_0000, |(start, block)| start + block.len() as u64);
        let address = end.next_multiple_of(256) + 256;
        state.memory.0.insert(address, vec![0xcd; bytes]);
        Ok(address)
    }

    fn free(&self, address: u64) -> Result<()> {
        self.synchronize()?;
        self.lock().memory.0.remove(&address).expect("a block that is freed once");
        Ok(())
    }

    fn upload(&self, stream: Stream, to: u64, bytes: &[u8]) -> Result<()> {
        drop(self.outside("upload")?);
        self.submit(stream, Work::Upload(to, bytes.to_vec()))
    }

    unsafe fn upload_pinned(&self, stream: Stream, to: u64, from: &Pinned, bytes: Range<usize>) -> Result<()> {
        let from = &from.as_slice()[bytes];
        self.submit(stream, Work::UploadPinned(to, from.as_ptr().expose_provenance(), from.len()))
    }

    fn download(&self, stream: Stream, into: &mut [u8], from: u64) -> Result<()> {
        let mut state = self.outside("download")?;
        state.run_until(|state| state.streams[stream as usize].is_empty());
        into.copy_from_slice(state.memory.bytes(from, into.len()));
        Ok(())
    }

    fn copy(&self, stream: Stream, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.submit(stream, Work::Copy(to, from, bytes))
    }

    fn fill(&self, stream: Stream, to: u64, value: u8, bytes: usize) -> Result<()> {
        self.submit(stream, Work::Fill(to, value, bytes))
    }

    fn pinned(&self, bytes: usize) -> Result<Pinned> {
        Ok(Pinned::pageable(bytes))
    }

    fn load(&self, image: &Image) -> Result<Module> {
        drop(self.outside("load")?);
        Ok(Module::new(image.name.clone()))
    }

    fn launch(&self, stream: Stream, function: &Function, _: &Launch, arguments: &Arguments) -> Result<()> {
        function.module.get::<String>()?;
        let mut state = self.lock();
        let kernel = *state.kernels.get(function.name.as_str()).expect("a kernel of this device");
        let work = Work::Launch(kernel, arguments.values().map(<[u8]>::to_vec).collect());
        match &mut state.captured {
            Some(list) => list.push(work),
            None => {
                self.launches.fetch_add(1, Ordering::Relaxed);
                state.streams[stream as usize].push_back(work);
            }
        }
        Ok(())
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        spec.validate().map(|()| TensorMap::from_bytes([0; 128]))
    }

    fn record(&self, stream: Stream) -> Result<Event> {
        let passed = Arc::new(AtomicBool::new(false));
        self.submit(stream, Work::Record(passed.clone()))?;
        Ok(Event::new(passed))
    }

    fn wait(&self, stream: Stream, event: &Event) -> Result<()> {
        self.submit(stream, Work::Wait(event.get::<Arc<AtomicBool>>()?.clone()))
    }

    fn wait_on_host(&self, event: &Event) -> Result<()> {
        let passed = event.get::<Arc<AtomicBool>>()?;
        self.outside("wait_on_host")?.run_until(|_| passed.load(Ordering::Relaxed));
        Ok(())
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<f64> {
        self.wait_on_host(from)?;
        self.wait_on_host(to)?;
        Ok(0.0)
    }

    fn synchronize(&self) -> Result<()> {
        self.outside("synchronize")?.run_until(|state| state.streams.iter().all(VecDeque::is_empty));
        Ok(())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.outside("capture")?.captured = Some(Vec::new());
        let result = work();
        let list = self.lock().captured.take().unwrap_or_default();
        result?;
        self.captures.fetch_add(1, Ordering::Relaxed);
        Ok(Graph::new(list))
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        let list = graph.get::<Vec<Work>>()?;
        self.outside("replay")?.streams[Stream::Compute as usize].extend(list.iter().cloned());
        self.replays.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Hands sources through and counts them.
#[derive(Clone, Debug, Default)]
pub struct HandsThrough(Arc<AtomicUsize>);

impl HandsThrough {
    /// Compilations so far.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Toolchain for HandsThrough {
    fn compile(&self, _: Architecture, source: &Source) -> Result<Compiled> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let (title, ptx) = (source.title(), source.text().into_bytes().into());
        Ok(Compiled { title, ptx, cubin: Vec::new().into(), functions: BTreeMap::new(), warnings: Vec::new() })
    }
}

/// A queue on a device.
pub fn queue(fake: &Arc<Fake>, graphs: bool) -> Queue {
    Queue::Cuda(CudaQueue::new(fake.clone(), HandsThrough::default()).expect("a queue").with_graphs(graphs))
}
