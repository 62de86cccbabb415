//! Ragged rows: a run sees only the rows in use, and gives what a dense tape of that many rows gives.

use crate::ops::{Product, Repeat, TimesMean, Total, f32s, push, queue};
use engine::{Compile, DType, Meta, Program, Result, Tape, Tensor, Workspace};

const CAPACITY: usize = 5;
const COLUMNS: usize = 3;

struct Model {
    program: Program,
    x: Tensor,
    offsets: Option<Tensor>,
    y: Tensor,
    loss: Tensor,
    gradient: Tensor,
}

/// A small network on `rows` rows, of which `offsets` says how many are in use, or on all.
fn model(rows: usize, ragged: bool) -> Model {
    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([rows, COLUMNS])).expect("variable");
    let offsets = ragged.then(|| tape.input("offsets", Meta::new([3], DType::I32)).expect("offsets"));
    if let Some(offsets) = offsets {
        tape.set_ragged(x, offsets).expect("ragged");
    }
    let wide = push(&mut tape, Repeat { times: 2, folds: false }, &[x]);
    let mixed = push(&mut tape, TimesMean { is_backward: false }, &[wide]);
    let deep = tape.reshape(mixed, [rows, 2, COLUMNS]).expect("the leading dimension stays");
    let y = push(&mut tape, Product(1.0), &[deep, deep]);
    let loss = push(&mut tape, Total, &[y]);
    tape.keep(y);
    tape.keep(loss);
    let seed = tape.input("seed", f32s([1])).expect("seed");
    tape.write(seed, &[1.0f32]).expect("seed");
    tape.backward(&[(loss, seed)]).expect("backward");
    let gradient = tape.gradient(x).expect("gradient").expect("reached");
    let program = Program::compile(tape, &Workspace::new(), Compile::default()).expect("compile");
    Model { program, x, offsets, y, loss, gradient }
}

impl Model {
    fn run(&mut self, offsets: &[i32], values: &[f32]) -> Result<Vec<Vec<f32>>> {
        if let Some(tensor) = self.offsets {
            self.program.write(tensor, offsets)?;
        }
        self.program.write(self.x, values)?;
        self.program.run(&queue(), false)?;
        [self.y, self.loss, self.gradient].map(|tensor| self.program.read(tensor)).into_iter().collect()
    }
}

#[test]
fn rows_in_use_give_what_a_dense_tape_gives() {
    let values: Vec<f32> = (0..CAPACITY * COLUMNS).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut ragged = model(CAPACITY, true);
    // The full capacity first, so that later runs find its results behind their rows.
    for (offsets, rows) in [([0, 2, 5], 5), ([0, 1, 2], 2), ([0, 3, 4], 4), ([0, 0, 1], 1)] {
        let found = ragged.run(&offsets, &values).expect("run");
        let mut dense = model(rows, false);
        let expected = dense.run(&[], &values[..rows * COLUMNS]).expect("run");
        assert_eq!(found, expected, "{rows} rows");
        assert_eq!(found[0].len(), rows * 2 * COLUMNS);
        let costs = (ragged.program.cost().expect("cost"), dense.program.cost().expect("cost"));
        assert_eq!(costs.0, costs.1, "{rows} rows");
    }
    let none = ragged.run(&[0, 0, 0], &values).expect("no rows at all");
    assert_eq!(none, [vec![], vec![0.0], vec![]]);
}

#[test]
fn offsets_outside_the_plan_are_refused() {
    let mut ragged = model(CAPACITY, true);
    for (last, text) in [(6, "is 6: neither"), (-1, "is -1: neither less than the one before")] {
        let error = ragged.run(&[0, 0, last], &[]).expect_err("outside").to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn ragged_rows_need_i32_offsets_and_keep_their_dimension() {
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([4, 6])).expect("input");
    let floats = tape.input("floats", f32s([2])).expect("input");
    let error = tape.set_ragged(x, floats).expect_err("f32 offsets").to_string();
    assert!(error.contains("i32 offsets") && error.contains("f32[2] for f32[4, 6]"), "{error}");
    let offsets = tape.input("offsets", Meta::new([2], DType::I32)).expect("input");
    tape.set_ragged(x, offsets).expect("ragged");
    let (line, error) = (line!(), tape.reshape(x, [24]).expect_err("the leading dimension changes").to_string());
    assert!(error.contains("cannot reshape f32[4, 6] with ragged rows to [24]"), "{error}");
    assert!(error.contains(&format!("ragged.rs:{line}")), "{error}");
    let same_rows = tape.reshape(x, [4, 3, 2]).expect("the leading dimension stays");
    assert_eq!(same_rows.shape().dims(), [4, 3, 2]);
}

#[test]
fn an_eager_tape_computes_only_the_rows_in_use() {
    let mut tape = Tape::eager(queue());
    let x = tape.input("x", f32s([3, 2])).expect("input");
    let offsets = tape.input("offsets", Meta::new([2], DType::I32)).expect("input");
    tape.set_ragged(x, offsets).expect("ragged");
    tape.write(x, &[1.0f32; 6]).expect("values");
    tape.write(offsets, &[0i32, 2]).expect("offsets");
    let y = push(&mut tape, Product(3.0), &[x, x]);
    assert_eq!(tape.read::<f32>(y).expect("read"), [3.0, 3.0, 3.0, 3.0, 0.0, 0.0]);
}
