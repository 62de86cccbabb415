//! Gradients: their values, the order in which they are added, accumulation over runs, frozen parameters.

use crate::ops::{Add, Product, Repeat, Scale, Square, TimesMean, Total, f32s, push, queue};
use engine::rng::Philox;
use engine::{Compile, DType, Parameters, Program, Tape, Tensor, Workspace};

fn seeded_backward(tape: &mut Tape, loss: Tensor) -> Vec<String> {
    let seed = tape.input("seed", f32s([1])).expect("seed");
    tape.write(seed, &[1.0f32]).expect("seed");
    tape.keep(loss);
    tape.backward(&[(loss, seed)]).expect("backward")
}

/// Every op once, with a tensor that is used twice, a reshape and a residual.
fn network(tape: &mut Tape, x: Tensor) -> Tensor {
    let doubled = push(tape, Add, &[x, x]);
    let squared = push(tape, Square, &[doubled]);
    let wide = push(tape, Repeat { times: 2, folds: false }, &[squared]);
    let narrow = push(tape, Repeat { times: 2, folds: true }, &[wide]);
    let means = push(tape, TimesMean { is_backward: false }, &[narrow]);
    let turned = tape.reshape(means, [3, 2]).expect("reshape");
    let scaled = push(tape, Scale(0.3), &[turned]);
    let product = push(tape, Product(0.5), &[scaled, turned]);
    let flat = tape.reshape(product, [2, 3]).expect("reshape");
    let residual = push(tape, Add, &[flat, doubled]);
    push(tape, Total, &[residual])
}

#[test]
fn gradients_equal_central_differences() {
    let mut random = Philox::new(9, 0);
    let x: Vec<f32> = (0..6).map(|_| random.normal() as f32).collect();
    let loss_at = |x: &[f32]| -> (f64, Vec<f32>) {
        let mut tape = Tape::eager(queue());
        let variable = tape.variable("x", f32s([2, 3])).expect("variable");
        tape.write(variable, x).expect("values");
        let loss = network(&mut tape, variable);
        seeded_backward(&mut tape, loss);
        let gradient = tape.gradient(variable).expect("gradient").expect("reached");
        (f64::from(tape.read::<f32>(loss).expect("loss")[0]), tape.read(gradient).expect("gradient"))
    };
    let (_, gradient) = loss_at(&x);
    for index in 0..x.len() {
        let step = 1e-2;
        let moved = |by: f32| {
            let mut moved = x.clone();
            moved[index] += by;
            loss_at(&moved).0
        };
        let difference = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        let scale = gradient.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
        // Truncation: step² times a third derivative of the size of the gradient.
        let off = (difference - f64::from(gradient[index])).abs();
        assert!(off < 5e-3 * f64::from(scale), "element {index}: {} and {difference}", gradient[index]);
    }
}

/// Three uses of x whose gradients only sum to 1 if the two large ones meet before the small one joins.
fn order_sensitive_uses(tape: &mut Tape, factors: [f32; 3]) -> Tensor {
    let x = tape.variable("x", f32s([1])).expect("variable");
    let parts: Vec<Tensor> = factors.iter().map(|&factor| push(tape, Scale(factor), &[x])).collect();
    let seeds: Vec<(Tensor, Tensor)> = (parts.iter())
        .map(|&part| {
            let seed = tape.input("seed", f32s([1])).expect("seed");
            tape.write(seed, &[1.0f32]).expect("seed");
            (part, seed)
        })
        .collect();
    tape.backward(&seeds).expect("backward");
    x
}

#[test]
fn gradients_add_up_from_the_last_use_to_the_first() {
    for (factors, expected) in [([1.0, 1e8, -1e8], 1.0), ([1e8, -1e8, 1.0], 0.0)] {
        for _ in 0..3 {
            let mut tape = Tape::eager(queue());
            let x = order_sensitive_uses(&mut tape, factors);
            let gradient = tape.gradient(x).expect("gradient").expect("reached");
            assert_eq!(tape.read::<f32>(gradient).expect("gradient"), [expected], "eager {factors:?}");

            let mut tape = Tape::record();
            let x = order_sensitive_uses(&mut tape, factors);
            let gradient = tape.gradient(x).expect("gradient").expect("reached");
            let mut program = Program::compile(tape, &Workspace::new(), Compile::default()).expect("compile");
            program.run(&queue(), false).expect("run");
            assert_eq!(program.read::<f32>(gradient).expect("gradient"), [expected], "recorded {factors:?}");
        }
    }
}

#[test]
fn runs_accumulate_into_parameters_only_when_told() {
    let specs = ["used", "frozen", "idle"].map(|name| (name.to_owned(), [2, 3].into()));
    let mut parameters = Parameters::new(specs, false, true).expect("parameters");
    parameters.set_trainable(false, |name| name == "frozen");
    for name in ["used", "frozen"] {
        parameters.write(name, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("values");
    }
    let mut tape = Tape::record();
    let [used, frozen, _idle] =
        ["used", "frozen", "idle"].map(|name| tape.parameter(&parameters, name, DType::F32).expect("parameter"));
    let first = push(&mut tape, Product(1.0), &[used, frozen]);
    let both = push(&mut tape, Product(1.0), &[first, used]);
    let loss = push(&mut tape, Total, &[both]);
    let unreached = seeded_backward(&mut tape, loss);
    assert_eq!(unreached, ["idle"], "a frozen parameter wants no gradient");
    assert_eq!(["used", "frozen", "idle", "absent"].map(|name| tape.reaches(name)), [true, false, false, false]);
    let mut program = Program::compile(tape, &Workspace::new(), Compile::default()).expect("compile");
    // d(u² f)/du = 2 u f = 2 u², twice that after an accumulating run.
    let once: Vec<f32> = (1..=6).map(|u| 2.0 * (u * u) as f32).collect();
    let twice: Vec<f32> = once.iter().map(|value| 2.0 * value).collect();
    for (accumulate, expected) in [(false, &once), (true, &twice), (false, &once)] {
        program.run(&queue(), accumulate).expect("run");
        assert_eq!(&parameters.read_gradient("used").expect("gradient"), expected);
        assert_eq!(parameters.read_gradient("frozen").expect("gradient"), [0.0; 6]);
    }
}

#[test]
fn rows_of_a_parameter_are_leaves_of_their_own() {
    let parameters = Parameters::new([("packed".to_owned(), [4, 3].into())], false, true).expect("parameters");
    parameters.write("packed", &[1.0; 12]).expect("values");
    let mut tape = Tape::eager(queue());
    let top = tape.parameter_rows(&parameters, "packed", 0..2, DType::F32).expect("rows");
    let scaled = push(&mut tape, Scale(3.0), &[top]);
    let loss = push(&mut tape, Total, &[scaled]);
    seeded_backward(&mut tape, loss);
    let gradient = parameters.read_gradient("packed").expect("gradient");
    assert_eq!(gradient, [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let overlap = tape.parameter_rows(&parameters, "packed", 1..3, DType::F32).expect_err("overlaps");
    assert!(overlap.to_string().contains("'packed' is used as rows 0..2"), "{overlap}");
}
