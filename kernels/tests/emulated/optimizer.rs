//! Updates of parameters and reductions: on a device the same bits as on the CPU.

use crate::machines::{AMPERE, Machine, Shared, machine};
use engine::cuda::compiler_or_skip;
use engine::rng::Philox;
use engine::{Buffer, CpuQueue, Parameter, Parameters, Queue, Shape, cpu::Isa};
use kernels::optimizer::{
    Adafactor, AdafactorSettings, AdamW, AdamWSettings, Optimizer, Rule, Step, clamp, update_average,
};
use kernels::reduce;
use std::sync::Arc;

/// A vector shorter than a pack, a matrix of more than one piece with a ragged end, a frozen one, one with a rate of its
/// own, and a scalar.
const SHAPES: [(&str, &[usize]); 5] = [("a", &[3]), ("w", &[67, 77]), ("frozen", &[40]), ("slow", &[9, 8]), ("s", &[])];

fn rule(entry: &Parameter) -> Rule {
    Rule { decay: entry.shape.rank() > 1, learning_rate_scale: if entry.name == "slow" { 0.25 } else { 1.0 } }
}

fn cpu() -> Queue {
    Queue::Cpu(CpuQueue::new(Isa::best(), 1).expect("a queue"))
}

/// Normal values times `deviation` in a buffer of f32.
fn fill(buffer: &Buffer, entries: &[Parameter], deviation: f32, seed: u64) {
    for (index, entry) in entries.iter().enumerate() {
        let mut random = Philox::new(seed, index as u64);
        let values: Vec<f32> = (0..entry.shape.elements()).map(|_| random.normal() as f32 * deviation).collect();
        buffer.write(entry.offset * 4, &values).expect("values");
    }
}

fn parameters(shapes: &[(&str, &[usize])], bf16: bool, queue: &Queue) -> Parameters {
    let specs = shapes.iter().map(|(name, sizes)| ((*name).to_owned(), Shape::new(sizes).expect("rank")));
    let mut parameters = Parameters::new(specs.collect::<Vec<_>>(), bf16, true).expect("parameters");
    fill(parameters.master(), parameters.entries(), 1.0, 1);
    parameters.set_trainable(false, |name| name == "frozen");
    parameters.move_to(queue.device()).expect("moved");
    parameters
}

fn bytes(buffer: &Buffer) -> Vec<u8> {
    buffer.read(0, buffer.bytes()).expect("whole")
}

/// Every arena after a few steps with the average, between which a parameter is freed.
fn trained(
    shapes: &[(&str, &[usize])],
    bf16: bool,
    queue: &Queue,
    make: &dyn Fn(&Parameters) -> Box<dyn Optimizer>,
) -> Vec<Vec<u8>> {
    let mut parameters = parameters(shapes, bf16, queue);
    let mut optimizer = make(&parameters);
    let average = Buffer::on(queue.device(), parameters.master().bytes()).expect("memory");
    for number in 1..=3 {
        if number == 3 {
            parameters.set_trainable(true, |_| true);
        }
        // Some gradients are so small that their squares have no normal f32.
        let deviation = if number == 2 { 1e-21 } else { 3.0 };
        fill(parameters.gradient().expect("gradient"), parameters.entries(), deviation, 10 + number);
        let step = Step { number, learning_rate: 0.01 / number as f64, gradient_factor: 0.7 };
        optimizer.step(queue, &parameters, step).expect("step");
        update_average(queue, &parameters, &average, 0.9).expect("average");
        clamp(queue, &parameters, "s", -0.25..=0.25).expect("clamped");
    }
    let state = optimizer.state();
    let arenas = [Some(parameters.master()), parameters.bf16(), Some(&average)].into_iter().flatten();
    arenas.chain(state.iter().map(|(_, buffer)| *buffer)).map(|buffer| bytes(buffer)).collect()
}

/// Two schedules.
fn machines(test: &str) -> Option<[Machine; 2]> {
    let compiler = Shared(Arc::new(compiler_or_skip(test)?));
    Some([1, 2].map(|seed| machine(&compiler, AMPERE, seed)))
}

fn same_as_cpu(test: &str, shapes: &[(&str, &[usize])], make: &dyn Fn(&Parameters) -> Box<dyn Optimizer>) {
    let Some(machines) = machines(test) else { return };
    // Under one schedule without bf16 copies, under the other with them.
    for (bf16, machine) in [false, true].into_iter().zip(&machines) {
        let exact = trained(shapes, bf16, &cpu(), make);
        let found = trained(shapes, bf16, &machine.queue, make);
        assert_eq!(exact.len(), found.len());
        for (index, (exact, found)) in exact.iter().zip(&found).enumerate() {
            let differs = exact.iter().zip(found).position(|(a, b)| a != b);
            assert_eq!(differs, None, "arena {index} on {}, bf16 {bf16}", machine.place);
        }
    }
}

#[test]
fn adamw_and_the_average_have_the_bits_of_the_cpu() {
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2 };
    same_as_cpu("adamw_and_the_average_have_the_bits_of_the_cpu", &SHAPES, &|parameters| {
        Box::new(AdamW::new(settings, parameters, rule).expect("settings"))
    });
}

#[test]
fn adafactor_has_the_bits_of_the_cpu() {
    // Besides the others, matrices with factors: one of whole packs and two parts, and one whose rows end inside a pack.
    let (packed, odd): (&[usize], &[usize]) = (&[513, 256], &[129, 131]);
    for (clip_threshold, large) in [(0.5, &[("packed", packed), ("odd", odd)][..]), (0.0, &[("odd", odd)])] {
        let shapes = [&SHAPES[..], large].concat();
        let settings = AdafactorSettings { beta1: 0.9, beta2: 0.999, weight_decay: 0.01, clip_threshold };
        same_as_cpu("adafactor_has_the_bits_of_the_cpu", &shapes, &|parameters| {
            Box::new(Adafactor::new(settings, parameters, rule).expect("settings"))
        });
    }
}

#[test]
fn an_optimizer_works_where_its_parameters_lie() {
    let Some([machine, _]) = machines("an_optimizer_works_where_its_parameters_lie") else { return };
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.0 };
    let mut moved = parameters(&SHAPES, false, &cpu());
    let mut optimizer = AdamW::new(settings, &moved, rule).expect("settings");
    let step = Step { number: 1, learning_rate: 0.1, gradient_factor: 1.0 };
    let mut error = |parameters: &Parameters| optimizer.step(&machine.queue, parameters, step).unwrap_err().to_string();
    assert!(error(&moved).contains("lie in the memory of the CPU"));
    moved.move_to(machine.queue.device()).expect("moved");
    assert!(error(&moved).contains("lie in the memory of the CPU"), "the moments stayed behind");
    let error = reduce::gradient_norm(&cpu(), &moved).unwrap_err().to_string();
    assert!(error.contains("Parameters::move_to"), "{error}");
}

#[test]
fn reductions_have_the_bits_of_the_cpu() {
    let Some(machines) = machines("reductions_have_the_bits_of_the_cpu") else { return };
    // Two whole chunks and a part; rounds of 16 lines, lines, and a ragged end.
    let count = (1 << 16) + 1000;
    let mut random = Philox::new(3, 0);
    let mut values: Vec<f32> = (0..count).map(|_| (random.normal() * 1e3) as f32).collect();
    (values[5], values[70]) = (1e-42, f32::MAX);
    for non_finite in [&[][..], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]] {
        values[40_000..40_000 + non_finite.len()].copy_from_slice(non_finite);
        let arena = |queue: &Queue| {
            let arena = Buffer::on(queue.device(), count * 4).expect("memory");
            arena.write(0, &values).expect("fits");
            arena
        };
        let all = |queue: &Queue| {
            let arena = arena(queue);
            // Ranges that begin and end anywhere, and an empty one.
            [0..count, 6..7, 0..0, 65_538..count - 3].map(|range| {
                let sum = reduce::sum(queue, &arena, range.clone()).expect("inside");
                let norm = reduce::norm(queue, &arena, range.clone()).expect("inside");
                // Which NaN an infinity less an infinity gives is nobody's business.
                let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
                (bits(sum), bits(norm), reduce::count_non_finite(queue, &arena, range).expect("inside"))
            })
        };
        let exact = all(&cpu());
        assert_eq!((exact[0].2, f64::from_bits(exact[0].1).is_finite()), (non_finite.len(), non_finite.is_empty()));
        for machine in &machines {
            assert_eq!(all(&machine.queue), exact, "{}", machine.place);
        }
    }
    let queue = &machines[0].queue;
    let arena = Buffer::on(queue.device(), 64).expect("memory");
    assert!(reduce::sum(queue, &arena, 0..17).unwrap_err().to_string().contains("64 bytes"));
}

#[test]
fn an_update_touches_each_sector_once() {
    let Some([machine, _]) = machines("an_update_touches_each_sector_once") else { return };
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2 };
    let count = 8192;
    let parameters = parameters(&[("w", &[count])], true, &machine.queue);
    let mut optimizer = AdamW::new(settings, &parameters, rule).expect("settings");
    let mut counted = |number: u64| {
        machine.emulator.take_counters();
        let step = Step { number, learning_rate: 0.1, gradient_factor: 1.0 };
        optimizer.step(&machine.queue, &parameters, step).expect("step");
        machine.emulator.take_counters()
    };
    // The first step makes the list of pieces.
    counted(1);
    let counters = counted(2);
    let sectors = count as u64 * 4 / 32;
    // Each warp of the two blocks reads the two fields of its piece and the four of its segment, a sector each.
    let fields = 2 * 8 * 6;
    assert!(counters.global_load_sectors <= 4 * sectors + fields, "{counters:?}");
    assert_eq!(counters.global_store_sectors, 3 * sectors + sectors / 2);

    machine.emulator.take_counters();
    reduce::gradient_norm(&machine.queue, &parameters).expect("norm");
    let counters = machine.emulator.take_counters();
    assert_eq!((counters.global_load_sectors, counters.global_store_sectors), (sectors, 1));
}
