//! The mean of unit vectors, scaled to 1 again: of the texts of a class, or of the frames of a clip. The paper says "mean of the
//! embeddings" of 16 frames (coca.md 1.4) and not of which length those are; similarities are of unit vectors here.

/// Of every `count` rows of `[rows, width]` the mean, scaled to 1: `[rows / count, width]`. A row alone stays as it is, to the
/// bit.
pub fn unit_means(rows: Vec<f32>, count: usize, width: usize) -> Vec<f32> {
    if count <= 1 {
        return rows;
    }
    let mut means = Vec::with_capacity(rows.len() / count);
    for rows in rows.chunks_exact(width * count) {
        let sum = |column: usize| rows.iter().skip(column).step_by(width).map(|&x| f64::from(x)).sum::<f64>();
        let sums: Vec<f64> = (0..width).map(sum).collect();
        let norm = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        means.extend(sums.iter().map(|sum| (sum / norm) as f32));
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sample;
    use crate::evaluate::Evaluator;
    use crate::model_folder::{ModelFolder, test_model};
    use crate::test_folder;
    use engine::{DType, Workspace};

    #[test]
    fn a_clip_has_the_mean_feature_of_its_frames() {
        let folder = test_folder("mean");
        test_model(&folder, 3);
        let ModelFolder { model, tokenizer, queue, .. } = ModelFolder::open(&folder, DType::F32).unwrap();
        let size = model.config().vision.image_size;
        let frame = |seed: usize| (0..size * size * 3).map(|at| (at * (seed + 3) % 251) as u8).collect::<Vec<u8>>();
        let sample = |image: Vec<u8>| Sample { key: String::new(), image, captions: Vec::new() };
        let frames: Vec<Sample> = (0..6).map(|seed| sample(frame(seed))).collect();
        let clips: Vec<Sample> =
            frames.chunks(3).map(|clip| sample(clip.iter().flat_map(|frame| frame.image.clone()).collect())).collect();
        let mut evaluator = Evaluator::new(&model, &tokenizer, &queue, &Workspace::new(), 4).unwrap();
        let rows = evaluator.image_features(&frames).unwrap();
        let means = evaluator.image_features(&clips).unwrap();
        assert!(means == unit_means(rows.clone(), 3, evaluator.width()) && means.len() * 3 == rows.len());
    }

    #[test]
    fn a_mean_has_length_one_and_a_row_alone_stays() {
        let rows = vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 0.6, -0.8];
        let half = 0.5f32.sqrt();
        assert_eq!(unit_means(rows.clone(), 2, 2), [half, half, 1.0, 0.0]);
        assert_eq!(unit_means(rows.clone(), 1, 2), rows);
        // Opposite ones have no mean direction.
        assert_eq!(unit_means(vec![1.0, -1.0], 2, 1), [0.0]);
    }
}
