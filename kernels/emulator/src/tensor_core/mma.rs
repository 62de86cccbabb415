//! `mma.sync.aligned.m16n8k*.row.col.f32.*.*.f32`.
use super::fragment::{self, Rows};
use super::{Element, Register};
use crate::{Fault, FaultKind};

/// One shape of the instruction: D (16 x 8) = A (16 x K) B (K x 8) + C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mma {
    element: Element,
    k: u32,
}

impl Mma {
    /// The instruction for a type and a depth: bf16 with 8 and 16, f16 with 8 and 16, tf32 with 4 and 8.
    ///
    /// # Errors
    /// For any other depth.
    pub fn new(element: Element, k: u32) -> Result<Mma, Fault> {
        if k * element.bytes() == 16 || k * element.bytes() == 32 {
            return Ok(Mma { element, k });
        }
        Err(Fault::new(FaultKind::Unsupported, format!("there is no mma.m16n8k{k} for {element:?}")))
    }

    /// Registers of A's fragment: 2 or 4.
    pub fn a_registers(&self) -> usize {
        (self.k * self.element.bytes() / 8) as usize
    }

    /// Registers of B's fragment: 1 or 2.
    pub fn b_registers(&self) -> usize {
        self.a_registers() / 2
    }

    /// Floating-point operations of one instruction, two for each multiply-add.
    pub fn flops(&self) -> u64 {
        2 * 16 * 8 * u64::from(self.k)
    }

    /// Executes the instruction; `a` and `b` hold as many registers as the shape says.
    pub fn run(&self, a: &[Register], b: &[Register], c: &[Register; 4]) -> [Register; 4] {
        let a = Rows::gather(self.element, a, self.k as usize);
        let mut d = *c;
        fragment::multiply_add(&a, &fragment::gather_columns(self.element, b), true, &mut d);
        d
    }
}
