//! Parameters that no loss of a run reaches: with one loss off, a part of the model is idle. They are frozen, so that
//! weight decay does not wear them away, and named once.

use super::Stepper;
use crate::Result;
use crate::config::Config;
use crate::task::Task;
use engine::Parameter;
use model::Coca;

/// Freezes the parameters that get no gradient in the steps of this configuration.
///
/// # Errors
/// As [`Stepper::new`], or the batch is too large for an op.
pub(super) fn freeze_unreached(config: &Config, task: Option<&Task>, model: &mut Coca) -> Result<()> {
    let unreached = Stepper::new(config, task)?.unreached(model)?;
    model.parameters_mut().set_trainable(false, |name| unreached.iter().any(|frozen| frozen == name));
    Ok(())
}

/// A sentence that names what is frozen, whole branches of the names as `branch.*`; none if nothing is.
pub(super) fn describe(entries: &[Parameter]) -> Option<String> {
    let frozen: Vec<&str> = entries.iter().filter(|entry| !entry.trainable).map(|entry| entry.name.as_str()).collect();
    let idle = |branch: &&str| entries.iter().all(|entry| !(entry.trainable && entry.name.starts_with(branch)));
    let mut parts: Vec<String> = Vec::new();
    for name in &frozen {
        let branch = name.match_indices('.').map(|(dot, _)| &name[..=dot]).find(idle);
        let part = branch.map_or_else(|| (*name).to_owned(), |branch| format!("{branch}*"));
        if parts.last() != Some(&part) {
            parts.push(part);
        }
    }
    let count = frozen.len();
    let tensors = if count == 1 { "tensor" } else { "tensors" };
    let parts = parts.join(", ");
    (count > 0)
        .then(|| format!("No loss reaches {parts} ({count} {tensors}): left as they are, weight decay included."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_named_as_one() {
        let entry = |(index, name): (usize, &&str)| Parameter {
            name: (*name).to_owned(),
            shape: [2].into(),
            offset: 64 * index,
            trainable: !name.ends_with('!'),
        };
        let text = |names: &[&str]| describe(&names.iter().enumerate().map(entry).collect::<Vec<_>>());
        assert_eq!(text(&["a", "b.c"]), None);
        assert_eq!(
            text(&["a!", "b.c", "b.d.e!", "b.d.f!", "b.g!", "h.i.j!", "h.k!"]).unwrap(),
            "No loss reaches a!, b.d.*, b.g!, h.* (6 tensors): left as they are, weight decay included."
        );
        assert!(text(&["a!", "b"]).unwrap().contains("a! (1 tensor)"));
    }
}
