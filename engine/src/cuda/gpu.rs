//! A GPU behind NVIDIA's driver, through the bindings of cudarc, which open the library at run time.

use super::detect::{Detected, NO_GPU};
use super::{
    Architecture, Arguments, Driver, Event, Fill, Function, Graph, Image, ImageKind, Launch, Module, Pinned,
    Properties, Stream, Swizzle, TensorMap, TensorMapSpec,
};
use crate::{DType, Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex};

/// The first GPU of this machine that the kernels can run on; `CUDA_VISIBLE_DEVICES` chooses among several.
#[derive(Debug)]
pub struct Gpu {
    properties: Properties,
    context: Arc<Context>,
    compute: sys::CUstream,
    copy: sys::CUstream,
}

// SAFETY: the driver's handles may be used from any thread once its context is current there, which `enter` sees to.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Gpu {}

/// The device's primary context, kept until the last handle of it is dropped.
#[derive(Debug)]
struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Context {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Context {}

impl Context {
    /// Makes the context current on this thread, as every call of the driver needs.
    fn enter(&self) -> Result<()> {
        // SAFETY: retained until drop.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| failed("cuCtxSetCurrent", error))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `Gpu::open`. A failure here is one of earlier work, of which nothing is left to tell.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// An error of a call, in the driver's words.
fn failed(call: &str, error: DriverError) -> Error {
    let words = |text: std::result::Result<&std::ffi::CStr, DriverError>| match text {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    };
    Error::invalid(format!("{call} fails: {} ({})", words(error.error_string()), words(error.error_name())))
}

impl Gpu {
    /// Opens the first GPU that the kernels can run on.
    ///
    /// # Errors
    /// There is none, in one sentence that says why.
    pub fn open() -> Result<Gpu> {
        // Detection comes first: the bindings panic where the library or one of its functions is missing.
        let (cuda, devices) = match Detected::now() {
            Detected::Absent(reason) => return Err(Error::invalid(reason)),
            Detected::Found { cuda, devices } => (cuda, devices),
        };
        let (mut able, mut refusal) = (None, Error::invalid(NO_GPU));
        for (ordinal, device) in devices.iter().enumerate() {
            match Architecture::of(device.compute_capability) {
                Ok(_) => able = able.or(Some(ordinal)),
                Err(error) => refusal = error,
            }
        }
        let Some(ordinal) = able else { return Err(refusal) };
        result::init().map_err(|error| failed("cuInit", error))?;
        let device = result::device::get(ordinal as i32).map_err(|error| failed("cuDeviceGet", error))?;
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| {
            // SAFETY: a device that the driver gave.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            value.map(|value| value as u32).map_err(|error| failed("cuDeviceGetAttribute", error))
        };
        let properties = Properties {
            name: devices[ordinal].name.clone(),
            compute_capability: devices[ordinal].compute_capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes: devices[ordinal].memory_bytes,
            l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            shared_bytes_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            image: ImageKind::Cubin,
            cuda: Some(cuda),
        };
        // SAFETY: a device that the driver gave; released in the drop of `Context`.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(|error| failed("cuDevicePrimaryCtxRetain", error))?;
        let context = Arc::new(Context { device, context });
        context.enter()?;
        // Streams that do not wait for the default stream, which nobody here uses.
        let stream = || {
            result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(|error| failed("cuStreamCreate", error))
        };
        Ok(Gpu { properties, context, compute: stream()?, copy: stream()? })
    }

    fn stream(&self, stream: Stream) -> sys::CUstream {
        match stream {
            Stream::Compute => self.compute,
            Stream::Copy => self.copy,
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            for stream in [self.compute, self.copy] {
                // SAFETY: made in `open`, destroyed once; the driver finishes what is on it.
                let _ = unsafe { result::stream::destroy(stream) };
            }
        }
    }
}

/// A loaded image.
#[derive(Debug)]
struct Loaded {
    context: Arc<Context>,
    module: sys::CUmodule,
    functions: Mutex<HashMap<String, Kernel>>,
}

/// A kernel's handle, and the bytes of each of its parameters.
#[derive(Clone, Debug)]
struct Kernel {
    handle: sys::CUfunction,
    parameters: Arc<[usize]>,
}

// SAFETY: as for `Gpu`; the module keeps the function alive.
unsafe impl Send for Kernel {}
// SAFETY: as for `Gpu`.
unsafe impl Send for Loaded {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Loaded {}

impl Loaded {
    /// A kernel by name, allowed as much dynamic shared memory as the device has beside its static one. If it takes some, a
    /// multiprocessor is to have as much as it can, for as many blocks, rather than a larger L1 cache.
    fn kernel(&self, name: &str, shared_bytes_per_block: u32, takes_some: bool) -> Result<Kernel> {
        let mut functions = self.functions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(kernel) = functions.get(name) {
            return Ok(kernel.clone());
        }
        let text = CString::new(name).map_err(|_| Error::invalid("the name of a kernel contains a zero byte"))?;
        use sys::CUfunction_attribute_enum as Attribute;
        // SAFETY: a module that is loaded, a function of it, an attribute that takes bytes.
        let handle = unsafe {
            let function = result::module::get_function(self.module, text)
                .map_err(|error| failed(&format!("the search for kernel {name}"), error))?;
            let fixed =
                result::function::get_function_attribute(function, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
                    .map_err(|error| failed("cuFuncGetAttribute", error))?;
            let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, most, shared_bytes_per_block as i32 - fixed)
                .map_err(|error| failed("cuFuncSetAttribute", error))?;
            if takes_some {
                let percent = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
                result::function::set_function_attribute(function, percent, 100)
                    .map_err(|error| failed("cuFuncSetAttribute", error))?;
            }
            function
        };
        let parameters = (0..).map_while(|index| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: a function of a loaded module, and pointers to two integers.
            unsafe { sys::cuFuncGetParamInfo(handle, index, &mut offset, &mut size) }.result().is_ok().then_some(size)
        });
        let kernel = Kernel { handle, parameters: parameters.collect() };
        functions.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded once, unloaded once; the driver waits for its kernels.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// An event.
#[derive(Debug)]
struct Recorded {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Recorded {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Recorded {}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made once, destroyed once; the driver keeps it until what waits for it has gone on.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// An instantiated graph.
#[derive(Debug)]
struct Executable {
    context: Arc<Context>,
    graph: sys::CUgraphExec,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Executable {}
// SAFETY: as for `Gpu`; launches of one graph are ordered by the compute stream.
unsafe impl Sync for Executable {}

impl Drop for Executable {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: instantiated once, destroyed once; the driver finishes a launch that is under way.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}

/// Page-locked memory of the host.
#[derive(Debug)]
struct HostMemory {
    context: Arc<Context>,
    pointer: NonNull<c_void>,
}

// SAFETY: owns memory without thread affinity.
unsafe impl Send for HostMemory {}
// SAFETY: gives no access.
unsafe impl Sync for HostMemory {}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once by `pinned`, freed once.
            let _ = unsafe { result::free_host(self.pointer.as_ptr()) };
        }
    }
}

impl Driver for Gpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.context.enter()?;
        // SAFETY: the contents are undefined by the contract of this function, too.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            let total = self.properties.memory_bytes;
            let reason = failed("cuMemAlloc", error);
            Error::invalid(format!("{} of {total} bytes cannot give {bytes} more: {reason}", self.properties.name))
        })
    }

    fn free(&self, address: u64) -> Result<()> {
        self.synchronize()?;
        // SAFETY: an address that `allocate` gave, by contract; all work is done.
        unsafe { result::free_sync(address) }.map_err(|error| failed("cuMemFree", error))
    }

    fn upload(&self, stream: Stream, to: u64, bytes: &[u8]) -> Result<()> {
        self.context.enter()?;
        // SAFETY: device memory of that size by contract; ordinary host memory is staged before the call returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream(stream)) }
            .map_err(|error| failed("cuMemcpyHtoDAsync", error))
    }

    unsafe fn upload_pinned(&self, stream: Stream, to: u64, from: &Pinned, bytes: Range<usize>) -> Result<()> {
        self.context.enter()?;
        // SAFETY: as above, but the copy is under way when the call returns: the caller's contract.
        unsafe { result::memcpy_htod_async(to, &from.as_slice()[bytes], self.stream(stream)) }
            .map_err(|error| failed("cuMemcpyHtoDAsync", error))
    }

    fn download(&self, stream: Stream, into: &mut [u8], from: u64) -> Result<()> {
        self.context.enter()?;
        let stream = self.stream(stream);
        // SAFETY: device memory of that size by contract; the host's memory is borrowed until the copy is done.
        unsafe {
            result::memcpy_dtoh_async(into, from, stream).map_err(|error| failed("cuMemcpyDtoHAsync", error))?;
            result::stream::synchronize(stream).map_err(|error| failed("cuStreamSynchronize", error))
        }
    }

    fn copy(&self, stream: Stream, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.context.enter()?;
        // SAFETY: device memory of that size by contract.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream(stream)) }
            .map_err(|error| failed("cuMemcpyDtoDAsync", error))
    }

    fn fill(&self, stream: Stream, to: u64, value: u8, bytes: usize) -> Result<()> {
        self.context.enter()?;
        // SAFETY: device memory of that size by contract.
        unsafe { result::memset_d8_async(to, value, bytes, self.stream(stream)) }
            .map_err(|error| failed("cuMemsetD8Async", error))
    }

    fn pinned(&self, bytes: usize) -> Result<Pinned> {
        self.context.enter()?;
        // Flags 0: not write-combined, which is slow where the host reads.
        // SAFETY: zeroed before anybody sees it.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(|error| failed("cuMemHostAlloc", error))?;
        let pointer = NonNull::new(pointer).ok_or_else(|| Error::invalid("cuMemHostAlloc gave memory at address 0"))?;
        // SAFETY: memory of that size just allocated, owned by the value beside it.
        unsafe {
            pointer.as_ptr().cast::<u8>().write_bytes(0, bytes);
            Ok(Pinned::from_raw(pointer.cast(), bytes, HostMemory { context: self.context.clone(), pointer }))
        }
    }

    fn load(&self, image: &Image) -> Result<Module> {
        if image.kind != ImageKind::Cubin {
            return Err(Error::invalid(format!("{}: a GPU loads machine code, not {:?}", image.name, image.kind)));
        }
        self.context.enter()?;
        // SAFETY: machine code in ELF, which carries its own size.
        let module = unsafe { result::module::load_data(image.bytes.as_ptr().cast()) }
            .map_err(|error| failed(&format!("loading {}", image.name), error))?;
        Ok(Module::new(Loaded { context: self.context.clone(), module, functions: Mutex::default() }))
    }

    fn launch(&self, stream: Stream, function: &Function, launch: &Launch, arguments: &Arguments) -> Result<()> {
        self.context.enter()?;
        let loaded = function.module.get::<Loaded>()?;
        let (most, takes_some) = (self.properties.shared_bytes_per_block, launch.shared_bytes > 0);
        let Kernel { handle, parameters } = loaded.kernel(&function.name, most, takes_some)?;
        if !arguments.values().map(<[u8]>::len).eq(parameters.iter().copied()) {
            let given: Vec<usize> = arguments.values().map(<[u8]>::len).collect();
            return Err(Error::invalid(format!(
                "launch of {}: its parameters have {parameters:?} bytes, the arguments {given:?}",
                function.name
            )));
        }
        let [x, y, z] = launch.cluster;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.shared_bytes,
            hStream: self.stream(stream),
            attrs: &mut attribute,
            // Without the attribute the dimensions in the kernel's source hold.
            numAttrs: u32::from(launch.cluster != [1; 3]),
        };
        // Not as one block: machine code wants parameters that are aligned to 64 bytes, and those after them, further on than
        // a struct would have them, which the driver sees to where it is given each by itself.
        let mut pointers: Vec<*mut c_void> = arguments.values().map(|value| value.as_ptr().cast_mut().cast()).collect();
        // SAFETY: a kernel of a loaded module, and as many arguments of the sizes that it takes, which the call copies.
        unsafe { sys::cuLaunchKernelEx(&config, handle, pointers.as_mut_ptr(), null_mut()) }
            .result()
            .map_err(|error| failed(&format!("launch of {}", function.name), error))
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        spec.validate()?;
        self.context.enter()?;
        use sys::CUtensorMapDataType as Type;
        use sys::CUtensorMapSwizzle as Pattern;
        let element = match spec.element {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
            DType::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        let swizzle = match spec.swizzle {
            Swizzle::None => Pattern::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::B32 => Pattern::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::B64 => Pattern::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::B128 => Pattern::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let fill = match spec.fill {
            Fill::Zero => sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            Fill::Nan => sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
        };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: arrays of the lengths that the rank asks for, as validated; the strides of a vector are not read.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                element,
                spec.sizes.len() as u32,
                std::ptr::without_provenance_mut(spec.address as usize),
                spec.sizes.as_ptr(),
                spec.strides_bytes.as_ptr(),
                spec.box_sizes.as_ptr(),
                [1; 5].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                fill,
            )
        }
        .result()
        .map_err(|error| failed("cuTensorMapEncodeTiled", error))?;
        Ok(TensorMap::from_bytes(bytemuck::cast(map.opaque)))
    }

    fn record(&self, stream: Stream) -> Result<Event> {
        self.context.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map_err(|error| failed("cuEventCreate", error))?;
        let recorded = Recorded { context: self.context.clone(), event };
        // SAFETY: an event and a stream of this context.
        unsafe { result::event::record(event, self.stream(stream)) }.map_err(|error| failed("cuEventRecord", error))?;
        Ok(Event::new(recorded))
    }

    fn wait(&self, stream: Stream, event: &Event) -> Result<()> {
        self.context.enter()?;
        let (event, flags) = (event.get::<Recorded>()?.event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT);
        // SAFETY: an event and a stream that live.
        unsafe { result::stream::wait_event(self.stream(stream), event, flags) }
            .map_err(|error| failed("cuStreamWaitEvent", error))
    }

    fn wait_on_host(&self, event: &Event) -> Result<()> {
        self.context.enter()?;
        // SAFETY: an event that lives.
        unsafe { result::event::synchronize(event.get::<Recorded>()?.event) }
            .map_err(|error| failed("cuEventSynchronize", error))
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<f64> {
        self.wait_on_host(from)?;
        self.wait_on_host(to)?;
        // SAFETY: events that live and have passed.
        let milliseconds =
            unsafe { result::event::elapsed(from.get::<Recorded>()?.event, to.get::<Recorded>()?.event) };
        milliseconds.map(|time| f64::from(time) / 1e3).map_err(|error| failed("cuEventElapsedTime", error))
    }

    fn synchronize(&self) -> Result<()> {
        self.context.enter()?;
        for stream in [self.copy, self.compute] {
            // SAFETY: a stream that lives.
            unsafe { result::stream::synchronize(stream) }.map_err(|error| failed("cuStreamSynchronize", error))?;
        }
        Ok(())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.context.enter()?;
        // Only calls of this thread are held to the rules of a capture.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream that lives; the capture is ended below whatever happens.
        unsafe { result::stream::begin_capture(self.compute, mode) }
            .map_err(|error| failed("cuStreamBeginCapture", error))?;
        let worked = work();
        // SAFETY: the capture begun above.
        let ended = unsafe { result::stream::end_capture(self.compute) };
        let graph = match (worked, ended) {
            (Ok(()), Ok(graph)) => graph,
            (Ok(()), Err(error)) => return Err(failed("cuStreamEndCapture", error)),
            (Err(error), ended) => {
                if let Ok(graph) = ended {
                    // SAFETY: a graph that is no longer used.
                    let _ = unsafe { result::graph::destroy(graph) };
                }
                return Err(error);
            }
        };
        // SAFETY: the graph just captured, of which the instance is independent.
        let instance = unsafe {
            let instance = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            instance.map_err(|error| failed("cuGraphInstantiate", error))?
        };
        Ok(Graph::new(Executable { context: self.context.clone(), graph: instance }))
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        self.context.enter()?;
        // SAFETY: an instance and a stream that live.
        unsafe { result::graph::launch(graph.get::<Executable>()?.graph, self.compute) }
            .map_err(|error| failed("cuGraphLaunch", error))
    }
}
