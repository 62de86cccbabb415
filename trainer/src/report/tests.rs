use super::*;
use crate::config::Config;
use crate::test_folder;

/// A disc, ring or square on white, drawn with soft edges.
fn drawing(seed: usize) -> Picture {
    let colours = [[224, 60, 49], [31, 107, 192], [245, 184, 46], [60, 160, 95], [139, 87, 190], [60, 60, 66]];
    let colour = colours[seed % colours.len()];
    let mut rgb = Vec::new();
    for y in 0..48 {
        for x in 0..48 {
            let (x, y) = (f64::from(x) - 23.5, f64::from(y) - 23.5);
            let distance = match seed % 3 {
                0 => x.hypot(y) - 19.0,
                1 => (x.hypot(y) - 15.0).abs() - 5.0,
                _ => x.abs().max(y.abs()) - 16.0,
            };
            let cover = (0.5 - distance).clamp(0.0, 1.0);
            rgb.extend(colour.map(|value| (255.0 + (f64::from(value) - 255.0) * cover) as u8));
        }
    }
    Picture::from_rgb(48, 48, &rgb).unwrap()
}

/// Made-up figures with the shape of a real run's.
fn sample() -> ReportData {
    let config = Config::default();
    let noise = |step: u64, salt: u64| ((step * 7919 + salt * 104_729) % 1009) as f64 / 1009.0 - 0.5;
    let steps = (0..1000)
        .map(|step| {
            let t = step as f64 / 1000.0;
            let contrastive_loss = 0.5 + 4.3 * (-5.0 * t).exp() + 0.25 * noise(step, 1);
            let caption_loss = 0.8 + 7.4 * (-9.0 * t).exp() + 0.3 * noise(step, 2);
            StepRecord {
                step,
                loss: contrastive_loss + 2.0 * caption_loss,
                contrastive_loss,
                caption_loss,
                learning_rate: crate::schedule::learning_rate(&config.schedule, 1e-3, step),
                grad_norm: 0.8 + 14.0 * (-12.0 * t).exp() + 0.7 * noise(step, 3) + if step == 640 { 90.0 } else { 0.0 },
                logit_scale: (14.3f64).ln() + 1.1 * t,
                images_per_second: 260.0 + 24.0 * noise(step, 4),
                tokens_per_second: 2400.0,
                gflops: 130.0 + 12.0 * noise(step, 4),
                step_seconds: 0.49,
                outlier: step == 640,
                ..Default::default()
            }
        })
        .collect();
    let row = |set: &str, about: &str, count, top1, top5, floor, fresh| ZeroShotRow {
        set: set.into(),
        about: about.into(),
        count,
        classes: if fresh { 215 } else { 1914 },
        top1,
        top5,
        floor,
        seen: if fresh { Seen::Nothing } else { Seen::Concepts },
    };
    let names = [
        "red circle",
        "blue ring",
        "yellow square",
        "green <circle>",
        "purple ring",
        "grey \"square\"",
        "face with tears of joy",
    ];
    let picture = |index: usize| Item::Picture(drawing(index), names[index % names.len()].into());
    let hits = |first: usize| {
        (0..5)
            .map(|rank| Hit { item: picture(first + rank), score: 0.71 - 0.06 * rank as f64, right: rank == first % 3 })
            .collect()
    };
    let recall = |at_1: f64| Recall { at_1, at_5: at_1 + 0.2, at_10: at_1 + 0.27 };
    ReportData {
        title: "CoCa on emoji".into(),
        facts: RunFacts {
            config: config.to_toml(false),
            machine: Machine::detect(),
            used: "2 threads, avx512bf16 instructions".into(),
            dtype: "bf16".into(),
            parameters: 11_843_521,
            pairs: 6726,
            pairs_per_step: 128,
            training_seconds: 502.0,
            evaluation_seconds: 31.0,
            peak_memory: 1_534_000_000,
            peak_gflops: Some(210.0),
        },
        steps,
        classes: Vec::new(),
        zero_shot: vec![
            row("noto-v1", "the older drawings", 1217, 0.612, 0.807, Some((0.33, 0.46)), false),
            row("fxemoji", "another vendor", 467, 0.584, 0.771, Some((0.37, 0.51)), false),
            row("emojione-monotone", "black and white", 1073, 0.118, 0.241, Some((0.09, 0.16)), false),
            row("fresh", "four training styles", 812, 0.263, 0.514, None, true),
        ],
        retrieval: vec![
            RetrievalRow {
                set: "noto-v1".into(),
                count: 1217,
                image_to_text: recall(0.62),
                text_to_image: recall(0.588),
                floor: Some((recall(0.345), recall(0.321))),
                seen: Seen::Concepts,
            },
            RetrievalRow {
                set: "fresh".into(),
                count: 812,
                image_to_text: recall(0.571),
                text_to_image: recall(0.55),
                floor: None,
                seen: Seen::Nothing,
            },
        ],
        caption_scores: vec![CaptionRow {
            set: "noto-v1".into(),
            count: 1217,
            exact: 0.433,
            scores: vec![("BLEU-4".into(), 0.312), ("ROUGE-L".into(), 0.571), ("CIDEr-D".into(), 1.843)],
            seen: Seen::Concepts,
        }],
        captions: (0..21)
            .map(|index| CaptionExample {
                picture: drawing(index),
                generated: names[if index % 4 == 3 { index + 2 } else { index } % names.len()].into(),
                truth: names[index % names.len()].into(),
                set: "noto-v1".into(),
                right: index % 4 != 3,
            })
            .collect(),
        queries: vec![
            QueryExample { query: Item::Text("red circle".into()), hits: hits(0) },
            QueryExample { query: Item::Text("something to eat, <b>warm</b> and yellow".into()), hits: hits(2) },
            QueryExample {
                query: picture(4),
                hits: (0..5)
                    .map(|rank| Hit { item: Item::Text(names[rank + 1].into()), score: 0.5, right: rank == 0 })
                    .collect(),
            },
        ],
        memory: vec![
            ("activations".into(), 912 << 20),
            ("parameters".into(), 45 << 20),
            ("optimizer state".into(), 90 << 20),
        ],
        profile: vec![ProfileRow {
            name: "matmul".into(),
            calls: 412,
            milliseconds: 301.2,
            share: 0.62,
            gflops: 168.0,
            gbytes: 11.2,
            roofline_percent: 80.0,
        }],
        notes: vec!["3 of 6729 pairs were skipped: 2 corrupt images, 1 empty caption.".into()],
    }
}

/// Checks that tags are closed in order, and returns the names of all.
fn tags(page: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let body = page.split_once("</style>").unwrap().1;
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("a tag without end: {part}"));
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap().to_owned();
        if tag.starts_with('/') {
            let expected = if open.is_empty() { None } else { open.pop() };
            if name != "head" && name != "html" {
                assert_eq!(expected.as_ref(), Some(&name), "closing order near {part}");
            }
        } else if !tag.ends_with('/') && name != "img" {
            open.push(name.clone());
        }
        all.push(name);
    }
    all
}

#[test]
fn the_page_is_complete_in_itself_and_well_formed() {
    let page = page::render(&sample());
    let tags = tags(&page);
    assert!(!tags.iter().any(|name| ["script", "link", "iframe", "b>", "object"].contains(&name.as_str())));
    for outside in ["http:", "https:", "@import", "url(h", "url('", "src=\"/", "href="] {
        assert!(!page.contains(outside), "the page refers to something outside: {outside}");
    }
    assert_eq!(page.matches("<img ").count(), page.matches("src=\"data:image/png;base64,").count());
    assert!(!page.contains("NaN") && !page.contains("inf,"));
    assert_eq!(tags.iter().filter(|name| *name == "figure").count(), 2 * 5);
}

#[test]
fn what_users_wrote_is_shown_not_obeyed() {
    let page = page::render(&sample());
    assert!(page.contains("&lt;b&gt;warm&lt;/b&gt;") && !page.contains("<b>warm"));
    assert!(page.contains("green &lt;circle&gt;") && page.contains("grey &quot;square&quot;"));
}

#[test]
fn figures_stand_where_they_belong() {
    let page = page::render(&sample());
    for text in [
        "61.2\u{202f}%",
        "33.0\u{202f}%",
        "pixels alone 33.0\u{202f}%",
        "11\u{202f}843\u{202f}521",
        "8:22",
        "contrastive by chance: ln 128 = 4.85",
        "1 step flagged",
        "<td class=\"strong\">58.8\u{202f}%<small>32.1\u{202f}%</small></td>",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let (tables, learning) = page.split_once("<h2>Learning").unwrap();
    let (zero_shot, retrieval) = tables.split_once("<h2>Retrieval").unwrap();
    assert!(zero_shot.find("Fresh concepts").unwrap() > zero_shot.find("emojione-monotone").unwrap());
    let fresh = &retrieval[retrieval.find("Fresh concepts").unwrap()..];
    assert!(fresh.contains("57.1") && !fresh.contains("<small>"), "{fresh}");
    assert!(learning.contains("Known concepts") && !learning.contains("Fresh concepts"));
    let mut data = sample();
    data.zero_shot.truncate(1);
    data.zero_shot[0].seen = Seen::Pairs;
    data.retrieval.clear();
    data.caption_scores.clear();
    let page = page::render(&data);
    assert!(page.contains("Pairs of the training data") && !page.contains("never seen in training"));
}

#[test]
fn a_task_shows_its_head_and_the_losses_that_it_has() {
    let mut data = sample();
    data.zero_shot.clear();
    data.retrieval.clear();
    data.classes = vec![ClassRow {
        set: "vqa:<val>".into(),
        about: String::new(),
        count: 400,
        known: 300,
        classes: 3129,
        top1: 0.612,
        top5: 0.81,
        mean_per_class: 0.43,
        accuracy: Some(0.655),
        floor: Some(0.345),
        majority: 0.21,
        chance: 1.0 / 3129.0,
        seen: Seen::Unknown,
    }];
    for step in &mut data.steps {
        (step.class_loss, step.contrastive_loss) = (std::mem::take(&mut step.contrastive_loss), 0.0);
    }
    let page = page::render(&data);
    tags(&page);
    for text in [
        "<h2>Classification",
        "vqa:&lt;val&gt;",
        "61.2",
        "21.0\u{202f}%",
        "75.0\u{202f}%",
        "among 3129 classes",
        "VQA accuracy 65.5",
        "text alone 34.5",
        "class from",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let (figures, _) = page.split_once("<h2>How it was made").unwrap();
    for text in ["contrastive", "Similarity scale", "Zero-shot"] {
        assert!(!figures.contains(text), "{text}");
    }
    assert!(!page::render(&sample()).contains("<h2>Classification"));
}

#[test]
fn an_empty_run_still_makes_a_page() {
    let mut data = sample();
    data.steps.clear();
    data.zero_shot.clear();
    data.retrieval.clear();
    data.captions.clear();
    data.caption_scores.clear();
    data.queries.clear();
    data.memory.clear();
    data.profile.clear();
    data.notes.clear();
    let page = page::render(&data);
    tags(&page);
    assert!(!page.contains("<h2>Zero-shot") && page.contains("<h2>How it was made"));
}

#[test]
fn page_and_data_are_written() {
    let folder = test_folder("report");
    let data = sample();
    let path = write(&folder, &data).unwrap();
    assert!(path.ends_with("report.html") && path.exists());
    let json = std::fs::read(folder.join("report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<ReportData>(&json).unwrap(), data);
    assert!(write(&folder.join("nowhere"), &data).is_err());
}

/// Writes the sample page, to be looked at.
#[test]
#[ignore = "writes report.html into $COCA_TEST_ROOT"]
fn write_the_sample() {
    write(Path::new(&std::env::var("COCA_TEST_ROOT").unwrap()), &sample()).unwrap();
}
