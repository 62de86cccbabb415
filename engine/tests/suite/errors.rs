//! Errors name the op, the shapes, the span and the line of model code.

use crate::ops::{Add, Product, Scale, Spread, Total, at, each, f32s, push, queue, same, streaming};
use engine::{
    Compile, Cost, DType, Error, Meta, Op, Out, Parameters, Program, Queue, Recorded, Result, Shape, Tape, Target,
    Tensor, View, Workspace,
};

fn compile(tape: Tape) -> Result<Program> {
    Program::compile(tape, &Workspace::new(), Compile::default())
}

/// A copy that refuses to run on numbers below zero.
#[derive(Clone, Copy, Debug)]
struct Positive;

impl Op for Positive {
    fn name(&self) -> &'static str {
        "positive"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        let bad = (0..inputs[0].meta().elements()).find(|&index| at(&inputs[0], index) < 0.0);
        if let Some(index) = bad {
            return Err(Error::invalid(format!("element {index} is below zero")));
        }
        each(&mut outputs[0], |index| at(&inputs[0], index));
        Ok(())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}

#[test]
fn a_refused_push_names_op_shapes_span_and_line() {
    let mut tape = Tape::record();
    let a = tape.input("a", f32s([2, 3])).expect("input");
    let b = tape.input("b", Meta::new([4], DType::I32)).expect("input");
    let (line, error) = tape.span("tower", |tape| tape.span("mlp", |tape| (line!(), tape.push(Product(1.0), &[a, b]))));
    let error = error.expect_err("shapes differ").to_string();
    let place = format!("at tower.mlp ({}:{line})", file!());
    for part in ["product: expects 2 f32 tensors of one shape", "inputs: f32[2, 3], i32[4]", &place] {
        assert!(error.contains(part), "no '{part}' in {error}");
    }
}

#[test]
fn a_failed_run_names_the_push_eagerly_and_recorded() {
    for eager in [true, false] {
        let mut tape = if eager { Tape::eager(queue()) } else { Tape::record() };
        let a = tape.input("a", f32s([3])).expect("input");
        tape.write(a, &[1.0f32, 2.0, -1.0]).expect("values");
        let (line, result) = tape.span("decoder", |tape| (line!(), tape.push(Positive, &[a])));
        let error = match result {
            Ok(outputs) => {
                assert!(!eager);
                tape.keep(outputs[0]);
                compile(tape).expect("compile").run(&queue(), false).expect_err("a failing op")
            }
            Err(error) => error,
        };
        let expected =
            format!("positive: element 2 is below zero\n  inputs: f32[3]\n  at decoder ({}:{line})", file!());
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_missing_backward_names_the_forward_push() {
    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([1])).expect("variable");
    let (line, spread) = (line!() + 1, [2, 2]);
    let wide = push(&mut tape, Spread(Shape::from(spread)), &[x]);
    let loss = push(&mut tape, Total, &[wide]);
    let seed = tape.input("seed", f32s([1])).expect("seed");
    let error = tape.backward(&[(loss, seed)]).expect_err("no backward").to_string();
    assert!(error.starts_with("spread: spread has no backward") && error.contains("f32[1]"), "{error}");
    assert!(error.contains(&format!("{}:{line}", file!())), "{error}");
}

#[test]
fn backward_refuses_wrong_seeds_and_a_second_call() {
    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([2])).expect("variable");
    let y = push(&mut tape, Scale(2.0), &[x]);
    let seed = tape.input("seed", f32s([3])).expect("seed");
    let error = tape.backward(&[(y, seed)]).expect_err("sizes differ").to_string();
    assert!(error.contains("f32[2]") && error.contains("f32[3]"), "{error}");
    let error = tape.backward(&[]).expect_err("twice").to_string();
    assert!(error.contains("already"), "{error}");

    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([2])).expect("variable");
    let y = push(&mut tape, Scale(2.0), &[x]);
    let z = push(&mut tape, Scale(2.0), &[y]);
    let seeds = [y, z].map(|tensor| (tensor, tape.input("seed", f32s([2])).expect("seed")));
    let error = tape.backward(&seeds).expect_err("y also receives a gradient from z").to_string();
    assert!(error.contains("was seeded and also receives a gradient"), "{error}");
}

/// Scales, and in its backward absorbs its own node without computing its outputs again.
#[derive(Clone, Copy, Debug)]
struct Vanishing;

impl Op for Vanishing {
    fn name(&self) -> &'static str {
        "vanishing"
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Vec<Meta>> {
        same(inputs, 1)
    }

    fn run(&self, _queue: &Queue, inputs: &[View<'_>], outputs: &mut [Out<'_>]) -> Result<()> {
        each(&mut outputs[0], |index| at(&inputs[0], index));
        Ok(())
    }

    fn backward(&self, tape: &mut Tape, node: &Recorded, gradients: &[Option<Tensor>]) -> Result<()> {
        assert!(tape.absorb(node));
        let Some(gradient) = gradients[0] else { return Ok(()) };
        tape.push_into(Product(1.0), &[gradient, node.outputs[0]], &[Target::Gradient(node.inputs[0])]).map(|_| ())
    }

    fn cost(&self, inputs: &[Meta]) -> Cost {
        streaming(inputs)
    }
}

#[test]
fn reading_what_nothing_writes_is_refused() {
    let mut tape = Tape::record();
    let x = tape.variable("x", f32s([2])).expect("variable");
    let y = tape.span("head", |tape| push(tape, Vanishing, &[x]));
    let seed = tape.input("seed", f32s([2])).expect("seed");
    tape.backward(&[(y, seed)]).expect("backward");
    let error = compile(tape).expect_err("y is gone").to_string();
    assert!(error.contains("product: a tensor of f32[2] is used before anything writes it"), "{error}");
    assert!(error.contains("at head ("), "{error}");
}

#[test]
fn programs_read_only_what_was_kept_and_write_only_inputs() {
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([2])).expect("input");
    let y = push(&mut tape, Scale(2.0), &[x]);
    let z = push(&mut tape, Add, &[y, x]);
    tape.keep(z);
    let mut program = compile(tape).expect("compile");
    let early = program.read::<f32>(z).expect_err("before the run").to_string();
    assert!(early.contains("has not run"), "{early}");
    program.write(x, &[1.0f32, 2.0]).expect("write");
    program.run(&queue(), false).expect("run");
    assert_eq!(program.read::<f32>(z).expect("kept"), [3.0, 6.0]);
    let error = |result: Result<Vec<f32>>| result.expect_err("an error").to_string();
    assert!(error(program.read::<f32>(y)).contains("f32[2] was not kept"));
    assert!(
        program.read::<i32>(z).expect_err("type").to_string().contains("cannot read elements 0..2 of f32[2] as i32")
    );
    let error = program.write(z, &[1.0f32]).expect_err("not an input").to_string();
    assert!(error.contains("only inputs can be written"), "{error}");
    let error = program.write(x, &[0.0f32; 3]).expect_err("too long").to_string();
    assert!(error.contains("cannot write 3 values of f32 into f32[2]"), "{error}");
}

#[test]
fn parameters_are_found_by_name() {
    let shape = || Shape::from([2]);
    let error = Parameters::new([("w".into(), shape()), ("w".into(), shape())], false, false).expect_err("doubled");
    assert!(error.to_string().contains("'w' is declared twice"), "{error}");
    let parameters = Parameters::new([("w".to_owned(), shape())], false, false).expect("parameters");
    let error = |result: Result<()>| result.expect_err("an error").to_string();
    assert!(error(parameters.write("v", &[1.0])).contains("no parameter 'v'"));
    assert!(error(parameters.write("w", &[1.0])).contains("'w' is [2], 1 values were given"));
    assert!(error(parameters.read_gradient("w").map(|_| ())).contains("no gradients"));
    let mut tape = Tape::record();
    let copy = tape.parameter(&parameters, "w", DType::BF16).map(|_| ());
    assert!(error(copy).contains("'w' has no copy in bf16"));
}
