//! The matrix instructions: fragments, ldmatrix, mma.sync and wgmma.
