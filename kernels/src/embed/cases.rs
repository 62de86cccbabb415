//! The plain references of the embeddings, and their cases.

use super::{CLASS_ID, EmbedPatches, EmbedText};
use crate::case::{Array, Case, Draw, Input, Reference, Tolerance};
use engine::DType;
use std::sync::Arc;

impl Reference for EmbedText {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let width = inputs[4].data.len();
        let mut rows = Vec::new();
        for (&id, &at) in inputs[0].data.iter().zip(&inputs[1].data) {
            let token = if id as i32 == CLASS_ID { &inputs[4].data[..] } else { inputs[2].row(id as usize) };
            rows.extend(token.iter().zip(inputs[3].row(at as usize)).map(|(token, position)| token + position));
        }
        vec![Array::new([inputs[0].data.len(), width], rows)]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let [mut tokens, mut positions, mut class] = [2, 3, 4].map(|index: usize| Array::zeros(inputs[index].shape));
        for (row, (&id, &at)) in inputs[0].data.iter().zip(&inputs[1].data).enumerate() {
            let dy = outputs[0].row(row);
            let token = if id as i32 == CLASS_ID { &mut class.data[..] } else { tokens.row_mut(id as usize) };
            token.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            positions.row_mut(at as usize).iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
        vec![None, None, Some(tokens), Some(positions), Some(class)]
    }
}

impl Reference for EmbedPatches {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let (rows, width, offset) = (inputs[1].shape.rows(), inputs[1].shape.columns(), inputs.len() - 2);
        let images = inputs[0].shape.rows() / (rows - offset);
        let mut out = Vec::new();
        for (image, within) in (0..images).flat_map(|image| (0..rows).map(move |within| (image, within))) {
            let row = if within < offset {
                &inputs[2].data[..]
            } else {
                inputs[0].row(image * (rows - offset) + within - offset)
            };
            out.extend(row.iter().zip(inputs[1].row(within)).map(|(value, position)| value + position));
        }
        vec![Array::new([images * rows, width], out)]
    }

    fn gradients(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Option<Array>> {
        let (rows, offset) = (inputs[1].shape.rows(), inputs.len() - 2);
        let mut gradients: Vec<Array> = inputs.iter().map(|input| Array::zeros(input.shape)).collect();
        for row in 0..outputs[0].shape.rows() {
            let (image, within) = (row / rows, row % rows);
            let dy = outputs[0].row(row).to_vec();
            let add = |target: &mut [f64]| target.iter_mut().zip(&dy).for_each(|(sum, dy)| *sum += dy);
            add(gradients[1].row_mut(within));
            if within < offset {
                add(&mut gradients[2].data);
            } else {
                add(gradients[0].row_mut(image * (rows - offset) + within - offset));
            }
        }
        gradients.into_iter().map(Some).collect()
    }
}

fn text(ids: &[i32], at: &[i32], (vocabulary, positions, width): (usize, usize, usize), dtype: DType) -> Case {
    let op = EmbedText { dtype };
    Case {
        name: format!("embed_text {dtype} {} rows of {vocabulary} x {width}", ids.len()),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs: vec![
            Input::integers(ids),
            Input::integers(at),
            Input::parameter([vocabulary, width], DType::F32),
            Input::parameter([positions, width], DType::F32),
            Input::parameter([width], DType::F32),
        ],
        results: 1,
        forward: Tolerance::sum_of(2),
        backward: Tolerance::sum_of(ids.len()),
        bench_only: false,
    }
}

fn patches(images: usize, per_image: usize, width: usize, class: bool, dtype: DType) -> Case {
    let mut inputs = vec![
        Input::variable([images * per_image, width], dtype),
        Input::parameter([per_image + usize::from(class), width], DType::F32),
    ];
    if class {
        inputs.push(Input::parameter([width], DType::F32));
    }
    Case {
        name: format!("embed_patches {dtype} {images}x{per_image}x{width} class {class}"),
        op: Arc::new(EmbedPatches),
        reference: Arc::new(EmbedPatches),
        inputs,
        results: 1,
        forward: Tolerance::sum_of(2),
        backward: Tolerance::sum_of(images).roundings(2.0),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        cases.push(text(&[3, 0, CLASS_ID, 3, 3, CLASS_ID], &[0, 1, 7, 0, 1, 7], (5, 8, 67), dtype));
        // Several tiles and digits of the order, and a position whose rows fill more chunks than a warp sees at once.
        let ids: Vec<i32> = (0..1100).map(|row| row * row % 311 - 1).collect();
        let at: Vec<i32> = (0..1100).map(|row| i32::from(row % 91 == 7)).collect();
        cases.push(text(&ids, &at, (310, 3, 4), dtype));
        cases.push(text(&[2, CLASS_ID, 2, 1, 2], &[0, 1, 0, 0, 0], (3, 2, 264), dtype));
        let ids: Vec<i32> = (0..32768).map(|row| row * 7919 % 49408).collect();
        let at: Vec<i32> = (0..32768).map(|row| row % 76).collect();
        cases.push(Case { bench_only: true, ..text(&ids, &at, (49408, 77, 512), dtype) });
        cases.push(patches(3, 4, 33, true, dtype));
        cases.push(patches(37, 2, 40, true, dtype));
        cases.push(patches(2, 5, 70, false, dtype));
    }
    cases.push(text(&[65_999, 3, 65_999], &[0, 1, 1], (66_000, 2, 1), DType::F32));
    cases
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    let (width, dtype) = (draw.integer(1, 90), draw.float());
    if draw.flag() {
        return patches(draw.integer(1, 4), draw.integer(1, 9), width, draw.flag(), dtype);
    }
    let (vocabulary, positions, rows) = (draw.integer(1, 12), draw.integer(1, 9), draw.integer(1, 20));
    let ids: Vec<i32> = (0..rows).map(|_| draw.integer(0, vocabulary) as i32 - 1).collect();
    let at: Vec<i32> = (0..rows).map(|_| draw.integer(0, positions - 1) as i32).collect();
    text(&ids, &at, (vocabulary, positions, width), dtype)
}
