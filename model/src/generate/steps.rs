//! The model as generation sees it: images in, then an id for each row in and what may follow out. The keys and values of
//! past rows stay in the inputs of the step's program; a row of them belongs to one caption at a time.

use super::candidates::Candidates;
use crate::coca::Coca;
use crate::config::{ClsMask, CocaConfig};
use crate::network::{Cached, Step};
use engine::{Compile, DType, Error, Meta, Program, Queue, Result, Tape, Tensor, Workspace};

/// Two programs: keys and values of images, and a step.
#[derive(Debug)]
pub(super) struct Steps {
    images: Program,
    image_input: Tensor,
    image_keys: Vec<Tensor>,
    program: Program,
    step: Step,
    rows: Vec<Row>,
    capacity: usize,
    width: usize,
    mask: ClsMask,
    pad: i32,
}

/// How much of a row's caches is filled.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    text: usize,
    decoder: usize,
    last: Option<i32>,
}

impl Steps {
    /// Plans for `images` images in a pass, `beams` captions of each, of at most `capacity` ids. `best` is the number of
    /// candidates to follow a row, 0 for the whole vocabulary.
    pub fn new(
        model: &Coca,
        images: usize,
        beams: usize,
        capacity: usize,
        best: usize,
        workspace: &Workspace,
    ) -> Result<Steps> {
        let CocaConfig { vision, text, decoder, .. } = model.config();
        let mut tape = Tape::record();
        let shape = [images, vision.image_size, vision.image_size, 3];
        let image_input = tape.input("images", Meta::new(shape, DType::U8))?;
        let mut layers = model.layers(&mut tape);
        let tokens = layers.encode_image(image_input)?.tokens;
        let image_keys = layers.image_keys(tokens)?;
        image_keys.iter().for_each(|&keys| tape.keep(keys));
        let image_program = Program::compile(tape, workspace, Compile::default())?;

        let mut tape = Tape::record();
        let step = model.layers(&mut tape).step(images, beams, capacity, best)?;
        let program = Program::compile(tape, workspace, Compile::default())?;
        let rows = vec![Row::default(); images * beams];
        let (width, mask, pad) = (decoder.width, text.cls_mask, text.pad_id as i32);
        Ok(Steps { images: image_program, image_input, image_keys, program, step, rows, capacity, width, mask, pad })
    }

    /// Both programs.
    pub fn programs(&self) -> [&Program; 2] {
        [&self.images, &self.program]
    }

    /// Bytes of an image.
    pub fn image_bytes(&self) -> usize {
        self.image_input.meta().elements() / self.image_input.shape().dims()[0]
    }

    /// Encodes images (u8 `[count, size, size, 3]`, at most as many as planned) and forgets all rows.
    pub fn start(&mut self, queue: &Queue, images: &[u8]) -> Result<()> {
        self.images.write(self.image_input, images)?;
        self.images.run(queue, false)?;
        for (&from, &to) in self.image_keys.iter().zip(&self.step.image_keys) {
            self.program.copy((&self.images, from, 0), (to, 0), to.meta().elements())?;
        }
        self.rows.fill(Row::default());
        Ok(())
    }

    /// Appends an id to each row, none to rows at rest. What [`Steps::logits`] and [`Steps::candidates`] say of those
    /// means nothing.
    pub fn append(&mut self, queue: &Queue, ids: &[Option<i32>]) -> Result<()> {
        let column = |value: &dyn Fn(&Row, i32) -> i32| -> Vec<i32> {
            self.rows.iter().zip(ids).map(|(row, id)| id.map_or(0, |id| value(row, id))).collect()
        };
        if ids.len() != self.rows.len()
            || self.rows.iter().zip(ids).any(|(row, id)| id.is_some() && row.decoder >= self.capacity)
        {
            let (rows, capacity) = (self.rows.len(), self.capacity);
            return Err(Error::invalid(format!("a step is for {rows} rows of at most {capacity} ids")));
        }
        let positions = column(&|row, _| row.decoder as i32);
        let seen = column(&|row, id| i32::from(self.mask.shows(row.last, id, self.pad)));
        self.program.write(self.step.ids, &column(&|_, id| id))?;
        self.program.write(self.step.positions, &positions)?;
        self.program.write(self.step.decoder_lengths, &positions)?;
        self.program.write(self.step.text_lengths, &column(&|row, _| row.text as i32))?;
        self.program.write(self.step.sees_itself, &seen)?;
        self.program.run(queue, false)?;

        for (index, (&id, &seen)) in ids.iter().zip(&seen).enumerate() {
            let Some(id) = id else { continue };
            let row = self.rows[index];
            if seen != 0 {
                self.store(&self.step.text, index, row.text)?;
            }
            self.store(&self.step.decoder, index, row.decoder)?;
            self.rows[index] = Row { text: row.text + seen as usize, decoder: row.decoder + 1, last: Some(id) };
        }
        Ok(())
    }

    /// The logits after the newest ids, f32 `[rows, vocabulary]`.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.program.read(self.step.logits)
    }

    /// The logit of an id after the newest one of a row.
    pub fn logit(&self, row: usize, id: i32) -> Result<f32> {
        let place = row * self.step.logits.shape().columns() + id as usize;
        Ok(self.program.read_part(self.step.logits, place..place + 1)?[0])
    }

    /// What may follow the newest ids, for each row.
    pub fn candidates(&self) -> Result<Vec<Candidates>> {
        let totals = self.program.read::<f32>(self.step.totals)?;
        let count = self.rows.len();
        match self.step.best {
            Some((logits, ids)) => {
                let (logits, ids) = (self.program.read::<f32>(logits)?, self.program.read::<i32>(ids)?);
                let each = ids.len() / count;
                let rows = ids.chunks_exact(each).zip(logits.chunks_exact(each)).zip(totals);
                Ok(rows.map(|((ids, logits), total)| Candidates::new(ids.iter().copied(), logits, total)).collect())
            }
            None => {
                let logits = self.logits()?;
                let rows = logits.chunks_exact(logits.len() / count).zip(totals);
                Ok(rows.map(|(logits, total)| Candidates::new(0.., logits, total)).collect())
            }
        }
    }

    /// Puts the newest keys and values of row `row` at `place` of its caches.
    fn store(&self, layers: &[Cached], row: usize, place: usize) -> Result<()> {
        let width = self.width;
        for &Cached { cache, newest } in layers {
            let target = (row * self.capacity + place) * 2 * width;
            self.program.copy((&self.program, newest, row * 3 * width + width), (cache, target), 2 * width)?;
        }
        Ok(())
    }

    /// Makes row `to` a copy of row `from`.
    pub fn copy_row(&mut self, from: usize, to: usize) -> Result<()> {
        let row = self.rows[from];
        for (layers, length) in [(&self.step.text, row.text), (&self.step.decoder, row.decoder)] {
            for &Cached { cache, .. } in layers {
                let [source, target] = [from, to].map(|row| row * self.capacity * 2 * self.width);
                self.program.copy((&self.program, cache, source), (cache, target), length * 2 * self.width)?;
            }
        }
        self.rows[to] = row;
        Ok(())
    }
}
