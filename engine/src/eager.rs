//! Eager mode: ops run as they are pushed, and their tensors can be read at once.

use crate::op::{Out, View};
use crate::tape::{Home, Node, Tape};
use crate::{Element, Error, Meta, Queue, Result, Tensor};

impl Tape {
    /// Copies values into an input. On a recording tape the values are the first run's.
    pub fn write<T: Element>(&self, tensor: Tensor, values: &[T]) -> Result<()> {
        if T::DTYPE != tensor.dtype() || values.len() > tensor.meta().elements() {
            let count = values.len();
            return Err(Error::invalid(format!("cannot write {count} values of {} into {}", T::DTYPE, tensor.meta())));
        }
        self.own(tensor)?;
        match self.home(tensor.id) {
            Home::Owned(buffer, offset) => buffer.write(*offset, values),
            _ => Err(Error::invalid("only inputs can be written before a run")),
        }
    }

    /// Copies the values out (eager tapes; a program reads its own tensors).
    pub fn read<T: Element>(&self, tensor: Tensor) -> Result<Vec<T>> {
        if T::DTYPE != tensor.dtype() {
            return Err(Error::invalid(format!("cannot read {} as {}", tensor.meta(), T::DTYPE)));
        }
        self.own(tensor)?;
        match self.home(tensor.id) {
            Home::Owned(buffer, offset) => buffer.read(*offset, tensor.meta().elements()),
            _ => Err(Error::invalid("a recorded tensor has no values before its program runs")),
        }
    }

    /// Runs a node; errors name it.
    pub(crate) fn run_eagerly(&self, queue: &Queue, node: &Node) -> Result<()> {
        let used = self.rows_in_use()?;
        let resolve = |tensor: Tensor| match self.home(tensor.id) {
            Home::Owned(buffer, offset) => (buffer.pointer().wrapping_add(*offset), self.clip(tensor, &used)),
            _ => unreachable!("eager tensors own their memory"),
        };
        let views: Vec<View> = (node.inputs.iter())
            .map(|&input| {
                let (pointer, meta) = resolve(input);
                // SAFETY: the buffer lives as long as the tape; an output shares it only with a gradient added to itself.
                unsafe { View::new(pointer, meta, queue.device()) }
            })
            .collect();
        let mut outs: Vec<Out> = (node.outputs.iter())
            .map(|&(output, when)| {
                let (pointer, meta) = resolve(output);
                // SAFETY: as above; `&mut self` in the caller keeps others out.
                unsafe { Out::new(pointer, meta, when.resolve(false), queue.device()) }
            })
            .collect();
        queue.enter(|| node.op.run(queue, &views, &mut outs)).map_err(|error| {
            let metas: Vec<Meta> = views.iter().map(View::meta).collect();
            self.explain(error, node.op.as_ref(), &metas, node.source)
        })
    }
}
