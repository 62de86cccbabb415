//! Embeddings: the rows of a packed text from token ids, and the rows of an image from its patches.

mod cases;
mod cpu;
pub(crate) mod cuda;

pub use cases::{cases, draw};

use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};

/// The id of a class row.
pub const CLASS_ID: i32 = -1;

/// The tensors of a text embedding.
#[derive(Clone, Copy, Debug)]
pub struct TextTables {
    /// f32 `[vocabulary, width]`.
    pub tokens: Tensor,
    /// f32 `[positions, width]`.
    pub positions: Tensor,
    /// f32 `[width]`, the row of [`CLASS_ID`].
    pub class: Tensor,
}

/// Row i is `tokens[ids[i]] + positions[at[i]]`, with the class embedding for [`CLASS_ID`]: ids and at i32 `[rows]`,
/// result `[rows, width]` in `dtype`. The gradient of each table is added up in row order. An id or a position that no
/// table has is an error on the CPU; a device, which cannot report it, makes its row NaN and gives it no gradient.
#[track_caller]
pub fn embed_text(tape: &mut Tape, ids: Tensor, at: Tensor, tables: TextTables, dtype: DType) -> Result<Tensor> {
    Ok(tape.push(EmbedText { dtype }, &[ids, at, tables.tokens, tables.positions, tables.class])?[0])
}

/// Puts the class embedding (f32 `[width]`), if there is one, before the patches of each image and adds positions (f32
/// `[rows of an image, width]`): patches `[batch · patches, width]` to `[batch · rows of an image, width]`.
#[track_caller]
pub fn embed_patches(tape: &mut Tape, patches: Tensor, positions: Tensor, class: Option<Tensor>) -> Result<Tensor> {
    let inputs: Vec<Tensor> = [Some(patches), Some(positions), class].into_iter().flatten().collect();
    Ok(tape.push(EmbedPatches, &inputs)?[0])
}

/// Inputs ids, positions, the three tables.
#[derive(Clone, Copy, Debug)]
pub struct EmbedText {
    /// Storage type of the rows.
    pub dtype: DType,
}

/// Inputs ids, at, dy, and the tables for their shapes; outputs the gradients of the tables, then scratch.
#[derive(Clone, Copy, Debug)]
pub struct EmbedTextBackward;

/// Inputs patches, positions and, if there is one, the class embedding.
#[derive(Clone, Copy, Debug)]
pub struct EmbedPatches;

/// Inputs dy, positions; outputs the gradients of patches, positions and, if there is one, the class embedding.
#[derive(Clone, Copy, Debug)]
pub struct EmbedPatchesBackward {
    /// Storage type of the patches' gradient.
    pub dtype: DType,
    /// Whether row 0 of an image is the class row.
    pub class: bool,
}

impl Op for EmbedText {
    fn name(&self) -> &'static str {
        "embed_text"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let &[ids, at, tokens, positions, class] = inputs else {
            return Err(Error::invalid("expects ids, positions, and tables of tokens, positions and class"));
        };
        let width = tokens.shape.columns();
        let tables = [tokens, positions, class];
        if ids.dtype != DType::I32 || ids != at || ids.shape.rank() != 1 {
            return Err(Error::invalid("ids and positions must be i32 [rows]"));
        }
        if tables.iter().any(|table| table.dtype != DType::F32 || table.shape.columns() != width)
            || tokens.shape.rank() != 2
            || positions.shape.rank() != 2
            || class.elements() != width
            || !self.dtype.is_float()
        {
            return Err(Error::invalid("the tables must be f32, of tokens [n, width], positions [n, width], class [width]"));
        }
        Ok(vec![Meta::new([ids.elements(), width], self.dtype)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::text(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::text(queue, inputs, &outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(dy) = gradients[0] else { return Ok(()) };
        let &[ids, at, tokens, positions, class] = node.inputs.as_slice() else { return Ok(()) };
        let targets = [tokens, positions, class].map(Target::Gradient);
        tape.push_into(EmbedTextBackward, &[ids, at, dy, tokens, positions, class], &targets).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let values = inputs[0].elements() * inputs[2].shape.columns();
        Cost { flops: values as f64, bytes: (values * (8 + self.dtype.size())) as f64 }
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        Some(0)
    }
}

impl Op for EmbedTextBackward {
    fn name(&self) -> &'static str {
        "embed_text_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        match inputs {
            [ids, _, dy, tables @ ..] if tables.len() == 3 => {
                Ok([tables, &cuda::scratch(ids.elements(), dy.shape.columns())].concat())
            }
            _ => Err(Error::invalid("expects ids, positions, dy and three tables")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::text_backward(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::text_backward(queue, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let tables: usize = inputs[3..].iter().map(Meta::bytes).sum();
        Cost { flops: 2.0 * inputs[2].elements() as f64, bytes: (tables + 2 * inputs[2].bytes()) as f64 }
    }
}

impl Op for EmbedPatches {
    fn name(&self) -> &'static str {
        "embed_patches"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let (&patches, &positions) = match inputs {
            [patches, positions] | [patches, positions, _] => (patches, positions),
            _ => return Err(Error::invalid("expects patches, positions and, if there is one, a class embedding")),
        };
        let width = patches.shape.columns();
        let rows = positions.shape.rows();
        let per_image = rows - (inputs.len() - 2).min(rows);
        let tables = inputs[1..].iter().all(|table| table.dtype == DType::F32 && table.shape.columns() == width);
        if !patches.dtype.is_float() || !tables || per_image == 0 || !patches.shape.rows().is_multiple_of(per_image) {
            return Err(Error::invalid("patches must come in whole images; positions and class are f32 of their width"));
        }
        Ok(vec![Meta::new([patches.shape.rows() / per_image * rows, width], patches.dtype)])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::patches(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::patches(queue, inputs, &outputs[0]),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let Some(dy) = gradients[0] else { return Ok(()) };
        let (patches, positions) = (node.inputs[0], node.inputs[1]);
        let op = EmbedPatchesBackward { dtype: patches.dtype(), class: node.inputs.len() == 3 };
        let targets: Vec<Target> = node.inputs.iter().map(|&input| Target::Gradient(input)).collect();
        tape.push_into(op, &[dy, positions], &targets).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: inputs[0].elements() as f64, bytes: (2 * inputs[0].bytes() + inputs[1].bytes()) as f64 }
    }
}

impl Op for EmbedPatchesBackward {
    fn name(&self) -> &'static str {
        "embed_patches_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let &[dy, positions] = inputs else { return Err(Error::invalid("expects dy and positions")) };
        let (rows, width) = (positions.shape.rows(), dy.shape.columns());
        let patches = dy.shape.rows() / rows * (rows - usize::from(self.class));
        let mut outputs = vec![Meta::new([patches, width], self.dtype), positions];
        if self.class {
            outputs.push(Meta::new([width], DType::F32));
        }
        Ok(outputs)
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => cpu::patches_backward(cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::patches_backward(queue, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        Cost { flops: 2.0 * inputs[0].elements() as f64, bytes: (2 * inputs[0].bytes() + inputs[1].bytes()) as f64 }
    }
}
