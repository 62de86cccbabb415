//! VQA v2: `v2_OpenEnded_mscoco_val2014_questions.json` and, where answers are public, `v2_mscoco_val2014_annotations.json`.

use super::annotated::{Annotated, AnnotatedSource, Folders, layout};
use super::normalised_answer;
use super::record::{Place, Record, list, read_json};
use crate::data::Labels;
use crate::data::source::TextKind;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
struct Questions {
    data_subtype: Option<String>,
    questions: Option<Vec<Question>>,
}

#[derive(Deserialize)]
struct Question {
    image_id: Option<Value>,
    question_id: Option<Value>,
    question: Option<Value>,
}

#[derive(Deserialize)]
struct Annotations {
    annotations: Option<Vec<Annotation>>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Option<Value>,
    question_id: Option<Value>,
    answer_type: Option<Value>,
    multiple_choice_answer: Option<Value>,
    answers: Option<Vec<Answer>>,
}

#[derive(Deserialize)]
struct Answer {
    answer: Option<Value>,
}

/// A question with the number of its image.
struct Asked {
    id: String,
    image: String,
    text: String,
}

/// The questions of `QUESTIONS.json` or `QUESTIONS.json::ANNOTATIONS.json`, each with its most frequent answer as the class, in
/// the form in which answers are compared, all annotators' answers, and the type of the answer as the domain. Images are named
/// as COCO names them, and lie in `folder` or in a folder below it of the name of their split.
///
/// # Errors
/// A file cannot be read, a record lacks a field, two questions have one id, or the files are not of the same questions.
pub fn open(name: &str, paths: &Path, folder: &Path) -> Result<AnnotatedSource> {
    let paths = paths.to_string_lossy();
    let (questions, annotations) = match paths.split_once("::") {
        Some((questions, annotations)) => (Path::new(questions), Some(Path::new(annotations))),
        None => (Path::new(&*paths), None),
    };
    let (split, asked) = read_questions(questions)?;
    let mut labels = annotations.map(|path| read_annotations(path, questions, &asked)).transpose()?;
    let file = |asked: &Asked| format!("COCO_{split}_{:0>12}.jpg", asked.image);
    let ways: [Folders<'_, Asked>; 2] = [&|_| folder.to_path_buf(), &|_| folder.join(&split)];
    let way = layout(&asked, &ways, file);
    let mut samples = Vec::with_capacity(asked.len());
    for (index, asked) in asked.into_iter().enumerate() {
        let labels = labels.as_mut().map(|labels| std::mem::take(&mut labels[index])).unwrap_or_default();
        samples.push(Annotated {
            images: vec![way(&asked).join(file(&asked))],
            key: asked.id,
            captions: vec![asked.text],
            labels,
        });
    }
    AnnotatedSource::new(name, folder, TextKind::Question, samples)
}

/// The split in the names of the images, and the questions.
fn read_questions(path: &Path) -> Result<(String, Vec<Asked>)> {
    let file: Questions = read_json(path)?;
    let split = file.data_subtype.ok_or_else(|| {
        let path = path.display();
        Error::invalid(format!("{path}: no text 'data_subtype', such as val2014, by which its images are named"))
    })?;
    let mut known = HashMap::new();
    let mut asked = Vec::new();
    let meant = "a file of VQA's questions has 'questions'";
    for (index, question) in list(path, "questions", &file.questions, meant)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("questions", index) };
        let id = record.id("question_id", &question.question_id)?;
        if known.insert(id.clone(), index).is_some() {
            return Err(record.wrong("question_id", "is the id of a question before it"));
        }
        let image = record.id("image_id", &question.image_id)?;
        asked.push(Asked { id, image, text: record.text("question", &question.question)?.to_owned() });
    }
    // The questions of test-dev are about images of the whole test set.
    Ok((split.replace("test-dev", "test"), asked))
}

/// The labels of every question, in their order.
fn read_annotations(path: &Path, questions: &Path, asked: &[Asked]) -> Result<Vec<Labels>> {
    let file: Annotations = read_json(path)?;
    let places: HashMap<&str, usize> =
        asked.iter().enumerate().map(|(place, asked)| (asked.id.as_str(), place)).collect();
    let mut labels: Vec<Option<Labels>> = vec![None; asked.len()];
    let meant = "a file of VQA's answers has 'annotations'";
    for (index, annotation) in list(path, "annotations", &file.annotations, meant)?.iter().enumerate() {
        let record = Record { path, place: Place::Item("annotations", index) };
        let id = record.id("question_id", &annotation.question_id)?;
        let Some(&place) = places.get(id.as_str()) else {
            let what = format!("is {id}, the id of no question in {}", questions.display());
            return Err(record.wrong("question_id", &what));
        };
        let image = record.id("image_id", &annotation.image_id)?;
        if image != asked[place].image {
            let what = format!("is {image}, and question {id} is about image {}", asked[place].image);
            return Err(record.wrong("image_id", &what));
        }
        let most = record.text("multiple_choice_answer", &annotation.multiple_choice_answer)?;
        let given = annotation.answers.as_ref().ok_or_else(|| record.wrong("answers", "is missing"))?;
        let answer = |(place, given): (usize, &Answer)| {
            Ok(record.text(&format!("answers[{place}].answer"), &given.answer)?.to_owned())
        };
        let found = Labels {
            class: Some(class(most)),
            domain: Some(record.text("answer_type", &annotation.answer_type)?.to_owned()),
            answers: given.iter().enumerate().map(answer).collect::<Result<_>>()?,
        };
        if labels[place].replace(found).is_some() {
            return Err(record.wrong("question_id", "is the id of an annotation before it"));
        }
    }
    let missing = |(place, labels): (usize, Option<Labels>)| {
        labels.ok_or_else(|| {
            let record = Record { path: questions, place: Place::Item("questions", place) };
            record
                .wrong("question_id", &format!("is {}, the id of no annotation in {}", asked[place].id, path.display()))
        })
    };
    labels.into_iter().enumerate().map(missing).collect()
}

/// The form in which an answer is compared, or, of one that is all articles and marks, the answer.
fn class(answer: &str) -> String {
    let class = normalised_answer(answer);
    if class.is_empty() { answer.trim().to_owned() } else { class }
}
