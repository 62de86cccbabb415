//! Tensor maps: what a bulk tensor copy reads and where it puts it.
