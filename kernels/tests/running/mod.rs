//! Runs a case on a queue and compares with its reference: what the suites of all devices share.

use engine::rng::Philox;
use engine::{DType, Device, Element, Meta, Parameters, Queue, Tape, Tensor};
use half::bf16;
use kernels::case::{Array, Case, Role, Tolerance, coarsest, round, write};

pub const SEED: u64 = 20_261_124;

/// The tensors of a case on a tape, with `copies` uses of the op.
pub struct Pushed {
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Vec<Tensor>>,
    seeds: Vec<Vec<Tensor>>,
    /// Owns the memory of the inputs that are parameters.
    _parameters: Parameters,
}

fn parameter_name(index: usize) -> String {
    format!("input{index}")
}

/// Pushes the inputs of a case and `copies` uses of its op. Parameters lie on `device`.
pub fn push(case: &Case, tape: &mut Tape, copies: usize, device: &Device) -> Pushed {
    let specs = case.inputs.iter().enumerate().filter(|(_, input)| input.role == Role::Parameter);
    let specs = specs.map(|(index, input)| (parameter_name(index), input.meta.shape));
    let mut parameters = Parameters::new(specs.collect::<Vec<_>>(), true, true).expect("parameters");
    parameters.move_to(device).expect("parameters on the device");
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
    // Outputs that the reference leaves out are scratch, which may stay unwritten. An eager tape keeps them all the same.
    let compared = if tape.is_eager() { 0 } else { case.reference.forward(&case.clip(&case.values(SEED))).len() };
    // Values come first: an eager tape runs as it is pushed.
    Pushed::write_inputs(case, &inputs, &parameters, |tensor, values| write(tape, tensor, values).expect("write"));
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
            write(tape, seed, &values).expect("write");
            of_copy.push(seed);
        }
        for &result in results.iter().take(compared) {
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

    pub fn backward(&self, tape: &mut Tape) {
        let unreached = tape.backward(&self.seed_pairs()).unwrap_or_else(|error| panic!("backward: {error}"));
        assert!(unreached.is_empty(), "no gradient for {unreached:?}");
    }
}

fn seed_values(meta: Meta, copy: usize, index: usize) -> Vec<f64> {
    let mut random = Philox::new(SEED ^ 0x5eed, (copy * 16 + index) as u64);
    (0..meta.elements()).map(|_| round(random.normal(), meta.dtype)).collect()
}

fn widen<T: Element>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(T::to_f64).collect()
}

pub fn read(tape: &Tape, tensor: Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => widen(tape.read::<f32>(tensor).expect("read")),
        DType::BF16 => widen(tape.read::<bf16>(tensor).expect("read")),
        DType::I32 => widen(tape.read::<i32>(tensor).expect("read")),
        DType::U8 => widen(tape.read::<u8>(tensor).expect("read")),
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
/// Returns all that was compared.
pub fn check(case: &Case, queue: &Queue, place: &str, copies: usize) -> Vec<Vec<f64>> {
    let name = format!("{} on {place}, {copies} uses", case.name);
    let mut tape = Tape::eager(queue.clone());
    let pushed = push(case, &mut tape, copies, queue.device());
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
