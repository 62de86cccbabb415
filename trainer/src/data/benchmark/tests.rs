use super::*;
use crate::data::test_source::png;
use crate::data::{FaultKind, Raw};
use crate::test_folder;
use crate::test_support::TestFolder;
use serde_json::{Value, json};

mod understanding;

/// A folder of images.
fn folder(name: &str, images: &[&str]) -> TestFolder {
    let folder = test_folder(name);
    for image in images {
        let path = folder.join(image);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png(4, 3)).unwrap();
    }
    folder
}

fn write(folder: &TestFolder, name: &str, text: &str) -> String {
    std::fs::write(folder.join(name), text).unwrap();
    folder.join(name).display().to_string()
}

fn opened(name: &str, options: &Data) -> Arc<dyn Source> {
    super::open(name, options, &Tools::on_path("")).unwrap().unwrap()
}

fn refused(name: &str, options: &Data) -> String {
    super::open(name, options, &Tools::on_path("")).err().unwrap().to_string()
}

/// Key's file name, captions and domain of every sample.
fn samples(source: &dyn Source) -> Vec<(String, Vec<String>, Option<String>)> {
    let part = source.part(0).ok().unwrap();
    let described = |raw: Raw| {
        let name = Path::new(&raw.key).file_name().unwrap().to_string_lossy().into_owned();
        (name, raw.captions, raw.labels.domain)
    };
    (0..part.len()).map(|index| described(part.sample(index).unwrap())).collect()
}

/// COCO's `captions_val2014.json`, shortened.
fn coco() -> Value {
    let image = |id: u64, name: &str| {
        json!({"license": 3, "file_name": name, "coco_url": "http://images.cocodataset.org/val2014/".to_owned() + name,
            "height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", "flickr_url": "http://x.jpg", "id": id})
    };
    json!({
        "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
        "images": [image(391895, "COCO_val2014_000000391895.jpg"), image(522418, "COCO_val2014_000000522418.jpg")],
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
        "annotations": [
            {"image_id": 522418, "id": 681330, "caption": "A woman wearing a net on her head cutting a cake. "},
            {"image_id": 391895, "id": 770337, "caption": "A man with a red helmet on a small moped."},
            {"image_id": 522418, "id": 686718, "caption": "A woman cutting a large white sheet cake."},
        ],
    })
}

#[test]
fn coco_gives_every_caption_of_an_image() {
    let folder = folder("coco", &["val2014/COCO_val2014_000000391895.jpg", "val2014/COCO_val2014_000000522418.jpg"]);
    let name = format!("coco:{}", write(&folder, "captions_val2014.json", &coco().to_string()));
    let wrong = refused(&name, &Data::default());
    assert!(wrong.contains("its images are not in") && wrong.contains("--images"), "{wrong}");
    let options = Data { images: folder.join("val2014"), ..Data::default() };
    let source = opened(&name, &options);
    assert!(source.captions_are_exclusive() && source.name() == name && source.classes().is_none());
    let found = samples(source.as_ref());
    let [first, second] = &found[..] else { panic!("{found:?}") };
    assert_eq!((first.0.as_str(), first.1.len(), &first.2), ("COCO_val2014_000000391895.jpg", 1, &None));
    assert_eq!(
        second.1,
        ["A woman wearing a net on her head cutting a cake.", "A woman cutting a large white sheet cake."]
    );

    let mut fewer = coco();
    fewer["annotations"].as_array_mut().unwrap().remove(1);
    write(&folder, "captions_val2014.json", &fewer.to_string());
    std::fs::remove_file(folder.join("val2014/COCO_val2014_000000522418.jpg")).unwrap();
    let part = opened(&name, &options).part(0).ok().unwrap();
    assert_eq!(part.sample(0).unwrap_err().kind, FaultKind::MissingCaption);
    assert_eq!(part.sample(1).unwrap_err().kind, FaultKind::MissingFile);
}

#[test]
fn malformed_annotations_are_named_by_file_record_and_field() {
    let folder = folder("coco-wrong", &["COCO_val2014_000000391895.jpg"]);
    let set = |pointer: &str, value: Value| {
        let mut file = coco();
        *file.pointer_mut(pointer).unwrap() = value;
        file.to_string()
    };
    for (text, message) in [
        ("{\"images\": [}".to_owned(), "expected value at line 1 column 13"),
        ("[]\n".to_owned(), "invalid length 0"),
        (json!({"images": coco()["images"]}).to_string(), "no list 'annotations'; a file of captions has"),
        (set("/images", json!([])), "the list 'images' is empty"),
        (set("/images/1/id", json!(null)), "images[1].id is missing"),
        (set("/images/1/id", json!(391895)), "images[1].id is the id of an image before it"),
        (set("/images/0/file_name", json!(7)), "images[0].file_name is no text but 7"),
        (set("/annotations/2/caption", json!(["x"])), "annotations[2].caption is no text but [\"x\"]"),
        (set("/annotations/1/image_id", json!(5)), "annotations[1].image_id is 5, the id of no image"),
        (set("/annotations/1/image_id", json!(5.5)), "annotations[1].image_id is no id but 5.5"),
        (set("/annotations/0", json!("x")), "invalid type: string \"x\""),
    ] {
        let path = write(&folder, "wrong.json", &text);
        let found = refused(&format!("coco:{path}"), &Data::default());
        assert!(found.starts_with(&format!("{path}: ")) && found.contains(message), "{found}: no {message}");
    }
    assert!(refused("coco:nowhere.json", &Data::default()).starts_with("nowhere.json: No such file"));
    let path = write(&folder, "fine.json", &coco().to_string());
    let domain = refused(&format!("nocaps:{path}"), &Data::default());
    assert!(domain.contains("images[0].domain is missing"), "{domain}");
}

#[test]
fn nocaps_has_domains() {
    let folder = folder("nocaps", &["0013ea2087020901.jpg", "0015efcef8dc6d5d.jpg"]);
    let image = |id: u64, name: &str, domain: &str| {
        json!({"license": 0, "file_name": name.to_owned() + ".jpg", "coco_url": "https://s3.amazonaws.com/nocaps/x.jpg",
            "height": 1024, "width": 732, "date_captured": "2018-11-06 11:04:33", "open_images_id": name, "id": id,
            "domain": domain})
    };
    let file = json!({
        "licenses": [], "info": {"contributor": "nocaps team"},
        "images": [image(0, "0013ea2087020901", "near-domain"), image(1, "0015efcef8dc6d5d", "out-domain")],
        "annotations": [
            {"image_id": 0, "id": 0, "caption": "A baby is standing in front of a house."},
            {"image_id": 1, "id": 10, "caption": "A camel."},
        ],
    });
    let path = write(&folder, "nocaps_val_4500_captions.json", &file.to_string());
    let found = samples(opened(&format!("nocaps:{path}"), &Data::default()).as_ref());
    let domains: Vec<_> = found.iter().map(|(_, _, domain)| domain.as_deref()).collect();
    assert_eq!(domains, [Some("near-domain"), Some("out-domain")]);
}

#[test]
fn karpathys_files_give_a_split() {
    let sentence = |raw: &str, id: u64| json!({"tokens": raw.split(' ').collect::<Vec<_>>(), "raw": raw, "imgid": 0, "sentid": id});
    let image = |split: &str, name: &str, sentences: &[&str]| {
        let sentences: Vec<Value> = sentences.iter().zip(0..).map(|(raw, id)| sentence(raw, id)).collect();
        json!({"sentids": [0], "imgid": 0, "sentences": sentences, "split": split, "filename": name})
    };
    let mut images = vec![
        image("test", "COCO_val2014_000000391895.jpg", &["A man with a red helmet.", "A man on a moped."]),
        image("train", "1000092795.jpg", &["Two young guys."]),
        image("restval", "10002456.jpg", &["Several men in hard hats."]),
    ];
    images[0]["filepath"] = "val2014".into();
    images[0]["cocoid"] = 391895.into();
    let folder = folder("karpathy", &["val2014/COCO_val2014_000000391895.jpg", "1000092795.jpg", "10002456.jpg"]);
    let path = write(&folder, "dataset.json", &json!({"images": images, "dataset": "coco"}).to_string());
    let name = format!("karpathy:{path}");
    let split = |split: &str| Data { split: split.into(), ..Data::default() };
    let keys = |options: &Data| -> Vec<String> {
        samples(opened(&name, options).as_ref()).into_iter().map(|(key, ..)| key).collect()
    };
    assert_eq!(keys(&Data::default()), ["1000092795.jpg"]);
    assert_eq!(keys(&split("train+restval")), ["1000092795.jpg", "10002456.jpg"]);
    let test = samples(opened(&name, &split("test")).as_ref());
    assert_eq!(
        test,
        [(
            "COCO_val2014_000000391895.jpg".into(),
            vec!["A man with a red helmet.".into(), "A man on a moped.".into()],
            None
        )]
    );
    // The same images in one folder, as Flickr30K has them.
    std::fs::rename(folder.join("val2014/COCO_val2014_000000391895.jpg"), folder.join("COCO_val2014_000000391895.jpg"))
        .unwrap();
    assert_eq!(keys(&split("test")), ["COCO_val2014_000000391895.jpg"]);

    let unknown = refused(&name, &split("val"));
    assert!(unknown.contains("no image is in split 'val'; there are restval, test, train"), "{unknown}");
    for (pointer, message) in [
        ("/1/split", "images[1].split is missing"),
        ("/1/filename", "images[1].filename is missing"),
        ("/1/sentences", "images[1].sentences is missing"),
        ("/1/sentences/0/raw", "images[1].sentences[0].raw is missing"),
    ] {
        let mut wrong = Value::from(images.clone());
        *wrong.pointer_mut(pointer).unwrap() = Value::Null;
        write(&folder, "dataset.json", &json!({"images": wrong}).to_string());
        let found = refused(&name, &Data::default());
        assert!(found.contains(message), "{found}: no {message}");
    }
}

#[test]
fn folders_are_classes() {
    let folder = folder("imagenet", &["n02/deep/b.JPEG", "n01/c.png", "n02/a.jpg"]);
    std::fs::create_dir(folder.join("n00")).unwrap();
    let name = format!("imagenet:{}", folder.display());
    let described = |source: &dyn Source| {
        let part = source.part(0).ok().unwrap();
        let samples = (0..part.len()).map(|index| part.sample(index).unwrap());
        samples.map(|raw| (raw.key, raw.labels.class.unwrap(), raw.captions)).collect::<Vec<_>>()
    };
    let class = |key: &str, label: &str, name: &str| (key.to_owned(), label.to_owned(), vec![name.to_owned()]);
    let source = opened(&name, &Data::default());
    assert_eq!(
        described(source.as_ref()),
        [class("n01/c.png", "n01", "n01"), class("n02/a.jpg", "n02", "n02"), class("n02/deep/b.JPEG", "n02", "n02")]
    );
    let labels = |source: &dyn Source| -> Vec<String> {
        source.classes().unwrap().into_iter().map(|class| class.label).collect()
    };
    assert_eq!(labels(source.as_ref()), ["n00", "n01", "n02"]);

    let classes = folder.join("classes.txt");
    std::fs::write(&classes, "\u{feff}n03\ta cock\n\nn02\tgoldfish\nn01\ttench\n").unwrap();
    let options = Data { classes: classes.clone(), ..Data::default() };
    let source = opened(&name, &options);
    assert_eq!(described(source.as_ref())[1], class("n02/a.jpg", "n02", "goldfish"));
    assert_eq!(labels(source.as_ref()), ["n03", "n02", "n01"]);

    for (text, message) in [
        ("n01\ttench\n", "no label 'n02', of which there is a folder"),
        ("n01\ttench\n\nn01\tfish\n", "classes.txt:3: 'n01' is the label of a line before it"),
        ("n01\ttench\nn02\t\n", "one of them is empty"),
        ("\n", "classes.txt: no lines"),
    ] {
        std::fs::write(&classes, text).unwrap();
        let found = refused(&name, &options);
        assert!(found.contains(message), "{found}: no {message}");
    }
    assert!(
        refused(&format!("imagenet:{}/n00", folder.display()), &Data::default()).contains("no folders with images")
    );
}

#[test]
fn other_names_are_other_sources() {
    for name in ["emoji:train", "shards/{0..2}.tar::more.tar", "a.csv"] {
        assert!(super::open(name, &Data::default(), &Tools::on_path("")).unwrap().is_none(), "{name}");
    }
}
