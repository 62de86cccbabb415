//! What GPUs there are, asked of NVIDIA's driver where there is one. Whatever is missing is told in one plain sentence.

use libloading::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_int, c_uint};

/// File names of the driver's library.
const LIBRARIES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// The oldest version that is used here: launches with attributes, tensor maps, the sizes of a kernel's parameters.
const OLDEST: (u32, u32) = (12, 4);

/// What is said where there is a driver, but no device.
pub(super) const NO_GPU: &str = "the NVIDIA driver is installed but sees no GPU.";

/// NVIDIA's driver and its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Detected {
    /// The driver answered.
    Found {
        /// CUDA version that the driver supports, major and minor.
        cuda: (u32, u32),
        /// The devices; at least one.
        devices: Vec<DetectedDevice>,
    },
    /// Why no GPU can be used, in one sentence.
    Absent(String),
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectedDevice {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Bytes of its memory.
    pub memory_bytes: u64,
}

impl Detected {
    /// Opens the driver and lists the devices.
    pub fn now() -> Detected {
        query().unwrap_or_else(Detected::Absent)
    }
}

/// A result code of a call (`CUresult` of cuda.h), as a sentence if it is not success.
fn check(call: &str, code: c_int) -> Result<(), String> {
    let reason = match code {
        0 => return Ok(()),
        34 => {
            "the library libcuda.so is the CUDA toolkit's stub, not a driver: take its folder out of LD_LIBRARY_PATH."
        }
        35 => "the NVIDIA driver is older than its GPU or its library needs (code 35): update the driver.",
        100 => NO_GPU,
        802 => "the NVIDIA driver is not ready (code 802): the service nvidia-fabricmanager is not running.",
        803 => {
            "the NVIDIA driver's library and its kernel module are of different versions (code 803): restart the machine, \
             or install one version of both."
        }
        code => return Err(format!("the NVIDIA driver is installed but {call} fails with code {code}.")),
    };
    Err(reason.to_owned())
}

fn query() -> Result<Detected, String> {
    // SAFETY: opening a library runs its initialisers; this is NVIDIA's driver, found by the system's own rules.
    let opened = LIBRARIES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    let library = opened.ok_or_else(|| format!("no NVIDIA driver is installed ({} is not found).", LIBRARIES[0]))?;
    /// A function of the driver by name and type (cuda.h); a missing one is an error in words.
    macro_rules! function {
        ($name:literal, fn($($argument:ty),*)) => {
            // SAFETY: the type is the one that cuda.h declares for this name, and `library` outlives every call.
            unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> c_int>($name.as_bytes()) }
                .map_err(|_| format!("the NVIDIA driver has no {}: it is too old, update it.", $name))?
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
    let cuda = ((version / 1000) as u32, (version % 1000 / 10) as u32);
    if cuda < OLDEST {
        let ((major, minor), (oldest, of)) = (cuda, OLDEST);
        return Err(format!(
            "the NVIDIA driver supports CUDA {major}.{minor}, {oldest}.{of} is needed: update the driver."
        ));
    }
    if count <= 0 {
        return Err(NO_GPU.to_owned());
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
        let compute_capability = (major as u32, minor as u32);
        devices.push(DetectedDevice { name, compute_capability, memory_bytes: memory as u64 });
    }
    Ok(Detected::Found { cuda, devices })
}
