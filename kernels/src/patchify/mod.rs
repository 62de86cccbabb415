//! From pictures to the rows of the patch embedding: u8 `[batch, height, width, 3]` to `[batch · patches, 3 p p]`.
//!
//! A patch row is ordered channel, y, x, patches row by row: the order of a convolution weight `[out, 3, p, p]`. Values
//! are `(byte / 255 - mean) / std` in f32, the operations of torchvision's `ToTensor` and `Normalize`.

pub(crate) mod cuda;

use crate::case::{Array, Case, Draw, Fill, Input, Reference, Tolerance};
use crate::simd::Float;
use engine::{Cost, CpuQueue, DType, Error, Meta, Op, Out, Queue, Result, Shared, Tape, Tensor, View};
use half::bf16;
use std::sync::Arc;

/// Patch rows of `images` (u8 `[batch, size, size, 3]`) in `dtype`.
#[track_caller]
pub fn patchify(
    tape: &mut Tape,
    images: Tensor,
    patch_size: usize,
    mean: [f32; 3],
    std: [f32; 3],
    dtype: DType,
) -> Result<Tensor> {
    Ok(tape.push(Patchify { patch_size, mean, std, dtype }, &[images])?[0])
}

/// The op behind [`patchify`]. Pictures have no gradient.
#[derive(Clone, Copy, Debug)]
pub struct Patchify {
    /// Side of a patch; divides height and width.
    pub patch_size: usize,
    /// Mean of each channel, of values in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// Storage type of the rows.
    pub dtype: DType,
}

impl Op for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        let p = self.patch_size;
        match inputs {
            [Meta { shape, dtype: DType::U8 }] if self.dtype.is_float() => match *shape.dims() {
                [batch, height, width, 3] if p > 0 && height.is_multiple_of(p) && width.is_multiple_of(p) => {
                    Ok(vec![Meta::new([batch * (height / p) * (width / p), 3 * p * p], self.dtype)])
                }
                _ => Err(Error::invalid(format!("expects images [batch, height, width, 3] with sides divisible by {p}"))),
            },
            _ => Err(Error::invalid("expects u8 images and an f32 or bf16 result")),
        }
    }

    fn run(&self, queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        match (queue, self.dtype) {
            (Queue::Cpu(cpu), DType::BF16) => run::<bf16>(self, cpu, inputs, outputs),
            (Queue::Cpu(cpu), _) => run::<f32>(self, cpu, inputs, outputs),
            (Queue::Cuda(queue), _) => cuda::run(self, queue, &inputs[0], &outputs[0]),
        }
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        let values = inputs[0].elements() as f64;
        Cost { flops: 2.0 * values, bytes: values * (1 + self.dtype.size()) as f64 }
    }
}

fn run<T: Float>(op: &Patchify, queue: &CpuQueue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
    let images = inputs[0].slice::<u8>()?;
    let shape = inputs[0].shape();
    let (height, width, p) = (shape.dims()[1], shape.dims()[2], op.patch_size);
    // 256 values a channel: every byte's result, computed once.
    let table: Vec<[T; 256]> = (0..3)
        .map(|channel| {
            std::array::from_fn(|byte| T::narrow((byte as f32 / 255.0 - op.mean[channel]) / op.std[channel]))
        })
        .collect();
    let (columns, row_length) = (width / p, 3 * p * p);
    let patches = (height / p) * columns;
    let rows = Shared::new(outputs[0].slice_mut::<T>()?);
    queue.parallel_ranges(shape.dims()[0] * patches, 32, |range| {
        for row in range {
            let (image, patch) = (row / patches, row % patches);
            let (top, left) = (patch / columns * p, patch % columns * p);
            // SAFETY: tasks have rows of their own.
            let out = unsafe { rows.part(row * row_length..(row + 1) * row_length) };
            for y in 0..p {
                let line = &images[((image * height + top + y) * width + left) * 3..][..3 * p];
                for (x, pixel) in line.chunks_exact(3).enumerate() {
                    for channel in 0..3 {
                        out[channel * p * p + y * p + x] = table[channel][usize::from(pixel[channel])];
                    }
                }
            }
        }
    });
    Ok(())
}

impl Reference for Patchify {
    fn forward(&self, inputs: &[Array]) -> Vec<Array> {
        let &[batch, height, width, _] = inputs[0].shape.dims() else { unreachable!("images") };
        let p = self.patch_size;
        let mut rows = Vec::new();
        for image in 0..batch {
            for (top, left) in (0..height / p).flat_map(|y| (0..width / p).map(move |x| (y * p, x * p))) {
                for channel in 0..3 {
                    for (y, x) in (0..p).flat_map(|y| (0..p).map(move |x| (y, x))) {
                        let byte = inputs[0].data[((image * height + top + y) * width + left + x) * 3 + channel];
                        rows.push((byte / 255.0 - f64::from(self.mean[channel])) / f64::from(self.std[channel]));
                    }
                }
            }
        }
        vec![Array::new([rows.len() / (3 * p * p), 3 * p * p], rows)]
    }

    fn gradients(&self, _inputs: &[Array], _outputs: &[Array]) -> Vec<Option<Array>> {
        vec![None]
    }
}

fn case(batch: usize, (down, across): (usize, usize), p: usize, dtype: DType) -> Case {
    let op = Patchify { patch_size: p, mean: [0.48, 0.45, 0.4], std: [0.27, 0.26, 0.28], dtype };
    Case {
        name: format!("patchify {dtype} {batch}x{down}x{across} patches of {p}"),
        op: Arc::new(op),
        reference: Arc::new(op),
        inputs: vec![Input::data([batch, down * p, across * p, 3], DType::U8, Fill::Uniform(0.0, 256.0))],
        results: 0,
        forward: Tolerance::sum_of(4),
        backward: Tolerance::sum_of(1),
        bench_only: false,
    }
}

/// Fixed cases.
pub fn cases() -> Vec<Case> {
    let of = |dtype| [case(2, (3, 2), 5, dtype), case(1, (2, 3), 6, dtype), case(2, (1, 2), 8, dtype)];
    let real = Case { bench_only: true, ..case(8, (7, 7), 32, DType::F32) };
    [DType::F32, DType::BF16].into_iter().flat_map(of).chain([real]).collect()
}

/// A random case.
pub fn draw(draw: &mut Draw) -> Case {
    case(draw.integer(1, 3), (draw.integer(1, 4), draw.integer(1, 4)), draw.integer(1, 6), draw.float())
}
