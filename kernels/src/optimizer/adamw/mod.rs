//! AdamW: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, in PyTorch's order of operations.

mod cpu;
pub(crate) mod cuda;

use super::{Optimizer, Rule, Step, at_least_zero, check_parameters, check_step, decay_rate, rules};
use engine::{Buffer, Device, Parameter, Parameters, Queue, Result};
use std::sync::Arc;

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after its bias correction.
    pub epsilon: f64,
    /// Decoupled decay, times the learning rate, of the parameters whose [`Rule`] says so.
    pub weight_decay: f64,
}

/// `p -= lr wd p; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g²; p -= lr / (1 - b1^t) · m / (√v / √(1 - b2^t) + eps)`.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    rules: Vec<Rule>,
    elements: usize,
    first: Arc<Buffer>,
    second: Arc<Buffer>,
    /// On a device, once there was a step.
    plan: Option<cuda::Plan>,
}

/// The factors of one parameter in one step.
#[derive(Clone, Copy, Debug)]
struct Factors {
    gradient: f32,
    /// 1 - lr wd.
    keep: f32,
    /// 1 - b1.
    first: f32,
    second: f32,
    /// 1 - b2.
    second_new: f32,
    /// √(1 - b2^t).
    root_correction: f32,
    epsilon: f32,
    /// lr / (1 - b1^t).
    step: f32,
}

impl AdamW {
    /// Moments of zero for these parameters, on their device. `rule` says how each is treated; those that are frozen at the time of a
    /// step are left alone.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(settings: AdamWSettings, parameters: &Parameters, rule: impl Fn(&Parameter) -> Rule) -> Result<AdamW> {
        decay_rate("beta1", settings.beta1)?;
        decay_rate("beta2", settings.beta2)?;
        at_least_zero("epsilon", settings.epsilon)?;
        at_least_zero("weight_decay", settings.weight_decay)?;
        let elements = parameters.elements();
        let moment = || Buffer::on(parameters.master().device(), elements * 4);
        let rules = rules(parameters, rule)?;
        Ok(AdamW { settings, rules, elements, first: moment()?, second: moment()?, plan: None })
    }

    fn factors(&self, rule: Rule, step: Step) -> Factors {
        let AdamWSettings { beta1, beta2, epsilon, weight_decay } = self.settings;
        let number = step.number as f64;
        let learning_rate = step.learning_rate * rule.learning_rate_scale;
        Factors {
            gradient: step.gradient_factor as f32,
            keep: if rule.decay { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 },
            first: (1.0 - beta1) as f32,
            second: beta2 as f32,
            second_new: (1.0 - beta2) as f32,
            root_correction: (1.0 - beta2.powf(number)).sqrt() as f32,
            epsilon: epsilon as f32,
            step: (learning_rate / (1.0 - beta1.powf(number))) as f32,
        }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, queue: &Queue, parameters: &Parameters, step: Step) -> Result<()> {
        check_step(step)?;
        check_parameters(queue, parameters, self.elements, &self.first)?;
        match queue {
            Queue::Cpu(cpu) => queue.enter(|| cpu::update(self, cpu, parameters, step)),
            Queue::Cuda(cuda) => cuda::update(self, cuda, parameters, step),
        }
    }

    fn move_to(&mut self, device: &Device) -> Result<()> {
        (self.first, self.second, self.plan) = (self.first.copy_on(device)?, self.second.copy_on(device)?, None);
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Arc<Buffer>)> {
        vec![("first_moment", &self.first), ("second_moment", &self.second)]
    }
}

#[cfg(test)]
mod tests;
