//! Checkpointing: the same bits, less memory, and only the work that was bargained for.

use crate::ops::{Product, Square, TimesMean, Total, f32s, push, queue};
use engine::{Checkpointing, Compile, DType, Observer, Parameters, Phase, Program, Result, StepView, Tape, Workspace};

const BLOCKS: usize = 8;

/// The ops that ran again.
#[derive(Default)]
struct Recomputed(Vec<&'static str>);

impl Observer for Recomputed {
    fn after(&mut self, step: &StepView<'_>) -> Result<()> {
        if step.phase == Phase::Recompute {
            self.0.push(step.op.name());
        }
        Ok(())
    }
}

/// Loss bits, gradient bits, peak and recomputed ops of a deep chain at a level.
fn run(level: Checkpointing) -> (Vec<u32>, Vec<u32>, usize, Vec<&'static str>) {
    let parameters = Parameters::new([("w".to_owned(), [32, 64].into())], false, true).expect("parameters");
    parameters.write("w", &(0..32 * 64).map(|i| 1.0 + (i % 7) as f32 / 64.0).collect::<Vec<_>>()).expect("values");
    let mut tape = Tape::record();
    let mut x = tape.parameter(&parameters, "w", DType::F32).expect("parameter");
    let weight = x;
    for block in 0..BLOCKS {
        x = tape.block(&format!("block{block}"), |tape| {
            let squared = push(tape, Square, &[x]);
            let mixed = push(tape, Product(0.5), &[squared, weight]);
            push(tape, TimesMean { is_backward: false }, &[mixed])
        });
    }
    let loss = push(&mut tape, Total, &[x]);
    tape.keep(loss);
    let seed = tape.input("seed", f32s([1])).expect("seed");
    tape.write(seed, &[1.0f32]).expect("seed");
    tape.backward(&[(loss, seed)]).expect("backward");
    tape.checkpoint(level).expect("checkpoint");
    let mut program = Program::compile(tape, &Workspace::new(), Compile::default()).expect("compile");
    let mut recomputed = Recomputed::default();
    program.run_observed(&queue(), false, &mut [&mut recomputed]).expect("run");
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    let gradient = parameters.read_gradient("w").expect("gradient");
    (bits(program.read(loss).expect("loss")), bits(gradient), program.plan().peak_bytes, recomputed.0)
}

#[test]
fn levels_give_the_same_bits_in_less_memory() {
    let (loss, gradient, everything, none) = run(Checkpointing::None);
    assert!(none.is_empty());
    let (cheap_loss, cheap_gradient, less, squares) = run(Checkpointing::Cheap);
    let (block_loss, block_gradient, least, inside) = run(Checkpointing::Block);
    assert_eq!((&cheap_loss, &cheap_gradient), (&loss, &gradient));
    assert_eq!((&block_loss, &block_gradient), (&loss, &gradient));
    // Only the cheap op runs again, each once.
    assert_eq!(squares, vec!["square"; BLOCKS]);
    // All inside a block but the op that makes what leaves it; its own inputs are what the backward pass reads.
    assert_eq!(inside.len(), 2 * BLOCKS, "{inside:?}");
    assert!(inside.iter().all(|&op| op == "square" || op == "product"), "{inside:?}");
    // Kept for each block: x, square and product; then x and product; then x alone.
    let tensor = 32 * 64 * 4;
    assert!(everything >= less + (BLOCKS - 2) * tensor, "{everything} {less}");
    assert!(less >= least + (BLOCKS - 3) * tensor, "{less} {least}");
}

#[test]
fn an_eager_tape_has_nothing_to_save() {
    let error = Tape::eager(queue()).checkpoint(Checkpointing::Block).expect_err("eager");
    assert!(error.to_string().contains("eager"), "{error}");
}
