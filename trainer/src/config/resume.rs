//! What makes a run the run that it is: the keys that may not change where it goes on from a checkpoint.

use super::{Config, SECTIONS, layers};
use toml::{Table, Value};

/// Sections and keys that may change: where and how fast it is computed, what is written and measured, when it ends, and
/// limits that end it. The architecture is no part of it either, of which a checkpoint has its own word.
pub(super) const FREE: [&str; 18] = [
    "run.out",
    "model.preset",
    "model.overrides",
    "data.workers",
    "data.prefetch",
    "data.max_pixels",
    "data.max_bad_share",
    "schedule.steps",
    "schedule.minutes",
    "compute.device",
    "compute.threads",
    "compute.isa",
    "compute.graph",
    "compute.checkpointing",
    "compute.check",
    "checkpoint",
    "evaluation",
    "logging",
];

impl Config {
    /// In what this is the configuration of another run than `saved`, each as `section.key: old -> new`. A key that `saved`
    /// does not have, because it is of an earlier version, had its default.
    pub fn changes_since(&self, saved: &Table) -> Vec<String> {
        let (new, defaults) = (layers::to_table(self), layers::to_table(&Config::default()));
        let find = |table: &Table, section: &str, key: &str| -> Option<Value> { table.get(section)?.get(key).cloned() };
        let old = |section: &str, key: &str| find(saved, section, key).or_else(|| find(&defaults, section, key));
        // Who sets another number of steps sets their warm-up with it, as `coca finetune` does.
        let extended = old("schedule", "steps") != find(&new, "schedule", "steps");
        let mut changes = Vec::new();
        for section in SECTIONS {
            for key in section.keys {
                let path = format!("{}.{}", section.name, key.name);
                let is_free = FREE.contains(&section.name) || FREE.contains(&path.as_str());
                if is_free || (extended && path == "schedule.warmup_steps") {
                    continue;
                }
                if let (Some(old), Some(new)) = (old(section.name, key.name), find(&new, section.name, key.name))
                    && old != new
                {
                    changes.push(format!("{path}: {old} -> {new}"));
                }
            }
        }
        changes
    }
}
