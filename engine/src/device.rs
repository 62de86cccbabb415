//! Where memory is: on the host, or on a device behind its driver.

use crate::cuda::Driver;
use std::fmt;
use std::sync::Arc;

/// The owner of a block of memory.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// The host's memory.
    #[default]
    Cpu,
    /// The memory of a GPU, or of what stands for one.
    Cuda(Arc<dyn Driver>),
}

impl Device {
    /// True if both are the same memory.
    pub fn is(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu, Device::Cpu) => true,
            (Device::Cuda(one), Device::Cuda(other)) => std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other)),
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("the CPU"),
            Device::Cuda(driver) => f.write_str(&driver.properties().name),
        }
    }
}
