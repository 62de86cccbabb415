//! What the page asks a model: captions, labels, neighbours, and where it looks.

use super::index::Index;
use crate::model_folder::ModelFolder;
use crate::{Error, Result};
use engine::{DType, Workspace};
use model::LOGIT_SCALE;
use model::attention_map::pooled_attention;
use model::config::ResizeMode;
use model::encoder::{ImageEncoder, TextEncoder, nearest};
use model::generate::{Generator, Settings};
use serde::Serialize;
use std::path::Path;

/// Texts of a pass.
const TEXTS: usize = 32;
/// Neighbours shown.
const NEIGHBOURS: usize = 8;

/// A model that is asked one thing at a time.
#[derive(Debug)]
pub struct Demo {
    folder: ModelFolder,
    images: ImageEncoder,
    texts: TextEncoder,
    generator: Generator,
    prompt: Vec<i32>,
    index: Option<Index>,
}

/// What the page says of the model.
#[derive(Debug, Serialize)]
pub struct About {
    parameters: usize,
    image_size: usize,
    /// How a picture becomes a square: `shortest` (the middle is cut out), `longest` (padded) or `squash`.
    resize: &'static str,
    /// Pictures in the index; none without one.
    indexed: Option<usize>,
}

/// A caption that the search ends with.
#[derive(Debug, Serialize)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// Sum of the log-probabilities of its ids, natural.
    pub log_probability: f32,
}

/// A label and how well it fits.
#[derive(Debug, Serialize)]
pub struct Label {
    /// As it was given.
    pub label: String,
    /// Among the labels of the request, by the model's own temperature.
    pub probability: f64,
    /// Cosine of the features.
    pub similarity: f64,
}

/// The pictures and texts of the index that are nearest.
#[derive(Debug, Serialize)]
pub struct Nearest {
    /// Pictures, the nearest first.
    pub pictures: Vec<Neighbour>,
    /// Texts, the nearest first.
    pub texts: Vec<Neighbour>,
}

/// Something in the index.
#[derive(Debug, Serialize)]
pub struct Neighbour {
    /// Its text, or its file's name.
    pub text: String,
    /// Cosine of the features.
    pub similarity: f32,
    /// A small picture, as an address that holds it.
    pub picture: Option<String>,
}

/// The attention of the pooled feature.
#[derive(Debug, Serialize)]
pub struct Attention {
    /// Patches along an edge.
    pub side: usize,
    /// Weights, rows from the top, `[side, side]`.
    pub weights: Vec<f32>,
}

impl Demo {
    /// Opens a model and, if asked for, encodes the pictures of a folder or data set; `say` hears how far it is.
    ///
    /// # Errors
    /// Model or pictures cannot be opened, or memory runs out.
    pub fn open(model: &Path, images: Option<&str>, say: &mut dyn FnMut(&str)) -> Result<Demo> {
        let folder = ModelFolder::open(model, DType::F32)?;
        let (coca, tokenizer, workspace) = (&folder.model, &folder.tokenizer, Workspace::new());
        let text = &coca.config().text;
        let settings = Settings::preset("ours")?.within(text.context_length, tokenizer.end());
        let mut texts = TextEncoder::new(coca, TEXTS, &workspace)?;
        let index = images.map(|name| Index::open(name, &folder, &mut texts, &workspace, say)).transpose()?;
        Ok(Demo {
            images: ImageEncoder::new(coca, 1, &workspace)?,
            generator: Generator::new(coca, 1, &settings, &workspace)?,
            prompt: vec![tokenizer.start()],
            texts,
            index,
            folder,
        })
    }

    /// What is being asked.
    pub fn about(&self) -> About {
        let config = self.folder.model.config();
        About {
            parameters: self.folder.model.parameter_count(),
            image_size: config.vision.image_size,
            resize: match config.image.resize_mode {
                ResizeMode::Shortest => "shortest",
                ResizeMode::Longest => "longest",
                ResizeMode::Squash => "squash",
            },
            indexed: self.index.as_ref().map(Index::len),
        }
    }

    /// The captions of the beams for an image file, the best first.
    ///
    /// # Errors
    /// The file is no picture that is supported.
    pub fn captions(&mut self, file: &[u8]) -> Result<Vec<Caption>> {
        let pixels = self.folder.image(file)?;
        let found = self.generator.generate_all(&self.folder.queue, &pixels, &self.prompt, 0)?;
        let caption = |caption: &model::generate::Generated| Caption {
            text: self.folder.tokenizer.decode(&caption.ids),
            log_probability: caption.log_probability,
        };
        Ok(found.iter().flatten().map(caption).collect())
    }

    /// How well labels fit an image file, the best first.
    ///
    /// # Errors
    /// The file is no picture that is supported.
    pub fn labels(&mut self, file: &[u8], labels: &[&str]) -> Result<Vec<Label>> {
        let image = self.feature(file)?;
        let features = self.texts.features(&self.folder.queue, &self.folder.texts(labels))?;
        let scale = f64::from(self.folder.model.parameters().read(LOGIT_SCALE)?[0]).exp();
        let dot = |text: &[f32]| image.iter().zip(text).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let similar: Vec<f64> = features.chunks(image.len()).map(dot).collect();
        let largest = similar.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let odds: Vec<f64> = similar.iter().map(|similar| (scale * (similar - largest)).exp()).collect();
        let sum: f64 = odds.iter().sum();
        let mut found: Vec<Label> = (labels.iter().zip(similar).zip(odds))
            .map(|((label, similarity), odds)| Label {
                label: (*label).to_owned(),
                probability: odds / sum,
                similarity,
            })
            .collect();
        found.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        Ok(found)
    }

    /// The neighbours of an image file in the index.
    ///
    /// # Errors
    /// The file is no picture that is supported, or there is no index.
    pub fn nearest(&mut self, file: &[u8]) -> Result<Nearest> {
        let feature = self.feature(file)?;
        let index = self.index.as_ref().ok_or_else(|| {
            Error::invalid("no pictures are indexed: start the server with --images and a folder of them")
        })?;
        let neighbours = |features: &[f32], of: &dyn Fn(usize) -> (String, Option<String>)| -> Vec<Neighbour> {
            let found = nearest(&feature, features, feature.len(), NEIGHBOURS);
            let neighbour = |(place, similarity): (usize, f32)| {
                let (text, picture) = of(place);
                Neighbour { text, similarity, picture }
            };
            found.into_iter().flatten().map(neighbour).collect()
        };
        Ok(Nearest {
            pictures: neighbours(index.image_features(), &|place| (index.name(place), index.picture(place))),
            texts: neighbours(index.text_features(), &|place| (index.text(place).to_owned(), None)),
        })
    }

    /// Where the pooled feature of an image file looks.
    ///
    /// # Errors
    /// The file is no picture that is supported, or the model has no pooler.
    pub fn attention(&mut self, file: &[u8]) -> Result<Attention> {
        let pixels = self.folder.image(file)?;
        let encoded = self.images.encoded(&self.folder.queue, &pixels)?;
        let weights = pooled_attention(&self.folder.model, &encoded)?;
        Ok(Attention { side: weights.len().isqrt(), weights })
    }

    fn feature(&mut self, file: &[u8]) -> Result<Vec<f32>> {
        let pixels = self.folder.image(file)?;
        self.images.features(&self.folder.queue, &pixels)
    }
}
