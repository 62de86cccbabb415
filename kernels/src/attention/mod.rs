//! Multi-head attention, fused: scores live only in per-task scratch, the log-sum-exp of each row is kept, and the
//! backward pass computes the probabilities again from it. Softmax(scale · Q Kᵀ + mask) V, scale = 1/√head_dim.
//!
//! Queries, keys and values are read in place as column slices of packed projections; sequences are fixed-length or
//! ragged (row offsets). A task of the CPU owns a (sequence, head) pair, a warp of a GPU 16 or 32 rows of one: no
//! atomics, the same bits for any thread count and schedule.

mod backward;
mod cases;
mod cpu;
pub(crate) mod cuda;
mod decode;
mod forward;
mod geometry;
mod pack;
mod pairs;
mod reference;
mod scratch;
mod softmax;
mod tile;

pub(crate) use cases::gpu_cases;
pub use cases::{cases, draw};
pub use decode::{AttentionDecode, attention_decode};
pub use reference::AttentionReference;

use engine::{Cost, DType, Error, Meta, Op, Out, Queue, Recorded, Result, Tape, Target, Tensor, View};
use geometry::Geometry;

/// How rows are divided into sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every sequence has this many rows.
    Fixed(usize),
    /// Sequence `b` is rows `offsets[b] .. offsets[b + 1]` of an i32 tensor `[sequences + 1]` that starts at 0. The
    /// rows' own tensors are declared ragged by the same offsets ([`Tape::set_ragged`]).
    Ragged(Tensor),
}

/// Which keys a query sees, in self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All keys of its sequence.
    None,
    /// The keys up to and including its own row.
    Causal,
    /// Causal, narrowed by the bits of a u8 tensor `[rows]`, one byte a key row: query `i` sees key `j` if `j < i` and
    /// the key has [`SEEN_LATER`], or `j == i` and it has [`SEEN_BY_ITSELF`]. A row that sees nothing gives zeros.
    ///
    /// The masks of CoCa's text tower (coca.md 2.3), for rows packed as tokens, then one pad row if the text is
    /// shorter than the context, then CLS:
    ///
    /// | mask | row | bits |
    /// | --- | --- | --- |
    /// | `correct`, no pad row stored | every row | both |
    /// | `legacy`, text shorter than the context | tokens, pad | both |
    /// | | CLS (it sees the pad row and not itself) | 0 |
    /// | `legacy`, full text, no pad row | every row | both |
    /// | `legacy`, id 0 inside the text (version 3.x): key `j` is valid if `j == 0` or id `j - 1` is not 0 | row `j` | both if valid, else 0 |
    /// | `legacy`, id 0 inside, version 2.x: only the CLS row is masked | | cannot be said with these bits |
    KeyBits(Tensor),
}

/// Bit of [`Mask::KeyBits`]: later rows of the sequence see this key.
pub const SEEN_LATER: u8 = 1;
/// Bit of [`Mask::KeyBits`]: the row sees itself.
pub const SEEN_BY_ITSELF: u8 = 2;

/// Self-attention on a packed projection: `qkv [rows, 3·width]` holds queries, keys and values side by side.
/// Returns `[rows, width]`; the gradient of `qkv` is one tensor too.
#[track_caller]
pub fn attention_packed(tape: &mut Tape, qkv: Tensor, heads: usize, rows: Rows, mask: Mask) -> Result<Tensor> {
    let mut inputs = vec![qkv];
    let length = length_of(rows, &mut inputs);
    let visibility = match mask {
        Mask::None => Visibility::All,
        Mask::Causal => Visibility::Causal,
        Mask::KeyBits(bits) => {
            inputs.push(bits);
            Visibility::KeyBits
        }
    };
    let op = Attention { heads, source: Source::Packed, queries: length, keys: length, visibility };
    Ok(tape.push(op, &inputs)?[0])
}

/// Cross-attention: `query [query rows, width]`, `key_value [key rows, 2·width]` with keys and values side by side.
/// Sequence `b` of the queries attends to sequence `b` of the keys, without a mask. Returns `[query rows, width]`.
#[track_caller]
pub fn attention_cross(
    tape: &mut Tape,
    query: Tensor,
    key_value: Tensor,
    heads: usize,
    query_rows: Rows,
    key_rows: Rows,
) -> Result<Tensor> {
    let mut inputs = vec![query, key_value];
    let queries = length_of(query_rows, &mut inputs);
    let keys = length_of(key_rows, &mut inputs);
    let op = Attention { heads, source: Source::Separate, queries, keys, visibility: Visibility::All };
    Ok(tape.push(op, &inputs)?[0])
}

/// Attention pooling: the same `query [query rows, width]` for every sequence of `key_value [key rows, 2·width]`.
/// Returns `[sequences · query rows, width]`; the gradient of `query` is the sum over the sequences.
#[track_caller]
pub fn attention_pool(
    tape: &mut Tape,
    query: Tensor,
    key_value: Tensor,
    heads: usize,
    key_rows: Rows,
) -> Result<Tensor> {
    let queries = Length::Fixed(query.shape().rows());
    let mut inputs = vec![query, key_value];
    let keys = length_of(key_rows, &mut inputs);
    let op = Attention { heads, source: Source::SharedQuery, queries, keys, visibility: Visibility::All };
    Ok(tape.push(op, &inputs)?[0])
}

fn length_of(rows: Rows, inputs: &mut Vec<Tensor>) -> Length {
    match rows {
        Rows::Fixed(count) => Length::Fixed(count),
        Rows::Ragged(offsets) => {
            inputs.push(offsets);
            Length::Ragged
        }
    }
}

/// Where queries, keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One tensor `[rows, 3·width]`.
    Packed,
    /// `[query rows, width]` and `[key rows, 2·width]`.
    Separate,
    /// As `Separate`, with one block of queries for all sequences.
    SharedQuery,
}

/// Length of the sequences of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// All of this many rows.
    Fixed(usize),
    /// Given by an offsets input.
    Ragged,
}

/// The mask without its tensor; see [`Mask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Every key.
    All,
    /// Keys up to the own row.
    Causal,
    /// Causal and key bits.
    KeyBits,
}

/// The op. Inputs: the tensors of [`Source`]; then i32 offsets of ragged queries, of ragged keys (`Packed` has one
/// for both); then u8 key bits. Outputs: `[rows, width]`, and the log-sum-exp f32 `[rows, heads]` (0 for a row that
/// sees nothing).
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of heads; the head dimension is width / heads, on a GPU at most 128.
    pub heads: usize,
    /// Where queries, keys and values come from.
    pub source: Source,
    /// Length of the query sequences.
    pub queries: Length,
    /// Length of the key sequences.
    pub keys: Length,
    /// The mask.
    pub visibility: Visibility,
}

/// Gradients of [`Attention`]. Inputs: those of the op, its two outputs, the gradient of the first. Outputs: the
/// gradients of the tensors of [`Source`]; for a shared query also the partial sums of its gradient (scratch).
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackward {
    /// The forward op.
    pub of: Attention,
}

/// A shared query's gradient is summed over at most this many groups of sequences, in order, then over the groups.
pub(crate) const SHARED_QUERY_GROUPS: usize = 16;

impl Attention {
    /// Number of tensors of [`Source`].
    pub(crate) fn tensors(&self) -> usize {
        if self.source == Source::Packed { 1 } else { 2 }
    }

    /// Number of inputs.
    pub(crate) fn input_count(&self) -> usize {
        let offsets = match (self.source, self.queries, self.keys) {
            (Source::Packed, Length::Ragged, _) => 1,
            (Source::Packed, ..) => 0,
            (_, queries, keys) => usize::from(queries == Length::Ragged) + usize::from(keys == Length::Ragged),
        };
        self.tensors() + offsets + usize::from(self.visibility == Visibility::KeyBits)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let geometry = Geometry::check(self, inputs)?;
        let rows = geometry.output_rows;
        Ok(vec![
            Meta::new([rows, geometry.width], inputs[0].dtype),
            Meta::new([rows, self.heads], DType::F32),
        ])
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => forward::forward(self, cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::forward(self, queue, inputs, outputs),
        }
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        if gradients[1].is_some() {
            return Err(Error::invalid("the log-sum-exp of attention has no backward"));
        }
        let Some(gradient) = gradients[0] else { return Ok(()) };
        let mut inputs = node.inputs.clone();
        inputs.extend([node.outputs[0], node.outputs[1], gradient]);
        let targets: Vec<Target> = node.inputs[..self.tensors()].iter().map(|&input| Target::Gradient(input)).collect();
        tape.push_into(AttentionBackward { of: *self }, &inputs, &targets)?;
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        self.cost_of(inputs, 4.0, 1.0)
    }

    fn rows_from(&self, _output: usize) -> Option<usize> {
        (self.source != Source::SharedQuery).then_some(0)
    }
}

impl Attention {
    /// `per_score` FLOPs for each (query, key, channel); `passes` times the bytes of operands and results.
    fn cost_of(&self, inputs: &[Meta], per_score: f64, passes: f64) -> Cost {
        let Ok(geometry) = Geometry::check(self, &inputs[..self.input_count().min(inputs.len())]) else { return Cost::default() };
        // Ragged sequences are counted as equally long.
        let mut pairs = geometry.output_rows as f64 * (geometry.key_rows as f64 / geometry.sequences as f64);
        if self.visibility != Visibility::All {
            pairs = 0.5 * (pairs + geometry.output_rows as f64);
        }
        let output = geometry.output_rows * (geometry.width * inputs[0].dtype.size() + 4 * self.heads);
        let read: usize = inputs[..self.input_count()].iter().map(Meta::bytes).sum();
        Cost { flops: per_score * pairs * geometry.width as f64, bytes: passes * (read + output) as f64 }
    }
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let own = self.of.input_count();
        if inputs.len() != own + 3 {
            return Err(Error::invalid(format!("expects {} inputs, got {}", own + 3, inputs.len())));
        }
        let geometry = Geometry::check(&self.of, &inputs[..own])?;
        let result = Meta::new([geometry.output_rows, geometry.width], inputs[0].dtype);
        let log_sum_exp = Meta::new([geometry.output_rows, self.of.heads], DType::F32);
        if inputs[own..] != [result, log_sum_exp, result] {
            return Err(Error::invalid(format!("expects {result}, {log_sum_exp} and {result} after the forward inputs")));
        }
        let mut outputs = inputs[..self.of.tensors()].to_vec();
        if self.of.source == Source::SharedQuery {
            let groups = geometry.sequences.min(SHARED_QUERY_GROUPS);
            outputs.push(Meta::new([groups, inputs[0].shape.rows(), geometry.width], DType::F32));
        }
        Ok(outputs)
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match queue {
            Queue::Cpu(cpu) => backward::backward(&self.of, cpu, inputs, outputs),
            Queue::Cuda(queue) => cuda::backward(&self.of, queue, inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        self.of.cost_of(inputs, 10.0, 2.0)
    }

    fn rows_from(&self, output: usize) -> Option<usize> {
        match (self.of.source, output) {
            (Source::SharedQuery, 1) => Some(1),
            (Source::SharedQuery, _) => None,
            _ => Some(output),
        }
    }
}
