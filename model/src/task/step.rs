//! The training step of a task: forward and backward through head, decoder and encoder in one pass.

use super::{Pass, TaskPlan, TaskTexts};
use crate::Coca;
use engine::{Compile, Cost, DType, Error, Meta, Observer, Program, Queue, Result, Tape, Tensor, Workspace};
use kernels::cross_entropy::cross_entropy;

/// Losses of a step, unweighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TaskLosses {
    /// Mean over the samples whose class counts.
    pub class: f32,
    /// Mean over the tokens that count, questions and answers.
    pub caption: f32,
}

/// A planned training step. Gradients go to the model's gradient arena.
#[derive(Debug)]
pub struct TaskStep {
    plan: TaskPlan,
    program: Program,
    pass: Pass,
    labels: Tensor,
    class: (Tensor, Tensor),
    caption: Option<(Tensor, Tensor)>,
    unreached: Vec<String>,
}

impl TaskStep {
    /// Records, plans and compiles the step.
    ///
    /// # Errors
    /// The model has no gradients or another head than the plan needs, a caption loss is wanted without texts, or a size or
    /// the smoothing is out of its range.
    pub fn new(model: &Coca, plan: TaskPlan, workspace: &Workspace) -> Result<TaskStep> {
        let mut tape = Tape::record();
        let pass = Pass::record(&mut tape, model, &plan)?;
        let labels = tape.input("classes", Meta::new([plan.samples], DType::I32))?;
        let loss = cross_entropy(&mut tape, pass.logits, labels, plan.label_smoothing)?;
        let scalar = Meta::new([1], DType::F32);
        let class = (loss, tape.input("class weight", scalar)?);
        let mut seeds = vec![class];
        let caption = match (plan.caption, &pass.texts) {
            (false, _) => None,
            (true, None) => return Err(Error::invalid("a task without texts has no caption loss")),
            (true, Some(texts)) => {
                let loss = model.layers(&mut tape).caption_loss(texts.hidden, &texts.inputs)?.loss;
                let seed = (loss, tape.input("caption weight", scalar)?);
                seeds.push(seed);
                Some(seed)
            }
        };
        for &(loss, _) in &seeds {
            tape.keep(loss);
        }
        tape.backward(&seeds)?;
        let unreached = model.unreached(&tape);
        tape.checkpoint(plan.checkpointing)?;
        let program = Program::compile(tape, workspace, Compile { guard_bytes: plan.guard_bytes })?;
        Ok(TaskStep { plan, program, pass, labels, class, caption, unreached })
    }

    /// The sizes that the step was planned for.
    pub fn plan(&self) -> TaskPlan {
        self.plan
    }

    /// The compiled program: its memory plan and work.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Work of a run with the batch that was written last.
    pub fn cost(&self) -> Result<Cost> {
        self.program.cost()
    }

    /// Trainable parameters that get no gradient in this step, in arena order; those that it does not use are among them.
    pub fn unreached(&self) -> &[String] {
        &self.unreached
    }

    /// Copies a batch in: images u8 `[samples, images, size, size, 3]`, as many texts where the head reads them, and the class
    /// of each sample; one below 0 counts nothing.
    ///
    /// # Errors
    /// The batch has another size than was planned.
    pub fn write(&self, images: &[u8], texts: Option<&TaskTexts>, classes: &[i32]) -> Result<()> {
        if classes.len() != self.plan.samples {
            let (given, wanted) = (classes.len(), self.plan.samples);
            return Err(Error::invalid(format!("{given} classes for a step of {wanted} samples")));
        }
        self.pass.write(&self.program, images, texts)?;
        self.program.write(self.labels, classes)
    }

    /// Runs forward and backward with these weights of the two losses. With `accumulate`, gradients are added.
    ///
    /// # Errors
    /// A class is none of the head's, an op refuses, or a check fails.
    pub fn run(
        &mut self,
        queue: &Queue,
        class_weight: f32,
        caption_weight: f32,
        accumulate: bool,
        observers: &mut [&mut (dyn Observer + Send)],
    ) -> Result<TaskLosses> {
        self.program.write(self.class.1, &[class_weight])?;
        if let Some((_, weight)) = self.caption {
            self.program.write(weight, &[caption_weight])?;
        }
        self.program.run_observed(queue, accumulate, observers)?;
        let read = |tensor: Tensor| -> Result<f32> { Ok(self.program.read::<f32>(tensor)?[0]) };
        Ok(TaskLosses { class: read(self.class.0)?, caption: self.caption.map_or(Ok(0.0), |(loss, _)| read(loss))? })
    }
}
