//! What a plan takes from the data of the run: the rows that its texts fill, and the memory that it takes to hold it open.

use crate::Result;
use crate::config::{Config, TaskKind};
use crate::data::{self, Batch, Ledger, Position, Source, Stream};
use crate::run::{tokenizer, with_room};
use crate::task::Task;
use engine::Error;
use model::config::{CocaConfig, TextConfig};
use model::packing::PackedText;
use model::tokenizer::Tokenizer;
use std::sync::Arc;

/// Most pairs that are read; more would not change the mean length much.
const SAMPLE: usize = 256;

/// The data of a run, looked at.
pub(super) struct DataView {
    /// The source and its tokenizer, held as a run holds them; none if the data cannot be opened.
    opened: Option<(Arc<dyn Source>, Arc<Tokenizer>)>,
    /// The task that the run has on it.
    task: Option<Arc<Task>>,
    /// Token ids of the first texts that the run would see; one of full length if there is no source.
    texts: Vec<Vec<i32>>,
    /// Why there is no source.
    error: Option<Error>,
}

impl DataView {
    /// Opens the data as a run does. If that fails, texts are taken to be as long as the context.
    pub fn open(config: &Config, model: &CocaConfig) -> DataView {
        look(config, model).unwrap_or_else(|error| DataView { error: Some(error), ..DataView::unknown(model) })
    }

    /// No data: texts of full length.
    pub fn unknown(model: &CocaConfig) -> DataView {
        // Any id that is no padding will do.
        let text = vec![i32::from(model.text.pad_id == 0); model.text.context_length];
        DataView { opened: None, task: None, texts: vec![text], error: None }
    }

    /// The source, if it could be opened.
    pub fn source(&self) -> Option<&dyn Source> {
        self.opened.as_ref().map(|(source, _)| source.as_ref())
    }

    /// The task that the run has on the source, if it has one and that could be opened.
    pub fn task(&self) -> Option<&Arc<Task>> {
        self.task.as_ref()
    }

    /// `count` texts: the first ones, repeated as often as needed.
    pub fn texts(&self, count: usize) -> Vec<&[i32]> {
        self.texts.iter().cycle().take(count).map(Vec::as_slice).collect()
    }

    /// The number of ids of each of these texts.
    pub fn lengths(&self, pairs: usize) -> Vec<usize> {
        self.texts.iter().cycle().take(pairs).map(Vec::len).collect()
    }

    /// Rows that a run plans for, in text tower and decoder, for so many texts in a pass.
    ///
    /// # Errors
    /// The tokenizer has ids that the model has not.
    pub fn rows(&self, count: usize, text: &TextConfig) -> Result<(usize, usize)> {
        let texts = PackedText::new(&self.texts(count), text)?;
        Ok(with_room((texts.rows(), texts.decoder_rows.len()), count, text))
    }

    /// What the rows are those of.
    pub fn about(&self) -> String {
        let count = self.texts.len();
        match &self.error {
            Some(error) => format!("every text of full length, because the data is not there: {error}"),
            None if self.opened.is_none() => "every text of full length".into(),
            None => format!("by the first {count} texts of the data, with room"),
        }
    }
}

/// The data of a run as the run opens it, and its first batch.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where the samples come from.
    pub source: Arc<dyn Source>,
    /// The tokenizer of the run.
    pub tokenizer: Arc<Tokenizer>,
    /// The task that the run has on them.
    pub task: Option<Arc<Task>>,
    /// What the first pass reads.
    pub batch: Batch,
}

/// Opens the data of a run.
///
/// # Errors
/// It is not there, or is not what the configuration says.
pub(crate) fn first_batch(config: &Config, model: &CocaConfig) -> Result<Opened> {
    let source = data::open(&config.data.train, &config.data)?;
    let tokenizer = Arc::new(tokenizer(config, source.as_ref())?);
    let task = Task::of_training(config, source.as_ref())?.map(Arc::new);
    let (ledger, start) = (Ledger::new(1.0), Position::default());
    let mut stream = Stream::start(source.clone(), tokenizer.clone(), task.clone(), model, config, ledger, start)?;
    let batch = stream.next()?;
    Ok(Opened { source, tokenizer, task, batch })
}

fn look(config: &Config, model: &CocaConfig) -> Result<DataView> {
    let mut config = config.clone();
    config.batch.size = config.batch.size.min(SAMPLE);
    let Opened { source, tokenizer, task, batch } = first_batch(&config, model)?;
    let Batch { mut texts, labels, .. } = batch;
    if config.task.kind == TaskKind::Vqa && config.loss.caption_weight > 0.0 {
        // An answer follows its question.
        for (question, answer) in texts.iter_mut().zip(&labels) {
            question.extend(answer.iter().skip(2));
            question.truncate(model.text.context_length);
        }
    }
    Ok(DataView { opened: Some((source, tokenizer)), task, texts, error: None })
}
