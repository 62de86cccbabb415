//! Our training step on random data: forward, losses, backward, clipping, AdamW.

use engine::rng::Philox;
use engine::{Checkpointing, Cost, DType, Observer, Profiler, Program, Queue, Result, Workspace};
use kernels::optimizer::{AdamW, AdamWSettings, Optimizer, Rule, Step, clip_factor};
use kernels::reduce;
use model::config::{CocaConfig, Pooler};
use model::packing::PackedText;
use model::params::decays;
use model::task::{Reads, TaskPlan, TaskStep};
use model::train::{Contrast, StepPlan, TrainStep};
use model::{Coca, LOGIT_SCALE};
use std::time::Instant;

/// What is trained.
#[derive(Debug)]
enum Pass {
    /// CoCa with both losses.
    Both(TrainStep),
    /// The image encoder under a classifier.
    Classes(TaskStep),
}

impl Pass {
    fn run(&mut self, queue: &Queue, observers: &mut [&mut (dyn Observer + Send)]) -> Result<()> {
        match self {
            Pass::Both(step) => step.run(queue, 1.0, 2.0, false, observers).map(drop),
            Pass::Classes(step) => step.run(queue, 1.0, 0.0, false, observers).map(drop),
        }
    }

    fn program(&self) -> &Program {
        match self {
            Pass::Both(step) => step.program(),
            Pass::Classes(step) => step.program(),
        }
    }

    fn cost(&self) -> Result<Cost> {
        match self {
            Pass::Both(step) => step.cost(),
            Pass::Classes(step) => step.cost(),
        }
    }
}

/// A model, its optimiser and one batch.
#[derive(Debug)]
pub struct OurStep {
    queue: Queue,
    model: Coca,
    pass: Pass,
    optimizer: AdamW,
    number: u64,
}

impl OurStep {
    /// A model with random weights and `batch` pairs whose captions have `tokens` ids, on the device of the queue.
    ///
    /// # Errors
    /// The configuration is invalid, the captions do not fit it, or memory runs out.
    pub fn new(queue: &Queue, config: CocaConfig, dtype: DType, batch: usize, tokens: usize) -> Result<OurStep> {
        let mut model = Coca::new(config, dtype, true)?;
        model.initialize(1)?;
        model.parameters_mut().move_to(queue.device())?;
        let config = model.config();
        let mut random = Philox::new(1, 0);
        let mut id = || 1 + random.below(config.text.vocabulary_size - 1) as i32;
        let texts: Vec<Vec<i32>> = (0..batch).map(|_| (0..tokens).map(|_| id()).collect()).collect();
        let texts = PackedText::new(&texts, &config.text)?;
        let plan = StepPlan {
            batch,
            text_rows: texts.rows(),
            decoder_rows: texts.decoder_rows.len(),
            checkpointing: Checkpointing::None,
            contrastive: Contrast::Within,
            caption: true,
            guard_bytes: 0,
        };
        let step = TrainStep::new(&model, plan, &Workspace::on(queue.device()))?;
        step.write(&images(&mut random, batch, config), &texts)?;
        OurStep::of(queue, model, Pass::Both(step))
    }

    /// The image encoder of a configuration alone, with random weights, that learns to classify `batch` images. A pooler of
    /// one query and a linear layer over its rows tell `classes` apart; the text side is as small as it can be.
    ///
    /// # Errors
    /// The configuration is invalid, there are fewer than two classes, or memory runs out.
    pub fn classifier(
        queue: &Queue,
        mut config: CocaConfig,
        dtype: DType,
        batch: usize,
        classes: usize,
    ) -> Result<OurStep> {
        let (text, decoder) = (&mut config.text, &mut config.decoder);
        (text.vocabulary_size, text.context_length, text.layers, decoder.layers) = (16, 4, 1, 1);
        config.pooler = match config.pooler {
            Pooler::OpenClip { heads, .. } => Pooler::OpenClip { queries: 2, heads },
            other => other,
        };
        let head = Reads::Images.head(&config, 1, classes);
        let mut model = Coca::with_head(config, Some(head), dtype, true)?;
        model.initialize(1)?;
        model.parameters_mut().move_to(queue.device())?;
        let mut random = Philox::new(1, 0);
        let plan = TaskPlan::of_logits(&model, Reads::Images, batch, 1);
        let step = TaskStep::new(&model, plan, &Workspace::on(queue.device()))?;
        let labels: Vec<i32> = (0..batch).map(|_| random.below(classes) as i32).collect();
        step.write(&images(&mut random, batch, model.config()), None, &labels)?;
        OurStep::of(queue, model, Pass::Classes(step))
    }

    fn of(queue: &Queue, model: Coca, pass: Pass) -> Result<OurStep> {
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        let rule =
            |entry: &engine::Parameter| Rule { decay: decays(&entry.name, &entry.shape), learning_rate_scale: 1.0 };
        let optimizer = AdamW::new(settings, model.parameters(), rule)?;
        Ok(OurStep { queue: queue.clone(), model, pass, optimizer, number: 0 })
    }

    /// Forward and backward once more, node by node.
    ///
    /// # Errors
    /// An op refuses.
    pub fn profile(&mut self, profiler: &mut Profiler) -> Result<()> {
        profiler.start_run();
        self.pass.run(&self.queue, &mut [profiler])
    }

    /// One step; its seconds.
    ///
    /// # Errors
    /// An op refuses.
    pub fn run(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.pass.run(&self.queue, &mut [])?;
        let norm = reduce::gradient_norm(&self.queue, self.model.parameters())?;
        self.number += 1;
        let step = Step { number: self.number, learning_rate: 1e-4, gradient_factor: clip_factor(norm, 1.0) };
        self.optimizer.step(&self.queue, self.model.parameters(), step)?;
        let scale = self.model.logit_scale()?.clamp(0.0, 100.0f32.ln());
        self.model.parameters().write(LOGIT_SCALE, &[scale])?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Bytes of weights, gradients, optimiser state, activations and inputs.
    pub fn bytes(&self) -> u64 {
        let parameters = self.model.parameters();
        let arenas = [Some(parameters.master()), parameters.bf16(), parameters.gradient()];
        let weights: usize = arenas.into_iter().flatten().map(|arena| arena.bytes()).sum();
        let state: usize = self.optimizer.state().iter().map(|(_, arena)| arena.bytes()).sum();
        let plan = self.pass.program().plan();
        (weights + state + plan.peak_bytes + plan.input_bytes) as u64
    }

    /// Floating-point operations of one step, as executed.
    ///
    /// # Errors
    /// The row offsets cannot be read.
    pub fn flops(&self) -> Result<f64> {
        Ok(self.pass.cost()?.flops)
    }
}

/// Random pixels u8 `[batch, size, size, 3]`.
fn images(random: &mut Philox, batch: usize, config: &CocaConfig) -> Vec<u8> {
    let side = config.vision.image_size;
    (0..batch * side * side * 3).map(|_| random.below(256) as u8).collect()
}
