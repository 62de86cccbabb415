//! The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes. The reader believes nothing:
//! sizes, ranges, overlaps and holes are checked against the file's length before anything is read or allocated.

use super::{FileDtype, atomic::write_atomically, entry::Entry};
use engine::{Error, Result};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Longest header that is read; a model of 10,000 tensors has about 1 MB.
const MOST_HEADER: usize = 16 << 20;

/// Name of the header's entry that is not a tensor.
const METADATA: &str = "__metadata__";

/// One tensor to write.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its sizes, outermost first.
    pub shape: &'a [usize],
    /// Its elements, row-major.
    pub data: &'a [f32],
}

/// Tensors by name, and the free text of `__metadata__`.
pub(super) type Parsed = (BTreeMap<String, Entry>, BTreeMap<String, String>);

/// Reads the header of a whole file.
pub(super) fn parse(file: &[u8]) -> Result<Parsed> {
    let invalid = |detail: String| Error::invalid(format!("safetensors: {detail}"));
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(invalid(format!("{} bytes are too few for a header", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MOST_HEADER as u64 || length > rest.len() as u64 {
        return Err(invalid(format!(
            "the header claims {length} bytes; the file has {} left and the limit is {MOST_HEADER}",
            rest.len()
        )));
    }
    let (header, data) = rest.split_at(length as usize);
    let Header { tensors, metadata } =
        serde_json::from_slice(header).map_err(|error| invalid(format!("header: {error}")))?;
    let start = file.len() - data.len();
    let mut ranges = Vec::with_capacity(tensors.len());
    let mut entries = BTreeMap::new();
    for (name, Described { dtype, shape, data_offsets: [begin, end] }) in tensors {
        let invalid = |detail: String| invalid(format!("tensor \"{name}\": {detail}"));
        if begin > end || end > data.len() {
            return Err(invalid(format!("bytes {begin} to {end} lie outside the {} of the file", data.len())));
        }
        let Some(dtype) = FileDtype::from_safetensors(&dtype) else {
            return Err(invalid(format!("unknown type \"{dtype}\"")));
        };
        let entry = Entry::contiguous(dtype, start + begin..start + end, shape);
        let entry = entry.map_err(|error| invalid(error.to_string()))?;
        ranges.push((begin, end));
        entries.insert(name, entry);
    }
    // The tensors tile the data: no overlap, no hole in which something could hide.
    ranges.sort_unstable();
    let mut at = 0;
    for (begin, end) in ranges {
        if begin != at {
            let what = if begin < at { "overlap" } else { "leave a hole" };
            return Err(invalid(format!("tensors {what} at byte {begin} of the data")));
        }
        at = end;
    }
    if at != data.len() {
        return Err(invalid(format!("{} bytes after the last tensor", data.len() - at)));
    }
    Ok((entries, metadata))
}

/// Writes a file atomically (see [`write_atomically`]), the tensors in the order of their names, as F32 or BF16.
///
/// `metadata` goes into `__metadata__`; PyTorch's readers expect `("format", "pt")`. Errors: a name twice, a shape that
/// disagrees with its data, a type that is not F32 or BF16, and whatever the file system says.
pub fn save(path: &Path, tensors: &[TensorRef], dtype: FileDtype, metadata: &[(&str, &str)]) -> Result<()> {
    if !matches!(dtype, FileDtype::F32 | FileDtype::Bf16) {
        return Err(Error::invalid(format!("weights are written as F32 or BF16, not {}", dtype.name())));
    }
    let mut tensors: Vec<&TensorRef> = tensors.iter().collect();
    tensors.sort_unstable_by_key(|tensor| tensor.name);
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::invalid(format!("two tensors are called \"{}\"", pair[0].name)));
    }
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let text: BTreeMap<_, _> = metadata.iter().copied().collect();
        header.insert(METADATA.into(), serde_json::json!(text));
    }
    let mut end = 0;
    for TensorRef { name, shape, data } in &tensors {
        if shape.iter().product::<usize>() != data.len() || *name == METADATA {
            return Err(Error::invalid(format!("tensor \"{name}\" of shape {shape:?} has {} elements", data.len())));
        }
        let begin = end;
        end += data.len() * dtype.bytes();
        let description = serde_json::json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end]});
        header.insert((*name).into(), description);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Spaces bring the data to a multiple of eight bytes, as the format recommends.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut bytes = Vec::new();
        for chunk in tensors.iter().flat_map(|tensor| tensor.data.chunks(1 << 14)) {
            dtype.narrow(chunk, &mut bytes).expect("the type was checked");
            file.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// The JSON header.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, Described)>,
    metadata: BTreeMap<String, String>,
}

/// One tensor of the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the map by hand, because an ordinary map would let the second of two equal names win in silence.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut header = Header::default();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("\"{name}\" stands twice")));
            }
            match name == METADATA {
                true => header.metadata = map.next_value()?,
                false => header.tensors.push((name, map.next_value()?)),
            }
        }
        Ok(header)
    }
}
