//! A training step of a configuration, as a run takes it: listed node by node, so that every op of a model is measured in the
//! model's own shapes, or timed whole by groups of ops.

use super::cases::Subject;
use super::statistics::Estimate;
use crate::config::{Config, TaskKind};
use crate::data::Batch;
use crate::plan::data::{Opened, first_batch};
use crate::run::{State, Stepper};
use crate::{Error, Result};
use engine::rng::Philox;
use engine::{Cost, DType, Element, Meta, Observer, Phase, Queue, StepView, View};
use half::bf16;
use kernels::case::{Fill, Input, Pass, Reference, Role, Tolerance};
use kernels::layer_norm::LayerNorm;
use kernels::matmul::Matmul;
use kernels::reduce;
use model::packing::PackedText;
use model::tokenizer::Tokenizer;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Tensors of so many elements at most are measured with the values of the step; larger ones with random values of the
/// same size on average, but where one must agree with another.
const EXACT: usize = 1 << 12;

/// A model at its start, with the batches of one step.
#[derive(Debug)]
pub struct TrainingStep {
    config: Config,
    state: State,
    stepper: Stepper,
    batches: Vec<Batch>,
    /// What the batches are.
    pub about: String,
}

impl TrainingStep {
    /// The first step of a run with this configuration, whose batches are all the first one. Where the data is not there,
    /// random pictures with texts of full length.
    ///
    /// # Errors
    /// The configuration is invalid, or its data is needed and not there.
    pub fn new(config: Config) -> Result<TrainingStep> {
        let architecture = config.architecture()?;
        let (tokenizer, task, batch, about) = match first_batch(&config, &architecture) {
            Ok(Opened { tokenizer, task, batch, .. }) => {
                let tokenizer = Arc::unwrap_or_clone(tokenizer);
                (tokenizer, task.map(Arc::unwrap_or_clone), batch, format!("the first batch of {}", config.data.train))
            }
            Err(error) if config.model.tokenizer != "clip" || config.task.kind != TaskKind::Pretrain => {
                return Err(Error::invalid(format!("a training step needs its data here: {error}")));
            }
            Err(error) => {
                let mut random = Philox::new(config.run.seed, 0);
                let size = config.batch.size;
                let pixels = size * architecture.vision.image_size.pow(2) * 3;
                let text = &architecture.text;
                let mut id = || 1 + random.below(text.vocabulary_size - 1) as i32;
                let texts = (0..size).map(|_| (0..text.context_length).map(|_| id()).collect()).collect();
                let images = (0..pixels).map(|_| random.below(256) as u8).collect();
                let about = format!("random pictures and texts of full length, because the data is not there: {error}");
                (Tokenizer::clip(), None, Batch { images, texts, ..Batch::default() }, about)
            }
        };
        let state = State::new(&config, tokenizer, task, None)?;
        let stepper = Stepper::new(&config, state.task.as_deref())?;
        let batches = vec![batch; config.batch.accumulation.max(1)];
        let texts = PackedText::new(&batches[0].texts, &architecture.text)?.rows();
        let count = if batches.len() == 1 { "a batch".to_owned() } else { format!("{} batches", batches.len()) };
        let about = format!("{count} of {} pairs, {texts} text rows each, {about}", config.batch.size);
        Ok(TrainingStep { config, state, stepper, batches, about })
    }

    /// The type that activations are stored in.
    pub fn dtype(&self) -> DType {
        self.state.model.dtype()
    }

    /// Forward and backward over all batches.
    fn gradient(&mut self, queue: &Queue, observers: &mut [&mut (dyn Observer + Send)]) -> Result<()> {
        self.stepper.run(queue, &self.state.model, &self.batches, observers).map(drop)
    }

    /// The distinct nodes of the step: op, shapes, types, and how often each runs.
    ///
    /// # Errors
    /// An op refuses, or memory runs out.
    pub fn nodes(&mut self, queue: &Queue) -> Result<Vec<Subject>> {
        let mut recorder = Recorder::default();
        self.gradient(queue, &mut [&mut recorder])?;
        Ok(recorder.subjects)
    }

    /// Takes a step that is not timed: plans are made and memory is touched.
    ///
    /// # Errors
    /// An op refuses, or memory runs out.
    pub fn warm_up(&mut self, queue: &Queue) -> Result<()> {
        self.gradient(queue, &mut [])
    }

    /// Takes a step with an observer, which times each group of ops, then a whole one without: gradient, its norm, update.
    ///
    /// # Errors
    /// An op refuses, or memory runs out.
    pub fn time(&mut self, queue: &Queue, groups: &mut Groups) -> Result<()> {
        groups.steps += 1;
        self.gradient(queue, &mut [&mut *groups])?;
        let begin = Instant::now();
        self.gradient(queue, &mut [])?;
        let start = Instant::now();
        let norm = reduce::gradient_norm(queue, self.state.model.parameters())?;
        groups.add("gradient_norm", "update", start.elapsed().as_secs_f64());
        let start = Instant::now();
        // So small a rate leaves the model where it is: every step is the first.
        self.state.update(queue, &self.config, 1e-12, norm)?;
        groups.add("optimizer", "update", start.elapsed().as_secs_f64());
        groups.add("step", WHOLE, begin.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Phase of the group that is everything.
pub const WHOLE: &str = "whole";

/// Name of an op and phase.
type Key = (String, &'static str);

/// What a node computes with, its work, and the bytes that it touches.
pub type Work = (DType, Cost, usize);

/// One group of nodes.
#[derive(Clone, Debug, Default)]
struct Group {
    /// Of each node of one step.
    works: Vec<Work>,
    /// Of every step.
    seconds: Vec<f64>,
}

/// Times of the nodes of steps, summed by op and phase.
#[derive(Debug)]
pub struct Groups {
    started: Instant,
    /// Steps begun.
    pub steps: usize,
    order: Vec<Key>,
    groups: HashMap<Key, Group>,
}

/// A group's figures.
#[derive(Clone, Debug)]
pub struct GroupTimes {
    /// Name of the op.
    pub name: String,
    /// Phase of the step.
    pub phase: &'static str,
    /// The work of its nodes; none where it is not counted.
    pub works: Vec<Work>,
    /// Seconds of a step.
    pub seconds: Vec<f64>,
}

impl Groups {
    /// None yet.
    pub fn new() -> Groups {
        Groups { started: Instant::now(), steps: 0, order: Vec::new(), groups: HashMap::new() }
    }

    fn group(&mut self, name: &str, phase: &'static str) -> &mut Group {
        let key = (name.to_owned(), phase);
        if !self.groups.contains_key(&key) {
            self.order.push(key.clone());
        }
        let group = self.groups.entry(key).or_default();
        group.seconds.resize(self.steps, 0.0);
        group
    }

    /// One call in this step of what is no node.
    fn add(&mut self, name: &str, phase: &'static str, seconds: f64) {
        self.group(name, phase).spend(seconds);
    }

    /// The figures, what takes most time first, the whole step at the end.
    pub fn finish(mut self) -> Vec<GroupTimes> {
        let all_works: Vec<Work> = self.groups.values().flat_map(|group| group.works.clone()).collect();
        let mut times = Vec::new();
        for (name, phase) in std::mem::take(&mut self.order) {
            let group = self.groups.remove(&(name.clone(), phase)).unwrap_or_default();
            let works = if phase == WHOLE { all_works.clone() } else { group.works };
            times.push(GroupTimes { name, phase, works, seconds: group.seconds });
        }
        let median = |times: &GroupTimes| Estimate::of(&times.seconds).map_or(0.0, |seconds| seconds.median);
        let last = |times: &GroupTimes| times.phase == WHOLE;
        times.sort_by(|a, b| last(a).cmp(&last(b)).then(median(b).total_cmp(&median(a))));
        times
    }
}

impl Default for Groups {
    fn default() -> Groups {
        Groups::new()
    }
}

impl Group {
    fn spend(&mut self, seconds: f64) {
        if let Some(of_step) = self.seconds.last_mut() {
            *of_step += seconds;
        }
    }
}

impl Observer for Groups {
    fn before(&mut self, _: &StepView<'_>) -> Result<()> {
        self.started = Instant::now();
        Ok(())
    }

    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let is_first_step = self.steps == 1;
        let group = self.group(step.op.name(), phase(step.phase));
        group.spend(seconds);
        if is_first_step {
            let dtype = step.inputs.iter().map(|view| view.meta().dtype).find(|dtype| dtype.is_float());
            let read: usize = step.inputs.iter().map(|view| view.meta().bytes()).sum();
            let written: usize = step.outputs.iter().map(|(_, meta, _)| meta.bytes()).sum();
            group.works.push((dtype.unwrap_or(DType::F32), step.cost, read + written));
        }
        Ok(())
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Recompute => "recompute",
    }
}

/// Lists the distinct nodes that it sees, with inputs to run each alone.
#[derive(Debug, Default)]
struct Recorder {
    subjects: Vec<Subject>,
    places: HashMap<String, usize>,
}

impl Observer for Recorder {
    fn before(&mut self, step: &StepView<'_>) -> Result<()> {
        let metas: Vec<Meta> = step.inputs.iter().map(View::meta).collect();
        let key = format!("{:?} {:?} {metas:?}", step.phase, step.op);
        if let Some(&place) = self.places.get(&key) {
            self.subjects[place].calls += 1;
            return Ok(());
        }
        let op: &dyn Any = &**step.op;
        // An operand that is an activation of another agrees with it.
        let product = op.downcast_ref::<Matmul>();
        let agree = product.is_some_and(|product| product.activated_input.is_some());
        let most = if agree { usize::MAX } else { EXACT };
        let inputs: Vec<Input> = step.inputs.iter().map(|view| input(view, most)).collect::<Result<_>>()?;
        let shapes = metas.iter().map(Meta::to_string).collect::<Vec<_>>().join(", ");
        let longest = metas.iter().flat_map(|meta| meta.shape.dims().to_vec()).max().unwrap_or(1);
        // Every sum of an op runs over some dimension of its inputs, forward and backward over two.
        let tolerance = Tolerance::sum_of(2 * longest + 100).roundings(4.0);
        self.places.insert(key, self.subjects.len());
        self.subjects.push(Subject {
            name: format!("{} {shapes}", step.op.name()),
            pass: phase(step.phase),
            calls: 1,
            op: step.op.clone(),
            inputs,
            run: Pass::Forward,
            results: step.scratch.iter().take_while(|&&scratch| !scratch).count().max(1),
            // Of those whose parts can be computed alone.
            reference: product.map(|product| Arc::new(*product) as Arc<dyn Reference>),
            tolerance: match op.is::<LayerNorm>() {
                // The mean of normalised rows is nearly 0; it is as far off as one of such terms may be.
                true => tolerance.scale(largest(step.inputs)?),
                false => tolerance,
            },
        });
        Ok(())
    }
}

/// The elements of a tensor.
fn elements(view: &View<'_>) -> Result<Vec<f64>> {
    fn wide<T: Element>(view: &View<'_>) -> Result<Vec<f64>> {
        Ok(view.slice::<T>()?.iter().map(|value| value.to_f64()).collect())
    }
    match view.meta().dtype {
        DType::F32 => wide::<f32>(view),
        DType::BF16 => wide::<bf16>(view),
        DType::I32 => wide::<i32>(view),
        DType::U8 => wide::<u8>(view),
    }
}

fn largest(views: &[View<'_>]) -> Result<f64> {
    views.iter().try_fold(0.0, |largest, view| {
        Ok(elements(view)?.iter().fold(largest, |largest: f64, value| value.abs().max(largest)))
    })
}

/// An input as the node saw it, of up to `most` elements; see [`EXACT`].
fn input(view: &View<'_>, most: usize) -> Result<Input> {
    let values = elements(view)?;
    let fill = if !view.meta().dtype.is_float() || values.len() <= most {
        Fill::Values(values)
    } else {
        let squares: f64 = values.iter().map(|value| value.powi(2)).filter(|square| square.is_finite()).sum();
        Fill::Normal((squares / values.len() as f64).sqrt())
    };
    Ok(Input { meta: view.meta(), fill, role: Role::Data, ragged: None })
}
