//! The op contract: what every kernel declares, and the typed windows through which it sees its tensors.

use crate::{Device, Element, Error, Meta, Queue, Result, Shape, Tape, Tensor};
use std::any::Any;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

/// One coarse, fused operation with a hand-written backward. See the crate documentation for the rules.
///
/// An op is [`Any`], so that what is handed over with `dyn Op` (a bench's peer, a reference) can be chosen by its type.
pub trait Op: Any + Debug + Send + Sync {
    /// The op's name in errors, profiles and tables.
    fn name(&self) -> &'static str;

    /// Checks shapes and dtypes and declares the outputs: results first, then saved statistics, then scratch.
    ///
    /// Nothing allocates in `run`: scratch is an output that nobody reads, so it dies at once.
    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>>;

    /// Computes the outputs. Shapes come from the views: the leading dimension of a ragged tensor is already clipped
    /// to the rows in use. Each output is set or added to as [`Out::write`] says.
    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()>;

    /// Pushes the ops that compute the gradients of the inputs from `gradients` (one per output, `None` where
    /// nothing reads that output). They write through [`Target::Gradient`](crate::Target).
    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        let _ = (tape, node, gradients);
        Err(Error::invalid(format!("{} has no backward; detach its input or write one", self.name())))
    }

    /// Work and least memory traffic for these inputs.
    fn cost(&self, inputs: &[Meta]) -> Cost;

    /// Whether the `cheap` checkpointing level computes this op again instead of keeping its outputs.
    fn recompute(&self) -> Recompute {
        Recompute::Keep
    }

    /// How the `cheap` checkpointing level makes one output again from another one of the same node, which it keeps: the
    /// index of that one and an op of one input and one output that gives the same bits. For fused ops whose own
    /// recomputation would cost too much.
    fn remake(&self, output: usize) -> Option<(usize, Arc<dyn Op>)> {
        let _ = output;
        None
    }

    /// Pairs (output, input) that may share memory when the input dies here. Such an op must read an element of the
    /// input no later than it writes the same element of the output, through raw pointers.
    fn in_place(&self) -> &[(usize, usize)] {
        &[]
    }

    /// The input whose leading dimension this output's leading dimension follows, if any. A ragged input makes such
    /// an output ragged.
    fn rows_from(&self, output: usize) -> Option<usize> {
        let _ = output;
        None
    }
}

/// The tensors of a node, as `backward` needs them.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Inputs in the op's order.
    pub inputs: Vec<Tensor>,
    /// Outputs in the op's order.
    pub outputs: Vec<Tensor>,
    pub(crate) index: usize,
}

/// Work of one op call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: f64,
    /// Bytes that must move if every operand is touched once.
    pub bytes: f64,
}

/// What activation checkpointing may do with an op's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Bandwidth-bound: computing again costs little.
    Cheap,
    /// Expensive: keep the outputs at level `cheap`.
    Keep,
}

/// Whether an output is overwritten or added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Every element is defined by this op.
    Set,
    /// The result is added to what is there.
    Add,
}

/// A tensor that an op reads.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pointer: *const u8,
    meta: Meta,
    device: &'a Device,
    lifetime: PhantomData<&'a u8>,
}

// SAFETY: a view is a shared borrow of plain memory.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// # Safety
    /// `pointer` is valid in the memory of `device` for `meta.bytes()` bytes during `'a`, and only in-place outputs of the
    /// same op write there.
    pub(crate) unsafe fn new(pointer: *const u8, meta: Meta, device: &'a Device) -> View<'a> {
        View { pointer, meta, device, lifetime: PhantomData }
    }

    /// Shape and dtype; a ragged leading dimension is clipped to the rows in use.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Shape; see [`View::meta`].
    pub fn shape(&self) -> Shape {
        self.meta.shape
    }

    /// The elements; an error if `T` is not the stored type, or if they lie in the memory of a device. Not for an input that
    /// shares an output's memory.
    pub fn slice<T: Element>(&self) -> Result<&'a [T]> {
        check_access::<T>(self.meta, self.device)?;
        // SAFETY: valid by `new`, typed by the check; offsets are multiples of 256, so aligned.
        Ok(unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.meta.elements()) })
    }

    /// Address of the first element, for kernels that may work in place.
    pub fn pointer(&self) -> *const u8 {
        self.pointer
    }

    /// Address of the first element for a kernel of the device.
    pub fn address(&self) -> u64 {
        self.pointer.addr() as u64
    }
}

/// A tensor that an op writes.
#[derive(Debug)]
pub struct Out<'a> {
    pointer: *mut u8,
    meta: Meta,
    write: Write,
    device: &'a Device,
    lifetime: PhantomData<&'a mut u8>,
}

// SAFETY: an output is an exclusive borrow of plain memory.
unsafe impl Send for Out<'_> {}
// SAFETY: shared access gives only the address and the description.
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    /// # Safety
    /// `pointer` is valid in the memory of `device` for `meta.bytes()` bytes during `'a` and nothing else touches them, but
    /// for inputs that the op declares in place.
    pub(crate) unsafe fn new(pointer: *mut u8, meta: Meta, write: Write, device: &'a Device) -> Out<'a> {
        Out { pointer, meta, write, device, lifetime: PhantomData }
    }

    /// Shape and dtype; a ragged leading dimension is clipped to the rows in use.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Shape; see [`Out::meta`].
    pub fn shape(&self) -> Shape {
        self.meta.shape
    }

    /// Set or add.
    pub fn write(&self) -> Write {
        self.write
    }

    /// True if the result is added to what is there.
    pub fn accumulates(&self) -> bool {
        self.write == Write::Add
    }

    /// The elements; an error if `T` is not the stored type, or if they lie in the memory of a device. Not for an output that
    /// shares an input's memory.
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        check_access::<T>(self.meta, self.device)?;
        // SAFETY: valid and exclusive by `new`, typed by the check; offsets are multiples of 256, so aligned.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.meta.elements()) })
    }

    /// Address of the first element, for kernels that split rows among threads or work in place.
    pub fn pointer(&mut self) -> *mut u8 {
        self.pointer
    }

    /// Address of the first element for a kernel of the device.
    pub fn address(&self) -> u64 {
        self.pointer.addr() as u64
    }
}

fn check_access<T: Element>(meta: Meta, device: &Device) -> Result<()> {
    if let Device::Cuda(_) = device {
        return Err(Error::invalid(format!(
            "a tensor of {meta} lies in the memory of {device}, where only its kernels reach it"
        )));
    }
    if T::DTYPE != meta.dtype {
        return Err(Error::invalid(format!("a tensor of {meta} was read as {}", T::DTYPE)));
    }
    Ok(())
}

/// Shares a mutable slice among the tasks of a parallel region, each of which takes its own part.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a, T> {
    pointer: *mut T,
    length: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are disjoint by the contract of `part`.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice over until `'a` ends.
    pub fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { pointer: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// One task's part.
    ///
    /// # Safety
    /// Parts that live at the same time do not overlap. The range lies inside the slice (checked in debug builds).
    pub unsafe fn part(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        debug_assert!(range.start <= range.end && range.end <= self.length, "{range:?} of {}", self.length);
        // SAFETY: inside the slice and disjoint by contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.end - range.start) }
    }
}
