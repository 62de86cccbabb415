//! The seam between the engine and a device: what a GPU's driver and the emulator both do.

use super::{Arguments, Launch, TensorMap, TensorMapSpec};
use crate::{Error, Result};
use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// One device: its memory, its two streams, and the launch of kernels.
///
/// Work on a stream happens in the order of the calls, after they have returned; the two streams run side by side and
/// meet through events. An error that a kernel causes may show at a later call. Handles ([`Module`], [`Event`],
/// [`Graph`]) belong to the driver that made them; another driver refuses them.
pub trait Driver: Debug + Send + Sync {
    /// What the device is and can do.
    fn properties(&self) -> &Properties;

    /// Memory of `bytes` bytes, more than none, at an address that is a multiple of 256. Its contents are undefined.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives memory back that [`Driver::allocate`] returned, once all work submitted so far is done.
    fn free(&self, address: u64) -> Result<()>;

    /// Copies ordinary host memory, which is not [`Pinned`], to the device at `to`. It may change as soon as the call
    /// returns.
    fn upload(&self, stream: Stream, to: u64, bytes: &[u8]) -> Result<()>;

    /// Copies bytes `bytes` of `from` to the device at `to`, without waiting.
    ///
    /// # Safety
    /// Nobody writes to `from` nor drops it before an event recorded after this copy has passed.
    unsafe fn upload_pinned(&self, stream: Stream, to: u64, from: &Pinned, bytes: Range<usize>) -> Result<()>;

    /// Copies from the device at `from`, and waits for it and for all earlier work of the stream.
    fn download(&self, stream: Stream, into: &mut [u8], from: u64) -> Result<()>;

    /// Copies `bytes` bytes on the device; the ranges do not overlap.
    fn copy(&self, stream: Stream, to: u64, from: u64, bytes: usize) -> Result<()>;

    /// Sets `bytes` bytes on the device at `to` to `value`.
    fn fill(&self, stream: Stream, to: u64, value: u8, bytes: usize) -> Result<()>;

    /// Zeroed host memory that the device copies from without a detour.
    fn pinned(&self, bytes: usize) -> Result<Pinned>;

    /// Makes the kernels of a compiled image ready for launches.
    fn load(&self, image: &Image) -> Result<Module>;

    /// Runs a kernel. `arguments` are its parameters in order; their number and sizes are those of the kernel.
    fn launch(&self, stream: Stream, function: &Function, launch: &Launch, arguments: &Arguments) -> Result<()>;

    /// Encodes the description of a tensor for the tensor memory accelerator. Breaking a rule of
    /// [`TensorMapSpec::validate`] is an error.
    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap>;

    /// An event that passes when all work submitted to the stream so far is done.
    fn record(&self, stream: Stream) -> Result<Event>;

    /// Lets later work of the stream begin only when the event has passed.
    fn wait(&self, stream: Stream, event: &Event) -> Result<()>;

    /// Waits on the host until the event has passed.
    fn wait_on_host(&self, event: &Event) -> Result<()>;

    /// Seconds from one event to a later one; waits for both.
    fn elapsed(&self, from: &Event, to: &Event) -> Result<f64>;

    /// Waits until all work of both streams is done, and reports the error of any of it.
    fn synchronize(&self) -> Result<()>;

    /// Records what `work` submits to [`Stream::Compute`] instead of running it. Within `work` only launches, copies and
    /// fills on that stream are allowed, nothing that waits, allocates or loads.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph>;

    /// Submits a recorded graph to [`Stream::Compute`].
    fn replay(&self, graph: &Graph) -> Result<()>;
}

/// What a device is and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of the cache that all multiprocessors share; 0 if there is none.
    pub l2_bytes: u32,
    /// Most bytes of shared memory, static and dynamic together, that a block can ask for.
    pub shared_bytes_per_block: u32,
    /// What it executes.
    pub image: ImageKind,
    /// Newest CUDA version, major and minor, whose code it runs; `None` if any.
    pub cuda: Option<(u32, u32)>,
}

/// The two forms of compiled kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// Machine code for one architecture: what a GPU runs.
    Cubin,
    /// NVIDIA's portable assembly as text: what the emulator runs.
    Ptx,
}

/// Compiled kernels.
#[derive(Clone, Debug)]
pub struct Image {
    /// Names the source in errors.
    pub name: String,
    /// The form of `bytes`.
    pub kind: ImageKind,
    /// Machine code, or PTX text without a final NUL.
    pub bytes: Arc<[u8]>,
}

/// One of the two queues of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Kernels.
    Compute,
    /// Copies of inputs, beside the kernels.
    Copy,
}

/// A kernel of a loaded module.
#[derive(Clone, Debug)]
pub struct Function {
    /// The module.
    pub module: Module,
    /// Name of the kernel, declared `extern "C"`.
    pub name: String,
}

/// What a handle holds: a driver's own type.
trait Held: Any + Debug + Send + Sync {}
impl<T: Any + Debug + Send + Sync> Held for T {}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(Arc<dyn Held>);

        impl $name {
            /// Wraps a driver's own type, which is dropped with the last clone of the handle.
            pub fn new<T: Any + Debug + Send + Sync>(inner: T) -> $name {
                $name(Arc::new(inner))
            }

            /// The driver's own type; an error if the handle is another driver's.
            pub fn get<T: Any>(&self) -> Result<&T> {
                let inner: &dyn Any = &*self.0;
                inner.downcast_ref().ok_or_else(|| {
                    Error::invalid(concat!("a ", stringify!($name), " of one driver was given to another"))
                })
            }
        }
    };
}

handle!(
    /// Loaded kernels.
    Module
);
handle!(
    /// A point in the work of a stream.
    Event
);
handle!(
    /// A recorded list of launches and copies.
    Graph
);

/// Host memory that the device copies from without a detour.
#[derive(Debug)]
pub struct Pinned {
    pointer: NonNull<u8>,
    bytes: usize,
    /// Frees the memory when dropped.
    _owner: Box<dyn Held>,
}

// SAFETY: plain memory without thread affinity, reached through `&` and `&mut` like a vector's.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Wraps memory of a driver; `owner` frees it when dropped.
    ///
    /// # Safety
    /// `pointer` is valid for reads and writes of `bytes` initialised bytes while `owner` lives, and nobody else uses
    /// them.
    pub unsafe fn from_raw<T: Any + Debug + Send + Sync>(pointer: NonNull<u8>, bytes: usize, owner: T) -> Pinned {
        Pinned { pointer, bytes, _owner: Box::new(owner) }
    }

    /// Ordinary zeroed memory, for devices that need no other.
    pub fn pageable(bytes: usize) -> Pinned {
        let memory: &'static mut [u8] = Box::leak(vec![0u8; bytes].into_boxed_slice());
        let pointer = NonNull::from(&mut *memory).cast();
        // SAFETY: the memory lives as long as its owner below and is reached only through this value.
        unsafe { Pinned::from_raw(pointer, bytes, Leaked { pointer, bytes }) }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: valid by the contract of `from_raw`; shared borrow of self.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.bytes) }
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, exclusive borrow of self.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }
}

/// A boxed slice that is reached through a raw pointer.
#[derive(Debug)]
struct Leaked {
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: owns plain memory.
unsafe impl Send for Leaked {}
// SAFETY: gives no access.
unsafe impl Sync for Leaked {}

impl Drop for Leaked {
    fn drop(&mut self) {
        let slice = std::ptr::slice_from_raw_parts_mut(self.pointer.as_ptr(), self.bytes);
        // SAFETY: the box that `pageable` leaked, with its length, taken back once.
        drop(unsafe { Box::from_raw(slice) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_give_back_what_they_hold_and_refuse_strangers() {
        let module = Module::new(7u32);
        assert_eq!(module.clone().get::<u32>().unwrap(), &7);
        let error = module.get::<u64>().unwrap_err().to_string();
        assert_eq!(error, "a Module of one driver was given to another");
    }

    #[test]
    fn a_handle_drops_its_content_with_its_last_clone() {
        let content = Arc::new(());
        let event = Event::new(content.clone());
        let clone = event.clone();
        drop(event);
        assert_eq!(Arc::strong_count(&content), 2);
        drop(clone);
        assert_eq!(Arc::strong_count(&content), 1);
    }

    #[test]
    fn pageable_memory_is_zeroed_and_can_be_changed() {
        let mut memory = Pinned::pageable(5);
        assert_eq!(memory.as_slice(), [0; 5]);
        memory.as_mut_slice()[3] = 9;
        assert_eq!(memory.as_slice(), [0, 0, 0, 9, 0]);
        assert!(Pinned::pageable(0).is_empty());
    }
}
