//! Fashion-MNIST, from Debian's `dataset-fashion-mnist`: four files in the format of MNIST, compressed.

use super::archive::for_each_file;
use super::package::Package;
use crate::data::shard_writer::ShardWriter;
use crate::data::tools::Tools;
use crate::{Error, Result, png_file};
use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::io::Read;

/// What the labels stand for, in the order of the set's own table.
const CLASSES: [&str; 10] =
    ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];
/// First numbers of the files of images and of labels: bytes, in three dimensions and in one.
const MAGIC: [u32; 2] = [0x803, 0x801];
/// Largest file of the set, unpacked.
const MOST_BYTES: u64 = 1 << 28;

/// Writes the splits `train` and `test`.
pub fn write(package: &Package, tools: &Tools, shards: &mut ShardWriter) -> Result<()> {
    let mut files = HashMap::new();
    let wanted = |name: &str| name.ends_with("-ubyte.gz");
    for_each_file(package, tools, wanted, |name, content| {
        let mut unpacked = Vec::new();
        GzDecoder::new(&content[..])
            .take(MOST_BYTES)
            .read_to_end(&mut unpacked)
            .map_err(|error| Error::io(name, error))?;
        files.insert(name.rsplit('/').next().unwrap_or(name).to_owned(), unpacked);
        Ok(())
    })?;
    for (split, start) in [("train", "train"), ("test", "t10k")] {
        let [images, labels] = [format!("{start}-images-idx3-ubyte.gz"), format!("{start}-labels-idx1-ubyte.gz")];
        let wrong = |what: &str| Error::invalid(format!("{}: {what}", package.path.display()));
        let file = |name: &str| files.get(name).ok_or_else(|| wrong(&format!("it has no file {name}")));
        let not_read = || wrong(&format!("{images} and {labels} are not in MNIST's format"));
        let ([count, height, width], pixels) = numbers(file(&images)?, MAGIC[0]).ok_or_else(not_read)?;
        let ([named], classes) = numbers(file(&labels)?, MAGIC[1]).ok_or_else(not_read)?;
        let size = width as usize * height as usize;
        if count != named || size == 0 || pixels.len() != count as usize * size || classes.len() != count as usize {
            return Err(not_read());
        }
        for (number, (pixels, &class)) in pixels.chunks_exact(size).zip(classes).enumerate() {
            let name = CLASSES.get(usize::from(class)).ok_or_else(not_read)?;
            let rgb: Vec<u8> = pixels.iter().flat_map(|&grey| [grey; 3]).collect();
            let image = png_file::encode_rgb(width, height, &rgb)?;
            let class = class.to_string();
            let members = [("png", &image[..]), ("txt", name.as_bytes()), ("cls", class.as_bytes())];
            shards.add(split, &format!("{number:05}"), &members)?;
        }
    }
    Ok(())
}

/// The lengths at the start of a file, after its magic number, and the bytes that follow them.
fn numbers<const DIMENSIONS: usize>(file: &[u8], magic: u32) -> Option<([u32; DIMENSIONS], &[u8])> {
    let (first, mut rest) = file.split_first_chunk()?;
    let mut lengths = [0; DIMENSIONS];
    for length in &mut lengths {
        let (bytes, others) = rest.split_first_chunk()?;
        (*length, rest) = (u32::from_be_bytes(*bytes), others);
    }
    (u32::from_be_bytes(*first) == magic).then_some((lengths, rest))
}
