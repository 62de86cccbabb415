//! An endless stream of batches, prepared by worker threads. What a slot gives depends on seed, epoch and slot alone:
//! any number of workers makes the same batches, and a stream that starts at a [`Position`] goes on as if it had never
//! stopped.
//!
//! A worker takes the next slot of the order and, under the same lock, queues a place for its answer; the reader takes
//! the answers in the order of the queue, whose length is the limit on what is prepared ahead.

use super::order::{Next, Order, Place, Position, slot_random};
use super::{Augmenter, Fault, Ledger, Source};
use crate::config::Config;
use crate::task::Task;
use crate::{Error, Result};
use model::config::CocaConfig;
use model::tokenizer::Tokenizer;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Pairs of images and text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Images, u8 `[pairs, images, size, size, 3]`: those of a pair one after another, [`Source::images`] of them.
    pub images: Vec<u8>,
    /// Token ids, start and end included, each at most the context length.
    pub texts: Vec<Vec<i32>>,
    /// Of a task the class of every sample, -1 if it is none of those that are told apart.
    pub classes: Vec<i32>,
    /// Of a task the label of every sample as token ids, as the texts are.
    pub labels: Vec<Vec<i32>>,
    /// Keys of the samples.
    pub keys: Vec<String>,
    /// Where the next batch starts.
    pub position: Position,
}

/// One sample, ready for the model.
struct Pair {
    key: String,
    /// u8 `[images, size, size, 3]`.
    image: Vec<u8>,
    text: Vec<i32>,
    /// Of a task.
    target: Option<Target>,
}

/// What a task wants to hear of a sample.
struct Target {
    class: i32,
    label: Vec<i32>,
}

/// What a place in the queue gives.
enum Answer {
    /// A slot: where the one after it is, and its pair.
    Slot(Position, std::result::Result<Pair, Fault>),
    EpochEnd,
}

/// What the workers share.
struct Shared {
    order: Mutex<(Order, SyncSender<Receiver<Answer>>)>,
    augmenter: Augmenter,
    tokenizer: Arc<Tokenizer>,
    task: Option<Arc<Task>>,
    context_length: usize,
    /// Images of every sample.
    images: usize,
    seed: u64,
}

/// The stream. Dropping it stops and joins its threads.
#[derive(Debug)]
pub struct Stream {
    /// None once a worker has died, and while the stream is dropped.
    queue: Option<Receiver<Receiver<Answer>>>,
    workers: Vec<JoinHandle<()>>,
    ledger: Ledger,
    name: String,
    size: usize,
    position: Position,
    /// Sound samples since the epoch began; none in an epoch that was entered in its middle.
    sound: Option<u64>,
}

impl Stream {
    /// Starts the workers. Batches begin at `from`; the order and the augmentation follow `config.run.seed`. The text of a
    /// sample of a task is its first caption.
    ///
    /// # Errors
    /// `COCA_THREADS` is asked for and is not a number, or a thread cannot be started.
    pub fn start(
        source: Arc<dyn Source>,
        tokenizer: Arc<Tokenizer>,
        task: Option<Arc<Task>>,
        model: &CocaConfig,
        config: &Config,
        ledger: Ledger,
        from: Position,
    ) -> Result<Stream> {
        let (size, data, seed) = (config.batch.size, &config.data, config.run.seed);
        let count = if data.workers == 0 { config.threads()?.max(1) } else { data.workers };
        let (name, images) = (source.name(), source.images());
        let augmenter = Augmenter::training(model, config);
        let order = Order::new(source, seed, data.shuffle, data.shuffle_buffer, from);
        let (send, queue) = sync_channel(data.prefetch.max(1).saturating_mul(size));
        let context_length = model.text.context_length;
        let order = Mutex::new((order, send));
        let shared = Arc::new(Shared { order, augmenter, tokenizer, task, context_length, images, seed });
        let sound = (from.slot == 0).then_some(0);
        let mut stream = Stream { queue: Some(queue), workers: Vec::new(), ledger, name, size, position: from, sound };
        for number in 0..count {
            let shared = shared.clone();
            let worker = std::thread::Builder::new().name(format!("data {number}")).spawn(move || shared.work());
            stream.workers.push(worker.map_err(|error| Error::io("a data worker", error))?);
        }
        Ok(stream)
    }

    /// The next `batch.size` sound pairs; faulty samples go to the ledger in the order of their slots. Batches run
    /// across the ends of epochs.
    ///
    /// # Errors
    /// Too large a share is faulty, an epoch had no sound sample, the ledger cannot be written, or a worker died.
    #[allow(clippy::should_implement_trait, reason = "an endless stream of results is no iterator")]
    pub fn next(&mut self) -> Result<Batch> {
        let mut batch = Batch::default();
        while batch.keys.len() < self.size {
            match self.receive()? {
                Answer::EpochEnd => self.end_epoch()?,
                Answer::Slot(next, pair) => {
                    self.position = next;
                    match pair {
                        Ok(pair) => {
                            self.ledger.good();
                            self.sound = self.sound.map(|sound| sound + 1);
                            if batch.keys.is_empty() {
                                batch.images.reserve_exact(pair.image.len() * self.size);
                            }
                            batch.images.extend_from_slice(&pair.image);
                            batch.texts.push(pair.text);
                            batch.classes.extend(pair.target.as_ref().map(|target| target.class));
                            batch.labels.extend(pair.target.map(|target| target.label));
                            batch.keys.push(pair.key);
                        }
                        Err(fault) => self.ledger.bad(fault)?,
                    }
                }
            }
        }
        batch.position = self.position;
        Ok(batch)
    }

    /// What was faulty so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn receive(&mut self) -> Result<Answer> {
        let answer = self.queue.as_ref().and_then(|queue| queue.recv().ok()).and_then(|place| place.recv().ok());
        answer.ok_or_else(|| {
            self.queue = None;
            Error::invalid(format!("{}: a thread that reads the data died; its last words are above", self.name))
        })
    }

    fn end_epoch(&mut self) -> Result<()> {
        self.position = Position { epoch: self.position.epoch + 1, slot: 0 };
        // Of an epoch entered in its middle too little was seen to judge it.
        let Some(sound) = self.sound.replace(0) else { return Ok(()) };
        self.ledger.judge()?;
        if sound > 0 {
            return Ok(());
        }
        Err(Error::invalid(format!("{}: a whole epoch without one sound sample", self.name)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The workers stop when nobody listens.
        self.queue = None;
        for worker in self.workers.drain(..) {
            // A panic was reported where it happened.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        // Ends when the reader is gone, or another worker died with the lock.
        while let Some((next, answer)) = self.take() {
            let made = match next {
                Next::EpochEnd => Answer::EpochEnd,
                Next::Slot(at, place) => Answer::Slot(Position { slot: at.slot + 1, ..at }, self.pair(at, place)),
            };
            if answer.send(made).is_err() {
                return;
            }
        }
    }

    /// The next slot, and where its answer goes. Waits while enough is prepared.
    fn take(&self) -> Option<(Next, SyncSender<Answer>)> {
        let mut order = self.order.lock().ok()?;
        let next = order.0.next();
        let (send, receive) = sync_channel(1);
        order.1.send(receive).ok()?;
        Some((next, send))
    }

    fn pair(&self, at: Position, place: Place) -> std::result::Result<Pair, Fault> {
        let (part, index) = place?;
        let raw = part.sample(index)?;
        let mut random = slot_random(self.seed, at);
        let encode = |text: &str| self.tokenizer.encode_within(text, self.context_length);
        let (text, target) = match &self.task {
            None => (encode(&self.augmenter.caption(&raw, &mut random)), None),
            Some(task) => {
                let (label, class) = task.target(&raw)?;
                (encode(raw.captions.first().map_or("", String::as_str)), Some(Target { class, label: encode(&label) }))
            }
        };
        let image = self.augmenter.images(&raw, self.images, &mut random)?;
        Ok(Pair { key: raw.key, image, text, target })
    }
}

#[cfg(test)]
mod tests;
