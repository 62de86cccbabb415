use super::*;
use crate::data::test_source::{Kind, TestSource, model};
use crate::data::{FaultKind, Part};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::train(["caption of another"; 9], 530).unwrap()));

fn config(size: usize, workers: usize, shuffle: bool, window: usize) -> Config {
    let mut config = Config::default();
    config.run.seed = 5;
    config.batch.size = size;
    (config.data.workers, config.data.shuffle, config.data.shuffle_buffer) = (workers, shuffle, window);
    config.data.prefetch = 2;
    config
}

fn start(source: &TestSource, config: &Config, limit: f64, from: Position) -> Stream {
    let source = Arc::new(source.clone());
    Stream::start(source, TOKENIZER.clone(), None, &model(8), config, Ledger::new(limit), from).unwrap()
}

fn batches(source: &TestSource, config: &Config, from: Position, count: usize) -> Vec<Batch> {
    let mut stream = start(source, config, 1.0, from);
    (0..count).map(|_| stream.next().unwrap()).collect()
}

fn keys(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(|batch| batch.keys.clone()).collect()
}

#[test]
fn an_epoch_has_every_sample_once_and_epochs_differ() {
    for (lengths, window) in [(&[30][..], 4), (&[7, 0, 9, 5, 9], 12), (&[10, 10, 10], 1), (&[10, 10, 10], 1000)] {
        let source = TestSource::all_good(lengths);
        let keys = keys(&batches(&source, &config(10, 2, true, window), Position::default(), 6));
        let (first, second) = keys.split_at(30);
        let sorted: Vec<BTreeSet<_>> = [first, second].map(|keys| keys.iter().collect()).into();
        assert_eq!(sorted[0].len(), 30, "{lengths:?}");
        assert_eq!(sorted[0], sorted[1]);
        assert_ne!(first, second);
        assert_ne!(first, batches_in_order(lengths));
    }
}

/// Keys of an epoch in the order of the source.
fn batches_in_order(lengths: &[usize]) -> Vec<String> {
    let part = |(part, &length): (usize, &usize)| (0..length).map(move |index| format!("{part}/{index}"));
    lengths.iter().enumerate().flat_map(part).collect()
}

#[test]
fn unshuffled_data_keeps_its_order_across_epochs() {
    let lengths = [3, 0, 4];
    let made = batches(&TestSource::all_good(&lengths), &config(5, 3, false, 2), Position::default(), 7);
    assert_eq!(keys(&made), [(); 5].map(|()| batches_in_order(&lengths)).concat());
    let positions: Vec<(u64, u64)> = made.iter().map(|batch| (batch.position.epoch, batch.position.slot)).collect();
    assert_eq!(positions, [(0, 5), (1, 3), (2, 1), (2, 6), (3, 4), (4, 2), (4, 7)]);
    let image = 8 * 8 * 3;
    assert!(made.iter().all(|batch| batch.images.len() == 5 * image && batch.texts.len() == 5));
    let ends = |text: &Vec<i32>| (text[0], text[text.len() - 1]) == (TOKENIZER.start(), TOKENIZER.end());
    assert!(made.iter().all(|batch| batch.texts.iter().all(ends)));
}

#[test]
fn images_of_a_sample_lie_one_after_another() {
    let mut source = TestSource::new(vec![Some(vec![Kind::Two, Kind::Good, Kind::Two])]);
    source.images = 2;
    let mut config = config(2, 2, false, 4);
    config.augmentation.kind = crate::config::AugmentKind::None;
    let mut stream = start(&source, &config, 1.0, Position::default());
    let batch = stream.next().unwrap();
    assert_eq!(batch.keys, ["0/0", "0/2"]);
    assert_eq!(batch.images, [[9; 192], [7; 192]].repeat(2).concat());
    assert_eq!(stream.ledger().summary(), "1 wrong_image_count");
}

#[test]
fn texts_keep_to_the_context() {
    let mut model = model(8);
    model.text.context_length = 4;
    let source = Arc::new(TestSource::all_good(&[9]));
    let config = config(9, 1, true, 9);
    let from = Position::default();
    let mut stream = Stream::start(source, TOKENIZER.clone(), None, &model, &config, Ledger::new(0.0), from).unwrap();
    assert!(stream.next().unwrap().texts.iter().all(|text| text.len() == 4 && text[3] == TOKENIZER.end()));
}

#[test]
fn few_parts_are_open_at_a_time() {
    let source = TestSource::all_good(&[10; 50]);
    let mut config = config(10, 1, true, 25);
    config.data.prefetch = 1;
    batches(&source, &config, Position::default(), 1);
    // One batch is read and one prepared: the first window, of three parts.
    assert!(source.opened.load(Ordering::Relaxed) <= 3, "{:?}", source.opened);
}

#[test]
fn every_kind_of_fault_is_skipped_and_counted() {
    use FaultKind::*;
    let bad = [MissingFile, MissingImage, MissingCaption, EmptyCaption, BadUtf8, BadRow, BrokenArchive];
    let mut kinds = vec![Kind::Good, Kind::Corrupt, Kind::Drawing, Kind::Bomb];
    kinds.extend(bad.map(Kind::Bad));
    kinds.push(Kind::Good);
    let source = TestSource::new(vec![Some(kinds), None]);
    let mut stream = start(&source, &config(3, 2, false, 4), 1.0, Position::default());
    for epoch in 1..4 {
        assert_eq!(stream.next().unwrap().keys, ["0/0", "0/2", "0/11"]);
        // What follows the last sound sample is met by the next batch.
        let met = 9 * epoch + epoch - 1;
        assert_eq!((stream.ledger().faults(), stream.ledger().seen()), (met, met + 3 * epoch));
    }
    let counts = stream.ledger().counts();
    assert!(bad.iter().chain(&[CorruptImage, Oversized]).all(|kind| counts[kind] >= 3), "{counts:?}");
}

#[test]
fn a_share_past_the_limit_stops_the_stream_at_the_end_of_an_epoch() {
    let mut kinds = vec![Kind::Good; 8];
    kinds[3] = Kind::Corrupt;
    let mut stream = start(&TestSource::new(vec![Some(kinds)]), &config(7, 2, true, 4), 0.1, Position::default());
    stream.next().unwrap();
    let text = stream.next().unwrap_err().to_string();
    assert!(text.contains("1 of 8 samples are faulty (1 corrupt_image)"), "{text}");
}

#[test]
fn nothing_sound_is_an_error_and_no_endless_loop() {
    for parts in [vec![], vec![Some(vec![])], vec![None, None], vec![Some(vec![Kind::Bomb, Kind::Corrupt])]] {
        for slot in [0, 1] {
            let source = TestSource::new(parts.clone());
            let mut stream = start(&source, &config(2, 2, true, 4), 1.0, Position { epoch: 0, slot });
            assert!(stream.next().is_err(), "{parts:?}");
        }
    }
}

#[test]
fn the_rest_of_an_epoch_is_not_judged() {
    let source = TestSource::new(vec![Some(vec![Kind::Good, Kind::Corrupt])]);
    let mut stream = start(&source, &config(1, 1, false, 4), 0.6, Position { epoch: 0, slot: 1 });
    assert_eq!(stream.next().unwrap().position, Position { epoch: 1, slot: 1 });
    // Two of three, once an epoch was seen whole.
    assert!(stream.next().unwrap_err().to_string().contains("2 of 3 samples are faulty"));
}

/// Panics at one sample, as a decoder with a bug would.
#[derive(Debug)]
struct Panics(TestSource);

impl Source for Panics {
    fn name(&self) -> String {
        "panics".into()
    }
    fn parts(&self) -> usize {
        1
    }
    fn part(&self, part: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(PanickingPart(self.0.part(part)?)))
    }
}

struct PanickingPart(Arc<dyn Part>);

impl Part for PanickingPart {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, index: usize) -> std::result::Result<crate::data::Raw, Fault> {
        assert_ne!(index, 5, "a bug");
        self.0.sample(index)
    }
}

#[test]
fn a_picture_over_which_a_decoder_panics_is_left_out() {
    let folder = crate::test_folder("stream-panics");
    let source = Arc::new(TestSource::new(vec![Some(vec![Kind::Good, Kind::Panics, Kind::Good])]));
    let (config, ledger) = (config(2, 2, false, 4), Ledger::in_folder(&folder, 1.0).unwrap());
    let from = Position::default();
    let mut stream = Stream::start(source, TOKENIZER.clone(), None, &model(8), &config, ledger, from).unwrap();
    assert_eq!(keys(&[stream.next().unwrap(), stream.next().unwrap()]), ["0/0", "0/2", "0/0", "0/2"]);
    let text = std::fs::read_to_string(folder.join(crate::data::LEDGER)).unwrap();
    let start = r#"{"kind":"corrupt_image","key":"0/1","detail":"a decoder panicked: "#;
    assert!(text.starts_with(start) && text.lines().count() == 1, "{text}");
}

#[test]
fn a_dead_worker_is_an_error() {
    for workers in [1, 3] {
        let source = Arc::new(Panics(TestSource::all_good(&[9])));
        let config = config(3, workers, false, 4);
        let from = Position::default();
        let ledger = Ledger::new(0.0);
        let mut stream = Stream::start(source, TOKENIZER.clone(), None, &model(8), &config, ledger, from).unwrap();
        stream.next().unwrap();
        let text = stream.next().unwrap_err().to_string();
        assert!(text.contains("panics: a thread that reads the data died"), "{text}");
        assert!(stream.next().is_err(), "it stays dead");
    }
}

#[test]
#[ignore = "a measurement"]
fn speed_of_the_stream() {
    let source = crate::data::open("emoji", &Default::default()).unwrap();
    for (size, workers) in [(64, 1), (64, 2), (32, 1), (112, 1)] {
        let config = config(128, workers, true, 4096);
        let from = Position::default();
        let (source, tokenizer) = (source.clone(), TOKENIZER.clone());
        let mut stream = Stream::start(source, tokenizer, None, &model(size), &config, Ledger::new(0.0), from).unwrap();
        stream.next().unwrap();
        let start = std::time::Instant::now();
        (0..20).for_each(|_| drop(stream.next().unwrap()));
        let pairs = start.elapsed().as_secs_f64() * 1e6 / (20.0 * 128.0);
        println!("side {size}, {workers} workers: {pairs:.1} us a pair");
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Good),
        3 => Just(Kind::Drawing),
        1 => Just(Kind::Corrupt),
        1 => Just(Kind::Bad(FaultKind::EmptyCaption)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn workers_and_restarts_change_nothing(
        parts in prop::collection::vec(prop::option::weighted(0.9, prop::collection::vec(kind(), 0..12)), 1..5),
        (size, window, shuffle) in (1usize..6, 1usize..20, any::<bool>()),
        (cut, workers) in (0usize..6, 1usize..5),
    ) {
        let mut parts = parts;
        parts.push(Some(vec![Kind::Good]));
        let source = TestSource::new(parts);
        let whole = batches(&source, &config(size, 1, shuffle, window), Position::default(), 7);
        let config = config(size, workers, shuffle, window);
        prop_assert_eq!(&batches(&source, &config, Position::default(), 7), &whole);
        let rest = batches(&source, &config, whole[cut].position, 6 - cut);
        prop_assert_eq!(&rest, &whole[cut + 1..]);
    }
}
