//! One arena for several programs: results last until another program runs, and runs take turns.

use crate::ops::{Product, Scale, f32s, push, queue};
use engine::{Compile, Program, Result, Tape, Tensor, Workspace};

/// `factor · x²` through an activation, and its result.
fn program(workspace: &Workspace, elements: usize, factor: f32) -> (Program, Tensor) {
    let mut tape = Tape::record();
    let x = tape.input("x", f32s([elements])).expect("input");
    tape.write(x, &vec![2.0f32; elements]).expect("values");
    let scaled = push(&mut tape, Scale(factor), &[x]);
    let y = push(&mut tape, Product(1.0), &[scaled, x]);
    tape.keep(y);
    (Program::compile(tape, workspace, Compile::default()).expect("compile"), y)
}

fn run(program: &mut Program) {
    program.run(&queue(), false).expect("run");
}

#[test]
fn results_last_until_another_program_runs() {
    let workspace = Workspace::new();
    let (mut small, small_result) = program(&workspace, 3, 1.0);
    // The second program is larger: the arena is made anew for it, and the first runs in it as well.
    let (mut large, large_result) = program(&workspace, 1000, 10.0);
    for _ in 0..2 {
        run(&mut small);
        assert_eq!(small.read::<f32>(small_result).expect("its own results"), [4.0; 3]);
        run(&mut large);
        let error = small.read::<f32>(small_result).expect_err("overwritten").to_string();
        assert!(error.contains("overwritten"), "{error}");
        assert_eq!(large.read::<f32>(large_result).expect("its own results"), [40.0; 1000]);
    }
}

#[test]
fn programs_of_different_workspaces_keep_their_results() {
    let (mut first, first_result) = program(&Workspace::new(), 3, 1.0);
    let (mut second, second_result) = program(&Workspace::new(), 3, 2.0);
    run(&mut first);
    run(&mut second);
    assert_eq!(first.read::<f32>(first_result).expect("results"), [4.0; 3]);
    assert_eq!(second.read::<f32>(second_result).expect("results"), [8.0; 3]);
}

#[test]
fn programs_on_two_threads_take_turns() {
    let workspace = Workspace::new();
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = [1.0f32, 3.0]
            .map(|factor| {
                let workspace = &workspace;
                scope.spawn(move || -> usize {
                    let (mut program, result) = program(workspace, 1 << 16, factor);
                    let rounds = 0..40;
                    rounds
                        .filter(|_| {
                            run(&mut program);
                            // The other one may have run since, which is an error, but never a mixture.
                            let values: Result<Vec<f32>> = program.read(result);
                            values.is_ok_and(|values| {
                                assert!(values.iter().all(|&value| value == 4.0 * factor), "mixed results");
                                true
                            })
                        })
                        .count()
                })
            })
            .into_iter()
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
    });
    assert!(seen > 0, "no run could be read");
}

#[test]
fn an_eager_tape_is_not_compiled() {
    let error = Program::compile(Tape::eager(queue()), &Workspace::new(), Compile::default()).expect_err("eager");
    assert!(error.to_string().contains("eager"), "{error}");
}
