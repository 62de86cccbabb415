//! `coca compare-devices`: the same steps on the processor and on a GPU, from the same start and data, side by side; and the
//! first op whose result on the GPU is not the processor's.

use crate::cli::CompareArgs;
use crate::config::Config;
use crate::data::{self, Batch, Ledger, Position, Source, Stream};
use crate::run::{self, State, Stepper, processor, refuse_missing};
use crate::task::Task;
use crate::{Error, Result, schedule};
use engine::{Check, CudaQueue, DType, Observer, Queue};
use kernels::reduce;
use model::tokenizer::Tokenizer;
use std::fmt::Write;
use std::sync::Arc;

/// What a step gave on one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The weighted sum of the losses.
    pub loss: f64,
    /// Global norm of the gradient.
    pub gradient_norm: f64,
}

/// One step on both devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPair {
    /// On the processor.
    pub cpu: Outcome,
    /// On the GPU.
    pub gpu: Outcome,
    /// Largest relative difference that rounding explains, see [`tolerance`].
    pub tolerance: f64,
}

/// The steps, and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Name of the GPU.
    pub device: String,
    /// In order; it ends with the first step that is not finite.
    pub steps: Vec<StepPair>,
    /// The first op whose result is not the processor's from the same inputs, with what it gave.
    pub op: Option<String>,
}

impl StepPair {
    /// Relative differences of loss and gradient norm.
    pub fn differences(&self) -> [f64; 2] {
        let relative = |cpu: f64, gpu: f64| if cpu == gpu { 0.0 } else { (gpu - cpu).abs() / cpu.abs() };
        [relative(self.cpu.loss, self.gpu.loss), relative(self.cpu.gradient_norm, self.gpu.gradient_norm)]
    }

    /// Whether both are within the tolerance; what is not finite is not.
    pub fn agrees(&self) -> bool {
        self.differences().iter().all(|difference| *difference <= self.tolerance)
    }
}

impl Comparison {
    /// The table, and what was found.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:<5} {:>12} {:>12} {:>10} {:>12} {:>12} {:>10} {:>10}\n",
            "step", "loss, CPU", "GPU", "differs", "norm, CPU", "GPU", "differs", "tolerance"
        );
        for (step, pair) in self.steps.iter().enumerate() {
            let ([loss, norm], StepPair { cpu, gpu, tolerance }) = (pair.differences(), pair);
            let _ = writeln!(
                text,
                "{step:<5} {:>12.6} {:>12.6} {loss:>10.1e} {:>12.6} {:>12.6} {norm:>10.1e} {tolerance:>10.1e}{}",
                cpu.loss,
                gpu.loss,
                cpu.gradient_norm,
                gpu.gradient_norm,
                if pair.agrees() { "" } else { "  differs" }
            );
        }
        if let Some(op) = &self.op {
            let _ = writeln!(text, "the first op that disagrees: {op}");
        }
        text
    }

    /// An error if the devices disagree.
    ///
    /// # Errors
    /// A step or an op does.
    pub fn judge(&self) -> Result<()> {
        let step = self.steps.iter().position(|pair| !pair.agrees());
        match (&self.op, step) {
            (None, None) => Ok(()),
            (Some(_), _) => Err(Error::invalid(format!("{} and the processor disagree in an op", self.device))),
            (None, Some(step)) => Err(Error::invalid(format!(
                "{} and the processor disagree at step {step}, though every op gives what the processor's does from the same \
                 inputs: look at the updates between the steps",
                self.device
            ))),
        }
    }
}

/// Largest relative difference of a loss or gradient norm between two devices that both round right, at step `step`.
///
/// A value passes about `nodes` roundings of relative size epsilon on each device. Roundings are independent, so the
/// difference grows as the root of their number; every step before adds as many through the weights, and the mean over the
/// samples of a batch divides by the root of theirs.
pub fn tolerance(dtype: DType, nodes: usize, batch: usize, step: usize) -> f64 {
    dtype.epsilon() * (2.0 * nodes as f64 * (step + 1) as f64 / batch.max(1) as f64).sqrt()
}

/// One of the two runs.
struct Side {
    queue: Queue,
    state: State,
    stepper: Stepper,
}

impl Side {
    fn new(config: &Config, tokenizer: &Tokenizer, task: Option<&Task>, queue: Queue) -> Result<Side> {
        let mut state = State::new(config, tokenizer.clone(), task.cloned(), None)?;
        let stepper = Stepper::new(config, state.task.as_deref())?;
        if let Queue::Cuda(cuda) = &queue {
            refuse_missing(cuda, &stepper, &state)?;
            state.move_to(cuda.device())?;
        }
        let stepper = stepper.on(queue.device());
        Ok(Side { queue, state, stepper })
    }

    /// Loss and gradient of a step.
    fn gradient(
        &mut self,
        config: &Config,
        batches: &[Batch],
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<Outcome> {
        let gradient = self.stepper.run(&self.queue, &self.state.model, batches, observers)?;
        let gradient_norm = reduce::gradient_norm(&self.queue, self.state.model.parameters())?;
        Ok(Outcome { loss: gradient.losses.total(&config.loss), gradient_norm })
    }

    /// The op of a step that disagrees with the processor's, if there is one.
    fn check(&mut self, config: &Config, batches: &[Batch]) -> Result<Option<String>> {
        let mut check = Check::Cpu.observer()?;
        match self.gradient(config, batches, &mut [check.as_mut()]) {
            Ok(_) => Ok(None),
            Err(error @ Error::Op { .. }) => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn update(&mut self, config: &Config, step: u64, outcome: Outcome) -> Result<()> {
        let learning_rate = schedule::learning_rate(&config.schedule, config.optimizer.learning_rate, step);
        self.state.update(&self.queue, config, learning_rate, outcome.gradient_norm)?;
        self.state.progress.step += 1;
        Ok(())
    }
}

/// Takes `steps` steps of a configuration on both devices. Ops are compared one by one in the first step, and in the first
/// that differs by more than rounding.
///
/// # Errors
/// The configuration does not hold together, its data cannot be opened, an op has no kernel, or a device fails.
pub fn compare(config: &Config, source: Arc<dyn Source>, gpu: CudaQueue, steps: u64) -> Result<Comparison> {
    let tokenizer = run::tokenizer(config, source.as_ref())?;
    let task = Task::of_training(config, source.as_ref())?;
    let device = gpu.device().to_string();
    let mut cpu = Side::new(config, &tokenizer, task.as_ref(), processor(config)?)?;
    let mut gpu = Side::new(config, &tokenizer, task.as_ref(), Queue::Cuda(gpu))?;
    let (task, ledger) = (cpu.state.task.clone(), Ledger::new(config.data.max_bad_share));
    let model = cpu.state.model.config().clone();
    let mut stream = Stream::start(source, Arc::new(tokenizer), task, &model, config, ledger, Position::default())?;
    let mut comparison = Comparison { device, steps: Vec::new(), op: None };
    for step in 0..steps {
        let batches = (0..config.batch.accumulation).map(|_| stream.next()).collect::<Result<Vec<Batch>>>()?;
        if step == 0 {
            comparison.op = gpu.check(config, &batches)?;
        }
        let (on_cpu, on_gpu) = (cpu.gradient(config, &batches, &mut [])?, gpu.gradient(config, &batches, &mut [])?);
        let nodes = cpu.stepper.program().map_or(0, |program| program.len());
        let tolerance = tolerance(cpu.state.model.dtype(), nodes, config.batch.size, step as usize);
        let pair = StepPair { cpu: on_cpu, gpu: on_gpu, tolerance };
        comparison.steps.push(pair);
        if comparison.op.is_none() && !pair.agrees() && comparison.steps[..step as usize].iter().all(StepPair::agrees) {
            comparison.op = gpu.check(config, &batches)?;
        }
        if [on_cpu, on_gpu].iter().any(|outcome| !(outcome.loss.is_finite() && outcome.gradient_norm.is_finite())) {
            break;
        }
        cpu.update(config, step, on_cpu)?;
        gpu.update(config, step, on_gpu)?;
    }
    Ok(comparison)
}

/// The command.
///
/// # Errors
/// There is no GPU: the sentence of `coca doctor`; else as [`compare`].
pub fn run(args: &CompareArgs) -> Result<Comparison> {
    let config = args.config.load()?;
    let gpu = CudaQueue::open()?.with_graphs(config.compute.graph);
    let source = data::open(&config.data.train, &config.data)?;
    compare(&config, source, gpu, args.steps.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_beyond_the_tolerance_are_named() {
        let outcome = |loss, gradient_norm| Outcome { loss, gradient_norm };
        let pair = |gpu| StepPair { cpu: outcome(4.0, 2.0), gpu, tolerance: 1e-3 };
        let good = pair(outcome(4.001, 1.999));
        let comparison = |steps: &[StepPair], op: Option<&str>| Comparison {
            device: "a GPU".into(),
            steps: steps.to_vec(),
            op: op.map(str::to_owned),
        };
        assert!(comparison(&[good, good], None).judge().is_ok());
        for bad in [outcome(4.01, 2.0), outcome(4.0, 2.01), outcome(f64::NAN, 2.0), outcome(4.0, f64::INFINITY)] {
            let found = comparison(&[good, pair(bad)], None);
            assert!(found.judge().unwrap_err().to_string().contains("a GPU and the processor disagree at step 1"));
            assert!(found.text().lines().nth(2).unwrap().ends_with("  differs"), "{}", found.text());
        }
        let found = comparison(&[good], Some("matmul: element 3"));
        assert!(found.judge().unwrap_err().to_string().contains("in an op"));
        assert!(found.text().ends_with("the first op that disagrees: matmul: element 3\n"));
    }

    #[test]
    fn the_tolerance_follows_the_roundings() {
        let one = tolerance(DType::F32, 100, 4, 0);
        assert!((one / f64::from(f32::EPSILON) - 50f64.sqrt()).abs() < 1e-6, "{one}");
        assert!((tolerance(DType::F32, 100, 16, 3) / one - 1.0).abs() < 1e-12);
    }
}
