//! A trained model as a folder, ready to use: architecture and weights in open_clip's layout, and the tokenizer beside
//! them.

use crate::task::Task;
use crate::{Error, Result};
use engine::{DType, Queue};
use model::Coca;
use model::config::CocaConfig;
use model::preprocess::{Image, decode, evaluate};
use model::tokenizer::Tokenizer;
use model::weights::{CONFIG_FILE, Weights, load_folder};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The tokenizer in a folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The head in a folder, if its model has one.
pub const HEAD_FILE: &str = "head.safetensors";
/// Key of the task in the free text of a head's file.
const TASK: &str = "task";
/// The subfolder of a run folder that holds its model.
const RUN_MODEL: &str = "model";
/// Images of more pixels than this are refused; the default of `data.max_pixels`.
pub(crate) const MOST_PIXELS: u64 = 100_000_000;

/// A model with all that is needed to ask it something.
#[derive(Debug)]
pub struct ModelFolder {
    /// The model, without gradients.
    pub model: Coca,
    /// The tokenizer of its texts.
    pub tokenizer: Tokenizer,
    /// Where it runs.
    pub queue: Queue,
}

impl ModelFolder {
    /// Opens a model folder, or the model of a run folder. `dtype` is the storage type of activations. Runs on the CPU, as
    /// `COCA_ISA` and `COCA_THREADS` say.
    ///
    /// # Errors
    /// The folder holds no model, the weights do not fit the configuration, there is no tokenizer and the vocabulary is not
    /// CLIP's, or the tokenizer has more ids than the model.
    pub fn open(path: &Path, dtype: DType) -> Result<ModelFolder> {
        let folder = find(path)?;
        let queue = Queue::cpu_from_env()?;
        let model = Coca::open(&folder, dtype, false)?;
        let tokenizer = open_tokenizer(&folder, model.config().text.vocabulary_size)?;
        Ok(ModelFolder { model, tokenizer, queue })
    }

    /// As [`ModelFolder::open`], with the head of the folder and its task.
    ///
    /// # Errors
    /// As [`ModelFolder::open`]; the folder has no head, or it is of another model or of no task.
    pub fn open_with_head(path: &Path, dtype: DType) -> Result<(ModelFolder, Task)> {
        let folder = find(path)?;
        let file = folder.join(HEAD_FILE);
        if !file.exists() {
            let folder = folder.display();
            return Err(Error::invalid(format!("{folder}: no head ({HEAD_FILE}): `coca finetune` trains one")));
        }
        let task = task_of(&Weights::open(&file)?).ok_or_else(|| {
            let file = file.display();
            Error::invalid(format!(
                "{file}: it names no task: it is a probe's, not of a model that was trained with it"
            ))
        })?;
        let (config, weights) = load_folder(&folder)?;
        let head = task.head(&config);
        let model = Coca::with_head(config, Some(head), dtype, false)?;
        model.load(&weights)?;
        model.load_head(&file)?;
        let tokenizer = open_tokenizer(&folder, model.config().text.vocabulary_size)?;
        Ok((ModelFolder { model, tokenizer, queue: Queue::cpu_from_env()? }, task))
    }

    /// As [`ModelFolder::images`], for one file in memory: u8 `[size, size, 3]`.
    ///
    /// # Errors
    /// It is no image that is supported.
    pub fn image(&self, file: &[u8]) -> Result<Vec<u8>> {
        let picture = decode(file, MOST_PIXELS).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(self.preprocess(&picture))
    }

    /// A picture as the model sees it, u8 `[size, size, 3]`.
    pub fn preprocess(&self, picture: &Image) -> Vec<u8> {
        let config = self.model.config();
        evaluate(picture, config.vision.image_size, config.image.resize_mode, config.image.fill_color)
    }

    /// Decodes image files and preprocesses them as open_clip does for evaluation: u8 `[paths, size, size, 3]`, in order.
    ///
    /// # Errors
    /// A file cannot be read or is no image that is supported; the text names the first such file.
    pub fn images(&self, paths: &[PathBuf]) -> Result<Vec<u8>> {
        let read = |path: &PathBuf| -> Result<Vec<u8>> {
            let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
            self.image(&bytes).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
        };
        let images: Vec<Result<Vec<u8>>> = self.queue.enter(|| paths.par_iter().map(read).collect());
        Ok(images.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    /// Token ids of every text, start and end included, cut to the model's context.
    pub fn texts<T: AsRef<str>>(&self, lines: &[T]) -> Vec<Vec<i32>> {
        let most = self.model.config().text.context_length;
        lines.iter().map(|line| self.tokenizer.encode_within(line.as_ref(), most)).collect()
    }
}

/// Writes a folder: architecture and weights, `values` in place of them if given (an average of them, say, in arena order), the
/// tokenizer, and the head if the model has one.
///
/// # Errors
/// A file cannot be written.
pub fn save(
    folder: &Path,
    model: &Coca,
    tokenizer: &Tokenizer,
    task: Option<&Task>,
    values: Option<&[f32]>,
) -> Result<()> {
    model.save(folder, values)?;
    tokenizer.save(folder.join(TOKENIZER_FILE))?;
    let Some(task) = task else { return Ok(()) };
    let about = serde_json::to_string(task).map_err(|error| Error::invalid(error.to_string()))?;
    model.save_head(&folder.join(HEAD_FILE), &task.classes.labels, &[(TASK, &about)], values)
}

/// The task of a head's file that a run of this program wrote.
pub(crate) fn task_of(head: &Weights) -> Option<Task> {
    serde_json::from_str(head.metadata().get(TASK)?).ok()
}

/// The folder that holds the configuration: the path itself, or its `model` subfolder.
pub(crate) fn find(path: &Path) -> Result<PathBuf> {
    std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
    let places = [path.to_owned(), path.join(RUN_MODEL)];
    places.into_iter().find(|place| place.join(CONFIG_FILE).is_file()).ok_or_else(|| {
        let path = path.display();
        Error::invalid(format!(
            "{path}: no model: neither {CONFIG_FILE} nor {RUN_MODEL}/{CONFIG_FILE} is in this folder"
        ))
    })
}

/// The folder's tokenizer, or CLIP's where the model has CLIP's vocabulary. As in open_clip, the file beside such a model, by
/// which another library cleans less, counts only if the configuration names a tokenizer.
pub(crate) fn open_tokenizer(folder: &Path, vocabulary: usize) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER_FILE);
    let tokenizer = if path.exists() {
        let tokenizer = Tokenizer::load(&path)?;
        if names_tokenizer(folder)? {
            tokenizer.cleaned_before()?
        } else if is_clips(&tokenizer) {
            Tokenizer::clip()
        } else {
            tokenizer
        }
    } else {
        Tokenizer::clip()
    };
    let ids = tokenizer.vocabulary_size();
    if path.exists() && ids > vocabulary {
        let path = path.display();
        return Err(Error::invalid(format!(
            "{path}: {ids} ids, but the model has {vocabulary}; put its own file here"
        )));
    }
    if !path.exists() && ids != vocabulary {
        return Err(Error::invalid(format!(
            "{} is missing, and a vocabulary of {vocabulary} ids is not CLIP's ({ids}); put the model's file there",
            path.display()
        )));
    }
    Ok(tokenizer)
}

fn names_tokenizer(folder: &Path) -> Result<bool> {
    let path = folder.join(CONFIG_FILE);
    if !path.exists() {
        return Ok(false);
    }
    let text = std::fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
    let config =
        CocaConfig::from_open_clip(&text).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))?;
    Ok(config.tokenizer.names_tokenizer())
}

/// Whether the ids are those of CLIP; start and end have other names in other files.
fn is_clips(tokenizer: &Tokenizer) -> bool {
    let clip = Tokenizer::clip();
    let same = |id| tokenizer.piece(id) == clip.piece(id) || id == clip.start() || id == clip.end();
    let ends = |tokenizer: &Tokenizer| [tokenizer.start(), tokenizer.end(), tokenizer.vocabulary_size() as i32];
    ends(tokenizer) == ends(&clip) && (0..clip.vocabulary_size() as i32).all(same)
}

/// Writes the folder of a small random model for pictures of 16 pixels and texts of at most 8 ids.
#[cfg(test)]
pub(crate) fn test_model(folder: &Path, seed: u64) -> Coca {
    use model::config::Pooler;
    let captions = ["a red cat", "the blue dog runs", "one bird and two fishes"];
    let tokenizer = Tokenizer::train(captions, 530).expect("a vocabulary");
    let mut config = CocaConfig::preset("emoji").expect("a preset");
    (config.embed_dim, config.pooler) = (64, Pooler::OpenClip { queries: 5, heads: 2 });
    let (vision, text, decoder) = (&mut config.vision, &mut config.text, &mut config.decoder);
    (vision.image_size, vision.patch_size) = (16, 8);
    (vision.width, vision.heads, vision.layers, vision.mlp_width) = (64, 2, 1, 64);
    (text.width, text.heads, text.layers, text.mlp_width) = (64, 2, 1, 64);
    (text.context_length, text.vocabulary_size) = (8, tokenizer.vocabulary_size());
    (decoder.width, decoder.heads, decoder.layers, decoder.mlp_width) = (64, 2, 1, 64);
    let model = Coca::new(config, DType::F32, false).expect("a model");
    model.initialize(seed).expect("weights");
    model.save(folder, None).expect("a folder");
    tokenizer.save(folder.join(TOKENIZER_FILE)).expect("a file");
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_folder;

    #[test]
    fn a_model_folder_and_its_run_folder_are_the_same() {
        let run = test_folder("model-folder");
        let made = test_model(&run.join(RUN_MODEL), 7);
        for path in [run.to_path_buf(), run.join(RUN_MODEL)] {
            let opened = ModelFolder::open(&path, DType::F32).unwrap();
            assert_eq!(opened.model.config(), made.config());
            let name = "text_decoder.text_projection";
            assert_eq!(opened.model.parameters().read(name).unwrap(), made.parameters().read(name).unwrap());
            let texts = opened.texts(&["red cat", &"cat ".repeat(40)]);
            assert_eq!(opened.tokenizer.decode(&texts[0]), "red cat");
            assert_eq!((texts[1].len(), texts[1].last()), (8, Some(&opened.tokenizer.end())));
        }
    }

    #[test]
    fn images_keep_their_order_and_errors_name_the_file() {
        let root = test_folder("model-folder-images");
        test_model(&root, 7);
        let folder = ModelFolder::open(&root, DType::F32).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/preprocess");
        let paths = ["L-33x20.png", "P-61x100.png"].map(|name| fixtures.join(name));
        let images = folder.images(&paths).unwrap();
        let one = 16 * 16 * 3;
        assert_eq!(images.len(), 2 * one);
        for (path, image) in paths.iter().zip(images.chunks(one)) {
            let picture = decode(&std::fs::read(path).unwrap(), MOST_PIXELS).unwrap();
            assert_eq!(image, evaluate(&picture, 16, model::config::ResizeMode::Shortest, 0));
        }
        let text = root.join("text.png");
        std::fs::write(&text, "no image at all, but text").unwrap();
        let error = |path: PathBuf| folder.images(&[paths[0].clone(), path]).unwrap_err().to_string();
        assert!(error(text).contains("text.png: the image is no PNG"));
        assert!(error(root.join("gone.png")).contains("gone.png: No such file"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = test_folder("model-folder-missing");
        let error = || ModelFolder::open(&root, DType::F32).unwrap_err().to_string();
        assert!(error().contains("neither open_clip_config.json nor model/open_clip_config.json"));
        let model = test_model(&root, 7);
        std::fs::remove_file(root.join(TOKENIZER_FILE)).unwrap();
        let size = model.config().text.vocabulary_size;
        assert!(error().contains(&format!("tokenizer.json is missing, and a vocabulary of {size} ids is not CLIP's")));
        Tokenizer::clip().save(root.join(TOKENIZER_FILE)).unwrap();
        assert!(error().contains(&format!("49408 ids, but the model has {size}")));
        std::fs::remove_file(root.join(CONFIG_FILE)).unwrap();
        assert!(error().contains("no model"));
        assert!(ModelFolder::open(&root.join("nowhere"), DType::F32).unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn clips_vocabulary_needs_no_file() {
        let vocabulary = CocaConfig::preset("coca_ViT-B-32").unwrap().text.vocabulary_size;
        let tokenizer = open_tokenizer(Path::new("nowhere"), vocabulary).unwrap();
        assert_eq!(tokenizer.encode("a cat"), Tokenizer::clip().encode("a cat"));
    }

    #[test]
    fn a_file_beside_clips_vocabulary_counts_if_it_is_named() {
        let root = test_folder("model-folder-clip");
        std::fs::create_dir_all(&*root).unwrap();
        // As OpenAI's: other names, less cleaning.
        let clip = Tokenizer::clip();
        let text =
            clip.to_json().replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>");
        let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
        file["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]});
        std::fs::write(root.join(TOKENIZER_FILE), file.to_string()).unwrap();
        let mut config = CocaConfig::preset("coca_ViT-B-32").unwrap();
        let open = |config: &CocaConfig| {
            std::fs::write(root.join(CONFIG_FILE), config.to_open_clip()).unwrap();
            open_tokenizer(&root, config.text.vocabulary_size).unwrap()
        };
        let (text, clean) = ("Don’t &amp;  <start_of_text>", "Don't & <start_of_text>");
        assert_eq!(open(&config).encode(text), clip.encode(text));
        config.tokenizer.hf_tokenizer_name = Some("a/tokenizer".into());
        let named = open(&config);
        assert_eq!(named.encode(text), Tokenizer::from_json(&file.to_string()).unwrap().encode(clean));
        assert_ne!(named.encode(text), clip.encode(text));
    }
}
