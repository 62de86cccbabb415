//! CoCa in terms of kernels: towers, losses, generation, tokenizer, preprocessing, weights.
