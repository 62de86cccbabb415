//! The tape: a flat list of ops, recorded once and replayed every step, or run as it is pushed (eager mode).
//!
//! Tensors are handles. A tensor lives in a planned arena (activations), in an arena of its owner (inputs, parameters,
//! gradients of parameters), or is another name for one of those (reshape). The backward pass appends to the same
//! list; see `backward.rs`.

use crate::buffer::Buffer;
use crate::op::{Op, Recorded, Write};
use crate::ragged::Ragged;
use crate::{DType, Device, Error, Meta, Parameters, Queue, Result, Shape};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A handle to a tensor of one tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    pub(crate) id: u32,
    pub(crate) tape: u32,
    meta: Meta,
}

impl Tensor {
    /// Shape and dtype; of a ragged tensor the full capacity.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.meta.shape
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype
    }
}

/// Where an output of a pushed op goes.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A new tensor.
    Fresh,
    /// The gradient of a tensor: set by its first writer, added to by later ones. If the tensor needs no gradient the
    /// output becomes scratch.
    Gradient(Tensor),
    /// A tensor whose own node was absorbed (see [`Tape::absorb`]); it is set again, here.
    Replace(Tensor),
}

/// Part of the step that a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Pushed by the model.
    Forward,
    /// Pushed by an op's backward.
    Backward,
    /// A forward op run again because its outputs were not kept.
    Recompute,
}

/// How an output is written, as far as it is known at record time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Set,
    Add,
    /// The first write to a parameter's gradient: set, or added while micro-batches accumulate.
    FirstOfStep,
}

impl When {
    pub(crate) fn resolve(self, accumulating: bool) -> Write {
        match self {
            When::Set => Write::Set,
            When::Add => Write::Add,
            When::FirstOfStep if accumulating => Write::Add,
            When::FirstOfStep => Write::Set,
        }
    }
}

/// Where the bytes of a tensor are.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    /// In the activation arena, at an offset that the planner chooses.
    Planned,
    /// At a byte offset of a buffer that somebody owns.
    Owned(Arc<Buffer>, usize),
    /// In the same place as another tensor.
    Alias(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub meta: Meta,
    pub home: Home,
    pub name: Option<String>,
    pub needs_gradient: bool,
    pub keep: bool,
    /// Index of the ragged group that bounds the leading dimension.
    pub ragged: Option<usize>,
    pub source: Source,
}

/// Where in the model something was pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub span: u32,
    pub location: &'static Location<'static>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub op: Arc<dyn Op>,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<(Tensor, When)>,
    pub phase: Phase,
    pub source: Source,
    pub removed: bool,
}

/// A named stretch of the model.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub path: String,
    /// The nearest enclosing block (a unit of recomputation), itself included.
    pub block: Option<u32>,
}

/// A list of ops under construction; see the module documentation.
#[derive(Debug)]
pub struct Tape {
    /// Told apart from all other tapes by this: its tensors carry it.
    pub(crate) id: u32,
    pub(crate) eager: Option<Queue>,
    pub(crate) infos: Vec<Info>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) spans: Vec<Span>,
    pub(crate) ragged: Vec<Ragged>,
    pub(crate) gradients: HashMap<u32, Tensor>,
    /// Roots of the gradients that the caller gave.
    pub(crate) seeds: HashSet<u32>,
    pub(crate) leaves: HashMap<(String, usize, usize, DType), Tensor>,
    pub(crate) leaf_gradients: HashMap<u32, (Arc<Buffer>, usize)>,
    /// Gradients that the node whose backward runs now has passed on.
    pub(crate) donated: Vec<u32>,
    pub(crate) current: u32,
    pub(crate) phase: Phase,
    pub(crate) override_source: Option<Source>,
    pub(crate) backward_done: bool,
}

impl Tape {
    fn new(eager: Option<Queue>) -> Tape {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Tape {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            eager,
            infos: Vec::new(),
            nodes: Vec::new(),
            spans: vec![Span { path: String::new(), block: None }],
            ragged: Vec::new(),
            gradients: HashMap::new(),
            seeds: HashSet::new(),
            leaves: HashMap::new(),
            leaf_gradients: HashMap::new(),
            donated: Vec::new(),
            current: 0,
            phase: Phase::Forward,
            override_source: None,
            backward_done: false,
        }
    }

    /// A tape that records, to be compiled into a `Program`.
    pub fn record() -> Tape {
        Tape::new(None)
    }

    /// A tape that runs each op on `queue` as it is pushed and keeps every tensor: for tests and experiments.
    pub fn eager(queue: Queue) -> Tape {
        Tape::new(Some(queue))
    }

    /// True if ops run as they are pushed.
    pub fn is_eager(&self) -> bool {
        self.eager.is_some()
    }

    /// Where its ops are going to run: on the device of an eager tape's queue; else where the parameters lie that it has
    /// recorded, or on the host as long as there are none. For ops whose scratch depends on the device.
    pub fn device(&self) -> &Device {
        let of_leaf = |leaf: &Tensor| match self.home(leaf.id) {
            Home::Owned(buffer, _) => Some(buffer.device()),
            _ => None,
        };
        match &self.eager {
            Some(queue) => queue.device(),
            None => self.leaves.values().find_map(of_leaf).unwrap_or(&Device::Cpu),
        }
    }

    // ---- leaves -----------------------------------------------------------------------------------------------------

    /// A tensor that the caller writes before each run. It has no gradient.
    #[track_caller]
    pub fn input(&mut self, name: &str, meta: Meta) -> Result<Tensor> {
        let home = Home::Owned(self.buffer(meta)?, 0);
        Ok(self.add_tensor(meta, home, Some(name.to_owned()), false, Location::caller()))
    }

    /// An input whose gradient is computed and kept: for gradient checks and for features that were computed elsewhere.
    #[track_caller]
    pub fn variable(&mut self, name: &str, meta: Meta) -> Result<Tensor> {
        let home = Home::Owned(self.buffer(meta)?, 0);
        Ok(self.add_tensor(meta, home, Some(name.to_owned()), true, Location::caller()))
    }

    /// A parameter of the model in storage type `dtype` (its f32 master or its bf16 copy). Its gradient is f32.
    #[track_caller]
    pub fn parameter(&mut self, parameters: &Parameters, name: &str, dtype: DType) -> Result<Tensor> {
        let entry = parameters.find(name)?;
        let rows = entry.shape.dims().first().copied().unwrap_or(1);
        self.leaf(parameters, name, 0..rows, entry.shape, dtype, Location::caller())
    }

    /// Rows `rows` (of the leading dimension) of a parameter, as a leaf of its own: a part of a packed projection.
    /// The parts used in one tape must not overlap unless they are equal.
    #[track_caller]
    pub fn parameter_rows(
        &mut self,
        parameters: &Parameters,
        name: &str,
        rows: Range<usize>,
        dtype: DType,
    ) -> Result<Tensor> {
        let full = parameters.find(name)?.shape;
        match full.dims().first() {
            Some(&count) if rows.start < rows.end && rows.end <= count => {}
            _ => return Err(Error::invalid(format!("rows {rows:?} do not lie in parameter '{name}' of shape {full}"))),
        }
        let mut sizes = full.dims().to_vec();
        sizes[0] = rows.len();
        self.leaf(parameters, name, rows, Shape::new(&sizes)?, dtype, Location::caller())
    }

    fn leaf(
        &mut self,
        parameters: &Parameters,
        name: &str,
        rows: Range<usize>,
        shape: Shape,
        dtype: DType,
        location: &'static Location<'static>,
    ) -> Result<Tensor> {
        let key = (name.to_owned(), rows.start, rows.end, dtype);
        let entry = parameters.find(name)?;
        let (buffer, offset) = parameters.locate(entry, rows.start, dtype)?;
        if let Some(&tensor) = self.leaves.get(&key) {
            return match self.home(tensor.id) {
                Home::Owned(known, _) if Arc::ptr_eq(known, &buffer) => Ok(tensor),
                _ => Err(Error::invalid(format!(
                    "parameter '{name}' of another model is on this tape: give one of the two another name"
                ))),
            };
        }
        if let Some(queue) = &self.eager {
            queue.check(&buffer)?;
        }
        let overlaps =
            |other: &(String, usize, usize, DType)| other.0 == name && (other.1 < rows.end && rows.start < other.2);
        if entry.trainable
            && let Some(other) = self.leaves.keys().find(|other| overlaps(other))
        {
            return Err(Error::invalid(format!(
                "parameter '{name}' is used as rows {}..{} in {} and as rows {rows:?} in {dtype}: use one of them",
                other.1, other.2, other.3
            )));
        }
        let trainable = entry.trainable && parameters.gradient().is_some();
        let home = Home::Owned(buffer, offset);
        let tensor = self.add_tensor(Meta { shape, dtype }, home, Some(name.to_owned()), trainable, location);
        if trainable && let Some(gradient) = parameters.gradient() {
            let (_, master) = parameters.locate(entry, rows.start, DType::F32)?;
            self.leaf_gradients.insert(tensor.id, (gradient.clone(), master));
        }
        self.leaves.insert(key, tensor);
        Ok(tensor)
    }

    // ---- shape of tensors -------------------------------------------------------------------------------------------

    /// The same elements under another shape. The leading dimension of a ragged tensor must stay.
    #[track_caller]
    pub fn reshape(&mut self, tensor: Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        self.own(tensor)?;
        let info = &self.infos[tensor.id as usize];
        let ragged = info.ragged;
        let leading = |shape: Shape| shape.dims().first().copied();
        if shape.elements() != tensor.meta.elements() || (ragged.is_some() && leading(shape) != leading(tensor.shape()))
        {
            return Err(Error::invalid(format!(
                "cannot reshape {}{} to {shape}\n  at {}",
                tensor.meta,
                if ragged.is_some() { " with ragged rows" } else { "" },
                Location::caller()
            )));
        }
        let meta = Meta { shape, dtype: tensor.dtype() };
        let (home, needs_gradient) = (Home::Alias(self.root(tensor.id)), info.needs_gradient);
        let alias = self.add_tensor(meta, home, None, needs_gradient, Location::caller());
        self.infos[alias.id as usize].ragged = ragged;
        Ok(alias)
    }

    /// Keeps the tensor's memory until the end of the run, so that it can be read.
    pub fn keep(&mut self, tensor: Tensor) {
        let root = self.root(tensor.id);
        self.infos[root as usize].keep = true;
    }

    // ---- spans ------------------------------------------------------------------------------------------------------

    /// Names a stretch of the model, for profiles and errors. Names nest with dots.
    pub fn span<R>(&mut self, name: &str, body: impl FnOnce(&mut Tape) -> R) -> R {
        self.enter_span(name, false, body)
    }

    /// A span that is a unit of recomputation: at checkpointing level `block` only its inputs are kept.
    pub fn block<R>(&mut self, name: &str, body: impl FnOnce(&mut Tape) -> R) -> R {
        self.enter_span(name, true, body)
    }

    fn enter_span<R>(&mut self, name: &str, block: bool, body: impl FnOnce(&mut Tape) -> R) -> R {
        let outer = self.current;
        let parent = &self.spans[outer as usize];
        let path = if parent.path.is_empty() { name.to_owned() } else { format!("{}.{name}", parent.path) };
        let id = self.spans.len() as u32;
        let block = if block { Some(id) } else { parent.block };
        self.spans.push(Span { path, block });
        self.current = id;
        let result = body(self);
        self.current = outer;
        result
    }

    // ---- nodes ------------------------------------------------------------------------------------------------------

    /// Pushes an op whose outputs are all new; runs it in eager mode.
    #[track_caller]
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.push_node(Arc::new(op), inputs, &[], Location::caller())
    }

    /// Pushes an op and says where its outputs go; outputs beyond `targets` are new.
    #[track_caller]
    pub fn push_into(&mut self, op: impl Op + 'static, inputs: &[Tensor], targets: &[Target]) -> Result<Vec<Tensor>> {
        self.push_node(Arc::new(op), inputs, targets, Location::caller())
    }

    /// As [`Tape::push`], for an op behind a pointer.
    #[track_caller]
    pub fn push_shared(&mut self, op: Arc<dyn Op>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.push_node(op, inputs, &[], Location::caller())
    }

    fn push_node(
        &mut self,
        op: Arc<dyn Op>,
        inputs: &[Tensor],
        targets: &[Target],
        location: &'static Location<'static>,
    ) -> Result<Vec<Tensor>> {
        let of_target = |target: &Target| match *target {
            Target::Fresh => None,
            Target::Gradient(tensor) | Target::Replace(tensor) => Some(tensor),
        };
        inputs.iter().copied().chain(targets.iter().filter_map(of_target)).try_for_each(|tensor| self.own(tensor))?;
        let source = self.override_source.unwrap_or(Source { span: self.current, location });
        let metas: Vec<Meta> = inputs.iter().map(|input| input.meta).collect();
        let wrap = |tape: &Tape, error| tape.explain(error, op.as_ref(), &metas, source);
        let declared = op.infer(&metas).map_err(|error| wrap(self, error))?;
        let needs_gradient =
            self.phase == Phase::Forward && inputs.iter().any(|input| self.infos[input.id as usize].needs_gradient);
        let mut outputs = Vec::with_capacity(declared.len());
        for (index, &meta) in declared.iter().enumerate() {
            let target = targets.get(index).copied().unwrap_or(Target::Fresh);
            let (tensor, when) = match target {
                Target::Gradient(of) if self.needs_gradient(of) => self.gradient_target(of)?,
                Target::Replace(tensor) => (tensor, When::Set),
                Target::Fresh | Target::Gradient(_) => {
                    let home = self.value_home(meta)?;
                    let tensor = self.add_tensor(meta, home, None, needs_gradient && meta.dtype.is_float(), location);
                    if let Some(input) = op.rows_from(index).and_then(|input| inputs.get(input)) {
                        let ragged = self.infos[input.id as usize].ragged;
                        let leading = |shape: Shape| shape.dims().first().copied();
                        if ragged.is_some() && leading(meta.shape) != leading(input.shape()) {
                            let detail =
                                format!("output {index}, {meta}, has other rows than the ragged {}", input.meta);
                            return Err(wrap(self, Error::invalid(detail + ": reshape that to a matrix")));
                        }
                        self.infos[tensor.id as usize].ragged = ragged;
                    }
                    (tensor, When::Set)
                }
            };
            if tensor.meta.elements() != meta.elements() || tensor.meta.dtype != meta.dtype {
                let detail = format!("output {index} is {meta} but goes to a tensor of {}", tensor.meta);
                return Err(wrap(self, Error::invalid(detail)));
            }
            // An op sees its outputs in the shape that it declared, also where the target was reshaped.
            let tensor = if tensor.meta == meta { tensor } else { self.reshape(tensor, meta.shape)? };
            outputs.push((tensor, when));
        }
        let tensors = outputs.iter().map(|&(tensor, _)| tensor).collect();
        let node = Node { op, inputs: inputs.to_vec(), outputs, phase: self.phase, source, removed: false };
        if let Some(queue) = self.eager.clone() {
            self.run_eagerly(&queue, &node)?;
        }
        self.nodes.push(node);
        Ok(tensors)
    }

    /// Takes a node of the forward pass off the list because its backward will compute its outputs too, through
    /// [`Target::Replace`]. Returns false, and changes nothing, if another node already reads one of its outputs.
    pub fn absorb(&mut self, node: &Recorded) -> bool {
        let roots: Vec<u32> = node.outputs.iter().map(|output| self.root(output.id)).collect();
        let reads = |other: &Node| other.inputs.iter().any(|input| roots.contains(&self.root(input.id)));
        if self.nodes.iter().any(|other| !other.removed && reads(other)) {
            return false;
        }
        self.nodes[node.index].removed = true;
        true
    }

    // ---- inside -----------------------------------------------------------------------------------------------------

    pub(crate) fn add_tensor(
        &mut self,
        meta: Meta,
        home: Home,
        name: Option<String>,
        needs_gradient: bool,
        location: &'static Location<'static>,
    ) -> Tensor {
        let id = self.infos.len() as u32;
        let source = self.override_source.unwrap_or(Source { span: self.current, location });
        self.infos.push(Info { meta, home, name, needs_gradient, keep: false, ragged: None, source });
        Tensor { id, tape: self.id, meta }
    }

    /// An error if the tensor is one of another tape.
    pub(crate) fn own(&self, tensor: Tensor) -> Result<()> {
        if tensor.tape == self.id {
            return Ok(());
        }
        Err(Error::invalid(format!("a tensor of {} belongs to another tape", tensor.meta)))
    }

    pub(crate) fn value_home(&self, meta: Meta) -> Result<Home> {
        if self.is_eager() {
            return Ok(Home::Owned(self.buffer(meta)?, 0));
        }
        check_size(meta).map(|()| Home::Planned)
    }

    /// Memory of its own for a tensor: of an eager tape on its queue's device, of a recording one on the host, from where
    /// a program takes its first values to where it runs.
    fn buffer(&self, meta: Meta) -> Result<Arc<Buffer>> {
        check_size(meta)?;
        match &self.eager {
            Some(queue) => Buffer::on(queue.device(), meta.bytes()),
            None => Buffer::zeroed(meta.bytes()),
        }
    }

    pub(crate) fn root(&self, id: u32) -> u32 {
        match self.infos[id as usize].home {
            Home::Alias(root) => root,
            _ => id,
        }
    }

    pub(crate) fn home(&self, id: u32) -> &Home {
        &self.infos[self.root(id) as usize].home
    }

    pub(crate) fn explain(&self, error: Error, op: &dyn Op, inputs: &[Meta], source: Source) -> Error {
        let detail = match error {
            Error::Invalid(detail) => detail,
            other => return other,
        };
        let inputs = inputs.iter().map(Meta::to_string).collect::<Vec<_>>().join(", ");
        Error::Op { op: op.name(), detail, inputs, place: self.place(source) }
    }

    pub(crate) fn place(&self, source: Source) -> String {
        let Source { span, location } = source;
        let path = &self.spans[span as usize].path;
        let at = format!("{}:{}", location.file(), location.line());
        if path.is_empty() { at } else { format!("{path} ({at})") }
    }
}

fn check_size(meta: Meta) -> Result<()> {
    match isize::try_from(meta.bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(format!("a tensor of {meta} is larger than any memory"))),
    }
}
