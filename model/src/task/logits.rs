//! What the head says of many samples, in passes of a fixed size.

use super::{Pass, TaskPlan, TaskTexts};
use crate::Coca;
use engine::{Compile, Error, Program, Queue, Result, Tape, Workspace};

/// Logits of samples, `plan.samples` in a pass.
#[derive(Debug)]
pub struct TaskLogits {
    plan: TaskPlan,
    program: Program,
    pass: Pass,
}

impl TaskLogits {
    /// Plans a pass; see [`TaskPlan::of_logits`].
    ///
    /// # Errors
    /// The model has another head than the plan needs, or a size is out of its range.
    pub fn new(model: &Coca, plan: TaskPlan, workspace: &Workspace) -> Result<TaskLogits> {
        let mut tape = Tape::record();
        let pass = Pass::record(&mut tape, model, &plan)?;
        tape.keep(pass.logits);
        let program = Program::compile(tape, workspace, Compile { guard_bytes: plan.guard_bytes })?;
        Ok(TaskLogits { plan, program, pass })
    }

    /// The compiled program: its memory plan and work.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Logits f32 `[samples, classes]` of one pass of at most as many samples as were planned: images u8
    /// `[samples, images, size, size, 3]`, and as many texts where the head reads them.
    ///
    /// # Errors
    /// The images are no whole samples or more than were planned, or there is not one text for each image.
    pub fn run(&mut self, queue: &Queue, images: &[u8], texts: Option<TaskTexts>) -> Result<Vec<f32>> {
        let TaskPlan { samples: most, images: per_sample, .. } = self.plan;
        let wanted = self.pass.images.meta().elements();
        let samples = images.len() * most / wanted;
        if samples > most || samples * (wanted / most) != images.len() {
            return Err(Error::invalid(format!(
                "a pass reads up to {most} samples of {} bytes of images each, {} were given",
                wanted / most,
                images.len()
            )));
        }
        let given = texts.as_ref().map(|texts| texts.packed.texts());
        if let Some(given) = given.filter(|&given| given != samples * per_sample) {
            return Err(Error::invalid(format!("{given} texts for {samples} samples of {per_sample} images")));
        }
        let mut padded = images.to_vec();
        padded.resize(wanted, 0);
        let texts = texts.map(|mut texts| {
            texts.pad_to(most * per_sample);
            texts
        });
        self.pass.write(&self.program, &padded, texts.as_ref())?;
        self.program.run(queue, false)?;
        let mut logits = self.program.read::<f32>(self.pass.logits)?;
        logits.truncate(logits.len() / most * samples);
        Ok(logits)
    }
}
