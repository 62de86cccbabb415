//! Asks the CUDA driver, where there is one, what devices it has. Nothing is linked: the library is opened at run time.

use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_int, c_uint};

/// File name of the driver's library.
const LIBRARY: &str = "libcuda.so.1";

/// The CUDA driver and its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Cuda {
    /// The driver answered.
    Found {
        /// CUDA version that the driver supports, such as `12.8`.
        driver: String,
        /// The devices; there may be none.
        devices: Vec<CudaDevice>,
    },
    /// Why there is no driver to ask, in one sentence.
    Absent(String),
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CudaDevice {
    /// Its name.
    pub name: String,
    /// Compute capability, such as `9.0`.
    pub compute_capability: String,
    /// Bytes of its memory.
    pub memory: u64,
}

impl Cuda {
    /// Opens the driver and lists the devices.
    pub fn detect() -> Cuda {
        query().unwrap_or_else(Cuda::Absent)
    }
}

/// `CUresult` of a call, as a sentence if it is not success.
fn check(call: &str, code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        100 => Err("the NVIDIA driver is installed but sees no GPU.".into()),
        code => Err(format!("the NVIDIA driver is installed but {call} fails with code {code}.")),
    }
}

fn query() -> Result<Cuda, String> {
    // SAFETY: opening a library runs its initialisers; this is NVIDIA's driver, found by the system's own rules.
    let library = unsafe { libloading::Library::new(LIBRARY) }
        .map_err(|_| format!("no NVIDIA driver is installed ({LIBRARY} is not found)."))?;
    /// A function of the driver by name and type (cuda.h); a missing one is an error in words.
    macro_rules! function {
        ($name:literal, fn($($argument:ty),*)) => {
            // SAFETY: the type is the one that cuda.h declares for this name, and `library` outlives every call.
            unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> c_int>($name.as_bytes()) }
                .map_err(|_| format!("{LIBRARY} has no {}: the driver is too old.", $name))?
        };
    }
    let initialise = function!("cuInit", fn(c_uint));
    let driver_version = function!("cuDriverGetVersion", fn(*mut c_int));
    let device_count = function!("cuDeviceGetCount", fn(*mut c_int));
    let device_name = function!("cuDeviceGetName", fn(*mut c_char, c_int, c_int));
    let device_memory = function!("cuDeviceTotalMem_v2", fn(*mut usize, c_int));
    let device_attribute = function!("cuDeviceGetAttribute", fn(*mut c_int, c_int, c_int));

    let (mut version, mut count) = (0, 0);
    // SAFETY: plain calls with valid pointers to integers.
    unsafe {
        check("cuInit", initialise(0))?;
        check("cuDriverGetVersion", driver_version(&mut version))?;
        check("cuDeviceGetCount", device_count(&mut count))?;
    }
    let mut devices = Vec::new();
    for device in 0..count {
        let mut name = [0u8; 256];
        let (mut memory, mut major, mut minor) = (0usize, 0, 0);
        // SAFETY: the pointers are valid, the name buffer has the length given, and device ordinals below the count are
        // device handles. 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and MINOR.
        unsafe {
            check("cuDeviceGetName", device_name(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
            check("cuDeviceTotalMem", device_memory(&mut memory, device))?;
            check("cuDeviceGetAttribute", device_attribute(&mut major, 75, device))?;
            check("cuDeviceGetAttribute", device_attribute(&mut minor, 76, device))?;
        }
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
        devices.push(CudaDevice { name, compute_capability: format!("{major}.{minor}"), memory: memory as u64 });
    }
    Ok(Cuda::Found { driver: format!("{}.{}", version / 1000, version % 1000 / 10), devices })
}
