//! The device of a run: the GPU if there is one, it is not ruled out, and every part of training and evaluation has a kernel
//! for it; else the processor. A GPU that is asked for by name is refused with what is missing.

use super::{State, Stepper};
use crate::config::{Config, DeviceKind};
use crate::{Error, Result};
use engine::cuda::Detected;
use engine::{CpuQueue, CudaQueue, Program, Queue, Workspace};
use model::encoder::{ImageEncoder, TextEncoder};
use model::generate::{Generator, Settings};
use model::task::{TaskLogits, TaskPlan};
use std::time::{Duration, Instant};

/// Time between two lines about what is being compiled.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

/// The queue of the processor, as `compute.isa` and `compute.threads` say.
///
/// # Errors
/// The processor has not that instruction set, or there are no threads.
pub fn processor(config: &Config) -> Result<Queue> {
    Ok(Queue::Cpu(CpuQueue::new(config.isa()?, config.threads()?)?))
}

/// The GPU, if the configuration asks for one, or leaves it open and there is one.
///
/// # Errors
/// One is asked for and there is none that can be used: the sentence that `coca doctor` says.
pub fn gpu(config: &Config) -> Result<Option<CudaQueue>> {
    let open = || CudaQueue::open().map(|queue| queue.with_graphs(config.compute.graph));
    match config.compute.device {
        DeviceKind::Cpu => Ok(None),
        DeviceKind::Cuda => open().map(Some).map_err(|error| refused(&error.to_string())),
        DeviceKind::Auto => match Detected::now() {
            Detected::Absent(_) => Ok(None),
            Detected::Found { .. } => Ok(open().inspect_err(|error| unused(&error.to_string())).ok()),
        },
    }
}

/// The queue of a run whose state lies on the processor: that of the GPU, if there is one and no op of the run lacks a kernel.
///
/// # Errors
/// An op lacks a kernel and the GPU is asked for by name, or as [`processor`].
pub fn settle(gpu: Option<CudaQueue>, config: &Config, stepper: &Stepper, state: &State) -> Result<Queue> {
    let Some(gpu) = gpu else { return processor(config) };
    match (refuse_missing(&gpu, stepper, state), config.compute.device) {
        (Ok(()), _) => Ok(Queue::Cuda(gpu)),
        (Err(Error::NoKernel(why)), DeviceKind::Cuda) => Err(refused(&why)),
        (Err(Error::NoKernel(why)), _) => {
            unused(&why);
            processor(config)
        }
        (Err(error), _) => Err(error),
    }
}

/// An error that names the ops of a run without a kernel, if there are any. The state lies on the processor.
///
/// # Errors
/// [`Error::NoKernel`], or as [`Stepper::unreached`].
pub fn refuse_missing(gpu: &CudaQueue, stepper: &Stepper, state: &State) -> Result<()> {
    match &missing_kernels(gpu, stepper, state)?[..] {
        [] => Ok(()),
        missing => Err(Error::NoKernel(format!("parts of the run have no CUDA kernel yet: {}", missing.join(", ")))),
    }
}

/// Names of the ops without a kernel, of a step and of the evaluation after it.
fn missing_kernels(gpu: &CudaQueue, stepper: &Stepper, state: &State) -> Result<Vec<&'static str>> {
    let (model, workspace) = (&state.model, Workspace::new());
    let mut missing = Vec::new();
    let mut add = |program: &Program| -> Result<()> {
        let names = program.kernels(gpu)?.missing;
        missing.extend(names.into_iter().filter(|name| !missing.contains(name)).collect::<Vec<_>>());
        Ok(())
    };
    stepper.longest(model, &mut add)?;
    match &state.task {
        Some(task) => {
            let plan = TaskPlan::of_logits(model, task.reads(), 1, task.images);
            add(TaskLogits::new(model, plan, &workspace)?.program())?;
        }
        None => {
            add(ImageEncoder::new(model, 1, &workspace)?.program())?;
            add(TextEncoder::new(model, 1, &workspace)?.program())?;
            let settings = Settings::preset("ours")?.within(model.config().text.context_length, 0);
            Generator::new(model, 1, &settings, &workspace)?.programs().into_iter().try_for_each(add)?;
        }
    }
    Ok(missing)
}

/// Compiles what a program needs on a device, with a line now and then for who waits.
///
/// # Errors
/// A kernel does not compile.
pub fn prepare(queue: &Queue, program: &Program) -> Result<()> {
    let mut last: Option<Instant> = None;
    program.prepare(queue, &mut |done, all, title| {
        if last.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) {
            last = Some(Instant::now());
            eprintln!("kernels for {}: {done} of {all} compiled, now {title}", queue.device());
        }
    })
}

/// Says why the GPU that there is stays idle.
fn unused(why: &str) {
    eprintln!("the GPU is not used: {why}");
}

fn refused(why: &str) -> Error {
    let why = why.trim_end_matches('.');
    Error::invalid(format!("compute.device = \"cuda\": {why}. With \"auto\" or \"cpu\" it runs on the processor."))
}
