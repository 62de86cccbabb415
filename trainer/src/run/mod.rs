//! `coca train` and `coca finetune`: from a configuration to a trained model, its evaluation and its report.

mod device;
mod findings;
mod finish;
mod folder;
mod rates;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod unreached;

pub(crate) use device::{processor, refuse_missing};
pub(crate) use findings::TRAINING_PAIRS;
pub use folder::{CHECKPOINT_FOLDER, METRICS_FILE, MODEL_FOLDER};
pub use state::{Progress, State, dtype};
pub use step::{Gradient, Losses, PairStepper, SampleStepper, Stepper, check, feature_flops, with_room};

use crate::checkpoint::Checkpoints;
use crate::cli::Resume;
use crate::config::Config;
use crate::data::{self, Batch, Ledger, Source, Stream};
use crate::metrics::{MetricsLog, OutlierDetector, StepRecord};
use crate::model_folder::open_tokenizer;
use crate::signal::Stop;
use crate::task::Task;
use crate::tensorboard::EventWriter;
use crate::{Error, Result, progress, schedule};
use engine::{CudaQueue, Observer, Profiler, Queue};
use folder::{CONFIG_FILE, EVENT_FOLDER, PROFILE_FILES, find_checkpoint, newest, refuse_another, set_aside};
use kernels::{gauge, reduce};
use model::tokenizer::Tokenizer;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps in a row that may be skipped because they are not finite.
const MOST_SKIPPED_IN_A_ROW: u64 = 20;
/// At the end the share of faulty samples is judged if this many would be allowed: of fewer, one says nothing.
const JUDGED_FROM: f64 = 10.0;
/// Trains, evaluates and reports. Returns the table of a task's test sets, empty without them.
///
/// # Errors
/// Whatever stands in the way; what was done up to the last checkpoint is kept.
pub fn train(config: Config, resume: &Resume) -> Result<String> {
    let stop = Stop::install()?;
    let mut run = Run::open(config, resume)?;
    let ended = run.train(&stop)?;
    if ended == Ended::Signal {
        let (step, again) = (run.state.progress.step, run.again());
        run.say(&format!("stopped after step {step} and saved; {again} goes on from there"));
        return Ok(String::new());
    }
    run.finish(&stop)
}

/// Why a run's loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Steps,
    /// The time is up.
    Time,
    /// A signal asked for it.
    Signal,
}

/// A run in its folder.
#[derive(Debug)]
pub struct Run {
    /// The resolved configuration.
    pub config: Config,
    /// What is trained.
    pub state: State,
    queue: Queue,
    source: Arc<dyn Source>,
    /// Data that `evaluation.data` names.
    held_out: Vec<Arc<dyn Source>>,
    stepper: Stepper,
    checkpoints: Checkpoints,
    metrics: MetricsLog,
    history: Vec<StepRecord>,
    /// What the device reaches at best, where it was measured.
    peak_gflops: Option<f64>,
    notes: Vec<String>,
    profile: Option<Profiler>,
    /// The step after which this process saved last.
    saved: Option<u64>,
}

impl Run {
    /// Opens or creates the run folder and brings the model to its start or to where it was.
    ///
    /// # Errors
    /// The configuration does not hold together, the data cannot be opened, or a checkpoint is of another model.
    pub fn open(config: Config, resume: &Resume) -> Result<Run> {
        let source = data::open(&config.data.train, &config.data)?;
        let gpu = device::gpu(&config)?;
        let mut run = Run::open_on(source, gpu, config, resume)?;
        run.peak_gflops = gauge::flops_per_second(&run.queue, dtype(&run.config)).ok().map(|flops| flops / 1e9);
        Ok(run)
    }

    /// As [`Run::open`], on training data that is open and with the GPU that there is.
    fn open_on(source: Arc<dyn Source>, gpu: Option<CudaQueue>, config: Config, resume: &Resume) -> Result<Run> {
        if config.batch.size == 0 || config.batch.accumulation == 0 {
            return Err(Error::invalid("batch.size and batch.accumulation must be at least 1"));
        }
        let folder = config.run.out.clone();
        let held_out = held_out(&config)?;
        std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        let root = folder.join(CHECKPOINT_FOLDER);
        let mut checkpoints = Checkpoints::open(&root, config.checkpoint.keep)?;
        let mut notes = Vec::new();
        let note = |notes: &mut Vec<String>, text: &str| {
            eprintln!("{text}");
            notes.push(text.to_owned());
        };
        let checkpoint = match resume {
            Resume::None => None,
            Resume::Auto => newest(&root, |text| note(&mut notes, text))?,
            Resume::From(folder) => Some(find_checkpoint(folder, |text| note(&mut notes, text))?),
        };
        let home = |folder: &Path| folder.canonicalize().ok();
        let own = checkpoint.as_ref().filter(|found| found.folder().parent().and_then(home) == home(&root));
        if let Some(checkpoint) = own {
            refuse_another(&config, checkpoint)?;
        }
        let tokenizer = match &checkpoint {
            Some(checkpoint) => State::tokenizer(checkpoint)?,
            None => tokenizer(&config, source.as_ref())?,
        };
        let task = match checkpoint.as_ref().map(State::saved_task).transpose()?.flatten() {
            Some(task) => Some(task.resume(&config, source.as_ref())?),
            None => Task::of_training(&config, source.as_ref())?,
        };
        for set in &held_out {
            match &task {
                Some(task) => task.check(set.as_ref())?,
                None => config.task.kind.check_images(&set.name(), set.images())?,
            }
        }
        let mut state = State::new(&config, tokenizer, task, checkpoint.as_ref())?;
        let stepper = Stepper::new(&config, state.task.as_deref())?;
        let queue = device::settle(gpu, &config, &stepper, &state)?;
        let stepper = stepper.on(queue.device());
        if let Queue::Cuda(cuda) = &queue {
            eprintln!("training on {}", cuda.device());
            state.move_to(cuda.device())?;
        }
        if let Some(text) = state.unreached() {
            note(&mut notes, &text);
        }
        if let Some(checkpoint) = &checkpoint {
            eprintln!("going on from {}", checkpoint.folder().display());
        }
        if let Some(checkpoint) = own {
            checkpoints.set_later_aside(checkpoint.step(), |text| note(&mut notes, text))?;
        } else if *resume == Resume::None || checkpoint.is_some() {
            if let Some(place) = set_aside(&folder)? {
                eprintln!("the run that was in {} is now in {}", folder.display(), place.display());
            }
            if !root.exists() {
                checkpoints = Checkpoints::open(&root, config.checkpoint.keep)?;
            }
        }
        let text = config.to_toml(true);
        write(&folder.join(CONFIG_FILE), text.as_bytes())?;
        let (metrics, history) = MetricsLog::open(&folder.join(METRICS_FILE), state.progress.step)?;
        Ok(Run {
            config,
            state,
            queue,
            source,
            held_out,
            stepper,
            checkpoints,
            metrics,
            history,
            peak_gflops: None,
            notes,
            profile: None,
            saved: None,
        })
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.config.run.out
    }

    /// The command that goes on with the run.
    fn again(&self) -> String {
        format!("`coca train {}`", self.folder().join(CONFIG_FILE).display())
    }

    fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Runs steps until all are done, the time is up, or a signal comes; then saves a checkpoint.
    ///
    /// # Errors
    /// Too many samples are faulty, a step fails, too many steps in a row are not finite, or the disk is full.
    pub fn train(&mut self, stop: &Stop) -> Result<Ended> {
        self.train_to(self.config.schedule.steps, stop)
    }

    /// As [`Run::train`], up to step `last` of the schedule.
    fn train_to(&mut self, last: u64, stop: &Stop) -> Result<Ended> {
        let config = self.config.clone();
        let steps = config.schedule.steps;
        let ledger = Ledger::in_folder(self.folder(), config.data.max_bad_share)?;
        if self.state.progress.step >= last {
            self.note_faults(&ledger);
            return Ok(Ended::Steps);
        }
        let (model, tokenizer) = (self.state.model.config().clone(), Arc::new(self.state.tokenizer.clone()));
        let position = self.state.progress.position;
        let task = self.state.task.clone();
        let mut stream = Stream::start(self.source.clone(), tokenizer, task, &model, &config, ledger, position)?;
        let mut events = match config.logging.tensorboard {
            true => Some(EventWriter::create(&self.folder().join(EVENT_FOLDER), self.state.progress.step)?),
            false => None,
        };
        let (window, threshold) = (config.logging.outlier_window, config.logging.outlier_threshold);
        let mut outliers = [OutlierDetector::new(window, threshold), OutlierDetector::new(window, threshold)];
        for record in self.history.iter().filter(|record| !record.skipped) {
            outliers[0].observe(record.loss);
            outliers[1].observe(record.grad_norm);
        }
        let before = self.state.progress.training_seconds;
        let limit = (config.schedule.minutes > 0.0)
            .then(|| Duration::from_secs_f64((config.schedule.minutes * 60.0 - before).clamp(0.0, 1e9)));
        let mut display = progress::Progress::new(steps, self.state.progress.step, limit, self.peak_gflops);
        let first_step = self.state.progress.step;
        let begin = Instant::now();
        let mut in_a_row = 0;
        let ended = loop {
            let ended = if self.state.progress.step >= last {
                Some(Ended::Steps)
            } else if stop.requested() {
                Some(Ended::Signal)
            } else if limit.is_some_and(|limit| begin.elapsed() >= limit) {
                Some(Ended::Time)
            } else {
                None
            };
            if let Some(ended) = ended {
                break ended;
            }
            let profiled = (1..=config.logging.profile_steps).contains(&(self.state.progress.step - first_step));
            let mut record = self.step(&config, &mut stream, profiled)?;
            if record.skipped {
                in_a_row += 1;
                if in_a_row >= MOST_SKIPPED_IN_A_ROW {
                    return Err(Error::invalid(format!(
                        "{in_a_row} steps in a row up to step {} were not finite: lower optimizer.learning_rate, or find \
                         the op with --check nan",
                        record.step
                    )));
                }
            } else {
                in_a_row = 0;
                let loss = outliers[0].observe(record.loss);
                record.outlier = outliers[1].observe(record.grad_norm) || loss;
            }
            self.metrics.append(&record)?;
            if let Some(events) = &mut events {
                events.step(&record)?;
            }
            display.step(&record);
            self.history.push(record);
            self.state.progress.training_seconds = before + begin.elapsed().as_secs_f64();
            let step = self.state.progress.step;
            if config.checkpoint.every > 0 && step.is_multiple_of(config.checkpoint.every) && step < steps {
                self.save()?;
            }
            if config.evaluation.every > 0 && step.is_multiple_of(config.evaluation.every) && step < steps {
                // A set that cannot be read is no reason to lose the training.
                let found = self.evaluate_now(stop).unwrap_or_else(|error| {
                    let text = format!("An evaluation while training failed: {error}");
                    display.message(&format!("step {step}: {text}"));
                    if !self.notes.contains(&text) {
                        self.notes.push(text);
                    }
                    Vec::new()
                });
                for (name, value) in found {
                    display.message(&format!("step {step}: {name} {:.1} %", 100.0 * value));
                    if let Some(events) = &mut events {
                        events.scalars(step, &[(&format!("evaluation/{name}"), value)])?;
                    }
                }
            }
        };
        display.finish();
        self.state.progress.training_seconds = before + begin.elapsed().as_secs_f64();
        let ledger = stream.ledger();
        self.note_faults(ledger);
        if ended == Ended::Time {
            self.notes.push(format!("Stopped by schedule.minutes after {} steps.", self.state.progress.step));
        }
        self.save()?;
        self.write_profile()?;
        if ledger.seen() as f64 * config.data.max_bad_share >= JUDGED_FROM {
            ledger.judge()?;
        }
        Ok(ended)
    }

    /// One optimiser step.
    fn step(&mut self, config: &Config, stream: &mut Stream, profiled: bool) -> Result<StepRecord> {
        let begin = Instant::now();
        let batches = (0..config.batch.accumulation).map(|_| stream.next()).collect::<Result<Vec<Batch>>>()?;
        let data_wait_seconds = begin.elapsed().as_secs_f64();
        let mut check = check(config)?.map(|check| check.observer()).transpose()?;
        if profiled && self.profile.is_none() {
            self.profile = Some(Profiler::new(gauge::roofline(&self.queue, dtype(config))?));
        }
        let mut observers: Vec<&mut (dyn Observer + Send)> = Vec::new();
        if let Some(check) = &mut check {
            observers.push(check.as_mut());
        }
        if let Some(profiler) = self.profile.as_mut().filter(|_| profiled) {
            profiler.start_run();
            observers.push(profiler);
        }
        let State { model, progress, .. } = &self.state;
        let step = progress.step;
        let gradient = self.stepper.run(&self.queue, model, &batches, &mut observers)?;
        let grad_norm = reduce::gradient_norm(&self.queue, model.parameters())?;
        let Losses { contrastive, caption, class } = gradient.losses;
        let [contrastive_loss, caption_loss, class_loss] = [contrastive, caption, class].map(f64::from);
        let loss = gradient.losses.total(&config.loss);
        let learning_rate = schedule::learning_rate(&config.schedule, config.optimizer.learning_rate, step);
        let logit_scale = self.state.logit_scale()?;
        let skipped = !(loss.is_finite() && grad_norm.is_finite());
        if !skipped {
            self.state.update(&self.queue, config, learning_rate, grad_norm)?;
        }
        let progress = &mut self.state.progress;
        progress.step += 1;
        progress.skipped += u64::from(skipped);
        if let Some(last) = batches.last() {
            progress.position = last.position;
        }
        let step_seconds = begin.elapsed().as_secs_f64();
        Ok(StepRecord {
            step,
            loss,
            contrastive_loss,
            caption_loss,
            class_loss,
            learning_rate,
            grad_norm,
            logit_scale,
            images_per_second: config.pairs_per_step() as f64 / step_seconds,
            tokens_per_second: gradient.tokens as f64 / step_seconds,
            gflops: gradient.flops / step_seconds / 1e9,
            step_seconds,
            data_wait_seconds,
            skipped,
            outlier: false,
        })
    }

    /// Says which kinds of samples were skipped, over all resumes, now and in the report.
    fn note_faults(&mut self, ledger: &Ledger) {
        let kinds = ledger.file_summary();
        if !kinds.is_empty() {
            let text = format!("Faulty samples were skipped: {kinds}; {} names them.", data::LEDGER);
            self.say(&text);
            self.notes.push(text);
        }
    }

    /// Saves a checkpoint of the state as it is, unless it did so after this very step.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&mut self) -> Result<()> {
        let (state, config) = (&self.state, &self.config);
        let step = state.progress.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        self.metrics.sync()?;
        self.checkpoints.save(step, |files| {
            state.save(files)?;
            files.add_bytes(CONFIG_FILE, config.to_toml(false).as_bytes())
        })?;
        self.saved = Some(step);
        Ok(())
    }

    fn write_profile(&self) -> Result<()> {
        let Some(profiler) = &self.profile else { return Ok(()) };
        let table = profiler.table(3);
        self.say(&table);
        for (name, text) in PROFILE_FILES.into_iter().zip([table, profiler.json_lines(), profiler.chrome_trace()]) {
            write(&self.folder().join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    model::weights::write_atomically(path, |file| std::io::Write::write_all(file, content))
}

/// The data that `evaluation.data` names: opened at the start, so that a wrong name costs no training.
fn held_out(config: &Config) -> Result<Vec<Arc<dyn Source>>> {
    let data = config.evaluation_data();
    let open =
        |name: &String| data::open(name, &data).map_err(|error| Error::invalid(format!("evaluation.data: {error}")));
    config.evaluation.data.0.iter().map(open).collect()
}

/// The tokenizer that `model.tokenizer` names; with `model.init`, `captions` is that of the weights.
pub(crate) fn tokenizer(config: &Config, source: &dyn Source) -> Result<Tokenizer> {
    match config.model.tokenizer.as_str() {
        "clip" => Ok(Tokenizer::clip()),
        // The weights to start from know their ids by their own tokenizer.
        "captions" if config.keeps_tokenizer() => {
            open_tokenizer(&config.model.init, config.architecture()?.text.vocabulary_size)
        }
        "captions" => {
            let mut ledger = Ledger::new(config.data.max_bad_share);
            let captions = data::captions(source, &mut ledger)?;
            Tokenizer::train(captions, config.architecture()?.text.vocabulary_size)
        }
        path => Tokenizer::load(path),
    }
}
