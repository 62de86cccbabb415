//! An op on given inputs as a program of its own, forward or forward and backward: what benches time and compare.

use super::{Array, Case, Input, Role, values};
use engine::{Compile, Cost, CudaQueue, DType, Device, Element, Op, Program, Queue, Result, Tape, Tensor, Workspace};
use half::bf16;
use std::sync::Arc;

/// Seed of the inputs' values.
const SEED: u64 = 1;

/// What a program runs of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The op alone.
    Forward,
    /// The op and what its backward pushes, from gradients of 1.
    Both,
}

/// The program, its inputs filled.
#[derive(Debug)]
pub struct CaseProgram {
    program: Program,
    outputs: Vec<Tensor>,
    gradients: Vec<Option<Tensor>>,
}

impl CaseProgram {
    /// The program of a case, on this device.
    ///
    /// # Errors
    /// The op refuses its inputs, or memory runs out.
    pub fn of_case(case: &Case, pass: Pass, device: &Device) -> Result<CaseProgram> {
        CaseProgram::new(&case.op, &case.inputs, pass, case.results.max(1), &values(&case.inputs, SEED), device)
    }

    /// The program of an op on inputs with these values, on this device. Its first `kept` outputs can be read after a run.
    ///
    /// # Errors
    /// The op refuses its inputs, or memory runs out.
    pub fn new(
        op: &Arc<dyn Op>,
        inputs: &[Input],
        pass: Pass,
        kept: usize,
        values: &[Array],
        device: &Device,
    ) -> Result<CaseProgram> {
        let mut tape = Tape::record();
        let mut tensors = Vec::new();
        for (index, (input, values)) in inputs.iter().zip(values).enumerate() {
            let name = format!("input{index}");
            let is_variable = pass == Pass::Both && input.role != Role::Data;
            let tensor = if is_variable { tape.variable(&name, input.meta)? } else { tape.input(&name, input.meta)? };
            write(&tape, tensor, &values.data)?;
            tensors.push(tensor);
        }
        for (index, input) in inputs.iter().enumerate() {
            if let Some(offsets) = input.ragged {
                tape.set_ragged(tensors[index], tensors[offsets])?;
            }
        }
        let mut outputs = tape.push_shared(op.clone(), &tensors)?;
        outputs.truncate(kept);
        outputs.iter().for_each(|&output| tape.keep(output));
        let mut gradients = vec![None; inputs.len()];
        if pass == Pass::Both {
            let result = outputs[0];
            let seed = tape.input("seed", result.meta())?;
            write(&tape, seed, &vec![1.0; result.meta().elements()])?;
            if let Some(offsets) = op.rows_from(0).and_then(|input| inputs[input].ragged) {
                tape.set_ragged(seed, tensors[offsets])?;
            }
            tape.backward(&[(result, seed)])?;
            for (index, &tensor) in tensors.iter().enumerate() {
                gradients[index] = tape.gradient(tensor)?;
            }
        }
        let program = Program::compile(tape, &Workspace::on(device), Compile::default())?;
        Ok(CaseProgram { program, outputs, gradients })
    }

    /// Names of the ops that have no kernel for a device; the program may be compiled for another one.
    ///
    /// # Errors
    /// An op refuses.
    pub fn missing_kernels(&self, queue: &CudaQueue) -> Result<Vec<&'static str>> {
        Ok(self.program.kernels(queue)?.missing)
    }

    /// Runs it once; on a device it is submitted, not waited for.
    ///
    /// # Errors
    /// The op refuses.
    pub fn run(&mut self, queue: &Queue) -> Result<()> {
        self.program.run(queue, false)
    }

    /// Work of a run.
    ///
    /// # Errors
    /// None for the inputs of a case.
    pub fn cost(&self) -> Result<Cost> {
        self.program.cost()
    }

    /// Bytes of memory that a run touches at most: inputs, outputs, scratch.
    pub fn footprint_bytes(&self) -> usize {
        self.program.plan().input_bytes + self.program.plan().peak_bytes
    }

    /// The kept outputs of the last run, with their dtypes; of ragged ones the rows in use.
    ///
    /// # Errors
    /// Nothing ran yet.
    pub fn outputs(&self) -> Result<Vec<(DType, Vec<f64>)>> {
        self.outputs.iter().map(|&tensor| self.read(tensor)).collect()
    }

    /// The gradient of each input that has one, after the last run.
    ///
    /// # Errors
    /// Nothing ran yet.
    pub fn gradients(&self) -> Result<Vec<Option<(DType, Vec<f64>)>>> {
        self.gradients.iter().map(|tensor| tensor.map(|tensor| self.read(tensor)).transpose()).collect()
    }

    fn read(&self, tensor: Tensor) -> Result<(DType, Vec<f64>)> {
        Ok((tensor.dtype(), read(&self.program, tensor)?))
    }
}

/// The values of a tensor that a program keeps, of any dtype.
///
/// # Errors
/// As [`Program::read`].
pub fn read(program: &Program, tensor: Tensor) -> Result<Vec<f64>> {
    fn typed<T: Element>(program: &Program, tensor: Tensor) -> Result<Vec<f64>> {
        Ok(program.read::<T>(tensor)?.into_iter().map(T::to_f64).collect())
    }
    match tensor.dtype() {
        DType::F32 => typed::<f32>(program, tensor),
        DType::BF16 => typed::<bf16>(program, tensor),
        DType::I32 => typed::<i32>(program, tensor),
        DType::U8 => typed::<u8>(program, tensor),
    }
}

/// Writes values into an input of a tape, in its dtype.
///
/// # Errors
/// As [`Tape::write`].
pub fn write(tape: &Tape, tensor: Tensor, values: &[f64]) -> Result<()> {
    fn typed<T: Element>(tape: &Tape, tensor: Tensor, values: &[f64]) -> Result<()> {
        tape.write(tensor, &values.iter().map(|&value| T::from_f64(value)).collect::<Vec<T>>())
    }
    match tensor.dtype() {
        DType::F32 => typed::<f32>(tape, tensor, values),
        DType::BF16 => typed::<bf16>(tape, tensor, values),
        DType::I32 => typed::<i32>(tape, tensor, values),
        DType::U8 => typed::<u8>(tape, tensor, values),
    }
}
