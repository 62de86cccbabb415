//! Attention in plain f64 loops: each row's whole softmax, gradients by the textbook formula.

use super::{Attention, Length, SEEN_BY_ITSELF, SEEN_LATER, Source, Visibility};
use crate::case::{Array, Reference};
use std::ops::Range;

/// The plain version of [`Attention`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionReference(pub Attention);

/// Row ranges of one sequence: of its queries, its results and its keys.
type Part = (Range<usize>, Range<usize>, Range<usize>);

impl AttentionReference {
    fn parts(&self, inputs: &[Array]) -> Vec<Part> {
        let op = &self.0;
        let mut next = op.tensors();
        let mut divide = |length: Length, rows: usize| -> Vec<Range<usize>> {
            match length {
                Length::Fixed(count) => (0..rows / count).map(|index| index * count..(index + 1) * count).collect(),
                Length::Ragged => {
                    next += 1;
                    inputs[next - 1].data.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect()
                }
            }
        };
        let query_rows = inputs[0].shape.rows();
        match op.source {
            Source::Packed => {
                divide(op.queries, query_rows).into_iter().map(|rows| (rows.clone(), rows.clone(), rows)).collect()
            }
            Source::Separate => {
                let queries = divide(op.queries, query_rows);
                let keys = divide(op.keys, inputs[1].shape.rows());
                queries.into_iter().zip(keys).map(|(rows, keys)| (rows.clone(), rows, keys)).collect()
            }
            Source::SharedQuery => (divide(op.keys, inputs[1].shape.rows()).into_iter().enumerate())
                .map(|(index, keys)| (0..query_rows, index * query_rows..(index + 1) * query_rows, keys))
                .collect(),
        }
    }

    fn width(&self, inputs: &[Array]) -> usize {
        inputs[0].shape.columns() / if self.0.source == Source::Packed { 3 } else { 1 }
    }

    /// Columns where queries, keys and values start, and the index of the key tensor.
    fn starts(&self, width: usize) -> ([usize; 3], usize) {
        match self.0.source {
            Source::Packed => ([0, width, 2 * width], 0),
            _ => ([0, 0, width], 1),
        }
    }

    fn sees(&self, inputs: &[Array], first_key: usize, query: usize, key: usize) -> bool {
        let bits = || inputs[self.0.input_count() - 1].data[first_key + key] as u8;
        match self.0.visibility {
            Visibility::All => true,
            Visibility::Causal => key <= query,
            Visibility::KeyBits if key == query => bits() & SEEN_BY_ITSELF != 0,
            Visibility::KeyBits => key < query && bits() & SEEN_LATER != 0,
        }
    }

    /// Probabilities and log-sum-exp of one query row of one head.
    fn probabilities(&self, inputs: &[Array], part: &Part, head: usize, query: usize) -> (Vec<f64>, f64) {
        let width = self.width(inputs);
        let dim = width / self.0.heads;
        let ([q, k, _], tensor) = self.starts(width);
        let q = &inputs[0].row(part.0.start + query)[q + head * dim..][..dim];
        let scores: Vec<f64> = (part.2.clone().enumerate())
            .map(|(key, row)| {
                let k = &inputs[tensor].row(row)[k + head * dim..][..dim];
                let dot: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                let seen = self.sees(inputs, part.2.start, query, key);
                if seen { dot / (dim as f64).sqrt() } else { f64::NEG_INFINITY }
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return (vec![0.0; scores.len()], 0.0);
        }
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let log_sum_exp = largest + total.ln();
        (scores.iter().map(|score| (score - log_sum_exp).exp()).collect(), log_sum_exp)
    }
}

impl Reference for AttentionReference {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (width, heads) = (self.width(inputs), self.0.heads);
        let dim = width / heads;
        let ([.., v], tensor) = self.starts(width);
        let parts = self.parts(inputs);
        let rows = parts.last().map_or(0, |part| part.1.end);
        let (mut out, mut log_sum_exp) = (Array::zeros([rows, width]), Array::zeros([rows, heads]));
        for part in &parts {
            for (query, row) in part.1.clone().enumerate() {
                for head in 0..heads {
                    let (probabilities, total) = self.probabilities(inputs, part, head, query);
                    log_sum_exp.row_mut(row)[head] = total;
                    for (probability, key) in probabilities.iter().zip(part.2.clone()) {
                        let v = &inputs[tensor].row(key)[v + head * dim..][..dim];
                        let out = &mut out.row_mut(row)[head * dim..][..dim];
                        out.iter_mut().zip(v).for_each(|(out, v)| *out += probability * v);
                    }
                }
            }
        }
        vec![out, log_sum_exp]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (width, heads) = (self.width(inputs), self.0.heads);
        let dim = width / heads;
        let ([q, k, v], tensor) = self.starts(width);
        let scale = 1.0 / (dim as f64).sqrt();
        let mut gradients: Vec<Array> =
            inputs[..self.0.tensors()].iter().map(|input| Array::zeros(input.shape)).collect();
        for part in &self.parts(inputs) {
            for (query, row) in part.1.clone().enumerate() {
                for head in 0..heads {
                    let (probabilities, _) = self.probabilities(inputs, part, head, query);
                    let dout = &outputs[0].row(row)[head * dim..][..dim];
                    let key_row = |key: usize| inputs[tensor].row(part.2.start + key);
                    let dprobability: Vec<f64> = (0..probabilities.len())
                        .map(|key| dout.iter().zip(&key_row(key)[v + head * dim..]).map(|(a, b)| a * b).sum())
                        .collect();
                    let delta: f64 = probabilities.iter().zip(&dprobability).map(|(p, d)| p * d).sum();
                    for key in 0..probabilities.len() {
                        let dscore = probabilities[key] * (dprobability[key] - delta) * scale;
                        for channel in head * dim..(head + 1) * dim {
                            let (query_row, row_of_key) = (part.0.start + query, part.2.start + key);
                            let query_value = inputs[0].row(query_row)[q + channel];
                            gradients[0].row_mut(query_row)[q + channel] += dscore * key_row(key)[k + channel];
                            gradients[tensor].row_mut(row_of_key)[k + channel] += dscore * query_value;
                            gradients[tensor].row_mut(row_of_key)[v + channel] +=
                                probabilities[key] * dout[channel - head * dim];
                        }
                    }
                }
            }
        }
        let mut all: Vec<Option<Array>> = gradients.into_iter().map(Some).collect();
        all.resize(self.0.input_count(), None);
        all
    }
}
