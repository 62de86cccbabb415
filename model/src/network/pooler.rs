//! Attentional poolers: learned queries that attend to a sequence of rows, of a model or of a head.

use super::Layers;
use engine::{DType, Result, Tensor};
use kernels::attention::{Rows, attention_pool};
use kernels::columns::join_columns;
use kernels::matmul::linear;

impl<C> Layers<'_, C> {
    /// Attention of learned queries over each sequence of `x` `[key rows, width of the keys]`: LN, projections, attention,
    /// output projection. Returns `[sequences queries, width]`.
    pub fn attention_pooler(&mut self, name: &str, x: Tensor, rows: Rows, heads: usize) -> Result<Tensor> {
        self.in_span(name, |layers| {
            let query = layers.vector(&format!("{name}.query"))?;
            let query = layers.layer_norm(query, &format!("{name}.ln_q"))?;
            let query = kernels::elementwise::cast(layers.tape, query, layers.dtype)?;
            let x = layers.layer_norm(x, &format!("{name}.ln_k"))?;
            let attention = format!("{name}.attn");
            let width = query.shape().columns();
            let (query, key_value) = if x.shape().columns() == width {
                let (weight, bias) = layers.packed_part(&attention, 0, 1, width)?;
                let query = linear(layers.tape, query, weight, Some(bias))?;
                let (weight, bias) = layers.packed_part(&attention, 1, 2, width)?;
                (query, linear(layers.tape, x, weight, Some(bias))?)
            } else {
                let mut part = |index: usize, letter: char, x: Tensor| -> Result<Tensor> {
                    let weight = layers.matrix(&format!("{attention}.{letter}_proj_weight"))?;
                    let bias = format!("{attention}.in_proj_bias");
                    let span = index * width..(index + 1) * width;
                    let bias = layers.tape.parameter_rows(layers.parameters, &bias, span, DType::F32)?;
                    linear(layers.tape, x, weight, Some(bias))
                };
                let (query, key, value) = (part(0, 'q', query)?, part(1, 'k', x)?, part(2, 'v', x)?);
                (query, join_columns(layers.tape, key, value)?)
            };
            let mixed = attention_pool(layers.tape, query, key_value, heads, rows)?;
            layers.linear(mixed, &format!("{attention}.out_proj"))
        })
    }
}
