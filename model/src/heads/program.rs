//! A head as programs over rows that were computed before: a training step, and logits.

use super::Head;
use engine::{Compile, DType, Element, Error, Meta, Program, Queue, Result, Tape, Tensor, Workspace};
use kernels::attention::Rows;
use kernels::cross_entropy::cross_entropy;

/// The label of a place in a batch that no sequence fills.
const UNUSED: i32 = -1;

/// Sequences of a fixed number of rows as the input of a program.
#[derive(Debug)]
struct Sequences {
    tensor: Tensor,
    batch: usize,
    /// Elements of a sequence.
    elements: usize,
}

impl Sequences {
    fn declare(tape: &mut Tape, head: &Head, batch: usize, rows: usize) -> Result<Sequences> {
        let inputs = head.config().inputs;
        if batch == 0 || rows == 0 || (rows > 1 && head.config().pooler.is_none()) {
            return Err(Error::invalid(format!(
                "{batch} sequences of {rows} rows: a batch and its sequences must not be empty, and without a pooler a \
                 head reads single rows"
            )));
        }
        let tensor = tape.input("head tokens", Meta::new([batch * rows, inputs], head.dtype()))?;
        Ok(Sequences { tensor, batch, elements: rows * inputs })
    }

    /// How many sequences these values are.
    fn count(&self, values: usize) -> Result<usize> {
        if !values.is_multiple_of(self.elements) {
            let elements = self.elements;
            return Err(Error::invalid(format!("{values} values are no whole sequences of {elements} each")));
        }
        Ok(values / self.elements)
    }
}

/// A planned training step of a head on sequences of `rows` rows. Gradients go to the head's gradient arena.
#[derive(Debug)]
pub struct HeadStep {
    program: Program,
    sequences: Sequences,
    labels: Tensor,
    weight: Tensor,
    loss: Tensor,
}

impl HeadStep {
    /// Plans a step of at most `batch` sequences. `smoothing` is that of
    /// [`cross_entropy`](kernels::cross_entropy::cross_entropy).
    ///
    /// # Errors
    /// The head has no gradients, or a size or the smoothing is out of its range.
    pub fn new(head: &Head, batch: usize, rows: usize, smoothing: f32, workspace: &Workspace) -> Result<HeadStep> {
        if head.parameters().gradient().is_none() {
            return Err(Error::invalid("the head has no gradient arena: make it with gradients to train it"));
        }
        let mut tape = Tape::record();
        let sequences = Sequences::declare(&mut tape, head, batch, rows)?;
        let labels = tape.input("labels", Meta::new([batch], DType::I32))?;
        let logits = head.logits(&mut tape, sequences.tensor, Rows::Fixed(rows))?;
        let loss = cross_entropy(&mut tape, logits, labels, smoothing)?;
        tape.keep(loss);
        let weight = tape.input("loss weight", Meta::new([1], DType::F32))?;
        tape.backward(&[(loss, weight)])?;
        let program = Program::compile(tape, workspace, Compile::default())?;
        Ok(HeadStep { program, sequences, labels, weight, loss })
    }

    /// Forward and backward on sequences `[labels, rows, inputs]` of the head's dtype. Returns the mean loss, unweighted; its
    /// gradient is multiplied by `weight` and, with `accumulate`, added to what the arena holds.
    ///
    /// # Errors
    /// There is not one sequence for each label, there are more than the batch holds, or a label is no class.
    pub fn run<T: Element>(
        &mut self,
        queue: &Queue,
        tokens: &[T],
        labels: &[i32],
        weight: f32,
        accumulate: bool,
    ) -> Result<f32> {
        let (count, batch) = (self.sequences.count(tokens.len())?, self.sequences.batch);
        if count != labels.len() || count > batch {
            let given = labels.len();
            return Err(Error::invalid(format!("{count} sequences and {given} labels for a step of at most {batch}")));
        }
        let mut padded = vec![UNUSED; batch];
        padded[..count].copy_from_slice(labels);
        self.program.write(self.sequences.tensor, tokens)?;
        self.program.write(self.labels, &padded)?;
        self.program.write(self.weight, &[weight])?;
        self.program.run(queue, accumulate)?;
        Ok(self.program.read::<f32>(self.loss)?[0])
    }
}

/// Logits of sequences of `rows` rows, `batch` in a pass.
#[derive(Debug)]
pub struct HeadLogits {
    program: Program,
    sequences: Sequences,
    logits: Tensor,
}

impl HeadLogits {
    /// Plans a pass.
    ///
    /// # Errors
    /// A size is out of its range.
    pub fn new(head: &Head, batch: usize, rows: usize, workspace: &Workspace) -> Result<HeadLogits> {
        let mut tape = Tape::record();
        let sequences = Sequences::declare(&mut tape, head, batch, rows)?;
        let logits = head.logits(&mut tape, sequences.tensor, Rows::Fixed(rows))?;
        tape.keep(logits);
        let program = Program::compile(tape, workspace, Compile::default())?;
        Ok(HeadLogits { program, sequences, logits })
    }

    /// Logits f32 `[sequences, classes]` of sequences `[sequences, rows, inputs]` of the head's dtype, any count.
    ///
    /// # Errors
    /// The values are no whole sequences, or of another type.
    pub fn run<T: Element>(&mut self, queue: &Queue, tokens: &[T]) -> Result<Vec<f32>> {
        let Sequences { tensor, batch, elements } = self.sequences;
        let count = self.sequences.count(tokens.len())?;
        let mut logits = Vec::new();
        for part in tokens.chunks(batch * elements) {
            self.program.write(tensor, part)?;
            self.program.run(queue, false)?;
            logits.extend(self.program.read::<f32>(self.logits)?);
        }
        logits.truncate(count * self.logits.shape().columns());
        Ok(logits)
    }
}
