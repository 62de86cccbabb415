//! The memory planner: lifetimes from the list, in-place merges, then an offset for every tensor in one arena.
//!
//! Tensors are placed largest first, each into the smallest gap that is free during its whole life (best fit). The
//! lower bound is the most bytes that live at any one node: no planner can do better without recomputation.

use crate::buffer::align_up;
use crate::tape::{Home, Tape, When};
use std::collections::HashSet;
use std::fmt;

/// Where planned tensors lie, and what that costs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Byte offset of each planned tensor, by tensor id.
    pub(crate) offsets: Vec<Option<usize>>,
    /// Bytes of the activation arena.
    pub peak_bytes: usize,
    /// Bytes of the inputs, which lie outside of it.
    pub input_bytes: usize,
    /// The most bytes alive at one node.
    pub lower_bound_bytes: usize,
    /// Bytes if nothing were reused.
    pub total_bytes: usize,
    /// Outputs that took over the memory of an input.
    pub in_place_merges: usize,
    /// The largest tensors alive at the node where most bytes live.
    pub top: Vec<LiveTensor>,
}

/// One tensor that lives at the peak.
#[derive(Clone, Debug)]
pub struct LiveTensor {
    /// Its size.
    pub bytes: usize,
    /// Shape and dtype.
    pub meta: String,
    /// Op that makes it.
    pub op: &'static str,
    /// Span and source line.
    pub place: String,
}

struct Item {
    id: u32,
    bytes: usize,
    first: usize,
    last: usize,
    /// Items merged into this one.
    members: Vec<u32>,
}

/// Places the planned tensors of a tape; `guard` bytes stay free after each (for poison checks).
pub(crate) fn plan(tape: &Tape, guard: usize) -> Plan {
    let (mut items, producer) = lifetimes(tape, guard);
    let total_bytes = items.iter().map(|item| item.bytes).sum();
    let merges = if guard == 0 { merge_in_place(tape, &mut items) } else { 0 };
    let (lower_bound_bytes, peak_node) = most_alive(&items, tape.nodes.len());

    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(items[index].bytes), items[index].first, items[index].id));
    let mut placed: Vec<(usize, usize, usize)> = Vec::with_capacity(items.len()); // (offset, end, item)
    let mut offsets = vec![None; tape.infos.len()];
    let mut peak_bytes = 0;
    for index in order {
        let item = &items[index];
        let (mut cursor, mut best) = (0, None::<(usize, usize)>); // best: (gap, offset)
        // `placed` is sorted by offset, so the free gaps of this item's life appear in order.
        for &(offset, end, other) in &placed {
            let other = &items[other];
            if other.last < item.first || item.last < other.first {
                continue;
            }
            if offset >= cursor + item.bytes && best.is_none_or(|(gap, _)| offset - cursor < gap) {
                best = Some((offset - cursor, cursor));
            }
            cursor = cursor.max(end);
        }
        let offset = best.map_or(cursor, |(_, offset)| offset);
        let end = offset + item.bytes;
        peak_bytes = peak_bytes.max(end);
        let position = placed.partition_point(|&(other, _, _)| other <= offset);
        placed.insert(position, (offset, end, index));
        for &member in &item.members {
            offsets[member as usize] = Some(offset);
        }
    }

    let mut live: Vec<&Item> = items.iter().filter(|item| item.first <= peak_node && peak_node <= item.last).collect();
    live.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    let top = (live.iter().take(12))
        .map(|item| {
            let info = &tape.infos[item.id as usize];
            let node = &tape.nodes[producer[item.id as usize]];
            LiveTensor {
                bytes: item.bytes,
                meta: info.meta.to_string(),
                op: node.op.name(),
                place: tape.place(info.source),
            }
        })
        .collect();
    let input_bytes = inputs(tape);
    Plan { offsets, peak_bytes, input_bytes, lower_bound_bytes, total_bytes, in_place_merges: merges, top }
}

/// Bytes that the caller writes: the named tensors in memory of their own that are no parameters.
fn inputs(tape: &Tape) -> usize {
    let parameters: HashSet<u32> = tape.leaves.values().map(|leaf| leaf.id).collect();
    (tape.infos.iter().zip(0..))
        .filter(|(info, id)| matches!(info.home, Home::Owned(..)) && info.name.is_some() && !parameters.contains(id))
        .map(|(info, _)| info.meta.bytes())
        .sum()
}

/// One item a planned tensor that some node touches, and each tensor's first writer.
fn lifetimes(tape: &Tape, guard: usize) -> (Vec<Item>, Vec<usize>) {
    let mut span: Vec<Option<(usize, usize)>> = vec![None; tape.infos.len()];
    let mut producer = vec![0; tape.infos.len()];
    for (index, node) in tape.nodes.iter().enumerate().filter(|(_, node)| !node.removed) {
        let outputs = node.outputs.iter().map(|&(output, _)| (output, true));
        for (tensor, written) in node.inputs.iter().map(|&input| (input, false)).chain(outputs) {
            let root = tape.root(tensor.id) as usize;
            if !matches!(tape.infos[root].home, Home::Planned) {
                continue;
            }
            let life = span[root].get_or_insert((index, index));
            life.1 = index;
            if written && life.0 == index {
                producer[root] = index;
            }
        }
    }
    let end = tape.nodes.len();
    let items = (span.iter().enumerate())
        .filter_map(|(id, life)| life.map(|life| (id, life)))
        .map(|(id, (first, last))| {
            let info = &tape.infos[id];
            let last = if info.keep { end } else { last };
            let bytes = align_up(info.meta.bytes().max(1)) + align_up(guard);
            Item { id: id as u32, bytes, first, last, members: vec![id as u32] }
        })
        .collect();
    (items, producer)
}

/// Lets an output take over the memory of an input that dies at the same node, where the op permits it.
fn merge_in_place(tape: &Tape, items: &mut Vec<Item>) -> usize {
    let mut index_of = vec![usize::MAX; tape.infos.len()];
    for (index, item) in items.iter().enumerate() {
        index_of[item.id as usize] = index;
    }
    let mut merges = 0;
    for (at, node) in tape.nodes.iter().enumerate().filter(|(_, node)| !node.removed) {
        let mut taken = Vec::new(); // inputs whose memory an output of this node has
        for &(output, input) in node.op.in_place() {
            let (Some(&(out, When::Set)), Some(&source)) = (node.outputs.get(output), node.inputs.get(input)) else {
                continue;
            };
            let (out, source) = (tape.root(out.id), tape.root(source.id));
            let (target, donor) = (index_of[out as usize], index_of[source as usize]);
            let once = node.inputs.iter().filter(|other| tape.root(other.id) == source).count() == 1;
            if target == usize::MAX || donor == usize::MAX || target == donor || !once || taken.contains(&donor) {
                continue;
            }
            let fits = items[target].bytes == items[donor].bytes && items[target].first == at;
            if !fits || items[donor].last != at {
                continue;
            }
            let (last, members) = (items[target].last, std::mem::take(&mut items[target].members));
            items[donor].last = last;
            for &member in &members {
                index_of[member as usize] = donor;
            }
            items[donor].members.extend(members);
            taken.push(donor);
            merges += 1;
        }
    }
    items.retain(|item| !item.members.is_empty());
    merges
}

/// The largest sum of live bytes, and a node where it is reached.
fn most_alive(items: &[Item], nodes: usize) -> (usize, usize) {
    let mut change = vec![0isize; nodes + 2];
    for item in items {
        change[item.first] += item.bytes as isize;
        change[item.last + 1] -= item.bytes as isize;
    }
    let (mut alive, mut best) = (0, (0, 0));
    for (node, delta) in change.iter().enumerate().take(nodes + 1) {
        alive += delta;
        if alive > best.0 {
            best = (alive, node);
        }
    }
    (best.0 as usize, best.1.min(nodes.saturating_sub(1)))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
        writeln!(
            f,
            "activations: peak {:.1} MiB, lower bound {:.1} MiB, without reuse {:.1} MiB, {} in-place merges",
            mib(self.peak_bytes),
            mib(self.lower_bound_bytes),
            mib(self.total_bytes),
            self.in_place_merges
        )?;
        writeln!(f, "largest tensors alive at the peak:")?;
        for LiveTensor { bytes, meta, op, place } in &self.top {
            writeln!(f, "  {:>9.2} MiB  {meta:<24} {op:<28} {place}", mib(*bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
