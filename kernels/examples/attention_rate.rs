//! Milliseconds and GFLOP/s of attention, forward and forward + backward, at the shapes of real CoCa towers, beside the
//! machine's multiply-add rate taken in the same run. `attention_peer.py` times PyTorch on the same shapes.

use engine::{Compile, DType, Element, Program, Queue, Tape, Tensor, Workspace};
use half::bf16;
use kernels::case::{Array, Case};
use kernels::gauge;
use std::time::Instant;

fn main() -> engine::Result<()> {
    let queue = Queue::cpu_from_env()?;
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let peaks = [DType::F32, DType::BF16].map(|dtype| gauge::flops_per_second(&queue, dtype));
    println!("peak {:.0} GFLOP/s f32, {:.0} bf16; FLOPs of the causal half only", peaks[0] / 1e9, peaks[1] / 1e9);
    for case in kernels::attention::cases().iter().filter(|case| case.bench_only && case.name.contains(&wanted)) {
        let dtype = case.inputs[0].meta.dtype;
        let peak = gauge::flops_per_second(&queue, dtype);
        let mut line = String::new();
        for with_backward in [false, true] {
            if with_backward && case.results == 0 {
                continue;
            }
            let mut program = program(case, with_backward)?;
            let flops = program.cost()?.flops;
            let seconds = best_of(&mut program, &queue, flops)?;
            let what = if with_backward { "forward + backward" } else { "forward" };
            let rate = flops / seconds;
            line += &format!("  {what} {:7.3} ms {:4.0} GFLOP/s ({:.2})", seconds * 1e3, rate / 1e9, rate / peak);
        }
        println!("{}\n  {line}", case.name);
    }
    Ok(())
}

fn program(case: &Case, with_backward: bool) -> engine::Result<Program> {
    let mut tape = Tape::record();
    let mut inputs = Vec::new();
    for (index, (input, values)) in case.inputs.iter().zip(case.values(1)).enumerate() {
        let name = format!("input{index}");
        let is_variable = with_backward && input.meta.dtype.is_float();
        let tensor = if is_variable { tape.variable(&name, input.meta)? } else { tape.input(&name, input.meta)? };
        write(&tape, tensor, &values)?;
        inputs.push(tensor);
    }
    for (index, input) in case.inputs.iter().enumerate() {
        if let Some(offsets) = input.ragged {
            tape.set_ragged(inputs[index], inputs[offsets])?;
        }
    }
    let result = tape.push_shared(case.op.clone(), &inputs)?[0];
    tape.keep(result);
    if with_backward {
        let seed = tape.input("seed", result.meta())?;
        let ones = Array::new(result.shape(), vec![1.0; result.meta().elements()]);
        write(&tape, seed, &ones)?;
        if let Some(offsets) = case.op.rows_from(0).and_then(|input| case.inputs[input].ragged) {
            tape.set_ragged(seed, inputs[offsets])?;
        }
        tape.backward(&[(result, seed)])?;
    }
    Program::compile(tape, &Workspace::new(), Compile::default())
}

fn write(tape: &Tape, tensor: Tensor, values: &Array) -> engine::Result<()> {
    fn typed<T: Element>(tape: &Tape, tensor: Tensor, values: &Array) -> engine::Result<()> {
        tape.write(tensor, &values.data.iter().map(|&value| T::from_f64(value)).collect::<Vec<T>>())
    }
    match tensor.dtype() {
        DType::F32 => typed::<f32>(tape, tensor, values),
        DType::BF16 => typed::<bf16>(tape, tensor, values),
        DType::I32 => typed::<i32>(tape, tensor, values),
        DType::U8 => typed::<u8>(tape, tensor, values),
    }
}

/// The best of about a third of a second of runs.
fn best_of(program: &mut Program, queue: &Queue, flops: f64) -> engine::Result<f64> {
    program.run(queue, false)?;
    let mut best = f64::MAX;
    for _ in 0..(3e10 / flops).clamp(5.0, 2000.0) as usize {
        let start = Instant::now();
        program.run(queue, false)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
