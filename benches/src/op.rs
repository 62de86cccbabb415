//! A case of an op as a program: forward, or forward and backward.

use engine::{Compile, Element, Program, Tape, Tensor, Workspace};
use half::bf16;
use kernels::case::{Array, Case, Role};

/// The program of a case, its inputs filled with the case's values.
///
/// # Errors
/// The op refuses its inputs, or memory runs out.
pub fn program(case: &Case, with_backward: bool) -> engine::Result<Program> {
    let mut tape = Tape::record();
    let mut inputs = Vec::new();
    for (index, (input, values)) in case.inputs.iter().zip(case.values(1)).enumerate() {
        let name = format!("input{index}");
        let is_variable = with_backward && input.role != Role::Data;
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
        write(&tape, seed, &Array::new(result.shape(), vec![1.0; result.meta().elements()]))?;
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
        engine::DType::F32 => typed::<f32>(tape, tensor, values),
        engine::DType::BF16 => typed::<bf16>(tape, tensor, values),
        engine::DType::I32 => typed::<i32>(tape, tensor, values),
        engine::DType::U8 => typed::<u8>(tape, tensor, values),
    }
}
