//! What the head of a model says of test sets: the class of an image or clip, or the answer to a text about it, beside what
//! knowing nothing of the samples would reach.

use super::eval_set::{EvalSet, pixels};
use super::metrics::vqa_accuracy;
use super::table::{percent, table};
use super::{Figures, QuestionFloor, Score};
use crate::Result;
use crate::classes::Listed;
use crate::cli::EvalArgs;
use crate::data::{Labelled, Sample};
use crate::model_folder::ModelFolder;
use crate::report::{ClassRow, Seen};
use crate::task::{Task, blank};
use engine::{DType, Queue, Workspace};
use model::Coca;
use model::task::{Reads, TaskLogits, TaskPlan, TaskTexts};
use model::tokenizer::Tokenizer;

/// A model with a head, asked `batch` samples at a time.
#[derive(Debug)]
pub struct Classifier<'a> {
    model: &'a Coca,
    tokenizer: &'a Tokenizer,
    queue: &'a Queue,
    task: &'a Task,
    batch: usize,
    /// Whether no image is to be seen.
    blank: bool,
    pass: TaskLogits,
}

impl<'a> Classifier<'a> {
    /// A classifier by the head of a model, which is of this task; with `blank` it sees every image in the mean colour alone.
    ///
    /// # Errors
    /// The head is another one, or memory runs out.
    pub fn new(
        (model, tokenizer): (&'a Coca, &'a Tokenizer),
        queue: &'a Queue,
        workspace: &Workspace,
        task: &'a Task,
        batch: usize,
        blank: bool,
    ) -> Result<Classifier<'a>> {
        let batch = batch.max(1);
        let pass = TaskLogits::new(model, TaskPlan::of_logits(model, task.reads(), batch, task.images), workspace)?;
        Ok(Classifier { model, tokenizer, queue, task, batch, blank, pass })
    }

    /// Logits `[samples, classes]` of at most a batch of samples.
    fn logits(&mut self, samples: &[Sample]) -> Result<Vec<f32>> {
        let mut images = pixels(samples);
        if self.blank {
            images = blank(self.model.config(), images.len());
        }
        let texts = match self.task.reads() {
            Reads::Images => None,
            Reads::Texts => {
                let text = &self.model.config().text;
                let ids = |sample: &Sample| {
                    let caption = sample.captions.first().map_or("", String::as_str);
                    std::iter::repeat_n(self.tokenizer.encode_within(caption, text.context_length), self.task.images)
                };
                let questions: Vec<Vec<i32>> = samples.iter().flat_map(ids).collect();
                Some(TaskTexts::new::<_, Vec<i32>>(&questions, &[], text)?)
            }
        };
        self.pass.run(self.queue, &images, texts)
    }

    /// The row of a set in the table, with what `floor` guesses if it is given.
    ///
    /// # Errors
    /// The set cannot be read, its samples have another number of images than the task's or no labels, or an op refuses.
    pub fn measure(&mut self, set: &mut EvalSet, floor: Option<&QuestionFloor>) -> Result<ClassRow> {
        let task = self.task;
        task.check(set.source.as_ref())?;
        let (mut listed, mut answers, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        let (config, size) = (self.model.config(), self.batch);
        let each = |batch: Vec<Labelled>| {
            let mut samples = Vec::with_capacity(batch.len());
            for Labelled { sample, mut labels } in batch {
                answers.push(std::mem::take(&mut labels.answers));
                listed.push(Listed::new(&sample.key, &sample.captions, labels));
                samples.push(sample);
            }
            logits.extend(self.logits(&samples)?);
            Ok(())
        };
        set.read(config, size, each)?;
        let bundle = set.bundled.as_ref().map(|(bundle, _)| bundle.as_ref());
        let right = task.places(&set.name, bundle, &listed)?;
        let count = task.classes.count();
        let guesses = |floor: &QuestionFloor| -> usize {
            let guessed = listed.iter().map(|listed| task.classes.place(floor.guess(&listed.caption)));
            guessed.zip(&right).filter(|(guess, right)| guess.is_some() && guess == *right).count()
        };
        let said = || logits.chunks_exact(count).map(|row| task.classes.labels[largest(row)].as_str());
        let accuracy = answers.iter().any(|answers| !answers.is_empty()).then(|| {
            let sum: f64 = said().zip(&answers).map(|(said, answers)| vqa_accuracy(said, answers)).sum();
            sum / answers.len() as f64
        });
        let Score { top1, top5, mean_per_class, .. } = Score::of("", &logits, count, &right);
        Ok(ClassRow {
            set: set.name.clone(),
            about: String::new(),
            count: right.len(),
            known: right.iter().flatten().count(),
            classes: count,
            top1,
            top5,
            mean_per_class,
            accuracy,
            floor: floor.map(|floor| guesses(floor) as f64 / right.len().max(1) as f64),
            majority: Score::of_majority(&task.classes, &right).top1,
            chance: Score::of_chance(count).top1,
            seen: Seen::Unknown,
        })
    }
}

/// The class with the largest of these logits.
fn largest(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best })
}

/// The rows as a table.
pub fn class_table(rows: &[ClassRow]) -> String {
    type Column = (&'static str, fn(&ClassRow) -> Option<f64>);
    let columns: [Column; 8] = [
        ("known %", |row| Some(row.known as f64 / row.count.max(1) as f64)),
        ("top-1 %", |row| Some(row.top1)),
        ("top-5 %", |row| Some(row.top5)),
        ("mean per class %", |row| Some(row.mean_per_class)),
        ("VQA accuracy %", |row| row.accuracy),
        ("text alone %", |row| row.floor),
        ("majority %", |row| Some(row.majority)),
        ("chance %", |row| Some(row.chance)),
    ];
    // Columns that no set has are left out.
    let columns = columns.into_iter().filter(|(_, share)| rows.iter().any(|row| share(row).is_some()));
    let (names, shares): (Vec<_>, Vec<_>) = columns.unzip();
    let cells = |row: &ClassRow| {
        let shares = shares.iter().map(|share| share(row).map_or(String::new(), percent));
        [row.set.clone(), row.count.to_string(), row.classes.to_string()].into_iter().chain(shares).collect()
    };
    let header = [&["head", "samples", "classes"][..], &names].concat();
    table(&header, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// `coca eval classify`: measures the head of a model folder.
pub(super) fn measure_classes(args: &EvalArgs, sets: &mut [EvalSet]) -> Result<Figures> {
    let (ModelFolder { model, tokenizer, queue }, task) = ModelFolder::open_with_head(&args.model, DType::F32)?;
    let mut classifier =
        Classifier::new((&model, &tokenizer), &queue, &Workspace::new(), &task, args.batch_size, false)?;
    let rows = sets.iter_mut().map(|set| classifier.measure(set, None)).collect::<Result<Vec<_>>>()?;
    Figures::new(class_table(&rows), &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_that_a_set_has() {
        let row = ClassRow {
            set: "s".into(),
            about: String::new(),
            count: 8,
            known: 6,
            classes: 3,
            top1: 0.5,
            top5: 0.75,
            mean_per_class: 0.4,
            accuracy: None,
            floor: None,
            majority: 0.25,
            chance: 1.0 / 3.0,
            seen: Seen::Unknown,
        };
        let header = |rows: &[ClassRow]| class_table(rows).lines().next().unwrap().split_whitespace().count();
        assert_eq!(header(std::slice::from_ref(&row)), 17);
        let text = class_table(&[ClassRow { floor: Some(0.125), ..row.clone() }, row]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["s", "8", "3", "75.00", "50.00", "75.00", "40.00", "12.50", "25.00", "33.33"]);
        assert_eq!((lines[0].len(), lines[2].len()), (20, 9));
        assert_eq!(largest(&[1.0, 3.0, 3.0, f32::NAN]), 1);
    }
}
