//! What the engine cannot do is refused by name, before an op sees memory that is not its own.

use crate::ops::{Add, Scale, Total, f32s, push, queue};
use engine::{Compile, DType, Meta, Parameters, Program, Shape, Tape, Workspace};

#[test]
fn tensors_of_another_tape_are_refused() {
    let mut other = Tape::eager(queue());
    let foreign = other.input("x", f32s([64])).expect("input");
    let mut tape = Tape::eager(queue());
    let own = tape.input("x", f32s([1])).expect("input");
    let refused = [
        tape.push(Scale(2.0), &[foreign]).map(|_| ()),
        tape.reshape(foreign, [8, 8]).map(|_| ()),
        tape.write(foreign, &[0f32; 64]),
        tape.read::<f32>(foreign).map(|_| ()),
        tape.backward(&[(foreign, own)]).map(|_| ()),
    ];
    for result in refused {
        assert!(
            result.expect_err("another tape's").to_string().contains("a tensor of f32[64] belongs to another tape")
        );
    }
    let mut recorded = Tape::record();
    let x = recorded.input("x", f32s([64])).expect("input");
    push(&mut recorded, Scale(2.0), &[x]);
    let program = Program::compile(recorded, &Workspace::new(), Compile::default()).expect("compiled");
    program.write(x, &[1f32; 64]).expect("its own");
    let error = program.write(foreign, &[1f32; 64]).expect_err("another tape's").to_string();
    assert!(error.contains("not part of this program"), "{error}");
}

#[test]
fn two_models_with_one_name_are_refused_on_a_tape() {
    let model = || Parameters::new([("w".to_owned(), Shape::from([2]))], false, true).expect("parameters");
    let (student, teacher) = (model(), model());
    let mut tape = Tape::record();
    let first = tape.parameter(&student, "w", DType::F32).expect("the first");
    assert_eq!(tape.parameter(&student, "w", DType::F32).expect("again"), first);
    let error = tape.parameter(&teacher, "w", DType::F32).expect_err("another model's").to_string();
    assert!(error.contains("parameter 'w' of another model is on this tape"), "{error}");
}

#[test]
fn tensors_larger_than_any_memory_are_refused() {
    for mut tape in [Tape::record(), Tape::eager(queue())] {
        let error = tape.input("x", f32s([1 << 62, 4])).expect_err("2^66 bytes").to_string();
        assert!(error.contains("f32[4611686018427387904, 4] is larger than any memory"), "{error}");
    }
}

#[test]
fn ragged_rows_are_those_of_the_whole_tensor_and_do_not_decrease() {
    let mut tape = Tape::eager(queue());
    let offsets = tape.input("offsets", Meta::new([3], DType::I32)).expect("input");
    let x = tape.input("x", f32s([2, 8])).expect("input");
    let flat = tape.reshape(x, [16]).expect("reshape");
    let error = tape.set_ragged(flat, offsets).expect_err("not the rows of x").to_string();
    assert!(error.contains("f32[16] cannot be ragged: it is f32[2, 8] under another shape"), "{error}");
    tape.set_ragged(x, offsets).expect("rows of x");
    tape.write(offsets, &[0, 2, 1]).expect("values");
    let error = tape.push(Scale(2.0), &[x]).expect_err("decreasing").to_string();
    assert!(error.contains("row offset 2 is 1: neither less than the one before, 2"), "{error}");
}

#[test]
fn the_gradients_that_a_caller_gives_stay_as_they_are() {
    // By another name.
    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([2])).expect("variable");
    let y = push(&mut tape, Scale(2.0), &[x]);
    let z = push(&mut tape, Scale(3.0), &[y]);
    let seeds = [0, 1].map(|_| tape.input("seed", f32s([1, 2])).expect("seed"));
    let seeds = seeds.map(|seed| tape.reshape(seed, [2]).expect("reshape"));
    let error = tape.backward(&[(y, seeds[0]), (z, seeds[1])]).expect_err("y is seeded and reached").to_string();
    assert!(error.contains("f32[2] was seeded and also receives a gradient"), "{error}");
    // Computed, and passed on without a copy by the sum.
    let mut tape = Tape::eager(queue());
    let x = tape.variable("x", f32s([2])).expect("variable");
    tape.write(x, &[1.0f32, 2.0]).expect("values");
    let weight = tape.input("weight", f32s([2])).expect("input");
    tape.write(weight, &[1.0f32, 1.0]).expect("values");
    let seed = push(&mut tape, Scale(5.0), &[weight]);
    let tripled = push(&mut tape, Scale(3.0), &[x]);
    let twice = push(&mut tape, Add, &[tripled, tripled]);
    let total = push(&mut tape, Total, &[tripled]);
    let one = tape.input("one", f32s([1])).expect("input");
    tape.write(one, &[1.0f32]).expect("values");
    tape.backward(&[(twice, seed), (total, one)]).expect("backward");
    assert_eq!(tape.read::<f32>(seed).expect("seed"), [5.0, 5.0]);
    let gradient = tape.gradient(x).expect("gradient").expect("reached");
    assert_eq!(tape.read::<f32>(gradient).expect("values"), [33.0, 33.0]);
}
