//! What the optimizers' CUDA arms share: which block of a launch works on which piece of which parameter.

use crate::cuda::size;
use bytemuck::Pod;
use engine::cuda::{Launch, Source};
use engine::{Buffer, Device, Parameters, Result};
use std::sync::Arc;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    [
        super::adafactor::cuda::variants(),
        super::adamw::cuda::variants(),
        super::average::variants(),
        super::clamp::variants(),
    ]
    .concat()
}

/// The pieces of a launch in device memory, one a block: a row of a table and the number of its piece.
#[derive(Debug)]
pub(super) struct Pieces {
    count: usize,
    buffer: Arc<Buffer>,
}

impl Pieces {
    /// The pieces of the rows in order; `pieces` says how many each row has.
    pub fn new(device: &Device, pieces: impl Iterator<Item = usize>) -> Result<Pieces> {
        let mut list: Vec<[u32; 2]> = Vec::new();
        for (row, count) in pieces.enumerate() {
            let (row, count) = (size("parameters", row)?, size("pieces of a parameter", count)?);
            list.extend((0..count).map(|piece| [row, piece]));
        }
        Ok(Pieces { count: list.len(), buffer: upload(device, &list)? })
    }

    /// A block a piece; none if there are no pieces.
    pub fn launch(&self) -> Result<Option<Launch>> {
        let blocks = size("blocks", self.count)?;
        Ok((blocks > 0).then(|| Launch::linear(blocks, THREADS)))
    }

    /// Address of the list.
    pub fn address(&self) -> u64 {
        self.buffer.address(0)
    }
}

/// Which parameters were trainable when something was made for them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trainable(Vec<bool>);

impl Trainable {
    pub fn of(parameters: &Parameters) -> Trainable {
        Trainable(parameters.entries().iter().map(|entry| entry.trainable).collect())
    }
}

/// Values in device memory.
pub(super) fn upload<T: Pod>(device: &Device, values: &[T]) -> Result<Arc<Buffer>> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = Buffer::on(device, bytes.len())?;
    buffer.write(0, bytes)?;
    Ok(buffer)
}
