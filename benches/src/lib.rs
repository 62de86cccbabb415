//! Criterion benches over the ops own cases, and the peers measured in the same run.
