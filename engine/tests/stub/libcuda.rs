//! A stand-in for NVIDIA's driver library, compiled by the tests with `rustc --crate-type cdylib`: one device whose memory
//! is the host's, which does everything at once. `STUB_INIT` is what cuInit returns, `STUB_VERSION` the driver's version,
//! `STUB_DEVICES` the number of devices, `STUB_CAPABILITY` their compute capability times ten.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

fn setting(name: &str, default: c_int) -> c_int {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Functions of the driver: all return a code.
macro_rules! driver {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)+) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            #[allow(unused_unsafe)]
            unsafe { $body }
            #[allow(unreachable_code)]
            0
        })+
    };
}

type Handle = *mut c_void;

/// The only stream that captures, and what it has captured.
static CAPTURED: Mutex<Option<Vec<Vec<u8>>>> = Mutex::new(None);
static BLOCKS: Mutex<Option<HashMap<u64, usize>>> = Mutex::new(None);

fn allocate(bytes: usize) -> u64 {
    let address = unsafe { alloc(Layout::from_size_align(bytes, 256).unwrap()) } as u64;
    BLOCKS.lock().unwrap().get_or_insert_default().insert(address, bytes);
    address
}

/// False if there is no such block.
fn free(address: u64) -> bool {
    let Some(bytes) = BLOCKS.lock().unwrap().get_or_insert_default().remove(&address) else { return false };
    unsafe { dealloc(address as *mut u8, Layout::from_size_align(bytes, 256).unwrap()) };
    true
}

/// The one kernel, `fill(float* out, unsigned count, float value)`.
unsafe fn fill(block: &[u8]) {
    let address = u64::from_ne_bytes(block[0..8].try_into().unwrap());
    let count = u32::from_ne_bytes(block[8..12].try_into().unwrap());
    let value = f32::from_ne_bytes(block[12..16].try_into().unwrap());
    for index in 0..count as usize {
        unsafe { *(address as *mut f32).add(index) = value };
    }
}

#[repr(C)]
pub struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Handle,
    attributes: *const Attribute,
    attribute_count: c_uint,
}

/// Offset and size of each parameter of the stub's kernel: an address, a count, a value.
const PARAMETERS: [(usize, usize); 3] = [(0, 8), (8, 4), (12, 4)];

#[repr(C)]
pub struct Attribute {
    id: c_uint,
    pad: c_uint,
    cluster: [c_uint; 16],
}

driver! {
    fn cuInit(_flags: c_uint) { return setting("STUB_INIT", 0); }
    fn cuDriverGetVersion(version: *mut c_int) { *version = setting("STUB_VERSION", 12080); }
    fn cuDeviceGetCount(count: *mut c_int) { *count = setting("STUB_DEVICES", 1); }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) { *device = ordinal; }
    fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) {
        let text = b"Stub GPU\0";
        assert!(length as usize >= text.len());
        name.copy_from(text.as_ptr().cast(), text.len());
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { *bytes = 8 << 30; }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        let capability = setting("STUB_CAPABILITY", 90);
        *value = match attribute {
            16 => 132,
            38 => 50 << 20,
            75 => capability / 10,
            76 => capability % 10,
            97 => 232448,
            _ => return 1,
        };
    }
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) { *context = 1 as Handle; }
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) {}
    fn cuCtxSetCurrent(context: Handle) { assert_eq!(context, 1 as Handle); }
    fn cuStreamCreate(stream: *mut Handle, flags: c_uint) {
        assert_eq!(flags, 1, "does not wait for the default stream");
        *stream = Box::into_raw(Box::new(0u64)).cast();
    }
    fn cuStreamDestroy_v2(stream: Handle) { drop(Box::from_raw(stream.cast::<u64>())); }
    fn cuStreamSynchronize(_stream: Handle) {}
    fn cuStreamWaitEvent(_stream: Handle, event: Handle, _flags: c_uint) { assert!(!event.is_null()); }
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        if bytes > 1 << 32 {
            return 2;
        }
        *address = allocate(bytes);
    }
    fn cuMemFree_v2(address: u64) { return if free(address) { 0 } else { 1 }; }
    fn cuMemHostAlloc(pointer: *mut Handle, bytes: usize, flags: c_uint) {
        assert_eq!(flags, 0, "the host reads it fast");
        *pointer = allocate(bytes) as Handle;
    }
    fn cuMemFreeHost(pointer: Handle) { return if free(pointer as u64) { 0 } else { 1 }; }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, _stream: Handle) { (to as *mut u8).copy_from(from, bytes); }
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, _stream: Handle) { to.copy_from(from as *const u8, bytes); }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: Handle) {
        (to as *mut u8).copy_from(from as *const u8, bytes);
    }
    fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, _stream: Handle) { (to as *mut u8).write_bytes(value, bytes); }
    fn cuModuleLoadData(module: *mut Handle, image: *const u8) {
        if *image != 0x7f {
            return 200;
        }
        *module = 2 as Handle;
    }
    fn cuModuleUnload(module: Handle) { assert_eq!(module, 2 as Handle); }
    fn cuModuleGetFunction(function: *mut Handle, _module: Handle, name: *const c_char) {
        if CStr::from_ptr(name) != c"fill" {
            return 500;
        }
        *function = 3 as Handle;
    }
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, _function: Handle) {
        assert_eq!(attribute, 1, "static shared memory");
        *value = 1024;
    }
    fn cuFuncSetAttribute(_function: Handle, attribute: c_int, value: c_int) {
        match attribute {
            8 => assert_eq!(value, 232448 - 1024, "dynamic shared memory beside the static one"),
            9 => assert_eq!(value, 100, "percent of a multiprocessor's memory"),
            _ => return 1,
        }
    }
    fn cuFuncGetParamInfo(_function: Handle, index: usize, offset: *mut usize, size: *mut usize) {
        let Some(place) = PARAMETERS.get(index) else { return 1 };
        (*offset, *size) = *place;
    }
    fn cuLaunchKernelEx(config: *const Config, _function: Handle, parameters: *mut Handle, extra: *const Handle) {
        assert!(extra.is_null());
        let mut block = vec![0; 16];
        for (index, (offset, size)) in PARAMETERS.into_iter().enumerate() {
            block[offset..offset + size].copy_from_slice(std::slice::from_raw_parts((*parameters.add(index)).cast::<u8>(), size));
        }
        let config = &*config;
        if config.shared_bytes != 64 || config.grid != [4, 1, 1] || config.block != [32, 1, 1] {
            return 1;
        }
        if config.attribute_count == 1 {
            let attribute = &*config.attributes;
            assert_eq!((attribute.id, &attribute.cluster[..3]), (4, &[2, 1, 1][..]), "cluster dimensions");
        }
        match CAPTURED.lock().unwrap().as_mut() {
            Some(list) => list.push(block),
            None => fill(&block),
        }
    }
    fn cuEventCreate(event: *mut Handle, _flags: c_uint) { *event = Box::into_raw(Box::new(0u64)).cast(); }
    fn cuEventDestroy_v2(event: Handle) { drop(Box::from_raw(event.cast::<u64>())); }
    fn cuEventRecord(_event: Handle, _stream: Handle) {}
    fn cuEventSynchronize(_event: Handle) {}
    fn cuEventElapsedTime(milliseconds: *mut f32, _from: Handle, _to: Handle) { *milliseconds = 250.0; }
    fn cuStreamBeginCapture_v2(_stream: Handle, mode: c_int) {
        assert_eq!(mode, 1, "of this thread");
        *CAPTURED.lock().unwrap() = Some(Vec::new());
    }
    fn cuStreamEndCapture(_stream: Handle, graph: *mut Handle) {
        let list = CAPTURED.lock().unwrap().take().expect("a capture was begun");
        *graph = Box::into_raw(Box::new(list)).cast();
    }
    fn cuGraphInstantiateWithFlags(instance: *mut Handle, graph: Handle, flags: u64) {
        assert_eq!(flags, 0);
        *instance = Box::into_raw(Box::new((*graph.cast::<Vec<Vec<u8>>>()).clone())).cast();
    }
    fn cuGraphDestroy(graph: Handle) { drop(Box::from_raw(graph.cast::<Vec<Vec<u8>>>())); }
    fn cuGraphExecDestroy(instance: Handle) { drop(Box::from_raw(instance.cast::<Vec<Vec<u8>>>())); }
    fn cuGraphLaunch(instance: Handle, _stream: Handle) {
        (*instance.cast::<Vec<Vec<u8>>>()).iter().for_each(|block| fill(block));
    }
    fn cuTensorMapEncodeTiled(
        map: *mut u64,
        element: c_int,
        rank: c_uint,
        address: Handle,
        sizes: *const u64,
        strides: *const u64,
        box_sizes: *const c_uint,
        element_strides: *const c_uint,
        interleave: c_int,
        swizzle: c_int,
        promotion: c_int,
        fill: c_int,
    ) {
        let words = [
            element as u64, rank.into(), address as u64, *sizes.add(1), *strides, (*box_sizes.add(1)).into(),
            (*element_strides.add(1)).into(), interleave as u64, swizzle as u64, promotion as u64, fill as u64,
        ];
        map.copy_from(words.as_ptr(), words.len());
    }
    fn cuGetErrorName(_code: c_int, text: *mut *const c_char) { *text = c"CUDA_ERROR_STUB".as_ptr(); }
    fn cuGetErrorString(_code: c_int, text: *mut *const c_char) { *text = c"the stub refuses".as_ptr(); }
}
