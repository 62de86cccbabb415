//! Random lists of nodes, planned and checked against lifetimes counted the plain way.

use super::plan;
use crate::buffer::align_up;
use crate::tape::{Home, Tape};
use crate::{Cost, DType, Meta, Op, Out, Queue, Result, Tensor, View};
use proptest::prelude::*;

/// An op that is only planned: outputs of these sizes, and these (output, input) pairs may share memory.
#[derive(Debug)]
struct Planned {
    sizes: Vec<usize>,
    in_place: Vec<(usize, usize)>,
}

impl Op for Planned {
    fn name(&self) -> &'static str {
        "planned"
    }

    fn infer(&self, _inputs: &[Meta]) -> Result<Vec<Meta>> {
        Ok(self.sizes.iter().map(|&size| Meta::new([size], DType::U8)).collect())
    }

    fn run(&self, _queue: &Queue, _inputs: &[View<'_>], _outputs: &mut [Out<'_>]) -> Result<()> {
        Ok(())
    }

    fn cost(&self, _inputs: &[Meta]) -> Cost {
        Cost::default()
    }

    fn in_place(&self) -> &[(usize, usize)] {
        &self.in_place
    }
}

/// One node: which earlier tensors it reads, the sizes of its outputs, its in-place pairs, and whether to keep them.
type Choice = (Vec<usize>, Vec<usize>, Vec<(usize, usize)>, bool);

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let size = prop_oneof![Just(256usize), Just(512), 1usize..3000];
    let inputs = proptest::collection::vec(any::<usize>(), 0..4);
    let pairs = proptest::collection::vec((0usize..3, 0usize..3), 0..4);
    let node = (inputs, proptest::collection::vec(size, 1..4), pairs, proptest::bool::weighted(0.1));
    proptest::collection::vec(node, 1..40)
}

fn record(choices: &[Choice]) -> Tape {
    let mut tape = Tape::record();
    let mut made: Vec<Tensor> = Vec::new();
    for (inputs, sizes, in_place, keep) in choices {
        // Recent tensors more often than old ones, so that lives are of all lengths.
        let pick = |choice: &usize| made[made.len() - 1 - (choice % made.len()).min(choice / 7 % 5)];
        let inputs: Vec<Tensor> = if made.is_empty() { Vec::new() } else { inputs.iter().map(pick).collect() };
        let op = Planned { sizes: sizes.clone(), in_place: in_place.clone() };
        let outputs = tape.push(op, &inputs).expect("push");
        if *keep {
            tape.keep(outputs[0]);
        }
        made.extend(outputs);
    }
    tape
}

/// First and last node of each tensor, by id; the end of the list for kept ones.
fn lives(tape: &Tape) -> Vec<(usize, usize)> {
    (0..tape.infos.len() as u32)
        .map(|id| {
            let touches = |tensor: &Tensor| tensor.id == id;
            let nodes: Vec<usize> = (tape.nodes.iter().enumerate())
                .filter(|(_, node)| node.inputs.iter().any(touches) || node.outputs.iter().any(|(out, _)| touches(out)))
                .map(|(index, _)| index)
                .collect();
            let last = if tape.infos[id as usize].keep { tape.nodes.len() } else { nodes[nodes.len() - 1] };
            (nodes[0], last)
        })
        .collect()
}

/// True if node `at` may write output `younger` over its input `older`.
fn declared(tape: &Tape, at: usize, older: usize, younger: usize) -> bool {
    let node = &tape.nodes[at];
    node.op.in_place().iter().any(|&(output, input)| {
        node.outputs.get(output).is_some_and(|(out, _)| out.id as usize == younger)
            && node.inputs.get(input).is_some_and(|input| input.id as usize == older)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn live_tensors_are_apart_but_for_declared_pairs(choices in choices(), guard in prop_oneof![Just(0usize), Just(256)]) {
        let tape = record(&choices);
        let plan = plan(&tape, guard);
        let lives = lives(&tape);
        let bytes: Vec<usize> = tape.infos.iter().map(|info| align_up(info.meta.bytes()) + guard).collect();
        let mut shared = vec![0; tape.nodes.len() + 1];
        for younger in 0..lives.len() {
            assert!(matches!(tape.infos[younger].home, Home::Planned));
            let offset = plan.offsets[younger].expect("every tensor has a place");
            prop_assert!(offset.is_multiple_of(256) && offset + bytes[younger] <= plan.peak_bytes);
            for older in 0..younger {
                let other = plan.offsets[older].expect("every tensor has a place");
                let apart = offset + bytes[younger] <= other || other + bytes[older] <= offset;
                let (start, end) = (lives[younger].0.max(lives[older].0), lives[younger].1.min(lives[older].1));
                if apart || start > end {
                    continue;
                }
                let pair = start == end && lives[older].1 == start && declared(&tape, start, older, younger);
                prop_assert!(guard == 0 && pair, "{older} and {younger} overlap in nodes {start} to {end}");
                shared[start] += bytes[younger];
            }
        }
        let alive = |node: usize| -> usize {
            let live = (0..lives.len()).filter(|&id| lives[id].0 <= node && node <= lives[id].1);
            live.map(|id| bytes[id]).sum::<usize>() - shared[node]
        };
        let most = (0..=tape.nodes.len()).map(alive).max().unwrap_or(0);
        prop_assert_eq!(plan.lower_bound_bytes, most);
        prop_assert!(plan.lower_bound_bytes <= plan.peak_bytes && plan.peak_bytes <= plan.total_bytes);
        prop_assert_eq!(plan.total_bytes, bytes.iter().sum::<usize>());
    }
}
