//! Bank conflicts of shared memory and sectors of global memory, as counts.
