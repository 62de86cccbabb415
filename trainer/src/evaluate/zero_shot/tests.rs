use super::*;
use crate::model_folder::{ModelFolder, test_model};
use crate::test_folder;
use engine::{DType, Workspace};

fn class(label: &str, name: &str) -> Class {
    Class { label: label.into(), name: name.into() }
}

#[test]
fn a_template_has_a_place_for_the_name() {
    let folder = test_folder("templates");
    let path = folder.join("templates.txt");
    std::fs::write(&path, "a photo of a {}.\r\n\nart of the {}.\n").unwrap();
    assert_eq!(read_templates(&path).unwrap(), ["a photo of a {}.", "art of the {}."]);
    std::fs::write(&path, "a photo of a {}.\n\na photo of it.\n").unwrap();
    let error = read_templates(&path).unwrap_err().to_string();
    assert!(error.contains("templates.txt:3: no {} where the name"), "{error}");
    std::fs::write(&path, " \n").unwrap();
    assert!(read_templates(&path).unwrap_err().to_string().contains("no lines"));
}

#[test]
fn a_class_is_the_unit_mean_of_its_templates() {
    let folder = test_folder("templates-mean");
    test_model(&folder, 3);
    let ModelFolder { model, tokenizer, queue } = ModelFolder::open(&folder, DType::F32).unwrap();
    let mut evaluator = Evaluator::new(&model, &tokenizer, &queue, &Workspace::new(), 2).unwrap();
    let width = evaluator.width();
    let names = ["cat", "blue dog", "bird"];
    let features = class_features(&mut evaluator, &names, &["a red {}".into(), "{} runs".into()]).unwrap();
    assert_eq!(features.len(), names.len() * width);
    for (name, row) in names.iter().zip(features.chunks(width)) {
        let texts = evaluator.text_features(&[format!("a red {name}"), format!("{name} runs")]).unwrap();
        let mean: Vec<f32> = (0..width).map(|column| texts[column] + texts[width + column]).collect();
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(row.iter().zip(&mean).all(|(found, sum)| (found - sum / norm).abs() < 1e-6), "{name}");
    }
    let alone = class_features(&mut evaluator, &names, &["{}".into()]).unwrap();
    let texts = evaluator.text_features(&names).unwrap();
    assert!(alone.iter().zip(texts).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn classes_come_from_a_list_a_subset_or_the_samples() {
    let folder = test_folder("subset");
    let subset = folder.join("subset.txt");
    std::fs::write(&subset, "n3\nn1\n").unwrap();
    let list = || Some(vec![class("n1", "tench"), class("n2", "goldfish"), class("n3", "tench")]);
    let names =
        |candidates: &Candidates| candidates.classes.iter().map(|class| class.label.clone()).collect::<Vec<_>>();

    let mut all = Candidates::new(list(), None).unwrap();
    assert_eq!([all.place("n3", "k").unwrap(), all.place("n2", "k").unwrap()], [Some(2), Some(1)]);
    let error = all.place("n9", "n9/a.jpg").unwrap_err().to_string();
    assert_eq!(error, "n9/a.jpg: its class 'n9' is not in the list of classes");

    let mut some = Candidates::new(list(), Some(&subset)).unwrap();
    assert_eq!(names(&some), ["n1", "n3"]);
    assert_eq!([some.place("n3", "k").unwrap(), some.place("n2", "k").unwrap()], [Some(1), None]);
    assert!(some.place("n9", "k").is_err());

    let mut seen = Candidates::new(None, None).unwrap();
    assert_eq!(["a", "b", "a"].map(|label| seen.place(label, "k").unwrap()), [Some(0), Some(1), Some(0)]);
    assert_eq!(seen.classes, [class("a", "a"), class("b", "b")]);

    let mut named = Candidates::new(None, Some(&subset)).unwrap();
    assert_eq!(names(&named), ["n3", "n1"]);
    assert_eq!([named.place("n1", "k").unwrap(), named.place("other", "k").unwrap()], [Some(1), None]);

    std::fs::write(&subset, "n3\nn4\n").unwrap();
    let error = Candidates::new(list(), Some(&subset)).unwrap_err().to_string();
    assert!(error.contains("subset.txt:2: 'n4' is the label of no class"), "{error}");
}

#[test]
fn a_class_counts_its_own_images() {
    let classes = [class("a", "A"), class("b", "B"), class("c", "C")];
    let found = per_class(&classes, &[0, 2, 0, 0, 2], &[0, 4, 7, 0, 5]);
    let row = |label: &str, name: &str, count, top1, top5| ClassFigures {
        label: label.into(),
        name: name.into(),
        count,
        top1,
        top5,
    };
    assert_eq!(found, [row("a", "A", 3, 2.0 / 3.0, 2.0 / 3.0), row("c", "C", 2, 0.0, 0.5)]);
}
