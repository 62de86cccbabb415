//! Which rows and columns belong to which (sequence, head): shape checks at record time, row ranges at run time.

use super::{Attention, Length, Source, Visibility};
use engine::{DType, Error, Meta, Result, View};
use std::ops::Range;

/// Sizes of one attention call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub sequences: usize,
    pub width: usize,
    pub head_dim: usize,
    /// Rows of the key and value tensor.
    pub key_rows: usize,
    /// Rows of the result.
    pub output_rows: usize,
}

/// Position of a matrix inside a packed tensor, in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Column of head 0.
    pub start: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Geometry {
    /// Checks the inputs of the op.
    pub fn check(op: &Attention, inputs: &[Meta]) -> Result<Geometry> {
        if inputs.len() != op.input_count() {
            return Err(Error::invalid(format!("expects {} inputs, got {}", op.input_count(), inputs.len())));
        }
        let tensors = &inputs[..op.tensors()];
        let dtype = tensors[0].dtype;
        if !dtype.is_float() || tensors.iter().any(|meta| meta.dtype != dtype || meta.shape.rank() != 2) {
            return Err(Error::invalid("queries, keys and values are matrices of one dtype, f32 or bf16"));
        }
        let parts = if op.source == Source::Packed { 3 } else { 1 };
        let columns = tensors[0].shape.columns();
        let width = columns / parts;
        if op.heads == 0 || width == 0 || !columns.is_multiple_of(parts) || !width.is_multiple_of(op.heads) {
            return Err(Error::invalid(format!(
                "{columns} columns cannot be split into {parts} part(s) of {} heads",
                op.heads
            )));
        }
        if op.source != Source::Packed && tensors[1].shape.columns() != 2 * width {
            return Err(Error::invalid(format!(
                "keys and values need {} columns beside queries of {width}, got {}",
                2 * width,
                tensors[1].shape.columns()
            )));
        }
        if op.source != Source::Packed && op.visibility != Visibility::All {
            return Err(Error::invalid("masks are for self-attention on a packed tensor"));
        }
        let query_rows = tensors[0].shape.rows();
        let lengths_agree = match op.source {
            Source::Packed => op.keys == op.queries,
            Source::SharedQuery => op.queries == Length::Fixed(query_rows),
            Source::Separate => true,
        };
        if !lengths_agree {
            let Attention { queries, keys, .. } = op;
            return Err(Error::invalid(format!(
                "packed queries are as long as their keys, shared ones all {query_rows} rows: got {queries:?} and {keys:?}"
            )));
        }
        let key_rows = tensors[op.tensors() - 1].shape.rows();
        let mut rest = inputs[op.tensors()..].iter();
        let queries = match (op.source, op.queries) {
            (Source::SharedQuery, _) => None,
            (_, length) => Some(sequences("query", length, query_rows, &mut rest)?),
        };
        let keys = match op.source {
            Source::Packed => None,
            _ => Some(sequences("key", op.keys, key_rows, &mut rest)?),
        };
        let count = match (queries, keys) {
            (Some(queries), Some(keys)) if queries != keys => {
                return Err(Error::invalid(format!("{queries} sequences of queries, {keys} sequences of keys")));
            }
            (queries, keys) => keys.or(queries).unwrap_or(0),
        };
        if let Some(bits) = rest.next().filter(|bits| bits.dtype != DType::U8 || bits.elements() != key_rows) {
            return Err(Error::invalid(format!("key bits are u8, one for each of {key_rows} rows, got {bits}")));
        }
        let output_rows = if op.source == Source::SharedQuery { count * query_rows } else { query_rows };
        Ok(Geometry { sequences: count, width, head_dim: width / op.heads, key_rows, output_rows })
    }

    /// Where queries, keys and values stand in the tensors of the op.
    pub fn columns(&self, source: Source) -> [Columns; 3] {
        let width = self.width;
        match source {
            Source::Packed => [0, 1, 2].map(|part| Columns { start: part * width, stride: 3 * width }),
            _ => [
                Columns { start: 0, stride: width },
                Columns { start: 0, stride: 2 * width },
                Columns { start: width, stride: 2 * width },
            ],
        }
    }
}

/// Number of sequences that a side is divided into.
fn sequences<'a>(
    side: &str,
    length: Length,
    rows: usize,
    offsets: &mut impl Iterator<Item = &'a Meta>,
) -> Result<usize> {
    match length {
        Length::Fixed(count) if count > 0 && rows.is_multiple_of(count) => Ok(rows / count),
        Length::Fixed(count) => Err(Error::invalid(format!("{rows} {side} rows are not sequences of {count} rows"))),
        Length::Ragged => match offsets.next() {
            Some(meta) if meta.dtype == DType::I32 && meta.elements() >= 2 => Ok(meta.elements() - 1),
            _ => Err(Error::invalid(format!("ragged {side} rows need i32 offsets, one more than sequences"))),
        },
    }
}

/// The rows of every sequence, known when the op runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequences<'a> {
    queries: Division<'a>,
    keys: Division<'a>,
    /// Key bits of the packed rows, if masked by them.
    bits: Option<&'a [u8]>,
    shared: bool,
}

#[derive(Clone, Copy, Debug)]
enum Division<'a> {
    Fixed(usize),
    Offsets(&'a [i32]),
}

impl<'a> Sequences<'a> {
    /// Reads offsets and key bits from the op's inputs and checks that the offsets cover the rows in use.
    pub fn read(op: &Attention, inputs: &[View<'a>]) -> Result<Sequences<'a>> {
        let query_rows = inputs[0].shape().rows();
        let key_rows = inputs[op.tensors() - 1].shape().rows();
        let mut rest = inputs[op.tensors()..op.input_count()].iter();
        let queries = divide("query", op.queries, query_rows, &mut rest)?;
        let keys = match op.source {
            Source::Packed => queries,
            _ => divide("key", op.keys, key_rows, &mut rest)?,
        };
        let bits = rest.next().map(View::slice::<u8>).transpose()?;
        Ok(Sequences { queries, keys, bits, shared: op.source == Source::SharedQuery })
    }

    /// Rows of sequence `index` in the query tensor.
    pub fn queries(&self, index: usize) -> Range<usize> {
        if self.shared { self.queries.rows(0) } else { self.queries.rows(index) }
    }

    /// Rows of sequence `index` in the result.
    pub fn outputs(&self, index: usize) -> Range<usize> {
        self.queries.rows(index)
    }

    /// Rows of sequence `index` in the key and value tensor.
    pub fn keys(&self, index: usize) -> Range<usize> {
        self.keys.rows(index)
    }

    /// Key bits of sequence `index`.
    pub fn bits(&self, index: usize) -> Option<&'a [u8]> {
        self.bits.map(|bits| &bits[self.keys(index)])
    }
}

impl Division<'_> {
    fn rows(&self, index: usize) -> Range<usize> {
        match self {
            Division::Fixed(count) => index * count..(index + 1) * count,
            Division::Offsets(offsets) => offsets[index] as usize..offsets[index + 1] as usize,
        }
    }
}

fn divide<'a, 'b>(
    side: &str,
    length: Length,
    rows: usize,
    offsets: &mut impl Iterator<Item = &'b View<'a>>,
) -> Result<Division<'a>>
where
    'a: 'b,
{
    match (length, offsets) {
        (Length::Fixed(count), _) => Ok(Division::Fixed(count)),
        (Length::Ragged, offsets) => {
            let offsets = offsets.next().map_or(Ok(&[][..]), View::slice::<i32>)?;
            let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
            if !rising || offsets.first() != Some(&0) || offsets.last() != Some(&(rows as i32)) {
                return Err(Error::invalid(format!(
                    "{side} offsets must rise from 0 to the {rows} rows in use; declare the tensor ragged by them"
                )));
            }
            Ok(Division::Offsets(offsets))
        }
    }
}
