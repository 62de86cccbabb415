//! The kernel lab, `coca bench`: measures the machine's ceilings, then every op beside them, beside its peers, and beside an
//! earlier run; checks in the same run that what is fast is right.

mod baseline;
mod cases;
mod ceilings;
mod check;
mod device;
mod environment;
mod gauges;
mod gpu;
mod measure;
mod page;
pub mod peers;
mod roofline;
mod statistics;
mod step;
mod table;

pub use baseline::{Comparison, Comparisons, Verdict};
pub use cases::Shapes;
pub use ceilings::{Ceilings, Compute, Level};
pub use check::Check;
pub use environment::Environment;
pub use gpu::{Gpu, GpuState};
pub use statistics::Estimate;
pub use step::WHOLE;

use crate::cli::{BenchArgs, BenchDevice};
use crate::config::Config;
use crate::{Error, Result};
use cases::Subject;
use ceilings::Bound;
use device::{DeviceRuns, copies};
use engine::{Cost, CpuQueue, CudaQueue, DType, Queue, cpu};
use gauges::Gauges;
use kernels::case::{Array, CaseProgram};
use measure::{Contestant, Runs, estimate, take_turns};
use serde::{Deserialize, Serialize};
use statistics::quotients;
use std::path::Path;
use step::{GroupTimes, Groups, TrainingStep, Work};

/// The filter that asks for a whole training step.
pub const MODEL: &str = "model";
/// What bounds a row by arithmetic.
const COMPUTE: &str = "compute";
/// Fewer steps cannot give an interval.
const LEAST_STEPS: usize = 6;
/// More steps would hardly narrow it.
const MOST_STEPS: usize = 40;

/// A run: what `--json` writes and `--baseline` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Machine, program, date.
    pub environment: Environment,
    /// The training step that the shapes are from, if they are from one.
    pub step: Option<String>,
    /// The best that the machine did during the run.
    pub ceilings: Ceilings,
    /// What was measured.
    pub rows: Vec<Row>,
    /// Peers and ops that did not take part, and why.
    pub absent: Vec<String>,
}

/// An op, or a group of ops of a training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The op and its shapes.
    pub name: String,
    /// `forward`, `both` (forward and backward), or the phase of the training step.
    pub pass: String,
    /// Storage type that it computes with, where it computes.
    pub dtype: Option<DType>,
    /// How often a training step runs it.
    pub calls: usize,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes that must move if every operand is touched once.
    pub bytes: f64,
    /// Bytes of memory that it touches.
    pub footprint_bytes: usize,
    /// Seconds.
    pub seconds: Estimate,
    /// Billions of floating-point operations a second.
    pub gflops: f64,
    /// Billions of bytes a second.
    pub gbytes: f64,
    /// What bounds it: `compute`, or the level of the memory that holds what it touches.
    pub bound: String,
    /// That ceiling, measured beside it: operations or bytes a second.
    pub ceiling: Estimate,
    /// 100 if it took the least time that the ceilings of the run allow; none where its work is not counted.
    pub roofline_percent: Option<f64>,
    /// Whether its results are right.
    pub check: Check,
    /// Others on the same case.
    pub peers: Vec<PeerRow>,
}

/// A peer on the case of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its name and version.
    pub name: String,
    /// Its seconds.
    pub seconds: Estimate,
    /// Its seconds over ours, round by round: above 1 ours is faster.
    pub ratio: Estimate,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The tables.
    pub text: String,
    /// Why it counts as failed, if it does.
    failure: Option<String>,
}

impl Outcome {
    /// Whether the run is a success.
    ///
    /// # Errors
    /// A kernel is wrong, or one is slower and that was not to be.
    pub fn judge(self) -> Result<()> {
        self.failure.map_or(Ok(()), |failure| Err(Error::invalid(failure)))
    }
}

/// Measures what is asked for and writes its files.
///
/// # Errors
/// Something asked for is not there, or an op refuses.
pub fn bench(args: &BenchArgs) -> Result<Outcome> {
    let queue = match args.device {
        BenchDevice::Cuda if args.isa.is_some() || args.threads.is_some() => {
            return Err(Error::invalid("--isa and --threads are of the processor, not of --device cuda"));
        }
        BenchDevice::Cuda => Queue::Cuda(CudaQueue::open()?),
        BenchDevice::Cpu => {
            let isa = args.isa.as_deref().map_or_else(cpu::Isa::from_env, cpu::Isa::parse)?;
            let threads = args.threads.map_or_else(cpu::threads_from_env, |threads| Ok(threads.get()))?;
            Queue::Cpu(CpuQueue::new(isa, threads)?)
        }
    };
    bench_on(queue, args)
}

/// As [`bench`], on this queue.
fn bench_on(queue: Queue, args: &BenchArgs) -> Result<Outcome> {
    if matches!(queue, Queue::Cuda(_)) && args.filter.as_deref() == Some(MODEL) {
        return Err(Error::invalid(
            "`model` times a step on the processor; on a device take --shapes from=CONFIG.toml for its ops, or the profile \
             of `coca train`",
        ));
    }
    let baseline = args.baseline.as_deref().map(baseline::load).transpose()?;
    let mut environment = Environment::now(&queue);
    let gauges = Gauges::new(&queue)?;
    gauges.under_load(|| environment.look_again())?;
    let path = environment.isa.clone();
    let mut lab = Lab { seconds: args.seconds, gauges, path, queue };
    let (subjects, mut step) = lab.subjects(args)?;
    let (measured, absent) = match &mut step {
        Some(step) if args.filter.as_deref() == Some(MODEL) => {
            let alone = "peers have single ops; `cargo run --release -p benches --bin step` has a step of open_clip's";
            let wanted = args.peers || !args.peer.is_empty();
            (lab.groups(step)?, wanted.then(|| alone.to_owned()).into_iter().collect())
        }
        _ => lab.ops(&cases::select(subjects, args.filter.as_deref())?, args)?,
    };
    let rows = measured.into_iter().map(|measured| measured.row(lab.gauges.ceilings(), &lab.path)).collect();
    let step = step.map(|step| step.about);
    let report = Report { environment, step, ceilings: lab.gauges.ceilings().clone(), rows, absent };
    let comparisons = baseline.map(|then| baseline::compare(&report, &then));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Error::invalid(error.to_string()))?;
        write(path, &text)?;
    }
    if let Some(path) = &args.html {
        write(path, &page::render(&report, comparisons.as_ref()))?;
    }
    let wrong = report.rows.iter().filter(|row| row.check.passed() == Some(false)).count();
    let slower = comparisons.as_ref().map_or(0, |comparisons| comparisons.count(Verdict::Slower));
    let failure = match (wrong, slower) {
        (0, 0) => None,
        (0, slower) => args.fail_on_slower.then(|| format!("{slower} rows are slower than in the baseline")),
        (wrong, _) => Some(format!("{wrong} rows have wrong results")),
    };
    Ok(Outcome { text: table::render(&report, comparisons.as_ref()), failure })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::io(path, error))
}

/// What was measured of a row, before the ceilings of the whole run are known.
struct Measured {
    /// The row but for what follows from those.
    row: Row,
    /// Its work, node by node.
    works: Vec<Work>,
}

impl Measured {
    fn row(self, ceilings: &Ceilings, path: &str) -> Row {
        let least = |(dtype, cost, footprint): Work| ceilings.least_seconds(path, dtype, cost, footprint);
        let least: f64 = self.works.into_iter().map(least).sum();
        let percent = (least > 0.0).then_some(100.0 * least / self.row.seconds.median);
        Row { roofline_percent: percent, ..self.row }
    }
}

/// A machine under measurement.
struct Lab {
    queue: Queue,
    /// The instruction-set path or architecture, as ceilings know it.
    path: String,
    gauges: Gauges,
    seconds: f64,
}

impl Lab {
    /// The ops to measure, and the training step that they are from.
    fn subjects(&self, args: &BenchArgs) -> Result<(Vec<Subject>, Option<TrainingStep>)> {
        let is_model = args.filter.as_deref() == Some(MODEL);
        let (mut subjects, mut step) = (Vec::new(), None);
        for shapes in &args.shapes {
            match shapes {
                Shapes::Product(..) if is_model => {
                    return Err(Error::invalid(
                        "a training step is that of a configuration: --shapes from=CONFIG.toml",
                    ));
                }
                Shapes::Product(m, n, k) => subjects.extend(cases::products((*m, *n, *k))),
                Shapes::Config(_) if step.is_some() => {
                    return Err(Error::invalid("--shapes takes one from=CONFIG.toml; run the others for themselves"));
                }
                Shapes::Config(file) => step = Some(self.step(Some(file), args)?),
            }
        }
        if is_model && step.is_none() {
            step = Some(self.step(None, args)?);
        }
        if args.shapes.is_empty() && !is_model {
            subjects = match &self.queue {
                Queue::Cpu(_) => cases::of_kernels(),
                Queue::Cuda(_) => cases::of_gpu(),
            };
        }
        // A configuration's step is recorded in the type that is asked for.
        subjects.retain(|subject| args.dtype.is_none_or(|dtype| subject.dtype() == dtype));
        if let Some(step) = &mut step {
            say(&format!("a training step: {}", step.about));
            // Its ops are listed on the processor, wherever they are measured.
            let processor = match &self.queue {
                Queue::Cpu(_) => self.queue.clone(),
                Queue::Cuda(_) => Queue::cpu_from_env()?,
            };
            step.warm_up(&processor)?;
            if !is_model {
                subjects.extend(step.nodes(&processor)?);
            }
        }
        Ok((subjects, step))
    }

    fn step(&self, file: Option<&Path>, args: &BenchArgs) -> Result<TrainingStep> {
        let dtype = args.dtype.map(|dtype| format!("compute.dtype={dtype}"));
        TrainingStep::new(Config::load(file, &args.sets.iter().cloned().chain(dtype).collect::<Vec<_>>())?)
    }

    /// Measures ops, each in turns with its peers.
    fn ops(&mut self, subjects: &[Subject], args: &BenchArgs) -> Result<(Vec<Measured>, Vec<String>)> {
        let python = args.peers.then_some(args.python.as_path());
        let mut field = peers::open(python, &args.peer, &self.queue, subjects);
        let (mut measured, mut missing) = (Vec::new(), Vec::new());
        for (place, subject) in subjects.iter().enumerate() {
            let Some(found) = self.op(place, subject, &mut field, &mut missing)? else { continue };
            let Row { name, pass, seconds, .. } = &found.row;
            let time = table::time(seconds.median);
            say(&format!("{}/{}  {time:>9}  {pass} {name}", place + 1, subjects.len()));
            measured.push(found);
        }
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            field.absent.push(format!("not measured, for want of a CUDA kernel: {}", missing.join(", ")));
        }
        Ok((measured, field.absent))
    }

    /// Measures an op. Of one that has no kernel for the device, or whose backward has none, only names are added to `missing`.
    fn op(
        &mut self,
        place: usize,
        subject: &Subject,
        field: &mut peers::Field,
        missing: &mut Vec<&'static str>,
    ) -> Result<Option<Measured>> {
        let values = kernels::case::values(&subject.inputs, 1);
        let mut program = subject.program(&values, self.queue.device())?;
        if let Queue::Cuda(cuda) = &self.queue {
            let names = program.missing_kernels(cuda)?;
            if !names.is_empty() {
                missing.extend(names);
                return Ok(None);
            }
        }
        let (dtype, cost, footprint) = (subject.dtype(), program.cost()?, program.footprint_bytes());
        let check = check::check(subject, &mut program, &self.queue, &values)?;
        let bound = self.gauges.ceilings().bound(&self.path, dtype, cost, footprint);
        let mut ours = self.ours(subject, program, &values)?;
        let mut failed = Vec::new();
        let (indices, mut others): (Vec<_>, Vec<_>) =
            field.contestants(place, &values, &mut failed).into_iter().unzip();
        drop(values);
        let mut contestants: Vec<&mut dyn Contestant> = vec![ours.as_mut()];
        contestants.extend(others.iter_mut().map(|contestant| contestant.as_mut() as &mut dyn Contestant));
        let mut ceiling = Vec::new();
        let samples = take_turns(&mut contestants, self.seconds, &mut || {
            ceiling.push(self.gauges.now(&bound, dtype)?);
            Ok(())
        })?;
        drop(others);
        let mut samples = samples.into_iter();
        let own = &samples.next().unwrap_or_else(|| Ok(Vec::new()))?;
        let mut peers = Vec::new();
        for (index, samples) in indices.into_iter().zip(samples) {
            let name = field.peers[index].name().to_owned();
            match samples {
                Ok(samples) => {
                    let ratio = estimate(&quotients(&samples, own))?;
                    peers.push(PeerRow { name, seconds: estimate(&samples)?, ratio });
                }
                Err(error) => failed.push((index, error)),
            }
        }
        field.dismiss(failed, &format!("{} {}", subject.pass, subject.name));
        let works = vec![(dtype, cost, footprint)];
        let row = self.row(&subject.name, subject.pass, (subject.calls, &works), own, (&bound, &ceiling))?;
        Ok(Some(Measured { row: Row { check, peers, ..row }, works }))
    }

    /// What runs the program again and again where it was compiled for.
    fn ours(&self, subject: &Subject, mut program: CaseProgram, values: &[Array]) -> Result<Box<dyn Contestant>> {
        let queue = self.queue.clone();
        let Queue::Cuda(cuda) = &self.queue else {
            let own = queue.clone();
            return Ok(Box::new(Runs { queue, run: move || program.run(&own) }));
        };
        let count = copies(cuda.driver().properties().l2_bytes as usize, program.footprint_bytes());
        let mut programs = vec![program];
        for _ in 1..count {
            programs.push(subject.program(values, queue.device())?);
        }
        Ok(Box::new(DeviceRuns::new(cuda, programs)?))
    }

    /// Measures a training step by groups of ops.
    fn groups(&mut self, step: &mut TrainingStep) -> Result<Vec<Measured>> {
        let (mut groups, mut ceilings) = (Groups::new(), [Vec::new(), Vec::new()]);
        let dtype = step.dtype();
        let memory = Bound::Memory(self.gauges.ceilings().memory.len() - 1);
        let start = std::time::Instant::now();
        let budget = 20.0 * self.seconds;
        while groups.steps < LEAST_STEPS || (groups.steps < MOST_STEPS && start.elapsed().as_secs_f64() < budget) {
            for (bound, rates) in [&Bound::Compute, &memory].into_iter().zip(&mut ceilings) {
                rates.push(self.gauges.now(bound, dtype)?);
            }
            step.time(&self.queue, &mut groups)?;
            say(&format!("step {}", groups.steps));
        }
        let mut measured = Vec::new();
        for GroupTimes { name, phase, works, seconds } in groups.finish() {
            let (seen, path) = (self.gauges.ceilings(), &self.path);
            let arithmetic = |&(dtype, cost, _): &Work| cost.flops / seen.flops_per_second(path, dtype);
            let moves = |&(_, cost, footprint): &Work| seen.seconds_to_move(cost.bytes, footprint);
            let is_arithmetic = works.iter().map(arithmetic).sum::<f64>() > works.iter().map(moves).sum::<f64>();
            let bound = if is_arithmetic { (&Bound::Compute, &ceilings[0][..]) } else { (&memory, &ceilings[1][..]) };
            let row = self.row(&name, phase, (works.len().max(1), &works), &seconds, bound)?;
            measured.push(Measured { row, works });
        }
        Ok(measured)
    }

    /// A row but for what checks, peers and the ceilings of the whole run say.
    fn row(
        &self,
        name: &str,
        pass: &str,
        (calls, works): (usize, &[Work]),
        samples: &[f64],
        (bound, ceiling): (&Bound, &[f64]),
    ) -> Result<Row> {
        let seconds = estimate(samples)?;
        // An empty `sum` is -0.
        let sum = |part: fn(&Cost) -> f64| works.iter().fold(0.0, |sum, (_, cost, _)| sum + part(cost));
        let (flops, bytes) = (sum(|cost| cost.flops), sum(|cost| cost.bytes));
        Ok(Row {
            name: name.to_owned(),
            pass: pass.to_owned(),
            dtype: works.first().map(|work| work.0),
            calls,
            flops,
            bytes,
            footprint_bytes: works.iter().map(|work| work.2).max().unwrap_or(0),
            seconds,
            gflops: flops / seconds.median / 1e9,
            gbytes: bytes / seconds.median / 1e9,
            bound: self.bound_name(bound),
            ceiling: estimate(ceiling)?,
            roofline_percent: None,
            check: Check::none("a step is checked op by op"),
            peers: Vec::new(),
        })
    }

    fn bound_name(&self, bound: &Bound) -> String {
        match bound {
            Bound::Compute => COMPUTE.to_owned(),
            Bound::Memory(level) => self.gauges.ceilings().memory[*level].name.clone(),
        }
    }
}

/// A line on stderr: a run of all ops takes minutes.
fn say(line: &str) {
    // A closed stderr is no reason to stop.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}

#[cfg(test)]
fn test_report() -> Report {
    let estimate = |median: f64| Estimate { median, low: 0.99 * median, high: 1.02 * median, samples: 40 };
    let row = |name: &str, flops: f64, bytes: f64, bound: &str| Row {
        name: name.to_owned(),
        pass: "forward".into(),
        dtype: Some(DType::F32),
        calls: 1,
        flops,
        bytes,
        footprint_bytes: bytes as usize,
        seconds: estimate(1e-3),
        gflops: flops / 1e6,
        gbytes: bytes / 1e6,
        bound: bound.to_owned(),
        ceiling: estimate(1e11),
        roofline_percent: Some(80.0),
        check: Check { against: "all of it in f64".into(), compared: 600, error: 0.25 },
        peers: Vec::new(),
    };
    let mut product = row("matmul_nt 8x8x8 <f32>", 8e7, 1e6, "compute");
    product.peers.push(PeerRow { name: "torch 2".into(), seconds: estimate(2e-3), ratio: estimate(2.0) });
    Report {
        environment: environment::test_environment(),
        step: None,
        ceilings: ceilings::test_ceilings(),
        rows: vec![product, row("layer_norm f32[4, 4]", 1e6, 8e6, "memory"), row("take_rows", 0.0, 4e6, "L2")],
        absent: vec!["gemm & co are not built in".into()],
    }
}

#[cfg(test)]
mod tests;
