//! Runs on an emulated device: the processor's results, the same bits every time, and checkpoints that know no device.

use super::*;
use crate::compare::compare;
use engine::cuda::compiler_or_skip;
use engine::{CudaQueue, Workspace};
use model::generate::{Generated, Generator, Method, Settings};
use ptxemu::{Checks, Config as Machine, Emulator};

/// Five steps of a model of one layer each, on three pairs with texts of several lengths.
const SETS: [&str; 8] = [
    "compute.device=cuda",
    "batch.size=3",
    "schedule.steps=5",
    "data.workers=1",
    "data.train=emoji:fxemoji",
    "model.overrides.vision.image_size=16",
    "model.overrides.text.vocabulary_size=520",
    "optimizer.weight_decay=0.1",
];

/// The queue of an emulated device, whose blocks and warps take turns in an order of its own.
fn emulator(test: &str, seed: u64) -> Option<CudaQueue> {
    let compiler = compiler_or_skip(test)?;
    let machine = Machine { compute_capability: (8, 0), multiprocessors: 4, seed, checks: Checks::ALL };
    Some(CudaQueue::new(Arc::new(Emulator::new(machine)), compiler).unwrap())
}

fn open_on(gpu: &CudaQueue, folder: &Path, sets: &[&str]) -> Run {
    let config = config(folder, &[&SETS[..], sets].concat());
    let source = data::open(&config.data.train, &config.data).unwrap();
    let run = Run::open_on(source, Some(gpu.clone()), config, &Resume::Auto).unwrap();
    assert!(run.state.model.parameters().master().device().is(gpu.device()));
    run
}

#[test]
fn five_steps_on_a_device_are_those_of_the_processor() {
    let test = "five_steps_on_a_device_are_those_of_the_processor";
    for (seed, dtype) in ["compute.dtype=f32", "compute.dtype=bf16"].into_iter().enumerate() {
        let Some(gpu) = emulator(test, seed as u64) else { return };
        let config = config(Path::new("unused"), &[&SETS[..], &[dtype]].concat());
        let source = data::open(&config.data.train, &config.data).unwrap();
        let comparison = compare(&config, source, gpu, 5).unwrap();
        println!("{}", comparison.text());
        comparison.judge().unwrap();
        // So that it is a comparison: the losses fall, and the devices round on their own.
        let [first, last] = [0, 4].map(|step: usize| comparison.steps[step]);
        assert!(last.cpu.loss < first.cpu.loss && last.cpu != last.gpu, "{comparison:?}");
    }
}

/// A greedy caption of the first test picture.
fn caption(run: &Run) -> Generated {
    let model = &run.state.model;
    let text = &model.config().text;
    let settings = Settings { method: Method::Greedy, max_length: 6, ..Settings::preset("ours").unwrap() };
    let settings = settings.within(text.context_length, run.state.tokenizer.end());
    let workspace = Workspace::on(run.queue.device());
    let size = model.config().vision.image_size;
    let image: Vec<u8> = (0..size * size * 3).map(|value| (value * 7 % 251) as u8).collect();
    let start = [run.state.tokenizer.start()];
    Generator::new(model, 1, &settings, &workspace).unwrap().generate(&run.queue, &image, &start, 0).unwrap().remove(0)
}

#[test]
fn a_run_on_a_device_repeats_and_goes_on_bit_for_bit() {
    let test = "a_run_on_a_device_repeats_and_goes_on_bit_for_bit";
    let (Some(one), Some(other)) = (emulator(test, 1), emulator(test, 2)) else { return };
    let (through, resumed) = (test_folder("device-through"), test_folder("device-resumed"));
    let mut run = open_on(&one, &through, &[]);
    run.train(&Stop::default()).unwrap();
    let on_device = caption(&run);
    drop(run);
    // Without graphs, and with a schedule of its own.
    let other = other.with_graphs(false);
    open_on(&other, &resumed, &[]).train_to(2, &Stop::default()).unwrap();
    let mut run = open_on(&other, &resumed, &[]);
    assert_eq!(run.state.progress.step, 2);
    run.train(&Stop::default()).unwrap();
    drop(run);
    assert_eq!((losses(&through).len(), losses(&through)), (5, losses(&resumed)));
    assert!(saved(&through) == saved(&resumed));

    // The processor goes on from the same checkpoint and writes the same caption.
    let run = open(&through, &[&SETS[..], &["compute.device=cpu"]].concat());
    assert_eq!(run.state.progress.step, 5);
    let on_cpu = caption(&run);
    assert_eq!(on_device.ids, on_cpu.ids);
    assert!((on_device.log_probability - on_cpu.log_probability).abs() < 1e-4, "{on_device:?} {on_cpu:?}");
}
