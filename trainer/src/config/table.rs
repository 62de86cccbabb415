//! Every configuration key, once: section, name, type, default, what it means. The structs, the defaults, the help
//! text and the commented TOML file are all made from this table.

use super::{Names, choices, sections};
use std::path::PathBuf;

choices! {
    /// How the training data is stored.
    DataFormat {
        /// by name: `emoji` is the bundled set, `.tar` shards, `.csv` and `.tsv` lists, else a folder
        Auto = "auto",
        /// the bundled emoji set
        Emoji = "emoji",
        /// tar shards in WebDataset layout
        Shards = "shards",
        /// open_clip's table of file paths and captions
        Csv = "csv",
        /// a folder of images with `.txt` captions
        Folder = "folder",
    }
    /// What happens to a training image before it is cut into patches.
    AugmentKind {
        /// random-resized-crop, and the other keys of this section
        Crop = "crop",
        /// the preprocessing of evaluation
        None = "none",
    }
    /// What is trained.
    TaskKind {
        /// the model alone, with the two losses of the section loss
        Pretrain = "pretrain",
        /// a new head: the class of an image, or of a clip
        Classes = "classes",
        /// a new head: the answer to a question about an image
        Vqa = "vqa",
        /// a new head: whether an image entails a text
        Entailment = "entailment",
        /// a new head: whether a text is true of two images together
        Pair = "pair",
    }
    /// What samples are labelled with.
    LabelKind {
        /// their own class, else their first caption; of the bundled emoji the name
        Name = "name",
        /// Unicode's group of an emoji, such as animals-nature
        Group = "group",
        /// Unicode's subgroup of an emoji, such as animal-bird
        Subgroup = "subgroup",
    }
    /// The optimiser.
    OptimizerKind {
        /// Adam with decoupled weight decay
        AdamW = "adamw",
        /// factored second moments, the optimiser of the CoCa paper
        Adafactor = "adafactor",
    }
    /// The course of the learning rate after the warm-up.
    ScheduleKind {
        /// half a cosine, to zero at the last step
        Cosine = "cosine",
        /// a line, to zero at the last step
        Linear = "linear",
        /// no change
        Constant = "constant",
    }
    /// The storage type of activations and of the weights that the matrix products read.
    Precision {
        /// 32-bit floats
        F32 = "f32",
        /// bfloat16, with f32 master weights, statistics, losses and gradients
        BF16 = "bf16",
    }
    /// The device that computes.
    DeviceKind {
        /// a GPU if there is one, else the processor
        Auto = "auto",
        /// the processor
        Cpu = "cpu",
        /// a GPU
        Cuda = "cuda",
    }
    /// A check around every node of a step.
    CheckKind {
        /// off
        None = "none",
        /// stop at the first value that is not finite
        Nan = "nan",
        /// fill outputs with NaN first, to find what is read but never written, and guard their ends
        Poison = "poison",
        /// run every node again on the CPU and compare
        Cpu = "cpu",
    }
    /// What the backward pass recomputes instead of keeping it.
    Checkpointing {
        /// nothing: fastest, most memory
        None = "none",
        /// norms, activations and casts
        Cheap = "cheap",
        /// whole blocks: only their inputs are kept
        Block = "block",
    }
}

sections! {
    /// The run as a whole.
    run: Run {
        /// Folder of the run: configuration, metrics, checkpoints, report.
        out: PathBuf = "runs/emoji".into(),
        /// Seed of the initial weights, the order of the data and the augmentation.
        seed: u64 = 0,
    }
    /// The network and its starting point.
    model: Model {
        /// Name of a preset, or an open_clip JSON model configuration (a file, or a folder that holds one).
        preset: String = "emoji".into(),
        /// Sizes of it to change, for example { vision = { layers = 4 }, text = { vocabulary_size = 4096 } }.
        overrides: toml::Table = toml::Table::new(),
        /// Folder with weights to start from, in open_clip's layout; empty: random weights. It brings its architecture in
        /// place of the default `preset`, and its tokenizer in place of `captions`.
        init: PathBuf = PathBuf::new(),
        /// `captions` (a byte-BPE of the model's vocabulary size, trained on the captions), `clip`, or a `tokenizer.json`.
        tokenizer: String = "captions".into(),
    }
    /// A downstream task: a new head on the model, and the class of each sample in place of the contrastive loss.
    task: Task {
        /// Which one. A head reads the image encoder's output, or of a sample with a text the decoder's; it is trained with all
        /// of the model that it reaches.
        kind: TaskKind = TaskKind::Pretrain,
        /// What the samples of `classes` are labelled with.
        labels: LabelKind = LabelKind::Name,
        /// How many of the most frequent answers of `vqa` are told apart; others count nothing in training, and as wrong in tests.
        answers: usize = 3129,
        /// Share of the target that all classes have together.
        label_smoothing: f64 = 0.0,
        /// Show every image in the mean colour alone: a control that knows nothing but the texts.
        blank_images: bool = false,
    }
    /// The training pairs.
    data: Data {
        /// `emoji` (bundled), a shard pattern like `shards/{000..099}.tar`, a `.csv` or `.tsv` file, a folder, or a benchmark's
        /// own files: `coco:FILE.json`, `karpathy:FILE.json`, `nocaps:FILE.json`, `imagenet:FOLDER`; with `data.frames` clips. Texts
        /// with an answer, class or truth: `vqa:QUESTIONS.json::ANNOTATIONS.json`, `snli-ve:FILE.jsonl`, `nlvr2:FILE.json`,
        /// `emoji-questions` (bundled), and `scene-questions:`, `scene-statements:` or `scene-pairs:` and a pattern of the shards of
        /// `coca data make scenes`.
        train: String = "emoji".into(),
        /// How the data is stored.
        format: DataFormat = DataFormat::Auto,
        /// Column of the image paths in a table.
        image_column: String = "filepath".into(),
        /// Column of the captions in a table.
        caption_column: String = "title".into(),
        /// Column of the labels of classes in a table that has it, for `data.classes` and `coca probe`.
        label_column: String = "label".into(),
        /// Separator of a table's columns; empty: a tab if the header has one, else a comma.
        separator: String = String::new(),
        /// Folder of the images or videos that a benchmark's annotations name; empty: the folder of that file.
        images: PathBuf = PathBuf::new(),
        /// Splits of a Karpathy, Kinetics or MSR-VTT file, such as `train+restval`; empty: `train`, and `test` in `coca eval`, but
        /// all of a Kinetics file.
        split: String = String::new(),
        /// Names of the classes, one a line as `LABEL<tab>NAME`, for the class folders of `imagenet:FOLDER`; empty: the folders'.
        classes: PathBuf = PathBuf::new(),
        /// Images of a clip: frames taken evenly from the whole of it. 0: the data are pictures. More: they are clips, in shards
        /// (frames `KEY.000.png` and on, or an animated `KEY.webp`), in a folder (folders of frames, animations, videos; class
        /// folders of them), or in a benchmark of videos, `kinetics:FILE.csv` or `msrvtt:FILE.json`.
        frames: usize = 0,
        /// Draw the pairs in a new random order every epoch; false keeps the order of the source.
        shuffle: bool = true,
        /// Pairs held in memory to shuffle a stream of shards.
        shuffle_buffer: usize = 4096,
        /// Threads that read, decode and tokenise; 0: one for every thread of the compute pool.
        workers: usize = 0,
        /// Batches prepared ahead of the step that reads them.
        prefetch: usize = 4,
        /// Images of more pixels than this are refused before any memory is taken for them.
        max_pixels: u64 = 100_000_000,
        /// Largest share of pairs that may be unusable (corrupt, oversized, empty) before the run stops.
        max_bad_share: f64 = 0.05,
    }
    /// Augmentation of training images.
    augmentation: Augmentation {
        /// What is done; `none` with `data.shuffle = false` pins a run for comparison with another trainer.
        kind: AugmentKind = AugmentKind::Crop,
        /// Smallest share of the image's area that a crop keeps.
        scale_min: f64 = 0.9,
        /// Largest share of the image's area that a crop keeps.
        scale_max: f64 = 1.0,
        /// A crop's aspect ratio lies between 1 / ratio and ratio.
        ratio: f64 = 4.0 / 3.0,
        /// Share of the images from files whose brightness, contrast, saturation and hue are changed. The bundled drawings have
        /// shares of their own.
        jittered: f64 = 0.0,
        /// Share of the images from files that turn grey.
        grey: f64 = 0.0,
        /// Share of the captions of samples with keywords that have some of them behind the name. Below one half, so that the
        /// likeliest caption ends after the name.
        keywords: f64 = 0.2,
    }
    /// The batch.
    batch: Batch {
        /// Pairs in one pass through the network.
        size: usize = 128,
        /// Passes in one optimiser step; the contrastive loss still compares all pairs of the step.
        accumulation: usize = 1,
    }
    /// The optimiser.
    optimizer: Optimizer {
        /// Which one.
        kind: OptimizerKind = OptimizerKind::AdamW,
        /// Peak learning rate.
        learning_rate: f64 = 1e-3,
        /// Factors on the learning rate by the start of parameters' names, of which the longest counts, for example
        /// { visual = 0.0, "text.token_embedding" = 2.0 }: an image tower that stays as it is.
        scales: toml::Table = toml::Table::new(),
        /// Another factor, by depth: this for the last block of a tower, its square for the block before, and so on down to the
        /// embeddings; none for the head and whatever else stands above the blocks. The decoder stands on the text tower, the
        /// image tower by itself. 1: the same rate for all.
        layer_decay: f64 = 1.0,
        /// Decay of the first moment.
        beta1: f64 = 0.9,
        /// Decay of the second moment.
        beta2: f64 = 0.98,
        /// Added to the root of the second moment (AdamW).
        epsilon: f64 = 1e-6,
        /// Decoupled decay of matrices; biases, norms, embeddings of one row and the temperature have none.
        weight_decay: f64 = 0.1,
        /// Largest global norm of the gradient; 0: no clipping.
        clip_norm: f64 = 1.0,
    }
    /// The learning rate over time, and the end of the run.
    schedule: Schedule {
        /// Its course after the warm-up.
        kind: ScheduleKind = ScheduleKind::Cosine,
        /// Steps of linear warm-up.
        warmup_steps: u64 = 100,
        /// Optimiser steps of the whole run.
        steps: u64 = 1000,
        /// Stop after this many minutes even if steps are left; 0: no limit.
        minutes: f64 = 0.0,
    }
    /// The two losses of pretraining. Of a task only `vqa` has the caption loss, on question and answer.
    loss: Loss {
        /// Weight of the contrastive loss (mean of both directions).
        contrastive_weight: f64 = 1.0,
        /// Weight of the caption loss (mean over tokens).
        caption_weight: f64 = 2.0,
    }
    /// An exponential moving average of the weights, used for evaluation and export.
    ema: Ema {
        /// Share of the average that a step keeps, for example 0.999, but less at first, or the start would weigh on; 0: no average.
        decay: f64 = 0.0,
    }
    /// How it is computed.
    compute: Compute {
        /// Where it is computed.
        device: DeviceKind = DeviceKind::Auto,
        /// Storage type of activations.
        dtype: Precision = Precision::F32,
        /// Threads; 0: COCA_THREADS, else every core that the process may use. The result does not depend on it.
        threads: usize = 0,
        /// Instruction set: `auto` (COCA_ISA, else the best), `scalar`, `avx2`, `avx512`, `avx512bf16`.
        isa: String = "auto".into(),
        /// Submit a step to a GPU as one recorded graph; false: kernel by kernel, to find faults. The result does not depend on it.
        graph: bool = true,
        /// What the backward pass recomputes.
        checkpointing: Checkpointing = Checkpointing::None,
        /// Check every node; slow, to find faults.
        check: CheckKind = CheckKind::None,
    }
    /// Checkpoints, from which a run resumes bit for bit.
    checkpoint: Checkpoint {
        /// Steps between two checkpoints; 0: only at the end and on a signal.
        every: u64 = 200,
        /// How many of the newest are kept.
        keep: usize = 2,
    }
    /// Evaluation on held-out data: the rest of the bundled set after training on it, and data of your own.
    evaluation: Evaluation {
        /// Held-out sets of your own, one or a list, named and read as `data.train` is; empty: none. A task is tested on them alone,
        /// if there are any.
        data: Names = Names::default(),
        /// Splits of a Karpathy file that `data` names.
        split: String = "test".into(),
        /// Steps between two evaluations while training; 0: only at the end.
        every: u64 = 0,
        /// Pairs in one pass.
        batch_size: usize = 128,
        /// Captions generated for the report; 0: none.
        captions: usize = 48,
    }
    /// What is written while the run goes on.
    logging: Logging {
        /// Write TensorBoard event files beside `metrics.jsonl`.
        tensorboard: bool = true,
        /// Write `report.html` at the end.
        report: bool = true,
        /// Profile this many steps after the first, as a table, `profile.jsonl` and a Chrome trace; 0: none.
        profile_steps: u64 = 0,
        /// Steps of history against which a loss or gradient norm is called an outlier.
        outlier_window: usize = 128,
        /// Robust z-score past which it is called one.
        outlier_threshold: f64 = 8.0,
    }
}
