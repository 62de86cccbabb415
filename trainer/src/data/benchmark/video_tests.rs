//! Kinetics and MSR-VTT on small files of their forms.

use super::*;
use crate::data::test_source::gif;
use crate::data::{FaultKind, Raw};
use crate::test_folder;
use crate::test_support::TestFolder;
use serde_json::{Value, json};

/// A folder of small clips.
fn folder(name: &str, clips: &[&str]) -> TestFolder {
    let folder = test_folder(name);
    for clip in clips {
        let path = folder.join(clip);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, gif(&[[1; 3], [2; 3]])).unwrap();
    }
    folder
}

fn write(folder: &TestFolder, name: &str, text: &str) -> String {
    std::fs::write(folder.join(name), text).unwrap();
    folder.join(name).display().to_string()
}

fn options(split: &str) -> Data {
    Data { frames: 2, split: split.into(), ..Data::default() }
}

fn opened(name: &str, options: &Data) -> Result<Arc<dyn Source>> {
    Ok(super::open(name, options, &Tools::on_path(""))?.unwrap())
}

fn refused(name: &str, options: &Data) -> String {
    opened(name, options).err().unwrap().to_string()
}

/// Key, captions and class of every sample, or the kind of its fault.
fn samples(source: &dyn Source) -> Vec<std::result::Result<(String, Vec<String>, Option<String>), FaultKind>> {
    let part = source.part(0).ok().unwrap();
    let described = |raw: Raw| {
        assert_eq!(raw.images.len(), 2);
        (raw.key, raw.captions, raw.labels.class)
    };
    (0..part.len()).map(|index| part.sample(index).map(described).map_err(|fault| fault.kind)).collect()
}

const KINETICS: &str = "label,youtube_id,time_start,time_end,split\n\
    testifying,---QUuC4vJs,84,94,validate\n\
    \"eating, spaghetti\",--3ouPhoy2A,20,30,validate\n\
    dribbling basketball,-0MfkVpvCrs,3,13,train\n";

#[test]
fn kinetics_finds_its_videos_by_id_and_times() {
    let folder = folder("kinetics", &["val/--3ouPhoy2A_000020_000030.gif", "-0MfkVpvCrs_000003_000013.gif"]);
    let path = write(&folder, "val.csv", KINETICS);
    let name = format!("kinetics:{path}");
    let source = opened(&name, &options("")).unwrap();
    let clip = |key: &str, label: &str| Ok((key.to_owned(), vec![label.to_owned()], Some(label.to_owned())));
    let [spaghetti, basketball] = [
        clip("--3ouPhoy2A_000020_000030", "eating, spaghetti"),
        clip("-0MfkVpvCrs_000003_000013", "dribbling basketball"),
    ];
    assert_eq!(samples(source.as_ref()), [Err(FaultKind::MissingFile), spaghetti.clone(), basketball.clone()]);
    let labels: Vec<String> = source.classes().unwrap().into_iter().map(|class| class.label).collect();
    assert_eq!(labels, ["dribbling basketball", "eating, spaghetti", "testifying"]);
    assert_eq!(samples(opened(&name, &options("train")).unwrap().as_ref()), [basketball]);
    assert!(refused(&name, &options("test")).contains("no row is of split 'test'; there are train, validate"));
    assert!(refused(&name, &Data::default()).contains("these are videos: say with --video or data.frames"));

    let images = folder.join("val");
    let source = opened(&name, &Data { images: images.clone(), ..options("") }).unwrap();
    assert_eq!(samples(source.as_ref())[1], spaghetti);
    std::fs::remove_file(images.join("--3ouPhoy2A_000020_000030.gif")).unwrap();
    let wrong = refused(&name, &Data { images, ..options("") });
    assert!(wrong.contains("its clips are not in '") && wrong.contains("---QUuC4vJs_000084_000094.mp4"), "{wrong}");
}

#[test]
fn malformed_kinetics_is_named_by_file_line_and_field() {
    let folder = folder("kinetics-wrong", &[]);
    for (from, to, message) in [
        ("youtube_id", "id", ":1: no column 'youtube_id' in the header [label, id, time_start, time_end, split]"),
        (",84,", ",soon,", ":2: the field 'time_start' is no number of seconds but 'soon'"),
        (",20,30,validate", ",20", ":3: the field 'split' is missing"),
        ("--3ouPhoy2A", "", ":3: the field 'youtube_id' is missing"),
        (&KINETICS[KINETICS.find('\n').unwrap()..], "\n", ":1: no rows under the header"),
    ] {
        let path = write(&folder, "wrong.csv", &KINETICS.replacen(from, to, 1));
        let found = refused(&format!("kinetics:{path}"), &options(""));
        assert!(found.starts_with(&path) && found.contains(message), "{found}: no {message}");
    }
    assert!(refused("kinetics:nowhere.csv", &options("")).starts_with("nowhere.csv: No such file"));
}

/// MSR-VTT's `videodatainfo.json`, shortened.
fn msr_vtt() -> Value {
    let video = |id: u64, split: &str| {
        json!({"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "video_id": format!("video{id}"),
            "start time": 137.72, "end time": 149.44, "split": split, "id": id})
    };
    let sentence = |id: u64, video: u64, caption: &str| json!({"caption": caption, "video_id": format!("video{video}"), "sen_id": id});
    json!({
        "info": {"contributor": "Microsoft MSM group", "version": "1.0"},
        "videos": [video(0, "train"), video(6513, "validate"), video(7010, "test"), video(7011, "test")],
        "sentences": [
            sentence(0, 7010, "a woman is singing"), sentence(1, 0, "a car is shown"), sentence(2, 7010, "a girl sings"),
        ],
    })
}

#[test]
fn msr_vtt_gives_every_sentence_of_a_video_of_the_split() {
    let folder = folder("msr-vtt", &["videos/video7010.gif", "videos/video7011.gif"]);
    let name = format!("msrvtt:{}", write(&folder, "videodatainfo.json", &msr_vtt().to_string()));
    let source = opened(&name, &options("test")).unwrap();
    assert!(source.captions_are_exclusive() && source.classes().is_none());
    let first = ("video7010".to_owned(), vec!["a woman is singing".to_owned(), "a girl sings".into()], None);
    assert_eq!(samples(source.as_ref()), [Ok(first), Err(FaultKind::MissingCaption)]);
    assert_eq!(samples(opened(&name, &options("train+test")).unwrap().as_ref())[0], Err(FaultKind::MissingFile));
    let wrong = refused(&name, &options(""));
    assert!(wrong.contains("its clips are not in") && wrong.contains("video0.mp4"), "{wrong}");
    let wrong = refused(&name, &options("val"));
    assert!(wrong.contains("no video is in split 'val'; there are test, train, validate"), "{wrong}");
}

#[test]
fn malformed_msr_vtt_is_named_by_file_record_and_field() {
    let folder = folder("msr-vtt-wrong", &[]);
    let set = |pointer: &str, value: Value| {
        let mut file = msr_vtt();
        *file.pointer_mut(pointer).unwrap() = value;
        file.to_string()
    };
    for (text, message) in [
        ("{\"videos\": [}".to_owned(), "expected value at line 1 column 13"),
        (json!({"videos": msr_vtt()["videos"]}).to_string(), "no list 'sentences'; a file of MSR-VTT has"),
        (set("/videos", json!([])), "the list 'videos' is empty"),
        (set("/videos/1/video_id", json!(null)), "videos[1].video_id is missing"),
        (set("/videos/1/video_id", json!("video0")), "videos[1].video_id is the id of a video before it"),
        (set("/videos/2/split", json!(3)), "videos[2].split is no text but 3"),
        (set("/sentences/1/video_id", json!("video9")), "sentences[1].video_id is video9, the id of no video"),
        (set("/sentences/2/caption", json!(["x"])), "sentences[2].caption is no text but [\"x\"]"),
    ] {
        let path = write(&folder, "wrong.json", &text);
        let found = refused(&format!("msrvtt:{path}"), &options("train"));
        assert!(found.starts_with(&format!("{path}: ")) && found.contains(message), "{found}: no {message}");
    }
}
