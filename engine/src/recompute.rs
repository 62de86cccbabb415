//! Activation checkpointing: a rewrite of the list before planning, so that its memory and work are known before a run.
//!
//! A forward node is emitted again just before the first backward node that reads one of its outputs, and backward
//! nodes read the new copy. The old outputs then die in the forward pass. Same ops on same inputs: same bits.

use crate::op::{Op, Recompute};
use crate::tape::{Home, Node, Phase, When};
use crate::{Error, Result, Tape, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What to keep between the forward and the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// Everything that a backward op reads.
    #[default]
    None,
    /// All but what costs little to make again: the outputs of norms, activations and casts, and activations that are
    /// fused into a product (from the pre-activation).
    Cheap,
    /// Only what enters and leaves a block (see [`Tape::block`]); everything inside is computed again.
    Block,
}

impl Tape {
    /// Rewrites the list for a level of checkpointing. Call it after `backward`, before compiling.
    pub fn checkpoint(&mut self, level: Checkpointing) -> Result<()> {
        if self.is_eager() {
            return Err(Error::invalid("an eager tape keeps every tensor; checkpointing needs a recorded one"));
        }
        if level == Checkpointing::None {
            return Ok(());
        }
        let redo = self.nodes_to_redo(level);
        let producers = self.producers();
        let old = std::mem::take(&mut self.nodes);
        let remakes = level == Checkpointing::Cheap;
        let mut rewrite =
            Rewrite { tape: self, old: &old, redo, remakes, producers, copies: HashMap::new(), list: Vec::new() };
        for node in &old {
            if node.phase == Phase::Forward || node.removed {
                rewrite.list.push(node.clone());
                continue;
            }
            let inputs = node.inputs.iter().map(|&input| rewrite.current(input)).collect();
            rewrite.list.push(Node { inputs, ..node.clone() });
        }
        let list = rewrite.list;
        self.nodes = list;
        Ok(())
    }

    /// Forward nodes whose outputs are not kept for the backward pass.
    fn nodes_to_redo(&self, level: Checkpointing) -> HashSet<usize> {
        let block_of = |node: &Node| self.spans[node.source.span as usize].block;
        let mut leaves_block = HashSet::new(); // tensors that a later forward node outside their block reads
        let mut made_in = HashMap::new();
        for node in self.nodes.iter().filter(|node| node.phase == Phase::Forward && !node.removed) {
            for input in &node.inputs {
                let root = self.root(input.id);
                if made_in.get(&root).is_some_and(|&block| block != block_of(node)) {
                    leaves_block.insert(root);
                }
            }
            for (output, _) in &node.outputs {
                made_in.insert(self.root(output.id), block_of(node));
            }
        }
        let redo = |node: &Node| match level {
            Checkpointing::None => false,
            Checkpointing::Cheap => node.op.recompute() == Recompute::Cheap,
            Checkpointing::Block => block_of(node).is_some(),
        };
        (self.nodes.iter().enumerate())
            .filter(|(_, node)| node.phase == Phase::Forward && !node.removed && redo(node))
            .filter(|(_, node)| {
                node.outputs.iter().all(|&output| self.may_die(output))
                    && (level == Checkpointing::Cheap
                        || !node.outputs.iter().any(|(output, _)| leaves_block.contains(&self.root(output.id))))
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// True if an output lives for its readers alone.
    fn may_die(&self, (output, when): (Tensor, When)) -> bool {
        let info = &self.infos[self.root(output.id) as usize];
        when == When::Set && matches!(info.home, Home::Planned) && !info.keep
    }

    /// The forward node that makes each tensor.
    fn producers(&self) -> HashMap<u32, usize> {
        let mut producers = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.phase == Phase::Forward) {
            for (output, _) in &node.outputs {
                producers.entry(self.root(output.id)).or_insert(index);
            }
        }
        producers
    }
}

struct Rewrite<'a> {
    tape: &'a mut Tape,
    old: &'a [Node],
    redo: HashSet<usize>,
    /// Whether outputs are made again from others of their node.
    remakes: bool,
    producers: HashMap<u32, usize>,
    /// Root of a forward tensor to the root of its recomputed copy.
    copies: HashMap<u32, Tensor>,
    list: Vec<Node>,
}

impl Rewrite<'_> {
    /// The tensor that a backward node should read in place of `tensor`; emits its producer again if need be.
    fn current(&mut self, tensor: Tensor) -> Tensor {
        let root = self.tape.root(tensor.id);
        let Some(&producer) = self.producers.get(&root) else { return tensor };
        if !self.copies.contains_key(&root) {
            let node = &self.old[producer];
            if self.redo.contains(&producer) {
                let inputs = node.inputs.iter().map(|&input| self.current(input)).collect();
                let outputs = node.outputs.iter().map(|&(output, when)| (self.copy(output), when)).collect();
                self.list.push(Node { inputs, outputs, phase: Phase::Recompute, ..node.clone() });
            } else if let Some((from, op)) = self.remake(node, root) {
                let outputs = vec![(self.copy(tensor), When::Set)];
                let inputs = vec![self.current(node.outputs[from].0)];
                self.list.push(Node { op, inputs, outputs, phase: Phase::Recompute, ..node.clone() });
            } else {
                return tensor;
            }
        }
        self.same_shape(self.copies[&root], tensor)
    }

    /// How the output with this root is made again from another output of its node.
    fn remake(&self, node: &Node, root: u32) -> Option<(usize, Arc<dyn Op>)> {
        let index = node.outputs.iter().position(|(output, _)| self.tape.root(output.id) == root)?;
        let wanted = self.remakes && self.tape.may_die(node.outputs[index]);
        if wanted { node.op.remake(index) } else { None }
    }

    /// A new tensor for the recomputed values of `output`, under the shape of its root where they differ.
    fn copy(&mut self, output: Tensor) -> Tensor {
        let original = self.tape.root(output.id);
        let info = self.tape.infos[original as usize].clone();
        let copy = self.tape.add_tensor(info.meta, Home::Planned, None, false, info.source.location);
        let target = &mut self.tape.infos[copy.id as usize];
        (target.source, target.ragged) = (info.source, info.ragged);
        self.copies.insert(original, copy);
        self.same_shape(copy, output)
    }

    /// `copy` under the shape of `like`.
    fn same_shape(&mut self, copy: Tensor, like: Tensor) -> Tensor {
        if copy.meta() == like.meta() {
            return copy;
        }
        let info = self.tape.infos[like.id as usize].clone();
        let alias = self.tape.add_tensor(like.meta(), Home::Alias(copy.id), None, false, info.source.location);
        self.tape.infos[alias.id as usize].ragged = info.ragged;
        alias
    }
}
