//! Every case of every op, on every instruction set of this machine: forward and backward against the f64 reference,
//! gradient setting and adding, the reference against central differences, poison, thread-count independence.

use engine::cpu::Isa;
use engine::rng::Philox;
use engine::{
    Check, Compile, CpuQueue, DType, Element, Meta, Parameters, Program, Queue, Shape, Tape, Tensor, Workspace,
};
use half::bf16;
use kernels::case::{Array, Case, Draw, Role, Tolerance, coarsest, round};
use proptest::prelude::*;

const SEED: u64 = 20_261_124;

fn queue(isa: Isa, threads: usize) -> Queue {
    Queue::Cpu(CpuQueue::new(isa, threads).expect("a thread pool"))
}

/// The tensors of a case on a tape, with `copies` uses of the op.
struct Pushed {
    inputs: Vec<Tensor>,
    outputs: Vec<Vec<Tensor>>,
    seeds: Vec<Vec<Tensor>>,
    /// Owns the memory of the inputs that are parameters.
    _parameters: Parameters,
}

fn parameter_name(index: usize) -> String {
    format!("input{index}")
}

fn push(case: &Case, tape: &mut Tape, copies: usize) -> Pushed {
    let specs = case.inputs.iter().enumerate().filter(|(_, input)| input.role == Role::Parameter);
    let specs = specs.map(|(index, input)| (parameter_name(index), input.meta.shape));
    let parameters = Parameters::new(specs.collect::<Vec<_>>(), true, true).expect("parameters");
    let mut inputs = Vec::new();
    for (index, input) in case.inputs.iter().enumerate() {
        let name = parameter_name(index);
        inputs.push(
            match input.role {
                Role::Data => tape.input(&name, input.meta),
                Role::Variable => tape.variable(&name, input.meta),
                Role::Parameter => tape.parameter(&parameters, &name, input.meta.dtype),
            }
            .expect("input"),
        );
    }
    for (index, input) in case.inputs.iter().enumerate() {
        if let Some(offsets) = input.ragged {
            tape.set_ragged(inputs[index], inputs[offsets]).expect("ragged");
        }
    }
    let (mut outputs, mut seeds) = (Vec::new(), Vec::new());
    // Values come first: an eager tape runs as it is pushed.
    Pushed::write_inputs(case, &inputs, &parameters, |tensor, values| write(tape, tensor, values));
    for copy in 0..copies {
        let results =
            tape.push_shared(case.op.clone(), &inputs).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let mut of_copy = Vec::new();
        for (index, &result) in results.iter().enumerate().take(case.results) {
            tape.keep(result);
            let seed = tape.input(&format!("seed{copy}.{index}"), result.meta()).expect("seed");
            if let Some(offsets) = case.op.rows_from(index).and_then(|input| case.inputs[input].ragged) {
                tape.set_ragged(seed, inputs[offsets]).expect("ragged seed");
            }
            let values = seed_values(result.meta(), copy, index);
            write(tape, seed, &values);
            of_copy.push(seed);
        }
        for &result in &results {
            tape.keep(result);
        }
        outputs.push(results);
        seeds.push(of_copy);
    }
    Pushed { inputs, outputs, seeds, _parameters: parameters }
}

impl Pushed {
    fn write_inputs(case: &Case, inputs: &[Tensor], parameters: &Parameters, write: impl Fn(Tensor, &[f64])) {
        for (index, (array, input)) in case.values(SEED).iter().zip(&case.inputs).enumerate() {
            if input.role == Role::Parameter {
                let values: Vec<f32> = array.data.iter().map(|&value| value as f32).collect();
                parameters.write(&parameter_name(index), &values).expect("parameter");
            } else {
                write(inputs[index], &array.data);
            }
        }
    }

    fn seed_pairs(&self) -> Vec<(Tensor, Tensor)> {
        (self.outputs.iter().zip(&self.seeds))
            .flat_map(|(outputs, seeds)| outputs.iter().copied().zip(seeds.iter().copied()))
            .collect()
    }

    fn backward(&self, tape: &mut Tape) {
        let unreached = tape.backward(&self.seed_pairs()).unwrap_or_else(|error| panic!("backward: {error}"));
        assert!(unreached.is_empty(), "no gradient for {unreached:?}");
    }
}

fn seed_values(meta: Meta, copy: usize, index: usize) -> Vec<f64> {
    let mut random = Philox::new(SEED ^ 0x5eed, (copy * 16 + index) as u64);
    (0..meta.elements()).map(|_| round(random.normal(), meta.dtype)).collect()
}

fn write(tape: &Tape, tensor: Tensor, values: &[f64]) {
    fn typed<T: Element>(tape: &Tape, tensor: Tensor, values: &[f64]) {
        tape.write(tensor, &values.iter().map(|&value| T::from_f64(value)).collect::<Vec<T>>()).expect("write");
    }
    match tensor.dtype() {
        DType::F32 => typed::<f32>(tape, tensor, values),
        DType::BF16 => typed::<bf16>(tape, tensor, values),
        DType::I32 => typed::<i32>(tape, tensor, values),
        DType::U8 => typed::<u8>(tape, tensor, values),
    }
}

fn widen<T: Element>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(T::to_f64).collect()
}

fn read(tape: &Tape, tensor: Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => widen(tape.read::<f32>(tensor).expect("read")),
        DType::BF16 => widen(tape.read::<bf16>(tensor).expect("read")),
        DType::I32 => widen(tape.read::<i32>(tensor).expect("read")),
        DType::U8 => widen(tape.read::<u8>(tensor).expect("read")),
    }
}

fn read_program(program: &Program, tensor: Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => widen(program.read::<f32>(tensor).expect("read")),
        DType::BF16 => widen(program.read::<bf16>(tensor).expect("read")),
        DType::I32 => widen(program.read::<i32>(tensor).expect("read")),
        DType::U8 => widen(program.read::<u8>(tensor).expect("read")),
    }
}

fn compare(what: &str, fast: &[f64], reference: &Array, dtype: DType, tolerance: Tolerance, factor: f64) {
    let bound = factor * tolerance.bound(dtype, &reference.data);
    for (index, (&fast, &exact)) in fast.iter().zip(&reference.data).enumerate() {
        assert!(
            (fast - exact).abs() <= bound,
            "{what}: element {index} of {} is {fast}, should be {exact}: off by {:e}, bound {bound:e}",
            reference.shape,
            (fast - exact).abs()
        );
    }
}

fn sum(a: &Array, b: &Array) -> Array {
    Array::new(a.shape, a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect())
}

/// Forward and backward on one queue against the reference. With `copies` = 2 the second use adds to the gradients.
fn check(case: &Case, isa: Isa, threads: usize, copies: usize) -> Vec<Vec<f64>> {
    let name = format!("{} on {isa}, {threads} threads, {copies} uses", case.name);
    let mut tape = Tape::eager(queue(isa, threads));
    let pushed = push(case, &mut tape, copies);
    let values = case.clip(&case.values(SEED));
    let expected = case.reference.forward(&values);
    let mut bits = Vec::new();
    for (index, array) in expected.iter().enumerate() {
        let output = pushed.outputs[0][index];
        let fast = read(&tape, output);
        compare(&format!("{name}: output {index}"), &fast, array, output.dtype(), case.forward, 1.0);
        bits.push(fast[..array.data.len()].to_vec());
    }
    if case.results == 0 {
        return bits;
    }
    pushed.backward(&mut tape);
    let mut gradients: Vec<Option<Array>> = vec![None; case.inputs.len()];
    for copy in 0..copies {
        let seeds: Vec<Array> = (0..case.results)
            .map(|index| {
                let mut values = seed_values(pushed.outputs[copy][index].meta(), copy, index);
                values.truncate(expected[index].data.len());
                Array::new(expected[index].shape, values)
            })
            .collect();
        for (total, gradient) in gradients.iter_mut().zip(case.reference.gradients(&values, &seeds)) {
            *total = match (total.take(), gradient) {
                (Some(a), Some(b)) => Some(sum(&a, &b)),
                (a, b) => a.or(b),
            };
        }
    }
    for (index, input) in case.inputs.iter().enumerate() {
        let Some(exact) = &gradients[index] else { continue };
        let gradient = match input.role {
            Role::Data => continue,
            Role::Variable | Role::Parameter => tape.gradient(pushed.inputs[index]).expect("gradient"),
        };
        let gradient = gradient.unwrap_or_else(|| panic!("{name}: input {index} received no gradient"));
        let fast = read(&tape, gradient);
        let what = format!("{name}: gradient of input {index}");
        // Each use rounds once more on its way into the sum; intermediates are in the case's storage type.
        compare(&what, &fast, exact, coarsest(&case.inputs), case.backward, copies as f64);
        bits.push(fast[..exact.data.len()].to_vec());
    }
    bits
}

/// Elements that the reference computes alone are those of its whole outputs.
fn check_elements(case: &Case) {
    let values = case.clip(&case.values(SEED));
    for (output, whole) in case.reference.forward(&values).iter().enumerate() {
        for (index, exact) in whole.data.iter().enumerate().step_by(whole.data.len() / 7 + 1) {
            if let Some(alone) = case.reference.element(&values, output, index) {
                let difference = (alone - exact).abs();
                assert!(difference <= 1e-12 * (1.0 + exact.abs()), "{}: {alone} alone, {exact} in all", case.name);
            }
        }
    }
}

/// The reference's gradients against central differences of its forward, on sampled elements.
fn check_reference(case: &Case) {
    if case.results == 0 {
        return;
    }
    let values = case.clip(&case.values(SEED));
    let outputs = case.reference.forward(&values);
    let seeds: Vec<Array> = (0..case.results)
        .map(|index| {
            let mut random = Philox::new(SEED, 100 + index as u64);
            let data = outputs[index].data.iter().map(|_| random.normal()).collect();
            Array::new(outputs[index].shape, data)
        })
        .collect();
    let objective = |inputs: &[Array]| -> f64 {
        let outputs = case.reference.forward(inputs);
        (outputs.iter().zip(&seeds))
            .map(|(output, seed)| output.data.iter().zip(&seed.data).map(|(a, b)| a * b).sum::<f64>())
            .sum()
    };
    let gradients = case.reference.gradients(&values, &seeds);
    let mut random = Philox::new(SEED, 99);
    for (index, gradient) in gradients.iter().enumerate() {
        let Some(gradient) = gradient.as_ref().filter(|_| case.inputs[index].role != Role::Data) else { continue };
        let scale = gradient.data.iter().fold(1e-3f64, |largest, value| largest.max(value.abs()));
        for _ in 0..gradient.data.len().min(12) {
            let element = random.below(gradient.data.len());
            let step = 1e-5;
            let mut moved = values.clone();
            moved[index].data[element] = values[index].data[element] + step;
            let above = objective(&moved);
            moved[index].data[element] = values[index].data[element] - step;
            let difference = (above - objective(&moved)) / (2.0 * step);
            // Truncation is step² times a third derivative; rounding of the objective is divided by the step.
            let bound = 1e-6 * scale + 1e-9 * (1.0 + above.abs()) / step * 1e-2;
            assert!(
                (difference - gradient.data[element]).abs() <= bound,
                "{}: reference gradient of input {index}, element {element}: {} by formula, {difference} by differences",
                case.name,
                gradient.data[element]
            );
        }
    }
}

/// The recorded program under poison gives the same bits as the eager tape.
fn check_poison(case: &Case, isa: Isa) {
    let mut eager = Tape::eager(queue(isa, 2));
    let pushed_eagerly = push(case, &mut eager, 1);
    let mut tape = Tape::record();
    let pushed = push(case, &mut tape, 1);
    if case.results > 0 {
        pushed_eagerly.backward(&mut eager);
        pushed.backward(&mut tape);
    }
    let mut pairs: Vec<(Tensor, Tensor)> = Vec::new();
    for (index, input) in case.inputs.iter().enumerate().filter(|_| case.results > 0) {
        if input.role != Role::Data
            && let Some(gradient) = tape.gradient(pushed.inputs[index]).expect("gradient")
        {
            let other = eager.gradient(pushed_eagerly.inputs[index]).expect("gradient").expect("gradient");
            pairs.push((gradient, other));
        }
    }
    pairs.extend(pushed.outputs[0].iter().copied().zip(pushed_eagerly.outputs[0].iter().copied()).take(case.results));
    let guard_bytes = Check::Poison.guard_bytes();
    let mut program = Program::compile(tape, &Workspace::new(), Compile { guard_bytes }).expect("compile");
    let mut poison = Check::Poison.observer().expect("observer");
    program
        .run_observed(&queue(isa, 2), false, &mut [poison.as_mut()])
        .unwrap_or_else(|error| panic!("{} on {isa} under poison: {error}", case.name));
    for (recorded, eager_tensor) in pairs {
        let (recorded, eager_values) = (read_program(&program, recorded), read(&eager, eager_tensor));
        for (index, (a, b)) in recorded.iter().zip(&eager_values).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{} on {isa}: element {index} differs when recorded", case.name);
        }
    }
}

fn check_all(case: &Case) {
    check_reference(case);
    check_elements(case);
    for isa in Isa::available() {
        check(case, isa, 2, 2);
        let two = check(case, isa, 2, 1);
        for threads in [1, 3] {
            let other = check(case, isa, threads, 1);
            assert_eq!(two, other, "{} on {isa}: {threads} threads give other bits than 2", case.name);
        }
        check_poison(case, isa);
    }
}

#[test]
fn every_case() {
    for case in kernels::cases().iter().filter(|case| !case.bench_only) {
        check_all(case);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_cases(words in proptest::collection::vec(any::<u32>(), 16)) {
        for (_, draw) in kernels::DRAWS {
            check_all(&draw(&mut Draw::new(words.clone())));
        }
    }
}

#[test]
fn shapes_of_cases_are_inferred() {
    for case in kernels::cases() {
        let metas: Vec<Meta> = case.inputs.iter().map(|input| input.meta).collect();
        let outputs = case.op.infer(&metas).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(outputs.len() >= case.results, "{}", case.name);
        assert!(outputs.iter().all(|meta| meta.shape != Shape::from([0])), "{}", case.name);
        let cost = case.op.cost(&metas);
        assert!(cost.bytes > 0.0 && cost.flops >= 0.0, "{}: cost {cost:?}", case.name);
    }
}
