//! Clips of every form, and videos through stand-ins for `ffmpeg` and `ffprobe`: shell scripts on a path of their own.

use super::*;
use crate::data::source::open_with;
use crate::data::test_source::{gif, model};
use crate::data::{Fingerprint, Ledger, read_all};
use crate::png_file;
use crate::test_folder;
use crate::test_support::TestFolder;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const COLOURS: [[u8; 3]; 4] = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]];

fn write(folder: &TestFolder, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A picture of 2 x 2 pixels in one colour.
fn png(colour: [u8; 3]) -> Vec<u8> {
    png_file::encode_rgb(2, 2, &colour.repeat(4)).unwrap()
}

fn options(frames: usize) -> Data {
    Data { frames, ..Data::default() }
}

fn open(folder: &TestFolder, frames: usize) -> Result<Arc<dyn Source>> {
    open_with(&folder.display().to_string(), &options(frames), &Tools::on_path(""))
}

/// The first pixel of each image as the model sees it.
fn colours(image: &[u8]) -> Vec<[u8; 3]> {
    image.chunks(8 * 8 * 3).map(|image| [image[0], image[1], image[2]]).collect()
}

/// Tools of these scripts; what `ffmpeg` is called with is in the file `calls`.
fn tools(folder: &TestFolder, ffprobe: &str, ffmpeg: &str) -> Tools {
    let note = format!("echo \"$*\" >> '{}'\n{ffmpeg}", folder.join("calls").display());
    for (name, script) in [("ffprobe", ffprobe), ("ffmpeg", &note)] {
        write(folder, &format!("bin/{name}"), format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(folder.join("bin").join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    Tools::on_path(folder.join("bin"))
}

/// A script that writes pictures of one pixel.
fn pictures(values: &[u8]) -> String {
    values.iter().map(|value| format!("printf 'P6\\n1 1\\n255\\n\\{value:03o}\\{value:03o}\\{value:03o}'\n")).collect()
}

#[test]
fn frames_are_spread_over_the_whole() {
    assert_eq!(spread(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(spread(100, 4), [12, 37, 62, 87]);
    assert_eq!((spread(5, 1), spread(2, 3), spread(1, 4)), (vec![2], vec![0, 1, 1], vec![0; 4]));
}

#[test]
fn names_are_in_the_order_of_their_numbers() {
    let mut names = ["f10.png", "f9.png", "f009.png", "e11.png", "f9a.png", "f.png", "f100000000000000000000000.png"];
    names.sort_by(|a, b| by_numbers(a, b));
    assert_eq!(
        names,
        ["e11.png", "f.png", "f9.png", "f9a.png", "f009.png", "f10.png", "f100000000000000000000000.png"]
    );
}

#[test]
fn a_folder_holds_clips_of_every_form() {
    let folder = test_folder("clips");
    for (frame, colour) in [(2, 0), (9, 1), (10, 2), (11, 3)] {
        write(&folder, &format!("a.v/frame{frame}.png"), png(COLOURS[colour]));
    }
    write(&folder, "a.v/cover.webp", "not a frame");
    write(&folder, "a.v.txt", "first\n\n second \n");
    write(&folder, "b.gif", gif(&COLOURS[..3]));
    write(&folder, "b.txt", "blinking");
    write(&folder, "poster.png", png([1; 3]));
    let source = open(&folder, 2).unwrap();
    assert_eq!((source.images(), source.classes()), (2, None));
    let samples = read_all(source.as_ref(), &model(8), &options(2), &mut Ledger::new(0.0)).unwrap();
    let [first, second] = &samples[..] else { panic!("{samples:?}") };
    assert_eq!((first.key.as_str(), &first.captions[..]), ("a.v", &["first".to_owned(), "second".into()][..]));
    assert_eq!(colours(&first.image), [COLOURS[1], COLOURS[3]]);
    assert_eq!((second.key.as_str(), colours(&second.image)), ("b.gif", vec![COLOURS[0], COLOURS[2]]));
    std::fs::remove_file(folder.join("b.txt")).unwrap();
    assert_eq!(source.part(0).unwrap().sample(1).unwrap_err().kind, FaultKind::MissingCaption);
}

#[test]
fn class_folders_give_labels_and_captions() {
    let folder = test_folder("clip-classes");
    write(&folder, "waving hand/1.gif", gif(&COLOURS[..2]));
    write(&folder, "waving hand/deep/2/000.jpg", b"jpg");
    write(&folder, "blinking/3.webp", b"webp");
    write(&folder, "blinking/3.txt", "an eye");
    let source = open(&folder, 3).unwrap();
    let part = source.part(0).unwrap();
    let described = |index| {
        let raw: Raw = part.sample(index).unwrap();
        (raw.key, raw.labels.class.unwrap(), raw.captions.concat())
    };
    let expected = [
        ("blinking/3.webp", "blinking", "an eye"),
        ("waving hand/1.gif", "waving hand", "waving hand"),
        ("waving hand/deep/2", "waving hand", "waving hand"),
    ];
    assert_eq!([0, 1, 2].map(described), expected.map(|(key, class, text)| (key.into(), class.into(), text.into())));
    let labels: Vec<String> = source.classes().unwrap().into_iter().map(|class| class.label).collect();
    assert_eq!(labels, ["blinking", "waving hand"]);
    // What is no animation shows when it is decoded.
    let frames = part.sample(0).unwrap().images;
    let RawImage::Frame(frame) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(frame.image().unwrap_err().kind, FaultKind::CorruptImage);
}

#[test]
fn what_holds_no_clips_is_named() {
    let folder = test_folder("no-clips");
    let message = |frames| open(&folder, frames).err().unwrap().to_string();
    write(&folder, "1.png", png([1; 3]));
    assert!(message(4).contains("no clip: a folder of frames (.png, .jpg, .jpeg) for each"), "{}", message(4));
    for name in ["emoji", "emoji:fresh", "coco:x.json", "imagenet:x", "table.csv"] {
        let error = open_with(name, &options(4), &Tools::on_path("")).err().unwrap().to_string();
        assert!(error.starts_with(name) && error.contains("these are pictures, and clips are asked for"), "{error}");
    }
    let nowhere = open_with("nowhere", &options(4), &Tools::on_path("")).err().unwrap().to_string();
    assert!(
        nowhere.contains("no folder of this name; clips can be .tar shards, a folder, kinetics:FILE.csv"),
        "{nowhere}"
    );
    write(&folder, "a/video.MP4", "video");
    assert!(message(4).contains("a/video.MP4 is a video: ffmpeg is not on PATH: install FFmpeg"), "{}", message(4));
}

#[test]
fn a_video_is_decoded_by_one_process() {
    let folder = test_folder("clip-video");
    write(&folder, "a.mkv", "video");
    write(&folder, "a.txt", "a film");
    let tools = tools(&folder, "echo 100,", &pictures(&[40, 80, 120]));
    let name = folder.display().to_string();
    let source = open_with(&name, &options(3), &tools).unwrap();
    let part = source.part(0).unwrap();
    assert_eq!(part.sample(0).unwrap().images.len(), 3);
    Fingerprint::of(source.as_ref()).unwrap();
    assert!(!folder.join("calls").exists(), "a video that nobody looks at is decoded");
    let samples = read_all(source.as_ref(), &model(8), &options(3), &mut Ledger::new(0.0)).unwrap();
    assert_eq!(colours(&samples[0].image), [[40; 3], [80; 3], [120; 3]]);
    let calls = std::fs::read_to_string(folder.join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 1, "{calls}");
    assert!(calls.contains("select='eq(n,16)+eq(n,50)+eq(n,83)'") && calls.contains("-frames:v 3"), "{calls}");
    let before = Fingerprint::of(source.as_ref()).unwrap();
    write(&folder, "a.mkv", "video!");
    assert_ne!(before, Fingerprint::of(source.as_ref()).unwrap());
}

#[test]
fn frames_that_a_video_does_not_have_are_the_nearest() {
    let folder = test_folder("short-video");
    write(&folder, "a.mp4", "video");
    let frames = |count: &str, values: &[u8], frames| {
        let tools = tools(&folder, &format!("echo {count}"), &pictures(values));
        let found = Player::find(&tools).unwrap().frames(&folder.join("a.mp4"), frames, 1).unwrap();
        found.iter().map(|image| image.pixels[0]).collect::<Vec<_>>()
    };
    assert_eq!(frames("2", &[10, 20], 5), [10, 10, 20, 20, 20]);
    // Its container promises more than there is.
    assert_eq!(frames("50", &[10, 20], 4), [10, 20, 20, 20]);
}

#[test]
fn videos_that_cannot_be_decoded_are_faults_that_say_why() {
    let folder = test_folder("bad-video");
    write(&folder, "a.mp4", "video");
    for (ffprobe, ffmpeg, kind, message) in [
        (
            "echo no such stream >&2; exit 1",
            "",
            FaultKind::CorruptImage,
            "ffprobe failed (exit status: 1): no such stream",
        ),
        ("echo", "", FaultKind::CorruptImage, "no video in it"),
        ("echo 9", "echo broken >&2; exit 3", FaultKind::CorruptImage, "ffmpeg failed (exit status: 3): broken"),
        ("echo 9", "", FaultKind::CorruptImage, "ffmpeg gave no frame of it"),
        ("echo 9", "echo P5", FaultKind::CorruptImage, "no picture in the form P6"),
        ("echo 9", "printf 'P6\\n2 2\\n255\\nxx'", FaultKind::CorruptImage, "last picture is not whole"),
        ("echo 9", "printf 'P6\\n4 2\\n255\\n'", FaultKind::Oversized, "4 x 2 pixels, 4 are allowed"),
        ("echo 9", "exec /bin/sleep 30", FaultKind::CorruptImage, "ffmpeg was ended after 0.5 s"),
    ] {
        let player = Player::with_limit(&tools(&folder, ffprobe, ffmpeg), Duration::from_millis(500)).unwrap();
        let fault = player.frames(&folder.join("a.mp4"), 2, 4).unwrap_err();
        assert!(fault.kind == kind && fault.detail.contains(message), "{fault:?}: no {message}");
        assert!(fault.key.ends_with("a.mp4"));
    }
}
