//! Reading a whole source once, on all cores, in its own order.

use super::augment::{new_words, with_keywords};
use super::{Augmenter, Fault, Labels, Ledger, Raw, Source};
use crate::classes::Listed;
use crate::config::Data;
use crate::{Error, Result};
use engine::rng::Philox;
use model::config::CocaConfig;

/// Samples that a thread reads before they are handed on; bounds what is held in memory.
const BLOCK: usize = 64;

/// A sample for evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it is called.
    pub key: String,
    /// The model's input, u8 `[images, size, size, 3]`, by the evaluation preprocessing: [`Source::images`] one after another.
    pub image: Vec<u8>,
    /// Its captions, at least one.
    pub captions: Vec<String>,
}

/// Reads every sample: `each` on all cores, then `then` with what it made, or with the fault, in the source's order.
pub(super) fn for_each<T: Send>(
    source: &dyn Source,
    each: impl Fn(Raw) -> std::result::Result<T, Fault> + Sync,
    mut then: impl FnMut(std::result::Result<T, Fault>) -> Result<()>,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    for part in 0..source.parts() {
        let part = match source.part(part) {
            Ok(part) => part,
            Err(fault) => {
                then(Err(fault))?;
                continue;
            }
        };
        let make = |index: usize| part.sample(index).and_then(&each);
        for start in (0..part.len()).step_by(BLOCK * threads) {
            let end = part.len().min(start + BLOCK * threads);
            let blocks: Vec<Vec<_>> = std::thread::scope(|scope| {
                let blocks = (start..end).step_by(BLOCK).map(|first| first..end.min(first + BLOCK));
                let threads: Vec<_> = blocks.map(|block| scope.spawn(|| block.map(make).collect::<Vec<_>>())).collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(join).collect()
            });
            blocks.into_iter().flatten().try_for_each(&mut then)?;
        }
    }
    Ok(())
}

/// A sample with what its source says of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The sample.
    pub sample: Sample,
    /// Its labels.
    pub labels: Labels,
}

/// Hands every sound sample to `each`, `size` at a time (the last ones may be fewer), in the source's order; decoded on all
/// cores, so that no more than a few hundred images are held. Faulty samples go to the ledger.
///
/// # Errors
/// Too large a share is faulty, nothing is sound, the ledger cannot be written, or what `each` errs with.
pub fn read_batches(
    source: &dyn Source,
    model: &CocaConfig,
    config: &Data,
    ledger: &mut Ledger,
    size: usize,
    mut each: impl FnMut(Vec<Labelled>) -> Result<()>,
) -> Result<()> {
    let augmenter = Augmenter::evaluation(model, config);
    let make = |raw: Raw| {
        // Nothing is random in evaluation.
        let image = augmenter.images(&raw, source.images(), &mut Philox::new(0, 0))?;
        Ok(Labelled { sample: Sample { key: raw.key, image, captions: raw.captions }, labels: raw.labels })
    };
    let (mut batch, mut found) = (Vec::with_capacity(size), 0);
    for_each(source, make, |made| {
        collect(made, ledger, |sample| batch.push(sample))?;
        if batch.len() < size {
            return Ok(());
        }
        found += batch.len();
        each(std::mem::replace(&mut batch, Vec::with_capacity(size)))
    })?;
    if !batch.is_empty() {
        found += batch.len();
        each(batch)?;
    }
    finish(source, ledger, found)
}

/// All sound samples in the source's order, decoded on all cores; faulty ones go to the ledger.
///
/// # Errors
/// Too large a share is faulty, nothing is sound, or the ledger cannot be written.
pub fn read_all(source: &dyn Source, model: &CocaConfig, config: &Data, ledger: &mut Ledger) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    read_batches(source, model, config, ledger, BLOCK, |batch| {
        samples.extend(batch.into_iter().map(|labelled| labelled.sample));
        Ok(())
    })?;
    Ok(samples)
}

/// The texts on which a tokenizer is trained: every caption and, of a sample with keywords, its first caption with all
/// of them that it does not hold, in the form that training uses. Images are not decoded; faulty samples go to the ledger.
///
/// # Errors
/// As [`read_all`].
pub fn captions(source: &dyn Source, ledger: &mut Ledger) -> Result<Vec<String>> {
    let each = |raw: Raw| {
        let name = raw.captions.first().map(|name| (name, new_words(name, &raw.keywords)));
        let with = name.filter(|(_, words)| !words.is_empty()).map(|(name, words)| with_keywords(name, &words).into());
        Ok(raw.captions.into_iter().chain(with).collect::<Vec<_>>())
    };
    let mut texts = Vec::new();
    for_each(source, each, |sample| collect(sample, ledger, |sample| texts.extend(sample)))?;
    finish(source, ledger, texts.len())?;
    Ok(texts)
}

/// What is known of every sample without its images, which are not decoded; faulty samples go to the ledger.
///
/// # Errors
/// As [`read_all`].
pub fn listed(source: &dyn Source, ledger: &mut Ledger) -> Result<Vec<Listed>> {
    let mut samples = Vec::new();
    let each = |raw: Raw| Ok(Listed::new(&raw.key, &raw.captions, raw.labels));
    for_each(source, each, |sample| collect(sample, ledger, |sample| samples.push(sample)))?;
    finish(source, ledger, samples.len())?;
    Ok(samples)
}

fn collect<T>(made: std::result::Result<T, Fault>, ledger: &mut Ledger, sound: impl FnOnce(T)) -> Result<()> {
    match made {
        Ok(made) => {
            ledger.good();
            sound(made);
            Ok(())
        }
        Err(fault) => ledger.bad(fault),
    }
}

fn finish(source: &dyn Source, ledger: &Ledger, found: usize) -> Result<()> {
    ledger.judge()?;
    if found == 0 {
        return Err(Error::invalid(format!("{}: not one sound sample", source.name())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::FaultKind;
    use crate::data::test_source::{Kind, TestSource, model};

    #[test]
    fn everything_in_order_and_faults_aside() {
        let mut kinds = vec![Kind::Good; 300];
        (kinds[7], kinds[200], kinds[299]) = (Kind::Corrupt, Kind::Bomb, Kind::Bad(FaultKind::BadRow));
        let source = TestSource::new(vec![Some(kinds), None, Some(vec![Kind::Drawing; 2])]);
        let mut ledger = Ledger::new(0.05);
        let samples = read_all(&source, &model(8), &Data::default(), &mut ledger).unwrap();
        let sound = (0..300).filter(|index| ![7, 200, 299].contains(index)).map(|index| format!("0/{index}"));
        let expected: Vec<String> = sound.chain(["2/0".into(), "2/1".into()]).collect();
        assert_eq!(samples.iter().map(|sample| &sample.key).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        assert!(samples.iter().all(|sample| sample.image.len() == 192 && sample.captions.len() == 2));
        assert_eq!((ledger.faults(), ledger.seen()), (4, 303));
        assert_eq!(ledger.counts()[&FaultKind::Oversized], 1);
    }

    #[test]
    fn a_picture_over_which_a_decoder_panics_is_corrupt() {
        let source = TestSource::new(vec![Some(vec![Kind::Good, Kind::Panics, Kind::Good])]);
        let mut ledger = Ledger::new(1.0);
        let samples = read_all(&source, &model(8), &Data::default(), &mut ledger).unwrap();
        assert_eq!(samples.iter().map(|sample| sample.key.as_str()).collect::<Vec<_>>(), ["0/0", "0/2"]);
        assert_eq!(ledger.summary(), "1 corrupt_image");
    }

    #[test]
    fn images_of_a_sample_lie_one_after_another() {
        let mut source = TestSource::new(vec![Some(vec![Kind::Two, Kind::Good, Kind::Two])]);
        source.images = 2;
        let mut ledger = Ledger::new(1.0);
        let samples = read_all(&source, &model(8), &Data::default(), &mut ledger).unwrap();
        assert_eq!(samples.iter().map(|sample| sample.key.as_str()).collect::<Vec<_>>(), ["0/0", "0/2"]);
        assert!(samples.iter().all(|sample| sample.image == [[9; 192], [7; 192]].concat()));
        assert_eq!(ledger.summary(), "1 wrong_image_count");
    }

    #[test]
    fn batches_are_whole_but_for_the_last() {
        let mut kinds = vec![Kind::Drawing; 11];
        kinds[3] = Kind::Corrupt;
        let mut sizes = Vec::new();
        let each = |batch: Vec<Labelled>| {
            sizes.push(batch.len());
            if sizes.len() == 3 { Err(Error::invalid("enough")) } else { Ok(()) }
        };
        let source = TestSource::new(vec![Some(kinds)]);
        let read = read_batches(&source, &model(8), &Data::default(), &mut Ledger::new(1.0), 4, each);
        assert!(read.unwrap_err().to_string().contains("enough"));
        assert_eq!(sizes, [4, 4, 2]);
    }

    #[test]
    fn captions_come_with_the_keyword_form() {
        let source = TestSource::all_good(&[2]);
        let expected =
            ["caption of 0/0", "another of 0/0", "caption of 0/0 (one, two)", "caption of 0/1", "another of 0/1"];
        assert_eq!(captions(&source, &mut Ledger::new(0.0)).unwrap(), expected);
    }

    #[test]
    fn nothing_sound_is_an_error() {
        for parts in [vec![], vec![Some(vec![])], vec![None], vec![Some(vec![Kind::Corrupt; 3])]] {
            let source = TestSource::new(parts);
            assert!(read_all(&source, &model(8), &Data::default(), &mut Ledger::new(1.0)).is_err());
        }
        let source = TestSource::new(vec![Some(vec![Kind::Bad(FaultKind::BadUtf8)])]);
        assert!(captions(&source, &mut Ledger::new(1.0)).is_err());
    }
}
