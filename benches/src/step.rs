//! Our training step on random data: forward, both losses, backward, clipping, AdamW.

use engine::rng::Philox;
use engine::{Checkpointing, DType, Profiler, Queue, Result, Workspace};
use kernels::optimizer::{AdamW, AdamWSettings, Optimizer, Rule, Step, clip_factor};
use kernels::reduce;
use model::config::CocaConfig;
use model::packing::PackedText;
use model::params::decays;
use model::train::{Contrast, StepPlan, TrainStep};
use model::{Coca, LOGIT_SCALE};
use std::time::Instant;

/// A model, its optimiser and one batch.
#[derive(Debug)]
pub struct OurStep {
    queue: Queue,
    model: Coca,
    step: TrainStep,
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
        let side = config.vision.image_size;
        let images: Vec<u8> = (0..batch * side * side * 3).map(|_| random.below(256) as u8).collect();
        step.write(&images, &texts)?;
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        let rule =
            |entry: &engine::Parameter| Rule { decay: decays(&entry.name, &entry.shape), learning_rate_scale: 1.0 };
        let optimizer = AdamW::new(settings, model.parameters(), rule)?;
        Ok(OurStep { queue: queue.clone(), model, step, optimizer, number: 0 })
    }

    /// Forward and backward once more, node by node.
    ///
    /// # Errors
    /// An op refuses.
    pub fn profile(&mut self, profiler: &mut Profiler) -> Result<()> {
        profiler.start_run();
        self.step.run(&self.queue, 1.0, 2.0, false, &mut [profiler]).map(drop)
    }

    /// One step; its seconds.
    ///
    /// # Errors
    /// An op refuses.
    pub fn run(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.step.run(&self.queue, 1.0, 2.0, false, &mut [])?;
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
        let plan = self.step.program().plan();
        (weights + state + plan.peak_bytes + plan.input_bytes) as u64
    }

    /// Floating-point operations of one step, as executed.
    ///
    /// # Errors
    /// The row offsets cannot be read.
    pub fn flops(&self) -> Result<f64> {
        Ok(self.step.cost()?.flops)
    }
}
