//! The blocks that every tower is made of: pre-norm attention and MLP with fused residuals.

use super::EPSILON;
use crate::config::CocaConfig;
use engine::{DType, Parameters, Result, Tape, Tensor};
use kernels::attention::{Mask, Rows, attention_cross, attention_packed};
use kernels::layer_norm::layer_norm;
use kernels::matmul::{Activation, linear, linear_residual, mlp_residual};

/// Pushes layers of one model, or of a head with a configuration of its own, onto a tape. Matrices are read in the
/// activations' dtype, everything else in f32.
#[derive(Debug)]
pub struct Layers<'a, C = CocaConfig> {
    /// Where ops go.
    pub tape: &'a mut Tape,
    /// The model's parameters.
    pub parameters: &'a Parameters,
    /// The architecture.
    pub config: &'a C,
    /// Storage type of activations.
    pub dtype: DType,
}

impl<C> Layers<'_, C> {
    /// A matrix, in the activations' dtype.
    #[track_caller]
    pub fn matrix(&mut self, name: &str) -> Result<Tensor> {
        self.tape.parameter(self.parameters, name, self.dtype)
    }

    /// A vector or table, in f32.
    #[track_caller]
    pub fn vector(&mut self, name: &str) -> Result<Tensor> {
        self.tape.parameter(self.parameters, name, DType::F32)
    }

    /// Part `part` of `parts` equal parts of a packed matrix and of its bias.
    pub fn packed_part(&mut self, prefix: &str, first: usize, count: usize, width: usize) -> Result<(Tensor, Tensor)> {
        let rows = first * width..(first + count) * width;
        let weight = format!("{prefix}.in_proj_weight");
        let weight = self.tape.parameter_rows(self.parameters, &weight, rows.clone(), self.dtype)?;
        let bias = format!("{prefix}.in_proj_bias");
        Ok((weight, self.tape.parameter_rows(self.parameters, &bias, rows, DType::F32)?))
    }

    /// LayerNorm with the parameters `name.weight` and `name.bias`.
    #[track_caller]
    pub fn layer_norm(&mut self, x: Tensor, name: &str) -> Result<Tensor> {
        let (weight, bias) = (self.vector(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        layer_norm(self.tape, x, weight, bias, EPSILON)
    }

    /// `x W^T + b` with the parameters `name.weight` and `name.bias`.
    #[track_caller]
    pub fn linear(&mut self, x: Tensor, name: &str) -> Result<Tensor> {
        let (weight, bias) = (self.matrix(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        linear(self.tape, x, weight, Some(bias))
    }

    /// As [`Layers::linear`], plus a residual.
    #[track_caller]
    pub fn linear_residual(&mut self, x: Tensor, name: &str, residual: Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.matrix(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        linear_residual(self.tape, x, weight, bias, residual)
    }

    /// Queries, keys and values of a self-attention: `[rows, 3 width]`.
    #[track_caller]
    pub fn packed_projection(&mut self, x: Tensor, prefix: &str) -> Result<Tensor> {
        let weight = self.matrix(&format!("{prefix}.in_proj_weight"))?;
        let bias = self.vector(&format!("{prefix}.in_proj_bias"))?;
        linear(self.tape, x, weight, Some(bias))
    }

    /// Runs `body` in a named span that is a unit of recomputation.
    pub fn in_block<R>(&mut self, name: &str, body: impl FnOnce(&mut Layers<'_, C>) -> R) -> R {
        let Layers { parameters, config, dtype, .. } = *self;
        self.tape.block(name, |tape| body(&mut Layers { tape, parameters, config, dtype }))
    }

    /// Runs `body` in a named span.
    pub fn in_span<R>(&mut self, name: &str, body: impl FnOnce(&mut Layers<'_, C>) -> R) -> R {
        let Layers { parameters, config, dtype, .. } = *self;
        self.tape.span(name, |tape| body(&mut Layers { tape, parameters, config, dtype }))
    }
}

impl Layers<'_> {
    /// `x + attention(LN(x))` of block `prefix`.
    pub fn self_attention(&mut self, x: Tensor, prefix: &str, heads: usize, rows: Rows, mask: Mask) -> Result<Tensor> {
        let normed = self.layer_norm(x, &format!("{prefix}.ln_1"))?;
        let qkv = self.packed_projection(normed, &format!("{prefix}.attn"))?;
        let mixed = attention_packed(self.tape, qkv, heads, rows, mask)?;
        self.linear_residual(mixed, &format!("{prefix}.attn.out_proj"), x)
    }

    /// Keys and values `[B N, 2 width]` that cross-attention block `prefix` makes of the image tokens.
    pub fn cross_keys(&mut self, image_tokens: Tensor, prefix: &str) -> Result<Tensor> {
        let normed = self.layer_norm(image_tokens, &format!("{prefix}.ln_1_kv"))?;
        let width = self.config.decoder.width;
        let (weight, bias) = self.packed_part(&format!("{prefix}.attn"), 1, 2, width)?;
        linear(self.tape, normed, weight, Some(bias))
    }

    /// `x + attention(LN(x), keys)` of block `prefix`; queries are ragged or fixed, keys `keys` rows an image.
    pub fn cross_attention(
        &mut self,
        x: Tensor,
        key_value: Tensor,
        prefix: &str,
        queries: Rows,
        keys: usize,
    ) -> Result<Tensor> {
        let normed = self.layer_norm(x, &format!("{prefix}.ln_1"))?;
        let (weight, bias) = self.packed_part(&format!("{prefix}.attn"), 0, 1, self.config.decoder.width)?;
        let query = linear(self.tape, normed, weight, Some(bias))?;
        let heads = self.config.decoder.heads;
        let mixed = attention_cross(self.tape, query, key_value, heads, queries, Rows::Fixed(keys))?;
        self.linear_residual(mixed, &format!("{prefix}.attn.out_proj"), x)
    }

    /// `x + MLP(LN(x))` of block `prefix`.
    pub fn mlp(&mut self, x: Tensor, prefix: &str) -> Result<Tensor> {
        let normed = self.layer_norm(x, &format!("{prefix}.ln_2"))?;
        let mut layer = |name: &str| -> Result<(Tensor, Tensor)> {
            let weight = self.matrix(&format!("{prefix}.mlp.{name}.weight"))?;
            Ok((weight, self.vector(&format!("{prefix}.mlp.{name}.bias"))?))
        };
        let (up, down) = (layer("c_fc")?, layer("c_proj")?);
        let activation = if self.config.quick_gelu { Activation::QuickGelu } else { Activation::Gelu };
        mlp_residual(self.tape, normed, up, down, x, activation)
    }

    /// A block of self-attention and MLP, a unit of recomputation.
    pub fn block(&mut self, x: Tensor, prefix: &str, heads: usize, rows: Rows, mask: Mask) -> Result<Tensor> {
        self.in_block(prefix, |layers| {
            let x = layers.self_attention(x, prefix, heads, rows, mask)?;
            layers.mlp(x, prefix)
        })
    }
}
