//! Where a pooler looks: the attention of the pooled feature over the image, computed for one image outside of the fused
//! kernels, which never store it.

use crate::coca::Coca;
use crate::config::Pooler;
use engine::{Error, Result};

/// As the kernels have it.
const EPSILON: f64 = 1e-5;

/// Attention of the contrastive feature over the patches of an image, rows from the top, `[side, side]` with `side` patches
/// along an edge: the mean over the heads. It sums to 1 less what goes to a class token. In the paper's cascade the feature
/// reads the generative queries; its attention to them is carried on to what each of them reads.
///
/// `encoded` is one image's f32 `[rows, vision width]` of [`ImageEncoder::encoded`](crate::encoder::ImageEncoder::encoded).
///
/// # Errors
/// The model has no pooler, or `encoded` is not one image's.
pub fn pooled_attention(model: &Coca, encoded: &[f32]) -> Result<Vec<f32>> {
    let config = model.config();
    let (vision, pooler) = (&config.vision, config.pooler);
    let (rows, width) = (vision.rows(), vision.width);
    if encoded.len() != rows * width {
        let given = encoded.len();
        return Err(Error::invalid(format!("one image is encoded as {rows} x {width} values, got {given}")));
    }
    let map = match pooler {
        Pooler::None => {
            return Err(Error::invalid("this model has no attentional pooler: its class token is the image's feature"));
        }
        Pooler::OpenClip { heads, .. } => mean_of_heads(&attention(model, "visual.attn_pool", encoded, heads)?, 0),
        Pooler::Parallel { heads, .. } => {
            mean_of_heads(&attention(model, "visual.attn_pool_contrastive", encoded, heads)?, 0)
        }
        Pooler::Cascade { queries, heads } => {
            let generative = attention(model, "visual.attn_pool", encoded, heads)?;
            let tokens = tokens(model, encoded, &generative)?;
            let pooled = mean_of_heads(&attention(model, "visual.attn_pool_contrastive", &tokens, heads)?, 0);
            let mut map = vec![0.0; rows];
            for (query, share) in (0..queries).zip(pooled) {
                let seen = mean_of_heads(&generative, query);
                map.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += share * seen);
            }
            map
        }
    };
    Ok(map[usize::from(vision.class_token)..].iter().map(|&share| share as f32).collect())
}

/// Attention weights of all queries of a pooler, `[heads][queries][rows of x]`.
type Weights = Vec<Vec<Vec<f64>>>;

fn mean_of_heads(weights: &Weights, query: usize) -> Vec<f64> {
    let mut mean = vec![0.0; weights[0][query].len()];
    let heads = weights.len() as f64;
    for head in weights {
        mean.iter_mut().zip(&head[query]).for_each(|(sum, weight)| *sum += weight / heads);
    }
    mean
}

/// The attention of a pooler over `x`, rows of any width.
fn attention(model: &Coca, name: &str, x: &[f32], heads: usize) -> Result<Weights> {
    let width = model.config().embed_dim;
    let head = width / heads;
    let query = normed(model, &model.parameters().read(&format!("{name}.query"))?, &format!("{name}.ln_q"))?;
    let keys = project(model, name, 1, &normed(model, x, &format!("{name}.ln_k"))?)?;
    let query = project(model, name, 0, &query)?;
    let scale = (head as f64).powf(-0.5);
    let of_head = |at: usize| -> Vec<Vec<f64>> {
        let part = |row: &'_ [f64]| row[at * head..(at + 1) * head].to_vec();
        let of_query = |query: &[f64]| {
            let query = part(query);
            let score = |key: &[f64]| query.iter().zip(part(key)).map(|(q, k)| q * k).sum::<f64>() * scale;
            softmax(keys.chunks(width).map(score).collect())
        };
        query.chunks(width).map(of_query).collect()
    };
    Ok((0..heads).map(of_head).collect())
}

/// What the generative pooler makes of the image with these weights: `[queries, embed_dim]` after LayerNorm.
fn tokens(model: &Coca, x: &[f32], weights: &Weights) -> Result<Vec<f32>> {
    let (name, width) = ("visual.attn_pool", model.config().embed_dim);
    let mixed = mixed(model, name, x, weights)?;
    let out = read(model, &format!("{name}.attn.out_proj.weight"))?;
    let tokens = linear(&mixed, &out, &read(model, &format!("{name}.attn.out_proj.bias"))?, width);
    let tokens: Vec<f32> = tokens.into_iter().map(|value| value as f32).collect();
    Ok(normed(model, &tokens, "visual.ln_post")?.into_iter().map(|value| value as f32).collect())
}

/// Values of `x` mixed by the weights: `[queries, embed_dim]`.
fn mixed(model: &Coca, name: &str, x: &[f32], weights: &Weights) -> Result<Vec<f64>> {
    let width = model.config().embed_dim;
    let values = project(model, name, 2, &normed(model, x, &format!("{name}.ln_k"))?)?;
    let mut mixed = Vec::with_capacity(weights[0].len() * width);
    for query in 0..weights[0].len() {
        for column in 0..width {
            let weights = &weights[column / (width / weights.len())][query];
            mixed.push(weights.iter().zip(values.chunks(width)).map(|(weight, row)| weight * row[column]).sum());
        }
    }
    Ok(mixed)
}

/// Part 0, 1 or 2 (query, key, value) of a pooler's projections of `x`: `[rows, embed_dim]`.
fn project(model: &Coca, name: &str, part: usize, x: &[f64]) -> Result<Vec<f64>> {
    let width = model.config().embed_dim;
    let attention = format!("{name}.attn");
    let packed = format!("{attention}.in_proj_weight");
    let weight = match model.parameters().find(&packed) {
        Ok(_) => read(model, &packed)?[part * width * width..(part + 1) * width * width].to_vec(),
        Err(_) => read(model, &format!("{attention}.{}_proj_weight", ['q', 'k', 'v'][part]))?,
    };
    let bias = read(model, &format!("{attention}.in_proj_bias"))?;
    Ok(linear(x, &weight, &bias[part * width..(part + 1) * width], width))
}

fn read(model: &Coca, name: &str) -> Result<Vec<f64>> {
    Ok(model.parameters().read(name)?.into_iter().map(f64::from).collect())
}

/// `x W^T + b`, W `[outputs, inputs]`.
fn linear(x: &[f64], weight: &[f64], bias: &[f64], outputs: usize) -> Vec<f64> {
    let inputs = weight.len() / outputs;
    let dot = |row: &[f64], weights: &[f64]| row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
    let product = |row: &[f64]| weight.chunks(inputs).zip(bias).map(|(w, b)| dot(row, w) + b).collect::<Vec<_>>();
    x.chunks(inputs).flat_map(product).collect()
}

/// LayerNorm of rows with the parameters `name.weight` and `name.bias`.
fn normed(model: &Coca, x: &[f32], name: &str) -> Result<Vec<f64>> {
    let (weight, bias) = (read(model, &format!("{name}.weight"))?, read(model, &format!("{name}.bias"))?);
    let norm = |row: &[f32]| {
        let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / row.len() as f64;
        let scale = (variance + EPSILON).powf(-0.5);
        let scaled = row.iter().zip(weight.iter().zip(&bias));
        scaled.map(|(&value, (weight, bias))| (f64::from(value) - mean) * scale * weight + bias).collect::<Vec<_>>()
    };
    Ok(x.chunks(weight.len()).flat_map(norm).collect())
}

fn softmax(mut scores: Vec<f64>) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CocaConfig;
    use crate::encoder::ImageEncoder;
    use engine::{CpuQueue, DType, Queue, Workspace, cpu::Isa, rng::Philox};

    fn small(pooler: Pooler, width: usize) -> Coca {
        let mut config = CocaConfig::preset("emoji").unwrap();
        (config.embed_dim, config.pooler) = (32, pooler);
        let vision = &mut config.vision;
        (vision.image_size, vision.patch_size, vision.class_token) = (16, 4, pooler == Pooler::None);
        (vision.width, vision.heads, vision.layers, vision.mlp_width) = (width, 2, 1, 32);
        (config.text.width, config.text.heads, config.text.layers, config.text.mlp_width) = (32, 2, 1, 32);
        (config.decoder.width, config.decoder.heads, config.decoder.mlp_width) = (32, 2, 32);
        let model = Coca::new(config, DType::F32, false).unwrap();
        model.initialize(3).unwrap();
        // Norms that start at one and zero would hide a mistake in them.
        let mut random = Philox::new(5, 0);
        for entry in model.parameters().entries().iter().filter(|entry| entry.name.contains("ln_")) {
            let values: Vec<f32> = (0..entry.shape.elements()).map(|_| random.normal() as f32).collect();
            model.parameters().write(&entry.name, &values).unwrap();
        }
        model
    }

    /// Attention that is right gives, with values, projections and norms, the features of the fused kernels.
    #[test]
    fn the_weights_are_those_that_make_the_feature() {
        let queue = Queue::Cpu(CpuQueue::new(Isa::best(), 1).unwrap());
        let mut random = Philox::new(1, 0);
        let image: Vec<u8> = (0..16 * 16 * 3).map(|_| random.below(256) as u8).collect();
        for (pooler, width) in [
            (Pooler::OpenClip { queries: 3, heads: 4 }, 32),
            (Pooler::OpenClip { queries: 3, heads: 4 }, 48),
            (Pooler::Cascade { queries: 5, heads: 4 }, 48),
            (Pooler::Parallel { queries: 5, heads: 4 }, 48),
        ] {
            let model = small(pooler, width);
            let mut encoder = ImageEncoder::new(&model, 1, &Workspace::new()).unwrap();
            let encoded = encoder.encoded(&queue, &image).unwrap();
            let map = pooled_attention(&model, &encoded).unwrap();
            assert_eq!(map.len(), 16);
            assert!((map.iter().sum::<f32>() - 1.0).abs() < 1e-5 && map.iter().all(|&share| share > 0.0), "{map:?}");
            let (name, norm, x) = match pooler {
                Pooler::OpenClip { .. } => ("visual.attn_pool", "visual.ln_post", encoded),
                Pooler::Parallel { .. } => ("visual.attn_pool_contrastive", "visual.ln_post_contrastive", encoded),
                _ => {
                    let weights = attention(&model, "visual.attn_pool", &encoded, 4).unwrap();
                    let tokens = tokens(&model, &encoded, &weights).unwrap();
                    ("visual.attn_pool_contrastive", "visual.ln_post_contrastive", tokens)
                }
            };
            let weights = attention(&model, name, &x, 4).unwrap();
            let pooled = mixed(&model, name, &x, &weights).unwrap();
            let (weight, bias) = ("attn.out_proj.weight", "attn.out_proj.bias");
            let [weight, bias] = [weight, bias].map(|part| read(&model, &format!("{name}.{part}")).unwrap());
            let pooled: Vec<f32> =
                linear(&pooled[..32], &weight, &bias, 32).iter().map(|&value| value as f32).collect();
            let normed = normed(&model, &pooled, norm).unwrap();
            // `proj` is [in, out].
            let proj = read(&model, "visual.proj").unwrap();
            let feature: Vec<f64> =
                (0..32).map(|out| (0..32).map(|at| normed[at] * proj[at * 32 + out]).sum()).collect();
            let length = feature.iter().map(|value| value * value).sum::<f64>().sqrt();
            for (found, wanted) in feature.iter().zip(encoder.features(&queue, &image).unwrap()) {
                assert!((found / length - f64::from(wanted)).abs() < 1e-5, "{pooler:?}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn what_has_no_map_is_refused() {
        let model = small(Pooler::None, 32);
        let error = |values: usize| pooled_attention(&model, &vec![0.0; values]).unwrap_err().to_string();
        assert!(error(17 * 32).contains("no attentional pooler"), "{}", error(17 * 32));
        assert!(error(3).contains("17 x 32"), "{}", error(3));
    }
}
