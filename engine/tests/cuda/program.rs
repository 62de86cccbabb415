//! Programs on a device: what they compute, what is submitted, and which mistakes are named.

use crate::fake::{Fake, HandsThrough, queue};
use crate::ops::{Careless, CpuOnly, KERNELS, Product, Rate, f32s, push, scale_by};
use engine::cpu::Isa;
use engine::cuda::{CudaQueue, StepScalars};
use engine::{Compile, CpuQueue, DType, Device, Meta, Parameters, Program, Queue, Shape, Tape, Tensor, Workspace};
use std::sync::Arc;

fn fake(seed: u32) -> Arc<Fake> {
    Fake::new(seed, KERNELS)
}

fn device(fake: &Arc<Fake>) -> Device {
    Device::Cuda(fake.clone())
}

fn cpu() -> Queue {
    Queue::Cpu(CpuQueue::new(Isa::Scalar, 1).expect("a thread"))
}

/// `y = (3 x)²` of eight numbers.
fn squares(workspace: &Workspace) -> (Program, Tensor, Tensor) {
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([8])).expect("input");
    let scaled = push(&mut tape, scale_by(3.0), &[x]);
    let y = push(&mut tape, Product, &[scaled, scaled]);
    tape.keep(y);
    (Program::compile(tape, workspace, Compile::default()).expect("compile"), x, y)
}

fn numbers(first: f32) -> Vec<f32> {
    (0..8).map(|index| first + index as f32).collect()
}

fn squared(first: f32) -> Vec<f32> {
    numbers(first).iter().map(|x| 9.0 * x * x).collect()
}

#[test]
fn a_program_is_run_as_a_list_first_then_captured_then_replayed() {
    let fake = fake(1);
    let queue = queue(&fake, true);
    let (mut program, x, y) = squares(&Workspace::on(&device(&fake)));
    let mut seen = Vec::new();
    for first in [1.0, 2.0, 3.0] {
        program.write(x, &numbers(first)).expect("write");
        program.run(&queue, false).expect("run");
        assert_eq!(program.read::<f32>(y).expect("read"), squared(first));
        seen.push(fake.counts());
    }
    assert_eq!(seen, [[2, 0, 0], [2, 1, 1], [2, 1, 2]], "launches, captures, replays");
}

#[test]
fn without_graphs_the_same_list_runs_every_time() {
    let fake = fake(2);
    let queue = queue(&fake, false);
    let (mut program, x, y) = squares(&Workspace::on(&device(&fake)));
    for first in [1.0, 2.0, 3.0] {
        program.write(x, &numbers(first)).expect("write");
        program.run(&queue, false).expect("run");
        assert_eq!(program.read::<f32>(y).expect("read"), squared(first));
    }
    assert_eq!(fake.counts(), [6, 0, 0]);
}

/// Parameter `w`, and the loss gradient `dw += x` of every run that accumulates.
fn accumulating(device: &Device) -> (Program, Tensor, Parameters) {
    let mut parameters = Parameters::new([("w".to_owned(), Shape::from([8]))], false, true).expect("parameters");
    parameters.write("w", &[2.0; 8]).expect("values");
    parameters.move_to(device).expect("moved");
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([8])).expect("input");
    let w = tape.parameter(&parameters, "w", DType::F32).expect("parameter");
    let y = push(&mut tape, Product, &[w, x]);
    let seed = tape.input("seed", f32s([8])).expect("seed");
    tape.write(seed, &[1.0f32; 8]).expect("first values");
    tape.backward(&[(y, seed)]).expect("backward");
    (Program::compile(tape, &Workspace::on(device), Compile::default()).expect("compile"), x, parameters)
}

#[test]
fn inputs_of_many_runs_in_flight_are_not_mixed_up() {
    for seed in 0..40 {
        for graphs in [true, false] {
            let fake = fake(seed);
            let queue = queue(&fake, graphs);
            let (mut program, x, parameters) = accumulating(&device(&fake));
            let runs = 7;
            for run in 0..runs {
                // What is written twice before a run counts once.
                program.write(x, &numbers(-1.0)).expect("write");
                program.write(x, &numbers(run as f32)).expect("write");
                program.run(&queue, run > 0).expect("run");
            }
            let expected: Vec<f32> = (0..8).map(|index| (0..runs).map(|run| (run + index) as f32).sum()).collect();
            assert_eq!(parameters.read_gradient("w").expect("gradient"), expected, "seed {seed}, graphs {graphs}");
        }
    }
}

#[test]
fn what_is_not_written_again_stays() {
    let fake = fake(3);
    let queue = queue(&fake, true);
    let (mut program, x, y) = squares(&Workspace::on(&device(&fake)));
    program.write(x, &numbers(5.0)).expect("write");
    assert_eq!(program.read::<f32>(x).expect("an input can be read at once"), numbers(5.0));
    for _ in 0..3 {
        program.run(&queue, false).expect("run");
    }
    program.write(x, &[1.0f32, 2.0]).expect("the first two alone");
    program.run(&queue, false).expect("run");
    let mut expected = squared(5.0);
    (expected[0], expected[1]) = (9.0, 36.0);
    assert_eq!(program.read::<f32>(y).expect("read"), expected);
}

#[test]
fn ragged_rows_are_known_on_the_host() {
    let fake = fake(4);
    let queue = queue(&fake, true);
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([4, 2])).expect("input");
    let offsets = tape.input("offsets", Meta::new([3], DType::I32)).expect("offsets");
    tape.write(offsets, &[0, 1, 2]).expect("first values");
    tape.set_ragged(x, offsets).expect("ragged");
    let y = push(&mut tape, scale_by(2.0), &[x]);
    tape.keep(y);
    let mut program = Program::compile(tape, &Workspace::on(&device(&fake)), Compile::default()).expect("compile");
    program.write(x, &numbers(0.0)).expect("write");
    let mut counts = Vec::new();
    for rows in [2, 2, 3, 3, 2, 3] {
        program.write(offsets, &[0, 1, rows]).expect("write");
        program.run(&queue, false).expect("run");
        let expected: Vec<f32> = (0..2 * rows).map(|index| 2.0 * index as f32).collect();
        assert_eq!(program.read::<f32>(y).expect("read"), expected);
        counts.push(fake.counts());
    }
    // Each number of rows has a graph of its own, from its second run on.
    assert_eq!(counts, [[1, 0, 0], [1, 1, 1], [2, 1, 1], [2, 2, 2], [2, 2, 3], [2, 2, 4]]);
    program.write(offsets, &[0, 1, 5]).expect("write");
    let error = program.run(&queue, false).expect_err("too many rows").to_string();
    assert!(
        error.contains("row offset 2 is 5: neither less than the one before, 1, nor more than the plan's 4 rows"),
        "{error}"
    );
}

#[test]
fn copies_between_programs_stay_on_the_device_and_reach_what_the_host_knows() {
    let fake = fake(5);
    let queue = queue(&fake, true);
    let workspace = Workspace::on(&device(&fake));
    let (mut first, x, y) = squares(&workspace);
    let (mut second, to, result) = squares(&Workspace::on(&device(&fake)));
    first.write(x, &numbers(1.0)).expect("write");
    first.run(&queue, false).expect("run");
    second.write(to, &[7.0f32; 8]).expect("write");
    second.copy((&first, y, 2), (to, 1), 3).expect("copy");
    second.copy((&first, x, 0), (to, 0), 1).expect("copy");
    second.run(&queue, false).expect("run");
    let copied = [1.0f32, 81.0, 144.0, 225.0, 7.0, 7.0, 7.0, 7.0];
    assert_eq!(second.read::<f32>(result).expect("read"), copied.map(|x| 9.0 * x * x));

    let mut tape = Tape::record();
    let rows = tape.input("rows", f32s([4])).expect("input");
    let offsets = tape.input("offsets", Meta::new([2], DType::I32)).expect("offsets");
    let others = tape.input("others", Meta::new([2], DType::I32)).expect("offsets");
    tape.write(others, &[0, 3]).expect("first values");
    tape.set_ragged(rows, offsets).expect("ragged");
    let scaled = push(&mut tape, scale_by(2.0), &[rows]);
    tape.keep(scaled);
    let mut ragged = Program::compile(tape, &workspace, Compile::default()).expect("compile");
    let copy = Program::copy(&ragged, (&ragged, others, 0), (offsets, 0), 2);
    copy.expect("offsets copied on the device");
    ragged.run(&queue, false).expect("run");
    assert_eq!(ragged.read::<f32>(scaled).expect("read").len(), 3);
}

#[test]
fn programs_share_a_workspace_and_graphs_follow_it() {
    let fake = fake(6);
    let queue = queue(&fake, true);
    let workspace = Workspace::on(&device(&fake));
    let (mut small, x, y) = squares(&workspace);
    let check = |small: &mut Program, first: f32| {
        small.write(x, &numbers(first)).expect("write");
        small.run(&queue, false).expect("run");
        assert_eq!(small.read::<f32>(y).expect("read"), squared(first));
    };
    check(&mut small, 1.0);
    check(&mut small, 2.0);
    let mut tape = Tape::record();
    let input = tape.input("x", f32s([1000])).expect("input");
    let scaled = push(&mut tape, scale_by(2.0), &[input]);
    tape.keep(scaled);
    let mut large = Program::compile(tape, &workspace, Compile::default()).expect("compile");
    large.run(&queue, false).expect("run");
    let error = small.read::<f32>(y).expect_err("overwritten").to_string();
    assert!(error.contains("overwritten"), "{error}");
    // The arena has moved, so the captured graph is of no use: the list runs once more, then it is captured again.
    let before = fake.counts();
    check(&mut small, 3.0);
    check(&mut small, 4.0);
    let [launches, captures, replays] = fake.counts();
    assert_eq!([launches - before[0], captures - before[1], replays - before[2]], [2, 1, 1]);
}

#[test]
fn all_memory_is_given_back() {
    let fake = fake(7);
    {
        let queue = queue(&fake, true);
        let (mut program, x, _) = squares(&Workspace::on(&device(&fake)));
        program.write(x, &numbers(1.0)).expect("write");
        program.run(&queue, false).expect("run");
        // Dropped with work in flight.
    }
    assert_eq!(fake.blocks(), 0);
}

#[test]
fn scalars_of_a_step_reach_a_captured_graph() {
    let fake = fake(8);
    let queue = queue(&fake, true);
    let Queue::Cuda(cuda) = &queue else { panic!("a device") };
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([2])).expect("input");
    let y = push(&mut tape, Rate, &[x]);
    tape.keep(y);
    let mut program = Program::compile(tape, &Workspace::on(cuda.device()), Compile::default()).expect("compile");
    for number in 1..5 {
        let learning_rate = 1.0 / number as f32;
        cuda.set_scalars(StepScalars { number, learning_rate, ..StepScalars::default() }).expect("scalars");
        program.run(&queue, false).expect("run");
        assert_eq!(program.read::<f32>(y).expect("read"), [learning_rate; 2]);
    }
    assert_eq!(fake.counts(), [1, 1, 3]);
}

#[test]
fn graphs_belong_to_their_queue() {
    let fake = fake(16);
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([2])).expect("input");
    let y = push(&mut tape, Rate, &[x]);
    tape.keep(y);
    let mut program = Program::compile(tape, &Workspace::on(&device(&fake)), Compile::default()).expect("compile");
    let mut counts = Vec::new();
    for learning_rate in [0.5, 0.25] {
        let cuda = CudaQueue::new(fake.clone(), HandsThrough::default()).expect("a queue");
        cuda.set_scalars(StepScalars { learning_rate, ..StepScalars::default() }).expect("scalars");
        let queue = Queue::Cuda(cuda);
        for _ in 0..2 {
            program.run(&queue, false).expect("run");
            assert_eq!(program.read::<f32>(y).expect("read"), [learning_rate; 2]);
        }
        counts.push(fake.counts());
    }
    assert_eq!(counts, [[1, 1, 1], [2, 2, 2]]);
}

#[test]
fn every_variant_is_compiled_before_the_first_run() {
    let fake = fake(9);
    let toolchain = HandsThrough::default();
    let queue = Queue::Cuda(CudaQueue::new(fake.clone(), toolchain.clone()).expect("a queue"));
    let (mut program, _, parameters) = accumulating(&device(&fake));
    let mut heard = Vec::new();
    program.prepare(&queue, &mut |done, total, title| heard.push(format!("{done}/{total} {title}"))).expect("prepare");
    assert_eq!(heard, ["0/2 ops(ADD=0)", "1/2 ops(ADD=1)"]);
    assert_eq!((fake.counts(), toolchain.count()), ([0, 0, 0], 2));
    program.run(&queue, false).expect("run");
    program.run(&queue, true).expect("run");
    assert_eq!(toolchain.count(), 2, "nothing is compiled during the runs");
    assert_eq!(parameters.read_gradient("w").expect("gradient"), [0.0; 8]);
    program.prepare(&queue, &mut |_, _, title| panic!("{title} is there already")).expect("prepare");
}

#[test]
fn ops_without_a_kernel_are_named() {
    let fake = fake(10);
    let queue = queue(&fake, true);
    let Queue::Cuda(cuda) = &queue else { panic!("a device") };
    let program = |workspace: &Workspace| {
        let mut tape = Tape::record();
        let x = tape.input("x", f32s([2])).expect("input");
        let scaled = push(&mut tape, scale_by(2.0), &[x]);
        let copied = tape.span("tower", |tape| push(tape, CpuOnly, &[scaled]));
        let last = push(&mut tape, CpuOnly, &[copied]);
        tape.keep(last);
        Program::compile(tape, workspace, Compile::default()).expect("compile")
    };
    let mut on_device = program(&Workspace::on(cuda.device()));
    let error = on_device.run(&queue, false).expect_err("no kernel").to_string();
    assert!(error.starts_with("cpu_only has no CUDA kernel yet\n  at tower ("), "{error}");
    let error = on_device.prepare(&queue, &mut |_, _, _| {}).expect_err("no kernel").to_string();
    assert_eq!(error, "these ops have no CUDA kernel yet: cpu_only");
    // The question can be asked of a program of the CPU, too.
    let on_cpu = program(&Workspace::new());
    let kernels = on_cpu.kernels(cuda).expect("listed");
    assert_eq!(kernels.missing, ["cpu_only"]);
    let titles: Vec<String> = kernels.sources.iter().map(|source| source.title()).collect();
    assert_eq!(titles, ["ops(ADD=0)", "ops(ADD=0)"]);
}

#[test]
fn device_memory_is_not_read_in_place() {
    let fake = fake(11);
    let queue = queue(&fake, true);
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([2])).expect("input");
    push(&mut tape, Careless, &[x]);
    let mut program = Program::compile(tape, &Workspace::on(&device(&fake)), Compile::default()).expect("compile");
    let error = program.run(&queue, false).expect_err("a slice of device memory").to_string();
    assert!(error.starts_with("careless: a tensor of f32[2] lies in the memory of a fake"), "{error}");
    let buffer = engine::Buffer::on(&device(&fake), 64).expect("memory");
    // SAFETY: refused before anything is touched.
    let error = unsafe { buffer.slice::<f32>(0, 4) }.expect_err("device memory").to_string();
    assert!(error.contains("64 bytes lies in the memory of a fake"), "{error}");
    assert_eq!(buffer.read::<f32>(0, 16).expect("a copy"), [0.0; 16]);
}

#[test]
fn queue_and_memory_must_be_of_one_device() {
    let (one, other) = (fake(12), fake(13));
    let (mut program, ..) = squares(&Workspace::on(&device(&one)));
    for wrong in [cpu(), queue(&other, true)] {
        let error = program.run(&wrong, false).expect_err("another device").to_string();
        assert!(error.contains("a program compiled for a fake cannot run on"), "{error}");
    }
    let tape = |parameters: &Parameters| {
        let mut tape = Tape::record();
        let w = tape.parameter(parameters, "w", DType::F32).expect("parameter");
        push(&mut tape, scale_by(2.0), &[w]);
        tape
    };
    let mut parameters = Parameters::new([("w".to_owned(), Shape::from([8]))], true, true).expect("parameters");
    let compile =
        |parameters: &Parameters, workspace| Program::compile(tape(parameters), &workspace, Compile::default());
    let error = compile(&parameters, Workspace::on(&device(&one))).expect_err("on the host").to_string();
    assert!(error.contains("the parameters lie in the memory of the CPU") && error.contains("move_to"), "{error}");
    parameters.move_to(&device(&one)).expect("moved");
    compile(&parameters, Workspace::on(&device(&one))).expect("where they are");
    for workspace in [Workspace::new(), Workspace::on(&device(&other))] {
        let error = compile(&parameters, workspace).expect_err("elsewhere").to_string();
        assert!(error.contains("the parameters lie in the memory of a fake"), "{error}");
    }
    parameters.write("w", &numbers(1.0)).expect("write");
    parameters.move_to(&Device::Cpu).expect("back");
    assert_eq!(parameters.read("w").expect("read"), numbers(1.0));
}

#[test]
fn a_tape_knows_the_device_of_its_parameters_or_of_its_queue() {
    let fake = fake(15);
    let mut parameters = Parameters::new([("w".to_owned(), Shape::from([8]))], false, false).expect("parameters");
    let recorded = |parameters: &Parameters| {
        let mut tape = Tape::record();
        assert!(tape.device().is(&Device::Cpu), "before the first parameter");
        tape.parameter(parameters, "w", DType::F32).expect("parameter");
        tape.device().clone()
    };
    assert!(recorded(&parameters).is(&Device::Cpu));
    parameters.move_to(&device(&fake)).expect("moved");
    assert!(recorded(&parameters).is(&device(&fake)));
    assert!(Tape::eager(cpu()).device().is(&Device::Cpu));
    assert!(Tape::eager(queue(&fake, true)).device().is(&device(&fake)));
}

#[test]
fn eager_tapes_run_on_a_device_too() {
    let fake = fake(14);
    let mut tape = Tape::eager(queue(&fake, true));
    let x = tape.variable("x", f32s([8])).expect("variable");
    tape.write(x, &numbers(1.0)).expect("write");
    let scaled = push(&mut tape, scale_by(3.0), &[x]);
    let y = push(&mut tape, Product, &[scaled, scaled]);
    assert_eq!(tape.read::<f32>(y).expect("read"), squared(1.0));
}

#[test]
fn device_and_cpu_agree() {
    let fake = fake(15);
    let (mut on_device, x, y) = squares(&Workspace::on(&device(&fake)));
    let (mut on_cpu, cpu_x, cpu_y) = squares(&Workspace::new());
    on_device.write(x, &numbers(0.3)).expect("write");
    on_cpu.write(cpu_x, &numbers(0.3)).expect("write");
    on_device.run(&queue(&fake, true), false).expect("run");
    on_cpu.run(&cpu(), false).expect("run");
    assert_eq!(on_device.read::<f32>(y).expect("read"), on_cpu.read::<f32>(cpu_y).expect("read"));
}
