//! The device of a run. Training needs kernels that the GPU does not have yet: until then it is the processor, and a GPU
//! that is asked for by name is refused with what is missing.

use super::Stepper;
use crate::config::{Config, DeviceKind};
use crate::{Error, Result};
use engine::{CpuQueue, CudaQueue, Queue};
use model::Coca;

/// The queue of the processor, as `compute.isa` and `compute.threads` say.
///
/// # Errors
/// The processor has not that instruction set, or there are no threads.
pub fn processor(config: &Config) -> Result<Queue> {
    Ok(Queue::Cpu(CpuQueue::new(config.isa()?, config.threads()?)?))
}

/// The GPU, if the configuration asks for one.
///
/// # Errors
/// There is none that can be used: the sentence that `coca doctor` says.
pub fn gpu(config: &Config) -> Result<Option<CudaQueue>> {
    match config.compute.device {
        DeviceKind::Auto | DeviceKind::Cpu => Ok(None),
        DeviceKind::Cuda => CudaQueue::open().map(Some).map_err(|error| refused(&error.to_string())),
    }
}

/// Why training does not run on a GPU that there is.
///
/// # Errors
/// Always, unless there is no GPU.
pub fn refuse(gpu: Option<CudaQueue>, config: &Config, stepper: &Stepper, model: &Coca) -> Result<()> {
    let Some(gpu) = gpu else { return Ok(()) };
    let mut missing = stepper.missing_kernels(model, &gpu)?;
    missing.push(config.optimizer.kind.name());
    Err(refused(&format!("training has parts without a CUDA kernel yet: {}", missing.join(", "))))
}

fn refused(why: &str) -> Error {
    let why = why.trim_end_matches('.');
    Error::invalid(format!("compute.device = \"cuda\": {why}. With \"auto\" or \"cpu\" it runs on the processor."))
}
