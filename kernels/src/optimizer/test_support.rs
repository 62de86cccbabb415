//! What the optimizers' tests share: queues, parameters and gradients from a seed.

use engine::cpu::Isa;
use engine::rng::Philox;
use engine::{CpuQueue, Parameters, Queue, Shape};

/// Every instruction set with one and three threads.
pub(super) fn every_queue() -> Vec<Queue> {
    let queues = Isa::available().flat_map(|isa| [1, 3].map(|threads| CpuQueue::new(isa, threads).expect("threads")));
    queues.map(Queue::Cpu).collect()
}

/// Normal parameters of these shapes.
pub(super) fn random_parameters(shapes: &[(&str, &[usize])], bf16: bool, seed: u64) -> Parameters {
    let specs = shapes.iter().map(|(name, sizes)| ((*name).to_owned(), Shape::new(sizes).expect("rank")));
    let parameters = Parameters::new(specs.collect::<Vec<_>>(), bf16, true).expect("parameters");
    for (index, entry) in parameters.entries().iter().enumerate() {
        let mut random = Philox::new(seed, index as u64);
        let values: Vec<f32> = (0..entry.shape.elements()).map(|_| random.normal() as f32).collect();
        parameters.write(&entry.name, &values).expect("values");
    }
    parameters
}

/// Writes normal gradients of one standard deviation.
pub(super) fn write_gradients(parameters: &Parameters, deviation: f64, seed: u64) {
    let gradient = parameters.gradient().expect("gradient");
    for (index, entry) in parameters.entries().iter().enumerate() {
        let mut random = Philox::new(seed, 1000 + index as u64);
        let values: Vec<f32> = (0..entry.shape.elements()).map(|_| (random.normal() * deviation) as f32).collect();
        gradient.write(entry.offset * 4, &values).expect("values");
    }
}

/// The bf16 copy of a parameter.
pub(super) fn read_bf16(parameters: &Parameters, name: &str) -> Vec<half::bf16> {
    let entry = parameters.find(name).expect(name);
    parameters.bf16().expect("bf16").read(entry.offset * 2, entry.shape.elements()).expect("inside")
}
