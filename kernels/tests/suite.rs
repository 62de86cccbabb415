//! Every case of every op, on every instruction set of this machine: forward and backward against the f64 reference,
//! gradient setting and adding, the reference against central differences, poison, thread-count independence.

mod running;

use engine::cpu::Isa;
use engine::rng::Philox;
use engine::{Check, Compile, CpuQueue, Device, Meta, Program, Queue, Shape, Tape, Tensor, Workspace};
use kernels::case::{self, Array, Case, Draw, Role};
use proptest::prelude::*;
use running::{check, push, read, seed, sweep};

fn queue(isa: Isa, threads: usize) -> Queue {
    Queue::Cpu(CpuQueue::new(isa, threads).expect("a thread pool"))
}

/// Elements that the reference computes alone are those of its whole outputs.
fn check_elements(case: &Case) {
    let values = case.clip(&case.values(seed()));
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
    let values = case.clip(&case.values(seed()));
    let outputs = case.reference.forward(&values);
    let seeds: Vec<Array> = (0..case.results)
        .map(|index| {
            let mut random = Philox::new(seed(), 100 + index as u64);
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
    let mut random = Philox::new(seed(), 99);
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
    let pushed_eagerly = push(case, &mut eager, 1, &Device::Cpu);
    let mut tape = Tape::record();
    let pushed = push(case, &mut tape, 1, &Device::Cpu);
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
        let (recorded, eager_values) = (case::read(&program, recorded).expect("read"), read(&eager, eager_tensor));
        for (index, (a, b)) in recorded.iter().zip(&eager_values).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{} on {isa}: element {index} differs when recorded", case.name);
        }
    }
}

fn check_all(case: &Case) {
    check_reference(case);
    check_elements(case);
    for isa in Isa::available() {
        let run = |threads, copies| check(case, &queue(isa, threads), &format!("{isa}, {threads} threads"), copies);
        run(2, 2);
        let two = run(2, 1);
        for threads in [1, 3] {
            let other = run(threads, 1);
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
    #![proptest_config(ProptestConfig { cases: 24 * sweep(), failure_persistence: None, ..ProptestConfig::default() })]

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
