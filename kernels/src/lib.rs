//! The instruction set: one folder per op with its declaration, CPU code, reference and cases.
