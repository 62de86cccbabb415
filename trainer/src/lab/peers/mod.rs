//! Other people's kernels on the same cases, in the same rounds: crates for products, built in on demand, and libraries
//! of any language through programs that read the list of cases as JSON.

#[cfg(feature = "peers")]
mod crates;
pub mod process;
mod protocol;

use super::cases::Subject;
use super::measure::Contestant;
use crate::lab::say;
use crate::{Error, Result};
use engine::{DType, Queue};
use kernels::activation::Activate;
use kernels::attention::{Attention, Length, Source, Visibility};
use kernels::case::{Array, Pass};
use kernels::cross_entropy::CrossEntropy;
use kernels::layer_norm::LayerNorm;
use kernels::linear_cross_entropy::LinearCrossEntropy;
use kernels::matmul::{Activation, Layout, Matmul};
use protocol::Way;
use serde::Serialize;
use std::any::Any;
use std::path::{Path, PathBuf};

/// What builds the crates in.
pub const BUILD: &str = "cargo run --release --features peers -- bench --peers";

/// Someone else's implementation of some cases.
pub trait Peer {
    /// Its name and version.
    fn name(&self) -> &str;

    /// Its contestant for the case at this place of the list, on these values; none if it has not this op.
    ///
    /// # Errors
    /// It has ended.
    fn contestant<'a>(&'a mut self, place: usize, values: &[Array]) -> Result<Option<Box<dyn Contestant + 'a>>>;
}

/// The peers that are there, and why others are not.
#[derive(Default)]
pub struct Field {
    /// Those that take part.
    pub peers: Vec<Box<dyn Peer>>,
    /// A sentence for each that does not.
    pub absent: Vec<String>,
}

/// Looks for peers: the crates and PyTorch of this interpreter, if one is given, and these programs.
pub fn open(python: Option<&Path>, programs: &[PathBuf], queue: &Queue, subjects: &[Subject]) -> Field {
    let cases: Vec<Option<PeerCase>> = subjects.iter().map(PeerCase::of).collect();
    let mut field = Field::default();
    if let Some(python) = python {
        if matches!(queue, Queue::Cpu(_)) {
            #[cfg(feature = "peers")]
            crates::open(queue, &cases, &mut field);
            #[cfg(not(feature = "peers"))]
            field.absent.push(format!("gemm and matrixmultiply are not built in: {BUILD}"));
        }
        field.join(protocol::torch(python, queue, &cases));
    }
    programs.iter().for_each(|program| field.join(protocol::program(program, queue, &cases)));
    field
}

impl Field {
    /// Takes in the ways of a program, each under a name of its own.
    fn join(&mut self, ways: std::result::Result<Vec<Way>, String>) {
        match ways {
            Ok(ways) => ways.into_iter().for_each(|mut way| {
                let names: Vec<&str> = self.peers.iter().map(|peer| peer.name()).collect();
                way.make_distinct(&names);
                self.peers.push(Box::new(way));
            }),
            Err(reason) => self.absent.push(reason),
        }
    }

    /// The contestants for the case at this place, each with the place of its peer; what fails is added to `failed`.
    pub fn contestants<'a>(
        &'a mut self,
        place: usize,
        values: &[Array],
        failed: &mut Vec<(usize, Error)>,
    ) -> Vec<(usize, Box<dyn Contestant + 'a>)> {
        let mut contestants = Vec::new();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            match peer.contestant(place, values) {
                Ok(contestant) => contestants.extend(contestant.map(|contestant| (index, contestant))),
                Err(error) => failed.push((index, error)),
            }
        }
        contestants
    }

    /// Ends the part of the peers at these places, which failed in a case.
    pub fn dismiss(&mut self, mut failed: Vec<(usize, Error)>, case: &str) {
        failed.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, error) in failed {
            let name = self.peers.remove(index).name().to_owned();
            let sentence = format!("{name} takes part no longer since it failed in {case}: {error}");
            say(&sentence);
            self.absent.push(sentence);
        }
    }
}

/// A case as peers know it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerCase {
    /// Op and shapes.
    #[serde(flatten)]
    pub work: Work,
    /// Storage type.
    pub dtype: DType,
    /// Whether gradients of the inputs are wanted too.
    pub backward: bool,
}

/// Ops that peers may have.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Work {
    /// A product of `m` x `n` x `k`; `a` and `b` say which operand is stored transposed.
    Product {
        /// Rows of the result.
        m: usize,
        /// Columns of the result.
        n: usize,
        /// Terms of a sum.
        k: usize,
        /// A is stored `[k, m]`.
        a_transposed: bool,
        /// B is stored `[n, k]`.
        b_transposed: bool,
    },
    /// LayerNorm with weight and bias.
    LayerNorm {
        /// Rows.
        rows: usize,
        /// Elements of a row.
        columns: usize,
    },
    /// GELU by the error function.
    Gelu {
        /// Elements.
        elements: usize,
    },
    /// Attention of sequences of equal length.
    Attention {
        /// Sequences.
        sequences: usize,
        /// Heads.
        heads: usize,
        /// Rows of queries of a sequence.
        queries: usize,
        /// Rows of keys of a sequence.
        keys: usize,
        /// Channels of a head.
        head_dim: usize,
        /// Whether rows see only those before them.
        causal: bool,
        /// Whether all sequences have the same queries.
        shared_query: bool,
    },
    /// Mean cross-entropy of logits.
    CrossEntropy {
        /// Rows.
        rows: usize,
        /// Classes.
        classes: usize,
        /// Share of the target that all classes have together.
        smoothing: f32,
    },
    /// Mean cross-entropy of a product.
    LinearCrossEntropy {
        /// Rows.
        rows: usize,
        /// Terms of a logit.
        width: usize,
        /// Classes.
        vocabulary: usize,
    },
}

impl PeerCase {
    /// The case of a subject; none if no peer has its op.
    pub fn of(subject: &Subject) -> Option<PeerCase> {
        let op: &dyn Any = &*subject.op;
        let shapes: Vec<_> = subject.inputs.iter().map(|input| input.meta.shape).collect();
        if subject.inputs.iter().any(|input| input.ragged.is_some()) {
            return None;
        }
        let work = if let Some(product) = op.downcast_ref::<Matmul>() {
            let is_plain = shapes.len() == 2 && product.activation.is_none() && product.output == subject.dtype();
            let (a_transposed, b_transposed) = (product.layout == Layout::Tn, product.layout == Layout::Nt);
            let (m, k) = if a_transposed {
                (shapes[0].columns(), shapes[0].rows())
            } else {
                (shapes[0].rows(), shapes[0].columns())
            };
            let n = if b_transposed { shapes[1].rows() } else { shapes[1].columns() };
            is_plain.then_some(Work::Product { m, n, k, a_transposed, b_transposed })?
        } else if let Some(LayerNorm { residual: false, .. }) = op.downcast_ref() {
            Work::LayerNorm { rows: shapes[0].rows(), columns: shapes[0].columns() }
        } else if let Some(Activate(Activation::Gelu)) = op.downcast_ref() {
            Work::Gelu { elements: shapes[0].elements() }
        } else if let Some(CrossEntropy { smoothing }) = op.downcast_ref() {
            Work::CrossEntropy { rows: shapes[0].rows(), classes: shapes[0].columns(), smoothing: *smoothing }
        } else if op.is::<LinearCrossEntropy>() {
            let (rows, width) = (shapes[0].rows(), shapes[0].columns());
            Work::LinearCrossEntropy { rows, width, vocabulary: shapes[1].columns() }
        } else {
            attention(op.downcast_ref()?, shapes[0].rows(), shapes[0].columns(), shapes.get(1).map(|keys| keys.rows()))?
        };
        Some(PeerCase { work, dtype: subject.dtype(), backward: subject.run == Pass::Both })
    }
}

/// Attention over sequences of equal length, given the rows and columns of its tensors.
fn attention(op: &Attention, rows: usize, columns: usize, key_rows: Option<usize>) -> Option<Work> {
    let causal = match op.visibility {
        Visibility::All => false,
        Visibility::Causal => true,
        Visibility::KeyBits => return None,
    };
    let parts = if op.source == Source::Packed { 3 } else { 1 };
    let (shared_query, heads, head_dim) = (op.source == Source::SharedQuery, op.heads, columns / parts / op.heads);
    let (sequences, queries, keys) = match (op.source, op.queries, op.keys) {
        (Source::Packed, Length::Fixed(each), _) => (rows / each, each, each),
        (Source::Separate, Length::Fixed(each), Length::Fixed(keys)) => (rows / each, each, keys),
        (Source::SharedQuery, _, Length::Fixed(keys)) => (key_rows? / keys, rows, keys),
        _ => return None,
    };
    Some(Work::Attention { sequences, heads, queries, keys, head_dim, causal, shared_query })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cases::{of_kernels, products};
    use serde_json::json;

    #[test]
    fn cases_are_told_in_json() {
        let case = PeerCase::of(&products((4, 5, 6))[1]).unwrap();
        let wanted = json!({"op": "product", "m": 4, "n": 5, "k": 6, "a_transposed": false, "b_transposed": true,
            "dtype": "f32", "backward": false});
        assert_eq!(serde_json::to_value(case).unwrap(), wanted);
    }

    #[test]
    fn the_ops_of_the_kernels_are_known_to_peers() {
        let known: Vec<_> = of_kernels().iter().map(|subject| (subject.name.clone(), PeerCase::of(subject))).collect();
        let find = |name: &str| known.iter().find(|(own, _)| own == name).unwrap().1.clone().map(|case| case.work);
        let pooler = Work::Attention {
            sequences: 8,
            heads: 8,
            queries: 256,
            keys: 50,
            head_dim: 64,
            causal: false,
            shared_query: true,
        };
        assert_eq!(find("attention B-32 pooler f32"), Some(pooler));
        let text = Work::Attention {
            sequences: 8,
            heads: 8,
            queries: 77,
            keys: 77,
            head_dim: 64,
            causal: true,
            shared_query: false,
        };
        assert_eq!(find("attention B-32 text, padded f32"), Some(text));
        assert_eq!(find("attention B-32 text, ragged f32"), None);
        let tn = Work::Product { m: 400, n: 2304, k: 768, a_transposed: true, b_transposed: false };
        assert_eq!(find("matmul_tn 400x2304x768 bf16"), Some(tn));
        let loss = Work::LinearCrossEntropy { rows: 600, width: 512, vocabulary: 49408 };
        assert!(known.iter().any(|(_, case)| case.as_ref().is_some_and(|case| case.work == loss)));
    }
}
