//! `coca embed`: features of images and texts as a safetensors file; of pairs also the caption logits and both losses.
//! Images are decoded and encoded a pass at a time.

use crate::cli::EmbedArgs;
use crate::model_folder::ModelFolder;
use crate::{Error, Result};
use engine::{Compile, DType, Meta, Program, Tape, Workspace};
use kernels::contrastive::contrastive;
use model::LOGIT_SCALE;
use model::encoder::{ImageEncoder, PairOutputs, TextEncoder, evaluate_pairs};
use model::weights::{FileDtype, TensorRef, save};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Images or texts in a pass.
const PASS: usize = 32;

/// A tensor of the file.
#[derive(Debug)]
struct Output {
    name: &'static str,
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// Writes `image_features` and `text_features`, f32 `[count, embed_dim]`, unit rows in the order of the inputs. For pairs
/// also `contrastive_loss` (over all pairs) and `caption_loss` (mean over all tokens), f32 `[]`, and `logits`, f32 `[pairs,
/// positions, vocabulary]`: row p of a text predicts its token p + 1; rows past its last token are zero. Computes in f32.
/// Returns what was written, for the user.
///
/// # Errors
/// The model cannot be opened, an input cannot be read (the text names it), the numbers of images and texts of pairs
/// differ, or the file cannot be written; it is written whole or not at all.
pub fn run(args: &EmbedArgs) -> Result<String> {
    // A typing error in the output's folder shows before the work, not after it.
    if let Some(parent) = args.out.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        return Err(Error::invalid(format!("{}: there is no folder {}", args.out.display(), parent.display())));
    }
    let lines = args.texts.as_deref().map(read_lines).transpose()?.unwrap_or_default();
    if args.pairs && args.images.len() != lines.len() {
        let (images, texts) = (args.images.len(), lines.len());
        return Err(Error::invalid(format!("--pairs needs a text for each image: {images} images, {texts} texts")));
    }
    let folder = ModelFolder::open(&args.model, DType::F32)?;
    let outputs = if args.pairs {
        embed_pairs(&folder, &args.images, &lines, PASS)?
    } else {
        embed_each(&folder, &args.images, &lines, PASS)?
    };
    let tensors: Vec<TensorRef> =
        (outputs.iter()).map(|Output { name, shape, data }| TensorRef { name, shape, data }).collect();
    save(&args.out, &tensors, FileDtype::F32, &[])?;
    let mut text = String::new();
    for Output { name, shape, data } in &outputs {
        let value = if shape.is_empty() { format!("{:.6}", data[0]) } else { format!("{shape:?}") };
        let _ = writeln!(text, "{name:<18}{value}");
    }
    let _ = writeln!(text, "written to {}", args.out.display());
    Ok(text)
}

/// One text a line; blank lines are empty texts, so that line and row stay together.
fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    let lines: Vec<String> = text.trim_start_matches('\u{feff}').lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(Error::invalid(format!("{}: no lines; write one text a line", path.display())));
    }
    Ok(lines)
}

fn features(name: &'static str, width: usize, data: Vec<f32>) -> Output {
    Output { name, shape: vec![data.len() / width, width], data }
}

/// Features of images and of texts that have nothing to do with each other.
fn embed_each(folder: &ModelFolder, images: &[PathBuf], lines: &[String], pass: usize) -> Result<Vec<Output>> {
    let ModelFolder { model, queue, .. } = folder;
    let (width, workspace) = (model.config().embed_dim, Workspace::new());
    let mut outputs = Vec::new();
    if !images.is_empty() {
        let mut encoder = ImageEncoder::new(model, pass.min(images.len()), &workspace)?;
        let mut rows = Vec::with_capacity(images.len() * width);
        for part in images.chunks(pass) {
            rows.extend(encoder.features(queue, &folder.images(part)?)?);
        }
        outputs.push(features("image_features", width, rows));
    }
    if !lines.is_empty() {
        let mut encoder = TextEncoder::new(model, pass.min(lines.len()), &workspace)?;
        outputs.push(features("text_features", width, encoder.features(queue, &folder.texts(lines))?));
    }
    Ok(outputs)
}

/// Features, logits and losses of as many images as texts.
fn embed_pairs(folder: &ModelFolder, images: &[PathBuf], lines: &[String], pass: usize) -> Result<Vec<Output>> {
    let (config, texts) = (folder.model.config(), folder.texts(lines));
    let (width, vocabulary, pad) = (config.embed_dim, config.text.vocabulary_size, config.text.pad_id as i32);
    let positions = texts.iter().map(|text| text.len().saturating_sub(1)).max().unwrap_or(0);
    let one = positions * vocabulary;
    let mut logits = vec![0.0; lines.len() * one];
    let (mut image_features, mut text_features) = (Vec::new(), Vec::new());
    let (mut loss, mut tokens) = (0.0, 0.0);
    for (first, (paths, texts)) in images.chunks(pass).zip(texts.chunks(pass)).enumerate() {
        let part: PairOutputs = evaluate_pairs(&folder.model, &folder.queue, &folder.images(paths)?, texts)?;
        for (pair, rows) in part.offsets.windows(2).enumerate() {
            let rows = &part.logits[rows[0] as usize * vocabulary..rows[1] as usize * vocabulary];
            let at = (first * pass + pair) * one;
            logits[at..at + rows.len()].copy_from_slice(rows);
        }
        let counted = part.labels.iter().filter(|&&label| label != pad).count() as f64;
        loss += f64::from(part.caption_loss) * counted;
        tokens += counted;
        image_features.extend(part.image_features);
        text_features.extend(part.text_features);
    }
    let contrastive_loss = contrastive_loss(folder, &image_features, &text_features)?;
    let scalar = |name, value| Output { name, shape: vec![], data: vec![value] };
    Ok(vec![
        features("image_features", width, image_features),
        features("text_features", width, text_features),
        Output { name: "logits", shape: vec![lines.len(), positions, vocabulary], data: logits },
        scalar("contrastive_loss", contrastive_loss),
        scalar("caption_loss", (loss / f64::max(tokens, 1.0)) as f32),
    ])
}

/// The contrastive loss of all pairs, from their features.
fn contrastive_loss(folder: &ModelFolder, images: &[f32], texts: &[f32]) -> Result<f32> {
    let width = folder.model.config().embed_dim;
    let rows = Meta::new([images.len() / width, width], DType::F32);
    let mut tape = Tape::record();
    let inputs = [tape.input("image features", rows)?, tape.input("text features", rows)?];
    let scale = folder.model.layers(&mut tape).vector(LOGIT_SCALE)?;
    let loss = contrastive(&mut tape, inputs[0], inputs[1], scale)?;
    tape.keep(loss);
    let mut program = Program::compile(tape, &Workspace::new(), Compile::default())?;
    program.write(inputs[0], images)?;
    program.write(inputs[1], texts)?;
    program.run(&folder.queue, false)?;
    Ok(program.read::<f32>(loss)?[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_folder::test_model;
    use crate::test_folder;
    use crate::test_support::TestFolder;
    use model::weights::Weights;

    const LINES: [&str; 3] = ["a red cat", "a cat", "the blue dog runs"];

    /// A folder with a model, and three images with their texts.
    fn prepared(name: &str) -> (TestFolder, EmbedArgs) {
        let folder = test_folder(name);
        test_model(&folder, 3);
        std::fs::write(folder.join("texts.txt"), LINES.join("\r\n")).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/preprocess");
        let args = EmbedArgs {
            model: folder.to_path_buf(),
            images: ["L-33x20.png", "P-61x100.png", "LA-7x5.png"].map(|name| fixtures.join(name)).to_vec(),
            texts: Some(folder.join("texts.txt")),
            pairs: true,
            out: folder.join("out.safetensors"),
        };
        (folder, args)
    }

    fn close(found: &[f32], wanted: &[f32], tolerance: f32) {
        assert_eq!(found.len(), wanted.len());
        let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= tolerance, "off by {off}");
    }

    #[test]
    fn pairs_in_passes_equal_all_pairs_at_once() {
        let (folder, args) = prepared("embed-pairs");
        let opened = ModelFolder::open(&folder, DType::F32).unwrap();
        let texts = opened.texts(&LINES);
        let images = opened.images(&args.images).unwrap();
        let whole = evaluate_pairs(&opened.model, &opened.queue, &images, &texts).unwrap();
        let summary = run(&args).unwrap();
        assert!(summary.contains("text_features     [3, 64]\n") && summary.contains("out.safetensors"), "{summary}");
        let file = Weights::open(&args.out).unwrap();
        let parts = embed_pairs(&opened, &args.images, &LINES.map(str::to_owned), 2).unwrap();
        for Output { name, shape, data } in &parts {
            assert_eq!(file.shape(name), Some(&shape[..]), "{name}");
            // Another pass size: sums in another order at most.
            close(&file.to_vec(name).unwrap(), data, 1e-5);
        }
        let named = |name: &str| file.to_vec(name).unwrap();
        close(&named("image_features"), &whole.image_features, 1e-6);
        close(&named("text_features"), &whole.text_features, 1e-6);
        close(&named("contrastive_loss"), &[whole.contrastive_loss], 1e-5);
        close(&named("caption_loss"), &[whole.caption_loss], 1e-5);
        let vocabulary = opened.model.config().text.vocabulary_size;
        let positions = texts.iter().map(Vec::len).max().unwrap() - 1;
        for (pair, logits) in named("logits").chunks(positions * vocabulary).enumerate() {
            let rows = whole.offsets[pair] as usize * vocabulary..whole.offsets[pair + 1] as usize * vocabulary;
            let (used, rest) = logits.split_at(rows.len());
            close(used, &whole.logits[rows], 1e-5);
            assert!(rest.iter().all(|&value| value == 0.0));
            assert_eq!(used.len(), (texts[pair].len() - 1) * vocabulary);
        }
    }

    #[test]
    fn images_and_texts_alone_have_the_features_of_pairs() {
        let (folder, args) = prepared("embed-each");
        run(&args).unwrap();
        let pairs = Weights::open(&args.out).unwrap();
        let one = EmbedArgs { texts: None, pairs: false, out: folder.join("images.safetensors"), ..args.clone() };
        let other = EmbedArgs { images: vec![], pairs: false, out: folder.join("texts.safetensors"), ..args };
        for (args, name) in [(one, "image_features"), (other, "text_features")] {
            run(&args).unwrap();
            let file = Weights::open(&args.out).unwrap();
            assert_eq!(file.names().collect::<Vec<_>>(), [name]);
            let rows = file.to_vec(name).unwrap();
            close(&rows, &pairs.to_vec(name).unwrap(), 1e-6);
            for row in rows.chunks(64) {
                assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn wrong_inputs_are_named() {
        let (folder, args) = prepared("embed-wrong");
        let error = |args: EmbedArgs| run(&args).unwrap_err().to_string();
        let fewer = EmbedArgs { images: args.images[..2].to_vec(), ..args.clone() };
        assert!(error(fewer).contains("2 images, 3 texts"));
        let nowhere = EmbedArgs { out: folder.join("nowhere/out.safetensors"), ..args.clone() };
        assert!(error(nowhere).contains("there is no folder"));
        std::fs::write(folder.join("empty.txt"), "").unwrap();
        let empty = EmbedArgs { texts: Some(folder.join("empty.txt")), ..args };
        assert!(error(empty).contains("empty.txt: no lines"));
    }
}
