//! Captions of images. An image is encoded once and its keys and values are shared by its beams; each step computes one
//! row a caption, over cached keys and values of the rows before.

mod beams;
mod candidates;
mod sample;
mod search;
mod settings;
mod steps;

pub use search::Generated;
pub use settings::{BeamScore, Method, PRESETS, Settings};

use crate::coca::Coca;
use beams::BeamSearch;
use candidates::Candidates;
use engine::rng::Philox;
use engine::{Error, Program, Queue, Result, Workspace};
use sample::Sample;
use search::{Next, Search};
use steps::Steps;

/// Makes captions, of several images in a pass. It sees every change of the model's weights.
#[derive(Debug)]
pub struct Generator {
    steps: Steps,
    settings: Settings,
    images_per_pass: usize,
    vocabulary_size: usize,
    pad: i32,
}

/// An image's captions in progress.
struct Caption<'a> {
    search: Box<dyn Search + 'a>,
    /// Row of the step for each open caption, in the search's order; the image's other rows are free.
    rows: Vec<usize>,
    open: bool,
}

impl Generator {
    /// Plans passes over `images_per_pass` images. Errors: settings that do not fit the model, no images.
    pub fn new(model: &Coca, images_per_pass: usize, settings: &Settings, workspace: &Workspace) -> Result<Generator> {
        let text = &model.config().text;
        settings.validate(text.context_length, text.vocabulary_size)?;
        if images_per_pass == 0 {
            return Err(Error::invalid("a pass needs at least one image"));
        }
        Ok(Generator {
            steps: Steps::new(
                model,
                images_per_pass,
                settings.rows(),
                settings.max_length,
                candidates::wanted(settings, text.vocabulary_size),
                workspace,
            )?,
            settings: settings.clone(),
            images_per_pass,
            vocabulary_size: text.vocabulary_size,
            pad: text.pad_id as i32,
        })
    }

    /// The compiled programs, of a pass over images and of a step: their memory plans.
    pub fn programs(&self) -> [&Program; 2] {
        self.steps.programs()
    }

    /// One caption for each of the u8 images `[count, size, size, 3]`, any count. All begin with `prompt`: the start id,
    /// then, if wanted, the first ids of a text. Image i draws from stream i of the generator seeded with `seed`, however
    /// many images go in a pass. Errors: not whole images; a prompt that is empty, too long or outside the vocabulary.
    pub fn generate(&mut self, queue: &Queue, images: &[u8], prompt: &[i32], seed: u64) -> Result<Vec<Generated>> {
        let found = self.generate_all(queue, images, prompt, seed)?;
        Ok(found.into_iter().filter_map(|captions| captions.into_iter().next()).collect())
    }

    /// As [`Generator::generate`], with all captions that the search of each image ends with, the best first: as many as
    /// beams; one without beams.
    pub fn generate_all(
        &mut self,
        queue: &Queue,
        images: &[u8],
        prompt: &[i32],
        seed: u64,
    ) -> Result<Vec<Vec<Generated>>> {
        let image_bytes = self.steps.image_bytes();
        if !images.len().is_multiple_of(image_bytes) {
            let given = images.len();
            return Err(Error::invalid(format!(
                "images have {image_bytes} bytes each, {given} bytes are not whole images"
            )));
        }
        self.check_ids(prompt, self.settings.max_length - 1)?;
        let mut captions = Vec::with_capacity(images.len() / image_bytes);
        for part in images.chunks(image_bytes * self.images_per_pass) {
            self.steps.start(queue, part)?;
            let first = captions.len() as u64;
            captions.append(
                &mut self
                    .pass(queue, part.len() / image_bytes, prompt, |image| Philox::new(seed, first + image as u64))?,
            );
        }
        Ok(captions)
    }

    /// The logits f32 `[ids, vocabulary]` after each of `ids` for one u8 image `[size, size, 3]`, by the steps that
    /// [`Generator::generate`] makes. Errors: not one image; ids that are empty, too many or outside the vocabulary.
    pub fn logits(&mut self, queue: &Queue, image: &[u8], ids: &[i32]) -> Result<Vec<f32>> {
        if image.len() != self.steps.image_bytes() {
            let (wanted, given) = (self.steps.image_bytes(), image.len());
            return Err(Error::invalid(format!("an image has {wanted} bytes, got {given}")));
        }
        self.check_ids(ids, self.settings.max_length)?;
        self.steps.start(queue, image)?;
        let mut logits = Vec::with_capacity(ids.len() * self.vocabulary_size);
        let mut next = vec![None; self.images_per_pass * self.settings.rows()];
        for &id in ids {
            next[0] = Some(id);
            self.steps.append(queue, &next)?;
            logits.extend_from_slice(&self.steps.logits()?[..self.vocabulary_size]);
        }
        Ok(logits)
    }

    /// Captions of the `images` images that the steps were started with.
    fn pass(
        &mut self,
        queue: &Queue,
        images: usize,
        prompt: &[i32],
        random: impl Fn(usize) -> Philox,
    ) -> Result<Vec<Vec<Generated>>> {
        let Generator { steps, settings, .. } = self;
        let rows = settings.rows();
        let mut captions: Vec<Caption> = (0..images)
            .map(|image| Caption {
                search: match settings.method {
                    Method::Beams { score, length_penalty, .. } => {
                        Box::new(BeamSearch::new(settings, prompt, score, length_penalty))
                    }
                    _ => Box::new(Sample::new(settings, self.pad, prompt, random(image))),
                },
                rows: (image * rows..(image + 1) * rows).collect(),
                open: true,
            })
            .collect();
        let mut next = vec![None; rows * self.images_per_pass];
        for &id in prompt {
            next[..images * rows].fill(Some(id));
            steps.append(queue, &next)?;
        }
        loop {
            next.fill(None);
            let candidates = steps.candidates()?;
            for caption in captions.iter_mut().filter(|caption| caption.open) {
                let after: Vec<&Candidates> = caption.rows.iter().map(|&row| &candidates[row]).collect();
                let first = caption.rows[0];
                let following = caption.search.advance(&after, &|id| steps.logit(first, id))?;
                caption.open = !following.is_empty();
                if caption.open {
                    caption.rows = follow(steps, &caption.rows, &following)?;
                    caption.rows.iter().zip(&following).for_each(|(&row, following)| next[row] = Some(following.id));
                }
            }
            if next.iter().all(Option::is_none) {
                return Ok(captions.iter_mut().map(|caption| caption.search.finish()).collect());
            }
            steps.append(queue, &next)?;
        }
    }

    fn check_ids(&self, ids: &[i32], most: usize) -> Result<()> {
        if ids.is_empty() || ids.len() > most {
            return Err(Error::invalid(format!("1 to {most} ids are wanted, got {}", ids.len())));
        }
        match ids.iter().find(|&&id| id < 0 || id as usize >= self.vocabulary_size) {
            Some(id) => {
                Err(Error::invalid(format!("token {id} is not one of the vocabulary's {}", self.vocabulary_size)))
            }
            None => Ok(()),
        }
    }
}

/// Rows for the next captions: the first that continues a row takes it over, each other one gets a copy in a row that none
/// continues.
fn follow(steps: &mut Steps, rows: &[usize], next: &[Next]) -> Result<Vec<usize>> {
    let continued = |at: &usize| next.iter().any(|next| next.parent == *at);
    let mut free = (0..rows.len()).filter(|at| !continued(at)).map(|at| rows[at]);
    let mut taken = vec![false; rows.len()];
    let mut following = Vec::with_capacity(next.len());
    for &Next { parent, .. } in next {
        let row = match std::mem::replace(&mut taken[parent], true) {
            false => rows[parent],
            true => {
                let row = free.next().ok_or_else(|| Error::invalid("a search has more captions than rows"))?;
                steps.copy_row(rows[parent], row)?;
                row
            }
        };
        following.push(row);
    }
    Ok(following)
}
