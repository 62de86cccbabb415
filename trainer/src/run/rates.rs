//! The learning rate of each parameter as a share of the run's: `optimizer.scales` by name, `optimizer.layer_decay` by depth.

use crate::config::Optimizer;
use crate::{Error, Result};
use engine::Parameters;
use model::Coca;
use model::config::CocaConfig;

/// Parameters below the first block of the image tower and of the text tower.
const EMBEDDINGS: [&[&str]; 2] = [
    &["visual.class_embedding", "visual.positional_embedding", "visual.conv1", "visual.ln_pre"],
    &["text.cls_emb", "text.positional_embedding", "text.token_embedding"],
];

/// Factors on the learning rate.
#[derive(Clone, Debug)]
pub struct Rates {
    scales: Vec<(String, f64)>,
    layer_decay: f64,
    architecture: CocaConfig,
}

impl Rates {
    /// Those that the settings give the parameters of a model.
    ///
    /// # Errors
    /// A factor is no number from 0 on, or no parameter's name starts so.
    pub fn new(settings: &Optimizer, model: &Coca) -> Result<Rates> {
        let scales = scales(&settings.scales, model.parameters())?;
        Ok(Rates { scales, layer_decay: settings.layer_decay, architecture: model.config().clone() })
    }

    /// The factor of a parameter.
    pub fn of(&self, name: &str) -> f64 {
        // The longest start of the name counts.
        let found = self.scales.iter().filter(|(start, _)| starts(name, start)).max_by_key(|(start, _)| start.len());
        let scale = found.map_or(1.0, |&(_, factor)| factor);
        scale * self.layer_decay.powi(depth(name, &self.architecture) as i32)
    }
}

/// `optimizer.scales`, checked.
fn scales(scales: &toml::Table, parameters: &Parameters) -> Result<Vec<(String, f64)>> {
    let scale = |(start, value): (&String, &toml::Value)| {
        let number = value.as_float().or(value.as_integer().map(|value| value as f64));
        let Some(factor) = number.filter(|factor| factor.is_finite() && *factor >= 0.0) else {
            return Err(Error::invalid(format!("optimizer.scales: {start} = {value}: a factor from 0 on is wanted")));
        };
        if !parameters.entries().iter().any(|entry| starts(&entry.name, start)) {
            return Err(Error::invalid(format!(
                "optimizer.scales: no parameter's name starts with '{start}'; there are visual, text, text_decoder, \
                 logit_scale and, of a task, head, and `coca inspect` lists all of a model"
            )));
        }
        Ok((start.clone(), factor))
    };
    scales.iter().map(scale).collect()
}

/// Whether whole parts of a name are its start: `text` starts `text.cls_emb`, not `text_decoder.ln_final.weight`.
fn starts(name: &str, start: &str) -> bool {
    name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// How many layers stand above a parameter, its own included: 0 above the blocks of its tower. The decoder stands on the text
/// tower; the image tower is counted by itself, as every layer of the decoder reads what it gives.
fn depth(name: &str, model: &CocaConfig) -> usize {
    let (image, decoder) = (model.vision.layers, model.decoder.layers);
    let text = decoder + model.text.layers;
    let block = |start: &str| -> Option<usize> { name.strip_prefix(start)?.split('.').next()?.parse().ok() };
    let below = |top: usize, layer: Option<usize>| layer.map(|layer| top - layer);
    let [image_embeddings, text_embeddings] = EMBEDDINGS.map(|list| list.iter().any(|start| starts(name, start)));
    below(image, block("visual.transformer.resblocks."))
        .or_else(|| below(text, block("text.transformer.resblocks.")))
        .or_else(|| below(decoder, block("text_decoder.resblocks.").or_else(|| block("text_decoder.cross_attn."))))
        .or(image_embeddings.then_some(image + 1))
        .or(text_embeddings.then_some(text + 1))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use engine::DType;
    use model::heads::HeadConfig;

    /// A model with three image layers, two of text and two of the decoder, and a head.
    fn rates(sets: &[&str]) -> Result<Rates> {
        let layers =
            ["vision.layers=3", "text.layers=2", "decoder.layers=2"].map(|set| format!("model.overrides.{set}"));
        let sets: Vec<String> = layers.into_iter().chain(sets.iter().map(|set| (*set).to_owned())).collect();
        let config = Config::load(None, &[sets, vec!["data.train=x".into()]].concat())?;
        let architecture = config.architecture()?;
        let head = HeadConfig::of_images(&architecture, 4);
        Rates::new(&config.optimizer, &Coca::with_head(architecture, Some(head), DType::F32, false)?)
    }

    #[test]
    fn the_longest_start_of_a_name_counts() {
        let scales =
            "optimizer.scales={ text = 0.5, \"text.token_embedding\" = 2, \"visual.conv1.weight\" = 0, head = 3.0 }";
        let rates = rates(&[scales]).unwrap();
        for (name, factor) in [
            ("text.cls_emb", 0.5),
            ("text.token_embedding.weight", 2.0),
            ("text_decoder.ln_final.weight", 1.0),
            ("visual.conv1.weight", 0.0),
            ("visual.proj", 1.0),
            ("head.classifier.bias", 3.0),
        ] {
            assert_eq!(rates.of(name), factor, "{name}");
        }
        for (scales, wanted) in [
            ("{ txt = 2 }", "no parameter's name starts with 'txt'"),
            ("{ text = -1.0 }", "a factor from 0 on is wanted"),
            ("{ text = \"half\" }", "a factor from 0 on is wanted"),
        ] {
            let error = self::rates(&[&format!("optimizer.scales={scales}")]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn deeper_layers_learn_slower() {
        let rates = rates(&["optimizer.layer_decay=0.5", "optimizer.scales={ \"visual.proj\" = 3 }"]).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for (name, layers) in [
            ("head.pooler.query", 0),
            ("head.classifier.weight", 0),
            ("logit_scale", 0),
            ("visual.ln_post.weight", 0),
            ("visual.attn_pool.query", 0),
            ("visual.transformer.resblocks.2.mlp.c_fc.weight", 1),
            ("visual.transformer.resblocks.0.ln_1.bias", 3),
            ("visual.ln_pre.weight", 4),
            ("visual.conv1.weight", 4),
            ("visual.positional_embedding", 4),
            ("visual.class_embedding", 4),
            ("text_decoder.text_projection", 0),
            ("text_decoder.ln_final.weight", 0),
            ("text_decoder.resblocks.1.ln_1.weight", 1),
            ("text_decoder.cross_attn.1.ln_1.weight", 1),
            ("text_decoder.cross_attn.0.ln_1.weight", 2),
            ("text.ln_final.weight", 0),
            ("text.transformer.resblocks.1.ln_1.weight", 3),
            ("text.transformer.resblocks.0.ln_1.weight", 4),
            ("text.token_embedding.weight", 5),
            ("text.positional_embedding", 5),
            ("text.cls_emb", 5),
        ] {
            assert_eq!(rates.of(name), 0.5f64.powi(layers), "{name}");
            seen.insert(layers);
        }
        assert_eq!(seen.len(), 6);
        assert_eq!(rates.of("visual.proj"), 3.0);
    }
}
