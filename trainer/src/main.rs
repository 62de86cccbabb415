//! The program `coca`.

fn main() {}
