//! Optimizers over the flat arenas of [`Parameters`]: each updates every trainable parameter in one fused pass over
//! master, gradient and state, and rewrites the bf16 copy on the way.
//!
//! Arithmetic is plain f32 multiply, add, divide and root in a fixed order: the same bits for any number of threads, on
//! every instruction set, and on a GPU. Parameters and state lie on one device: that of the parameters when the optimizer is
//! made, unless both are moved.

pub(crate) mod adafactor;
pub(crate) mod adamw;
mod average;
mod clamp;
pub(crate) mod cuda;

pub use adafactor::{Adafactor, AdafactorSettings};
pub use adamw::{AdamW, AdamWSettings};
pub use average::update_average;
pub use clamp::clamp;

use engine::{Buffer, Device, Error, Parameter, Parameters, Queue, Result};
use half::bf16;
use std::sync::Arc;

/// An update rule with its state.
pub trait Optimizer: std::fmt::Debug + Send {
    /// Updates every trainable parameter from its gradient. The parameters must be those the optimizer was made for.
    fn step(&mut self, queue: &Queue, parameters: &Parameters, step: Step) -> Result<()>;

    /// Moves the state to the memory of a device, where the parameters go too.
    fn move_to(&mut self, device: &Device) -> Result<()>;

    /// The state by name, to be saved and restored whole. All zeros before the first step.
    fn state(&self) -> Vec<(&'static str, &Arc<Buffer>)>;
}

/// What changes from one update to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Number of this update, from 1.
    pub number: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Multiplies every gradient: see [`clip_factor`].
    pub gradient_factor: f64,
}

/// How one parameter is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Whether weight decay applies.
    pub decay: bool,
    /// Multiplies the learning rate.
    pub learning_rate_scale: f64,
}

/// What to multiply gradients of this global norm with so that it is at most `clip_norm`, which 0 turns off. As
/// `torch.nn.utils.clip_grad_norm_` does: `min(1, clip_norm / (norm + 1e-6))`.
pub fn clip_factor(norm: f64, clip_norm: f64) -> f64 {
    if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// An error if the parameters are not those that an optimizer was made for, with `state` as a part of its state.
fn check_parameters(queue: &Queue, parameters: &Parameters, elements: usize, state: &Buffer) -> Result<()> {
    if parameters.elements() != elements {
        let other = parameters.elements();
        return Err(Error::invalid(format!("the optimizer was made for {elements} elements, the arenas hold {other}")));
    }
    queue.check(parameters.master())?;
    queue.check(state)
}

fn gradient_arena(parameters: &Parameters) -> Result<&Arc<Buffer>> {
    parameters.gradient().ok_or_else(|| Error::invalid("these parameters have no gradient arena"))
}

/// The arenas of the parameters for the time of an update on the CPU.
struct Arenas<'a> {
    master: &'a mut [f32],
    gradient: &'a [f32],
    bf16: Option<&'a mut [bf16]>,
}

fn arenas(parameters: &Parameters) -> Result<Arenas<'_>> {
    let (elements, gradient) = (parameters.elements(), gradient_arena(parameters)?);
    // SAFETY: between runs nobody else touches the arenas (the rule of `Buffer`); the three are distinct memory.
    unsafe {
        Ok(Arenas {
            master: parameters.master().slice_mut(0, elements)?,
            gradient: gradient.slice(0, elements)?,
            bf16: parameters.bf16().map(|copy| copy.slice_mut(0, elements)).transpose()?,
        })
    }
}

/// The rule of every parameter, checked.
fn rules(parameters: &Parameters, rule: impl Fn(&Parameter) -> Rule) -> Result<Vec<Rule>> {
    let rules: Vec<Rule> = parameters.entries().iter().map(rule).collect();
    for (rule, entry) in rules.iter().zip(parameters.entries()) {
        at_least_zero(&format!("learning-rate scale of '{}'", entry.name), rule.learning_rate_scale)?;
    }
    Ok(rules)
}

fn at_least_zero(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} must be a number of at least 0, not {value}")))
}

fn decay_rate(name: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} must be at least 0 and below 1, not {value}")))
}

fn check_step(step: Step) -> Result<()> {
    if step.number == 0 {
        return Err(Error::invalid("optimizer steps count from 1"));
    }
    at_least_zero("the learning rate", step.learning_rate)?;
    at_least_zero("the gradient factor", step.gradient_factor)
}

#[cfg(test)]
mod test_support;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_scales_to_the_limit_and_never_up() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(1e9, 0.0), 1.0);
        assert!((clip_factor(8.0, 2.0) * 8.0 - 2.0).abs() < 1e-6);
    }
}
