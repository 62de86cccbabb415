//! Random tapes give the same bits eagerly, planned, checkpointed at every level, and under poison.

use crate::ops::{Add, Product, Repeat, Scale, Square, TimesMean, Total, f32s, push, queue};
use engine::rng::Philox;
use engine::{Check, Checkpointing, Compile, DType, Parameters, Program, Tape, Tensor, Workspace};
use proptest::prelude::*;

const ROWS: usize = 4;
const COLUMNS: usize = 6;

/// Which op, on which earlier tensors, and whether its result is kept.
type Choice = (u8, usize, usize, bool);

struct Model {
    parameters: Parameters,
    variable: Tensor,
    loss: Tensor,
    kept: Vec<Tensor>,
}

fn values(stream: u64) -> Vec<f32> {
    let mut random = Philox::new(5, stream);
    (0..ROWS * COLUMNS).map(|_| (2.0 * random.uniform() - 1.0) as f32).collect()
}

/// Records (or runs) the same random model, forward and backward.
fn model(tape: &mut Tape, choices: &[Choice]) -> Model {
    let specs = ["v", "w"].map(|name| (name.to_owned(), [ROWS, COLUMNS].into()));
    let parameters = Parameters::new(specs, false, true).expect("parameters");
    for (stream, name) in ["v", "w"].into_iter().enumerate() {
        parameters.write(name, &values(stream as u64)).expect("parameter");
    }
    let data = tape.input("data", f32s([ROWS, COLUMNS])).expect("input");
    tape.write(data, &values(2)).expect("data");
    let variable = tape.variable("variable", f32s([ROWS, COLUMNS])).expect("variable");
    tape.write(variable, &values(3)).expect("variable");
    let leaf = |tape: &mut Tape, name| tape.parameter(&parameters, name, DType::F32).expect("parameter");
    let mut made = vec![data, variable, leaf(tape, "v"), leaf(tape, "w")];
    let mut kept = Vec::new();
    for (block, choices) in choices.chunks(5).enumerate() {
        tape.block(&format!("block{block}"), |tape| {
            for &(kind, a, b, keep) in choices {
                let a = made[made.len() - 1 - a % made.len().min(6)];
                let like: Vec<Tensor> = made.iter().copied().filter(|other| other.shape() == a.shape()).collect();
                let b = like[b % like.len()];
                let columns = a.shape().columns();
                let result = match kind {
                    0 | 1 => push(tape, Add, &[a, b]),
                    2 | 3 => push(tape, Product(0.5), &[a, b]),
                    4 => push(tape, Square, &[a]),
                    5 => push(tape, Scale(-0.75), &[a]),
                    6 => push(tape, TimesMean { is_backward: false }, &[a]),
                    7 => tape.reshape(a, [columns, a.shape().rows()]).expect("reshape"),
                    _ => push(tape, Repeat { times: 2, folds: columns >= 12 && columns % 2 == 0 }, &[a]),
                };
                if keep {
                    tape.keep(result);
                    kept.push(result);
                }
                made.push(result);
            }
        });
    }
    let ends: Vec<Tensor> = made.iter().rev().take(3).map(|&end| push(tape, Total, &[end])).collect();
    let loss = ends[1..].iter().fold(ends[0], |sum, &end| push(tape, Add, &[sum, end]));
    tape.keep(loss);
    let seed = tape.input("seed", f32s([1])).expect("seed");
    tape.write(seed, &[1.0f32]).expect("seed");
    tape.backward(&[(loss, seed)]).expect("backward");
    Model { parameters, variable, loss, kept }
}

/// The bits of everything that can be read: loss, kept tensors, gradients.
fn bits(model: &Model, gradient: Option<Tensor>, read: impl Fn(Tensor) -> Vec<f32>) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<f32>> = [model.loss].iter().chain(&model.kept).chain(&gradient).map(|&t| read(t)).collect();
    all.extend(["v", "w"].map(|name| model.parameters.read_gradient(name).expect("gradient")));
    all.into_iter().map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planned_and_checkpointed_runs_equal_eager_ones(
        choices in proptest::collection::vec(
            (0u8..9, any::<usize>(), any::<usize>(), proptest::bool::weighted(0.1)), 1..30),
    ) {
        let mut tape = Tape::eager(queue());
        let eager = model(&mut tape, &choices);
        let gradient = tape.gradient(eager.variable).expect("gradient");
        let expected = bits(&eager, gradient, |tensor| tape.read(tensor).expect("read"));
        for level in [Checkpointing::None, Checkpointing::Cheap, Checkpointing::Block] {
            for guard_bytes in [0, Check::Poison.guard_bytes()] {
                let mut tape = Tape::record();
                let recorded = model(&mut tape, &choices);
                let gradient = tape.gradient(recorded.variable).expect("gradient");
                tape.checkpoint(level).expect("checkpoint");
                let mut program =
                    Program::compile(tape, &Workspace::new(), Compile { guard_bytes }).expect("compile");
                let plan = program.plan();
                prop_assert!(plan.lower_bound_bytes <= plan.peak_bytes && plan.peak_bytes <= plan.total_bytes);
                // Data, variable and seed, without parameters and gradients.
                prop_assert_eq!(plan.input_bytes, 4 * (2 * ROWS * COLUMNS + 1));
                let mut poison = Check::Poison.observer().expect("observer");
                // Twice: nothing may depend on what the arena held.
                for _ in 0..2 {
                    if guard_bytes == 0 {
                        program.run(&queue(), false).expect("run");
                    } else {
                        program.run_observed(&queue(), false, &mut [poison.as_mut()]).expect("run under poison");
                    }
                    let found = bits(&recorded, gradient, |tensor| program.read(tensor).expect("read"));
                    prop_assert_eq!(&found, &expected, "{:?}, {} guard bytes", level, guard_bytes);
                }
            }
        }
    }
}
