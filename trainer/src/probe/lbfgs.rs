//! Limited-memory BFGS (Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989) with a
//! backtracking line search: minimises a smooth convex function. One thread, f64, sums in order: the same bits every time.

use crate::Result;
use std::collections::VecDeque;

/// Steps that the curvature is estimated from.
const MEMORY: usize = 10;
/// Share of the descent that the slope promises which a step has to reach (Armijo's rule).
const SUFFICIENT: f64 = 1e-4;
/// Halvings of a step before it is given up.
const HALVINGS: usize = 30;

/// From `start` to where the gradient's norm is at most `tolerance`, no step descends any more (the function is not that
/// exact), or `iterations` are done. `evaluate` gives value and gradient.
///
/// # Errors
/// What `evaluate` errs with.
pub fn minimize(
    start: Vec<f64>,
    iterations: usize,
    tolerance: f64,
    mut evaluate: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
) -> Result<Vec<f64>> {
    let mut x = start;
    let (mut value, mut gradient) = evaluate(&x)?;
    let mut history: VecDeque<Curvature> = VecDeque::new();
    for _ in 0..iterations {
        let norm = dot(&gradient, &gradient).sqrt();
        if norm <= tolerance {
            break;
        }
        let direction = descent(&gradient, &history);
        let slope = dot(&gradient, &direction);
        // Nothing is known of the scale before the first step.
        let mut length = if history.is_empty() { norm.recip().min(1.0) } else { 1.0 };
        let mut step = None;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (found, at) = evaluate(&next)?;
            if found <= value + SUFFICIENT * length * slope {
                step = Some((next, found, at));
                break;
            }
            length *= 0.5;
        }
        let Some((next, found, at)) = step else { break };
        let curvature = Curvature::new(difference(&next, &x), difference(&at, &gradient));
        (x, value, gradient) = (next, found, at);
        if let Some(curvature) = curvature {
            history.truncate(MEMORY - 1);
            history.push_front(curvature);
        }
    }
    Ok(x)
}

/// What a step taught of the curvature.
struct Curvature {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Their product.
    product: f64,
}

impl Curvature {
    /// None where rounding hides that the function is convex.
    fn new(step: Vec<f64>, change: Vec<f64>) -> Option<Curvature> {
        let product = dot(&step, &change);
        (product > f64::EPSILON * dot(&change, &change)).then_some(Curvature { step, change, product })
    }
}

/// Minus the gradient times the estimate of the inverse Hessian; the newest step comes first.
fn descent(gradient: &[f64], history: &VecDeque<Curvature>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(history.len());
    for Curvature { step, change, product } in history {
        let share = dot(step, &direction) / product;
        add(&mut direction, -share, change);
        shares.push(share);
    }
    if let Some(Curvature { change, product, .. }) = history.front() {
        let scale = product / dot(change, change);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (Curvature { step, change, product }, share) in history.iter().zip(shares).rev() {
        let correction = share - dot(change, &direction) / product;
        add(&mut direction, correction, step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn add(to: &mut [f64], factor: f64, values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn it_finds_the_minimum_of_an_uneven_bowl() {
        // Curvatures from 1 to 1000, coupled: steepest descent would take thousands of steps.
        let count = 20;
        let weight = |i: usize| 1000f64.powf(i as f64 / (count - 1) as f64);
        let mut calls = 0;
        let found = minimize(vec![3.0; count], 400, 1e-9, |x| {
            calls += 1;
            let off = |i: usize| x[i] - i as f64;
            let mut gradient: Vec<f64> = (0..count).map(|i| weight(i) * off(i)).collect();
            let mut value = 0.5 * (0..count).map(|i| weight(i) * off(i) * off(i)).sum::<f64>();
            for i in 1..count {
                let between = off(i) - off(i - 1);
                value += 0.5 * between * between;
                gradient[i] += between;
                gradient[i - 1] -= between;
            }
            Ok((value, gradient))
        });
        let off = found.unwrap().iter().enumerate().map(|(i, x)| (x - i as f64).abs()).fold(0.0, f64::max);
        assert!(off < 1e-8 && calls < 300, "off by {off} after {calls} evaluations");
    }

    #[test]
    fn it_stops_where_nothing_descends_and_passes_errors_on() {
        // A gradient that lies: no step descends.
        let found = minimize(vec![1.0], 50, 0.0, |x| Ok((x[0] * x[0], vec![-1.0]))).unwrap();
        assert_eq!(found, [1.0]);
        assert!(minimize(vec![1.0], 50, 0.0, |_| Err(Error::invalid("no value"))).is_err());
    }
}
