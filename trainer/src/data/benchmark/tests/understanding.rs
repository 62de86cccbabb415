//! Questions and statements about images, in the benchmarks' own formats.

use super::*;
use crate::data::{Fault, Labels, Ledger, check, read_batches, test_source};

/// Key, first text and labels of every sample, or its fault.
fn read(source: &dyn Source) -> Vec<std::result::Result<(String, String, Labels), Fault>> {
    let part = source.part(0).ok().unwrap();
    let described = |raw: Raw| (raw.key, raw.captions[0].clone(), raw.labels);
    (0..part.len()).map(|index| part.sample(index).map(described)).collect()
}

fn labels(source: &dyn Source) -> Vec<String> {
    source.classes().unwrap().into_iter().map(|class| class.label).collect()
}

/// `v2_OpenEnded_mscoco_val2014_questions.json`, shortened.
fn questions() -> Value {
    json!({
        "info": {"description": "This is v2.0 of the VQA dataset.", "year": 2017}, "task_type": "Open-Ended",
        "data_type": "mscoco", "license": {"name": "CC BY 4.0"}, "data_subtype": "val2014",
        "questions": [
            {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
            {"image_id": 262148, "question": "How many people are there?", "question_id": 262148001},
            {"image_id": 393225, "question": "Is this a t-shirt?", "question_id": 393225000},
        ],
    })
}

/// `v2_mscoco_val2014_annotations.json`, shortened and in another order.
fn annotations() -> Value {
    let annotation = |image: u64, question: u64, kind: &str, most: &str, answers: [&str; 3]| {
        let answer =
            |(answer, id): (&&str, usize)| json!({"answer": answer, "answer_confidence": "yes", "answer_id": id});
        let answers: Vec<Value> = answers.iter().zip(1..).map(answer).collect();
        json!({"question_type": "how many", "multiple_choice_answer": most, "answers": answers, "image_id": image,
            "answer_type": kind, "question_id": question})
    };
    json!({
        "info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": "val2014",
        "annotations": [
            annotation(393225, 393225000, "yes/no", "yes", ["yes", "yes", "no"]),
            annotation(262148, 262148000, "other", "The T-shirt", ["down", "The T-shirt", "t shirt"]),
            annotation(262148, 262148001, "number", "two", ["2", "two", "three"]),
        ],
    })
}

#[test]
fn vqa_gives_questions_with_all_answers() {
    let images = ["COCO_val2014_000000262148.jpg", "COCO_val2014_000000393225.jpg"];
    let folder = folder("vqa", &images.map(|image| format!("val2014/{image}")).each_ref().map(|image| image.as_str()));
    let asked = write(&folder, "questions.json", &questions().to_string());
    let answered = write(&folder, "annotations.json", &annotations().to_string());
    let name = format!("vqa:{asked}::{answered}");
    let source = opened(&name, &Data::default());
    assert!(source.classes().is_none() && source.images() == 1 && !source.captions_are_exclusive());
    let found: Vec<_> = read(&*source).into_iter().map(|sample| sample.unwrap()).collect();
    let described = |index: usize| {
        let (key, question, labels) = &found[index];
        (key.as_str(), question.as_str(), labels.class.as_deref().unwrap(), labels.domain.as_deref().unwrap())
    };
    assert_eq!(described(0), ("262148000", "Where is he looking?", "t shirt", "other"));
    assert_eq!(described(1), ("262148001", "How many people are there?", "2", "number"));
    assert_eq!(described(2), ("393225000", "Is this a t-shirt?", "yes", "yes/no"));
    assert_eq!(found[0].2.answers, ["down", "The T-shirt", "t shirt"]);

    // The images' own folder, and questions whose answers are not public.
    let options = Data { images: folder.join("val2014"), ..Data::default() };
    assert_eq!(read(&*opened(&name, &options)).into_iter().map(|sample| sample.unwrap()).collect::<Vec<_>>(), found);
    let open = read(&*opened(&format!("vqa:{asked}"), &options));
    assert!(open.iter().all(|sample| sample.as_ref().is_ok_and(|(.., labels)| *labels == Labels::default())));

    std::fs::remove_file(folder.join("val2014").join(images[1])).unwrap();
    let kinds: Vec<_> = read(&*opened(&name, &options)).into_iter().map(|sample| sample.err()).collect();
    assert_eq!(kinds.iter().flatten().map(|fault| fault.kind).collect::<Vec<_>>(), [FaultKind::MissingFile]);
    assert!(kinds[2].is_some());

    let mut test = questions();
    test["data_subtype"] = "test-dev2015".into();
    let asked = write(&folder, "test.json", &test.to_string());
    let missing = refused(&format!("vqa:{asked}"), &Data::default());
    assert!(missing.contains("COCO_test2015_000000262148.jpg") && missing.contains("--images"), "{missing}");
}

#[test]
fn malformed_questions_and_answers_are_named() {
    let folder = folder("vqa-wrong", &["COCO_val2014_000000262148.jpg"]);
    let set = |file: Value, pointer: &str, value: Value| {
        let mut file = file;
        *file.pointer_mut(pointer).unwrap() = value;
        file
    };
    let (asked, answered) = (folder.join("asked.json"), folder.join("answered.json"));
    let (asked, answered) = (asked.display().to_string(), answered.display().to_string());
    for (pointer, value, message) in [
        ("/data_subtype", json!(null), "no text 'data_subtype', such as val2014"),
        ("/data_subtype", json!(2014), "invalid type: integer `2014`"),
        ("/questions", json!(null), "no list 'questions'; a file of VQA's questions has"),
        ("/questions/1/question_id", json!(null), "questions[1].question_id is missing"),
        ("/questions/1/question_id", json!(262148000), "questions[1].question_id is the id of a question before it"),
        ("/questions/0/image_id", json!([1]), "questions[0].image_id is no id but [1]"),
        ("/questions/2/question", json!(7), "questions[2].question is no text but 7"),
    ] {
        write(&folder, "asked.json", &set(questions(), pointer, value).to_string());
        let found = refused(&format!("vqa:{asked}"), &Data::default());
        assert!(found.starts_with(&format!("{asked}: ")) && found.contains(message), "{found}: no {message}");
    }
    write(&folder, "asked.json", &questions().to_string());
    for (pointer, value, message) in [
        ("/annotations", json!([]), "the list 'annotations' is empty"),
        ("/annotations/0/question_id", json!(5), "annotations[0].question_id is 5, the id of no question in "),
        (
            "/annotations/1/question_id",
            json!(262148001),
            "annotations[2].question_id is the id of an annotation before it",
        ),
        (
            "/annotations/0/image_id",
            json!(5),
            "annotations[0].image_id is 5, and question 393225000 is about image 393225",
        ),
        ("/annotations/1/answers", json!(null), "annotations[1].answers is missing"),
        ("/annotations/1/answers/2/answer", json!(2), "annotations[1].answers[2].answer is no text but 2"),
        ("/annotations/2/multiple_choice_answer", json!(null), "annotations[2].multiple_choice_answer is missing"),
        ("/annotations/2/answer_type", json!(null), "annotations[2].answer_type is missing"),
    ] {
        write(&folder, "answered.json", &set(annotations(), pointer, value).to_string());
        let found = refused(&format!("vqa:{asked}::{answered}"), &Data::default());
        assert!(found.starts_with(&format!("{answered}: ")) && found.contains(message), "{found}: no {message}");
    }
    let mut fewer = annotations();
    fewer["annotations"].as_array_mut().unwrap().remove(2);
    write(&folder, "answered.json", &fewer.to_string());
    let found = refused(&format!("vqa:{asked}::{answered}"), &Data::default());
    assert!(
        found.contains("asked.json: questions[1].question_id is 262148001, the id of no annotation in "),
        "{found}"
    );
    assert!(refused("vqa:nowhere.json::b.json", &Data::default()).starts_with("nowhere.json: No such file"));
}

/// A line of `snli_ve_dev.jsonl`.
fn hypothesis(image: &str, label: &str, text: &str) -> Value {
    json!({"Flickr30K_ID": image, "annotator_labels": [label, "neutral"], "captionID": format!("{image}.jpg#2"),
        "gold_label": label, "pairID": format!("{image}.jpg#2r1n"), "sentence1": "Two people.", "sentence2": text})
}

fn lines(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn snli_ve_gives_hypotheses_with_labels() {
    let folder = folder("snli-ve", &["images/2407214681.jpg", "images/4705552913.jpg"]);
    let mut older = hypothesis("4705552913", "contradiction", "Nobody is here.");
    older["Flikr30kID"] = "4705552913.jpg".into();
    older.as_object_mut().unwrap().remove("Flickr30K_ID");
    older.as_object_mut().unwrap().remove("pairID");
    let all = [
        hypothesis("2407214681", "neutral", "They are friends."),
        hypothesis("2407214681", "-", "The annotators do not agree."),
        older,
        hypothesis("1", "entailment", "There are people."),
    ];
    let path = write(&folder, "snli_ve_dev.jsonl", &(lines(&all) + "\n"));
    let options = Data { images: folder.join("images"), ..Data::default() };
    let source = opened(&format!("snli-ve:{path}"), &options);
    assert_eq!(labels(&*source), ["entailment", "neutral", "contradiction"]);
    let found = read(&*source);
    let described = |index: usize| {
        let (key, text, labels) = found[index].as_ref().unwrap();
        (key.as_str(), text.as_str(), labels.class.as_deref().unwrap())
    };
    assert_eq!(described(0), ("2407214681.jpg#2r1n", "They are friends.", "neutral"));
    assert_eq!(described(1), ("4705552913#3", "Nobody is here.", "contradiction"));
    assert_eq!((found.len(), found[2].as_ref().unwrap_err().kind), (3, FaultKind::MissingFile));
    let (text, goes_on) = check(&*source, &test_source::model(8), &Data::default()).unwrap();
    assert!(!goes_on && text.contains("2 of 3 samples are sound"), "{text}");

    for (field, value, message) in [
        ("gold_label", json!("entails"), ":2: gold_label is 'entails', none of entailment, neutral, contradiction, -"),
        ("gold_label", json!(null), ":2: gold_label is missing"),
        ("sentence2", json!(3), ":2: sentence2 is no text but 3"),
        ("Flickr30K_ID", json!(null), ":2: Flickr30K_ID is missing"),
        ("pairID", json!(1), ":2: pairID is no text but 1"),
    ] {
        let mut wrong = all[0].clone();
        wrong[field] = value;
        let path = write(&folder, "wrong.jsonl", &lines(&[all[0].clone(), wrong]));
        let found = refused(&format!("snli-ve:{path}"), &options);
        assert!(found.starts_with(&path) && found.contains(message), "{found}: no {message}");
    }
    for (text, message) in [
        ("{}\n", ":1: gold_label is missing"),
        ("\n[1]\n", ":2: invalid length 1"),
        ("\n{\"a\": \n", ":2: EOF while parsing"),
        ("\n", ": no lines"),
        (&lines(&[all[1].clone()]), ": no line has a label"),
    ] {
        let path = write(&folder, "wrong.jsonl", text);
        let found = refused(&format!("snli-ve:{path}"), &options);
        assert!(found.contains(&format!("{path}{message}")), "{found}: no {message}");
    }
    assert!(refused(&format!("snli-ve:{path}"), &Data::default()).contains("its images are not in"));
}

/// A line of NLVR2's `train.json`.
fn statement(id: &str, label: Value) -> Value {
    json!({"validation": {"45": "True"}, "sentence": "There are two dogs in all.", "left_url": "https://x/l.jpg",
        "writer": 158, "directory": 63, "label": label, "query": "dogs", "right_url": "https://x/r.jpg",
        "identifier": id, "synset": "dog"})
}

#[test]
fn nlvr2_gives_pairs() {
    let files = ["train-7-3-img0.png", "train-7-3-img1.png", "train-9-0-img0.png"];
    let stated = [
        statement("train-7-3-0", json!("True")),
        statement("train-7-3-1", json!("False")),
        statement("train-9-0-1", json!(true)),
    ];
    // Flat, and as in the archive.
    for below in ["", "63/", "train/", "train/63/"] {
        let paths = files.map(|file| format!("images/{below}{file}"));
        let folder = folder("nlvr2", &paths.each_ref().map(String::as_str));
        let path = write(&folder, "train.json", &lines(&stated));
        let options = Data { images: folder.join("images"), ..Data::default() };
        let source = opened(&format!("nlvr2:{path}"), &options);
        assert_eq!((source.images(), labels(&*source)), (2, vec!["true".into(), "false".into()]));
        let found = read(&*source);
        let described: Vec<_> = found.iter().flatten().map(|(key, _, labels)| (key, labels.class.as_deref())).collect();
        assert_eq!(
            described,
            [(&"train-7-3-0".to_owned(), Some("true")), (&"train-7-3-1".to_owned(), Some("false"))],
            "{below}"
        );
        assert_eq!(found[2].as_ref().unwrap_err().kind, FaultKind::MissingFile);
        let (mut ledger, mut sizes) = (Ledger::new(1.0), Vec::new());
        read_batches(&*source, &test_source::model(8), &Data::default(), &mut ledger, 8, |batch| {
            sizes.extend(batch.iter().map(|one| one.sample.image.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!((sizes, ledger.faults()), (vec![2 * 8 * 8 * 3; 2], 1));
    }
    let folder = folder("nlvr2-wrong", &["dev-1-0-img0.png"]);
    let mut nowhere = statement("dev-1-0-0", json!("True"));
    nowhere.as_object_mut().unwrap().remove("directory");
    let path = write(&folder, "dev.json", &lines(&[nowhere]));
    assert_eq!(read(&*opened(&format!("nlvr2:{path}"), &Data::default())).len(), 1);
    for (field, value, message) in [
        ("identifier", json!("dev-1-0"), ":1: identifier is 'dev-1-0', not SPLIT-SET-PAIR-SENTENCE"),
        ("identifier", json!(null), ":1: identifier is missing"),
        ("label", json!("yes"), ":1: label is 'yes', neither True nor False"),
        ("label", json!(null), ":1: label is missing"),
        ("sentence", json!(null), ":1: sentence is missing"),
        ("directory", json!([]), ":1: directory is no id but []"),
    ] {
        let mut wrong = statement("dev-1-0-0", json!("True"));
        wrong[field] = value;
        let path = write(&folder, "wrong.json", &lines(&[wrong]));
        let found = refused(&format!("nlvr2:{path}"), &Data::default());
        assert!(found.starts_with(&path) && found.contains(message), "{found}: no {message}");
    }
}
