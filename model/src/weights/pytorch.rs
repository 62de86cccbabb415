//! PyTorch's `.bin` and `.pt` files since version 1.6: a zip archive with a pickle and one member per storage.
//! Takes a bare state dict or a training checkpoint with a `state_dict`, and strips DistributedDataParallel's `module.`.

use super::entry::Entry;
use super::pickle::{Pickle, Tensor, Value};
use super::zip::{self, shorten};
use engine::{Error, Result};
use std::collections::BTreeMap;

/// Finds the tensors of the state dict in a whole file.
pub(super) fn parse(file: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let invalid = |detail: String| Error::invalid(format!("PyTorch archive: {detail}"));
    let members = zip::members(file)?;
    let mut roots = members.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(invalid("it must have one member data.pkl".into()));
    };
    if members.contains_key(format!("{root}constants.pkl").as_str()) {
        return Err(invalid("it is a TorchScript program; save its state_dict() with torch.save".into()));
    }
    if let Some(order) = members.get(format!("{root}byteorder").as_str())
        && &file[order.clone()] != b"little"
    {
        return Err(invalid("it was written on a big-endian machine".into()));
    }
    let pickle = Pickle::read(&file[members[format!("{root}data.pkl").as_str()].clone()])?;
    let mut entries = BTreeMap::new();
    for (name, value) in state_dict(&pickle).ok_or_else(|| invalid("it holds no state dict".into()))? {
        let Value::Text(name) = pickle.get(*name) else {
            return Err(invalid("a key of the state dict is not text".into()));
        };
        let invalid = |detail: String| invalid(format!("\"{}\": {detail}", shorten(name)));
        let Tensor { dtype, key, elements, offset, shape, strides } =
            pickle.tensor(*value).map_err(|error| invalid(error.to_string()))?;
        let Some(bytes) = members.get(format!("{root}data/{key}").as_str()) else {
            return Err(invalid(format!("the archive has no member data/{}", shorten(key))));
        };
        if elements.checked_mul(dtype.bytes()) != Some(bytes.len()) {
            return Err(invalid(format!(
                "its storage has {} bytes, not {elements} elements of {}",
                bytes.len(),
                dtype.name()
            )));
        }
        let entry = Entry::new(dtype, bytes.clone(), offset, shape, strides);
        // A file can repeat a long name for two bytes each time: the first time it does is an error, not a copy more.
        if entries.insert(name.to_string(), entry.map_err(|error| invalid(error.to_string()))?).is_some() {
            return Err(invalid("it stands twice in the state dict".into()));
        }
    }
    Ok(strip_module(entries))
}

/// The pairs of the state dict: under `state_dict` if there is such a key, else the root itself.
fn state_dict<'p>(pickle: &'p Pickle) -> Option<&'p [(u32, u32)]> {
    let Value::Dict(root) = pickle.root() else { return None };
    let inner = root.iter().rev().find(|(key, _)| matches!(pickle.get(*key), Value::Text("state_dict")));
    match inner.map(|(_, value)| pickle.get(*value)) {
        None => Some(root),
        Some(Value::Dict(inner)) => Some(inner),
        Some(_) => None,
    }
}

/// Removes the prefix if every name has it, so that no two names can meet.
fn strip_module(entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    const PREFIX: &str = "module.";
    if !entries.keys().all(|name| name.starts_with(PREFIX)) {
        return entries;
    }
    entries.into_iter().map(|(name, entry)| (name[PREFIX.len()..].to_string(), entry)).collect()
}
