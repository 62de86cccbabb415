//! What a pooler sees of a set: the encoder's rows of all images of a sample one after another. Of clips also less, as a
//! control, and, if it is asked for, each row with the time of its frame added, which nothing else in a pooler tells.

use super::cache::Features;
use crate::Result;
use engine::rng::Philox;

/// Samples from which the size of the rows is taken.
const MEASURED: usize = 32;
/// Longest wave of a time, as in the Transformer: 2 pi times so many frames.
const LONGEST: f64 = 10_000.0;

/// Which frames of a clip are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// All, in their order.
    All,
    /// The middle one alone.
    Middle,
    /// All, in an order by chance that this seed and the sample give.
    Shuffled(u64),
}

/// The time of a frame as a vector: sines and cosines of ever longer waves (the Transformer's positions), as large as the rows
/// that it is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Largest value.
    pub amplitude: f32,
}

impl Time {
    /// Times with the root mean square of these rows.
    ///
    /// # Errors
    /// The features cannot be read.
    pub fn like(features: &Features) -> Result<Time> {
        let samples: Vec<usize> = (0..features.samples().len().min(MEASURED)).collect();
        let rows = features.tokens(&samples)?;
        let square = rows.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / rows.len().max(1) as f64;
        Ok(Time { amplitude: (2.0 * square).sqrt() as f32 })
    }

    /// The vector of frame `index`, as wide as a row.
    fn vector(self, index: usize, width: usize) -> Vec<f32> {
        let value = |column: usize| {
            let wave = LONGEST.powf(-((column / 2 * 2) as f64) / width as f64);
            let (sine, cosine) = (index as f64 * wave).sin_cos();
            self.amplitude * if column.is_multiple_of(2) { sine } else { cosine } as f32
        };
        (0..width).map(value).collect()
    }
}

/// The rows of a set as they are seen.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The set.
    pub features: &'a Features,
    /// What is seen of a clip.
    pub frames: Frames,
    /// Tells the frames apart.
    pub time: Option<Time>,
}

impl Rows<'_> {
    /// Rows of a sample.
    pub fn count(&self) -> usize {
        match self.frames {
            Frames::Middle => self.features.rows() / self.features.images(),
            Frames::All | Frames::Shuffled(_) => self.features.rows(),
        }
    }

    /// Rows f32 `[samples, count, width]` of some samples.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, samples: &[usize]) -> Result<Vec<f32>> {
        let (images, tokens) = (self.features.images(), self.features.tokens(samples)?);
        if (self.frames, self.time) == (Frames::All, None) || samples.is_empty() {
            return Ok(tokens);
        }
        let frame = tokens.len() / (samples.len() * images);
        let width = frame * images / self.features.rows();
        let times = |time: Time| (0..images).map(|index| time.vector(index, width)).collect::<Vec<_>>();
        let times = self.time.map(times);
        let mut seen = Vec::with_capacity(samples.len() * self.count() * width);
        for (&sample, clip) in samples.iter().zip(tokens.chunks_exact(frame * images)) {
            let mut order: Vec<usize> = (0..images).collect();
            match self.frames {
                Frames::All => {}
                Frames::Middle => order = vec![images / 2],
                Frames::Shuffled(seed) => Philox::new(seed, sample as u64).shuffle(&mut order),
            }
            for (place, &index) in order.iter().enumerate() {
                let rows = clip[index * frame..(index + 1) * frame].chunks_exact(width);
                match &times {
                    None => seen.extend(rows.flatten()),
                    Some(times) => seen.extend(rows.flat_map(|row| row.iter().zip(&times[place]).map(|(x, t)| x + t))),
                }
            }
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_differ_and_are_as_large_as_the_rows() {
        let time = Time { amplitude: 3.0 };
        let vectors: Vec<Vec<f32>> = (0..64).map(|index| time.vector(index, 32)).collect();
        for (index, vector) in vectors.iter().enumerate() {
            let square = vector.iter().map(|x| x * x).sum::<f32>() / 32.0;
            assert!((square - 4.5).abs() < 1e-4, "{index}: {square}");
            let distance = |other: &[f32]| vector.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            assert!(vectors[..index].iter().all(|other| distance(other) > 5.0), "{index}");
        }
    }
}
