//! A parameter of one number is kept within limits: the temperature after each update.

use crate::cuda::{PRELUDE, Part, part};
use engine::cuda::{Arguments, Launch, Source};
use engine::{Error, Parameters, Queue, Result};
use std::ops::RangeInclusive;

const PARTS: &[Part] = &[PRELUDE, part!("optimizer", "clamp.cu")];

fn source() -> Source {
    Source { name: "clamp", parts: PARTS, constants: Vec::new() }
}

/// Every variant.
pub(crate) fn variants() -> Vec<Source> {
    vec![source()]
}

/// Brings the only element of a parameter, and its bf16 copy, within `limits`; NaN stays. On a device without waiting.
///
/// # Errors
/// There is no such parameter, it has another number of elements, or lies on another device.
pub fn clamp(queue: &Queue, parameters: &Parameters, name: &str, limits: RangeInclusive<f32>) -> Result<()> {
    let entry = parameters.find(name)?;
    if entry.shape.elements() != 1 {
        let shape = entry.shape;
        return Err(Error::invalid(format!("parameter '{name}' is {shape}, only one of a single element is clamped")));
    }
    queue.check(parameters.master())?;
    match queue {
        Queue::Cpu(_) => {
            let value = parameters.read(name)?[0];
            if limits.contains(&value) {
                return Ok(());
            }
            parameters.write(name, &[value.clamp(*limits.start(), *limits.end())])
        }
        Queue::Cuda(cuda) => {
            let arguments = Arguments::new()
                .address(parameters.master().address(entry.offset * 4))
                .address(parameters.bf16().map_or(0, |copy| copy.address(entry.offset * 2)))
                .f32(*limits.start())
                .f32(*limits.end());
            cuda.launch(&source(), "clamp", &Launch::linear(1, 1), &arguments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::test_support::{every_queue, random_parameters, read_bf16};

    #[test]
    fn a_number_is_brought_within_its_limits() {
        let queue = &every_queue()[0];
        let parameters = random_parameters(&[("s", &[]), ("w", &[2])], true, 1);
        for (before, after) in [(-1.0f32, 0.0f32), (7.0, 4.5), (3.0, 3.0)] {
            parameters.write("s", &[before]).expect("s");
            clamp(queue, &parameters, "s", 0.0..=4.5).expect("clamped");
            assert_eq!(parameters.read("s").expect("s"), [after]);
            assert_eq!(read_bf16(&parameters, "s")[0].to_f32(), after);
        }
        parameters.write("s", &[f32::NAN]).expect("s");
        clamp(queue, &parameters, "s", 0.0..=4.5).expect("clamped");
        assert!(parameters.read("s").expect("s")[0].is_nan());
        assert!(clamp(queue, &parameters, "w", 0.0..=1.0).expect_err("two").to_string().contains("single element"));
    }
}
